//! The page on which a person reads scored pairs.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;
use socratiq_agents::chat::Tokenizer;

use super::{Models, Scored, ScoredPair, Summary};
use crate::page::Page;

/// The pairs that a page shows: as many as a browser turns over without waiting.
pub const SHOWN: usize = 100;
/// The alternatives that a page shows of a token.
pub const ALTERNATIVES: usize = 5;

/// The pairs of a log with the lowest margins: those that the models get most wrong.
#[derive(Debug, Default)]
pub struct Lowest(Vec<ScoredPair>);

impl Lowest {
    /// Keeps `pair` as long as it is among the lowest.
    pub fn push(&mut self, pair: ScoredPair) {
        self.0.push(pair);
        if self.0.len() >= 2 * SHOWN {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.0.sort_by(|a, b| a.margin().total_cmp(&b.margin()));
        self.0.truncate(SHOWN);
    }

    /// The pairs, lowest margin first.
    pub fn into_pairs(mut self) -> Vec<ScoredPair> {
        self.cut();
        self.0
    }
}

/// What the page says about where its numbers come from.
#[derive(Clone, Debug, Serialize)]
pub struct Source {
    /// The log.
    pub data: String,
    /// The policy.
    pub model: String,
    /// The reference.
    pub reference: String,
}

/// Writes the page of `pairs`, which are some of those with these `margins`.
///
/// # Errors
/// When `out` fails.
pub fn write(
    models: &Models,
    pairs: &[ScoredPair],
    margins: &[f64],
    source: &Source,
    out: &mut impl Write,
) -> Result<()> {
    let tokenizer = models.codec().tokenizer();
    let data = Data {
        source,
        beta: models.beta,
        summary: Summary::new(margins),
        histogram: Histogram::new(margins),
        scale: scale(pairs),
        pairs: pairs
            .iter()
            .map(|pair| Shown::new(pair, tokenizer))
            .collect(),
    };
    let page = Page {
        title: "Credit of every token",
        style: include_str!("report.css"),
        script: include_str!("report.js"),
    };
    page.write(&data, out)
}

#[derive(Serialize)]
struct Data<'a> {
    source: &'a Source,
    beta: f64,
    summary: Summary,
    histogram: Histogram,
    /// The implicit reward that has the strongest colour.
    scale: f64,
    pairs: Vec<Shown>,
}

/// How many margins lie in each of some stretches of equal width.
#[derive(Serialize)]
struct Histogram {
    low: f64,
    high: f64,
    counts: Vec<usize>,
}

const BINS: usize = 41;

impl Histogram {
    /// Symmetric around 0, so that the middle bin holds the ties.
    fn new(margins: &[f64]) -> Self {
        let reach = margins
            .iter()
            .fold(0.0_f64, |reach, margin| reach.max(margin.abs()))
            .max(f64::MIN_POSITIVE);
        let mut counts = vec![0; BINS];
        for margin in margins {
            let place = f64::midpoint(margin / reach, 1.0) * BINS as f64;
            counts[(place as usize).min(BINS - 1)] += 1;
        }
        Self {
            low: -reach,
            high: reach,
            counts,
        }
    }
}

/// The size that 2 % of the implicit rewards exceed, so that a few extremes do not pale all others.
fn scale(pairs: &[ScoredPair]) -> f64 {
    let mut sizes: Vec<f64> = pairs
        .iter()
        .flat_map(ScoredPair::sides)
        .flat_map(|side| side.credit.implicit_reward.iter().flatten())
        .map(|reward| reward.abs())
        .collect();
    sizes.sort_by(f64::total_cmp);
    let place = (0.98 * sizes.len() as f64) as usize;
    let found = sizes.get(place.min(sizes.len().saturating_sub(1)));
    found.copied().filter(|size| *size > 0.0).unwrap_or(1.0)
}

#[derive(Serialize)]
struct Shown {
    index: usize,
    margin: f64,
    /// Stretches that both sides begin with.
    shared: usize,
    chosen: Side,
    rejected: Side,
}

#[derive(Serialize)]
struct Side {
    #[serde(rename = "return")]
    return_: f64,
    stretches: Vec<Stretch>,
}

/// Tokens that are all the agent's, or all not.
#[derive(Serialize)]
#[serde(untagged)]
enum Stretch {
    /// Read by the agent.
    Read {
        text: String,
        /// What comes after the point of divergence, if that lies here.
        #[serde(skip_serializing_if = "Option::is_none")]
        diverged: Option<String>,
        /// True where the template begins anew.
        anew: bool,
    },
    /// Said by the agent: a turn.
    Said {
        sum: f64,
        tokens: Vec<Token>,
        /// The token at which the sides part, if it is one of these.
        #[serde(skip_serializing_if = "Option::is_none")]
        diverges: Option<usize>,
    },
}

