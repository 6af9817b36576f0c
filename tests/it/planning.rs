//! Planners against their oracles: mctx's trees, `transformers`' beams, exact solutions, and each other.

mod beams;
mod command;
mod exports;
mod messages;
mod search;
mod turns;

use socratiq::agents::model::Decoder;
use socratiq::agents::{Live, Prompt};

/// A dialogue in which `prompt` was said.
fn dialogue(decoder: &Decoder, prompt: &[u32]) -> Live {
    let mut live = Live::new(decoder);
    live.observe(&Prompt::Append(prompt.to_vec()), decoder);
    live
}
