//! `Log`: trajectories on the disk, line by line as episodes end.
//!
//! A line is handed to the system whole, the moment its episode ends, so a run that is killed loses no
//! finished episode; a last line without its end was cut off and is played again. Episodes that failed are in
//! a file of their own, `….failures.jsonl`, because they are no trajectories, and are tried again by the next
//! run.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use socratiq_agents::model::write;
use socratiq_envs::Trajectory;

use super::{FACTS, Key, Played, Rollouts, SAMPLE, SUCCESS};
use crate::evaluation::Outcome;
use crate::whole_file::make_folder_of;

/// An open log. No other process writes into it meanwhile.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    failures: PathBuf,
    done: HashSet<Key>,
    outcomes: Vec<Outcome>,
    failed: usize,
}

impl Log {
    /// Opens the log of `rollouts`, or begins it, in a folder that is made where there is none. What an earlier run of
    /// the same has finished stays.
    ///
    /// # Errors
    /// When another process is writing into it, a line is no trajectory, or it is the log of another
    /// environment, model or planner.
    pub fn open(path: &Path, rollouts: &Rollouts) -> Result<Self> {
        let place = || format!("cannot write `{}`", path.display());
        make_folder_of(path)?;
        let mut options = File::options();
        let file = options.read(true).append(true).create(true).open(path);
        let file = file.with_context(place)?;
        if file.try_lock().is_err() {
            bail!("`{}` is being written by another run", path.display());
        }
        let failures = path.with_extension("failures.jsonl");
        match fs::remove_file(&failures) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("cannot replace `{}`", failures.display()));
            }
            _ => {}
        }
        let mut log = Self {
            path: path.to_owned(),
            file,
            failures,
            done: HashSet::new(),
            outcomes: Vec::new(),
            failed: 0,
        };
        let whole = log.read(rollouts)?;
        log.file.set_len(whole).with_context(place)?;
        Ok(log)
    }

    /// Reads what is there and returns how many bytes are whole lines.
    fn read(&mut self, rollouts: &Rollouts) -> Result<u64> {
        let mut lines = BufReader::new(&self.file);
        let (mut line, mut number, mut whole) = (String::new(), 0, 0);
        loop {
            line.clear();
            number += 1;
            let place = || format!("`{}`: line {number}", self.path.display());
            match lines.read_line(&mut line) {
                Ok(0) => return Ok(whole),
                Ok(_) if !line.ends_with('\n') => {
                    tracing::warn!("{}: it was cut off, and is played again", place());
                    return Ok(whole);
                }
                read => whole += read.with_context(place)? as u64,
            }
            let trajectory: Trajectory = serde_json::from_str(&line).with_context(place)?;
            let key = Key::of_trajectory(&trajectory)
                .with_context(|| format!("{}: it has no seed", place()))?;
            if let Some(difference) = difference(&trajectory, rollouts) {
                bail!("{}: {difference}: give another file to write into", place());
            }
            let new = self.done.insert(key);
            ensure!(new, "{}: seed {} is there twice", place(), key.seed.0);
            self.outcomes.push(Outcome::of(&trajectory, None));
        }
    }

    /// The keys that are not there yet.
    pub fn missing(&self, keys: &[Key]) -> Vec<Key> {
        let missing = keys.iter().filter(|key| !self.done.contains(key));
        missing.copied().collect()
    }

    /// What the episodes that are there came to.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// How many episodes of this run failed.
    pub fn failures(&self) -> usize {
        self.failed
    }

    /// Writes an episode down.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn push(&mut self, played: &Played) -> Result<()> {
        match &played.result {
            Ok(finished) => {
                append(&mut self.file, &finished.trajectory)
                    .with_context(|| format!("cannot write `{}`", self.path.display()))?;
                let outcome = Outcome::of(&finished.trajectory, Some(finished.seconds));
                self.outcomes.push(outcome);
                self.done.insert(played.key);
            }
            Err(failure) => {
                let mut line = json!(played.key);
                line["failure"] = json!(failure);
                let mut options = File::options();
                let file = options.append(true).create(true).open(&self.failures);
                file.and_then(|mut file| append(&mut file, &line))
                    .with_context(|| format!("cannot write `{}`", self.failures.display()))?;
                self.failed += 1;
            }
        }
        Ok(())
    }

    /// Puts the lines into the order of `keys`, those of other keys after them, so that equal runs leave equal
    /// files.
    ///
    /// # Errors
    /// When the file cannot be read or replaced.
    pub fn sort(self, keys: &[Key]) -> Result<()> {
        let place = || format!("cannot put `{}` into order", self.path.display());
        let ranks: HashMap<&Key, usize> = keys.iter().zip(0..).collect();
        let text = fs::read_to_string(&self.path).with_context(place)?;
        let mut lines = Vec::new();
        for line in text.split_inclusive('\n') {
            let key = Key::of_trajectory(&serde_json::from_str(line).with_context(place)?);
            let rank = key.and_then(|key| ranks.get(&key).copied());
            lines.push((rank.unwrap_or(usize::MAX), line));
        }
        if !lines.is_sorted_by_key(|(rank, _)| *rank) {
            lines.sort_by_key(|(rank, _)| *rank);
            let sorted: String = lines.into_iter().map(|(_, line)| line).collect();
            write(&self.path, sorted.as_bytes()).with_context(place)?;
        }
        Ok(())
    }
}

/// Appends a line in one call.
fn append(file: &mut File, value: &impl serde::Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// What tells a trajectory from those of `rollouts`, if anything does.
fn difference(trajectory: &Trajectory, rollouts: &Rollouts) -> Option<String> {
    if trajectory.env != rollouts.env {
        let (found, wanted) = (&trajectory.env, &rollouts.env);
        return Some(format!("its environment is `{found}`, not `{wanted}`"));
    }
    let mut metadata: Map<String, Value> = trajectory.metadata.clone();
    metadata.retain(|key, _| ![SAMPLE, SUCCESS, FACTS].contains(&key.as_str()));
    let keys = metadata.keys().chain(rollouts.metadata.keys());
    keys.into_iter()
        .find(|key| metadata.get(*key) != rollouts.metadata.get(*key))
        .map(|key| {
            let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
            let (found, wanted) = (of(&metadata), of(&rollouts.metadata));
            format!("its {key} is {found}, not {wanted}")
        })
}
