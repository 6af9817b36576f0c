//! The theory of "From r to Q*" (arXiv 2404.12358), proven on random instances: every identity that the
//! framework builds on, and where each stops to hold.

use serde::Deserialize;
use socratiq::envs::RunSeed;
use socratiq::envs::exact::{
    FiniteMdp, MdpSpec, Path, PreferenceModel, Solution, population_dpo, soft_value,
};

use crate::support::{World, assert_close, random_tree};

const TOLERANCE: f64 = 1e-10;
const BETAS: [f64; 4] = [0.05, 0.3, 1.0, 7.0];

/// Runs `check` on random trees at every β.
fn on_random_trees(world: World, check: impl Fn(&FiniteMdp, &Solution)) {
    for seed in 0..25 {
        let mdp = random_tree(seed, 3, world);
        for beta in BETAS {
            check(&mdp, &mdp.solve(beta).unwrap());
        }
    }
}

/// The state before each step of a path, and the last one.
fn states(path: &Path) -> impl Iterator<Item = usize> {
    std::iter::once(path.start).chain(path.steps.iter().map(|(_, next)| *next))
}

#[test]
fn equations_5_to_7_hold_in_the_papers_own_form() {
    on_random_trees(World::Deterministic, |mdp, solution| {
        let beta = solution.beta;
        // The paper's Q* contains the reference term.
        let paper_q = |action: usize| solution.q_value[action] + beta * mdp.reference(action).ln();
        for state in 0..mdp.spec().states.len() {
            let actions = mdp.actions(state);
            if actions.is_empty() {
                assert_eq!(solution.value[state], 0.0);
                continue;
            }
            // Eq. 6, with plain exponentials.
            let sum: f64 = actions.iter().map(|&a| (paper_q(a) / beta).exp()).sum();
            assert_close(solution.value[state], beta * sum.ln(), TOLERANCE);
            let mut total = 0.0;
            for &action in actions {
                // Eq. 5.
                let policy = ((paper_q(action) - solution.value[state]) / beta).exp();
                assert_close(solution.policy[action], policy, TOLERANCE);
                total += policy;
                // Eq. 7.
                let (next, _) = mdp.next(action)[0];
                let bellman =
                    mdp.reward(action) + beta * mdp.reference(action).ln() + solution.value[next];
                assert_close(paper_q(action), bellman, TOLERANCE);
            }
            assert_close(total, 1.0, TOLERANCE);
        }
    });
}

#[test]
fn equation_10_the_implicit_reward_is_the_shaped_reward() {
    on_random_trees(World::Deterministic, |mdp, solution| {
        for action in 0..mdp.spec().actions.len() {
            let (next, _) = mdp.next(action)[0];
            let state = mdp.origin(action);
            let log_ratio = (solution.policy[action] / mdp.reference(action)).ln();
            let shaped = mdp.reward(action) + solution.value[next] - solution.value[state];
            assert_close(solution.beta * log_ratio, shaped, TOLERANCE);
            assert_close(solution.implicit_reward[action], shaped, TOLERANCE);
        }
    });
}

#[test]
fn return_and_prefix_identities_hold_on_every_trajectory() {
    on_random_trees(World::Deterministic, |mdp, solution| {
        for path in mdp.paths().unwrap() {
            let start = solution.value[path.start];
            let mut reward = 0.0;
            for (length, state) in states(&path).enumerate() {
                let implicit = path.implicit_return(solution, length);
                assert_close(implicit, reward + solution.value[state] - start, TOLERANCE);
                reward += path.steps.get(length).map_or(0.0, |(a, _)| mdp.reward(*a));
            }
            let implicit = path.implicit_return(solution, path.steps.len());
            assert_close(path.return_, start + implicit, TOLERANCE);
        }
    });
}

#[test]
fn the_soft_value_is_the_log_mean_exponential_return_under_the_reference() {
    on_random_trees(World::Deterministic, |mdp, solution| {
        for (state, spec) in mdp.spec().states.iter().enumerate() {
            let mut from_here = mdp.spec().clone();
            from_here.initial = [(spec.id.clone(), 1.0)].into();
            let paths = FiniteMdp::try_from(from_here).unwrap().paths().unwrap();
            let mean: f64 = paths
                .iter()
                .map(|p| p.reference_probability * (p.return_ / solution.beta).exp())
                .sum();
            assert_close(solution.value[state], solution.beta * mean.ln(), TOLERANCE);
        }
    });
}

