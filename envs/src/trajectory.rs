//! What is left of an episode: the trajectory of each agent, as it is written to logs.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::environment::{Ending, Facts};
use crate::message::{Message, Role, Tool};
use crate::policy::TokenRecord;
use crate::seed::EpisodeSeed;

/// One agent's episode: its dialogue, its rewards, and why it stopped. This is the native trajectory line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trajectory {
    /// Unique within a log.
    pub id: String,
    /// The environment, as its spec is written on the command line; empty for a dialogue from elsewhere.
    #[serde(default)]
    pub env: String,
    /// The seed that replays the episode, where it has one.
    #[serde(default)]
    pub seed: Option<EpisodeSeed>,
    /// The dialogue as this agent saw it, its actions with their rewards.
    pub messages: Vec<Turn>,
    /// The tools that were offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// The sum of all rewards (γ = 1).
    #[serde(rename = "return")]
    pub return_: f64,
    /// Why the episode stopped.
    pub ending: Ending,
    /// The exact tokens, where the policy works with tokens; several records where the chat template changed
    /// what came before.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "one_or_many")]
    pub tokens: Vec<TokenRecord>,
    /// Anything else worth keeping.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// A message of a trajectory; the agent's own carry the reward of their turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// The message.
    #[serde(flatten)]
    pub message: Message,
    /// The reward of the turn, on the agent's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
}

impl Turn {
    /// A message with what its turn earned. A line has room for one `reward`, the turn's: a field of the message
    /// with that name is dropped.
    pub fn new(mut message: Message, reward: Option<f64>) -> Self {
        message.extra.shift_remove("reward");
        Self { message, reward }
    }
}

/// Field of an agent's message: the exact tokens that it was written with, its end of turn among them where the agent
/// chose it. What learns from the message learns from these, if its tokenizer spells the same with them.
pub const TOKEN_IDS: &str = "token_ids";

impl Trajectory {
    /// The dialogue, the agent's messages with the exact tokens that were recorded of them, in [`TOKEN_IDS`].
    pub fn dialogue(&self) -> Vec<Message> {
        let turns = self.messages.iter();
        let mut dialogue: Vec<Message> = turns.map(|turn| turn.message.clone()).collect();
        let written: Vec<&[u32]> = self.tokens.iter().flat_map(TokenRecord::turns).collect();
        let is_action = |message: &&mut Message| message.role == Role::Assistant;
        let actions: Vec<&mut Message> = dialogue.iter_mut().filter(is_action).collect();
        // A record of other turns than these is of no use.
        if written.len() == actions.len() {
            for (message, ids) in actions.into_iter().zip(written) {
                message.extra.insert(TOKEN_IDS.to_owned(), ids.into());
            }
        }
        dialogue
    }
}

/// A finished episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// One trajectory per agent, by [`AgentId`](crate::AgentId).
    pub trajectories: Vec<Trajectory>,
    /// The task's facts, one per turn of the environment.
    pub facts: Vec<Facts>,
}

impl Episode {
    /// The trajectory of a single-agent task's agent.
    pub fn solo(self) -> Option<Trajectory> {
        self.trajectories.into_iter().next()
    }

    /// The last facts of type `T`: how the episode came out.
    pub fn outcome<T: 'static>(&self) -> Option<&T> {
        self.facts.iter().rev().find_map(Facts::get)
    }
}

/// A list that is written as its element where it has just one.
mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::TokenRecord;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(TokenRecord),
        Many(Vec<TokenRecord>),
    }

    pub(super) fn serialize<S: Serializer>(
        records: &[TokenRecord],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match records {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<TokenRecord>, D::Error> {
        Ok(match Form::deserialize(deserializer)? {
            Form::One(record) => vec![record],
            Form::Many(records) => records,
        })
    }
}
