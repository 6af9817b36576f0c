//! Training.

pub mod config;
pub mod diagnosis;
pub mod example;
pub mod forest;
pub mod learner;
pub mod metrics;
pub mod order;
pub mod probe;
pub mod reference;
pub mod run_directory;
pub mod schedule;
pub mod store;
pub mod tensorboard;
