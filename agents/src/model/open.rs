//! Opening a model: a Hugging Face folder or a GGUF file.

use std::path::Path;

use super::config::ModelConfig;
use super::decoder::Decoder;
use super::file::FileSource;
use super::file::gguf::GgufFile;
use super::file::safetensors::{SafetensorsFolder, read_json};
use super::names::Format;
use crate::error::Result;

/// What becomes of weights that a file has quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// They stay so, and are frozen.
    Quantised,
    /// They become f32, and can be trained.
    Whole,
}

impl Decoder {
    /// Opens a folder with `config.json` and safetensors, or a `.gguf` file. Every parameter is trainable.
    ///
    /// # Errors
    /// What is missing, damaged or not supported, with the name of the file, field or tensor.
    pub fn open(path: &Path, weights: Weights) -> Result<Self> {
        if path.is_file() {
            let file = GgufFile::open(path)?;
            let mut source = FileSource {
                file: &file,
                format: Format::Gguf,
                keep_quantised: weights == Weights::Quantised,
            };
            return Self::load(ModelConfig::from_gguf(&file)?, &mut source);
        }
        let config_path = path.join("config.json");
        let json = read_json(&config_path)?;
        let config = ModelConfig::from_hugging_face(&config_path.display().to_string(), &json)?;
        let mut source = FileSource {
            file: &SafetensorsFolder::open(path, "model")?,
            format: Format::HuggingFace,
            keep_quantised: false,
        };
        Self::load(config, &mut source)
    }
}
