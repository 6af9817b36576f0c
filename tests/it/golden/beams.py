"""Makes beams.json: what `generate` of transformers finds with two of the models of families.py.

Usage: pip install torch==2.15.0 transformers==5.24.0 && python3 beams.py > beams.json
"""
import json

import torch
from families import build
from transformers import GenerationConfig

torch.set_grad_enabled(False)
PROMPTS = [[7, 3, 3, 40], [5, 6, 7, 11, 12, 30, 1]]


def found(model, prompt, beams, ends, length_penalty, early_stopping, max_new_tokens):
    config = GenerationConfig(
        num_beams=beams, num_return_sequences=beams, do_sample=False, max_new_tokens=max_new_tokens,
        length_penalty=length_penalty if beams > 1 else None, early_stopping=early_stopping if beams > 1 else None,
        eos_token_id=ends, pad_token_id=0, return_dict_in_generate=True, output_scores=True)
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), generation_config=config)
    sequences = []
    for sequence in out.sequences.tolist():
        turn = sequence[len(prompt):]
        end = next((at + 1 for at, id in enumerate(turn) if id in ends), max_new_tokens)
        sequences.append(turn[:end])
    if beams == 1:
        logits = torch.stack(out.scores)[:, 0].log_softmax(-1)
        scores = [sum(logits[at, id].item() for at, id in enumerate(sequences[0]))]
    else:
        scores = out.sequences_scores.tolist()
    return dict(prompt=prompt, beams=beams, ends=ends, length_penalty=length_penalty, early_stopping=early_stopping,
                max_new_tokens=max_new_tokens, sequences=sequences, scores=[round(x, 5) for x in scores])


if __name__ == "__main__":
    cases = []
    for name in ("llama", "gpt2"):
        model, _ = build(name)
        for prompt in PROMPTS:
            cases.append(dict(model=name, **found(model, prompt, 1, [2], 0.0, False, 12)))
            for beams in (5, 16):
                for length_penalty in (0.0, 0.6, 1.0, 2.0, -0.5):
                    for early_stopping in (False, True, "never"):
                        for ends in ([2], [9, 17, 30]):
                            cases.append(dict(model=name, **found(
                                model, prompt, beams, ends, length_penalty, early_stopping, 12)))
    # All cases are long; every third one is enough, greedy ones included.
    kept = [case for at, case in enumerate(cases) if case["beams"] == 1 or (case["beams"] == 5 and at % 2 == 0) or at % 7 == 0]
    print(json.dumps({"cases": kept}, separators=(",", ":")))
