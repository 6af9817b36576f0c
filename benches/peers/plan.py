"""What `transformers` does of `socratiq bench plan`, as one line of JSON.

Usage: python plan.py '{"shape": "smollm2-135m", "model": null, "prompt_tokens": 256, "new_tokens": 64}'
"""
import json
import os
import sys
import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from shapes import SHAPES

request = json.loads(sys.argv[1])
torch.set_num_threads(os.cpu_count())
torch.set_grad_enabled(False)
torch.manual_seed(0)
if request["model"]:
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32)
else:
    model = LlamaForCausalLM(LlamaConfig(**SHAPES[request["shape"]]))
model.eval()
prompt = torch.tensor([[at * 7919 % model.config.vocab_size for at in range(request["prompt_tokens"])]])
rates = {}
for beams in (5, 16):
    config = GenerationConfig(num_beams=beams, do_sample=False, max_new_tokens=request["new_tokens"],
                              eos_token_id=None, pad_token_id=0)
    best = 0.0
    for _ in range(2):
        start = time.perf_counter()
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
        assert out.shape[1] == request["prompt_tokens"] + request["new_tokens"]
        best = max(best, request["new_tokens"] / (time.perf_counter() - start))
    rates[f"tokens_per_second_of_{beams}_beams"] = best
print(json.dumps(rates))
