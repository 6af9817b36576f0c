//! From a config to a trainer: opens models and logs, prepares the reference, and checks before the first
//! update what would otherwise be found out after hours.

use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use serde_json::json;
use socratiq_agents::LanguageModel;
use socratiq_agents::chat::{ChatCodec, Tokenizer};
use socratiq_agents::model::{
    AdamW, AdapterFolder, Adapters, Decoder, LoraConfig, Rates, Tape, Weights,
};
use socratiq_envs::RunSeed;

use super::Trainer;
use super::config::{Config, Model, NewModel};
use super::data;
use super::example::Completion;
use super::learner::{Item, Learner, LiveReference, token_logprobs};
use super::metrics::{Metrics, metrics};
use super::order::Order;
use super::preview::{Colours, preview};
use super::probe::Probe;
use super::progress;
use super::reference::{Found, Reference};
use super::run_directory::{Form, RunDirectory, State};
use super::store::Store;
use super::tensorboard::EventFile;
use crate::logs::{LogError, Record, Row, Turns};
use crate::model_path;
use crate::objective::{Kind, Objective};

/// What a policy is written with.
#[derive(Debug)]
pub(super) struct Words {
    codec: Arc<ChatCodec>,
    /// Its low-rank updates and the path of the model that they are for.
    adapters: Option<(LoraConfig, String)>,
    weights: Weights,
}

impl Words {
    pub(super) fn form(&self) -> Form<'_> {
        Form {
            codec: &self.codec,
            adapters: self
                .adapters
                .as_ref()
                .map(|(lora, base)| (lora, base.as_str())),
        }
    }

    /// A model that was written with these words.
    pub(super) fn open(&self, folder: &Path) -> Result<Decoder> {
        Ok(Decoder::open(folder, self.weights)?)
    }
}

/// A reference that can be asked while the run goes on.
#[derive(Debug)]
pub(super) enum Live {
    /// There is none, or all its answers are on the disk.
    No,
    /// The policy without its adapters.
    AdaptersOff,
    /// A model of its own, and how it follows the policy, if it does.
    Model { decoder: Box<Decoder>, moves: bool },
}

impl Live {
    pub(super) fn ask(&self) -> Option<LiveReference<'_>> {
        match self {
            Self::No => None,
            Self::AdaptersOff => Some(LiveReference::AdaptersOff),
            Self::Model { decoder, .. } => Some(LiveReference::Model(decoder)),
        }
    }

    /// Memory of a model of its own.
    fn bytes(&self) -> usize {
        match self {
            Self::Model { decoder, .. } => decoder.bytes(),
            Self::No | Self::AdaptersOff => 0,
        }
    }

    /// The reference, if it must be saved because it moves.
    pub(super) fn moving(&self) -> Option<&Decoder> {
        match self {
            Self::Model {
                decoder,
                moves: true,
            } => Some(decoder),
            _ => None,
        }
    }

    /// Lets the reference follow the policy where this update is one at which it does.
    pub(super) fn follow(&mut self, objective: &Objective, policy: &Decoder, step: u64) {
        if let Self::Model {
            decoder,
            moves: true,
        } = self
            && objective
                .reference_sync_every
                .is_some_and(|every| step.is_multiple_of(every))
        {
            decoder.blend(policy, objective.reference_sync_alpha.unwrap_or(0.6) as f32);
        }
    }
}

/// Examples with what the reference says of them.
#[derive(Debug)]
pub(super) struct Examples {
    store: Store,
    /// Its answers, where it does not move.
    reference: Option<Reference>,
    tokens_per_batch: usize,
}

