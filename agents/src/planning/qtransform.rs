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
                let visited = Visited::of(candidates);
                let mixed = visited.mixed_value(node.raw_value);
                let (mut low, mut high) = (visited.low, visited.high);
                if visited.count < candidates.len() {
                    (low, high) = (low.min(mixed), high.max(mixed));
                }
                let most = f64::from(visited.most);
                let scale = (MAXVISIT_INIT + most) * VALUE_SCALE / (high - low).max(EPSILON);
                into.extend(candidates.iter().map(|c| match c.visits {
                    0 => (mixed - low) * scale,
                    _ => (c.q_value - low) * scale,
                }));
            }
        }
    }
}

/// Sums over the visited candidates of a node.
struct Visited {
    count: usize,
    visits: u32,
    most: u32,
    probability: f64,
    weighted: f64,
    low: f64,
    high: f64,
}

impl Visited {
    fn of(candidates: &[Candidate]) -> Self {
        let mut sums = Self {
            count: 0,
            visits: 0,
            most: 0,
            probability: 0.0,
            weighted: 0.0,
            low: f64::INFINITY,
            high: f64::NEG_INFINITY,
        };
        for candidate in candidates.iter().filter(|c| c.visits > 0) {
            // An action of no probability that was visited all the same.
            let prior = candidate.prior.max(f64::MIN_POSITIVE);
            sums.count += 1;
            sums.visits += candidate.visits;
            sums.most = sums.most.max(candidate.visits);
            sums.probability += prior;
            sums.weighted += prior * candidate.q_value;
            sums.low = sums.low.min(candidate.q_value);
            sums.high = sums.high.max(candidate.q_value);
        }
        sums
    }

    /// `(v + N·Σ π q / Σ π) / (1 + N)`, N the visits (Danihelka et al. 2022, Eq. 33).
    fn mixed_value(&self, raw_value: f64) -> f64 {
        if self.count == 0 {
            return raw_value;
        }
        let visits = f64::from(self.visits);
        (raw_value + visits * self.weighted / self.probability) / (visits + 1.0)
    }
}
