//! What a chat completion says, and the tokens that several of them say in a row.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use socratiq_envs::{Message, Role, TokenRecord};

/// A completion, as far as it is of use.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) message: Message,
    /// Nats, one per token.
    pub(super) logprobs: Option<Vec<f64>>,
    /// The ids that the server read, and those that it chose.
    pub(super) prompt_ids: Option<Vec<u32>>,
    pub(super) ids: Option<Vec<u32>>,
    pub(super) completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    prompt_token_ids: Option<Vec<u32>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    logprobs: Option<Logprobs>,
    token_ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Token>>,
}

#[derive(Deserialize)]
struct Token {
    logprob: f64,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: Option<u64>,
}

impl Answer {
    pub(super) fn read(body: &[u8]) -> Result<Self> {
        let read = serde_json::from_slice::<Completion>(body);
        let completion = read.context("the answer is no chat completion")?;
        let choice = completion.choices.into_iter().next();
        let choice = choice.context("the answer has no choices")?;
        ensure!(
            choice.message.role == Role::Assistant,
            "the answer is a message of role `{:?}`",
            choice.message.role
        );
        let tokens = choice.logprobs.and_then(|logprobs| logprobs.content);
        Ok(Self {
            message: choice.message,
            logprobs: tokens.map(|tokens| tokens.iter().map(|token| token.logprob).collect()),
            prompt_ids: completion.prompt_token_ids,
            ids: choice.token_ids,
            completion_tokens: completion.usage.and_then(|usage| usage.completion_tokens),
        })
    }
}

/// The tokens of an episode, from what each completion read and chose.
#[derive(Debug, Default)]
pub(super) struct Records {
    all: Vec<TokenRecord>,
    turns: u32,
}

impl Records {
    /// Adds a turn: to the last record where the prompt goes on from there, to a new one where the server's
    /// chat template changed what came before.
    pub(super) fn push(&mut self, prompt: &[u32], ids: &[u32], logprobs: Option<&[f64]>) {
        self.turns += 1;
        let goes_on = self
            .all
            .last()
            .is_some_and(|last| prompt.starts_with(&last.ids));
        if !goes_on {
            self.all.push(TokenRecord::default());
        }
        let Some(record) = self.all.last_mut() else {
            return;
        };
        record.ids.extend_from_slice(&prompt[record.ids.len()..]);
        record.action.resize(record.ids.len(), 0);
        record.logprob.resize(record.ids.len(), None);
        record.ids.extend_from_slice(ids);
        record.action.resize(record.ids.len(), 1);
        // Numbers for other tokens than these are of no use.
        let logprobs = logprobs.filter(|logprobs| logprobs.len() == ids.len());
        record
            .logprob
            .extend(logprobs.into_iter().flatten().copied().map(Some));
        record.logprob.resize(record.ids.len(), None);
    }

    pub(super) fn all(&self) -> &[TokenRecord] {
        &self.all
    }

    pub(super) fn turns(&self) -> u32 {
        self.turns
    }
}
