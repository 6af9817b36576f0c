//! Monte-Carlo tree search over tokens: one search for every token of the turn.
//!
//! A state's candidates are its likeliest tokens, their priors the policy's. Rewards are the terms of the
//! objective, and the value of every state is 0: under them that is the soft value, because
//! `log Σ_a exp(log π) = 0` for the likelihood and `log Σ_a π_ref exp(log π/π_ref) = 0` for the log-ratio
//! (arXiv 2404.12358, Eqs. 6 and 10). A given value enters as the difference that a step makes, which shapes the
//! reward and leaves the optimum as it is (Definition 1).

use socratiq_envs::Stream;

use super::{Guide, LogProbs, Models, Planned, TurnPlanner, missing};
use crate::error::{AgentError, Result};
use crate::generate::{Generator, Live};
use crate::planning::draft::Draft;
use crate::planning::gumbel::Gumbel;
use crate::planning::objective::Objective;
use crate::planning::puct::{Puct, argmax};
use crate::planning::search::{Evaluator, Leaf};
use crate::planning::tree::{Evaluation, NodeId, Tree};

/// Which search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TreeSearch {
    /// MuZero's.
    Puct(Puct),
    /// Sequential halving with Gumbel noise.
    Gumbel(Gumbel),
}

/// A tree search before every token.
#[derive(Clone, Debug)]
pub struct MctsPlanner {
    /// The search.
    pub search: TreeSearch,
    /// What is maximised; a length-normalised likelihood has no terms that add up, and is refused.
    pub objective: Objective,
    /// How many of a state's tokens can follow: the likeliest.
    pub candidates: usize,
    /// The values of [`Objective::ValueGuided`].
    pub guide: Option<Guide>,
}

impl TurnPlanner for MctsPlanner {
    fn write_turn(
        &self,
        models: &mut Models<'_>,
        live: &mut Live,
        mut stream: Stream,
        max_tokens: usize,
    ) -> Result<Planned> {
        if self.objective == Objective::LengthNormalised {
            return Err(AgentError::Planning(
                "a length-normalised score has no terms that add up over tokens: use beam or best-of".to_owned(),
            ));
        }
        let codec = models.policy.codec().clone();
        let state = live.state().ids().to_vec();
        let mut draft = live.draft();
        let mut reference = match self.objective.needs_reference() {
            true => Some(models.reference()?.draft(&state)),
            false => None,
        };
        let (mut score, mut first_tree) = (0.0, None);
        let max_tokens = max_tokens.max(1);
        while draft.turn().len() < max_tokens
            && (draft.turn().is_empty() || !(models.interrupted)())
        {
            let mut evaluator = TokenEvaluator {
                planner: self,
                state: &state,
                policy: &mut *models.policy,
                reference: models.reference.as_deref_mut(),
                nodes: Vec::new(),
            };
            let left = max_tokens - draft.turn().len();
            let root = evaluator.root(draft, reference)?;
            let (tree, slot) =
                self.search(&root, left, &mut evaluator, &mut stream, models.interrupted)?;
            let slot = slot.ok_or_else(|| missing("a token that may follow"))?;
            let token = root.candidates[slot].0;
            let term;
            (draft, reference, term) = evaluator
                .into_next(token, slot)
                .ok_or_else(|| missing("a token that may follow"))?;
            score += term;
            first_tree.get_or_insert(tree);
            if codec.is_end_of_turn(token) {
                break;
            }
        }
        Ok(Planned {
            finish: live.adopt(draft, &*codec),
            score,
            objective: self.objective,
            tree: first_tree,
        })
    }

    fn needs_reference(&self) -> bool {
        self.objective.needs_reference()
    }
}