impl Examples {
    pub(super) fn items(
        &self,
        indices: &[usize],
        objective: &Objective,
        live: &Live,
    ) -> Result<Vec<Item>> {
        let mut items = Vec::with_capacity(indices.len());
        for index in indices {
            let example = self.store.get(*index)?;
            let counts: Vec<usize> = example
                .completions
                .iter()
                .map(Completion::num_scored)
                .collect();
            let reference = match &self.reference {
                Some(reference) => reference.get(*index, &self.store, &counts)?,
                None => Vec::new(),
            };
            items.push(Item {
                weights: example.weights(objective),
                example,
                reference,
            });
        }
        if let Some(decoder) = live.moving() {
            let completions: Vec<&Completion> = items
                .iter()
                .flat_map(|item| &item.example.completions)
                .collect();
            let limit = self.tokens_per_batch;
            let all = token_logprobs(
                decoder,
                Adapters::On,
                &completions,
                limit,
                &mut Tape::default(),
            )?;
            let mut all = all.into_iter();
            for item in &mut items {
                item.reference = all.by_ref().take(item.example.completions.len()).collect();
            }
        }
        Ok(items)
    }

    /// The means of metrics over all examples, taken as many at a time as an update takes.
    pub(super) fn evaluate(
        &self,
        config: &Config,
        live: &Live,
        learner: &mut Learner,
    ) -> Result<Metrics> {
        // What depends on other examples needs more than one.
        let mut order = order(config, self.store.len(), false);
        let mut means: Vec<(String, f64, f64)> = Vec::new();
        for part in 0..order.updates_per_epoch() {
            let indices = order.examples(part);
            let items = self.items(indices, &config.objective, live)?;
            let outcome = learner.evaluate(&config.objective, &items, live.ask())?;
            let weight = indices.len() as f64;
            for (name, value) in metrics(&config.objective, &items, &outcome) {
                let value = value.as_f64().unwrap_or(f64::NAN);
                match means.iter_mut().find(|(known, ..)| *known == name) {
                    Some((_, sum, total)) => {
                        *sum += weight * value;
                        *total += weight;
                    }
                    None => means.push((name, weight * value, weight)),
                }
            }
        }
        Ok(means
            .into_iter()
            .map(|(name, sum, total)| (name, json!(sum / total)))
            .collect())
    }
}

impl Trainer {
    /// Opens everything that a run needs, new or resumed, and checks it. `colours` are for the mask that is
    /// shown.
    ///
    /// # Errors
    /// What is missing, damaged, or does not fit together; and when no gradient reaches a parameter.
    pub fn start(config: Config, resume: bool, colours: Colours) -> Result<Self> {
        // 1. The run's folder, and the policy.
        let (run, checkpoint) = match resume {
            true => RunDirectory::reopen(&config)?,
            false => (RunDirectory::begin(&config)?, None),
        };
        let mut state = checkpoint
            .as_ref()
            .map_or_else(State::default, |found| found.state.clone());
        let initial = initial_model(&config)?;
        let words = Words::of(&config, &initial)?;
        let policy = match &checkpoint {
            Some(checkpoint) => words.open(&checkpoint.folder)?,
            None => words.initial(&config, &initial)?,
        };
        let rates = rates(&config, &policy)?;

        // 2. The logs.
        let context = policy.config().context_length;
        let load = |files: &[PathBuf], name| -> Result<Store> {
            let loaded = data::load(&config, files, &words.codec, context, run.path())?;
            loaded.tell(name);
            Ok(loaded.examples)
        };
        let train = load(&config.data.train, "train")?;
        let eval = match config.data.eval.is_empty() {
            true => None,
            false => Some(load(&config.data.eval, "eval")?),
        };
        let examples = Some(train.contents().to_hex().to_string());
        ensure!(
            state.examples.is_none() || state.examples == examples,
            "`data.train` has other examples than `{}` has learnt from: a run goes on with what it began with, or \
             begins anew in another `out`",
            config.out.display()
        );
        state.examples = examples;
        let order = order(&config, train.len(), config.data.shuffle);
        let updates = number_of_updates(&config, &order);

        // 3. The reference.
        let mut references =
            References::open(&config, &words, &initial, &policy, state.global_step)?;
        let reading = Reading {
            config: &config,
            policy: &policy,
            run: &run,
            words: &words,
            initial: &initial,
            step: state.global_step,
        };
        let train = references.of(&reading, train, &order.used(updates), "train")?;
        let eval = match eval {
            Some(store) => {
                let all: Vec<usize> = (0..store.len()).collect();
                Some(references.of(&reading, store, &all, "eval")?)
            }
            None => None,
        };
        let probe = references.probe(&reading, eval.as_ref().unwrap_or(&train))?;
        let mut live = references.live(&policy);
        if let (
            Some(checkpoint),
            Live::Model {
                decoder,
                moves: true,
            },
        ) = (&checkpoint, &mut live)
        {
            checkpoint.read_reference(decoder)?;
        }

        // 4. What learns.
        let mut optimizer =
            AdamW::new(&policy, config.optimizer.betas.into(), config.optimizer.eps);
        if let Some(checkpoint) = &checkpoint {
            optimizer.load(&policy, &checkpoint.folder)?;
            optimizer.steps = state.global_step;
        }
        let learner = Learner::new(policy, config.train.keep(), config.train.tokens_per_batch);
        let events = EventFile::create(run.path(), state.global_step)?;
        let mut trainer = Self {
            config,
            run,
            words,
            learner,
            optimizer,
            rates,
            train,
            eval,
            live,
            probe,
            order,
            updates,
            state,
            events,
        };
        trainer.preflight(colours)?;
        // How long an earlier run was to be may have changed.
        trainer.run.settle(&trainer.config)?;
        Ok(trainer)
    }

