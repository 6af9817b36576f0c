//! `socratiq score`: credit assignment as data and as a picture.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use socratiq::agents::kernels::parallel;
use socratiq::logs::{self, BadRow, Format, LogError};
use socratiq::objective::{Kind, Objective};
use socratiq::score::report::{self, Lowest, Source};
use socratiq::score::{Line, Models, Scorer, Summary};
use socratiq::train::config::TooLong;
use socratiq::train::example::{Completion, Encoder, Example};
use socratiq::train::progress::counter;
use socratiq::write_whole;

use super::logs::{Complaints, OnBadRow};

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The policy: run directory, Hugging Face folder, .gguf file or hub id
    #[arg(long)]
    model: String,
    /// What log-ratios are taken against; if left out, the policy with its adapters off
    #[arg(long)]
    reference: Option<String>,
    /// Preference log: JSON lines or JSON, gzipped or not
    #[arg(long)]
    data: PathBuf,
    /// The file for one JSON line per pair; there whole or not at all
    #[arg(long)]
    out: PathBuf,
    /// The file for a page to look at: the 100 pairs with the lowest margins, token by token
    #[arg(long)]
    html: Option<PathBuf>,
    /// β of the implicit rewards; if left out, that of the run
    #[arg(long)]
    beta: Option<f64>,
    /// Add to each of the agent's tokens this many of its likeliest alternatives
    #[arg(long, value_name = "K")]
    alternatives: Option<usize>,
    /// The log's format, instead of what its first good row looks like
    #[arg(long)]
    format: Option<Format>,
    /// What a row does that cannot be used
    #[arg(long, value_enum, default_value_t = OnBadRow::Error)]
    on_bad_row: OnBadRow,
}

/// Tokens that are computed in one pass.
const TOKENS_PER_BATCH: usize = 4096;

/// Rows that are encoded side by side.
const WINDOW: usize = 256;

/// Scores every pair of a log, and prints how often the chosen side wins.
pub(crate) fn score(options: &Options) -> Result<()> {
    let models = Models::open(&options.model, options.reference.as_deref(), options.beta)?;
    let beta = models.beta;
    let mut scores = Scores::new(Scorer::new(models), options);
    let skipped = write_whole(&options.out, |out| scores.read(options, out))?;
    let margins = scores.margins;
    if let Some(path) = &options.html {
        let source = Source {
            data: options.data.display().to_string(),
            model: options.model.clone(),
            reference: options
                .reference
                .clone()
                .unwrap_or_else(|| format!("{} with its adapters off", options.model)),
        };
        let pairs = scores.lowest.into_pairs();
        write_whole(path, |out| {
            report::write(scores.scorer.models(), &pairs, &margins, &source, out)
        })?;
    }
    let mut line = json!(Summary::new(&margins));
    line["beta"] = beta.into();
    line["skipped"] = skipped.into();
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

/// What there is so far.
struct Scores {
    scorer: Scorer,
    alternatives: Option<usize>,
    wants_page: bool,
    margins: Vec<f64>,
    lowest: Lowest,
}

impl Scores {
    fn new(scorer: Scorer, options: &Options) -> Self {
        Self {
            scorer,
            alternatives: options.alternatives,
            wants_page: options.html.is_some(),
            margins: Vec::new(),
            lowest: Lowest::default(),
        }
    }

    /// Scores the log and writes its lines; returns how many rows were left out.
    fn read(&mut self, options: &Options, out: &mut impl io::Write) -> Result<u64> {
        let objective = Objective::new(Kind::Dpo);
        let models = self.scorer.models();
        let (codec, longest) = (models.codec().clone(), models.context_length());
        let encoder = Encoder::new(codec, &objective, longest, TooLong::Refuse);
        let mut complaints = Complaints::default();
        let (mut waiting, mut tokens) = (Vec::new(), 0);
        let bar = counter("pairs scored");
        let mut rows = logs::open(&options.data, options.format)?;
        loop {
            let window: Vec<_> = rows.by_ref().take(WINDOW).collect();
            if window.is_empty() {
                break;
            }
            let encoded = parallel::map(window.len(), |index| {
                let records = window[index].as_ref().map(|row| &*row.records);
                let records = records.unwrap_or_default().iter();
                records
                    .map(|record| encoder.encode(record))
                    .collect::<Result<Vec<_>, _>>()
            });
            for (row, encoded) in window.into_iter().zip(encoded) {
                let examples = row.and_then(|row| {
                    encoded.map_err(|error| LogError::BadRow {
                        path: options.data.clone(),
                        row: unusable(row.line, &error),
                    })
                });
                match examples {
                    Ok(examples) => {
                        for example in examples.into_iter().flatten() {
                            let size = example.completions.iter().map(Completion::num_tokens);
                            let size: usize = size.sum();
                            if tokens + size > TOKENS_PER_BATCH {
                                bar.inc(waiting.len() as u64);
                                self.score(&waiting, out)?;
                                waiting.clear();
                                tokens = 0;
                            }
                            waiting.push(example);
                            tokens += size;
                        }
                    }
                    Err(LogError::BadRow { path, row }) if options.on_bad_row == OnBadRow::Skip => {
                        complaints.add(&path, &row)?;
                    }
                    Err(error @ LogError::BadRow { .. }) => {
                        return Err(anyhow::Error::new(error).context(
                            "nothing is written (--on-bad-row skip leaves bad rows out)",
                        ));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.score(&waiting, out)?;
        bar.finish_and_clear();
        if self.margins.is_empty() {
            bail!("`{}` has no pair to score", options.data.display());
        }
        Ok(complaints.close()?)
    }

    fn score(&mut self, pairs: &[Example], out: &mut impl io::Write) -> Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        let page = self.wants_page.then_some(report::ALTERNATIVES);
        let alternatives = self.alternatives.or(page);
        let first = self.margins.len();
        for pair in self.scorer.score(pairs, first, alternatives)? {
            let tokenizer = self.scorer.models().codec().tokenizer();
            let mut line = Line::new(&pair, tokenizer);
            if self.alternatives.is_some() {
                line = line.with_alternatives(&pair, tokenizer);
            }
            serde_json::to_writer(&mut *out, &line)?;
            writeln!(out).context("cannot write the scores")?;
            self.margins.push(pair.margin());
            if self.wants_page {
                self.lowest.push(pair);
            }
        }
        Ok(())
    }
}

/// A row that is no pair of dialogues that both models can read.
fn unusable(line: usize, error: &dyn std::error::Error) -> BadRow {
    BadRow {
        line,
        field: "/".to_owned(),
        problem: format!("the models cannot read it: {error}"),
        remedy: "mend it, or leave it out".to_owned(),
    }
}
