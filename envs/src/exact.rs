//! Small finite token MDPs and their exact soft-optimal solution.
//!
//! The oracle for everything that is learned or searched elsewhere. γ = 1, finite horizon: the state
//! graph has no cycle. Transitions may be stochastic; what then no longer holds is said where it matters.
//!
//! The reference term is kept apart: here `Q(s,a) = r(s,a) + E[V(s')]`, and the paper's Q* (arXiv
//! 2404.12358, Eq. 7) is this plus `β log π_ref(a|s)`.

mod path;
mod population_dpo;
mod random;
mod spec;

pub use path::Path;
pub use population_dpo::{PreferenceModel, population_dpo};
pub use random::World;
pub use spec::{ActionSpec, MdpError, MdpSpec, StateSpec};

use serde::Serialize;
use std::collections::BTreeMap;

/// A validated finite MDP: every probability sums to 1, every id exists, nothing repeats.
///
/// States and actions are addressed by their position in the [`MdpSpec`] that it was made from.
#[derive(Clone, Debug)]
pub struct FiniteMdp {
    spec: MdpSpec,
    /// Initial states and their probabilities.
    initial: Vec<(usize, f64)>,
    /// By action: the state in which it can be chosen.
    origin: Vec<usize>,
    /// By action: the states that may follow, with their probabilities.
    next: Vec<Vec<(usize, f64)>>,
    /// By state: its actions.
    actions: Vec<Vec<usize>>,
    /// All states, each after every state that may follow it.
    leaves_first: Vec<usize>,
}

impl FiniteMdp {
    /// What the MDP was made from.
    pub fn spec(&self) -> &MdpSpec {
        &self.spec
    }

    /// The initial states and their probabilities.
    pub fn initial(&self) -> &[(usize, f64)] {
        &self.initial
    }

    /// The actions of a state; none in a terminal one.
    pub fn actions(&self, state: usize) -> &[usize] {
        &self.actions[state]
    }

    /// The state in which `action` can be chosen.
    pub fn origin(&self, action: usize) -> usize {
        self.origin[action]
    }

    /// The states that may follow `action`, with their probabilities.
    pub fn next(&self, action: usize) -> &[(usize, f64)] {
        &self.next[action]
    }

    /// `π_ref(a|s)`.
    pub fn reference(&self, action: usize) -> f64 {
        self.spec.actions[action].reference
    }

    /// `r(s,a)`.
    pub fn reward(&self, action: usize) -> f64 {
        self.spec.actions[action].reward
    }

    /// True if every action leads to one state.
    pub fn is_deterministic(&self) -> bool {
        self.next
            .iter()
            .all(|next| next.iter().filter(|(_, p)| *p > 0.0).count() == 1)
    }

    /// True if no state is reached in two ways: each has at most one action that leads to it, and the
    /// initial states have none.
    pub fn is_tree(&self) -> bool {
        let mut ways = vec![0; self.actions.len()];
        let reached = self.next.iter().flatten().chain(&self.initial);
        for (state, _) in reached.filter(|(_, p)| *p > 0.0) {
            ways[*state] += 1;
        }
        ways.iter().all(|ways| *ways <= 1)
    }

    /// `E[value(s')]` over the states that may follow `action`.
    pub fn expected_next(&self, action: usize, value: &[f64]) -> f64 {
        self.next[action]
            .iter()
            .map(|(state, probability)| probability * value[*state])
            .sum()
    }

    /// The soft-optimal solution by backward induction (Eqs. 5–7).
    ///
    /// `V(s) = β log Σ_a π_ref(a|s) exp(Q(s,a)/β)`, `V(terminal) = 0`,
    /// `π*(a|s) = π_ref(a|s) exp((Q(s,a) − V(s))/β)`.
    ///
    /// # Errors
    /// [`MdpError::Beta`] unless `beta` is finite and positive.
    ///
    /// # Complexity
    /// One pass over states, actions and transitions.
    pub fn solve(&self, beta: f64) -> Result<Solution, MdpError> {
        if !(beta.is_finite() && beta > 0.0) {
            return Err(MdpError::Beta { beta });
        }
        let mut value = vec![0.0; self.actions.len()];
        let mut q_value = vec![0.0; self.origin.len()];
        for &state in &self.leaves_first {
            let actions = &self.actions[state];
            if actions.is_empty() {
                continue;
            }
            for &action in actions {
                q_value[action] = self.reward(action) + self.expected_next(action, &value);
            }
            value[state] = soft_value(
                actions.iter().map(|&a| (self.reference(a), q_value[a])),
                beta,
            );
        }
        let implicit_reward: Vec<f64> = (0..q_value.len())
            .map(|action| q_value[action] - value[self.origin[action]])
            .collect();
        let policy = (0..q_value.len())
            .map(|action| self.reference(action) * (implicit_reward[action] / beta).exp())
            .collect();
        Ok(Solution {
            beta,
            value,
            q_value,
            policy,
            implicit_reward,
        })
    }