impl MctsPlanner {
    /// Only the search before the first token of a turn of at most `max_tokens` tokens; the turn is not written.
    ///
    /// # Errors
    /// As [`TurnPlanner::write_turn`].
    pub fn search_first(
        &self,
        models: &mut Models<'_>,
        live: &mut Live,
        mut stream: Stream,
        max_tokens: usize,
    ) -> Result<Tree> {
        let state = live.state().ids().to_vec();
        let reference = match self.objective.needs_reference() {
            true => Some(models.reference()?.draft(&state)),
            false => None,
        };
        let mut evaluator = TokenEvaluator {
            planner: self,
            state: &state,
            policy: &mut *models.policy,
            reference: models.reference.as_deref_mut(),
            nodes: Vec::new(),
        };
        let root = evaluator.root(live.draft(), reference)?;
        let left = max_tokens.max(1);
        let (tree, _) =
            self.search(&root, left, &mut evaluator, &mut stream, models.interrupted)?;
        Ok(tree)
    }

    /// One search: its tree, and which of the root's candidates to take.
    fn search(
        &self,
        root: &Evaluation,
        left: usize,
        evaluator: &mut TokenEvaluator<'_>,
        stream: &mut Stream,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<(Tree, Option<usize>)> {
        let count = root.candidates.len();
        let depth =
            |max_depth: Option<usize>| Some(max_depth.map_or(left, |depth| depth.min(left)));
        let (tree, slot) = match self.search {
            TreeSearch::Puct(mut puct) => {
                puct.max_depth = depth(puct.max_depth);
                let root = match puct.dirichlet_fraction > 0.0 {
                    true => puct.with_noise(root, &puct.noise(count, stream)),
                    false => root.clone(),
                };
                let tree = puct.search(&root, evaluator, interrupted)?;
                let slot = puct.choose(&tree, stream);
                (tree, slot)
            }
            TreeSearch::Gumbel(mut gumbel) => {
                gumbel.max_depth = depth(gumbel.max_depth);
                let noise = gumbel.noise(count, stream);
                let tree = gumbel.search(root, &noise, evaluator, interrupted)?;
                let slot = gumbel.choose(&tree, &noise);
                (tree, slot)
            }
        };
        // Interrupted before the first simulation: the policy's own choice.
        let slot = match tree.len() {
            1 => argmax(tree.candidates(NodeId::ROOT).iter().map(|c| c.prior_logit)),
            _ => slot,
        };
        Ok((tree, slot))
    }
}

/// A language model as the world of a search.
struct TokenEvaluator<'a> {
    planner: &'a MctsPlanner,
    /// The dialogue before the turn.
    state: &'a [u32],
    policy: &'a mut Generator,
    reference: Option<&'a mut Generator>,
    /// By node of the tree.
    nodes: Vec<State>,
}

struct State {
    /// None after an end of turn, where nothing is read.
    draft: Option<Draft>,
    reference: Option<Draft>,
    /// Of every candidate: its log-probability in nats, and its term of the objective.
    steps: Vec<(f64, f64)>,
}

