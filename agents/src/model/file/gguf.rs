//! GGUF files: tensors, quantised or not, and the model's description among the metadata.

use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};
use memmap2::Mmap;

use super::quants::{is_packed, unpack};
use super::{TensorFile, bad_file, bad_tensor};
use crate::error::{AgentError, Result};
use crate::kernels::Quantised;

/// An open GGUF file.
pub(crate) struct GgufFile {
    path: PathBuf,
    map: Mmap,
    content: Content,
}

impl GgufFile {
    /// Opens a file and reads its metadata.
    ///
    /// # Errors
    /// When it is no GGUF file, damaged, cut short, or quantised in a way that is not supported.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| bad_file(path, error))?;
        // SAFETY: the map is read-only. A file that another process changes while it is mapped gives wrong
        // numbers or ends the process; model files are not changed in place.
        #[allow(unsafe_code, reason = "memory-mapping a file is unsafe by nature")]
        let map = unsafe { Mmap::map(&file) }.map_err(|error| bad_file(path, error))?;
        let content = Content::read(&mut BufReader::new(Cursor::new(&map[..])))
            .map_err(|error| bad_file(path, explain(&error.to_string())))?;
        let opened = Self {
            path: path.to_owned(),
            map,
            content,
        };
        opened.check_length()?;
        Ok(opened)
    }

    /// A file that was cut short fails here, not when its last tensor is met.
    fn check_length(&self) -> Result<()> {
        for name in self.content.tensor_infos.keys() {
            self.bytes(name)?;
        }
        Ok(())
    }

    fn bytes(&self, name: &str) -> Result<&[u8]> {
        let info = &self.content.tensor_infos[name];
        let (count, dtype) = (info.shape.elem_count(), info.ggml_dtype);
        let length = count / dtype.block_size() * dtype.type_size();
        let start = (self.content.tensor_data_offset + info.offset) as usize;
        self.map.get(start..start + length).ok_or_else(|| {
            bad_file(
                &self.path,
                format!(
                    "cut short: tensor `{name}` ends at byte {} of {}; download the file again",
                    start + length,
                    self.map.len()
                ),
            )
        })
    }

    fn problem(&self, field: &str, problem: impl Into<String>) -> AgentError {
        AgentError::Config {
            place: self.path.display().to_string(),
            field: field.to_owned(),
            problem: problem.into(),
        }
    }

    /// A piece of metadata.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A string of the metadata.
    ///
    /// # Errors
    /// When it is missing or no string.
    pub(crate) fn text(&self, key: &str) -> Result<&str> {
        match self.value(key) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(self.problem(key, "it is not a string")),
            None => Err(self.problem(key, "it is missing")),
        }
    }

    /// A count of the metadata, if it is there.
    ///
    /// # Errors
    /// When it is no count.
    pub(crate) fn count_if_any(&self, key: &str) -> Result<Option<usize>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::U32(n)) => Ok(Some(*n as usize)),
            Some(Value::I32(n)) if *n >= 0 => Ok(Some(*n as usize)),
            Some(Value::U64(n)) => Ok(Some(*n as usize)),
            Some(Value::U16(n)) => Ok(Some(usize::from(*n))),
            Some(Value::U8(n)) => Ok(Some(usize::from(*n))),
            Some(_) => Err(self.problem(key, "it is not a count")),
        }
    }

    /// A count of the metadata.
    ///
    /// # Errors
    /// When it is missing or no count.
    pub(crate) fn count(&self, key: &str) -> Result<usize> {
        self.count_if_any(key)?
            .ok_or_else(|| self.problem(key, "it is missing"))
    }

    /// A number of the metadata, if it is there.
    ///
    /// # Errors
    /// When it is no number.
    pub(crate) fn number_if_any(&self, key: &str) -> Result<Option<f64>> {
        match self.value(key) {
            None => Ok(None),
            // The decimal that was meant: 0.00001 is stored as 9.99999974e-6.
            Some(Value::F32(x)) => x
                .to_string()
                .parse()
                .map(Some)
                .map_err(|_| self.problem(key, "it is not a number")),
            Some(Value::F64(x)) => Ok(Some(*x)),
            Some(_) => Err(self.problem(key, "it is not a number")),
        }
    }

    /// The elements of an array of the metadata that are strings.
    ///
    /// # Errors
    /// When it is missing or no array of strings.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let Some(Value::Array(values)) = self.value(key) else {
            return Err(self.problem(key, "it is missing or no array"));
        };
        values
            .iter()
            .map(|value| match value {
                Value::String(text) => Ok(text.as_str()),
                _ => Err(self.problem(key, "it is not an array of strings")),
            })
            .collect()
    }

    /// The integers of an array of the metadata; none if it is missing.
    ///
    /// # Errors
    /// When it is no array of integers.
    pub(crate) fn integers(&self, key: &str) -> Result<Vec<i64>> {
        self.array(key, |value| match value {
            Value::I32(n) => Some(i64::from(*n)),
            Value::U32(n) => Some(i64::from(*n)),
            Value::I64(n) => Some(*n),
            _ => None,
        })
    }

    /// The numbers of an array of the metadata; none if it is missing.
    ///
    /// # Errors
    /// When it is no array of numbers.
    pub(crate) fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        self.array(key, |value| match value {
            Value::F32(x) => Some(f64::from(*x)),
            _ => None,
        })
    }

    fn array<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
        let values = match self.value(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) => values,
            Some(_) => return Err(self.problem(key, "it is not an array")),
        };
        let read =
            |value| read(value).ok_or_else(|| self.problem(key, "an element is of another type"));
        values.iter().map(read).collect()
    }

    /// The number of rows of a tensor.
    pub(crate) fn rows(&self, name: &str) -> Option<usize> {
        self.content
            .tensor_infos
            .get(name)?
            .shape
            .dims()
            .first()
            .copied()
    }

    /// An error about a piece of the metadata that is not supported.
    pub(crate) fn refuse(&self, key: &str, found: &str, supported: &str) -> AgentError {
        self.problem(
            key,
            format!("`{found}` is not supported; supported: {supported}"),
        )
    }
}

