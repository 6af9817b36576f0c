//! Credit: what every token of a dialogue contributed, in the eyes of a policy and its reference.
//!
//! A policy π that was trained with DPO against a reference π_ref is a Q-function, and the implicit reward of
//! a token is its advantage (Rafailov et al. 2024, arXiv:2404.12358, Eq. 10):
//!
//! `β log π(a|s) − β log π_ref(a|s) = Q(s,a) − V(s) = r(s,a) + V(s′) − V(s)`
//!
//! So the running sum of implicit rewards is `Σ r + V(s_t) − V(s_0)`: what was earned so far, plus how much
//! better the dialogue stands than at its start. Over a whole dialogue V ends at 0, and the difference of two
//! such sums from the same start is the difference of their returns.
//!
//! Knows numbers only: no model, no text.

mod alternatives;

pub use alternatives::{Alternative, Choices, choices};

use std::ops::Range;

/// The credit of every token of one sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Credit {
    /// Implicit rewards, `[T]`; none where the token is not the agent's.
    pub implicit_reward: Vec<Option<f64>>,
    /// Their sum up to and including each token, `[T]`; it stands still where the agent does not act.
    pub running: Vec<f64>,
}

impl Credit {
    /// The credit of the tokens for which `action` is true.
    ///
    /// # Shapes
    /// `logprob`, `reference_logprob` and `action` are `[T]`; what is beyond the shortest is left out.
    ///
    /// # Units
    /// Log-probabilities in nats; none where nothing predicts a token, which then gets no credit.
    ///
    /// # Example
    /// ```
    /// use socratiq_agents::credit::Credit;
    /// let policy = [None, Some(-1.0), Some(-2.0), Some(-0.5)];
    /// let reference = [None, Some(-1.0), Some(-4.0), Some(-1.5)];
    /// let credit = Credit::new(0.5, &policy, &reference, &[false, false, true, true]);
    /// assert_eq!(credit.implicit_reward, [None, None, Some(1.0), Some(0.5)]);
    /// assert_eq!(credit.running, [0.0, 0.0, 1.0, 1.5]);
    /// assert_eq!(credit.total(), 1.5);
    /// ```
    pub fn new(
        beta: f64,
        logprob: &[Option<f64>],
        reference_logprob: &[Option<f64>],
        action: &[bool],
    ) -> Self {
        let implicit_reward: Vec<Option<f64>> = logprob
            .iter()
            .zip(reference_logprob)
            .zip(action)
            .map(|((policy, reference), action)| match (policy, reference) {
                (Some(policy), Some(reference)) if *action => Some(beta * (policy - reference)),
                _ => None,
            })
            .collect();
        let mut sum = 0.0;
        let running = implicit_reward.iter().map(|reward| {
            sum += reward.unwrap_or(0.0);
            sum
        });
        Self {
            running: running.collect(),
            implicit_reward,
        }
    }

    /// The implicit return: the sum of all implicit rewards.
    pub fn total(&self) -> f64 {
        self.running.last().copied().unwrap_or(0.0)
    }

    /// The sum over a stretch of tokens, such as a turn: the difference of two running sums.
    pub fn sum(&self, tokens: Range<usize>) -> f64 {
        let before = |end: usize| match end.checked_sub(1) {
            Some(last) => self.running.get(last).copied().unwrap_or(self.total()),
            None => 0.0,
        };
        before(tokens.end) - before(tokens.start)
    }
}
