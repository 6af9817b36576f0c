//! One update's arithmetic: completions to log-probabilities, to sums, to a loss, and back to gradients.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor, Var};
use socratiq_agents::model::{
    Adapters, Decoder, DivergenceSlopes, Gradients, Keep, Snapshot, Tape,
};

use super::example::{Completion, Example, Turn};
use super::forest::{Forest, num_tokens, pack};
use crate::objective::weights::TokenWeights;
use crate::objective::{Group, Kind, Objective, Scores, Totals};

/// An example with everything that its loss is a function of, but the policy.
#[derive(Clone, Debug)]
pub struct Item {
    /// The tokens.
    pub example: Example,
    /// What each scored token counts, by completion.
    pub weights: Vec<TokenWeights>,
    /// The reference's log-probability of each scored token, by completion; empty where it is not needed.
    pub reference: Vec<Vec<f32>>,
}

/// A reference that can be asked.
#[derive(Clone, Copy, Debug)]
pub enum LiveReference<'a> {
    /// The policy without its adapters.
    AdaptersOff,
    /// A model of its own.
    Model(&'a Decoder),
}

/// What an update, or an evaluation, came to: one entry per completion, in the order of its items.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The loss.
    pub loss: f64,
    /// Σ w log π.
    pub policy: Vec<f64>,
    /// Σ w log π_ref; zeros where there is no reference.
    pub reference: Vec<f64>,
    /// KTO's reference point.
    pub baseline: f64,
    /// Tokens of all sequences, shared ones counted each time.
    pub tokens: usize,
    /// Tokens that were computed.
    pub computed: usize,
}

/// A policy that is trained, with the memory that this takes.
#[derive(Debug)]
pub struct Learner {
    /// The policy.
    pub policy: Decoder,
    /// The gradient of the update so far.
    pub gradients: Gradients,
    /// What the forward pass leaves for the backward pass.
    tape: Tape,
    reference_tape: Tape,
    keep: Keep,
    tokens_per_batch: usize,
}

impl Learner {
    /// Nothing accumulated yet.
    pub fn new(policy: Decoder, keep: Keep, tokens_per_batch: usize) -> Self {
        Self {
            gradients: Gradients::zeros(&policy),
            policy,
            tape: Tape::default(),
            reference_tape: Tape::default(),
            keep,
            tokens_per_batch,
        }
    }

    /// Adds the gradient of the items' loss to [`Self::gradients`]. `dropout` is the key of the adapters'
    /// dropout.
    ///
    /// Parts that fit into memory are computed one after the other. Where the loss of one part depends on
    /// the others, all are computed forward first, and the loss is taken over the whole.
    ///
    /// # Errors
    /// When an item does not fit the model.
    pub fn accumulate(
        &mut self,
        objective: &Objective,
        items: &[Item],
        live: Option<LiveReference<'_>>,
        dropout: u64,
    ) -> Result<Outcome> {
        self.tape.dropout = dropout;
        let parts = self.parts(items)?;
        let mut outcome = Outcome::new(items);
        outcome.baseline = self.baseline(objective, items, live)?;
        outcome.computed = parts.iter().map(|part| part.forest.batch.len()).sum();
        let totals = totals(items);

        let mut ahead = None;
        if objective.kind.any(Kind::couples_pairs) && parts.len() > 1 {
            let divergence = self.sums(objective, items, &parts, live, true, &mut outcome)?;
            let all: Vec<&Item> = items.iter().collect();
            let sums = Sums {
                policy: &outcome.policy,
                divergence: &divergence,
                baseline: outcome.baseline,
            };
            ahead = Some(loss(objective, &all, sums, &totals)?);
        }
        for part in &parts {
            // 1. Forward.
            let logprobs = self.forward(part)?;
            part.record(items, &logprobs, &mut outcome);
            let snapshot = self.snapshot(objective, part, live)?;
            let divergence = self.divergence(snapshot.as_ref(), part, live);
            // 2. The loss as a function of sums over completions, and its slopes.
            let slopes = if let Some((whole, slopes)) = &ahead {
                outcome.loss = *whole;
                Slopes {
                    policy: part.of(&slopes.policy),
                    divergence: part.of(&slopes.divergence),
                }
            } else {
                let sums = Sums {
                    policy: &part.of(&outcome.policy),
                    divergence: &divergence,
                    baseline: outcome.baseline,
                };
                let (own, slopes) = loss(objective, &part.items(items), sums, &totals)?;
                outcome.loss += own;
                slopes
            };
            // 3. Backward.
            let by_divergence = part.spread(&slopes.divergence);
            let slopes = part.token_slopes(items, &slopes.policy);
            let (policy, batch) = (&self.policy, &part.forest.batch);
            let by_divergence = snapshot.as_ref().map(|snapshot| DivergenceSlopes {
                decoder: reference_decoder(policy, live),
                snapshot,
                slopes: &by_divergence,
            });
            policy.backward_with(
                batch,
                &slopes,
                by_divergence,
                &mut self.tape,
                &mut self.gradients,
            );
        }
        Ok(outcome)
    }

