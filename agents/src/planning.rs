//! Planning: search over what could be said, with the policy's own likelihoods and log-ratios as values.
//!
//! Knows neither files nor clocks: a search stops when its budget is spent or when it is told to.

mod gumbel;
mod puct;
mod qtransform;
mod search;
mod tree;

pub use gumbel::Gumbel;
pub use puct::Puct;
pub use qtransform::QTransform;
pub use search::{Backup, Evaluator, Leaf, Limits, Select, search};
pub use tree::{Candidate, Evaluation, Node, NodeId, Tree};
