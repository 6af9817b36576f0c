//! What a planner maximises. Objectives are named, and never mixed.

use serde::{Deserialize, Serialize};

/// The score of a turn, or of the beginning of one (arXiv 2404.12358).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// `Σ log π(a_t|s_t)`: for the soft-optimal policy the KL-regularised return over β, up to a constant
    /// (Eq. 13).
    Likelihood,
    /// `Σ log π(a_t|s_t) − log π_ref(a_t|s_t)`: over β the plain return with the value of where it stops, up to a
    /// constant (the return identity before Eq. 8, for prefixes).
    LogRatio,
    /// `Σ log π(a_t|s_t) / T^length_penalty`: no return, but what beam search has been used with since Wu et al.
    /// 2016 (arXiv:1609.08144).
    LengthNormalised,
    /// `Σ (r + β log π_ref(a_t|s_t)) + V(s)` with a given V (Eq. 12).
    ValueGuided,
}

impl Objective {
    /// True if the score needs a reference policy.
    pub fn needs_reference(self) -> bool {
        matches!(self, Self::LogRatio | Self::ValueGuided)
    }
}
