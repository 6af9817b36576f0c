"""What `transformers` (and, for GGUF files, llama.cpp) do of `socratiq bench generate`, as one line of JSON.

Usage: python generate.py '{"shape": "smollm2-135m", "model": null, "prefill": 512}'
"""
import json
import os
import sys
import time

from shapes import SHAPES

request = json.loads(sys.argv[1])


def best(runs, work):
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def transformers_rates():
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(os.cpu_count())
    result = {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        if request["model"] is None:
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[request["shape"]]))
        elif request["model"].endswith(".gguf"):
            folder, file = os.path.split(request["model"])
            model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file)
        else:
            model = AutoModelForCausalLM.from_pretrained(request["model"])
        model = model.to(dtype).eval()
        ids = torch.arange(request["prefill"])[None] * 7919 % model.config.vocab_size

        def write(count, prompt, **how):
            model.generate(prompt.repeat(count, 1), max_new_tokens=32, min_new_tokens=32, do_sample=False,
                           pad_token_id=0, eos_token_id=None, **how)

        with torch.no_grad():
            prefill = best(3, lambda: model(ids, logits_to_keep=1))
            prompt = ids[:, :32]
            one, sixteen = best(2, lambda: write(1, prompt)), best(2, lambda: write(16, prompt))
            prefix = ids[:, :256]
            greedy, beams = best(2, lambda: write(1, prefix)), best(2, lambda: write(1, prefix, num_beams=5))
        result[name] = {"prefill_tokens_per_second": ids.shape[1] / prefill, "tokens_per_second": 32 / one,
                        "tokens_per_second_of_16": 16 * 32 / sixteen, "time_of_5_beams": beams / greedy}
    return result


def llama_cpp_rates():
    from llama_cpp import Llama

    model = Llama(request["model"], n_ctx=2048, n_threads=os.cpu_count(), n_threads_batch=os.cpu_count(),
                  verbose=False)
    ids = [i * 7919 % model.n_vocab() for i in range(request["prefill"])]

    def prefill():
        model.reset()
        model.eval(ids)

    prefill_seconds = best(3, prefill)
    decode = []
    for _ in range(3):
        model.reset()
        model.eval(ids[:32])
        start = time.perf_counter()
        for i in range(32):
            model.eval([i])
        decode.append((time.perf_counter() - start) / 32)
    return {"prefill_tokens_per_second": len(ids) / prefill_seconds, "tokens_per_second": 1 / min(decode)}


result = {"transformers": transformers_rates()}
if request["model"] and request["model"].endswith(".gguf"):
    result["llama.cpp"] = llama_cpp_rates()
print(json.dumps(result))
