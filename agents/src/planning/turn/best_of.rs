//! Best of n: whole turns drawn from the policy, of which the best is said.

use serde::{Deserialize, Serialize};
use socratiq_envs::Stream;

use super::{Models, Planned, TurnPlanner, completion_logprobs, missing};
use crate::error::{AgentError, Result};
use crate::generate::{Generator, Live};
use crate::planning::draft::Draft;
use crate::planning::objective::Objective;
use crate::planning::tree::NodeId;
use crate::planning::trie::Trie;
use crate::sampling::Sampling;

/// Draws n turns and says the one with the best score.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BestOfPlanner {
    /// Turns.
    pub n: usize,
    /// What they are compared by.
    pub score: Objective,
    /// As in [`Sampling`].
    pub temperature: f64,
    /// As in [`Sampling`].
    pub top_k: usize,
    /// As in [`Sampling`].
    pub top_p: f64,
    /// As in [`Sampling`].
    pub min_p: f64,
    /// The power of the length that scores are divided by, for [`Objective::LengthNormalised`].
    pub length_penalty: f64,
}

impl Default for BestOfPlanner {
    fn default() -> Self {
        let Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
        } = Sampling::default();
        Self {
            n: 8,
            score: Objective::LogRatio,
            temperature,
            top_k,
            top_p,
            min_p,
            length_penalty: 1.0,
        }
    }
}

impl BestOfPlanner {
    /// How turns are drawn.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }
}

impl TurnPlanner for BestOfPlanner {
    fn write_turn(
        &self,
        models: &mut Models<'_>,
        live: &mut Live,
        mut stream: Stream,
        max_tokens: usize,
    ) -> Result<Planned> {
        if self.score == Objective::LogRatio {
            models.reference()?;
        }
        let drafts = draw(
            models.policy,
            live.draft(),
            Draws {
                count: self.n.max(1),
                sampling: self.sampling(),
                max_tokens: max_tokens.max(1),
            },
            &mut stream,
            models.interrupted,
        )?;
        // The terms of each turn's score, token by token.
        let mut terms: Vec<Vec<f64>> = drafts
            .iter()
            .map(|draft| draft.turn().iter().map(|(_, logprob)| *logprob).collect())
            .collect();
        match self.score {
            Objective::Likelihood | Objective::LengthNormalised => {}
            Objective::LogRatio => {
                let turns: Vec<Vec<u32>> = drafts.iter().map(Draft::ids).collect();
                let state = live.state().ids();
                let reference = completion_logprobs(models.reference()?, state, &turns)?;
                for (terms, reference) in terms.iter_mut().zip(reference) {
                    for (term, reference) in terms.iter_mut().zip(reference) {
                        *term -= reference;
                    }
                }
            }
            Objective::ValueGuided => {
                return Err(AgentError::Planning(
                    "best-of compares whole turns, where there is no value to be guided by"
                        .to_owned(),
                ));
            }
        }
        let mut trie = Trie::default();
        let mut found: Vec<(NodeId, f64)> = Vec::new();
        for (draft, terms) in drafts.iter().zip(&terms) {
            let node = trie.add_draft(draft, terms);
            let length = match self.score {
                Objective::LengthNormalised => (terms.len() as f64).powf(self.length_penalty),
                _ => 1.0,
            };
            found.push((node, terms.iter().sum::<f64>() / length));
        }
        // The first among equals.
        let (best, score) = (found.iter().enumerate())
            .rev()
            .max_by(|(_, (_, a)), (_, (_, b))| a.total_cmp(b))
            .map(|(place, (_, score))| (place, *score))
            .ok_or_else(|| missing("at least one draw"))?;
        let draft = drafts.into_iter().nth(best);
        let draft = draft.ok_or_else(|| missing("at least one draw"))?;
        Ok(Planned {
            finish: live.adopt(draft, &**models.policy.codec()),
            score,
            objective: self.score,
            tree: Some(trie.into_tree(found)),
        })
    }

    fn needs_reference(&self) -> bool {
        self.score == Objective::LogRatio
    }
}

/// What to draw.
#[derive(Clone, Copy, Debug)]
pub(in crate::planning) struct Draws {
    /// Drafts.
    pub(in crate::planning) count: usize,
    /// How.
    pub(in crate::planning) sampling: Sampling,
    /// Tokens of each at most.
    pub(in crate::planning) max_tokens: usize,
}

/// Draws continuations of `start` side by side, until each ends, is long enough, or `interrupted` says stop.
pub(in crate::planning) fn draw(
    policy: &mut Generator,
    mut start: Draft,
    draws: Draws,
    stream: &mut Stream,
    interrupted: &dyn Fn() -> bool,
) -> Result<Vec<Draft>> {
    let codec = policy.codec().clone();
    let vocabulary = policy.decoder().config().vocab_size;
    let long_enough = start.turn().len() + draws.max_tokens;
    // What is shared is read once; the first tokens come from the same logits.
    let logits = policy.read(&mut [&mut start])?.to_vec();
    let mut drafts: Vec<Draft> = (0..draws.count).map(|_| start.fork()).collect();
    for draft in &mut drafts {
        let choice = draws.sampling.choose(&logits, stream)?;
        draft.push(choice.token, f64::from(choice.logprob));
    }
    loop {
        let mut open: Vec<&mut Draft> = drafts
            .iter_mut()
            .filter(|draft| {
                let last = draft.turn().last();
                draft.turn().len() < long_enough
                    && last.is_some_and(|(token, _)| !codec.is_end_of_turn(*token))
            })
            .collect();
        if open.is_empty() || interrupted() {
            return Ok(drafts);
        }
        let logits = policy.read(&mut open)?;
        for (draft, logits) in open.into_iter().zip(logits.chunks_exact(vocabulary)) {
            let choice = draws.sampling.choose(logits, stream)?;
            draft.push(choice.token, f64::from(choice.logprob));
        }
    }
}
