//! What can go wrong in an environment.
//!
//! An illegal or silly action is no error: the task answers it, and may end the episode. An error means
//! that the episode cannot go on as the contract says, and it never turns into a reward.

use crate::message::Role;

/// Result of this crate.
pub type Result<T, E = EnvError> = std::result::Result<T, E>;

/// Any source of an error, kept for its message.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// An error of an environment or of a policy that acts in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {
    /// `step` or `fork` came before the first `reset`.
    #[error("the environment is not running: call `reset` first")]
    NotReset,
    /// `step` or `fork` came after the ending.
    #[error("the episode is over: call `reset` before the next step")]
    Ended,
    /// `step` was given a message of another role than the agent's.
    #[error("an action is a message of role `assistant`, not `{role:?}`")]
    NotAnAction {
        /// The role that it had.
        role: Role,
    },
    /// The environment waits for an agent that has no policy.
    #[error("agent {agent} is to act, but only {policies} policies were given")]
    NoPolicy {
        /// The agent that is to act.
        agent: usize,
        /// How many policies there are.
        policies: usize,
    },
    /// The environment cannot be copied in this way.
    #[error("`{environment}` cannot fork: {reason}")]
    CannotFork {
        /// The environment's name.
        environment: String,
        /// Why, and what to do instead.
        reason: String,
    },
    /// A built-in environment, or its settings, is not as it should be.
    #[error("{0}")]
    Invalid(String),
    /// The world behind the environment failed: a tool, a user simulator, a server.
    #[error("{context}: {cause}")]
    Failed {
        /// What was being done.
        context: String,
        /// Why it failed. It is in the message already, so it is not told once more as the error's source.
        cause: Source,
    },
}

impl EnvError {
    /// A failure of the world, with what was being done.
    pub fn failed(context: impl Into<String>, cause: impl Into<Source>) -> Self {
        Self::Failed {
            context: context.into(),
            cause: cause.into(),
        }
    }
}
