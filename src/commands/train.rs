//! `socratiq train`: a run from its config.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use socratiq::train::config::Config;
use socratiq::train::{Ended, Trainer};

use super::{Styles, watch_signals};

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The run's TOML file
    config: PathBuf,
    /// Sets a key of the file: `--set optimizer.learning_rate=1e-5`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Go on with a run that was stopped
    #[arg(long)]
    resume: bool,
}

/// Trains, and prints where the model is.
pub(crate) fn train(options: &Options) -> Result<ExitCode> {
    let config = Config::read(&options.config, &options.overrides)?;
    let out = config.out.clone();
    let trainer = Trainer::start(config, options.resume, Styles::of_stderr().mask())
        .with_context(|| format!("the run in `{}`", out.display()))?;
    // Not before: until the first update, there is nothing to save, and Ctrl-C ends it at once.
    let interrupted = watch_signals()?;
    match trainer.run(&interrupted)? {
        Ended::Finished(model) => {
            writeln!(io::stdout(), "{}", model.display())?;
            Ok(ExitCode::SUCCESS)
        }
        Ended::Interrupted => {
            let mut command = format!("socratiq train {}", options.config.display());
            for setting in &options.overrides {
                write!(command, " --set '{setting}'")?;
            }
            tracing::warn!("interrupted; everything is saved. Go on with: {command} --resume");
            Ok(ExitCode::from(130))
        }
    }
}
