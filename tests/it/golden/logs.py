"""Makes prefs.parquet, a preference log as `datasets` writes it, and prompts.json: where TRL ends the prompts.

Usage: pip install datasets==5.2.0 trl==1.16.0 && python3 logs.py
"""
import json

from datasets import Dataset
from trl.data_utils import extract_prompt


def said(*texts):
    roles = ["user", "assistant"]
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


ROWS = [
    {"prompt": "P", "chosen": said("P", "A", "Q", "A2"), "rejected": said("P", "A", "Q", "B"), "score": 0.5},
    {"prompt": "Q", "chosen": said("Q", "A"), "rejected": said("Q", "B", "R", "é"), "score": None},
]
Dataset.from_list(ROWS).to_parquet("prefs.parquet")

PAIRS = [
    ("The sky is blue.", "The sky is green."),
    ("abc", "abd"),
    ("abc", "abc"),
    ("abc", "abcdef"),
    ("a b", "a bc"),
    ("naïve é", "naïve è"),
    ("two  spaces", "two  places"),
    (said("P", "A"), said("P", "B")),
    (said("P", "A"), said("P", "A")),
    (said("P", "A"), said("P", "A", "Q", "B")),
    (said("P", "A", "Q", "B"), said("P", "A", "R", "B")),
    (said("P", "A"), said("Q", "A")),
]
rows = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in PAIRS]
lines = [json.dumps({"row": row, "native": extract_prompt(dict(row))}, ensure_ascii=False) for row in rows]
with open("prompts.json", "w") as out:
    out.write("[" + ",\n".join(lines) + "]\n")
