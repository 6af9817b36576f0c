//! Q-values made comparable with priors: the transforms of mctx, by its names and with its constants.

use serde::{Deserialize, Serialize};

use super::tree::{Candidate, Node};

/// The least range that Q-values are divided by.
const EPSILON: f64 = 1e-8;
/// Scale of completed Q-values (Danihelka et al. 2022, "Policy improvement by planning with Gumbel", §3.4).
const VALUE_SCALE: f64 = 0.1;
/// What is added to the most visits in that scale.
const MAXVISIT_INIT: f64 = 50.0;

/// How Q-values enter a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QTransform {
    /// Normalised to [0, 1] by the least and the highest of the node's value and its visited actions'
    /// Q-values; 0 for actions without a visit (Schrittwieser et al. 2020, arXiv:1911.08265, Appendix B).
    ByParentAndSiblings,
    /// Actions without a visit get the mixed value; then all are normalised to [0, 1] and scaled by
    /// 0.1 · (50 + most visits) (Danihelka et al. 2022, Appendix D).
    CompletedByMixValue,
}

impl QTransform {
    /// Writes the transformed Q-value of every candidate of `node` to `into`.
    pub(crate) fn apply(self, node: &Node, candidates: &[Candidate], into: &mut Vec<f64>) {
        into.clear();
        match self {
            Self::ByParentAndSiblings => {
                let visited = candidates.iter().filter(|c| c.visits > 0);
                let (low, high) = visited.fold((node.value, node.value), |(low, high), c| {
                    (low.min(c.q_value), high.max(c.q_value))
                });
                let range = (high - low).max(EPSILON);
                into.extend(candidates.iter().map(|c| match c.visits {
                    0 => 0.0,
                    _ => (c.q_value - low) / range,
                }));
            }
            Self::CompletedByMixValue => {
                let mixed = mixed_value(node, candidates);
                into.extend(candidates.iter().map(|c| match c.visits {
                    0 => mixed,
                    _ => c.q_value,
                }));
                let (low, high) = into
                    .iter()
                    .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), q| {
                        (low.min(*q), high.max(*q))
                    });
                let most = candidates.iter().map(|c| c.visits).max().unwrap_or(0);
                let scale =
                    (MAXVISIT_INIT + f64::from(most)) * VALUE_SCALE / (high - low).max(EPSILON);
                into.iter_mut().for_each(|q| *q = (*q - low) * scale);
            }
        }
    }
}

/// `(v + N·Σ π q / Σ π) / (1 + N)`, sums over visited actions, N their visits (Danihelka et al. 2022, Eq. 33).
fn mixed_value(node: &Node, candidates: &[Candidate]) -> f64 {
    let (mut visits, mut probability, mut weighted) = (0.0, 0.0, 0.0);
    for candidate in candidates.iter().filter(|c| c.visits > 0) {
        let prior = candidate.prior.max(f64::MIN_POSITIVE);
        visits += f64::from(candidate.visits);
        probability += prior;
        weighted += prior * candidate.q_value;
    }
    match probability > 0.0 {
        true => (node.raw_value + visits * weighted / probability) / (visits + 1.0),
        false => node.raw_value,
    }
}
