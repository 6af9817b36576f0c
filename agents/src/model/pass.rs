//! Whole passes over a packed batch: log-probabilities of its scored tokens, and the gradient of that.

use super::batch::Batch;
use super::decoder::{Decoder, Weight};
use super::geometry::Geometry;
use super::gradients::Gradients;
use super::layer::{LayerScratch, LayerTape, View};
use crate::error::Result;
use crate::kernels::{
    Buffer, Distributions, Kernel, Matrix, Rows, Target, divergences, divergences_backward,
    token_logprobs, token_logprobs_backward,
};

/// What the forward pass keeps for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything: the backward pass computes nothing twice that is expensive.
    Everything,
    /// The input of every layer, from which the layer is computed again: less memory for a third more time.
    Inputs,
}

/// A forward pass that can be taken back. Its memory serves one batch after the other.
#[derive(Debug, Default)]
pub struct Tape {
    layers: Vec<LayerTape>,
    /// Where layers are computed that are not kept.
    shared: LayerTape,
    scratch: LayerScratch,
    /// `[T, D]`: the residual stream, then its gradient.
    stream: Buffer,
    /// `[R, D]`: the stream after the last layer where tokens are scored, before the final norm.
    last: Buffer,
    /// `[R, D]`: after it.
    hidden: Buffer,
    /// `[R]`.
    log_sums: Vec<f32>,
    slopes: Buffer,
    kept: Option<Keep>,
    /// The key of the adapters' dropout for passes to train on.
    pub dropout: u64,
}

/// What a reference says where a batch is scored, over the whole vocabulary.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// `[R, D]`.
    hidden: Buffer,
    /// `[R]`.
    log_sums: Vec<f32>,
}

/// The gradient of a loss by divergences from a reference.
#[derive(Clone, Copy, Debug)]
pub struct DivergenceSlopes<'a> {
    /// The reference.
    pub decoder: &'a Decoder,
    /// What it said of the batch.
    pub snapshot: &'a Snapshot,
    /// `[R]`: the gradient by [`Decoder::divergences`].
    pub slopes: &'a [f32],
}

/// Whether the adapters are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapters {
    /// The policy.
    On,
    /// The model without them: the reference of a LoRA run, without a copy.
    Off,
}

impl Decoder {
    /// About how much memory a pass over `tokens` tokens takes to train on, in bytes.
    pub fn tape_bytes(&self, tokens: usize, keep: Keep) -> usize {
        let config = &self.config;
        let layer = config.tape_width() + config.hidden_size;
        let kept = match keep {
            Keep::Everything => config.num_layers * layer,
            Keep::Inputs => config.num_layers * config.hidden_size + layer,
        };
        // One layer's gradients beside what is kept, and the stream in four places.
        4 * tokens * (kept + layer + 4 * config.hidden_size)
    }

