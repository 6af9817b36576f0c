//! `socratiq exact`: the exact solution of a small token MDP.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use socratiq::envs::exact::{FiniteMdp, MdpSpec};

/// Reads the MDP, solves it and prints the solution as JSON.
pub(crate) fn solve(path: &Path, beta: f64) -> Result<()> {
    let place = || format!("`{}`", path.display());
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", place()))?;
    let spec: MdpSpec = serde_json::from_str(&text).with_context(place)?;
    let mdp = FiniteMdp::try_from(spec).with_context(place)?;
    let report = mdp.solve(beta)?.report(&mdp);
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}
