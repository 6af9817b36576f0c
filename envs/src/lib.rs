//! Multi-turn dialogue environments, at the level of text.
//!
//! This crate knows dialogues, tasks and exact theory. It does not know tensors, tokenizers, files or the
//! network.
//!
//! Reading order: [`message`](Message), [`environment`](Environment), [`policy`](Policy),
//! [`rollout`](rollout()).

mod environment;
mod error;
mod message;
mod policy;
mod rollout;
mod seed;
mod trajectory;
mod turn_limit;

pub use environment::{
    AgentId, Ending, Environment, FactSet, Facts, Fork, Observation, Step, bootstrap,
};
pub use error::{EnvError, Result, Source};
pub use message::{
    Arguments, Content, FunctionCall, FunctionSpec, Message, Part, Role, Tool, ToolCall,
};
pub use policy::{Policy, TokenRecord};
pub use rollout::rollout;
pub use seed::{EpisodeSeed, RunSeed, Split, Stream};
pub use trajectory::{Episode, Trajectory, Turn};
pub use turn_limit::TurnLimit;