    pub(crate) fn view(&self, adapters: Adapters, kernel: Kernel) -> View<'_> {
        View {
            decoder: self,
            adapters: adapters == Adapters::On,
            kernel,
            dropout: None,
        }
    }

    /// The log-probability of every scored token given the tokens before it, in nats, `[R]`. Keeps nothing.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    pub fn logprobs(&self, batch: &Batch, adapters: Adapters, tape: &mut Tape) -> Result<Vec<f32>> {
        self.forward(batch, adapters, None, tape)
    }

    /// As [`Self::logprobs`], and remembers in `tape` what [`Self::backward`] needs.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    pub fn logprobs_to_train(
        &self,
        batch: &Batch,
        keep: Keep,
        tape: &mut Tape,
    ) -> Result<Vec<f32>> {
        self.forward(batch, Adapters::On, Some(keep), tape)
    }

    fn forward(
        &self,
        batch: &Batch,
        adapters: Adapters,
        keep: Option<Keep>,
        tape: &mut Tape,
    ) -> Result<Vec<f32>> {
        self.hidden(batch, adapters, keep, tape)?;
        let mut logprobs = vec![0.0; batch.scored.len()];
        tape.log_sums.resize(batch.scored.len(), 0.0);
        token_logprobs(
            Rows::new(&tape.hidden, self.config.hidden_size),
            self.matrix(self.head_weight()),
            &targets(batch),
            &mut logprobs,
            &mut tape.log_sums,
        );
        Ok(logprobs)
    }

    /// The logits where tokens are scored, `[R, V]`.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    pub fn logits(&self, batch: &Batch, adapters: Adapters, tape: &mut Tape) -> Result<Buffer> {
        self.read(batch, adapters, tape)?;
        let all: Vec<usize> = (0..batch.scored.len()).collect();
        Ok(self.logits_of(&all, tape))
    }

    /// Reads a batch, so that [`Self::logits_of`] has the logits of some of its scored tokens at a time.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    pub fn read(&self, batch: &Batch, adapters: Adapters, tape: &mut Tape) -> Result<()> {
        self.hidden(batch, adapters, None, tape)
    }

    /// The logits of some scored tokens of the batch that was read into `tape`, `[tokens, V]`.
    pub fn logits_of(&self, tokens: &[usize], tape: &Tape) -> Buffer {
        let (vocabulary, width) = (self.config.vocab_size, self.config.hidden_size);
        let mut logits = Buffer::zeros(tokens.len() * vocabulary);
        let all = Rows::new(&tape.hidden, width);
        let mut hidden = Buffer::zeros(tokens.len() * width);
        for (into, token) in hidden.chunks_exact_mut(width).zip(tokens) {
            into.copy_from_slice(all.row(*token));
        }
        let head = self.matrix(self.head_weight());
        head.linear(
            Rows::new(&hidden, width),
            None,
            Kernel::Product,
            Target::set(&mut logits, vocabulary),
        );
        logits
    }

    /// What this model says where tokens are scored, to measure others against.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    pub fn snapshot(&self, batch: &Batch, adapters: Adapters, tape: &mut Tape) -> Result<Snapshot> {
        self.forward(batch, adapters, None, tape)?;
        Ok(Snapshot {
            hidden: tape.hidden.clone(),
            log_sums: tape.log_sums.clone(),
        })
    }

    /// KL(reference ‖ this model) at every scored token, over the whole vocabulary, in nats, `[R]`, after
    /// [`Self::logprobs`] or [`Self::logprobs_to_train`] of the batch that `snapshot` is of.
    pub fn divergences(&self, reference: &Self, snapshot: &Snapshot, tape: &Tape) -> Vec<f32> {
        divergences(
            self.distributions(&tape.hidden, &tape.log_sums),
            reference.distributions(&snapshot.hidden, &snapshot.log_sums),
        )
    }

    fn distributions<'a>(&'a self, hidden: &'a [f32], log_sums: &'a [f32]) -> Distributions<'a> {
        Distributions {
            hidden: Rows::new(hidden, self.config.hidden_size),
            head: self.matrix(self.head_weight()),
            log_sums,
        }
    }

    /// Leaves the hidden states of the scored rows, after the final norm, in the tape.
    fn hidden(
        &self,
        batch: &Batch,
        adapters: Adapters,
        keep: Option<Keep>,
        tape: &mut Tape,
    ) -> Result<()> {
        batch.check(self.config.vocab_size, self.config.context_length)?;
        let mut view = self.view(adapters, Kernel::Product);
        view.dropout = keep.map(|_| tape.dropout);
        let geometry = Geometry::new(self, batch);
        let width = self.config.hidden_size;
        tape.kept = keep;
        tape.layers.resize_with(
            if keep.is_some() { self.layers.len() } else { 0 },
            LayerTape::default,
        );

        // 1. The embeddings.
        view.embed(
            &batch.ids,
            &geometry.positions,
            tape.stream.reuse(batch.len() * width),
        );
        // 2. The layers.
        for (index, layer) in self.layers.iter().enumerate() {
            if let Some(kept) = tape.layers.get_mut(index) {
                kept.input
                    .reuse(tape.stream.len())
                    .copy_from_slice(&tape.stream);
            }
            let (kept, scratch) = match keep {
                Some(Keep::Everything) => (&mut tape.layers[index], &mut tape.scratch),
                Some(Keep::Inputs) | None => (&mut tape.shared, &mut tape.scratch),
            };
            view.project(layer, &tape.stream, &geometry.angles, kept, scratch);
            geometry.attend(self, kept);
            view.finish(layer, &mut tape.stream, kept, scratch);
        }
        // 3. The scored rows and the final norm.
        let count = batch.scored.len();
        let last = tape.last.reuse(count * width);
        for (into, scored) in last.chunks_exact_mut(width).zip(&batch.scored) {
            into.copy_from_slice(&tape.stream[scored.row as usize * width..][..width]);
        }
        self.norm_kernel(self.norm)
            .forward(last, tape.hidden.reuse(count * width));
        Ok(())
    }

    /// Adds to `gradients` the gradient of `Σ slopes · logprobs` by every trainable parameter, after
    /// [`Self::logprobs_to_train`] on the same batch. `slopes` is `[R]`: the gradient of the loss by each
    /// log-probability.
    ///
    /// # Panics
    /// When the tape is not that of a pass to train on.
    pub fn backward(
        &self,
        batch: &Batch,
        slopes: &[f32],
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) {
        self.backward_with(batch, slopes, None, tape, gradients);
    }

    /// As [`Self::backward`], and adds the gradient by divergences from a reference.
    ///
    /// # Panics
    /// As [`Self::backward`].
    pub fn backward_with(
        &self,
        batch: &Batch,
        slopes: &[f32],
        divergence: Option<DivergenceSlopes<'_>>,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) {
        let keep = tape.kept.take();
        assert!(
            keep.is_some() && tape.layers.len() == self.layers.len(),
            "no forward pass to take back"
        );
        let mut view = self.view(Adapters::On, Kernel::Product);
        view.dropout = Some(tape.dropout);
        let geometry = Geometry::new(self, batch);
        let width = self.config.hidden_size;
        let count = batch.scored.len();

        // 1. The head and the final norm.
        let mut hidden_slope = Buffer::zeros(count * width);
        let head_slope = match self.head_weight() {
            Weight::Whole(id) => gradients.of(*id),
            Weight::Quantised(_) => None,
        };
        token_logprobs_backward(
            Rows::new(&tape.hidden, width),
            self.matrix(self.head_weight()),
            &targets(batch),
            &tape.log_sums,
            slopes,
            &mut hidden_slope,
            head_slope,
        );
        if let Some(divergence) = divergence {
            let (other, said) = (divergence.decoder, divergence.snapshot);
            divergences_backward(
                self.distributions(&tape.hidden, &tape.log_sums),
                other.distributions(&said.hidden, &said.log_sums),
                divergence.slopes,
                &mut hidden_slope,
                match self.head_weight() {
                    Weight::Whole(id) => gradients.of(*id),
                    Weight::Quantised(_) => None,
                },
            );
        }
        let mut last_slope = Buffer::zeros(count * width);
        view.norm_backward(
            self.norm,
            &tape.last,
            &hidden_slope,
            &mut last_slope,
            gradients,
        );
        let slope = tape.slopes.reuse_zeroed(batch.len() * width);
        for (from, scored) in last_slope.chunks_exact(width).zip(&batch.scored) {
            for (into, from) in slope[scored.row as usize * width..].iter_mut().zip(from) {
                *into += from;
            }
        }
        // 2. The layers.
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let kept = match keep {
                Some(Keep::Inputs) => {
                    let (shared, input) = (&mut tape.shared, &tape.layers[index].input);
                    shared.input.reuse(input.len()).copy_from_slice(input);
                    let stream = tape.stream.reuse(input.len());
                    stream.copy_from_slice(input);
                    view.project(layer, stream, &geometry.angles, shared, &mut tape.scratch);
                    geometry.attend(self, shared);
                    view.finish(layer, stream, shared, &mut tape.scratch);
                    &*shared
                }
                _ => &tape.layers[index],
            };
            view.layer_backward(layer, kept, &geometry, slope, &mut tape.scratch, gradients);
        }
        // 3. The embeddings.
        let scatter = |into: &mut [f32], rows: &[u32]| {
            for (from, row) in slope.chunks_exact(width).zip(rows) {
                for (into, from) in into[*row as usize * width..].iter_mut().zip(from) {
                    *into += from;
                }
            }
        };
        if let Weight::Whole(id) = self.embedding
            && let Some(into) = gradients.of(id)
        {
            scatter(into, &batch.ids);
        }
        if let Some(into) = self.learned_positions.and_then(|id| gradients.of(id)) {
            scatter(into, &geometry.positions);
        }
    }
}

impl View<'_> {
    /// The embeddings of `ids`, `[T, D]`.
    pub(crate) fn embed(&self, ids: &[u32], positions: &[u32], out: &mut [f32]) {
        let decoder = self.decoder;
        let width = decoder.config.hidden_size;
        let matrix = decoder.matrix(&decoder.embedding);
        let learned = decoder.learned_positions.map(|id| decoder.values(id));
        for ((into, id), position) in out.chunks_exact_mut(width).zip(ids).zip(positions) {
            match matrix {
                Matrix::Whole(rows) => into.copy_from_slice(rows.row(*id as usize)),
                Matrix::Quantised(matrix) => matrix.dequantise_row(*id as usize, into),
            }
            if let Some(learned) = learned {
                for (into, offset) in into.iter_mut().zip(&learned[*position as usize * width..]) {
                    *into += offset;
                }
            }
        }
    }
}

fn targets(batch: &Batch) -> Vec<u32> {
    batch.scored.iter().map(|scored| scored.target).collect()
}
