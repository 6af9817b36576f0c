"""Makes trl.json: twenty updates of TRL's DPOTrainer on a tiny model, whose weights follow the formula of families.py.

Usage: pip install torch==2.15.0 transformers==5.24.0 trl==1.16.0 && python3 trl.py > trl.json
"""
import contextlib
import json
import os
import sys
import tempfile

sys.path.pop(0)  # This file's own folder: `trl` is to be the package.
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.utils.data import SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from families import formula

torch.set_grad_enabled(True)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
vocab = {letter: index for index, letter in enumerate(alphabet)} | {"<eos>": len(alphabet)}
words = Tokenizer(models.BPE(vocab=vocab, merges=[]))
words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
words.decoder = decoders.ByteLevel()
words.add_special_tokens(["<eos>"])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>")

shape = dict(vocab_size=len(vocab), hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, rope_theta=10000.0,
             tie_word_embeddings=True)
topics = ["the sea", "a clock", "rain", "my bicycle", "old maps", "bread", "the moon"]
rows = [
    {"prompt": f"{index}. Tell me of {topics[index % 7]}.", "chosen": f" Gladly: {topics[index % 7]}, in {index} words.",
     "rejected": " No." if index % 3 == 0 else f" I will not talk of {topics[(index * 5) % 7]} now."}
    for index in range(80)
]


class InOrder(DPOTrainer):
    def _get_train_sampler(self, *_, **__):
        return SequentialSampler(self.train_dataset)


cases = []
for kind, fields in [("sigmoid", {}), ("ipo", {}), ("sigmoid", {"gradient_accumulation_steps": 2})]:
    config = LlamaConfig(**shape, eos_token_id=vocab["<eos>"], pad_token_id=vocab["<eos>"], bos_token_id=None)
    model = LlamaForCausalLM(config).float()
    model.load_state_dict({k: formula(k, list(v.shape)) for k, v in model.state_dict().items() if k != "lm_head.weight"},
                          strict=False)
    model.tie_weights()
    arguments = {"gradient_accumulation_steps": 1} | fields
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=model, processing_class=tokenizer, train_dataset=Dataset.from_list(rows),
            args=DPOConfig(output_dir=folder, loss_type=kind, beta=0.2, learning_rate=5e-4, lr_scheduler_type="cosine",
                           warmup_steps=4, weight_decay=0.05, max_grad_norm=1.0, max_steps=20,
                           per_device_train_batch_size=4 // arguments["gradient_accumulation_steps"], logging_steps=1,
                           report_to="none", save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False,
                           precompute_ref_log_probs=True, max_length=None, **arguments),
        )
        with contextlib.redirect_stdout(sys.stderr):
            trainer.train()
    names = ["loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
             "logps/chosen", "logps/rejected"]
    log = [line for line in trainer.state.log_history if "loss" in line]
    cases.append({"kind": kind, **fields, "updates": [{name: float(f"{line[name]:.7g}") for name in names} for line in log]})
tensors = {k: list(v.shape) for k, v in model.state_dict().items() if k != "lm_head.weight"}
print(json.dumps({"config": {"model_type": "llama", **shape}, "tensors": tensors, "tokenizer": json.loads(words.to_str()),
                  "rows": rows, "cases": cases}))
