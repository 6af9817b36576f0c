//! Planners against their oracles: mctx's trees, `transformers`' beams, exact solutions, and each other.

mod beams;
mod command;
mod exports;
mod messages;
mod search;
mod turns;

use std::sync::Arc;

use socratiq::agents::model::{Adapters, Decoder};
use socratiq::agents::{AgentError, Codec, Generator, Live, Prompt};
use socratiq::envs::{Message, Tool};

/// A codec of plain ids, some of which end a turn.
struct Ids(Vec<u32>);

impl Codec for Ids {
    fn encode_observation(
        &self,
        _: &[Message],
        _: &[Message],
        _: &[Tool],
        _: bool,
    ) -> Result<Prompt, AgentError> {
        Ok(Prompt::Append(vec![7]))
    }

    fn encode_action(
        &self,
        _: &[Message],
        _: &Message,
        _: &[Tool],
    ) -> Result<Vec<u32>, AgentError> {
        Ok(vec![self.end_of_turn()])
    }

    fn decode_action(&self, ids: &[u32]) -> Result<Message, AgentError> {
        Ok(Message::assistant(format!("{ids:?}")))
    }

    fn is_end_of_turn(&self, id: u32) -> bool {
        self.0.contains(&id)
    }

    fn end_of_turn(&self) -> u32 {
        self.0[0]
    }
}

fn generator(decoder: &Arc<Decoder>, ends: &[u32]) -> Generator {
    Generator::new(decoder.clone(), Arc::new(Ids(ends.to_vec())), Adapters::On)
}

/// A dialogue in which `prompt` was said.
fn dialogue(decoder: &Decoder, prompt: &[u32]) -> Live {
    let mut live = Live::new(decoder);
    live.observe(&Prompt::Append(prompt.to_vec()), decoder);
    live
}
