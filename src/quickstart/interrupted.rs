//! A run that was asked to stop, and has kept what it did.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

/// The run was asked to stop; started again, it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted: what is done is kept, and the same command goes on")]
pub struct Interrupted;

/// Fails if the run was asked to stop.
pub(super) fn check(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Interrupted.into()),
        false => Ok(()),
    }
}
