//! The TOML file of a run, and the same with every default spelt out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use socratiq_agents::model::{Keep, LoraConfig, ModelConfig};

use super::schedule::Schedule;
use crate::logs::{self, Log, Rename};
use crate::objective::Objective;

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// All randomness derives from it.
    #[serde(default)]
    pub seed: u64,
    /// The run directory.
    pub out: PathBuf,
    /// Where the policy begins.
    pub model: Model,
    /// Low-rank updates; full fine-tuning where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// The logs.
    pub data: Data,
    /// What becomes smaller.
    pub objective: Objective,
    /// How weights move.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// How long, in which portions, and what is kept.
    pub train: Train,
}

/// A model by its path, or one from scratch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Hugging Face folder, `.gguf` file, run directory or hub id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The shape of a model from scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<NewModel>,
    /// What the chat template is told, such as `enable_thinking`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub chat_template_kwargs: Map<String, Value>,
}

/// A model of the llama family with random weights, and a tokenizer trained on the logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// Tokens of the vocabulary: bytes, control tokens, and what is merged from the logs.
    pub vocab_size: usize,
    /// D.
    pub hidden_size: usize,
    /// Width of the MLP; 8/3 of D where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// L.
    pub num_layers: usize,
    /// H.
    pub num_heads: usize,
    /// Heads of keys and values; H where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_kv_heads: Option<usize>,
    /// The longest sequence.
    pub context_length: usize,
}

/// Which logs, and how they are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Files to learn from.
    pub train: Vec<PathBuf>,
    /// Files to evaluate on.
    #[serde(default)]
    pub eval: Vec<PathBuf>,
    /// The shape of their rows, where it cannot be told from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Fields that the files call otherwise than their format: `rename = { good = "chosen" }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// Whether every epoch has an order of its own.
    #[serde(default = "yes")]
    pub shuffle: bool,
    /// The longest sequence in tokens.
    #[serde(default = "max_length")]
    pub max_length: usize,
    /// What becomes of longer ones.
    #[serde(default)]
    pub too_long: TooLong,
    /// What becomes of rows that cannot be used.
    #[serde(default)]
    pub on_bad_row: OnBadRow,
}

impl Data {
    /// Opens one of the files.
    ///
    /// # Errors
    /// When it cannot be read, or there is no such format.
    pub fn open(&self, path: &Path) -> Result<Log> {
        let named = self.format.as_deref().map(str::parse);
        let format = named.transpose().context("`data.format`")?;
        let renames = self.rename.iter().map(|(from, to)| Rename {
            from: from.clone(),
            to: to.clone(),
        });
        Ok(logs::open(path, format)?.renaming(renames.collect()))
    }
}

/// What becomes of sequences above the longest length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TooLong {
    /// They are cut at their end, as TRL does it, and counted: without its ending a dialogue is scored with
    /// its own expectations in place of its outcome.
    #[default]
    Truncate,
    /// They are bad rows.
    Refuse,
}

/// What becomes of rows that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadRow {
    /// The run does not begin.
    #[default]
    Error,
    /// They are left out, and counted.
    Skip,
}

/// How weights move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// Only `AdamW`.
    pub kind: OptimizerKind,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// ε.
    pub eps: f64,
    /// How much of the learning rate pulls matrices to zero; norms and biases are spared.
    pub weight_decay: f64,
    /// Gradients longer than this are shortened to it; never where it is 0.
    pub max_grad_norm: f64,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// Updates until the highest learning rate is reached.
    pub warmup_updates: u64,
    /// Updates in which the learning rate falls at the end; for `wsd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_updates: Option<u64>,
    /// Parameters with rates of their own; the first that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
}

/// Parameters with rates of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// A regular expression that is found in their names.
    pub parameters: String,
    /// Times the learning rate; 0 freezes them.
    #[serde(default = "one")]
    pub learning_rate_factor: f64,
    /// In place of the weight decay that they would have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

/// Optimisers by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    #[default]
    Adamw,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            learning_rate: 1e-6,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            schedule: Schedule::Constant,
            warmup_updates: 0,
            decay_updates: None,
            groups: Vec::new(),
        }
    }
}

/// How long, in which portions, and what is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Examples per update.
    #[serde(default = "pairs_per_update")]
    pub pairs_per_update: usize,
    /// Tokens that are computed at once; what does not fit is computed one part after the other.
    #[serde(default = "tokens_per_batch")]
    pub tokens_per_batch: usize,
    /// How many updates; or `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updates: Option<u64>,
    /// How many passes over the data; or `updates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Layers are computed again in the backward pass: a third more time, a fraction of the memory.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Updates between checkpoints; 0 for none but the last.
    #[serde(default = "checkpoint_every")]
    pub checkpoint_every: u64,
    /// How many checkpoints are kept, beside the best.
    #[serde(default = "keep_checkpoints")]
    pub keep_checkpoints: usize,
    /// Updates between evaluations; as `checkpoint_every` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Evaluations without a lower loss after which the run ends, with the best model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<u64>,
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

fn max_length() -> usize {
    1024
}

fn pairs_per_update() -> usize {
    8
}

fn tokens_per_batch() -> usize {
    4096
}

fn checkpoint_every() -> u64 {
    100
}

fn keep_checkpoints() -> usize {
    2
}

impl Train {
    /// What the forward pass keeps for the backward pass.
    pub fn keep(&self) -> Keep {
        match self.gradient_checkpointing {
            true => Keep::Inputs,
            false => Keep::Everything,
        }
    }
}

