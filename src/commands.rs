//! The commands, one file each. Data goes to stdout, everything else to stderr.

pub(crate) mod bench;
pub(crate) mod envs;
pub(crate) mod exact;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod logs;
pub(crate) mod pairs;
pub(crate) mod play;
mod whole_file;

use std::io::{self, IsTerminal, Write as _};

/// Prints an error with all its causes in one line.
pub(crate) fn report(error: &anyhow::Error) {
    // Nothing is left to do when stderr is gone.
    let _ = writeln!(io::stderr(), "error: {error:#}");
}

/// True if whoever read our output has stopped reading, as `head` does: no failure of ours.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Terminal styles, empty where stdout is no terminal.
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
        if io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
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
}