    /// Shows the mask of one example, checks that gradients flow, and estimates memory and time.
    fn preflight(&mut self, colours: Colours) -> Result<()> {
        let items = self.items()?;
        let Some(first) = items.first() else {
            return Ok(());
        };
        if self.state.global_step == 0 {
            let shown = preview(&self.words.codec, &first.example.completions[0], colours);
            tracing::info!(
                "the first example, with the tokens that are learnt from marked:\n{shown}"
            );
        }
        // As many as one pass takes.
        let mut tokens = 0;
        let one_pass: Vec<Item> = items
            .iter()
            .take_while(|item| {
                let before = tokens;
                let completions = &item.example.completions;
                tokens += completions
                    .iter()
                    .map(Completion::num_tokens)
                    .sum::<usize>();
                before == 0 || tokens <= self.config.train.tokens_per_batch
            })
            .cloned()
            .collect();
        let started = Instant::now();
        let tokens = self.learner.check_gradient_flow(&one_pass)?;
        let speed = tokens as f64 / started.elapsed().as_secs_f64();

        let left = self.updates.saturating_sub(self.state.global_step);
        let per_example = self.train.store.tokens() as f64 / self.train.store.len() as f64;
        let all = left as f64 * self.config.train.pairs_per_update as f64 * per_example;
        let policy = &self.learner.policy;
        let (trainable, weights) = (policy.num_trainable(), policy.num_weights());
        let batch = self.config.train.tokens_per_batch;
        let memory = policy.bytes()
            + 12 * trainable
            + policy.tape_bytes(batch, self.config.train.keep())
            + self.live.bytes();
        tracing::info!(
            "{trainable} of {weights} weights are trained ({:.2} %); {:.1} GB of memory; {left} update{}, about {}",
            100.0 * trainable as f64 / weights as f64,
            memory as f64 / 1e9,
            if left == 1 { "" } else { "s" },
            duration(all / speed),
        );
        Ok(())
    }
}

/// The model that a run begins with: the one that its config names, or a new one, which is made when the run
/// begins and kept in its folder.
fn initial_model(config: &Config) -> Result<PathBuf> {
    let Model { path, new, .. } = &config.model;
    match (path, new) {
        (Some(path), _) => model_path::resolve(path),
        (None, Some(new)) => {
            let folder = config.out.join("initial");
            // What a run left that never began may be of another config.
            let has_begun = config.out.join("config.toml").exists();
            if !(folder.exists() && has_begun) {
                let unfinished = config.out.join("initial.unfinished");
                make_model(config, new, &unfinished)?;
                if folder.exists() {
                    std::fs::remove_dir_all(&folder)?;
                }
                std::fs::rename(&unfinished, &folder)?;
            }
            Ok(folder)
        }
        (None, None) => bail!("`model`: give either `path` or `[model.new]`"),
    }
}

