//! Examples on the disk, so that a log may be larger than memory.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, Result};

use super::example::Example;

/// Examples in the order in which they were written, each read when it is needed.
#[derive(Debug)]
pub struct Store {
    file: File,
    /// Where each example begins; one more for the end.
    starts: Vec<u64>,
    /// Where each example's scored tokens begin in the row of all; one more for the end.
    scored_starts: Vec<u64>,
    /// The hash of all ids and of which are scored.
    fingerprint: blake3::Hash,
    /// The hash of everything.
    contents: blake3::Hash,
    /// Tokens of all completions, shared ones counted each time.
    tokens: u64,
}

/// A store that is being written.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
    starts: Vec<u64>,
    scored_starts: Vec<u64>,
    hasher: blake3::Hasher,
    contents: blake3::Hasher,
    tokens: u64,
}

impl Writer {
    /// An empty store, in a file without a name that vanishes with the process.
    ///
    /// # Errors
    /// When `folder` cannot be written.
    pub fn new(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder)
            .with_context(|| format!("cannot write into `{}`", folder.display()))?;
        Ok(Self {
            file: BufWriter::new(file),
            starts: vec![0],
            scored_starts: vec![0],
            hasher: blake3::Hasher::new(),
            contents: blake3::Hasher::new(),
            tokens: 0,
        })
    }

    /// Appends an example.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn push(&mut self, example: &Example) -> Result<()> {
        let bytes = postcard::to_stdvec(example)?;
        self.file
            .write_all(&bytes)
            .context("cannot write examples: is the disk full?")?;
        self.contents.update(&bytes);
        let mut scored = 0;
        for completion in &example.completions {
            for ids in &completion.sequences {
                self.hasher.update(&(ids.len() as u64).to_le_bytes());
                ids.iter().for_each(|id| {
                    self.hasher.update(&id.to_le_bytes());
                });
            }
            for (sequence, position) in completion.scored() {
                self.hasher.update(&(sequence as u64).to_le_bytes());
                self.hasher.update(&(position as u64).to_le_bytes());
            }
            scored += completion.num_scored();
            self.tokens += completion.num_tokens() as u64;
        }
        extend(&mut self.starts, bytes.len());
        extend(&mut self.scored_starts, scored);
        Ok(())
    }

    /// The store, to be read.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn finish(self) -> Result<Store> {
        let file = self
            .file
            .into_inner()
            .context("cannot write examples: is the disk full?")?;
        Ok(Store {
            file,
            starts: self.starts,
            scored_starts: self.scored_starts,
            fingerprint: self.hasher.finalize(),
            contents: self.contents.finalize(),
            tokens: self.tokens,
        })
    }
}

fn extend(starts: &mut Vec<u64>, length: usize) {
    starts.push(starts.last().copied().unwrap_or(0) + length as u64);
}

impl Store {
    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of all completions, shared ones counted each time.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Which of all scored tokens are those of the example at `index`.
    pub fn scored(&self, index: usize) -> std::ops::Range<u64> {
        self.scored_starts[index]..self.scored_starts[index + 1]
    }

    /// How many tokens are scored.
    pub fn num_scored(&self) -> u64 {
        self.scored_starts[self.len()]
    }

    /// Another for any other ids, or other scored tokens: for other data, tokenizers, templates, mask rules
    /// and lengths.
    pub fn fingerprint(&self) -> blake3::Hash {
        self.fingerprint
    }

    /// Another for any other examples, or the same in another order.
    pub fn contents(&self) -> blake3::Hash {
        self.contents
    }

    /// The example at `index`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn get(&self, index: usize) -> Result<Example> {
        let (start, end) = (self.starts[index], self.starts[index + 1]);
        let mut bytes = vec![0; (end - start) as usize];
        read_at(&self.file, &mut bytes, start).context("cannot read examples back")?;
        Ok(postcard::from_bytes(&bytes)?)
    }
}

#[cfg(unix)]
pub(super) fn read_at(file: &File, bytes: &mut [u8], start: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

#[cfg(not(unix))]
pub(super) fn read_at(mut file: &File, bytes: &mut [u8], start: u64) -> std::io::Result<()> {
    use std::io::{Read as _, Seek as _};
    file.seek(std::io::SeekFrom::Start(start))?;
    file.read_exact(bytes)
}

#[cfg(unix)]
pub(super) fn write_at(file: &File, bytes: &[u8], start: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, start)
}

#[cfg(not(unix))]
pub(super) fn write_at(mut file: &File, bytes: &[u8], start: u64) -> std::io::Result<()> {
    use std::io::Seek as _;
    file.seek(std::io::SeekFrom::Start(start))?;
    file.write_all(bytes)
}
