//! `Cache`: keys and values of a sequence's tokens, which branches of a sequence share.

use std::sync::Arc;

use super::config::ModelConfig;
use crate::kernels::attention::{Keys, Span};
use crate::kernels::{Buffer, Rows};

/// What a decoder remembers of the tokens that it has read.
///
/// A cache is a path of segments. [`Self::fork`] copies nothing: what both branches have in common is
/// stored once and read in place, and each goes on in a segment of its own. A segment that only one branch
/// is left with is continued where it is.
///
/// ```
/// # use socratiq_agents::model::{Cache, Decoder, Adapters, StepMemory};
/// # fn branch(decoder: &Decoder) -> socratiq_agents::Result<()> {
/// let (mut trunk, mut memory) = (Cache::new(decoder), StepMemory::default());
/// decoder.extend(&mut [(&mut trunk, &[1, 2, 3])], Adapters::On, &mut memory)?;
/// let mut branch = trunk.fork();
/// let logits = decoder.extend(&mut [(&mut trunk, &[4]), (&mut branch, &[5])], Adapters::On, &mut memory)?;
/// assert_eq!((trunk.len(), branch.len()), (4, 4));
/// assert_eq!(logits.len(), 2 * decoder.config().vocab_size);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Cache {
    /// What may be shared with other caches, from the beginning of the sequence.
    shared: Vec<Arc<Segment>>,
    own: Segment,
    /// Tokens.
    len: usize,
}

/// Consecutive tokens' keys and values: of every layer the keys in panels of 16 tokens, one column a token, then
/// the values `[capacity, width]`, one row a token.
#[derive(Debug, Default)]
struct Segment {
    /// Tokens.
    len: usize,
    capacity: usize,
    layers: usize,
    /// Entries of k, and of v, of a token.
    width: usize,
    data: Buffer,
}

impl Segment {
    fn new(layers: usize, width: usize) -> Self {
        Self {
            layers,
            width,
            ..Self::default()
        }
    }

    /// Where a layer's keys and its values begin.
    fn starts(&self, layer: usize) -> (usize, usize) {
        let half = self.capacity * self.width;
        (2 * layer * half, (2 * layer + 1) * half)
    }

    /// Tokens per panel of keys.
    fn panel(&self) -> usize {
        self.capacity.min(PANEL)
    }

    fn span(&self, layer: usize, len: usize) -> Span<'_> {
        let (keys, values) = self.starts(layer);
        Span {
            keys: Keys::Panels {
                data: &self.data[keys..values],
                width: self.panel(),
            },
            values: Rows::new(&self.data[values..values + len * self.width], self.width),
        }
    }

    /// Writes a token's keys and values of a layer.
    fn write(&mut self, layer: usize, token: usize, keys: &[f32], values: &[f32]) {
        let ((keys_start, values_start), panel) = (self.starts(layer), self.panel());
        let start = keys_start + token / panel * panel * self.width + token % panel;
        for (into, key) in self.data[start..].iter_mut().step_by(panel).zip(keys) {
            *into = *key;
        }
        self.data[values_start + token * self.width..][..self.width].copy_from_slice(values);
    }

    /// Makes room for `count` more tokens: exactly so many at first, because a branch of a tree often has
    /// one, and twice as many as before later.
    fn reserve(&mut self, count: usize) {
        let wanted = self.len + count;
        if wanted <= self.capacity {
            return;
        }
        let capacity = match self.capacity {
            0 if wanted < PANEL => wanted,
            capacity => wanted.max(2 * capacity).next_multiple_of(PANEL),
        };
        let mut grown = Self {
            len: self.len,
            capacity,
            layers: self.layers,
            width: self.width,
            data: Buffer::zeros(self.layers * 2 * capacity * self.width),
        };
        for layer in 0..self.layers {
            let ((from_keys, from_values), (keys, values)) =
                (self.starts(layer), grown.starts(layer));
            let count = self.len * self.width;
            grown.data[values..values + count]
                .copy_from_slice(&self.data[from_values..from_values + count]);
            if self.panel() == PANEL {
                let count = self.len.next_multiple_of(PANEL) * self.width;
                grown.data[keys..keys + count]
                    .copy_from_slice(&self.data[from_keys..from_keys + count]);
            } else {
                // One panel of fewer tokens, which becomes the beginning of a whole one.
                let rows = self.data[from_keys..].chunks_exact(self.panel().max(1));
                for (into, from) in grown.data[keys..]
                    .chunks_exact_mut(PANEL)
                    .zip(rows)
                    .take(self.width)
                {
                    into[..self.len].copy_from_slice(&from[..self.len]);
                }
            }
        }
        *self = grown;
    }
}

/// Tokens per panel of keys, the width of a register.
const PANEL: usize = 16;

impl Cache {
    /// A cache of no tokens for `decoder`.
    pub fn new(decoder: &super::Decoder) -> Self {
        Self::of(decoder.config())
    }

    fn of(config: &ModelConfig) -> Self {
        Self {
            shared: Vec::new(),
            own: Segment::new(config.num_layers, config.kv_width()),
            len: 0,
        }
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A second cache of the same tokens, sharing the memory of those that there are now.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        let (layers, width) = (self.own.layers, self.own.width);
        if self.own.len > 0 {
            let own = std::mem::replace(&mut self.own, Segment::new(layers, width));
            self.shared.push(Arc::new(own));
        }
        Self {
            shared: self.shared.clone(),
            own: Segment::new(layers, width),
            len: self.len,
        }
    }

    /// Memory in bytes that only this cache holds.
    pub fn own_bytes(&self) -> usize {
        let alone = self
            .shared
            .iter()
            .filter(|segment| Arc::strong_count(segment) == 1);
        let numbers = alone.map(|segment| segment.data.len()).sum::<usize>() + self.own.data.len();
        4 * numbers
    }

    /// Makes room for `count` more tokens.
    pub(crate) fn reserve(&mut self, count: usize) {
        // A segment that nobody else is left to share is continued in place.
        while self.own.len == 0
            && let Some(last) = self.shared.pop()
        {
            match Arc::try_unwrap(last) {
                Ok(segment) => self.own = segment,
                Err(shared) => {
                    self.shared.push(shared);
                    break;
                }
            }
        }
        self.own.reserve(count);
    }

    /// Writes keys and values of a layer for tokens that room was made for; they count after
    /// [`Self::commit`]. Each of `rows` ends with k and v.
    pub(crate) fn write<'a>(&mut self, layer: usize, rows: impl Iterator<Item = &'a [f32]>) {
        let width = self.own.width;
        for (index, row) in rows.enumerate() {
            let (keys, values) = row[row.len() - 2 * width..].split_at(width);
            self.own.write(layer, self.own.len + index, keys, values);
        }
    }

    /// Counts `count` written tokens.
    pub(crate) fn commit(&mut self, count: usize) {
        self.own.len += count;
        self.len += count;
    }

    /// Keys and values of a layer from the first token on, `new` written but uncounted ones included.
    pub(crate) fn path(&self, layer: usize, new: usize) -> Vec<Span<'_>> {
        self.shared
            .iter()
            .map(|segment| segment.span(layer, segment.len))
            .chain([self.own.span(layer, self.own.len + new)])
            .collect()
    }
}
