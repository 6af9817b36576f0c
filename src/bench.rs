//! What a machine can do, and how near the model comes to it.

pub mod generation;
mod machine;
pub mod rollouts;
pub mod training;

pub use machine::{Machine, peak_memory_gb};
