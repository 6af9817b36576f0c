//! Logs to examples on the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use socratiq_agents::chat::ChatCodec;
use socratiq_agents::kernels::parallel;

use super::config::{Config, OnBadRow};
use super::example::Encoder;
use super::store::{Store, Writer};
use crate::logs::{self, Format, LogError, Record};

/// What became of the rows of some logs.
#[derive(Debug)]
pub struct Loaded {
    /// The examples.
    pub examples: Store,
    /// Rows that were read.
    pub rows: usize,
    /// Rows that were left out because they cannot be used.
    pub bad: Vec<String>,
    /// How many rows were bad; [`Self::bad`] has the first few.
    pub num_bad: usize,
    /// Completions that were cut at the longest length.
    pub cut: usize,
    /// Examples whose completions are all the same.
    pub degenerate: usize,
}

/// Bad rows that are shown.
const SHOWN: usize = 5;
/// Rows that are encoded side by side.
const WINDOW: usize = 256;

/// A record and where it is, or what is wrong with a row.
pub(super) type Row = std::result::Result<(String, Record), String>;

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
    let encoder = Encoder::new(codec.clone(), &config.objective, longest, data.too_long);
    let mut writer = Writer::new(scratch)?;
    let (mut rows, mut num_bad, mut cut, mut degenerate) = (0, 0, 0, 0);
    let mut bad = Vec::new();
    let mut encode = |window: Vec<Row>| -> Result<()> {
        rows += window.len();
        let encoded = parallel::map(window.len(), |index| match &window[index] {
            Ok((place, record)) => encoder
                .encode(record)
                .map_err(|problem| format!("{place}: {problem}")),
            Err(problem) => Err(problem.clone()),
        });
        for examples in encoded {
            match examples {
                Ok(examples) => {
                    for example in examples {
                        let completions = example.completions.iter();
                        cut += completions.filter(|completion| completion.cut).count();
                        degenerate += usize::from(example.is_degenerate());
                        writer.push(&example)?;
                    }
                }
                Err(problem) => {
                    num_bad += 1;
                    if bad.len() < SHOWN {
                        bad.push(problem);
                    }
                }
            }
        }
        Ok(())
    };
    let mut window = Vec::new();
    each_row(files, data.format.as_deref(), |row| {
        window.push(row);
        if window.len() == WINDOW {
            encode(std::mem::take(&mut window))?;
        }
        Ok(())
    })?;
    encode(window)?;
    if num_bad > 0 && data.on_bad_row == OnBadRow::Error {
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
    Ok(Loaded {
        examples,
        rows,
        bad,
        num_bad,
        cut,
        degenerate,
    })
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
                    for record in row.records {
                        let place = format!("{}: line {}", path.display(), row.line);
                        visit(Ok((place, record)))?;
                    }
                }
                Err(problem @ LogError::BadRow { .. }) => visit(Err(problem.to_string()))?,
                Err(problem) => return Err(problem.into()),
            }
        }
    }
    Ok(())
}
