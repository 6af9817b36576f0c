//! What the reference would say now: the measurements behind the diagnoses.

use anyhow::Result;
use socratiq_agents::kernels::{Buffer, log_sum_exp, parallel};
use socratiq_agents::model::{Adapters, Batch, Decoder, Tape};

use super::example::{Completion, Example};
use super::forest::Forest;

/// A few chosen completions with the reference's distribution over the whole vocabulary at each of their
/// scored tokens, kept from before training.
#[derive(Debug)]
pub struct Probe {
    batch: Batch,
    /// log π_ref, `[R, V]`.
    reference: Buffer,
    /// Which of the scored tokens end a turn.
    ends: Vec<usize>,
    completions: usize,
}

/// What a probe finds, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// `Σ_t` `KL(π_ref` ‖ π) of a completion, in the mean. Times −β it is the reward that the reference's own
    /// answers must have: Eq. 16 of 2404.12358.
    pub divergence: f64,
    /// `Σ_t` log `π/π_ref` of a completion, in the mean.
    pub log_ratio: f64,
    /// How many tokens a completion has, in the mean.
    pub tokens: f64,
    /// log `π/π_ref` of the tokens that end turns, in the mean: below 0, turns get longer.
    pub end_of_turn: f64,
}

/// Scored tokens that a probe has at most: each costs a row of the vocabulary.
const LARGEST: usize = 256;

impl Probe {
    /// A probe of the desirable completions among `examples`, as many as fit; where none does, of the beginning of the
    /// first.
    ///
    /// # Errors
    /// When none fits the model.
    pub fn new(
        examples: &[Example],
        decoder: &Decoder,
        adapters: Adapters,
    ) -> Result<Option<Self>> {
        let mut chosen: Vec<&Completion> = Vec::new();
        let mut scored = 0;
        for completion in best_of(examples) {
            if scored + completion.num_scored() <= LARGEST {
                scored += completion.num_scored();
                chosen.push(completion);
            }
        }
        let beginning = match (chosen.is_empty(), best_of(examples).next()) {
            (true, Some(long)) => Some(long.beginning(LARGEST)),
            _ => None,
        };
        chosen.extend(&beginning);
        if chosen.is_empty() {
            return Ok(None);
        }
        let forest = Forest::plant(chosen.iter().copied())?;
        let ends = chosen
            .iter()
            .zip(&forest.scored)
            .flat_map(|(completion, scored)| {
                let mut end = 0;
                let ends = completion.turns.iter().map(move |turn| {
                    end += turn.end - turn.start;
                    scored[end - 1] as usize
                });
                // What was cut off has no end.
                ends.take(completion.turns.len() - usize::from(completion.cut))
            });
        let ends = ends.collect();
        let mut reference = decoder.logits(&forest.batch, adapters, &mut Tape::default())?;
        for row in reference.chunks_mut(decoder.config().vocab_size) {
            let total = log_sum_exp(row);
            row.iter_mut().for_each(|logit| *logit -= total);
        }
        Ok(Some(Self {
            batch: forest.batch,
            reference,
            ends,
            completions: chosen.len(),
        }))
    }

    /// How far the policy has moved.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn measure(&self, policy: &Decoder, tape: &mut Tape) -> Result<Drift> {
        let vocabulary = policy.config().vocab_size;
        let logits = policy.logits(&self.batch, Adapters::On, tape)?;
        // KL(π_ref ‖ π) and log π/π_ref of the token, by row.
        let rows = parallel::map(self.batch.scored.len(), |row| {
            let numbers = row * vocabulary..(row + 1) * vocabulary;
            let (policy, reference) = (&logits[numbers.clone()], &self.reference[numbers]);
            let total = log_sum_exp(policy);
            let terms = policy
                .iter()
                .zip(reference)
                .map(|(p, r)| f64::from(r.exp() * (r - (p - total))));
            let token = self.batch.scored[row].target as usize;
            let ratio = f64::from(policy[token] - total - reference[token]);
            (terms.sum::<f64>(), ratio)
        });
        let divergence: f64 = rows.iter().map(|(divergence, _)| divergence).sum();
        let ratios: Vec<f64> = rows.into_iter().map(|(_, ratio)| ratio).collect();
        let ends: f64 = self.ends.iter().map(|end| ratios[*end]).sum();
        let completions = self.completions as f64;
        Ok(Drift {
            divergence: divergence / completions,
            log_ratio: ratios.iter().sum::<f64>() / completions,
            tokens: ratios.len() as f64 / completions,
            end_of_turn: ends / self.ends.len().max(1) as f64,
        })
    }
}

/// The desirable completions.
fn best_of(examples: &[Example]) -> impl Iterator<Item = &Completion> {
    examples.iter().flat_map(|example| {
        let all = example.completions.iter().zip(&example.desirable);
        all.filter(|(_, good)| **good).map(|(best, _)| best)
    })
}