/// One of the agent's tokens; numbers to four digits.
#[derive(Serialize)]
struct Token {
    text: String,
    logprob: f64,
    reference: f64,
    reward: f64,
    running: f64,
    advantage: Option<f64>,
    /// Text, log-probability, reference log-probability.
    others: Vec<(String, f64, f64)>,
}

impl Shown {
    fn new(pair: &ScoredPair, tokenizer: &Tokenizer) -> Self {
        let [chosen, rejected] = pair.sides().map(Scored::ids);
        let parted = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b);
        let parted = parted.count();
        // Two equal dialogues part nowhere.
        let differ = chosen != rejected;
        let side = |scored: &Scored| Side::new(scored, differ.then_some(parted), tokenizer);
        let shared = |scored: &Scored| {
            let ends = stretches(scored).into_iter().map(|(tokens, _)| tokens.end);
            ends.take_while(|end| *end <= parted).count()
        };
        Self {
            index: pair.index,
            margin: rounded(pair.margin()),
            shared: shared(&pair.chosen).min(shared(&pair.rejected)),
            chosen: side(&pair.chosen),
            rejected: side(&pair.rejected),
        }
    }
}

/// The stretches of a dialogue, and whether they are the agent's. They also end where a sequence does.
fn stretches(scored: &Scored) -> Vec<(std::ops::Range<usize>, bool)> {
    let turns = scored.turns();
    let mut cuts = super::starts(&scored.completion);
    cuts.extend(turns.iter().flat_map(|turn| [turn.start, turn.end]));
    cuts.push(scored.completion.num_tokens());
    cuts.sort_unstable();
    cuts.dedup();
    let stretch = |pair: &[usize]| (pair[0]..pair[1], turns.iter().any(|t| t.start == pair[0]));
    cuts.windows(2).map(stretch).collect()
}

impl Side {
    fn new(scored: &Scored, parted: Option<usize>, tokenizer: &Tokenizer) -> Self {
        let ids = scored.ids();
        let texts = spell(tokenizer, &ids);
        let starts = super::starts(&scored.completion);
        let stretch = |(tokens, said): (std::ops::Range<usize>, bool)| {
            let parts_here = parted.filter(|at| tokens.contains(at));
            if said {
                return Stretch::Said {
                    sum: rounded(scored.credit.sum(tokens.clone())),
                    diverges: parts_here.map(|at| at - tokens.start),
                    tokens: tokens
                        .map(|at| Token::new(scored, at, texts[at].clone(), tokenizer))
                        .collect(),
                };
            }
            let cut = parts_here.unwrap_or(tokens.end);
            Stretch::Read {
                text: texts[tokens.start..cut].concat(),
                diverged: parts_here.map(|_| texts[cut..tokens.end].concat()),
                anew: tokens.start > 0 && starts.contains(&tokens.start),
            }
        };
        Self {
            return_: rounded(scored.credit.total()),
            stretches: stretches(scored).into_iter().map(stretch).collect(),
        }
    }
}

impl Token {
    fn new(scored: &Scored, at: usize, text: String, tokenizer: &Tokenizer) -> Self {
        let choices = scored.choices.get(at).and_then(Option::as_ref);
        let other = |other: &socratiq_agents::credit::Alternative| {
            let text = tokenizer.pieces(&[other.id]).concat();
            (
                text,
                rounded(other.logprob),
                rounded(other.reference_logprob),
            )
        };
        let number = |numbers: &[Option<f64>]| rounded(numbers[at].unwrap_or(0.0));
        Self {
            text,
            logprob: number(&scored.logprob),
            reference: number(&scored.reference_logprob),
            reward: number(&scored.credit.implicit_reward),
            running: rounded(scored.credit.running[at]),
            advantage: choices.and_then(|choices| choices.advantage).map(rounded),
            others: choices
                .map(|choices| choices.alternatives.iter().map(other).collect())
                .unwrap_or_default(),
        }
    }
}

/// To four digits: what a person can use, in half the bytes.
fn rounded(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}

/// The longest character in tokens, if every byte is one.
const LONGEST_CHARACTER: usize = 4;

/// The text of each token. A character of several tokens is the last one's, so that it can be read; and a space
/// that a tokenizer writes only between words stays.
fn spell(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let decode = |ids: &[u32]| tokenizer.decode(ids).unwrap_or_default();
    let mut texts = Vec::with_capacity(ids.len());
    let mut open = 0_usize;
    for end in 1..=ids.len() {
        let before = open.saturating_sub(1);
        let whole = decode(&ids[before..end]);
        let text = match whole.strip_prefix(&decode(&ids[before..open])) {
            Some(text) => text.to_owned(),
            None => decode(&ids[open..end]),
        };
        let unfinished = text.ends_with(char::REPLACEMENT_CHARACTER)
            && end - open < LONGEST_CHARACTER
            && end < ids.len();
        if unfinished {
            texts.push(String::new());
        } else {
            texts.push(text);
            open = end;
        }
    }
    texts
}
