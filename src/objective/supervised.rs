//! The likelihood of what was good.

use candle_core::{Result, Tensor};

use super::scores::{Scores, Totals};

/// −Σ log π / number of scored tokens, over desirable completions: cross-entropy by the token. On
/// trajectories chosen by their return it is filtered behaviour cloning. A group's weight counts.
pub(super) fn nll(scores: &Scores, totals: &Totals) -> Result<Tensor> {
    let (desirable, _) = scores.labels()?;
    let sum = (&scores.policy * desirable * scores.weights()?)?.sum_all()?;
    sum / -totals.desirable_tokens.max(1.0)
}
