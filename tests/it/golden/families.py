"""Makes families.json: logits of a tiny model of every family, computed by transformers.

The weights follow a formula, so that none have to be shipped: number i of tensor `name` is
(splitmix64(fnv1a64(name) + i) >> 40) / 2^24 - 0.5, times 0.6, plus 1 for the weights of norms.
Usage: pip install torch==2.15.0 transformers==5.24.0 && python3 families.py > families.json
"""
import json

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

torch.set_grad_enabled(False)
LLAMA = dict(
    vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5,
)
CASES = {
    "llama": ("llama", dict(**LLAMA, rope_theta=100000.0, tie_word_embeddings=True)),
    "llama3": ("llama", dict(**LLAMA, head_dim=16, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32))),
    "mistral": ("mistral", dict(**LLAMA, sliding_window=4)),
    "qwen2": ("qwen2", dict(**LLAMA, tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(**LLAMA, head_dim=12)),
    "gpt_neox": ("gpt_neox", dict(
        vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, layer_norm_eps=1e-5, rotary_pct=0.25, use_parallel_residual=True)),
    "gpt_neox_serial": ("gpt_neox", dict(
        vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, layer_norm_eps=1e-5, rotary_pct=0.5, use_parallel_residual=False)),
    "gpt2": ("gpt2", dict(vocab_size=48, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
}
IDS = [7, 3, 3, 40, 0, 47, 12, 25, 1, 31]


def splitmix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def fnv1a(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) % 2**64
    return h


def formula(name, shape):
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = splitmix(np.uint64(fnv1a(name)) + np.arange(count, dtype=np.uint64))
    values = ((z >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5) * 0.6
    if name.endswith("weight") and ("norm" in name or ".ln_" in name):
        values += 1
    return torch.tensor(values.astype(np.float32)).reshape(shape)


def build(name):
    """The model of a case, and the shapes of its tensors by their names in files."""
    model_type, fields = CASES[name]
    config = CONFIG_MAPPING[model_type](**fields)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float().eval()
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    # transformers 5 renames GPT-NeoX's head in memory and keeps its name in files.
    in_file = {"lm_head.weight": "embed_out.weight"} if model_type == "gpt_neox" else {}
    shapes = {k: list(v.shape) for k, v in model.state_dict().items() if k not in tied}
    tensors = {in_file.get(k, k): shape for k, shape in shapes.items()}
    model.load_state_dict({k: formula(in_file.get(k, k), s) for k, s in shapes.items()}, strict=not tied)
    model.tie_weights()
    return model, tensors


def logits(model):
    return [[round(x, 5) for x in row] for row in model(torch.tensor([IDS])).logits[0].tolist()]


if __name__ == "__main__":
    cases = []
    for name in CASES:
        model, tensors = build(name)
        written = json.loads(model.config.to_json_string(use_diff=False))
        kept = {k: v for k, v in written.items() if not k.startswith("_") and v is not None and k not in (
            "id2label", "label2id", "output_attentions", "output_hidden_states", "return_dict",
            "chunk_size_feed_forward")}
        cases.append({"name": name, "config": kept, "tensors": tensors, "logits": logits(model)})
    print(json.dumps({"ids": IDS, "cases": cases}))
