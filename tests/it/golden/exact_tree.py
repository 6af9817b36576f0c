"""Makes exact_tree.json: a random stochastic tree of 200 states and its soft-optimal solution.

The solver here is independent of the project's: forward recursion instead of a topological order, plain
exponentials instead of a shifted sum, and 50 decimal digits instead of 53 bits.
Usage: python3 exact_tree.py > exact_tree.json   (Python 3.11, standard library only)
"""
import json
import random
from decimal import Decimal, getcontext

getcontext().prec = 50
BETA = "0.07"
rng = random.Random(2404_12358)


def shares(n):
    """n probabilities that sum to 1 to the last bit of a float."""
    cuts = [rng.random() + 0.05 for _ in range(n)]
    parts = [round(c / sum(cuts), 6) for c in cuts[:-1]]
    return parts + [round(1 - sum(parts), 6)]


states, actions, count = [], [], 1
open_states = [0]
names = {0: "s0"}
terminal = {}
while open_states:
    state = open_states.pop(0)
    branches = [rng.randint(1, 3) for _ in range(rng.randint(1, 3))]
    if count + sum(branches) > 200 or (state > 3 and rng.random() < 0.25):
        terminal[state] = True
        continue
    terminal[state] = False
    for number, (reference, outcomes) in enumerate(zip(shares(len(branches)), branches)):
        following = []
        for probability in shares(outcomes):
            names[count] = f"s{count}"
            open_states.append(count)
            following.append((f"s{count}", probability))
            count += 1
        actions.append(
            {
                "state": names[state],
                "action": f"a{number}",
                "reference": reference,
                "reward": round(rng.uniform(-1, 1), 3),
                "next": dict(following),
            }
        )
# The last few states are chained on, so that there are 200 to the state.
while count < 200:
    leaf = rng.choice([s for s, end in terminal.items() if end])
    terminal[leaf] = False
    actions.append(
        {"state": names[leaf], "action": "a0", "reference": 1.0, "reward": 0.125, "next": {f"s{count}": 1.0}}
    )
    names[count] = f"s{count}"
    terminal[count] = True
    count += 1

beta = Decimal(BETA)


def value(state):
    mine = [a for a in actions if a["state"] == state]
    if not mine:
        return Decimal(0)
    return beta * sum(Decimal(str(a["reference"])) * (quality(a) / beta).exp() for a in mine).ln()


def quality(action):
    expected = sum(Decimal(str(p)) * value(s) for s, p in action["next"].items())
    return Decimal(str(action["reward"])) + expected


mdp = {
    "states": [{"id": names[s], "terminal": terminal[s]} for s in range(count)],
    "initial": {"s0": 1.0},
    "actions": actions,
}
print(
    json.dumps(
        {
            "beta": float(BETA),
            "mdp": mdp,
            "V": {names[s]: float(value(names[s])) for s in range(count)},
            "Q": [float(quality(a)) for a in actions],
        }
    )
)
