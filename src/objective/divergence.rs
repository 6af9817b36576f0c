//! f-divergences: what stands for the log-ratio when the reference is kept close by another measure than KL.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::logistic::log_sigmoid;

/// f′ of the divergence that regularises the policy, in place of log `π/π_ref`. Wang et al. 2023 (2309.16240)
/// Table 2; names as in TRL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// KL(π ‖ π_ref), as in DPO: ρ.
    #[default]
    ReverseKl,
    /// `KL(π_ref` ‖ π): 1 − e^−ρ.
    ForwardKl,
    /// Jensen–Shannon: log 2 + log σ(ρ).
    JsDivergence,
    /// The α-divergence: (e^((α−1)ρ) − 1) / (α − 1); α = 0 is forward and α = 1 reverse KL.
    AlphaDivergence,
}

/// α where none is given, TRL's.
const ALPHA: f64 = 0.5;
/// Nearer to 1 than this, α is 1.
const LIMIT_OF_ALPHA: f64 = 1e-6;

impl Divergence {
    /// The score of log-ratios, elementwise; `alpha` is that of the α-divergence.
    pub(super) fn score(self, alpha: Option<f64>, log_ratio: &Tensor) -> Result<Tensor> {
        match self {
            Self::ReverseKl => Ok(log_ratio.clone()),
            Self::ForwardKl => 1.0 - bounded_exp(&log_ratio.neg()?)?,
            Self::JsDivergence => log_sigmoid(log_ratio)? + std::f64::consts::LN_2,
            Self::AlphaDivergence => {
                let slope = alpha.unwrap_or(ALPHA) - 1.0;
                if slope.abs() < LIMIT_OF_ALPHA {
                    return Ok(log_ratio.clone());
                }
                (bounded_exp(&(log_ratio * slope)?)? - 1.0)? / slope
            }
        }
    }
}

/// eˣ up to x = 80 and its tangent from there: finite for every x, and never without a slope.
fn bounded_exp(x: &Tensor) -> Result<Tensor> {
    const LIMIT: f64 = 80.0;
    let beyond = ((x - LIMIT)?.relu()? * LIMIT.exp())?;
    x.minimum(LIMIT)?.exp()? + beyond
}
