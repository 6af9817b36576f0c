//! How the learning rate changes over a run. The numbers are those of `transformers`' schedules of the same
//! names, so that runs can be compared update by update.

use serde::{Deserialize, Serialize};

/// The course of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// It falls to 0 in a line.
    Linear,
    /// It falls to 0 in half a cosine.
    Cosine,
    /// Warm-up, stable, decay (Hu et al. 2024, 2404.06395): it stays, and falls to 0 in a line at the end.
    Wsd,
}

impl Schedule {
    /// The factor of the learning rate at the update with index `update`, from 0, of `updates`. In warm-up it
    /// is update/warmup, so that the very first update moves nothing, as in `transformers`.
    pub fn factor(self, update: u64, updates: u64, warmup: u64, decay: u64) -> f64 {
        if update < warmup {
            return update as f64 / warmup as f64;
        }
        let left = updates.saturating_sub(update) as f64;
        let after_warmup = updates.saturating_sub(warmup).max(1) as f64;
        match self {
            Self::Constant => 1.0,
            Self::Linear => left / after_warmup,
            Self::Cosine => {
                let progress = (update - warmup) as f64 / after_warmup;
                0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
            Self::Wsd => (left / decay.max(1) as f64).min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `transformers` 5.24: `get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup` and
    /// `get_wsd_schedule(.., decay_type="linear")` with 10 updates, 2 of warm-up, and 4 of decay.
    #[test]
    fn factors_are_those_of_transformers() {
        let at = |schedule: Schedule| -> Vec<f64> {
            (0..10)
                .map(|update| schedule.factor(update, 10, 2, 4))
                .collect()
        };
        let near = |a: Vec<f64>, b: [f64; 10]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(
            at(Schedule::Constant),
            [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        ));
        assert!(near(
            at(Schedule::Linear),
            [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
        ));
        assert!(near(
            at(Schedule::Cosine),
            [
                0.0,
                0.5,
                1.0,
                0.961_939_8,
                0.853_553_4,
                0.691_341_7,
                0.5,
                0.308_658_3,
                0.146_446_6,
                0.038_060_2
            ]
        ));
        assert!(near(
            at(Schedule::Wsd),
            [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
        ));
    }
}
