//! Real conversations as trajectories: the human-rated chats of the `chitchat-dataset` package.
//!
//! Usage, from the root of the project:
//!
//! ```sh
//! pip download --no-deps chitchat-dataset==0.9.0 && unzip chitchat_dataset-0.9.0-*.whl
//! cargo run --release --example chitchat -- chitchat_dataset/dataset.json runs/chitchat
//! ```
//!
//! The package (MIT licence) holds chats of two people, some of which one of them rated as witty, upbeat and
//! interesting, from 1 to 10. A chat becomes a trajectory in which the second speaker is the agent, and the mean
//! rating the return of its last turn. Names of accounts and times are dropped, addresses are replaced, and chats
//! with vulgar lines are left out. `train.jsonl` and `eval.jsonl` share no participant: a chat of one from each
//! side belongs to neither.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use regex::Regex;
use serde::Deserialize;
use socratiq::envs::{Ending, Message, Trajectory, Turn};

/// A chat as the package has it.
#[derive(Deserialize)]
struct Chat {
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    ratings: Option<BTreeMap<String, f64>>,
    messages: Vec<Vec<Line>>,
}

#[derive(Deserialize)]
struct Line {
    text: String,
    sender: String,
}

/// One participant in so many is for evaluation.
const EVALUATED: u8 = 3;
const VULGAR: &str =
    r"(?i)\b(fuck\w*|shit\w*|bitch\w*|cunt\w*|dick|porn\w*|sexy?|nude\w*|penis|boobs?)\b";
const ADDRESS: &str = r"(?i)https?://\S+|www\.\S+|\S+@\S+\.\w+|@\w+|\+?\d[\d \-()]{7,}\d";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(from), Some(to)) = (arguments.next(), arguments.next()) else {
        bail!("usage: chitchat DATASET.json FOLDER");
    };
    let text = fs::read_to_string(&from).with_context(|| format!("cannot read `{from}`"))?;
    let chats: BTreeMap<String, Chat> = serde_json::from_str(&text)?;
    let (vulgar, address) = (Regex::new(VULGAR)?, Regex::new(ADDRESS)?);
    fs::create_dir_all(&to)?;
    let file = |name: &str| File::create(Path::new(&to).join(name)).map(BufWriter::new);
    let (mut train, mut eval) = (file("train.jsonl")?, file("eval.jsonl")?);
    let mut counts = [0, 0];
    for (number, chat) in chats.values().enumerate() {
        let Some(side) = side(chat) else { continue };
        let Some(trajectory) = trajectory(chat, number, &vulgar, &address) else {
            continue;
        };
        let out = if side == 0 { &mut train } else { &mut eval };
        serde_json::to_writer(&mut *out, &trajectory)?;
        out.write_all(b"\n")?;
        counts[side] += 1;
    }
    train.flush()?;
    eval.flush()?;
    let [train, eval] = counts;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{train} chats to learn from, {eval} of other people to evaluate on"
    )?;
    Ok(())
}

/// 0 if all participants are to be learned from, 1 if all are to be evaluated on.
fn side(chat: &Chat) -> Option<usize> {
    let mut sides = chat.messages.iter().flatten().map(|line| {
        let hash = blake3::hash(line.sender.as_bytes());
        usize::from(hash.as_bytes()[0].is_multiple_of(EVALUATED))
    });
    let first = sides.next()?;
    sides.all(|other| other == first).then_some(first)
}

/// None for chats without a considered rating, of unusual length, or with lines that nobody should learn.
fn trajectory(chat: &Chat, number: usize, vulgar: &Regex, address: &Regex) -> Option<Trajectory> {
    let ratings = chat.ratings.as_ref()?;
    // All fives is what the form said before anyone touched it.
    let untouched = ratings.values().all(|rating| (rating - 5.0).abs() < 1e-9);
    if ratings.is_empty() || untouched || !(6..=40).contains(&chat.messages.len()) {
        return None;
    }
    let first = &chat.messages.first()?.first()?.sender;
    let mut messages = Vec::new();
    if let Some(prompt) = &chat.prompt {
        let text = format!(
            "You are chatting with somebody you have just met. A question to begin with: {prompt}"
        );
        messages.push(Message::system(text));
    }
    for turn in &chat.messages {
        let lines: Vec<&str> = turn.iter().map(|line| line.text.as_str()).collect();
        let text = lines.join("\n");
        if vulgar.is_match(&text) {
            return None;
        }
        let text = address.replace_all(&text, "[removed]").into_owned();
        messages.push(match &turn.first()?.sender == first {
            true => Message::user(text),
            false => Message::assistant(text),
        });
    }
    let return_ = ratings.values().sum::<f64>() / ratings.len() as f64;
    let last = messages
        .iter()
        .rposition(|m| m.role == socratiq::envs::Role::Assistant)?;
    let reward = |at: usize, message: &Message| {
        let is_agent = message.role == socratiq::envs::Role::Assistant;
        is_agent.then_some(if at == last { return_ } else { 0.0 })
    };
    Some(Trajectory {
        id: format!("chitchat-{number}"),
        env: String::new(),
        seed: None,
        messages: messages
            .iter()
            .enumerate()
            .map(|(at, message)| Turn {
                reward: reward(at, message),
                message: message.clone(),
            })
            .collect(),
        tools: Vec::new(),
        return_,
        ending: Ending::Terminated,
        tokens: Vec::new(),
        metadata: serde_json::Map::new(),
    })
}