impl TensorFile for GgufFile {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn read(&self, name: &str, shape: &[usize], into: &mut [f32]) -> Result<()> {
        if let Some(matrix) = self.quantised(name, shape)? {
            for (row, into) in into.chunks_exact_mut(matrix.width()).enumerate() {
                matrix.dequantise_row(row, into);
            }
            return Ok(());
        }
        let bytes = self.bytes(name)?;
        match self.content.tensor_infos[name].ggml_dtype {
            GgmlDType::F32 => {
                for (into, from) in into.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *into = f32::from_le_bytes(*from);
                }
            }
            other => {
                return Err(bad_tensor(
                    self.place(),
                    name,
                    format!("its type {other:?} is not supported"),
                ));
            }
        }
        Ok(())
    }

    fn quantised(&self, name: &str, shape: &[usize]) -> Result<Option<Quantised>> {
        let problem = |problem: String| bad_tensor(self.place(), name, problem);
        let info = self
            .content
            .tensor_infos
            .get(name)
            .ok_or_else(|| problem("it is missing".to_owned()))?;
        if info.shape.dims() != shape {
            return Err(problem(format!(
                "its shape is {:?} instead of {shape:?}",
                info.shape.dims()
            )));
        }
        let dtype = info.ggml_dtype;
        if !is_packed(dtype) {
            return Ok(None);
        }
        let width = *shape.last().unwrap_or(&0);
        if !width.is_multiple_of(dtype.block_size()) {
            return Err(problem(format!(
                "rows of {width} are no whole blocks of {} ({dtype:?})",
                dtype.block_size()
            )));
        }
        Ok(unpack(dtype, self.bytes(name)?, width))
    }
}

/// Types that are not read, by their number.
const TYPES: [(&str, &str); 13] = [
    ("16", "IQ2_XXS"),
    ("17", "IQ2_XS"),
    ("18", "IQ3_XXS"),
    ("19", "IQ1_S"),
    ("20", "IQ4_NL"),
    ("21", "IQ3_S"),
    ("22", "IQ2_S"),
    ("23", "IQ4_XS"),
    ("28", "F64"),
    ("29", "IQ1_M"),
    ("34", "TQ1_0"),
    ("35", "TQ2_0"),
    ("39", "MXFP4"),
];

/// What ggml calls the types that its number stands for and that are not read here.
fn explain(error: &str) -> String {
    // Where backtraces are on, they follow the first line.
    let error = error.lines().next().unwrap_or_default();
    match error.split("unknown dtype for tensor ").nth(1) {
        None => format!("damaged or no GGUF file: {error}"),
        Some(rest) => {
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let name = TYPES
                .iter()
                .find(|(known, _)| *known == number)
                .map_or("unknown", |(_, name)| name);
            format!(
                "quantisation type {number} ({name}) is not supported; supported: F32, F16, BF16, Q4_0, Q4_1, \
                 Q5_0, Q5_1, Q8_0, Q2_K to Q6_K"
            )
        }
    }
}
