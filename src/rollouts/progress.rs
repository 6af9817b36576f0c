//! How a run of episodes is shown while it goes on: a bar in a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::Played;
use crate::evaluation::Outcome;
use crate::train::progress;

/// Between lines where there is no terminal.
const PAUSE: Duration = Duration::from_secs(10);

/// Episodes that are done, and how many of them well.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    what: String,
    told: Instant,
    /// Episodes that have a verdict, and how many were solved.
    judged: (usize, usize),
    failures: usize,
}

impl Progress {
    /// A run of `total` episodes of which `done` are there already.
    pub fn new(what: &str, total: usize, done: &[Outcome]) -> Self {
        let bar = progress::bar(total as u64, what);
        bar.set_position(done.len() as u64);
        bar.reset_eta();
        let mut progress = Self {
            bar,
            what: what.to_owned(),
            told: Instant::now(),
            judged: (0, 0),
            failures: 0,
        };
        done.iter().for_each(|outcome| progress.judge(outcome));
        progress
    }

    fn judge(&mut self, outcome: &Outcome) {
        if let Some(success) = outcome.success {
            self.judged.0 += 1;
            self.judged.1 += usize::from(success);
        }
    }

    /// One more episode has ended.
    pub fn ended(&mut self, played: &Played) {
        match &played.result {
            Ok(finished) => self.judge(&Outcome::of(&finished.trajectory)),
            Err(_) => self.failures += 1,
        }
        self.bar.inc(1);
        let (judged, solved) = self.judged;
        let success = match judged {
            0 => String::new(),
            _ => format!(", success {:.2}", solved as f64 / judged as f64),
        };
        let failed = match self.failures {
            0 => String::new(),
            failures => format!(", {failures} failed"),
        };
        let message = format!("{}{success}{failed}", self.what);
        if self.bar.is_hidden() && self.told.elapsed() > PAUSE {
            self.told = Instant::now();
            let (done, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
            let left = self.bar.eta().as_secs();
            tracing::info!("{message}: {done}/{total} episodes, {left} s left");
        }
        self.bar.set_prefix(message);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
