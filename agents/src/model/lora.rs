//! LoRA: which linear layers get low-rank updates (Hu et al. 2021, arXiv:2106.09685), in PEFT's terms.

use std::ops::Range;

use super::decoder::{Decoder, ParameterId};
use crate::kernels::LowRank;

/// A low-rank update of some outputs of a linear layer.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    /// `[r, inputs]`.
    pub(crate) a: ParameterId,
    /// `[r, outputs]`.
    pub(crate) b: ParameterId,
    /// The outputs that it updates.
    pub(crate) outputs: Range<usize>,
    pub(crate) rank: usize,
    pub(crate) scale: f32,
}

impl Adapter {
    pub(crate) fn kernel<'a>(&self, decoder: &'a Decoder) -> LowRank<'a> {
        LowRank {
            a: decoder.values(self.a),
            b: decoder.values(self.b),
            rank: self.rank,
            scale: self.scale,
        }
    }
}