#[test]
fn lemma_1_rewards_and_optimal_q_are_in_bijection() {
    for world in [World::Deterministic, World::Stochastic] {
        on_random_trees(world, |mdp, solution| {
            // r → Q* → r.
            let rewards = mdp.rewards_of(&solution.q_value, solution.beta).unwrap();
            for (action, reward) in rewards.iter().enumerate() {
                assert_close(*reward, mdp.reward(action), TOLERANCE);
            }
            // Any Q is optimal for some reward: Q → r → Q*.
            let mut stream = RunSeed(9).stream("any q");
            let any: Vec<f64> = rewards.iter().map(|_| 4.0 * stream.unit() - 2.0).collect();
            let mut explained = mdp.spec().clone();
            let explaining = mdp.rewards_of(&any, solution.beta).unwrap();
            for (action, reward) in explained.actions.iter_mut().zip(explaining) {
                action.reward = reward;
            }
            let mdp = FiniteMdp::try_from(explained).unwrap();
            let again = mdp.solve(solution.beta).unwrap();
            for (found, expected) in again.q_value.iter().zip(&any) {
                assert_close(*found, *expected, TOLERANCE);
            }
        });
    }
}

#[test]
fn potential_shaping_changes_neither_the_policy_nor_any_preference() {
    on_random_trees(World::Deterministic, |mdp, solution| {
        let mut stream = RunSeed(3).stream("potential");
        let potential: Vec<f64> = solution.value.iter().map(|_| 3.0 * stream.unit()).collect();
        let shaped = mdp.shaped(&potential);
        let again = shaped.solve(solution.beta).unwrap();
        for (found, expected) in again.policy.iter().zip(&solution.policy) {
            assert_close(*found, *expected, TOLERANCE);
        }
        let (before, after) = (mdp.paths().unwrap(), shaped.paths().unwrap());
        for (i, a) in before.iter().enumerate() {
            for (j, b) in before
                .iter()
                .enumerate()
                .filter(|(_, b)| a.start == b.start)
            {
                let shaped_difference = after[i].return_ - after[j].return_;
                assert_close(shaped_difference, a.return_ - b.return_, TOLERANCE);
            }
        }
    });
}

#[test]
fn equations_12_and_13_value_guided_search_is_likelihood_search() {
    on_random_trees(World::Deterministic, |mdp, solution| {
        let beta = solution.beta;
        let mut best: Vec<(usize, usize, f64, f64)> = Vec::new(); // start, length, by value, by likelihood
        for path in mdp.paths().unwrap() {
            let start = solution.value[path.start];
            let (mut regularised, mut likelihood) = (0.0, 0.0);
            for (length, (action, next)) in path.steps.iter().enumerate() {
                regularised += mdp.reward(*action) + beta * mdp.reference(*action).ln();
                likelihood += beta * solution.policy[*action].ln();
                let by_value = regularised + solution.value[*next];
                // The two objectives differ by a constant of the start, so they rank alike.
                assert_close(by_value, start + likelihood, TOLERANCE);
                let entry = best
                    .iter_mut()
                    .find(|(s, l, ..)| (*s, *l) == (path.start, length));
                match entry {
                    None => best.push((path.start, length, by_value, likelihood)),
                    Some(entry) => {
                        entry.2 = entry.2.max(by_value);
                        entry.3 = entry.3.max(likelihood);
                    }
                }
            }
        }
        for (start, _, by_value, likelihood) in best {
            assert_close(by_value, solution.value[start] + likelihood, TOLERANCE);
        }
    });
}

#[test]
fn theorem_1_population_dpo_recovers_the_advantage() {
    for seed in 0..6 {
        let mdp = random_tree(seed, 2, World::Deterministic);
        for beta in [0.1, 0.5, 2.0] {
            let solution = mdp.solve(beta).unwrap();
            let learned = population_dpo(&mdp, beta, PreferenceModel::Masked).unwrap();
            for (action, policy) in learned.iter().enumerate() {
                let implicit = beta * (policy / mdp.reference(action)).ln();
                assert_close(implicit, solution.implicit_reward[action], 1e-6);
            }
        }
    }
}

