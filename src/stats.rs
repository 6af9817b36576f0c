//! Intervals: how sure a reported number is. All are 95 %.

use serde::{Deserialize, Serialize};
use socratiq_envs::Stream;

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;
/// Bootstrap resamples: enough that the interval's own noise is below a tenth of its width.
const RESAMPLES: usize = 2000;

/// An estimate with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The estimate.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// A success rate with its Wilson score interval (Wilson 1927, "Probable inference, the law of succession,
/// and statistical inference"). `trials` of 0 gives the rate 0 in the interval from 0 to 1.
pub fn wilson(successes: usize, trials: usize) -> Estimate {
    if trials == 0 {
        return Estimate {
            mean: 0.0,
            low: 0.0,
            high: 1.0,
        };
    }
    let (n, rate) = (trials as f64, successes as f64 / trials as f64);
    let scale = 1.0 + Z * Z / n;
    let centre = (rate + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
    Estimate {
        mean: rate,
        low: (centre - half).max(0.0),
        high: (centre + half).min(1.0),
    }
}

/// A mean with its percentile-bootstrap interval over `values`, which are independent episodes; none for
/// an empty slice.
pub fn bootstrap_mean(values: &[f64], stream: &mut Stream) -> Option<Estimate> {
    if values.is_empty() {
        return None;
    }
    let count = values.len();
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..count).map(|_| values[stream.below(count)]).sum::<f64>() / count as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    let quantile = |share: f64| means[(share * (RESAMPLES - 1) as f64).round() as usize];
    Some(Estimate {
        mean: values.iter().sum::<f64>() / count as f64,
        low: quantile(0.025),
        high: quantile(0.975),
    })
}

/// How two policies did on the same episodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairedOutcomes {
    /// Episodes that both solved.
    pub both: usize,
    /// Episodes that only the first solved.
    pub first: usize,
    /// Episodes that only the second solved.
    pub second: usize,
    /// Episodes that neither solved.
    pub neither: usize,
}

impl PairedOutcomes {
    /// Counts pairs of verdicts.
    pub fn count(verdicts: &[(bool, bool)]) -> Self {
        let mut counts = Self::default();
        for verdict in verdicts {
            *match verdict {
                (true, true) => &mut counts.both,
                (true, false) => &mut counts.first,
                (false, true) => &mut counts.second,
                (false, false) => &mut counts.neither,
            } += 1;
        }
        counts
    }

    /// The first success rate minus the second, with a paired interval that holds at rates of 0 and 1 too: the
    /// square-and-add of the two Wilson intervals, corrected for correlation (Newcombe 1998, "Improved
    /// confidence intervals for the difference between binomial proportions based on paired data", method 10).
    /// None without episodes.
    pub fn difference(self) -> Option<Estimate> {
        let [a, b, c, d] = [self.both, self.first, self.second, self.neither].map(|n| n as f64);
        let n = a + b + c + d;
        if n == 0.0 {
            return None;
        }
        let first = wilson(self.both + self.first, n as usize);
        let second = wilson(self.both + self.second, n as usize);
        // The correlation φ, shrunk towards 0 where it is positive.
        let margins = (a + b) * (c + d) * (a + c) * (b + d);
        let cross = a * d - b * c;
        let shrunk = if cross > 0.0 {
            (cross - n / 2.0).max(0.0)
        } else {
            cross
        };
        let phi = if margins > 0.0 {
            shrunk / margins.sqrt()
        } else {
            0.0
        };
        let reach = |up: f64, down: f64| {
            (up * up - 2.0 * phi * up * down + down * down)
                .max(0.0)
                .sqrt()
        };
        let mean = first.mean - second.mean;
        Some(Estimate {
            mean,
            low: mean - reach(first.mean - first.low, second.high - second.mean),
            high: mean + reach(first.high - first.mean, second.mean - second.low),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socratiq_envs::RunSeed;

    #[test]
    fn wilson_agrees_with_the_textbook() {
        // R 4.3: prop.test(x, n, correct = FALSE)$conf.int
        for (successes, trials, low, high) in [
            (8, 10, 0.490_162_5, 0.943_317_8),
            (0, 20, 0.0, 0.161_125_2),
            (50, 100, 0.403_831_5, 0.596_168_5),
        ] {
            let estimate = wilson(successes, trials);
            assert!((estimate.low - low).abs() < 1e-6, "{estimate:?}");
            assert!((estimate.high - high).abs() < 1e-6, "{estimate:?}");
        }
        assert_eq!(wilson(0, 0).high, 1.0);
    }

    #[test]
    fn the_paired_interval_is_newcombes() {
        // 32 of 50 solved by the first and 22 by the second; the limits are from the paper's formulas in Python.
        let counts = PairedOutcomes {
            both: 20,
            first: 12,
            second: 2,
            neither: 16,
        };
        let estimate = counts.difference().unwrap();
        assert!((estimate.mean - 0.2).abs() < 1e-12);
        assert!((estimate.low - 0.056_156_4).abs() < 1e-6, "{estimate:?}");
        assert!((estimate.high - 0.329_207_0).abs() < 1e-6, "{estimate:?}");
        // Equal policies that always succeed: no difference seen, and still not certain.
        let certain = PairedOutcomes::count(&[(true, true); 20])
            .difference()
            .unwrap();
        assert_eq!(certain.mean, 0.0);
        assert!(certain.low < -0.1 && certain.high > 0.1, "{certain:?}");
        assert_eq!(PairedOutcomes::default().difference(), None);
    }

    #[test]
    fn the_bootstrap_interval_has_the_width_of_the_normal_one() {
        let mut stream = RunSeed(1).stream("test");
        let values: Vec<f64> = (0..400).map(|_| stream.unit()).collect();
        let estimate = bootstrap_mean(&values, &mut stream).unwrap();
        let variance = values
            .iter()
            .map(|v| (v - estimate.mean).powi(2))
            .sum::<f64>()
            / 400.0;
        let normal = 2.0 * Z * (variance / 400.0).sqrt();
        let width = estimate.high - estimate.low;
        assert!((width / normal - 1.0).abs() < 0.1, "{width} {normal}");
        assert!(estimate.low < estimate.mean && estimate.mean < estimate.high);
        assert_eq!(bootstrap_mean(&[], &mut stream), None);
    }
}
