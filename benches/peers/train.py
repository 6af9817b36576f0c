"""What TRL's DPOTrainer does of `socratiq bench train`, as one line of JSON.

Usage: python train.py '{"shape": "smollm2-135m", "shared": 384, "own": 128, "pairs": 2, "updates": 5, "lora": 0}'
Every setting is measured in a process of its own, so that peaks of memory do not add up.
"""
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

from shapes import SHAPES



def measure(request, setting):
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(os.cpu_count())
    shape = SHAPES[request["shape"]]
    # One word, one token; TRL adds the last one.
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(shape["vocab_size"] - 1)} | {"<eos>": shape["vocab_size"] - 1},
                                       unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<eos>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>")
    draw = random.Random(0)
    text = lambda count: " ".join(f"w{draw.randrange(shape['vocab_size'] - 1)}" for _ in range(count))
    rows = [{"prompt": text(request["shared"]), "chosen": " " + text(request["own"] - 1) + " ",
             "rejected": " " + text(request["own"] - 1) + " "} for _ in range(request["pairs"])]
    bf16 = setting == "bf16"
    model = LlamaForCausalLM(LlamaConfig(**shape, eos_token_id=shape["vocab_size"] - 1, bos_token_id=None))
    model = model.to(torch.bfloat16 if bf16 else torch.float32)
    peft = None
    if request["lora"]:
        from peft import LoraConfig
        peft = LoraConfig(r=request["lora"], lora_alpha=2 * request["lora"], target_modules="all-linear", task_type="CAUSAL_LM")
    marks = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        trainer = DPOTrainer(
            model=model, processing_class=tokenizer, train_dataset=Dataset.from_list(rows), peft_config=peft,
            callbacks=[Clock()],
            args=DPOConfig(output_dir=folder, per_device_train_batch_size=request["pairs"], max_steps=request["updates"] + 1,
                           learning_rate=1e-6, lr_scheduler_type="constant", precompute_ref_log_probs=True, max_length=None,
                           bf16=bf16, use_cpu=True, gradient_checkpointing=False, report_to="none", save_strategy="no",
                           logging_strategy="no", disable_tqdm=True),
        )
        assert {len(row["prompt_ids"]) for row in trainer.train_dataset} == {request["shared"]}
        assert {len(row["chosen_ids"]) for row in trainer.train_dataset} == {request["own"]}
        trainer.train()
    seconds = sorted(b - a for a, b in zip(marks, marks[1:]))
    return {"seconds_per_update": seconds[len(seconds) // 2],
            "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


if len(sys.argv) > 2:
    print(json.dumps(measure(json.loads(sys.argv[1]), sys.argv[2])))
else:
    import torch
    import transformers
    import trl

    result = {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    for setting in ("f32", "bf16"):
        output = subprocess.run([sys.executable, os.path.abspath(__file__), sys.argv[1], setting], capture_output=True, text=True)
        if output.returncode:
            sys.exit(output.stderr)
        result[setting] = json.loads(output.stdout.splitlines()[-1])
    print(json.dumps(result))
