//! Whether credit finds planted mistakes: a turn that is known to be wrong, or its tokens, against all others.
//!
//! Every dialogue is judged by [`suspicion`] of its tokens or turns, and the judge by the area under its ROC curve: the
//! probability that one of the mistake is more suspicious than another. 1 is perfect, ½ is chance. Dialogues are
//! independent and what they consist of is not, so intervals resample dialogues.

use socratiq_envs::Stream;

use super::Scored;
use crate::stats::Estimate;

/// What makes a token suspicious.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// A low implicit reward.
    ImplicitReward,
    /// A low log-probability under the policy: a control, what likelihood alone knows.
    Logprob,
    /// A low implicit return, shared equally by all of the dialogue: a control, what the label alone knows.
    Uniform,
}

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Every token of the agent.
    Token,
    /// Every token of the agent to which the reference gave a probability below 0.9. The others follow from what was
    /// said before them: where there is nothing to choose, there is nothing to be credited with.
    Choice,
    /// Every turn of the agent, by the sum over its tokens.
    Turn,
}

/// A token or turn: how suspicious it is, and whether it is of a planted mistake.
pub type Judged = (f64, bool);

/// What the agent said in one dialogue, in which turn number `planted` is the mistake.
pub fn suspicion(scored: &Scored, planted: usize, judge: Judge, unit: Unit) -> Vec<Judged> {
    let turns = scored.turns();
    let units = match unit {
        Unit::Token | Unit::Choice => scored.completion.num_scored(),
        Unit::Turn => turns.len(),
    };
    let is_choice = |at: &usize| scored.reference_logprob[*at].is_some_and(|p| p < 0.9_f64.ln());
    let share = -scored.credit.total() / units.max(1) as f64;
    let of = |at: usize| match judge {
        Judge::ImplicitReward => scored.credit.implicit_reward[at].map(|reward| -reward),
        Judge::Logprob => scored.logprob[at].map(|logprob| -logprob),
        Judge::Uniform => Some(share),
    };
    let mut judged = Vec::new();
    for (number, turn) in turns.into_iter().enumerate() {
        let mistake = number == planted;
        match (unit, judge) {
            (Unit::Token, _) => judged.extend(turn.filter_map(of).map(|of| (of, mistake))),
            (Unit::Choice, _) => {
                let choices = turn.filter(is_choice).filter_map(of);
                judged.extend(choices.map(|of| (of, mistake)));
            }
            (Unit::Turn, Judge::Uniform) => judged.push((share, mistake)),
            (Unit::Turn, _) => judged.push((turn.filter_map(of).sum(), mistake)),
        }
    }
    judged
}

/// The area under the ROC curve over all dialogues, ties counted half; none if all that is judged is of one kind.
///
/// By the rank sum of Mann and Whitney (1947).
///
/// # Example
/// ```
/// use socratiq::score::check::auroc;
/// let dialogues = [vec![(0.9, true), (0.1, false)], vec![(0.4, true), (0.5, false)]];
/// assert_eq!(auroc(dialogues.iter().map(Vec::as_slice)), Some(0.75));
/// ```
pub fn auroc<'a>(dialogues: impl Iterator<Item = &'a [Judged]>) -> Option<f64> {
    let mut tokens: Vec<Judged> = dialogues.flatten().copied().collect();
    tokens.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mistakes = tokens.iter().filter(|(_, mistake)| *mistake).count() as f64;
    let others = tokens.len() as f64 - mistakes;
    if mistakes == 0.0 || others == 0.0 {
        return None;
    }
    // Σ over mistakes of the others below them, those beside them half.
    let (mut below, mut wins) = (0.0, 0.0);
    for ties in tokens.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let (hits, beside) = ties
            .iter()
            .fold((0.0, 0.0), |(hits, beside), token| match token.1 {
                true => (hits + 1.0, beside),
                false => (hits, beside + 1.0),
            });
        wins += hits * (below + beside / 2.0);
        below += beside;
    }
    Some(wins / (mistakes * others))
}

/// Bootstrap resamples of dialogues.
const RESAMPLES: usize = 1000;

/// The area with its 95 % interval, by the percentile bootstrap over dialogues; none where there is no area.
pub fn auroc_interval(dialogues: &[Vec<Judged>], stream: &mut Stream) -> Option<Estimate> {
    let mean = auroc(dialogues.iter().map(Vec::as_slice))?;
    let mut areas: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let drawn: Vec<&[Judged]> = (0..dialogues.len())
                .map(|_| dialogues[stream.below(dialogues.len())].as_slice())
                .collect();
            auroc(drawn.into_iter())
        })
        .collect();
    areas.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let place = (share * areas.len().saturating_sub(1) as f64).round() as usize;
        areas.get(place).copied().unwrap_or(mean)
    };
    Some(Estimate {
        mean,
        low: quantile(0.025),
        high: quantile(0.975),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use socratiq_envs::RunSeed;

    /// By its definition: every mistake against every other token.
    fn slow(dialogues: &[Vec<Judged>]) -> f64 {
        let tokens: Vec<Judged> = dialogues.concat();
        let (mut wins, mut pairs) = (0.0, 0.0);
        for mistake in tokens.iter().filter(|token| token.1) {
            for other in tokens.iter().filter(|token| !token.1) {
                pairs += 1.0;
                wins += match mistake.0.total_cmp(&other.0) {
                    std::cmp::Ordering::Greater => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Less => 0.0,
                };
            }
        }
        wins / pairs
    }

    /// Dialogues whose mistakes are more suspicious by `shift`, in steps so that there are ties.
    fn dialogues(count: usize, shift: f64, stream: &mut Stream) -> Vec<Vec<Judged>> {
        let mut token = |at: usize| {
            let mistake = at < 2;
            let height = stream.unit() + if mistake { shift } else { 0.0 };
            ((height * 10.0).round(), mistake)
        };
        (0..count)
            .map(|_| (0..8).map(&mut token).collect())
            .collect()
    }

    #[test]
    fn the_area_is_the_share_of_won_comparisons() {
        let mut stream = RunSeed(3).stream("tokens");
        for shift in [-0.5, 0.0, 0.3, 2.0] {
            let dialogues = dialogues(20, shift, &mut stream);
            let area = auroc(dialogues.iter().map(Vec::as_slice)).unwrap();
            assert!((area - slow(&dialogues)).abs() < 1e-12);
            let estimate = auroc_interval(&dialogues, &mut stream).unwrap();
            assert!(
                estimate.low <= area && area <= estimate.high,
                "{estimate:?}"
            );
        }
        assert_eq!(auroc([[(1.0, true)].as_slice()].into_iter()), None);
    }

    #[test]
    fn the_interval_covers_the_truth_about_as_often_as_it_says() {
        let mut stream = RunSeed(4).stream("coverage");
        // Of many tokens, the truth.
        let truth = slow(&dialogues(400, 0.3, &mut stream));
        let covers = (0..100)
            .filter(|_| {
                let drawn = dialogues(30, 0.3, &mut stream);
                auroc_interval(&drawn, &mut stream)
                    .is_some_and(|e| e.low <= truth && truth <= e.high)
            })
            .count();
        assert!((88..=99).contains(&covers), "{covers} of 100");
    }
}
