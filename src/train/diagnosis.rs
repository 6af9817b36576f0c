//! What commonly goes wrong in preference training, by name, with what to try.

use super::probe::Drift;

/// Something that a user should know.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// A name to look up.
    pub name: &'static str,
    /// What was measured, and what to try.
    pub text: String,
}

/// Mean log-ratio per token below which the chosen answers are becoming unlikely.
const COLLAPSE: f64 = -0.5;
/// Mean log-ratio of end-of-turn tokens below which turns get long.
const NO_ENDING: f64 = -1.0;

/// What `drift` says about a run with this β, or without rewards where there is none. `accuracy` is the share of pairs
/// that are ranked rightly.
pub fn diagnose(drift: &Drift, beta: Option<f64>, accuracy: Option<f64>) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    let per_token = drift.log_ratio / drift.tokens.max(1.0);
    let rewards = beta.map(|beta| (beta * drift.log_ratio, -beta * drift.divergence));
    if per_token < COLLAPSE {
        found.push(Diagnosis {
            name: "likelihood-collapse",
            text: format!(
                "a token of the chosen answers is e^{per_token:.2} times as likely as before training: the policy \
                 is leaving them. Try a lower learning rate, a higher beta, or adding SFT: kind = [{{ kind = \
                 \"dpo\", weight = 1 }}, {{ kind = \"sft\", weight = 0.2 }}]"
            ),
        });
    } else if let Some((reward, expected)) = rewards
        && reward < 0.0
        && reward < 0.1 * expected
    {
        found.push(Diagnosis {
            name: "reward-decline",
            text: format!(
                "rewards of chosen answers are falling: {reward:.3} beside −β·KL(π_ref‖π) = {expected:.3}, which \
                 answers of the reference's own have by necessity (Eq. 16 of arXiv 2404.12358). This is what a \
                 policy that moves looks like; what counts is the margin"
            ),
        });
    }
    if drift.end_of_turn < NO_ENDING {
        found.push(Diagnosis {
            name: "length-blow-up",
            text: format!(
                "the end of a turn is e^{:.2} times as likely as before training: turns will get longer. Try \
                 ld_alpha = 0.5, kind = \"sigmoid_norm\", adding SFT, or a higher beta",
                drift.end_of_turn
            ),
        });
    }
    if accuracy.is_some_and(|accuracy| accuracy > 0.99) && drift.divergence > 20.0 {
        found.push(Diagnosis {
            name: "over-optimisation",
            text: format!(
                "all pairs are ranked rightly and the policy is {:.0} nats from its reference: more updates only \
                 overfit. Try fewer epochs, early_stopping_patience with data.eval, or a higher beta",
                drift.divergence
            ),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: Drift = Drift {
        divergence: 0.5,
        log_ratio: 1.0,
        tokens: 20.0,
        end_of_turn: 0.1,
    };

    fn names(drift: Drift, accuracy: Option<f64>) -> Vec<&'static str> {
        diagnose(&drift, Some(0.1), accuracy)
            .into_iter()
            .map(|found| found.name)
            .collect()
    }

    #[test]
    fn each_diagnosis_has_its_measure() {
        assert!(names(STILL, Some(0.8)).is_empty());
        let falling = Drift {
            log_ratio: -2.0,
            divergence: 1.5,
            ..STILL
        };
        assert_eq!(names(falling, None), ["reward-decline"]);
        assert_eq!(
            names(
                Drift {
                    log_ratio: -30.0,
                    ..STILL
                },
                None
            ),
            ["likelihood-collapse"]
        );
        assert_eq!(
            names(
                Drift {
                    end_of_turn: -2.0,
                    ..STILL
                },
                None
            ),
            ["length-blow-up"]
        );
        let far = Drift {
            divergence: 40.0,
            ..STILL
        };
        assert_eq!(names(far, Some(1.0)), ["over-optimisation"]);
        assert!(names(far, Some(0.9)).is_empty());
        assert!(diagnose(&falling, None, None).is_empty());
        // The text has the numbers of Eq. 16.
        let text = &diagnose(&falling, Some(0.1), None)[0].text;
        assert!(
            text.contains("-0.200 beside −β·KL(π_ref‖π) = -0.150"),
            "{text}"
        );
    }
}