#[test]
fn on_stochastic_transitions_the_return_identity_fails_by_exactly_the_luck() {
    let mut largest: f64 = 0.0;
    for seed in 0..25 {
        let mdp = random_tree(seed, 3, World::Stochastic);
        assert!(!mdp.is_deterministic() && mdp.is_tree());
        for beta in BETAS {
            let solution = mdp.solve(beta).unwrap();
            for path in mdp.paths().unwrap() {
                let implicit = path.implicit_return(&solution, path.steps.len());
                let gap = path.return_ - (solution.value[path.start] + implicit);
                let luck = path.luck(&mdp, &solution.value);
                assert_close(gap, luck, TOLERANCE);
                largest = largest.max(gap.abs());
            }
        }
    }
    // The failure is real, not a rounding error.
    assert!(largest > 0.5, "{largest}");
}

#[test]
fn on_stochastic_transitions_the_value_is_no_longer_the_log_mean_exponential_return() {
    // E_ref[e^{R/β}] counts the world's luck as if the agent could choose it: it is never smaller.
    let mut largest: f64 = 0.0;
    for seed in 0..25 {
        let mdp = random_tree(seed, 3, World::Stochastic);
        let paths = mdp.paths().unwrap();
        for beta in BETAS {
            let solution = mdp.solve(beta).unwrap();
            for (start, _) in mdp.initial() {
                let mean: f64 = paths
                    .iter()
                    .filter(|path| path.start == *start)
                    .map(|p| p.reference_probability * (p.return_ / beta).exp())
                    .sum();
                let excess = beta * mean.ln() - solution.value[*start];
                assert!(excess >= -TOLERANCE, "{excess}");
                largest = largest.max(excess);
            }
        }
    }
    assert!(largest > 0.1, "{largest}");
}

#[test]
fn on_stochastic_transitions_only_the_value_margin_recovers_the_optimum() {
    let (mut masked_error, mut unmasked_error): (f64, f64) = (0.0, 0.0);
    for seed in 0..4 {
        let mdp = random_tree(seed, 2, World::Stochastic);
        let beta = 0.2;
        let solution = mdp.solve(beta).unwrap();
        let error = |model| {
            let learned = population_dpo(&mdp, beta, model).unwrap();
            learned
                .iter()
                .zip(&solution.policy)
                .fold(0.0, |max: f64, (a, b)| max.max((a - b).abs()))
        };
        assert_close(error(PreferenceModel::MaskedWithValueMargin), 0.0, 1e-6);
        masked_error = masked_error.max(error(PreferenceModel::Masked));
        unmasked_error = unmasked_error.max(error(PreferenceModel::Unmasked));
    }
    assert!(masked_error > 0.02, "{masked_error}");
    assert!(unmasked_error > 0.05, "{unmasked_error}");
}

#[test]
fn unmasked_dpo_solves_the_problem_in_which_the_world_is_an_agent() {
    for seed in 0..4 {
        let mdp = random_tree(seed, 2, World::Stochastic);
        let beta = 0.5;
        let learned = population_dpo(&mdp, beta, PreferenceModel::Unmasked).unwrap();
        // Each outcome becomes an action with the world's probability as its reference.
        let optimistic = optimistic_policy(&mdp, beta);
        for (found, expected) in learned.iter().zip(&optimistic) {
            assert_close(*found, *expected, 1e-6);
        }
    }
}

/// The table of the risky and the safe arm: two turns, a risky arm worth 1.2 with probability 0.4 against
/// a safe one worth 0.5, then a choice worth 0.3 or nothing; everything scaled, the reference uniform.
/// Columns: P(risky) under the true optimum, and learned from infinitely many preferences with the
/// agent's tokens only, with the world's tokens too, and with the agent's tokens and the value margin.
/// Origin: the first and third column in closed form, the second from an independent fit with `SciPy`'s
/// L-BFGS-B.
#[test]
fn the_risky_and_the_safe_arm() {
    let spec: MdpSpec =
        serde_json::from_str(include_str!("../../configs/exact/risky-safe.json")).unwrap();
    for (beta, scale, optimum, masked, unmasked) in [
        (0.1, 1.0, 0.450_166, 0.767_703, 0.997_726),
        (0.1, 3.0, 0.354_344, 0.754_461, 1.000_000),
        (0.3, 3.0, 0.450_166, 0.637_386, 0.997_726),
        (1.0, 6.0, 0.470_036, 0.503_675, 0.963_905),
    ] {
        let mut scaled = spec.clone();
        for action in &mut scaled.actions {
            action.reward *= scale;
        }
        let mdp = FiniteMdp::try_from(scaled).unwrap();
        let risky = |model| population_dpo(&mdp, beta, model).unwrap()[0];
        let digits = 2e-6;
        assert_close(mdp.solve(beta).unwrap().policy[0], optimum, digits);
        assert_close(risky(PreferenceModel::Masked), masked, digits);
        assert_close(risky(PreferenceModel::Unmasked), unmasked, digits);
        assert_close(
            risky(PreferenceModel::MaskedWithValueMargin),
            optimum,
            digits,
        );
    }
}

