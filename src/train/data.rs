//! Logs to examples on the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use socratiq_agents::chat::ChatCodec;
use socratiq_agents::kernels::parallel;

use super::config::{Config, OnBadRow};
use super::example::{Encoder, Example};
use super::store::{Store, Writer};
use crate::logs::{self, Format, LogError, Record};
use crate::objective::Turns;

/// The examples of some logs.
#[derive(Debug)]
pub struct Loaded {
    /// The examples.
    pub examples: Store,
    /// What became of the rows.
    pub report: Report,
}

/// What became of the rows of some logs, and what somebody should know of them.
#[derive(Debug, Default)]
pub struct Report {
    /// Rows that were read, good and bad.
    pub rows: usize,
    /// How many rows cannot be used.
    pub num_bad: usize,
    /// The first few of these, and what is wrong with them.
    pub bad: Vec<String>,
    /// Completions that were cut at the longest length.
    pub cut: usize,
    /// Examples whose completions are all the same.
    pub degenerate: usize,
    /// Rows whose sides answer different questions.
    pub different_starts: usize,
    /// Dialogues that stop before their end.
    pub missing_endings: u64,
    /// Rows with weights of messages that the objective does not look at.
    pub unused_weights: usize,
}

/// Bad rows that are shown.
const SHOWN: usize = 5;
/// Rows that are encoded side by side.
const WINDOW: usize = 256;

/// The records of a row and where it is, or what is wrong with it.
pub(super) type Row = std::result::Result<(String, Vec<Record>), String>;

/// Reads `files` and encodes what the objective learns from.
///
/// # Errors
/// When a file cannot be read, a row cannot be used and the config does not say to skip it, or nothing is
/// left.
pub fn load(
    config: &Config,
    files: &[PathBuf],
    codec: &Arc<ChatCodec>,
    context: usize,
    scratch: &Path,
) -> Result<Loaded> {
    let data = &config.data;
    let longest = data.max_length.min(context);
    let mut loading = Loading {
        encoder: Encoder::new(codec.clone(), &config.objective, longest, data.too_long),
        weighs_messages: config.objective.turns == Turns::Weighted,
        writer: Writer::new(scratch)?,
        report: Report::default(),
    };
    let mut window = Vec::new();
    each_row(files, data.format.as_deref(), |row| {
        window.push(row);
        if window.len() == WINDOW {
            loading.add(&std::mem::take(&mut window))?;
        }
        Ok(())
    })?;
    loading.add(&window)?;
    let Loading { writer, report, .. } = loading;
    let Report {
        rows, num_bad, bad, ..
    } = &report;
    if *num_bad > 0 && data.on_bad_row == OnBadRow::Error {
        let more = match num_bad - bad.len() {
            0 => String::new(),
            more => format!("\n… and {more} more"),
        };
        bail!(
            "{num_bad} of {rows} rows cannot be used:\n{}{more}\nMend them, or set data.on_bad_row = \"skip\"",
            bad.join("\n")
        );
    }
    let examples = writer.finish()?;
    if examples.is_empty() {
        let names: Vec<String> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        bail!("{} has nothing to learn from", names.join(", "));
    }
    Ok(Loaded { examples, report })
}

/// Rows on their way to the disk.
struct Loading<'a> {
    encoder: Encoder<'a>,
    weighs_messages: bool,
    writer: Writer,
    report: Report,
}

impl Loading<'_> {
    /// Encodes some rows side by side, and writes their examples in order.
    fn add(&mut self, rows: &[Row]) -> Result<()> {
        let encoder = &self.encoder;
        let encoded = parallel::map(rows.len(), |index| match &rows[index] {
            Ok((place, records)) => {
                let examples = records.iter().map(|record| encoder.encode(record));
                let examples: Result<Vec<_>, _> = examples.collect();
                let examples = examples.map_err(|problem| format!("{place}: {problem}"))?;
                Ok((records, examples.concat()))
            }
            Err(problem) => Err(problem.clone()),
        });
        let report = &mut self.report;
        for row in encoded {
            report.rows += 1;
            let (records, examples) = match row {
                Ok(good) => good,
                Err(problem) => {
                    report.num_bad += 1;
                    if report.bad.len() < SHOWN {
                        report.bad.push(problem);
                    }
                    continue;
                }
            };
            report.different_starts += usize::from(records.iter().any(Record::starts_differ));
            report.missing_endings += records.iter().map(Record::missing_endings).sum::<u64>();
            let is_weighted = examples.iter().any(Example::has_message_weights);
            report.unused_weights += usize::from(is_weighted && !self.weighs_messages);
            for example in &examples {
                let completions = example.completions.iter();
                report.cut += completions.filter(|completion| completion.cut).count();
                report.degenerate += usize::from(example.is_degenerate());
                self.writer.push(example)?;
            }
        }
        Ok(())
    }
}

/// Calls `visit` with each row of `files`.
///
/// # Errors
/// When a file cannot be read, or `visit` fails.
pub(super) fn each_row(
    files: &[PathBuf],
    format: Option<&str>,
    mut visit: impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    let format = format
        .map(str::parse::<Format>)
        .transpose()
        .context("`data.format`")?;
    for path in files {
        for row in logs::open(path, format)? {
            match row {
                Ok(row) => {
                    let place = format!("{}: line {}", path.display(), row.line);
                    visit(Ok((place, row.records)))?;
                }
                Err(problem @ LogError::BadRow { .. }) => visit(Err(problem.to_string()))?,
                Err(problem) => return Err(problem.into()),
            }
        }
    }
    Ok(())
}
