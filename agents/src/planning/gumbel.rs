//! Gumbel search: sequential halving at the root, with the names and defaults of mctx's `gumbel_muzero_policy`.
//!
//! Danihelka et al. 2022, "Policy improvement by planning with Gumbel" (ICLR), Algorithms 1 and 2.

use serde::{Deserialize, Serialize};
use socratiq_envs::Stream;

use super::puct::argmax;
use super::qtransform::QTransform;
use super::search::{Backup, Evaluator, Limits, Search, Select, search};
use super::tree::{Candidate, Evaluation, NodeId, Tree};
use crate::error::Result;

/// Scores never fall below this, so that the last action left can be taken.
const LOW_LOGIT: f64 = -1e9;

/// Options of the search.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gumbel {
    /// Simulations.
    pub num_simulations: usize,
    /// The longest path from the root.
    pub max_depth: Option<usize>,
    /// The root's actions that are looked at: the best by noise and prior.
    pub max_num_considered_actions: usize,
    /// Scale of the Gumbel noise; 0 for none.
    pub gumbel_scale: f64,
    /// How Q-values enter.
    pub qtransform: QTransform,
    /// Leaves evaluated together; see [`Limits::batch`]. The root's actions of one round of halving have
    /// subtrees of their own, so that only the root's Q-values are out of date within a round.
    pub batch: usize,
    /// What a node's value becomes.
    #[serde(skip)]
    pub backup: Backup,
}

impl Default for Gumbel {
    fn default() -> Self {
        Self {
            num_simulations: 64,
            max_depth: None,
            max_num_considered_actions: 16,
            gumbel_scale: 1.0,
            qtransform: QTransform::CompletedByMixValue,
            batch: 1,
            backup: Backup::Mean,
        }
    }
}

impl Gumbel {
    /// Searches from `root`. `noise` has a standard Gumbel number for each of its candidates, before
    /// `gumbel_scale`; [`Self::noise`] draws it.
    ///
    /// # Errors
    /// When the evaluator fails or gives numbers that are not finite.
    pub fn search(
        &self,
        root: &Evaluation,
        noise: &[f64],
        evaluator: &mut dyn Evaluator,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Tree> {
        search(self.begin(root, noise)?, evaluator, interrupted)
    }

    /// The search before its first simulation, for whoever evaluates leaves in a way of their own.
    ///
    /// # Errors
    /// When a number of the root is not finite.
    pub fn begin(&self, root: &Evaluation, noise: &[f64]) -> Result<Search<impl Select + use<>>> {
        let valid = (root.candidates.iter())
            .filter(|(_, logit)| *logit > f64::NEG_INFINITY)
            .count();
        let considered = self.max_num_considered_actions.min(valid);
        let select = Selection {
            options: *self,
            noise: noise.iter().map(|x| x * self.gumbel_scale).collect(),
            considered_visits: considered_visits(considered, self.num_simulations),
            q_values: Vec::new(),
        };
        let limits = Limits {
            num_simulations: self.num_simulations,
            max_depth: self.max_depth,
            batch: self.batch,
            backup: self.backup,
        };
        Search::new(root, select, limits)
    }

    /// Standard Gumbel noise for `count` candidates.
    pub fn noise(&self, count: usize, stream: &mut Stream) -> Vec<f64> {
        (0..count)
            .map(|_| -(-stream.unit().max(f64::MIN_POSITIVE).ln()).ln())
            .collect()
    }

    /// The improved policy at the root: `softmax(prior_logit + q)`.
    pub fn weights(&self, tree: &Tree) -> Vec<f64> {
        let candidates = tree.candidates(NodeId::ROOT);
        let mut weights = Vec::new();
        self.qtransform
            .apply(tree.node(NodeId::ROOT), candidates, &mut weights);
        let total = weigh(candidates, &mut weights);
        weights.iter().map(|weight| weight / total).collect()
    }

    /// Which of the root's candidates to take: the best by noise, prior and Q among the most visited; none
    /// where there is none. `noise` is that of the search.
    pub fn choose(&self, tree: &Tree, noise: &[f64]) -> Option<usize> {
        let candidates = tree.candidates(NodeId::ROOT);
        let mut q_values = Vec::new();
        self.qtransform
            .apply(tree.node(NodeId::ROOT), candidates, &mut q_values);
        let most = candidates.iter().map(|c| c.visits).max()?;
        let noise: Vec<f64> = noise.iter().map(|x| x * self.gumbel_scale).collect();
        best_considered(most, &noise, candidates, &q_values)
    }
}

struct Selection {
    options: Gumbel,
    /// Scaled.
    noise: Vec<f64>,
    /// By simulation: how many visits the actions have that may be taken.
    considered_visits: Vec<u32>,
    q_values: Vec<f64>,
}

impl Select for Selection {
    fn select(&mut self, tree: &Tree, id: NodeId) -> Option<usize> {
        let (node, candidates) = (tree.node(id), tree.candidates(id));
        self.options
            .qtransform
            .apply(node, candidates, &mut self.q_values);
        if id == NodeId::ROOT {
            let visit = *self.considered_visits.get(simulation(candidates))?;
            return best_considered(visit, &self.noise, candidates, &self.q_values);
        }
        // Visits follow the improved policy without noise (Danihelka et al. 2022, §5):
        // π'(a) − N(a) / (1 + Σ N), times the sum that π' is divided by.
        let total = weigh(candidates, &mut self.q_values);
        let per_visit = total / f64::from(node.visits);
        argmax(
            candidates
                .iter()
                .zip(&self.q_values)
                .map(|(c, weight)| match c.is_valid() {
                    true => weight - f64::from(c.visits) * per_visit,
                    false => f64::NEG_INFINITY,
                }),
        )
    }

