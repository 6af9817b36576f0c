//! A scored pair as one line of JSON.

use serde::Serialize;
use socratiq_agents::chat::Tokenizer;
use socratiq_agents::credit;

use super::{Scored, ScoredPair};

/// The line of a pair.
///
/// Entry t of every list is about token t given the tokens before it. The first token has no log-probability,
/// and a token that is not the agent's no implicit reward: both are null.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    index: usize,
    chosen: Side,
    rejected: Side,
    margin: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Side {
    ids: Vec<u32>,
    tokens: Vec<String>,
    action: Vec<u8>,
    logprob: Vec<Option<f64>>,
    reference_logprob: Vec<Option<f64>>,
    implicit_reward: Vec<Option<f64>>,
    #[serde(rename = "return")]
    return_: f64,
    /// Only where alternatives were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    advantage: Vec<Option<f64>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alternatives: Vec<Option<Vec<Alternative>>>,
}

#[derive(Clone, Debug, Serialize)]
struct Alternative {
    id: u32,
    token: String,
    logprob: f64,
    reference_logprob: f64,
    implicit_reward: f64,
}

impl Line {
    /// The line of `pair`, with its tokens spelt by `tokenizer`.
    pub fn new(pair: &ScoredPair, tokenizer: &Tokenizer) -> Self {
        Self {
            index: pair.index,
            margin: pair.margin(),
            chosen: Side::new(&pair.chosen, tokenizer),
            rejected: Side::new(&pair.rejected, tokenizer),
        }
    }

    /// The same with `advantage` and `alternatives` of each of the agent's tokens.
    #[must_use]
    pub fn with_alternatives(mut self, pair: &ScoredPair, tokenizer: &Tokenizer) -> Self {
        self.chosen.compare(&pair.chosen, tokenizer);
        self.rejected.compare(&pair.rejected, tokenizer);
        self
    }
}

impl Side {
    fn new(scored: &Scored, tokenizer: &Tokenizer) -> Self {
        let ids = scored.ids();
        Self {
            tokens: tokenizer.pieces(&ids),
            ids,
            action: scored.action().into_iter().map(u8::from).collect(),
            logprob: scored.logprob.clone(),
            reference_logprob: scored.reference_logprob.clone(),
            implicit_reward: scored.credit.implicit_reward.clone(),
            return_: scored.credit.total(),
            advantage: Vec::new(),
            alternatives: Vec::new(),
        }
    }

    fn compare(&mut self, scored: &Scored, tokenizer: &Tokenizer) {
        let spelt = |alternative: &credit::Alternative| Alternative {
            id: alternative.id,
            token: tokenizer.pieces(&[alternative.id]).concat(),
            logprob: alternative.logprob,
            reference_logprob: alternative.reference_logprob,
            implicit_reward: alternative.implicit_reward,
        };
        let choices = || scored.choices.iter().map(Option::as_ref);
        self.advantage = choices().map(|choices| choices?.advantage).collect();
        self.alternatives = choices()
            .map(|choices| Some(choices?.alternatives.iter().map(spelt).collect()))
            .collect();
    }
}
