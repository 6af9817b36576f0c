"""Losses without a reference, as TRL computes them: python objectives.py > objectives.json

TRL 1.16.0, torch 2.15. The log-probabilities are those of dpo_losses.json.
"""

import json
import pathlib
from types import SimpleNamespace

import torch
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

here = pathlib.Path(__file__).parent
pairs = json.loads((here / "dpo_losses.json").read_text())["pairs"]


def sides(mean):
    def total(side):
        values = torch.tensor(side["logprob"], dtype=torch.float64)
        return values.mean() if mean else values.sum()

    return (torch.stack([total(pair[name]) for pair in pairs]) for name in ("chosen", "rejected"))


def cpo(loss_type, mean, beta, gamma=0.0):
    trainer = SimpleNamespace(
        alpha=0.0,
        beta=beta,
        label_smoothing=0.0,
        loss_type=loss_type,
        simpo_gamma=gamma,
        accelerator=SimpleNamespace(device="cpu"),
    )
    losses, _, _ = CPOTrainer.cpo_loss(trainer, *sides(mean))
    return losses.mean().item()


chosen = torch.cat([torch.tensor(pair["chosen"]["logprob"], dtype=torch.float64) for pair in pairs])
nll = -chosen.mean().item()
orpo = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
ratio, _, _, _, _ = ORPOTrainer.odds_ratio_loss(orpo, *sides(mean=True))
print(
    json.dumps(
        {
            "made_with": "TRL 1.16.0 CPOTrainer.cpo_loss and ORPOTrainer.odds_ratio_loss, torch 2.15",
            "simpo": {"beta": 2.0, "target_margin": 1.2, "loss": cpo("simpo", True, 2.0, 1.2)},
            "cpo": {"beta": 0.1, "loss": cpo("sigmoid", False, 0.1) + nll},
            "orpo": {"beta": 0.3, "loss": nll - ratio.mean().item()},
        },
        indent=2,
    )
)
