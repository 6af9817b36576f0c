//! What the paper shows, shown again in small: one page with numbers and a picture for each result.
//!
//! Usage, from the root of the project; each writes `docs/RESULT.md` and `docs/RESULT.svg`, with its runs in
//! `runs/reproduce/RESULT`:
//!
//! ```sh
//! cargo run --release --example reproduce -- credit      # Fig. 1: which tokens earned it
//! cargo run --release --example reproduce -- beams       # Fig. 2: beam search on a DPO policy
//! cargo run --release --example reproduce -- decline     # Fig. 3 and Eq. 16: why rewards fall
//! cargo run --release --example reproduce -- search      # Eq. 12 and 13: guided search is likelihood search
//! cargo run --release --example reproduce -- luck        # beyond the paper: stochastic users
//! cargo run --release --example reproduce -- elicitation # the main job on three seeds
//! ```
//!
//! The objective is the paper's and the order of things is what is looked at. The scale is not the paper's: policies
//! of 0.4 million weights from scratch, dialogues in which an animal is found out by asking, and the task's own
//! reward as the judge.

mod beams;
mod credit;
mod decline;
mod elicitation;
mod lab;
mod luck;
mod search;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter("warn,reproduce=info")
        .with_target(false)
        .without_time()
        .init();
    match std::env::args().nth(1).as_deref() {
        Some("credit") => credit::run(),
        Some("beams") => beams::run(),
        Some("decline") => decline::run(),
        Some("search") => search::run(),
        Some("luck") => luck::run(),
        Some("elicitation") => elicitation::run(),
        _ => bail!("usage: reproduce credit|beams|decline|search|luck|elicitation"),
    }
}
