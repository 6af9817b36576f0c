//! Random instances, for what must hold on all of them.

use std::collections::BTreeMap;

use super::{ActionSpec, FiniteMdp, MdpError, MdpSpec, StateSpec};
use crate::seed::Stream;

/// How the world of a random MDP answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Every action has one outcome.
    Deterministic,
    /// Every action has two.
    Stochastic,
}

impl FiniteMdp {
    /// A random tree of `depth` decisions with two initial states and two or three actions everywhere; some branches end
    /// early. Rewards are uniform in `[−1, 1)`, no probability is near 0.
    ///
    /// # Errors
    /// None that can be met: what is drawn is valid.
    pub fn random_tree(depth: usize, world: World, stream: &mut Stream) -> Result<Self, MdpError> {
        let mut spec = MdpSpec::default();
        let starts = probabilities(2, stream);
        for (number, probability) in starts.into_iter().enumerate() {
            let id = format!("s{number}");
            spec.initial.insert(id.clone(), probability);
            grow(&mut spec, &id, depth, world, stream);
        }
        Self::try_from(spec)
    }
}

fn grow(spec: &mut MdpSpec, id: &str, depth: usize, world: World, stream: &mut Stream) {
    let root = !id.contains('.');
    let terminal = depth == 0 || (!root && stream.chance(0.15));
    spec.states.push(StateSpec {
        id: id.to_owned(),
        terminal,
    });
    if terminal {
        return;
    }
    let count = 2 + stream.below(2);
    for (number, reference) in probabilities(count, stream).into_iter().enumerate() {
        let outcomes = match world {
            World::Deterministic => vec![1.0],
            World::Stochastic => probabilities(2, stream),
        };
        let mut next = BTreeMap::new();
        for (outcome, probability) in outcomes.into_iter().enumerate() {
            let child = format!("{id}.{number}{outcome}");
            next.insert(child.clone(), probability);
            grow(spec, &child, depth - 1, world, stream);
        }
        spec.actions.push(ActionSpec {
            state: id.to_owned(),
            action: format!("a{number}"),
            reference,
            reward: 2.0 * stream.unit() - 1.0,
            next,
        });
    }
}

fn probabilities(count: usize, stream: &mut Stream) -> Vec<f64> {
    let weights: Vec<f64> = (0..count).map(|_| 0.1 + stream.unit()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}
