//! Opening a model: a Hugging Face folder, a PEFT folder with its base, or a GGUF file.

use std::path::{Path, PathBuf};

use super::config::ModelConfig;
use super::decoder::Decoder;
use super::file::gguf::GgufFile;
use super::file::safetensors::{SafetensorsFolder, read_json};
use super::file::{FileSource, TensorFile, bad_file};
use super::lora::LoraConfig;
use super::names::Format;
use super::save::read_adapter_config;
use crate::error::Result;

/// What becomes of weights that a file has quantised, or in half precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// They stay so, and are frozen. Numbers are those of f32, to the last bit.
    Quantised,
    /// They become f32, and can be trained.
    Whole,
}

/// What a PEFT folder says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterFolder {
    /// The low-rank updates.
    pub lora: LoraConfig,
    /// Where the model without them is.
    pub base: PathBuf,
}

impl AdapterFolder {
    /// Reads `adapter_config.json` of `folder`; none if there is no such file. A relative base is looked for
    /// from the folder first and from the working directory then.
    ///
    /// # Errors
    /// When it asks for what is not supported.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("adapter_config.json");
        if !path.exists() {
            return Ok(None);
        }
        let (lora, base) = read_adapter_config(&path, &read_json(&path)?)?;
        let beside = folder.join(&base);
        let base = if beside.exists() {
            beside
        } else {
            PathBuf::from(base)
        };
        Ok(Some(Self { lora, base }))
    }
}

impl Decoder {
    /// Opens a folder with `config.json` and safetensors, a folder that `peft` wrote, or a `.gguf` file.
    /// Every parameter is trainable, but with adapters only theirs.
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
        if let Some(adapters) = AdapterFolder::read(path)? {
            let mut decoder = Self::open(&adapters.base, weights)?;
            decoder.open_adapters(path, &adapters.lora)?;
            return Ok(decoder);
        }
        if !path.exists() {
            return Err(bad_file(
                path,
                "there is no such file or folder: a model is a Hugging Face folder or a .gguf file",
            ));
        }
        let config_path = path.join("config.json");
        let json = read_json(&config_path)?;
        let config = ModelConfig::from_hugging_face(&config_path.display().to_string(), &json)?;
        let mut source = FileSource {
            file: &SafetensorsFolder::open(path, "model")?,
            format: Format::HuggingFace,
            keep_quantised: weights == Weights::Quantised,
        };
        Self::load(config, &mut source)
    }

    /// Adds the low-rank updates of a PEFT folder.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen, or one is left over.
    pub fn open_adapters(&mut self, folder: &Path, lora: &LoraConfig) -> Result<()> {
        let file = SafetensorsFolder::open(folder, "adapter_model")?;
        let mut used = 0;
        self.add_adapters(lora, &mut |module, a, b| {
            let name = |part| format!("base_model.model.{module}.lora_{part}.weight");
            file.read(&name("A"), &a.shape, &mut a.data)?;
            let (rank, outputs) = (b.shape[0], b.shape[1]);
            let mut rows = vec![0.0; outputs * rank];
            file.read(&name("B"), &[outputs, rank], &mut rows)?;
            for (output, row) in rows.chunks_exact(rank).enumerate() {
                for (r, value) in row.iter().enumerate() {
                    b.data[r * outputs + output] = *value;
                }
            }
            used += 2;
            Ok(())
        })?;
        if used != file.len() {
            return Err(bad_file(
                &folder.join("adapter_model.safetensors"),
                format!(
                    "it has {} tensors where `target_modules` ask for {used}",
                    file.len()
                ),
            ));
        }
        // GPT-NeoX's files have q, k and v head by head.
        let orders: Vec<_> = self
            .adapters()
            .filter_map(|adapter| Some((adapter.b, self.order_in_file(adapter)?)))
            .collect();
        for (b, order) in orders {
            let parameter = &mut self.parameters[b.0];
            let in_file = parameter.data.clone();
            let outputs = parameter.shape[1];
            for (row, from) in parameter
                .data
                .chunks_exact_mut(outputs)
                .zip(in_file.chunks_exact(outputs))
            {
                row.iter_mut()
                    .zip(&order)
                    .for_each(|(into, place)| *into = from[*place]);
            }
        }
        Ok(())
    }
}
