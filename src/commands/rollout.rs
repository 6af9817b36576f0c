//! `socratiq rollout`: many episodes, written down as they end.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use socratiq::endpoint::EndpointOptions;
use socratiq::envs::{RunSeed, Split};
use socratiq::evaluation::{Column, compare};
use socratiq::rollouts::{Key, Log, Progress, Rollouts, Source, SourceOptions, drifted};
use socratiq::{Planner, Task};

use super::watch_signals;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Hugging Face folder, .gguf file, run directory or hub id; `https://host/v1#model`; or a baseline:
    /// optimal, mediocre, random
    #[arg(long)]
    model: String,
    /// Environment: NAME:key=value,key=value
    #[arg(long)]
    env: String,
    /// How a model chooses its words
    #[arg(long, default_value = "sample")]
    planner: String,
    /// Seeds to play; they never meet those of `eval`
    #[arg(long)]
    episodes: u64,
    /// Tries at each seed, in which the environment draws the same and the policy anew
    #[arg(long, default_value_t = 1)]
    samples: u32,
    /// Seed of the run
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    limits: Limits,
    /// The trajectories, as JSON lines; a run that was stopped goes on with those that are missing
    #[arg(long)]
    out: PathBuf,
}

/// How much at once, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Limits {
    /// Episodes at once
    #[arg(long, default_value_t = 16)]
    pub(crate) concurrency: usize,
    /// The longest an episode may take, in seconds
    #[arg(long, default_value_t = 600.0)]
    timeout: f64,
    /// The longest turn of a model, in tokens
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// What log-ratio planners compare a local model with; a model with adapters has itself without them
    #[arg(long, value_name = "MODEL")]
    reference: Option<String>,
    /// The most requests per minute to a server, besides what it asks for itself
    #[arg(long)]
    requests_per_minute: Option<u32>,
}

impl Limits {
    pub(crate) fn timeout(&self) -> Result<Duration> {
        Duration::try_from_secs_f64(self.timeout)
            .with_context(|| format!("--timeout {} is no time", self.timeout))
    }

    pub(crate) fn source(&self) -> SourceOptions {
        SourceOptions {
            reference: self.reference.clone(),
            max_tokens: self.max_new_tokens,
            endpoint: EndpointOptions {
                requests_per_minute: self.requests_per_minute,
                ..EndpointOptions::default()
            },
        }
    }
}

/// Plays, and prints what came of it.
pub(crate) fn rollout(options: &Options) -> Result<ExitCode> {
    ensure!(options.samples > 0, "--samples is 0: it is at least 1");
    let task: Task = options.env.parse()?;
    let planner: Planner = options.planner.parse()?;
    let settings = options.limits.source();
    let source = Source::open(&options.model, &settings)?;
    let policies = source.policies(&task, planner, &settings)?;
    let mut rollouts = Rollouts::new(&task, &options.env, policies);
    rollouts.concurrency = options.limits.concurrency;
    rollouts.timeout = options.limits.timeout()?;
    let planner = match source.plans() {
        true => options.planner.as_str(),
        false => "",
    };
    for (key, value) in [("model", options.model.as_str()), ("planner", planner)] {
        if !value.is_empty() {
            rollouts.metadata.insert(key.to_owned(), value.into());
        }
    }

    let run = RunSeed(options.seed);
    let keys = Key::of_run(run, Split::Train, options.episodes, options.samples);
    let mut log = Log::open(&options.out, &rollouts)?;
    let missing = log.missing(&keys);
    let mut progress = Progress::new("episodes", keys.len(), log.outcomes());
    let stop = watch_signals()?;
    let start = Instant::now();
    let mut drift = 0;
    rollouts.run(&missing, &stop, |played| {
        progress.ended(&played);
        log.push(&played)?;
        match (&played.result, &source) {
            (Ok(finished), Source::Model(model)) => {
                drift += usize::from(drifted(&**model.codec(), &finished.trajectory)?);
            }
            (Err(failure), _) => tracing::warn!("seed {}: {failure}", played.key.seed.0),
            _ => {}
        }
        Ok(())
    })?;
    progress.finish();
    let seconds = start.elapsed().as_secs_f64();

    let column = Column {
        name: options.model.clone(),
        model: options.model.clone(),
        planner: planner.to_owned(),
        env: options.env.clone(),
        outcomes: log.outcomes().to_vec(),
        failures: log.failures(),
    };
    let played = missing.len() - log.missing(&keys).len();
    let mut summary = json!(compare(&[column], run).columns[0]);
    summary["played"] = played.into();
    summary["episodes_per_second"] = json!(played as f64 / seconds);
    summary["retokenised_differently"] = match source {
        Source::Model(_) => drift.into(),
        _ => Value::Null,
    };
    let unfinished = log.missing(&keys).len();
    if unfinished > log.failures() {
        tracing::warn!(
            "interrupted; {} of {} episodes are in `{}`. The same command goes on with the others",
            keys.len() - unfinished,
            keys.len(),
            options.out.display()
        );
        return Ok(ExitCode::from(130));
    }
    log.sort(&keys)?;
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&summary)?)?;
    Ok(ExitCode::SUCCESS)
}
