//! The commands, one file each. Data goes to stdout, everything else to stderr.

pub(crate) mod bench;
pub(crate) mod envs;
pub(crate) mod eval;
pub(crate) mod exact;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod logs;
pub(crate) mod pairs;
pub(crate) mod play;
pub(crate) mod quickstart;
pub(crate) mod rollout;
pub(crate) mod score;
pub(crate) mod separate;
pub(crate) mod shell;
pub(crate) mod train;

use std::io::{self, IsTerminal, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use socratiq::train::preview::Colours;
use socratiq::train::progress::BARS;
use tracing_subscriber::EnvFilter;

/// Prints an error with all its causes in one line.
pub(crate) fn report(error: &anyhow::Error) {
    // Nothing is left to do when stderr is gone.
    let _ = writeln!(io::stderr(), "error: {error:#}");
}

/// Sends logs to stderr, above whatever bars are shown. `RUST_LOG` says which; `info` and more where it is not
/// set.
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| AboveBars)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .without_time()
        .init();
}

/// Stderr, with the bars taken away while something is written.
struct AboveBars;

impl io::Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// True if whoever read our output has stopped reading, as `head` does: no failure of ours.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// A flag that the first Ctrl-C sets, so that what is done is kept; the second one does not wait.
pub(crate) fn watch_signals() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, interrupted.clone())
            .and_then(|_| signal_hook::flag::register(signal, interrupted.clone()))
            .context("cannot watch for signals")?;
    }
    Ok(interrupted)
}

/// Terminal styles, empty where the stream is no terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Styles {
    pub(crate) bold: &'static str,
    pub(crate) dim: &'static str,
    pub(crate) agent: &'static str,
    pub(crate) reset: &'static str,
}

impl Styles {
    /// The styles for stdout; `NO_COLOR` switches them off (<https://no-color.org>).
    pub(crate) fn of_stdout() -> Self {
        Self::of(io::stdout().is_terminal())
    }

    /// The same for stderr.
    pub(crate) fn of_stderr() -> Self {
        Self::of(io::stderr().is_terminal())
    }

    fn of(is_terminal: bool) -> Self {
        if is_terminal && std::env::var_os("NO_COLOR").is_none() {
            Self {
                bold: "\u{1b}[1m",
                dim: "\u{1b}[2m",
                agent: "\u{1b}[36m",
                reset: "\u{1b}[0m",
            }
        } else {
            Self {
                bold: "",
                dim: "",
                agent: "",
                reset: "",
            }
        }
    }

    /// The colours of a mask: what is learnt from as the agent's words, the rest dimmed.
    pub(crate) fn mask(self) -> Colours {
        Colours {
            scored: self.agent,
            context: self.dim,
            reset: self.reset,
        }
    }
}
