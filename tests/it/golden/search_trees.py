"""Makes search_trees.json: trees that mctx grows over scripted models.

A scripted model has STATES states; action a of state s leads to (s * A + a + 1) mod STATES. Number k of
state s is (splitmix64(seed * 2^40 + s * 2^8 + k) >> 40) / 2^24: 0 the value, 1 the reward and 2 the discount
of coming here, 3 + a the prior logit of action a, spread as `numbers` says.
Noise is given: jax.random.gumbel and jax.random.dirichlet are replaced by numbers of the state STATES.
Usage: pip install mctx==0.0.71 jax==0.10.2 && python3 search_trees.py > search_trees.json
"""
import json

import jax
import jax.numpy as jnp
import mctx
import numpy as np

STATES = 997


def splitmix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def unit(seed, state, k):
    with np.errstate(over="ignore"):
        z = splitmix(np.uint64(seed * 2**40 + state * 2**8 + k))
    return float(z >> np.uint64(40)) / 2**24


def numbers(seed, state, actions):
    discount = 0.0 if unit(seed, state, 2) < 0.1 else 0.9
    return dict(
        value=2 * unit(seed, state, 0) - 1,
        reward=0.6 * unit(seed, state, 1) - 0.3,
        discount=discount,
        logits=[3 * unit(seed, state, 3 + a) for a in range(actions)],
    )


def run(case):
    seed, actions = case["seed"], case["actions"]
    states = [numbers(seed, s, actions) for s in range(STATES)]
    values, rewards, discounts, logits = (
        jnp.array([s[k] for s in states]) for k in ("value", "reward", "discount", "logits"))
    noise = jnp.array([[unit(seed, STATES, a) for a in range(actions)]])
    jax.random.gumbel = lambda key, shape, dtype: -jnp.log(-jnp.log(noise * 0.98 + 0.01))
    jax.random.dirichlet = lambda key, alpha, shape: noise / noise.sum()

    def recurrent(params, key, action, state):
        state = (state * actions + action + 1) % STATES
        return mctx.RecurrentFnOutput(
            reward=rewards[state], discount=discounts[state], prior_logits=logits[state], value=values[state]), state

    root = mctx.RootFnOutput(prior_logits=logits[:1], value=values[:1], embedding=jnp.zeros([1], jnp.int32))
    options = dict(case["options"])
    transform = options.pop("qtransform", None)
    if transform:
        options["qtransform"] = {
            "by_parent_and_siblings": mctx.qtransform_by_parent_and_siblings,
            "completed_by_mix_value": mctx.qtransform_completed_by_mix_value,
        }[transform]
    invalid = jnp.array([[float(a in case["invalid"]) for a in range(actions)]])
    policy = {"puct": mctx.muzero_policy, "gumbel": mctx.gumbel_muzero_policy}[case["algorithm"]]
    out = policy((), jax.random.PRNGKey(0), root, recurrent, invalid_actions=invalid, **options)
    tree = out.search_tree
    visited = np.flatnonzero(np.array(tree.node_visits[0]))
    place = {int(node): at for at, node in enumerate(visited)}
    listed = lambda x: [round(float(v), 6) for v in np.array(x[0])[visited]]
    case["nodes"] = dict(
        parent=[place.get(int(p), -1) for p in np.array(tree.parents[0])[visited]],
        action=[int(a) for a in np.array(tree.action_from_parent[0])[visited]],
        visits=[int(v) for v in np.array(tree.node_visits[0])[visited]],
        value=listed(tree.node_values),
    )
    case["weights"] = [round(float(w), 6) for w in out.action_weights[0]]
    # At a temperature above 0, PUCT's action is drawn by jax.
    if case["algorithm"] == "gumbel" or case["options"].get("temperature") == 0.0:
        case["chosen"] = int(out.action[0])
    return case


if __name__ == "__main__":
    cases = []
    for seed in range(3):
        for options in (
            dict(num_simulations=40, dirichlet_fraction=0.0, temperature=0.0),
            dict(num_simulations=40, dirichlet_fraction=0.25, temperature=1.0),
            dict(num_simulations=50, dirichlet_fraction=0.0, temperature=0.5, max_depth=3),
            dict(num_simulations=30, dirichlet_fraction=0.1, temperature=0.0, pb_c_init=2.5, pb_c_base=20.0,
                 qtransform="completed_by_mix_value"),
        ):
            cases.append(dict(algorithm="puct", seed=seed, actions=4 + seed, invalid=[1] if seed == 1 else [],
                              options=options))
        for options in (
            dict(num_simulations=32, gumbel_scale=1.0),
            dict(num_simulations=45, gumbel_scale=0.0, max_num_considered_actions=4),
            dict(num_simulations=50, gumbel_scale=0.5, max_depth=2, max_num_considered_actions=3),
            dict(num_simulations=24, gumbel_scale=1.0, max_num_considered_actions=1),
            dict(num_simulations=32, gumbel_scale=1.0, qtransform="by_parent_and_siblings"),
        ):
            cases.append(dict(algorithm="gumbel", seed=seed + 10, actions=4 + 6 * seed,
                              invalid=[0, 2] if seed == 1 else [], options=options))
    print(json.dumps({"cases": [run(case) for case in cases]}, separators=(",", ":")))