impl TokenEvaluator<'_> {
    /// Makes the turn so far the root.
    fn root(&mut self, draft: Draft, reference: Option<Draft>) -> Result<Evaluation> {
        let mut root = [State {
            draft: Some(draft),
            reference,
            steps: Vec::new(),
        }];
        let evaluations = self.read(&mut root)?;
        self.nodes.extend(root);
        Ok(evaluations.into_iter().next().unwrap_or_default())
    }

    /// The root after the search, with one more token: its log-probability's and the objective's terms are those
    /// of its candidate.
    fn into_next(self, token: u32, slot: usize) -> Option<(Draft, Option<Draft>, f64)> {
        let State {
            draft,
            mut reference,
            steps,
        } = self.nodes.into_iter().next()?;
        let (mut draft, (logprob, term)) = (draft?, steps[slot]);
        draft.push(token, logprob);
        if let Some(reference) = &mut reference {
            reference.push(token, logprob);
        }
        Some((draft, reference, term))
    }

    /// Reads the states that have something to read, all together, and says what may follow.
    fn read(&mut self, states: &mut [State]) -> Result<Vec<Evaluation>> {
        let vocabulary = self.policy.decoder().config().vocab_size;
        let turns: Vec<Option<Vec<u32>>> = states
            .iter()
            .map(|s| s.draft.as_ref().map(Draft::ids))
            .collect();
        let mut steps = Vec::new();
        {
            let (mut drafts, mut references) = (Vec::new(), Vec::new());
            for state in states.iter_mut() {
                drafts.extend(&mut state.draft);
                references.extend(&mut state.reference);
            }
            if drafts.is_empty() {
                return Ok(vec![Evaluation::default(); states.len()]);
            }
            let logits = self.policy.read(&mut drafts)?;
            let rows = LogProbs::rows(logits, vocabulary, self.planner.candidates.max(1))?;
            let reference_rows = match (&mut self.reference, references.is_empty()) {
                (Some(reference), false) => {
                    LogProbs::rows(reference.read(&mut references)?, vocabulary, 0)?
                }
                _ => Vec::new(),
            };
            for (at, (policy, tokens)) in rows.into_iter().enumerate() {
                let reference = reference_rows.get(at);
                steps.push(
                    tokens
                        .into_iter()
                        .map(|token| {
                            let reference = reference.map_or(0.0, |(r, _)| r.of(token));
                            (token, policy.of(token), reference)
                        })
                        .collect::<Vec<_>>(),
                );
            }
        }
        let mut steps = steps.into_iter();
        let mut evaluations = Vec::with_capacity(states.len());
        for (state, turn) in states.iter_mut().zip(turns) {
            let (Some(turn), true) = (turn, state.draft.is_some()) else {
                evaluations.push(Evaluation::default());
                continue;
            };
            let steps = steps.next().unwrap_or_default();
            let mut prefix = [self.state, &turn].concat();
            for (token, logprob, reference) in &steps {
                let term = self.term(&mut prefix, *token, *logprob, *reference)?;
                state.steps.push((*logprob, term));
            }
            evaluations.push(Evaluation {
                candidates: steps
                    .iter()
                    .map(|(token, logprob, _)| (*token, *logprob))
                    .collect(),
                ..Evaluation::default()
            });
        }
        Ok(evaluations)
    }

    /// The term of the objective for `token` after `prefix`.
    fn term(&self, prefix: &mut Vec<u32>, token: u32, logprob: f64, reference: f64) -> Result<f64> {
        Ok(match self.planner.objective {
            Objective::Likelihood | Objective::LengthNormalised => logprob,
            Objective::LogRatio => logprob - reference,
            Objective::ValueGuided => {
                let guide = self.planner.guide.as_ref();
                let guide = guide.ok_or_else(|| missing("a value function"))?;
                let before = (guide.value)(prefix)?;
                prefix.push(token);
                let after = (guide.value)(prefix);
                prefix.pop();
                after? - before + guide.beta * reference
            }
        })
    }
}

impl Evaluator for TokenEvaluator<'_> {
    fn evaluate(&mut self, tree: &Tree, leaves: &[Leaf]) -> Result<Vec<Evaluation>> {
        let codec = self.policy.codec().clone();
        let mut states = Vec::with_capacity(leaves.len());
        let mut rewards = Vec::with_capacity(leaves.len());
        for leaf in leaves {
            let candidates = tree.candidates(leaf.parent);
            let slot = candidates.iter().position(|c| c.action == leaf.action);
            let parent = &mut self.nodes[leaf.parent.index()];
            let (logprob, term) = parent.steps[slot.unwrap_or_default()];
            rewards.push(term);
            let ends = codec.is_end_of_turn(leaf.action);
            let next = |draft: &mut Option<Draft>| {
                draft.as_mut().filter(|_| !ends).map(|draft| {
                    let mut draft = draft.fork();
                    draft.push(leaf.action, logprob);
                    draft
                })
            };
            states.push(State {
                draft: next(&mut parent.draft),
                reference: next(&mut parent.reference),
                steps: Vec::new(),
            });
        }
        let mut evaluations = self.read(&mut states)?;
        for (evaluation, reward) in evaluations.iter_mut().zip(rewards) {
            evaluation.reward = reward;
            evaluation.discount = 1.0;
        }
        self.nodes.extend(states);
        Ok(evaluations)
    }
}
