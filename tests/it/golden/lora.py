"""Makes lora.json: logits of the models of families.py with low-rank updates, computed by peft.

The updates follow the formula of families.py, by the names of the tensors in peft's file.
Usage: pip install torch==2.15.0 transformers==5.24.0 peft==0.21.2 && python3 lora.py > lora.json
"""
import json
import tempfile
from pathlib import Path

from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors import safe_open

from families import build, formula, logits

CASES = [
    ("llama", dict(r=3, lora_alpha=6, target_modules="all-linear")),
    ("qwen3", dict(r=2, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"], use_rslora=True)),
    ("gpt_neox", dict(r=2, lora_alpha=4, target_modules=["query_key_value", "dense_4h_to_h"])),
    ("gpt2", dict(r=3, lora_alpha=3, target_modules=r"transformer\.h\.1\.(attn\.c_attn|mlp\.c_fc)", fan_in_fan_out=True)),
]
cases = []
for name, fields in CASES:
    model, _ = build(name)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **fields)).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as file:
            tensors = {key: list(file.get_tensor(key).shape) for key in file.keys()}
    set_peft_model_state_dict(model, {key: formula(key, shape) for key, shape in tensors.items()})
    cases.append({"name": name, "config": config, "tensors": tensors, "logits": logits(model)})
print(json.dumps({"cases": cases}))