    /// The items' loss, and nothing else changes.
    ///
    /// # Errors
    /// When an item does not fit the model.
    pub fn evaluate(
        &mut self,
        objective: &Objective,
        items: &[Item],
        live: Option<LiveReference<'_>>,
    ) -> Result<Outcome> {
        let parts = self.parts(items)?;
        let mut outcome = Outcome::new(items);
        outcome.baseline = self.baseline(objective, items, live)?;
        outcome.computed = parts.iter().map(|part| part.forest.batch.len()).sum();
        let divergence = self.sums(objective, items, &parts, live, false, &mut outcome)?;
        let all: Vec<&Item> = items.iter().collect();
        let totals = totals(items);
        let sums = Sums {
            policy: &outcome.policy,
            divergence: &divergence,
            baseline: outcome.baseline,
        };
        (outcome.loss, _) = loss(objective, &all, sums, &totals)?;
        Ok(outcome)
    }

    /// Fails unless a gradient reaches every trainable parameter; leaves the gradient at zero. Returns how
    /// many tokens the items have, shared ones counted each time.
    ///
    /// # Errors
    /// With the names of parameters that no gradient reaches.
    pub fn check_gradient_flow(&mut self, items: &[Item]) -> Result<usize> {
        for part in self.parts(items)? {
            let count = self.forward(&part)?.len();
            let ones = vec![1.0; count];
            self.policy.backward(
                &part.forest.batch,
                &ones,
                &mut self.tape,
                &mut self.gradients,
            );
        }
        self.gradients.check_flow(&self.policy)?;
        self.gradients.clear();
        Ok(Outcome::new(items).tokens)
    }

    /// Forward passes over all parts, with dropout if `to_train`: fills in the outcome's Σ w log π, and returns
    /// the divergence of every completion.
    fn sums(
        &mut self,
        objective: &Objective,
        items: &[Item],
        parts: &[Part],
        live: Option<LiveReference<'_>>,
        to_train: bool,
        outcome: &mut Outcome,
    ) -> Result<Vec<f64>> {
        let mut divergence = vec![0.0; outcome.policy.len()];
        for part in parts {
            let logprobs = if to_train {
                self.forward(part)?
            } else {
                let batch = &part.forest.batch;
                self.policy.logprobs(batch, Adapters::On, &mut self.tape)?
            };
            part.record(items, &logprobs, outcome);
            let snapshot = self.snapshot(objective, part, live)?;
            let own = self.divergence(snapshot.as_ref(), part, live);
            for (index, own) in part.completions.iter().zip(own) {
                divergence[*index] = own;
            }
        }
        Ok(divergence)
    }

    /// What the reference says of a part, if the objective measures divergences from it.
    fn snapshot(
        &mut self,
        objective: &Objective,
        part: &Part,
        live: Option<LiveReference<'_>>,
    ) -> Result<Option<Snapshot>> {
        if !objective.kind.any(Kind::needs_divergence) {
            return Ok(None);
        }
        let adapters = match live {
            Some(LiveReference::AdaptersOff) => Adapters::Off,
            Some(LiveReference::Model(_)) => Adapters::On,
            None => anyhow::bail!("`tdpo1` and `tdpo2` need their reference live"),
        };
        let decoder = reference_decoder(&self.policy, live);
        let batch = &part.forest.batch;
        Ok(Some(decoder.snapshot(
            batch,
            adapters,
            &mut self.reference_tape,
        )?))
    }

