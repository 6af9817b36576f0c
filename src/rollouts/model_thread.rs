//! `ModelThread`: one owner of a language model that writes the turns of many dialogues side by side.
//!
//! Batching is continuous: a dialogue joins between two steps, whenever its turn comes, and leaves when the
//! turn is over. What it gets does not depend on its company, to the last bit.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result};
use futures::channel::oneshot;
use socratiq_agents::model::{Adapters, Decoder};
use socratiq_agents::{AgentError, Codec, Generator, LanguageModel, Live};
use socratiq_envs::{
    AgentId, EnvError, EpisodeSeed, Message, Observation, Policy, Stream, TokenRecord, async_trait,
};

use crate::Planner;

/// A handle to the thread. The thread ends when its last handle and policy are dropped.
#[derive(Clone)]
pub struct ModelThread {
    requests: Sender<Turn>,
    decoder: Arc<Decoder>,
    codec: Arc<dyn Codec>,
}

/// A turn to be written.
struct Turn {
    live: Live,
    planner: Planner,
    stream: Stream,
    /// The longest turn, in tokens.
    max_tokens: usize,
    answer: oneshot::Sender<Result<Live, AgentError>>,
}

impl ModelThread {
    /// Starts a thread for the policy of `decoder`, its adapters on.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(decoder: Arc<Decoder>, codec: Arc<dyn Codec>) -> Result<Self> {
        let (requests, turns) = channel();
        let generator = Generator::new(decoder.clone(), codec.clone(), Adapters::On);
        thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || serve(generator, &turns))
            .context("cannot start a thread for the model")?;
        Ok(Self {
            requests,
            decoder,
            codec,
        })
    }

    /// Starts a thread for a whole model.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn of(model: &LanguageModel) -> Result<Self> {
        Self::start(model.decoder.clone(), model.codec.clone())
    }

    /// The model's words.
    pub fn codec(&self) -> &Arc<dyn Codec> {
        &self.codec
    }

    /// A policy that plays one episode at a time. Turns have at most `max_tokens` tokens; `sample` tells tries
    /// at the same episode apart.
    pub fn policy(&self, planner: Planner, max_tokens: usize, sample: u32) -> ModelPolicy {
        ModelPolicy {
            model: self.clone(),
            planner,
            max_tokens: max_tokens.max(1),
            purpose: match sample {
                0 => "policy".to_owned(),
                sample => format!("policy, sample {sample}"),
            },
            seed: EpisodeSeed::default(),
            turn: 0,
            history: Vec::new(),
            live: None,
        }
    }

    /// Has a turn written.
    async fn write(
        &self,
        live: Live,
        planner: Planner,
        stream: Stream,
        max_tokens: usize,
    ) -> socratiq_envs::Result<Live> {
        // A turn ends, at the latest, where the context does.
        let (tokens, limit) = (live.state().len(), self.decoder.config().context_length);
        let left = limit.saturating_sub(tokens);
        if left == 0 {
            return Err(failed(AgentError::ContextOverflow {
                tokens: tokens + 1,
                limit,
            }));
        }
        let (answer, written) = oneshot::channel();
        let gone = || EnvError::Invalid("the model's thread has stopped".to_owned());
        self.requests
            .send(Turn {
                live,
                planner,
                stream,
                max_tokens: max_tokens.min(left),
                answer,
            })
            .map_err(|_| gone())?;
        written.await.map_err(|_| gone())?.map_err(failed)
    }
}

fn failed(error: AgentError) -> EnvError {
    EnvError::failed("the model", error)
}

/// Writes turns until nobody is left to ask for any.
fn serve(mut generator: Generator, turns: &Receiver<Turn>) {
    let mut writing: Vec<Writing> = Vec::new();
    loop {
        // 1. Whoever waits joins.
        if writing.is_empty() {
            let Ok(turn) = turns.recv() else { return };
            begin(turn, &mut writing);
        }
        turns.try_iter().for_each(|turn| begin(turn, &mut writing));
        // 2. Nobody waits for the turns of an episode that was given up.
        writing.retain(|turn| !turn.answer.is_canceled());
        // 3. Everyone gets a token.
        let mut dialogues: Vec<&mut Live> = writing.iter_mut().map(|turn| &mut turn.live).collect();
        match generator.step(&mut dialogues) {
            Ok(finished) => {
                let mut finished = finished.into_iter();
                let is_over = |_: &mut Writing| finished.next().flatten().is_some();
                for turn in writing.extract_if(.., is_over) {
                    // Who no longer waits needs no answer.
                    let _ = turn.answer.send(Ok(turn.live));
                }
            }
            // Turns that are too long are refused before they begin; what is left concerns the model itself.
            Err(error) => {
                let error = error.to_string();
                for turn in writing.drain(..) {
                    let _ = turn.answer.send(Err(AgentError::Encoding(error.clone())));
                }
            }
        }
    }
}

/// A turn in the batch.
struct Writing {
    live: Live,
    answer: oneshot::Sender<Result<Live, AgentError>>,
}

/// Lets a turn join the batch; a planner that does not go token by token writes its whole turn here, alone.
fn begin(turn: Turn, writing: &mut Vec<Writing>) {
    let Turn {
        mut live,
        planner,
        stream,
        max_tokens,
        answer,
    } = turn;
    match planner {
        Planner::Tokens(sampling) => {
            live.begin_turn(sampling, stream, max_tokens);
            writing.push(Writing { live, answer });
        }
    }
}

/// A language model as a policy.
pub struct ModelPolicy {
    model: ModelThread,
    planner: Planner,
    max_tokens: usize,
    /// What its random numbers are for.
    purpose: String,
    seed: EpisodeSeed,
    /// Turns that it has begun in this episode.
    turn: u32,
    history: Vec<Message>,
    live: Option<Live>,
}

#[async_trait]
impl Policy for ModelPolicy {
    async fn begin(&mut self, seed: EpisodeSeed) -> socratiq_envs::Result<()> {
        self.seed = seed;
        self.turn = 0;
        self.history.clear();
        self.live = Some(Live::new(&self.model.decoder));
        Ok(())
    }

    async fn act(&mut self, observation: &Observation) -> socratiq_envs::Result<Message> {
        if observation.agent != AgentId::SOLO {
            return Err(failed(AgentError::OtherAgent {
                agent: observation.agent.0,
            }));
        }
        let mut live = self.live.take().ok_or(EnvError::NotReset)?;
        let (codec, tools) = (&self.model.codec, &observation.tools);
        let prompt = codec
            .encode_observation(&self.history, &observation.messages, tools, true)
            .map_err(failed)?;
        live.observe(&prompt, &self.model.decoder);
        self.history.extend_from_slice(&observation.messages);
        self.turn += 1;
        let stream = self.seed.stream(self.turn, &self.purpose);
        let live = self
            .model
            .write(live, self.planner, stream, self.max_tokens)
            .await?;
        let action = codec.decode_action(live.turn()).map_err(failed)?;
        self.history.push(action.clone());
        self.live = Some(live);
        Ok(action)
    }

    fn token_records(&self) -> Vec<TokenRecord> {
        self.live.as_ref().map(Live::records).unwrap_or_default()
    }
}

impl fmt::Debug for ModelThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelThread")
            .field("decoder", &self.decoder)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ModelPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelPolicy")
            .field("planner", &self.planner)
            .field("seed", &self.seed)
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}
