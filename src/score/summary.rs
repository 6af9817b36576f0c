//! How often, and by how much, the chosen side wins.

use serde::Serialize;
use socratiq_envs::RunSeed;

use crate::stats::{Estimate, bootstrap_mean, wilson};

/// Pair accuracy and mean margin, with 95 % intervals.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many pairs.
    pub pairs: usize,
    /// The share of pairs with a margin above 0 (Wilson).
    pub accuracy: Estimate,
    /// The mean margin (bootstrap over pairs); none without pairs.
    pub margin: Option<Estimate>,
}

impl Summary {
    /// The summary of pairs with these margins. A margin of 0 is no win.
    pub fn new(margins: &[f64]) -> Self {
        let won = margins.iter().filter(|margin| **margin > 0.0).count();
        Self {
            pairs: margins.len(),
            accuracy: wilson(won, margins.len()),
            // A fixed seed: the same margins have the same interval.
            margin: bootstrap_mean(margins, &mut RunSeed(0).stream("score")),
        }
    }
}
