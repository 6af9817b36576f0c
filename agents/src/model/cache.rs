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
///
/// Panels begin at multiples of 16 of the tokens' positions, whatever the first one's is, so that attention reads
/// them where they are.
#[derive(Debug, Default)]
struct Segment {
    /// Tokens.
    len: usize,
    /// Places that are left free before the first of them.
    lead: usize,
    /// Places.
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
            values: Rows::new(
                &self.data[values..values + self.capacity * self.width],
                self.width,
            ),
            lead: self.lead,
            len,
        }
    }

    /// Writes a token's keys and values of a layer.
    fn write(&mut self, layer: usize, token: usize, keys: &[f32], values: &[f32]) {
        let ((keys_start, values_start), panel) = (self.starts(layer), self.panel());
        let place = self.lead + token;
        let start = keys_start + place / panel * panel * self.width + place % panel;
        for (into, key) in self.data[start..].iter_mut().step_by(panel).zip(keys) {
            *into = *key;
        }
        self.data[values_start + place * self.width..][..self.width].copy_from_slice(values);
    }

    /// Makes room for `count` more tokens: exactly so many at first, because a branch of a tree often has
    /// one, and twice as many as before later. The first token of all is at position `start`.
    fn reserve(&mut self, count: usize, start: usize) {
        let wanted = self.lead + self.len + count;
        if wanted <= self.capacity {
            return;
        }
        let (lead, capacity) = if self.capacity == 0 && wanted < PANEL {
            (0, wanted)
        } else {
            // Up to the end of a block of attention.
            let (lead, wanted) = (start % PANEL, self.len + count);
            let places = (lead + wanted).max(2 * self.capacity);
            let first = start - lead;
            (lead, (first + places).next_multiple_of(BLOCK) - first)
        };
        let mut grown = Self {
            len: self.len,
            lead,
            capacity,
            layers: self.layers,
            width: self.width,
            data: Buffer::zeros(self.layers * 2 * capacity * self.width),
        };
        for layer in 0..self.layers {
            let ((from_keys, from_values), (keys, values)) =
                (self.starts(layer), grown.starts(layer));
            if self.panel() == PANEL {
                let count = (self.lead + self.len).next_multiple_of(PANEL) * self.width;
                grown.data[keys..keys + count]
                    .copy_from_slice(&self.data[from_keys..from_keys + count]);
                let count = (self.lead + self.len) * self.width;
                grown.data[values..values + count]
                    .copy_from_slice(&self.data[from_values..from_values + count]);
            } else {
                grown.copy(layer, 0, self);
            }
        }
        *self = grown;
    }

    /// Writes what `other` has of a layer from `token` on.
    fn copy(&mut self, layer: usize, token: usize, other: &Self) {
        let ((keys, values), panel, width) = (other.starts(layer), other.panel(), other.width);
        let mut column = vec![0.0; width];
        for from in 0..other.len {
            let place = other.lead + from;
            let keys = &other.data[keys + place / panel * panel * width + place % panel..];
            for (into, key) in column.iter_mut().zip(keys.iter().step_by(panel)) {
                *into = *key;
            }
            let row = &other.data[values + place * width..][..width];
            self.write(layer, token + from, &column, row);
        }
    }
}

/// Tokens per panel of keys, the width of a register.
const PANEL: usize = 16;
/// Tokens per block of attention.
const BLOCK: usize = 64;
/// Segments of fewer tokens are merged where there are many.
const SHORT: usize = 2 * BLOCK;

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
        if self.own.len == 0 {
            self.merge(count);
        }
        self.own.reserve(count, self.len - self.own.len);
    }

    /// Copies the last segments into one where they are many and short, as along a beam: attention would copy them
    /// each time. A path of n tokens is copied n / 16 times at most, in stretches of no more than [`SHORT`].
    fn merge(&mut self, count: usize) {
        let short = |segment: &&Arc<Segment>| segment.len < SHORT;
        let segments = self.shared.iter().rev().take_while(short).count();
        if segments < PANEL {
            return;
        }
        let tail = self.shared.split_off(self.shared.len() - segments);
        let tokens: usize = tail.iter().map(|segment| segment.len).sum();
        self.own.reserve(tokens + count, self.len - tokens);
        for segment in &tail {
            for layer in 0..self.own.layers {
                self.own.copy(layer, self.own.len, segment);
            }
            self.own.len += segment.len;
        }
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
