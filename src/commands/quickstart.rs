//! `socratiq quickstart`: the main job.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use socratiq::quickstart::{Interrupted, Quickstart};

use super::watch_signals;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The folder in which everything is put
    #[arg(long, default_value = "runs/quickstart")]
    out: PathBuf,
    /// Seed of the run
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Conversations of the log
    #[arg(long, default_value_t = 6000)]
    conversations: u64,
    /// Episodes on which policies are compared
    #[arg(long, default_value_t = 500)]
    episodes: u64,
}

/// Runs what is not done yet, and prints where the report is.
pub(crate) fn quickstart(options: &Options) -> Result<ExitCode> {
    let job = Quickstart {
        out: options.out.clone(),
        seed: options.seed,
        conversations: options.conversations,
        episodes: options.episodes,
    };
    match job.run(&*watch_signals()?) {
        Ok(report) => {
            writeln!(io::stdout(), "{}", report.display())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.is::<Interrupted>() => {
            tracing::warn!("{error}");
            Ok(ExitCode::from(130))
        }
        Err(error) => Err(error),
    }
}
