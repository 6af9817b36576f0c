//! Tensors in files: what the formats have in common, and how a decoder is filled from them.

pub(crate) mod gguf;
pub(crate) mod quants;
pub(crate) mod safetensors;

use super::config::ModelConfig;
use super::decoder::{Part, Stored, WeightSource};
use super::names::{Form, Format, Source};
use crate::error::{AgentError, Result};
use crate::kernels::{Buffer, Quantised};

/// An open file, or files, of tensors.
pub(crate) trait TensorFile {
    /// The file's or folder's name, for errors.
    fn place(&self) -> String;

    /// True if there is a tensor of this name.
    fn has(&self, name: &str) -> bool;

    /// The tensor in f32, into `into`.
    ///
    /// # Errors
    /// [`AgentError::Weight`] when it is missing, of another shape, or of a kind that is not supported.
    fn read(&self, name: &str, shape: &[usize], into: &mut [f32]) -> Result<()>;

    /// The tensor as it is, if it is quantised or in half precision.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn quantised(&self, name: &str, shape: &[usize]) -> Result<Option<Quantised>>;
}

/// Fills a decoder from a file.
pub(crate) struct FileSource<'a> {
    pub(crate) file: &'a dyn TensorFile,
    pub(crate) format: Format,
    /// Whether quantised matrices stay so.
    pub(crate) keep_quantised: bool,
}

impl WeightSource for FileSource<'_> {
    fn load(&mut self, config: &ModelConfig, part: Part, shape: &[usize]) -> Result<Vec<Stored>> {
        let format = self.format;
        match part {
            Part::Embedding => self.matrix(config.embedding_name(format), shape),
            Part::Head => self.matrix(config.head_name(format), shape),
            Part::Positions => self.whole(ModelConfig::positions_name(format), shape),
            Part::Norm(index, place) => self.whole(
                &format!("{}.weight", config.norm_module(format, index, place)),
                shape,
            ),
            Part::NormBias(index, place) => self.whole(
                &format!("{}.bias", config.norm_module(format, index, place)),
                shape,
            ),
            Part::Linear(index, kind) => self.linear(
                config,
                &config.sources(format, index, kind),
                ".weight",
                shape,
            ),
            Part::Bias(index, kind) => {
                self.linear(config, &config.sources(format, index, kind), ".bias", shape)
            }
        }
    }
}

impl FileSource<'_> {
    /// The name under which the file has a tensor: some checkpoints of GPT-2 leave the first part out.
    fn found(&self, name: &str) -> String {
        match name.strip_prefix("transformer.") {
            Some(short) if !self.file.has(name) && self.file.has(short) => short.to_owned(),
            _ => name.to_owned(),
        }
    }

    fn whole(&self, name: &str, shape: &[usize]) -> Result<Vec<Stored>> {
        let mut values = Buffer::zeros(shape.iter().product());
        self.file.read(&self.found(name), shape, &mut values)?;
        Ok(vec![Stored::Whole(values)])
    }

    fn matrix(&self, name: &str, shape: &[usize]) -> Result<Vec<Stored>> {
        if self.keep_quantised
            && let Some(matrix) = self.file.quantised(&self.found(name), shape)?
        {
            return Ok(vec![Stored::Quantised(Box::new(matrix))]);
        }
        self.whole(name, shape)
    }

    /// A linear layer's weights or bias, joined from the modules that make it up.
    fn linear(
        &self,
        config: &ModelConfig,
        sources: &[Source],
        suffix: &str,
        shape: &[usize],
    ) -> Result<Vec<Stored>> {
        let width: usize = shape[1..].iter().product();
        let of = |source: &Source| {
            let name = self.found(&format!("{}{suffix}", source.module));
            (name, [&[source.rows.len()], &shape[1..]].concat())
        };
        let transposed = sources.iter().any(|source| source.form == Form::Transposed);
        if self.keep_quantised && shape.len() == 2 && !transposed {
            let mut matrices = Vec::new();
            for source in sources {
                let (name, shape) = of(source);
                let Some(matrix) = self.file.quantised(&name, &shape)? else {
                    break;
                };
                matrices.push(match source.order(config) {
                    Some(order) => matrix.reordered(&order),
                    None => matrix,
                });
            }
            if matrices.len() == sources.len() {
                let stacked =
                    Quantised::stacked(matrices).map_or_else(|parts| parts, |one| vec![one]);
                return Ok(stacked
                    .into_iter()
                    .map(|part| Stored::Quantised(Box::new(part)))
                    .collect());
            }
        }
        let mut values = Buffer::zeros(shape.iter().product());
        for source in sources {
            let (name, mut shape) = of(source);
            let into = &mut values[source.rows.start * width..source.rows.end * width];
            match (source.form, source.order(config)) {
                (Form::Transposed, _) if shape.len() == 2 => {
                    shape.reverse();
                    let mut turned = vec![0.0; into.len()];
                    self.file.read(&name, &shape, &mut turned)?;
                    for (column, row) in turned.chunks_exact(shape[1]).enumerate() {
                        for (into, from) in into[column..].iter_mut().step_by(width).zip(row) {
                            *into = *from;
                        }
                    }
                }
                (_, None) => self.file.read(&name, &shape, into)?,
                (_, Some(order)) => {
                    let mut rows = vec![0.0; into.len()];
                    self.file.read(&name, &shape, &mut rows)?;
                    for (into, row) in into.chunks_exact_mut(width).zip(order) {
                        into.copy_from_slice(&rows[row * width..(row + 1) * width]);
                    }
                }
            }
        }
        Ok(vec![Stored::Whole(values)])
    }
}

/// A tensor that is missing or not as it should be.
pub(crate) fn bad_tensor(
    place: impl Into<String>,
    tensor: &str,
    problem: impl Into<String>,
) -> AgentError {
    AgentError::Weight {
        place: place.into(),
        tensor: tensor.to_owned(),
        problem: problem.into(),
    }
}

/// A file that cannot be used.
pub(crate) fn bad_file(path: &std::path::Path, problem: impl std::fmt::Display) -> AgentError {
    AgentError::File {
        place: path.display().to_string(),
        problem: problem.to_string(),
    }
}
