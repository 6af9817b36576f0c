//! How a run is shown while it goes on: a bar in a terminal, a line now and then elsewhere.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::metrics::Metrics;

/// All bars, so that logs are written above them and not through them.
pub static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A bar with how many of something are done.
pub fn bar(total: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    BARS.add(
        ProgressBar::new(total)
            .with_style(style)
            .with_prefix(what.to_owned()),
    )
}

/// A count of something whose total nobody knows.
pub fn counter(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{pos} {prefix}, {per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    BARS.add(
        ProgressBar::no_length()
            .with_style(style)
            .with_prefix(what.to_owned()),
    )
}

/// Updates of a run.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    updates: u64,
    told: Instant,
    /// Tokens and seconds since the start, for a speed that does not jump.
    tokens: usize,
    seconds: f64,
}

/// Between lines where there is no terminal.
const PAUSE: Duration = Duration::from_secs(10);

impl Progress {
    /// A run of which `done` updates are made.
    pub fn new(done: u64, updates: u64) -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = BARS.add(ProgressBar::new(updates).with_style(style));
        bar.set_position(done);
        bar.reset_eta();
        Self {
            bar,
            updates,
            told: Instant::now(),
            tokens: 0,
            seconds: 0.0,
        }
    }

    /// One more update is made.
    pub fn update(&mut self, line: &Metrics, tokens: usize, seconds: f64) {
        self.tokens += tokens;
        self.seconds += seconds;
        let number = |name: &str| line.get(name).and_then(Value::as_f64);
        let message = format!(
            "loss {:.4}{}, {:.0} tokens/s",
            number("loss").unwrap_or(f64::NAN),
            number("rewards/accuracies")
                .map(|accuracy| format!(", accuracy {accuracy:.2}"))
                .unwrap_or_default(),
            self.tokens as f64 / self.seconds.max(1e-9)
        );
        self.bar.inc(1);
        if self.bar.is_hidden()
            && (self.told.elapsed() > PAUSE || self.bar.position() == self.updates)
        {
            self.told = Instant::now();
            let made = self.bar.position();
            let left = self.bar.eta().as_secs();
            tracing::info!("update {made}/{}: {message}, {left} s left", self.updates);
        }
        self.bar.set_message(message);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
