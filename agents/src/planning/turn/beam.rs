//! Beam search over tokens.

use serde::{Deserialize, Serialize};
use socratiq_envs::Stream;

use super::{Guide, LogProbs, Models, Planned, TurnPlanner, missing};
use crate::error::Result;
use crate::generate::{Generator, Live};
use crate::planning::beam::{BeamRules, Beams, EarlyStopping, Found, Grow, Successor, beam_search};
use crate::planning::draft::{Draft, branch};
use crate::planning::objective::Objective;

/// Beam search; with `objective=length-normalised` the sequences and scores of `transformers`.
///
/// The continuations of a beam are its likeliest tokens under the policy, twice as many as there are beams; the
/// objective ranks them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BeamPlanner {
    /// Beams.
    pub width: usize,
    /// What is maximised.
    pub objective: Objective,
    /// The power of the length that scores are divided by, for [`Objective::LengthNormalised`].
    pub length_penalty: f64,
    /// When to stop.
    pub early_stopping: EarlyStopping,
    /// The values of [`Objective::ValueGuided`].
    #[serde(skip)]
    pub guide: Option<Guide>,
}

impl Default for BeamPlanner {
    fn default() -> Self {
        Self {
            width: 5,
            objective: Objective::Likelihood,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::No,
            guide: None,
        }
    }
}

impl BeamPlanner {
    /// The best turns found, best first, and the tree of all beams.
    ///
    /// # Errors
    /// When a model that the objective needs is not there, or a model fails.
    pub fn search(
        &self,
        models: &mut Models<'_>,
        live: &mut Live,
        max_tokens: usize,
    ) -> Result<Beams<Draft>> {
        let state = live.state().ids().to_vec();
        let reference = match self.objective.needs_reference() {
            true => Some(models.reference()?.draft(&state)),
            false => None,
        };
        let vocabulary = models.policy.decoder().config().vocab_size as u32;
        let codec = models.policy.codec();
        let rules = BeamRules {
            width: self.width,
            length_penalty: match self.objective {
                Objective::LengthNormalised => self.length_penalty,
                _ => 0.0,
            },
            early_stopping: self.early_stopping,
            sums_fall: !self.objective.needs_reference(),
            max_length: max_tokens.max(1),
            ends: (0..vocabulary)
                .filter(|id| codec.is_end_of_turn(*id))
                .count(),
        };
        let start = State {
            draft: live.draft(),
            reference,
            sum: 0.0,
        };
        let mut tokens = Tokens {
            planner: self,
            state,
            policy: &mut *models.policy,
            reference: models.reference.as_deref_mut(),
        };
        let beams = beam_search(&mut tokens, start, rules, models.interrupted)?;
        let drafts = beams.found.into_iter().map(|found| Found {
            state: found.state.draft,
            score: found.score,
            node: found.node,
        });
        Ok(Beams {
            found: drafts.collect(),
            tree: beams.tree,
        })
    }
}

impl TurnPlanner for BeamPlanner {
    fn write_turn(
        &self,
        models: &mut Models<'_>,
        live: &mut Live,
        _stream: Stream,
        max_tokens: usize,
    ) -> Result<Planned> {
        let beams = self.search(models, live, max_tokens)?;
        let best = beams.found.into_iter().next();
        let best = best.ok_or_else(|| missing("a model with a vocabulary"))?;
        Ok(Planned {
            finish: live.adopt(best.state, &**models.policy.codec()),
            score: best.score,
            objective: self.objective,
            tree: Some(beams.tree),
        })
    }

    fn needs_reference(&self) -> bool {
        self.objective.needs_reference()
    }
}

/// A beam.
struct State {
    draft: Draft,
    /// The same tokens as the reference has read them.
    reference: Option<Draft>,
    sum: f64,
}

struct Tokens<'a> {
    planner: &'a BeamPlanner,
    /// The dialogue before the turn.
    state: Vec<u32>,
    policy: &'a mut Generator,
    reference: Option<&'a mut Generator>,
}

impl Grow for Tokens<'_> {
    type State = State;

    fn successors(&mut self, states: &mut [State], count: usize) -> Result<Vec<Vec<Successor>>> {
        let vocabulary = self.policy.decoder().config().vocab_size;
        let codec = self.policy.codec().clone();
        let prefixes: Vec<(f64, Vec<u32>)> =
            states.iter().map(|s| (s.sum, s.draft.ids())).collect();
        let mut references: Vec<&mut Draft> = Vec::new();
        let mut drafts: Vec<&mut Draft> = Vec::new();
        for state in states {
            drafts.push(&mut state.draft);
            references.extend(&mut state.reference);
        }
        let logits = self.policy.read(&mut drafts)?;
        let rows = LogProbs::rows(logits, vocabulary, count)?;
        let reference_rows = match (&mut self.reference, references.is_empty()) {
            (Some(reference), false) => {
                LogProbs::rows(reference.read(&mut references)?, vocabulary, 0)?
            }
            _ => Vec::new(),
        };
        let mut successors = Vec::with_capacity(prefixes.len());
        for (beam, ((sum, turn), (policy, likeliest))) in prefixes.iter().zip(rows).enumerate() {
            let reference = reference_rows.get(beam);
            let mut prefix = [self.state.as_slice(), turn].concat();
            let of_beam = likeliest.into_iter().map(|token| {
                let logprob = policy.of(token);
                let reference = reference.map_or(0.0, |(reference, _)| reference.of(token));
                let sum = match self.planner.objective {
                    Objective::Likelihood | Objective::LengthNormalised => sum + logprob,
                    Objective::LogRatio => sum + logprob - reference,
                    Objective::ValueGuided => {
                        let guide = self.planner.guide.as_ref();
                        let guide = guide.ok_or_else(|| missing("a value function"))?;
                        let before = (guide.value)(&prefix)?;
                        prefix.push(token);
                        let after = (guide.value)(&prefix);
                        prefix.pop();
                        sum + after? - before + guide.beta * reference
                    }
                };
                Ok(Successor {
                    action: token,
                    sum,
                    logprob,
                    ends: codec.is_end_of_turn(token),
                })
            });
            successors.push(of_beam.collect::<Result<_>>()?);
        }
        Ok(successors)
    }

    fn grow(&mut self, states: Vec<State>, chosen: &[(usize, Successor)]) -> Vec<State> {
        let uses: Vec<usize> = chosen.iter().map(|(beam, _)| *beam).collect();
        let (drafts, references): (Vec<Draft>, Vec<Option<Draft>>) =
            states.into_iter().map(|s| (s.draft, s.reference)).unzip();
        let references: Vec<Draft> = references.into_iter().flatten().collect();
        let mut references = match references.is_empty() {
            true => Vec::new(),
            false => branch(references, &uses),
        }
        .into_iter();
        branch(drafts, &uses)
            .into_iter()
            .zip(chosen)
            .map(|(mut draft, (_, successor))| {
                draft.push(successor.action, successor.logprob);
                let mut reference = references.next();
                if let Some(reference) = &mut reference {
                    reference.push(successor.action, 0.0);
                }
                State {
                    draft,
                    reference,
                    sum: successor.sum,
                }
            })
            .collect()
    }
}