    /// `Σ KL(π_ref ‖ π)` over the scored tokens of a part's completions; zeros without a snapshot.
    fn divergence(
        &self,
        snapshot: Option<&Snapshot>,
        part: &Part,
        live: Option<LiveReference<'_>>,
    ) -> Vec<f64> {
        let Some(snapshot) = snapshot else {
            return vec![0.0; part.completions.len()];
        };
        let reference = reference_decoder(&self.policy, live);
        let by_token = self.policy.divergences(reference, snapshot, &self.tape);
        let sum = |scored: &Vec<u32>| {
            let tokens = scored.iter().map(|at| f64::from(by_token[*at as usize]));
            tokens.sum()
        };
        part.forest.scored.iter().map(sum).collect()
    }

    fn forward(&mut self, part: &Part) -> Result<Vec<f32>> {
        let batch = &part.forest.batch;
        Ok(self
            .policy
            .logprobs_to_train(batch, self.keep, &mut self.tape)?)
    }

    fn parts(&self, items: &[Item]) -> Result<Vec<Part>> {
        let size = |item: &Item| num_tokens(item.example.completions.iter());
        let sizes: Vec<usize> = items.iter().map(size).collect();
        let mut first = 0;
        let mut firsts = Vec::with_capacity(items.len());
        for item in items {
            firsts.push(first);
            first += item.example.completions.len();
        }
        pack(&sizes, self.tokens_per_batch)
            .into_iter()
            .map(|indices| Part::new(items, &firsts, indices))
            .collect()
    }

    /// The mean of β-free log-ratios of each prompt with the completion of the next item: KTO's estimate of
    /// KL(π ‖ π_ref), §4.1 of 2402.01306. 0 for other losses.
    fn baseline(
        &mut self,
        objective: &Objective,
        items: &[Item],
        live: Option<LiveReference<'_>>,
    ) -> Result<f64> {
        if !objective.kind.any(|kind| kind == Kind::Kto) {
            return Ok(0.0);
        }
        let completions: Vec<&Completion> = items
            .iter()
            .flat_map(|item| &item.example.completions)
            .collect();
        ensure!(
            completions.len() > 1,
            "`kto` compares prompts with other prompts' answers, and the log has a single one"
        );
        let next = completions.iter().cycle().skip(1);
        let context = self.policy.config().context_length;
        let mixed: Vec<Completion> = completions
            .iter()
            .zip(next)
            .map(|(prompt, answer)| mismatched(prompt, answer, context))
            .collect();
        let mixed: Vec<&Completion> = mixed.iter().collect();
        let mut sums = |decoder: &Decoder, adapters| -> Result<Vec<f64>> {
            let limit = self.tokens_per_batch;
            let logprobs = token_logprobs(decoder, adapters, &mixed, limit, &mut self.tape)?;
            Ok(logprobs
                .iter()
                .map(|tokens| tokens.iter().copied().map(f64::from).sum())
                .collect())
        };
        let policy = sums(&self.policy, Adapters::On)?;
        let reference = match live {
            Some(LiveReference::AdaptersOff) => sums(&self.policy, Adapters::Off)?,
            Some(LiveReference::Model(decoder)) => sums(decoder, Adapters::On)?,
            None => anyhow::bail!("`kto` needs its reference live"),
        };
        let gap: f64 = policy.iter().zip(&reference).map(|(p, r)| p - r).sum();
        Ok((gap / mixed.len() as f64).max(0.0))
    }
}

impl Outcome {
    fn new(items: &[Item]) -> Self {
        let completions = || items.iter().flat_map(|item| &item.example.completions);
        Self {
            policy: vec![0.0; completions().count()],
            reference: items.iter().flat_map(Item::reference_sums).collect(),
            tokens: completions().map(Completion::num_tokens).sum(),
            ..Self::default()
        }
    }
}

