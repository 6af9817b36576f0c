//! Who acts: the other side of the [`Environment`](crate::Environment) contract.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::environment::Observation;
use crate::error::Result;
use crate::message::Message;
use crate::seed::EpisodeSeed;

/// Chooses what to say. One value plays one episode at a time and remembers that episode's dialogue.
///
/// Language models, scripted baselines, remote endpoints and people are all policies, and so are the
/// users that an environment simulates with a language model.
///
/// ```
/// # use socratiq_envs::{Environment, Policy, EpisodeSeed, EnvError};
/// # async fn turn(env: &mut dyn Environment, policy: &mut dyn Policy, seed: EpisodeSeed) -> Result<(), EnvError> {
/// policy.begin(seed).await?;
/// let observation = env.reset(seed).await?;
/// let action = policy.act(&observation).await?;
/// let step = env.step(action).await?; // … and so on with `step.observation`
/// # Ok(()) }
/// ```
#[async_trait]
pub trait Policy: Send {
    /// Forgets the last episode and prepares for the one of `seed`, from which all its draws derive.
    ///
    /// # Errors
    /// When the policy cannot play.
    async fn begin(&mut self, seed: EpisodeSeed) -> Result<()>;

    /// The next action, given what was said since the last one.
    ///
    /// # Errors
    /// When the policy fails; a bad action is no error.
    async fn act(&mut self, observation: &Observation) -> Result<Message>;

    /// The tokens of the episode so far, exactly as read and sampled, where the policy works with tokens:
    /// one record, or several where the chat template changed what came before.
    fn token_records(&self) -> Vec<TokenRecord> {
        Vec::new()
    }

    /// How many tokens models have read in the episode so far, to plan and to choose, those of words that were thought
    /// of and not said included. None where nobody counts.
    fn tokens_read(&self) -> Option<u64> {
        None
    }
}

/// The exact tokens of an episode: what a language model read and wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Token ids, `[T]`.
    pub ids: Vec<u32>,
    /// 1 where the agent chose the token, `[T]`.
    pub action: Vec<u8>,
    /// Log-probability in nats under the untempered policy, `[T]`; absent where the agent did not choose.
    pub logprob: Vec<Option<f64>>,
}

impl TokenRecord {
    /// The tokens that the agent chose, turn by turn.
    pub fn turns(&self) -> impl Iterator<Item = &[u32]> {
        let chosen = self.action.chunk_by(|a, b| a == b);
        let turns = chosen.scan(0, |start, run| {
            let ids = self.ids.get(*start..*start + run.len());
            *start += run.len();
            Some(ids.filter(|_| run[0] == 1))
        });
        turns.flatten()
    }
}
