//! Agents at the level of tokens.
//!
//! This crate knows tokens, chat templates, weights and search. It does not know training loops, run
//! directories or HTTP.
//!
//! Reading order: [`tokens`](Tokens), [`dialogue_mdp`](DialogueMdp).

mod dialogue_mdp;
mod error;
mod tokens;

pub use dialogue_mdp::{DialogueMdp, TokenStep};
pub use error::{AgentError, Result};
pub use tokens::{ByteCodec, Codec, Tokens};