impl Item {
    fn reference_sums(&self) -> Vec<f64> {
        if self.reference.is_empty() {
            vec![0.0; self.example.completions.len()]
        } else {
            let pairs = self.weights.iter().zip(&self.reference);
            pairs
                .map(|(weights, logprobs)| weighted(weights, logprobs.iter()))
                .collect()
        }
    }
}

fn weighted<'a>(weights: &TokenWeights, logprobs: impl Iterator<Item = &'a f32>) -> f64 {
    weights
        .factor
        .iter()
        .zip(logprobs)
        .map(|(w, x)| w * f64::from(*x))
        .sum()
}

/// Items that are computed in one pass.
struct Part {
    /// Which of the update's items.
    items: Vec<usize>,
    /// Which of the update's completions, in the order of the forest's.
    completions: Vec<usize>,
    forest: Forest,
}

impl Part {
    fn new(items: &[Item], firsts: &[usize], indices: Vec<usize>) -> Result<Self> {
        let completions = indices
            .iter()
            .flat_map(|index| &items[*index].example.completions);
        let forest = Forest::plant(completions)?;
        let global = |index: &usize| {
            let count = items[*index].example.completions.len();
            firsts[*index]..firsts[*index] + count
        };
        Ok(Self {
            completions: indices.iter().flat_map(global).collect(),
            items: indices,
            forest,
        })
    }

    fn items<'a>(&self, items: &'a [Item]) -> Vec<&'a Item> {
        self.items.iter().map(|index| &items[*index]).collect()
    }

    /// This part's entries of a list over all completions.
    fn of(&self, all: &[f64]) -> Vec<f64> {
        self.completions.iter().map(|index| all[*index]).collect()
    }

    fn weights<'a>(&'a self, items: &'a [Item]) -> impl Iterator<Item = &'a TokenWeights> {
        self.items.iter().flat_map(|index| &items[*index].weights)
    }

    /// Puts this part's sums into the outcome of all.
    fn record(&self, items: &[Item], logprobs: &[f32], outcome: &mut Outcome) {
        let tokens = self.completions.iter().zip(&self.forest.scored);
        for ((index, scored), weights) in tokens.zip(self.weights(items)) {
            let logprobs = scored.iter().map(|at| &logprobs[*at as usize]);
            outcome.policy[*index] = weighted(weights, logprobs);
        }
    }

    /// The slopes by scored tokens of a sum over them, from those by the sums of completions.
    fn spread(&self, slopes: &[f64]) -> Vec<f32> {
        let mut by_token = vec![0.0_f64; self.forest.batch.scored.len()];
        for (slope, scored) in slopes.iter().zip(&self.forest.scored) {
            scored.iter().for_each(|at| by_token[*at as usize] += slope);
        }
        by_token.into_iter().map(|slope| slope as f32).collect()
    }

    /// The slopes by the log-probabilities of scored tokens, from those by the sums of completions. A token
    /// that several completions share gets the sum of theirs.
    fn token_slopes(&self, items: &[Item], slopes: &[f64]) -> Vec<f32> {
        let mut by_token = vec![0.0_f64; self.forest.batch.scored.len()];
        let tokens = slopes.iter().zip(&self.forest.scored);
        for ((slope, scored), weights) in tokens.zip(self.weights(items)) {
            for (at, factor) in scored.iter().zip(&weights.factor) {
                by_token[*at as usize] += slope * factor;
            }
        }
        by_token.into_iter().map(|slope| slope as f32).collect()
    }
}

/// The model that a live reference is.
fn reference_decoder<'a>(policy: &'a Decoder, live: Option<LiveReference<'a>>) -> &'a Decoder {
    match live {
        Some(LiveReference::Model(decoder)) => decoder,
        Some(LiveReference::AdaptersOff) | None => policy,
    }
}

fn totals(items: &[Item]) -> Totals {
    let mut totals = Totals::default();
    for Item {
        example, weights, ..
    } in items
    {
        totals.groups += 1;
        totals.completions += example.completions.len();
        totals.pairs += example.completions.len() - 1;
        let counted = example
            .desirable
            .iter()
            .zip(weights)
            .filter(|(good, _)| **good);
        totals.desirable_tokens += counted.map(|(_, weights)| weights.count).sum::<f64>();
    }
    totals
}

