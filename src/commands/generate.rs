//! `socratiq generate`: one completion.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;
use socratiq::agents::model::{Adapters, Weights};
use socratiq::agents::{Codec, Finish, Generator, LanguageModel, Live};
use socratiq::envs::{Message, Role, RunSeed, Tool};
use socratiq::{Planner, model_path};

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Hugging Face folder, .gguf file, run directory or hub id
    #[arg(long)]
    model: String,
    /// JSON file with a list of messages, or an object with `messages` and `tools`; `-` reads it from stdin
    #[arg(long)]
    messages: String,
    /// How the words are chosen
    #[arg(long, default_value = "greedy")]
    planner: Planner,
    /// The longest completion
    #[arg(long, default_value_t = 512)]
    max_new_tokens: usize,
    /// Seed of the run
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print `{"ids","text","logprob","score",…}` instead of the text
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Messages(Vec<Message>),
    Dialogue {
        messages: Vec<Message>,
        #[serde(default)]
        tools: Vec<Tool>,
    },
}

/// Completes a dialogue with the agent's next message.
pub(crate) fn generate(options: &Options) -> Result<()> {
    let (messages, tools) = read(&options.messages)?;
    let start = Instant::now();
    let path = model_path::resolve(&options.model)?;
    let model = LanguageModel::open(&path, Weights::Quantised, &serde_json::Map::new())?;
    let loaded = start.elapsed();

    let Planner::Tokens(sampling) = options.planner;
    let codec: Arc<dyn Codec> = model.codec.clone();
    let mut generator = Generator::new(model.decoder.clone(), codec, Adapters::On);
    let mut live = Live::new(&model.decoder);
    let prompt = model
        .codec
        .encode_observation(&[], &messages, &tools, true)?;
    live.observe(&prompt, &model.decoder);
    let read_tokens = live.state().len();
    let stream = RunSeed(options.seed).stream("generate");
    live.begin_turn(sampling, stream, options.max_new_tokens.max(1));

    let mut out = io::stdout().lock();
    let mut printed = String::new();
    let (start, mut first) = (Instant::now(), None);
    let finish = loop {
        let finished = generator.step(&mut [&mut live])?;
        first.get_or_insert(start.elapsed());
        if !options.json {
            // A character may need several tokens; until it is whole, its text ends in a replacement.
            let text = model.codec.tokenizer().decode(&written(&live))?;
            if let Some(more) = text.strip_prefix(printed.as_str())
                && !more.ends_with('\u{FFFD}')
            {
                write!(out, "{more}")?;
                out.flush()?;
                printed = text;
            }
        }
        if let Some(finish) = finished[0] {
            break finish;
        }
    };
    let seconds = start.elapsed();
    let ids = live.turn().to_vec();
    let logprobs: Vec<f64> = live.turn_logprobs().collect();
    let logprob: f64 = logprobs.iter().sum();
    if options.json {
        let message = model.codec.decode_action(&ids)?;
        let result = json!({
            "ids": ids,
            "text": model.codec.tokenizer().decode(&ids)?,
            "message": message,
            "logprob": logprob,
            "score": logprob,
            "logprobs": logprobs,
            "finish": match finish {
                Finish::EndOfTurn => "end_of_turn",
                Finish::Length => "length",
            },
            "prompt_tokens": read_tokens,
        });
        writeln!(out, "{result}")?;
    } else {
        writeln!(out)?;
    }
    let first = first.unwrap_or_default();
    let rest = seconds.saturating_sub(first).as_secs_f64();
    writeln!(
        io::stderr(),
        "{read_tokens} tokens read, {} written; model loaded in {:.2} s, first token after {:.2} s, then {:.0} \
         tokens/s",
        logprobs.len(),
        loaded.as_secs_f64(),
        first.as_secs_f64(),
        logprobs.len().saturating_sub(1) as f64 / rest.max(1e-9),
    )?;
    Ok(())
}

/// The ids of the turn so far, without its end.
fn written(live: &Live) -> Vec<u32> {
    if live.is_writing() {
        let end = live.state().len();
        live.state().ids()[end - live.turn_logprobs().count()..].to_vec()
    } else {
        live.turn().to_vec()
    }
}

fn read(place: &str) -> Result<(Vec<Message>, Vec<Tool>)> {
    let text = match place {
        "-" => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .context("cannot read stdin")?;
            text
        }
        path => {
            fs::read_to_string(Path::new(path)).with_context(|| format!("cannot read `{path}`"))?
        }
    };
    let input: Input = serde_json::from_str(&text).with_context(|| {
        format!("`{place}` is neither a list of messages nor an object with `messages`")
    })?;
    let (messages, tools) = match input {
        Input::Messages(messages) => (messages, Vec::new()),
        Input::Dialogue { messages, tools } => (messages, tools),
    };
    match messages.last() {
        None => bail!("`{place}` has no messages"),
        Some(last) if last.role == Role::Assistant => {
            bail!("the last message of `{place}` is the agent's own: it is not its turn")
        }
        Some(_) => Ok((messages, tools)),
    }
}