    /// The rewards for which `q_value` is the soft-optimal Q: the inverse of [`solve`](Self::solve)
    /// (Lemma 1, surjective part). `r(s,a) = Q(s,a) − E[V(s')]`.
    ///
    /// # Errors
    /// [`MdpError::Beta`] unless `beta` is finite and positive.
    ///
    /// # Panics
    /// When `q_value` is shorter than the number of actions.
    pub fn rewards_of(&self, q_value: &[f64], beta: f64) -> Result<Vec<f64>, MdpError> {
        if !(beta.is_finite() && beta > 0.0) {
            return Err(MdpError::Beta { beta });
        }
        let value: Vec<f64> = self
            .actions
            .iter()
            .map(|actions| match actions.as_slice() {
                [] => 0.0,
                actions => soft_value(
                    actions.iter().map(|&a| (self.reference(a), q_value[a])),
                    beta,
                ),
            })
            .collect();
        Ok((0..self.origin.len())
            .map(|action| q_value[action] - self.expected_next(action, &value))
            .collect())
    }

    /// The same MDP with rewards shaped by a potential (Definition 1):
    /// `r'(s,a) = r(s,a) + E[Φ(s')] − Φ(s)`, with Φ = 0 at terminal states so that only the start counts.
    ///
    /// # Panics
    /// When `potential` is shorter than the number of states.
    #[must_use]
    pub fn shaped(&self, potential: &[f64]) -> Self {
        let potential: Vec<f64> = (0..self.actions.len())
            .map(|state| match self.spec.states[state].terminal {
                true => 0.0,
                false => potential[state],
            })
            .collect();
        let mut shaped = self.clone();
        for (action, spec) in shaped.spec.actions.iter_mut().enumerate() {
            spec.reward += self.expected_next(action, &potential) - potential[self.origin[action]];
        }
        shaped
    }
}

/// `β log Σ_a π_ref(a) exp(Q(a)/β)` over `(π_ref(a), Q(a))`, without overflow at any β.
///
/// It lies between the reference's mean of Q (β → ∞) and the maximum of Q (β → 0).
pub fn soft_value(actions: impl Iterator<Item = (f64, f64)> + Clone, beta: f64) -> f64 {
    let max = actions
        .clone()
        .filter(|(reference, _)| *reference > 0.0)
        .map(|(_, q)| q)
        .fold(f64::NEG_INFINITY, f64::max);
    // `ln_1p` over `expm1` keeps the digits that `ln` near 1 would lose when β is large.
    let excess: f64 = actions
        .map(|(reference, q)| reference * ((q - max) / beta).exp_m1())
        .sum();
    max + beta * excess.ln_1p()
}

/// The soft-optimal solution of a [`FiniteMdp`].
#[derive(Clone, Debug)]
pub struct Solution {
    /// Strength of the KL term.
    pub beta: f64,
    /// `V(s)`, by state.
    pub value: Vec<f64>,
    /// `Q(s,a)`, by action, without the reference term.
    pub q_value: Vec<f64>,
    /// `π*(a|s)`, by action.
    pub policy: Vec<f64>,
    /// `β log π*(a|s)/π_ref(a|s) = Q(s,a) − V(s)`, by action.
    pub implicit_reward: Vec<f64>,
}

/// A [`Solution`] as `socratiq exact` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct SolutionReport {
    states: BTreeMap<String, StateReport>,
    actions: Vec<ActionReport>,
    deterministic: bool,
    tree: bool,
}

#[derive(Clone, Debug, Serialize)]
struct StateReport {
    #[serde(rename = "V")]
    value: f64,
}

#[derive(Clone, Debug, Serialize)]
struct ActionReport {
    state: String,
    action: String,
    #[serde(rename = "Q")]
    q_value: f64,
    policy: f64,
    implicit_reward: f64,
}

impl Solution {
    /// The solution with the ids of `mdp`, which must be the MDP that it solves.
    pub fn report(&self, mdp: &FiniteMdp) -> SolutionReport {
        SolutionReport {
            states: mdp
                .spec
                .states
                .iter()
                .zip(&self.value)
                .map(|(state, &value)| (state.id.clone(), StateReport { value }))
                .collect(),
            actions: mdp
                .spec
                .actions
                .iter()
                .enumerate()
                .map(|(action, spec)| ActionReport {
                    state: spec.state.clone(),
                    action: spec.action.clone(),
                    q_value: self.q_value[action],
                    policy: self.policy[action],
                    implicit_reward: self.implicit_reward[action],
                })
                .collect(),
            deterministic: mdp.is_deterministic(),
            tree: mdp.is_tree(),
        }
    }
}
