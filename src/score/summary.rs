//! How often, and by how much, the chosen side wins, and what dialogues that are in no pair earn.

use serde::Serialize;
use socratiq_envs::RunSeed;

use crate::stats::{Estimate, bootstrap_mean, wilson};

/// Pair accuracy, mean margin and mean implicit return, with 95 % intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many pairs.
    pub pairs: usize,
    /// The share of pairs with a margin above 0 (Wilson); none without pairs.
    pub accuracy: Option<Estimate>,
    /// The mean margin (bootstrap over pairs); none without pairs.
    pub margin: Option<Estimate>,
    /// How many dialogues that are no sides of pairs.
    pub dialogues: usize,
    /// Their mean implicit return (bootstrap over dialogues); none without them.
    #[serde(rename = "return")]
    pub return_: Option<Estimate>,
}

impl Summary {
    /// The summary of pairs with these margins, and of dialogues with these implicit returns. A margin of 0 is
    /// no win.
    pub fn new(margins: &[f64], returns: &[f64]) -> Self {
        let won = margins.iter().filter(|margin| **margin > 0.0).count();
        // A fixed seed: the same numbers have the same interval.
        let mean = |numbers| bootstrap_mean(numbers, &mut RunSeed(0).stream("score"));
        Self {
            pairs: margins.len(),
            accuracy: (!margins.is_empty()).then(|| wilson(won, margins.len())),
            margin: mean(margins),
            dialogues: returns.len(),
            return_: mean(returns),
        }
    }
}
