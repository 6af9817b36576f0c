//! A model's thread as the one who proposes messages to a planner.

use futures::future::try_join_all;
use socratiq_agents::planning::{Speaker, Tally};
use socratiq_agents::{AgentError, Live, Sampling};
use socratiq_envs::{EpisodeSeed, Message, Stream, Tool, async_trait};

use super::ModelThread;
use super::model_thread::How;

/// Proposes messages of a model, which writes them side by side with whatever else it writes.
pub(super) struct ThreadSpeaker<'a> {
    pub(super) model: &'a ModelThread,
    pub(super) sampling: Sampling,
    pub(super) max_tokens: usize,
    /// Counts what is read and written.
    pub(super) tally: &'a Tally,
    /// The dialogue that is planned for.
    pub(super) live: &'a mut Live,
    /// What was proposed for it first, with the dialogue as it is then.
    pub(super) proposed: Vec<(Message, Live)>,
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
        let is_first = self.proposed.is_empty();
        let mut read = if is_first {
            self.live.fork()
        } else {
            self.model.read(dialogue, tools)?
        };
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
        for live in written {
            self.tally.add(live.state().len() - before);
            let message = self.model.codec().decode_action(live.turn())?;
            messages.push(message.clone());
            if is_first {
                self.proposed.push((message, live));
            }
        }
        Ok(messages)
    }
}