    fn goes_on(&self, tree: &Tree) -> bool {
        let now = simulation(tree.candidates(NodeId::ROOT));
        let visit = |at: usize| self.considered_visits.get(at);
        now > 0 && visit(now) == visit(now - 1)
    }
}

/// The number of the simulation that is about to begin.
fn simulation(root: &[Candidate]) -> usize {
    root.iter().map(|c| c.visits as usize).sum()
}

fn best_considered(
    visit: u32,
    noise: &[f64],
    candidates: &[Candidate],
    q_values: &[f64],
) -> Option<usize> {
    let highest = candidates
        .iter()
        .map(|c| c.prior_logit)
        .fold(f64::NEG_INFINITY, f64::max);
    let scores = candidates
        .iter()
        .zip(noise)
        .zip(q_values)
        .map(|((c, noise), q)| match c.is_valid() && c.visits == visit {
            true => (noise + c.prior_logit - highest + q).max(LOW_LOGIT),
            false => f64::NEG_INFINITY,
        });
    argmax(scores)
}

/// Q-values become weights in proportion to `softmax(prior_logit + q)`, the highest 1; returns their sum.
fn weigh(candidates: &[Candidate], q_values: &mut [f64]) -> f64 {
    let mut highest = f64::NEG_INFINITY;
    for (candidate, q) in candidates.iter().zip(q_values.iter_mut()) {
        *q += candidate.prior_logit;
        highest = highest.max(*q);
    }
    let mut total = 0.0;
    for q in q_values.iter_mut() {
        // What is smaller than the last bit of the sum is not worth an exponential.
        *q = match *q - highest {
            far if far < -50.0 => 0.0,
            near => near.exp(),
        };
        total += *q;
    }
    total
}

/// The visits that a considered action has, by simulation: sequential halving (Karnin et al. 2013, "Almost
/// optimal exploration in multi-armed bandits") of `considered` actions.
fn considered_visits(considered: usize, num_simulations: usize) -> Vec<u32> {
    if considered <= 1 {
        return (0..num_simulations as u32).collect();
    }
    let phases = considered.next_power_of_two().ilog2() as usize;
    let mut sequence = Vec::with_capacity(num_simulations);
    let (mut left, mut visits) = (considered, 0);
    while sequence.len() < num_simulations {
        let rounds = (num_simulations / (phases * left)).max(1);
        for _ in 0..rounds {
            sequence.extend(std::iter::repeat_n(visits, left));
            visits += 1;
        }
        left = (left / 2).max(2);
    }
    sequence.truncate(num_simulations);
    sequence
}
