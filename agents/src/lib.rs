//! Agents at the level of tokens.
//!
//! This crate knows tokens and the seam between them and text. It does not know training loops, run
//! directories or HTTP.
//!
//! Reading order: [`Tokens`], [`Codec`], [`DialogueMdp`].

#![cfg_attr(test, allow(clippy::float_cmp, reason = "tests compare exact results"))]

pub mod chat;
mod dialogue_mdp;
mod error;
pub mod kernels;
pub mod model;
mod tokens;

pub use dialogue_mdp::{DialogueMdp, TokenStep};
pub use error::{AgentError, Result};
pub use tokens::{ByteCodec, Codec, Prompt, Tokens};
