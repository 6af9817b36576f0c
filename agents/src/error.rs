//! What can go wrong between text, tokens and weights.

use socratiq_envs::EnvError;

/// Result of this crate.
pub type Result<T, E = AgentError> = std::result::Result<T, E>;

/// An error of an agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The environment failed.
    #[error(transparent)]
    Environment(#[from] EnvError),
    /// A token was played before `reset` or after the ending.
    #[error("no episode is running: call `reset` before playing a token")]
    NotRunning,
    /// The environment asked for an agent that the token level does not follow.
    #[error(
        "the token level follows agent 0, but agent {agent} is to act: give the other agents policies inside the environment"
    )]
    OtherAgent {
        /// The agent that is to act.
        agent: usize,
    },
    /// Text that the codec cannot turn into tokens, or tokens into text.
    #[error("cannot encode the dialogue: {0}")]
    Encoding(String),
}