/// `π(a|s) ∝ π_ref(a|s) exp(r/β) E[exp(V(s')/β)]` with V of the same rule.
fn optimistic_policy(mdp: &FiniteMdp, beta: f64) -> Vec<f64> {
    fn value(mdp: &FiniteMdp, state: usize, beta: f64) -> f64 {
        match mdp.actions(state) {
            [] => 0.0,
            actions => {
                let terms = actions
                    .iter()
                    .map(|&a| (mdp.reference(a), quality(mdp, a, beta)));
                soft_value(terms, beta)
            }
        }
    }
    fn quality(mdp: &FiniteMdp, action: usize, beta: f64) -> f64 {
        let outcomes: Vec<(f64, f64)> = mdp
            .next(action)
            .iter()
            .map(|&(state, probability)| (probability, value(mdp, state, beta)))
            .collect();
        mdp.reward(action) + soft_value(outcomes.into_iter(), beta)
    }
    (0..mdp.spec().actions.len())
        .map(|action| {
            let advantage = quality(mdp, action, beta) - value(mdp, mdp.origin(action), beta);
            mdp.reference(action) * (advantage / beta).exp()
        })
        .collect()
}

#[test]
fn a_directed_graph_that_is_no_tree_is_recognised_and_solved() {
    let spec: MdpSpec = serde_json::from_str(
        r#"{"states":[{"id":"s","terminal":false},{"id":"t","terminal":true}],"initial":{"s":1.0},
            "actions":[{"state":"s","action":"a","reference":0.5,"reward":1.0,"next":{"t":1.0}},
                       {"state":"s","action":"b","reference":0.5,"reward":0.0,"next":{"t":1.0}}]}"#,
    )
    .unwrap();
    let mdp = FiniteMdp::try_from(spec).unwrap();
    assert!(mdp.is_deterministic() && !mdp.is_tree());
    let solution = mdp.solve(0.5).unwrap();
    // π*(a) = σ(1/β) by hand.
    assert_close(solution.policy[0], 1.0 / (1.0 + (-2.0_f64).exp()), 1e-15);
}

#[test]
fn the_soft_value_lies_between_the_mean_and_the_maximum_and_reaches_both() {
    let mut stream = RunSeed(4).stream("soft value");
    for _ in 0..200 {
        let count = 2 + stream.below(5);
        let weights: Vec<f64> = (0..count).map(|_| 0.05 + stream.unit()).collect();
        let total: f64 = weights.iter().sum();
        let actions: Vec<(f64, f64)> = weights
            .iter()
            .map(|w| (w / total, 20.0 * stream.unit() - 10.0))
            .collect();
        let mean: f64 = actions.iter().map(|(p, q)| p * q).sum();
        let max = actions.iter().map(|(_, q)| *q).fold(f64::MIN, f64::max);
        let mut previous = max;
        for beta in [1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e9] {
            let value = soft_value(actions.iter().copied(), beta);
            assert!(value.is_finite() && value <= previous + 1e-9 && value >= mean - 1e-6);
            previous = value;
        }
        assert_close(soft_value(actions.iter().copied(), 1e-6), max, 1e-4);
        assert_close(soft_value(actions.iter().copied(), 1e9), mean, 1e-6);
    }
}

#[test]
fn two_hundred_states_agree_with_an_independent_solver() {
    #[derive(Deserialize)]
    struct Golden {
        beta: f64,
        mdp: MdpSpec,
        #[serde(rename = "V")]
        value: std::collections::BTreeMap<String, f64>,
        #[serde(rename = "Q")]
        q_value: Vec<f64>,
    }
    let golden: Golden = serde_json::from_str(include_str!("golden/exact_tree.json")).unwrap();
    let mdp = FiniteMdp::try_from(golden.mdp).unwrap();
    assert_eq!(mdp.spec().states.len(), 200);
    assert!(!mdp.is_deterministic() && mdp.is_tree());
    let solution = mdp.solve(golden.beta).unwrap();
    for (state, value) in mdp.spec().states.iter().zip(&solution.value) {
        assert_close(*value, golden.value[&state.id], 1e-9);
    }
    for (found, expected) in solution.q_value.iter().zip(&golden.q_value) {
        assert_close(*found, *expected, 1e-9);
    }
}