/// Trains a tokenizer on the logs and writes it with a model of random weights.
fn make_model(config: &Config, new: &NewModel, folder: &Path) -> Result<()> {
    let rows = |path: &PathBuf| -> Box<dyn Iterator<Item = Result<Row>> + Send> {
        match config.data.open(path) {
            Ok(log) => Box::new(log.filter_map(|row| match row {
                Ok(row) => Some(Ok(row)),
                // It is told of when the log is loaded.
                Err(LogError::BadRow { .. }) => None,
                Err(error) => Some(Err(error.into())),
            })),
            Err(error) => Box::new(iter::once(Err(error))),
        }
    };
    // One row is in memory at a time; the first that cannot be read is the last.
    let mut failure = None;
    let rows = config.data.train.iter().flat_map(rows);
    let rows = rows.map_while(|row| row.map_err(|error| failure = Some(error)).ok());
    let texts = rows.flat_map(|row| {
        let mut texts = Vec::new();
        row.records
            .iter()
            .for_each(|record| collect_texts(record, &mut texts));
        texts
    });
    let control = ["<|im_start|>", "<|im_end|>"];
    let tokenizer = Tokenizer::train(texts, new.vocab_size, &control);
    if let Some(error) = failure {
        return Err(error);
    }
    let tokenizer = tokenizer?;
    let decoder = Decoder::random(
        new.shape(tokenizer.size()),
        &mut RunSeed(config.seed).stream("weights of a new model"),
    )?;
    decoder.save(folder)?;
    ChatCodec::chatml(tokenizer)?.save(folder)?;
    Ok(())
}

fn collect_texts(record: &Record, texts: &mut Vec<String>) {
    let mut turns = |turns: &Turns| match turns {
        Turns::Text(text) => texts.push(text.clone()),
        Turns::Chat(messages) => {
            texts.extend(messages.iter().map(|message| message.text().into_owned()));
        }
    };
    match record {
        Record::Preference(preference) => {
            turns(&preference.prompt);
            turns(&preference.chosen);
            preference.rejected.iter().for_each(turns);
        }
        Record::Feedback(feedback) => {
            turns(&feedback.prompt);
            turns(&feedback.completion);
        }
        Record::Demonstration(demonstration) => {
            turns(&demonstration.prompt);
            turns(&demonstration.completion);
        }
        Record::Trajectory(trajectory) => {
            let messages = trajectory.messages.iter();
            texts.extend(messages.map(|turn| turn.message.text().into_owned()));
        }
    }
}

impl Words {
    fn of(config: &Config, initial: &Path) -> Result<Self> {
        let codec = LanguageModel::open_codec(initial, &config.model.chat_template_kwargs)?;
        let found = match initial.is_dir() {
            true => AdapterFolder::read(initial)?,
            false => None,
        };
        let absolute = |path: &Path| -> Result<String> {
            let path = path
                .canonicalize()
                .with_context(|| format!("cannot find `{}`", path.display()))?;
            Ok(path.display().to_string())
        };
        let adapters = match (&config.lora, found) {
            (Some(_), Some(_)) => bail!(
                "`{}` has low-rank updates already: leave `[lora]` out to train those on, or merge them first \
                 with `socratiq export --format merged`",
                initial.display()
            ),
            (Some(lora), None) => Some((lora.clone(), absolute(initial)?)),
            (None, Some(found)) => Some((found.lora, absolute(&found.base)?)),
            (None, None) => None,
        };
        Ok(Self {
            codec: Arc::new(codec),
            // Frozen weights may stay as their file has them.
            weights: match adapters {
                Some(_) => Weights::Quantised,
                None => Weights::Whole,
            },
            adapters,
        })
    }

    /// The policy as it is before the first update.
    fn initial(&self, config: &Config, initial: &Path) -> Result<Decoder> {
        let mut decoder = self.open_model(initial)?;
        if let Some(lora) = &config.lora {
            decoder.add_lora(lora, &mut RunSeed(config.seed).stream("low-rank updates"))?;
        }
        Ok(decoder)
    }

