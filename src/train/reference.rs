//! The reference's log-probabilities on the disk, so that they are computed once.
//!
//! A file begins with a header that says which model and which tokens it is of; then comes one byte for each
//! example, 1 where it is there; then a number for each scored token of each example. So a run that was
//! stopped while it computed them goes on, and a file of other weights or other tokens is not used.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use socratiq_agents::model::{Adapters, Decoder, Tape};

use super::example::Completion;
use super::learner::token_logprobs;
use super::store::Store;
use crate::spool::{read_at, write_at};

/// Log-probabilities of every scored token of a store.
#[derive(Debug)]
pub struct Reference {
    file: File,
    /// Where the presence bytes begin.
    presence: u64,
    /// Where the numbers begin.
    numbers: u64,
}

/// What the numbers depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    /// The weights.
    model: String,
    /// Ids and scored tokens: data, tokenizer, template, mask rule and longest length.
    tokens: String,
    examples: usize,
    scored: u64,
}

const MAGIC: &[u8; 8] = b"socrefs1";

/// What was found under the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// The numbers of this model and these tokens, or some of them.
    Current,
    /// Those of another model.
    OtherModel,
    /// Those of other tokens.
    OtherTokens,
}

impl Reference {
    /// Opens `path`, or begins it anew where what is there is of another model or of other tokens.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, model: blake3::Hash, store: &Store) -> Result<(Self, Found)> {
        let header = Header {
            model: model.to_hex().to_string(),
            tokens: store.fingerprint().to_hex().to_string(),
            examples: store.len(),
            scored: store.num_scored(),
        };
        let place = || format!("`{}`", path.display());
        let text = serde_json::to_vec(&header)?;
        let presence = (MAGIC.len() + 4 + text.len()) as u64;
        let numbers = presence + store.len() as u64;
        let whole = numbers + 4 * store.num_scored();
        let found = match read_header(path).with_context(place)? {
            None => Found::Nothing,
            Some((old, length)) if old == header && length == whole => Found::Current,
            // It was cut off, perhaps when it was being made.
            Some((old, _)) if old == header => Found::Nothing,
            Some((old, _)) if old.tokens != header.tokens => Found::OtherTokens,
            Some(_) => Found::OtherModel,
        };
        if found != Found::Current {
            let mut file = File::create(path).with_context(place)?;
            file.write_all(MAGIC).with_context(place)?;
            file.write_all(&(text.len() as u32).to_le_bytes())
                .with_context(place)?;
            file.write_all(&text).with_context(place)?;
            file.set_len(whole).with_context(place)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(place)?;
        Ok((
            Self {
                file,
                presence,
                numbers,
            },
            found,
        ))
    }

    /// Those of `examples` whose numbers are not there yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn missing(&self, examples: &[usize], store: &Store) -> Result<Vec<usize>> {
        let mut present = vec![0; store.len()];
        read_at(&self.file, &mut present, self.presence)
            .context("cannot read the reference's cache")?;
        Ok(examples
            .iter()
            .copied()
            .filter(|index| present[*index] == 0)
            .collect())
    }

    /// Computes the numbers of `examples`, a window at a time, and tells `progress` how many are done.
    ///
    /// # Errors
    /// When an example does not fit the model, or the file cannot be written.
    pub fn compute(
        &self,
        examples: &[usize],
        store: &Store,
        (decoder, adapters): (&Decoder, Adapters),
        tokens_per_batch: usize,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let mut tape = Tape::default();
        for (window, indices) in examples.chunks(WINDOW).enumerate() {
            let read = indices.iter().map(|index| store.get(*index));
            let window_examples = read.collect::<Result<Vec<_>>>()?;
            let completions: Vec<&Completion> = window_examples
                .iter()
                .flat_map(|example| &example.completions)
                .collect();
            let all = token_logprobs(decoder, adapters, &completions, tokens_per_batch, &mut tape)?;
            let mut all = all.into_iter();
            for (index, example) in indices.iter().zip(&window_examples) {
                let own = all.by_ref().take(example.completions.len()).flatten();
                let bytes: Vec<u8> = own.flat_map(f32::to_le_bytes).collect();
                self.put(*index, &bytes, store)
                    .context("cannot write the reference's cache: is the disk full?")?;
            }
            progress((window * WINDOW + indices.len()).min(examples.len()))?;
        }
        self.file.sync_data()?;
        Ok(())
    }

    fn put(&self, index: usize, bytes: &[u8], store: &Store) -> io::Result<()> {
        write_at(
            &self.file,
            bytes,
            self.numbers + 4 * store.scored(index).start,
        )?;
        write_at(&self.file, &[1], self.presence + index as u64)
    }

    /// The numbers of the example at `index`, by completion. `counts` says how many tokens each has.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn get(&self, index: usize, store: &Store, counts: &[usize]) -> Result<Vec<Vec<f32>>> {
        let range = store.scored(index);
        let mut bytes = vec![0; 4 * (range.end - range.start) as usize];
        read_at(&self.file, &mut bytes, self.numbers + 4 * range.start)
            .context("cannot read the reference's cache")?;
        let mut numbers = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes));
        Ok(counts
            .iter()
            .map(|count| numbers.by_ref().take(*count).collect())
            .collect())
    }
}

/// Examples that are computed before their numbers are written.
const WINDOW: usize = 64;

/// What a file says it is of, and how long it is.
fn read_header(path: &Path) -> Result<Option<(Header, u64)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut start = [0; MAGIC.len() + 4];
    if read_at(&file, &mut start, 0).is_err() || !start.starts_with(MAGIC) {
        return Ok(None);
    }
    let [.., a, b, c, d] = start;
    let mut text = vec![0; u32::from_le_bytes([a, b, c, d]) as usize];
    // A file that ends within its header was never finished.
    if read_at(&file, &mut text, start.len() as u64).is_err() {
        return Ok(None);
    }
    let length = file.metadata()?.len();
    Ok(serde_json::from_slice(&text)
        .ok()
        .map(|header| (header, length)))
}
