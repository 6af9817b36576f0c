//! Losses of single completions that are good or bad.

use candle_core::{Result, Tensor};

use super::logistic::sigmoid;
use super::scores::{Scores, Totals};

/// `λ_D` (1 − σ(β(ρ − z₀))) for desirable completions and `λ_U` (1 − σ(β(z₀ − ρ))) for others, in the mean.
/// KTO: Ethayarajh et al. 2024 (2402.01306) Eq. 8; over the agent's tokens of whole trajectories it is
/// M-KTO (2409.02392). z₀ is [`Scores::baseline`], at least 0, without gradient, as in TRL.
pub(super) fn kto(
    scores: &Scores,
    totals: &Totals,
    beta: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
) -> Result<Tensor> {
    let (desirable, undesirable) = scores.labels()?;
    let logits = ((scores.log_ratio()? - scores.baseline.max(0.0))? * beta)?;
    let good = ((1.0 - sigmoid(&logits)?)? * (desirable * desirable_weight)?)?;
    let bad = ((1.0 - sigmoid(&logits.neg()?)?)? * (undesirable * undesirable_weight)?)?;
    ((good + bad)? * scores.weights()?)?.sum_all()? / totals.completions.max(1) as f64
}