    fn open_model(&self, path: &Path) -> Result<Decoder> {
        let decoder = self.open(path)?;
        let (tokens, rows) = (self.codec.tokenizer().size(), decoder.config().vocab_size);
        ensure!(
            tokens <= rows,
            "`{}` has {rows} tokens in its embedding, but the tokenizer has {tokens}",
            path.display()
        );
        Ok(decoder)
    }
}

/// Where the reference's answers come from.
struct References {
    source: Source,
    /// Asked while the run goes on.
    is_live: bool,
    moves: bool,
}

enum Source {
    /// The objective has no reference.
    None,
    /// The policy without its adapters.
    AdaptersOff,
    /// The policy as it is now, before the first update.
    Policy,
    /// A model of its own.
    Model(Box<Decoder>),
}

impl Source {
    /// The policy as it began, which has made `step` updates since then.
    fn initial(config: &Config, words: &Words, initial: &Path, step: u64) -> Result<Self> {
        Ok(if config.lora.is_some() {
            Self::AdaptersOff
        } else if step == 0 {
            Self::Policy
        } else {
            Self::Model(Box::new(words.open_model(initial)?))
        })
    }

    fn decoder<'a>(&'a self, policy: &'a Decoder) -> Option<(&'a Decoder, Adapters)> {
        match self {
            Self::None => None,
            Self::AdaptersOff => Some((policy, Adapters::Off)),
            Self::Policy => Some((policy, Adapters::On)),
            Self::Model(decoder) => Some((decoder, Adapters::On)),
        }
    }
}

/// What reading a log with a reference takes.
struct Reading<'a> {
    config: &'a Config,
    policy: &'a Decoder,
    run: &'a RunDirectory,
    words: &'a Words,
    /// Where the policy began.
    initial: &'a Path,
    /// Updates made before.
    step: u64,
}

impl References {
    fn open(
        config: &Config,
        words: &Words,
        initial: &Path,
        policy: &Decoder,
        step: u64,
    ) -> Result<Self> {
        let objective = &config.objective;
        let moves = objective.reference_sync_every.is_some();
        let is_live = moves
            || objective
                .kind
                .any(|kind| kind == Kind::Kto || kind.needs_divergence());
        let source = if !objective.kind.any(Kind::needs_reference) {
            Source::None
        } else if objective.reference != "initial" {
            let path = model_path::resolve(&objective.reference)?;
            let decoder = Decoder::open(&path, Weights::Quantised)?;
            let (own, other) = (policy.config().vocab_size, decoder.config().vocab_size);
            ensure!(
                own == other,
                "`objective.reference`: its vocabulary has {other} tokens and the policy's has {own}"
            );
            ensure!(
                !moves || decoder.config() == policy.config(),
                "`objective.reference_sync_every`: the reference has another shape than the policy and cannot \
                 follow it"
            );
            Source::Model(Box::new(decoder))
        } else {
            Source::initial(config, words, initial, step)?
        };
        Ok(Self {
            source,
            is_live,
            moves,
        })
    }

    /// The examples of a store with the reference's answers, of which those to `used` are computed where they
    /// are not on the disk yet.
    fn of(
        &mut self,
        reading: &Reading<'_>,
        store: Store,
        used: &[usize],
        name: &str,
    ) -> Result<Examples> {
        let tokens_per_batch = reading.config.train.tokens_per_batch;
        let mut examples = Examples {
            store,
            reference: None,
            tokens_per_batch,
        };
        if self.moves {
            return Ok(examples);
        }
        let Some((decoder, adapters)) = self.source.decoder(reading.policy) else {
            return Ok(examples);
        };
        let path = reading
            .run
            .path()
            .join(format!("reference-{name}.logprobs"));
        let store = &examples.store;
        let (reference, found) = Reference::open(&path, decoder.fingerprint(adapters), store)?;
        match found {
            Found::OtherModel => {
                tracing::warn!("`{}` is of another model: computed anew", path.display());
            }
            Found::OtherTokens => tracing::warn!(
                "`{}` is of other data, tokens or masks: computed anew",
                path.display()
            ),
            Found::Nothing | Found::Current => {}
        }
        let missing = reference.missing(used, store)?;
        if !missing.is_empty() {
            let bar = progress::bar(missing.len() as u64, "reference");
            let started = Instant::now();
            reference.compute(
                &missing,
                store,
                (decoder, adapters),
                tokens_per_batch,
                |done| {
                    bar.set_position(done as u64);
                    Ok(())
                },
            )?;
            bar.finish_and_clear();
            tracing::info!(
                "log-probabilities of the reference for {} examples of {name}: {}",
                missing.len(),
                duration(started.elapsed().as_secs_f64())
            );
        }
        examples.reference = Some(reference);
        Ok(examples)
    }

