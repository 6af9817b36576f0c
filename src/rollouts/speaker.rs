//! A model's thread as the one who proposes messages to a planner.

use futures::future::try_join_all;
use socratiq_agents::planning::{Speaker, Tally};
use socratiq_agents::{AgentError, Live, Sampling};
use socratiq_envs::{EpisodeSeed, Message, Stream, Tool, async_trait};

use super::ModelThread;
use super::model_thread::{How, Written};

/// Proposes messages of a model, which writes them side by side with whatever else it writes. A dialogue that goes on
/// from one that it has proposed for is not read again: only what came after is.
pub(super) struct ThreadSpeaker<'a> {
    pub(super) model: &'a ModelThread,
    pub(super) sampling: Sampling,
    pub(super) max_tokens: usize,
    /// Counts what is read and written.
    pub(super) tally: &'a Tally,
    /// The dialogue that is planned for, and then each with a proposal, as the model lives through them.
    pub(super) lived: Vec<(Vec<Message>, Live)>,
}

impl ThreadSpeaker<'_> {
    /// A dialogue in which the agent is to act: the longest beginning of it that was lived through, and the rest.
    fn read(&mut self, dialogue: &[Message], tools: &[Tool]) -> Result<Live, AgentError> {
        let beginnings = self
            .lived
            .iter_mut()
            .filter(|(lived, _)| dialogue.starts_with(lived));
        let Some((lived, live)) = beginnings.max_by_key(|(lived, _)| lived.len()) else {
            return self.model.read(dialogue, tools);
        };
        let (mut live, rest) = (live.fork(), &dialogue[lived.len()..]);
        if !rest.is_empty() {
            self.model.observe(&mut live, lived, rest, tools)?;
        }
        Ok(live)
    }

    /// The planned-for dialogue after `message`, if that was proposed for it.
    pub(super) fn after(self, message: &Message) -> Option<Live> {
        let mut lived = self.lived.into_iter();
        let length = lived.next()?.0.len() + 1;
        lived
            .find(|(dialogue, _)| dialogue.len() == length && dialogue.last() == Some(message))
            .map(|(_, live)| live)
    }
}

#[async_trait]
impl Speaker for ThreadSpeaker<'_> {
    async fn propose(
        &mut self,
        dialogue: &[Message],
        tools: &[Tool],
        count: usize,
        stream: &mut Stream,
    ) -> Result<Vec<Message>, AgentError> {
        let mut read = self.read(dialogue, tools)?;
        // A dialogue is read once for all that is proposed after it.
        self.tally.add(read.unread());
        let before = read.state().len();
        let how = How::Tokens(self.sampling);
        let written = (0..count).map(|_| {
            let own = EpisodeSeed(stream.bits()).stream(0, "proposal");
            self.model
                .write(read.fork(), how.clone(), own, self.max_tokens)
        });
        let written = try_join_all(written.collect::<Vec<_>>())
            .await
            .map_err(AgentError::from)?;
        let mut messages = Vec::with_capacity(count);
        for Written { live, .. } in written {
            self.tally.add(live.state().len() - before);
            let message = self.model.codec().decode_action(live.turn())?;
            messages.push(message.clone());
            let mut lived = dialogue.to_vec();
            lived.push(message);
            self.lived.push((lived, live));
        }
        Ok(messages)
    }
}