/// What a loss is a function of, by completion.
#[derive(Clone, Copy)]
struct Sums<'a> {
    policy: &'a [f64],
    divergence: &'a [f64],
    baseline: f64,
}

/// The gradient of a loss by its sums.
struct Slopes {
    policy: Vec<f64>,
    divergence: Vec<f64>,
}

/// The loss of `items`, whose completions have the sums `sums`, and its slopes by them.
fn loss(
    objective: &Objective,
    items: &[&Item],
    sums: Sums<'_>,
    totals: &Totals,
) -> Result<(f64, Slopes)> {
    let tensor = |values: Vec<f64>| Tensor::new(values, &Device::Cpu);
    let variable = Var::from_tensor(&tensor(sums.policy.to_vec())?)?;
    let divergence = Var::from_tensor(&tensor(sums.divergence.to_vec())?)?;
    let mut groups = Vec::with_capacity(items.len());
    let mut start = 0;
    for item in items {
        let end = start + item.example.completions.len();
        groups.push(Group {
            completions: start..end,
            margin: item.example.margin,
            weight: item.example.weight,
        });
        start = end;
    }
    let counts = items
        .iter()
        .flat_map(|item| &item.weights)
        .map(|weights| weights.count);
    let scores = Scores {
        policy: variable.as_tensor().clone(),
        reference: tensor(
            items
                .iter()
                .flat_map(|item| item.reference_sums())
                .collect(),
        )?,
        tokens: tensor(counts.collect())?,
        divergence: divergence.as_tensor().clone(),
        desirable: items
            .iter()
            .flat_map(|item| item.example.desirable.clone())
            .collect(),
        groups,
        baseline: sums.baseline,
    };
    let loss = objective.loss(&scores, totals)?;
    let gradients = loss.backward()?;
    let slopes = |variable: &Var| -> Result<Vec<f64>> {
        Ok(match gradients.get(variable) {
            Some(slopes) => slopes.to_vec1()?,
            None => vec![0.0; start],
        })
    };
    let slopes = Slopes {
        policy: slopes(&variable)?,
        divergence: slopes(&divergence)?,
    };
    Ok((loss.to_scalar()?, slopes))
}

/// The log-probability of every scored token, by completion. Nothing is kept for a backward pass.
///
/// # Errors
/// When a completion does not fit the model.
pub fn token_logprobs(
    decoder: &Decoder,
    adapters: Adapters,
    completions: &[&Completion],
    tokens_per_batch: usize,
    tape: &mut Tape,
) -> Result<Vec<Vec<f32>>> {
    let sizes: Vec<usize> = completions
        .iter()
        .map(|completion| num_tokens(std::iter::once(*completion)))
        .collect();
    let mut all = vec![Vec::new(); completions.len()];
    for indices in pack(&sizes, tokens_per_batch) {
        let forest = Forest::plant(indices.iter().map(|index| completions[*index]))?;
        let logprobs = decoder.logprobs(&forest.batch, adapters, tape)?;
        for (index, scored) in indices.iter().zip(&forest.scored) {
            all[*index] = scored.iter().map(|at| logprobs[*at as usize]).collect();
        }
    }
    Ok(all)
}

/// The prompt of one completion with the answer of another, cut at the longest sequence.
fn mismatched(prompt: &Completion, answer: &Completion, longest: usize) -> Completion {
    let (Some(first), Some(other)) = (prompt.turns.first(), answer.turns.first()) else {
        return prompt.clone();
    };
    let prompt = &prompt.sequences[first.sequence][..first.start];
    let mut ids = [prompt, &answer.sequences[other.sequence][other.start..]].concat();
    ids.truncate(longest);
    let moved = |turn: &Turn| Turn {
        sequence: 0,
        start: turn.start - other.start + prompt.len(),
        end: (turn.end - other.start + prompt.len()).min(longest),
        ..*turn
    };
    let own = answer
        .turns
        .iter()
        .filter(|turn| turn.sequence == other.sequence);
    Completion {
        turns: own
            .map(moved)
            .filter(|turn| turn.start < turn.end)
            .collect(),
        sequences: vec![ids],
        cut: false,
    }
}