impl Config {
    /// Reads a file, with `overrides` of the form `section.key=value` in place of what it says.
    ///
    /// # Errors
    /// What is wrong with the file or an override, by line and key.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        Self::parse(&text, path, overrides)
    }

    /// As [`Self::read`], from the text of the file.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str, path: &Path, overrides: &[String]) -> Result<Self> {
        let place = || format!("`{}`", path.display());
        if overrides.is_empty() {
            // By the text, so that errors show the line.
            let config: Self = toml::from_str(text).with_context(place)?;
            config.validate().with_context(place)?;
            return Ok(config);
        }
        let mut table: toml::Table = toml::from_str(text).with_context(place)?;
        for setting in overrides {
            set(&mut table, setting).with_context(|| format!("--set {setting}"))?;
        }
        let overridden = || format!("{} with --set {}", place(), overrides.join(" --set "));
        let config: Self = table
            .try_into()
            // The key that it is about stands on a line of its own.
            .map_err(|error: toml::de::Error| {
                anyhow!("{}", error.to_string().trim().replace('\n', " "))
            })
            .with_context(overridden)?;
        config.validate().with_context(overridden)?;
        Ok(config)
    }

    /// The file with every default spelt out.
    ///
    /// # Errors
    /// Never for a config that was read.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// Finds what serde cannot.
    fn validate(&self) -> Result<()> {
        ensure!(
            self.model.path.is_some() != self.model.new.is_some(),
            "`model`: give either `path` or `[model.new]`"
        );
        ensure!(
            !self.data.train.is_empty(),
            "`data.train`: no file to learn from"
        );
        ensure!(
            self.data.max_length >= 2,
            "`data.max_length`: {} is too short",
            self.data.max_length
        );
        self.objective
            .validate()
            .map_err(|problem| anyhow!("`objective`: {problem}"))?;
        ensure!(
            self.model.new.is_none() || self.lora.is_none(),
            "`lora`: a model from scratch has no weights to update; leave `[lora]` out"
        );
        let optimizer = &self.optimizer;
        let positive = |name: &str, value: f64| {
            ensure!(
                value > 0.0 && value.is_finite(),
                "`optimizer.{name}`: {value} is not above 0"
            );
            Ok(())
        };
        positive("learning_rate", optimizer.learning_rate)?;
        positive("eps", optimizer.eps)?;
        for beta in optimizer.betas {
            ensure!(
                (0.0..1.0).contains(&beta),
                "`optimizer.betas`: {beta} is not in [0, 1)"
            );
        }
        ensure!(
            optimizer.weight_decay >= 0.0,
            "`optimizer.weight_decay` is below 0"
        );
        ensure!(
            optimizer.max_grad_norm >= 0.0,
            "`optimizer.max_grad_norm` is below 0; 0 is never"
        );
        ensure!(
            optimizer.decay_updates.is_none() || optimizer.schedule == Schedule::Wsd,
            "`optimizer.decay_updates` belongs to `schedule = \"wsd\"`"
        );
        for group in &optimizer.groups {
            let rates = [Some(group.learning_rate_factor), group.weight_decay];
            ensure!(
                rates
                    .iter()
                    .flatten()
                    .all(|rate| *rate >= 0.0 && rate.is_finite()),
                "`optimizer.groups`: the rates of `{}` are not 0 or above",
                group.parameters
            );
            regex::Regex::new(&group.parameters)
                .with_context(|| format!("`optimizer.groups`: `{}`", group.parameters))?;
        }
        let train = &self.train;
        match (train.updates, train.epochs) {
            (Some(_), Some(_)) => bail!("`train`: give either `updates` or `epochs`, not both"),
            (None, None) => bail!("`train`: give `updates` or `epochs`"),
            (Some(0), _) => bail!("`train.updates` is 0"),
            (_, Some(epochs)) if epochs.is_nan() || epochs <= 0.0 => {
                bail!("`train.epochs`: {epochs} is not above 0")
            }
            _ => {}
        }
        ensure!(train.pairs_per_update > 0, "`train.pairs_per_update` is 0");
        let smallest = self.objective.kind.smallest_update();
        ensure!(
            train.pairs_per_update >= smallest,
            "`train.pairs_per_update`: `kto` compares prompts with other prompts' answers and needs {smallest} or more"
        );
        ensure!(train.tokens_per_batch > 0, "`train.tokens_per_batch` is 0");
        ensure!(
            train.keep_checkpoints > 0,
            "`train.keep_checkpoints` is 0: a stopped run could not go on"
        );
        ensure!(
            train.early_stopping_patience.is_none() || !self.data.eval.is_empty(),
            "`train.early_stopping_patience` needs `data.eval`"
        );
        Ok(())
    }
}

/// Puts `a.b=value` into a table; the value is read as TOML, or as a string where it is none.
fn set(table: &mut toml::Table, setting: &str) -> Result<()> {
    let Some((key, value)) = setting.split_once('=') else {
        bail!("it is not `key=value`");
    };
    let value = match toml::from_str::<toml::Table>(&format!("value = {value}")) {
        Ok(mut parsed) => parsed.remove("value").context("it has no value")?,
        Err(_) => toml::Value::String(value.to_owned()),
    };
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path.pop().context("it has no key")?;
    let mut at = table;
    for part in path {
        let inner = at
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = inner
            .as_table_mut()
            .with_context(|| format!("`{part}` is no table"))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

impl NewModel {
    /// The shape, with the vocabulary that the tokenizer turned out to have.
    pub fn shape(&self, vocab_size: usize) -> ModelConfig {
        let plain = ModelConfig::llama(
            vocab_size,
            self.hidden_size,
            self.num_layers,
            self.num_heads,
            self.context_length,
        );
        ModelConfig {
            num_kv_heads: self.num_kv_heads.unwrap_or(plain.num_kv_heads),
            intermediate_size: self.intermediate_size.unwrap_or(plain.intermediate_size),
            ..plain
        }
    }
}