    /// A probe of what the policy was like before, for objectives that learn from pairs.
    fn probe(&self, reading: &Reading<'_>, examples: &Examples) -> Result<Option<Probe>> {
        let config = reading.config;
        let mut kinds = config.objective.kind.with_weights();
        if kinds.all(|(kind, _)| kind == Kind::Sft) {
            return Ok(None);
        }
        // Chosen completions of a few examples are enough to see where things go.
        let few = (0..examples.store.len().min(16)).map(|index| examples.store.get(index));
        let few = few.collect::<Result<Vec<_>>>()?;
        // Where the loss has no reference, the policy itself, as it began, is one.
        let began = match self.source {
            Source::None => {
                let (words, initial) = (reading.words, reading.initial);
                Source::initial(config, words, initial, reading.step)?
            }
            _ => Source::None,
        };
        let policy = reading.policy;
        match self.source.decoder(policy).or(began.decoder(policy)) {
            Some((decoder, adapters)) => Probe::new(&few, decoder, adapters),
            None => Ok(None),
        }
    }

    fn live(self, policy: &Decoder) -> Live {
        if !self.is_live {
            return Live::No;
        }
        match self.source {
            Source::None => Live::No,
            Source::AdaptersOff if !self.moves => Live::AdaptersOff,
            Source::AdaptersOff | Source::Policy => Live::Model {
                decoder: Box::new(policy.clone()),
                moves: self.moves,
            },
            Source::Model(decoder) => Live::Model {
                decoder,
                moves: self.moves,
            },
        }
    }
}

/// How fast each parameter learns beside the schedule: what the first group that matches says, or the
/// factor 1 and the weight decay of matrices.
fn rates(config: &Config, policy: &Decoder) -> Result<Vec<Rates>> {
    let optimizer = &config.optimizer;
    let mut groups = Vec::new();
    for group in &optimizer.groups {
        let pattern = Regex::new(&group.parameters)?;
        ensure!(
            policy
                .parameters()
                .iter()
                .any(|parameter| pattern.is_match(&parameter.name)),
            "`optimizer.groups`: `{}` matches no parameter; they are named like `{}`",
            group.parameters,
            policy
                .parameters()
                .last()
                .map_or("", |parameter| &parameter.name)
        );
        groups.push((pattern, group));
    }
    let rates = policy.parameters().iter().map(|parameter| {
        let decay = match parameter.shape.len() {
            1 => 0.0,
            _ => optimizer.weight_decay,
        };
        let own = groups
            .iter()
            .find(|(pattern, _)| pattern.is_match(&parameter.name));
        Rates {
            learning_rate: own.map_or(1.0, |(_, group)| group.learning_rate_factor),
            weight_decay: own
                .and_then(|(_, group)| group.weight_decay)
                .unwrap_or(decay),
        }
    });
    Ok(rates.collect())
}

/// The order of so many examples.
fn order(config: &Config, examples: usize, shuffle: bool) -> Order {
    Order::new(
        examples,
        config.train.pairs_per_update,
        config.objective.kind.smallest_update(),
        shuffle,
        RunSeed(config.seed),
    )
}

fn number_of_updates(config: &Config, order: &Order) -> u64 {
    match (config.train.updates, config.train.epochs) {
        (Some(updates), _) => updates,
        (None, epochs) => (epochs.unwrap_or(1.0) * order.updates_per_epoch() as f64).ceil() as u64,
    }
}

/// Seconds as people say them.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}
