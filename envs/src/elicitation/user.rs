//! The simulated user: how it answers, and in which words.

use serde::{Deserialize, Serialize};

use crate::seed::Stream;

/// What a user says about an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It holds.
    Yes,
    /// It does not hold.
    No,
    /// The user does not know.
    Unknown,
}

const YES: &[&str] = &["Yes.", "Yes, it's true.", "Yep.", "That's right."];
const NO: &[&str] = &[
    "No.",
    "No, I'm afraid not.",
    "Nope.",
    "That's not the case.",
];
const UNKNOWN: &[&str] = &["No idea.", "I don't know.", "Hard to say."];
const UNCLEAR: &[&str] = &[
    "Sorry, I don't understand. Ask me something with yes or no.",
    "Hmm, I didn't get that. Is that a yes/no question?",
    "I'm not sure what you mean. Could you ask it differently?",
];
const SEVERAL: &[&str] = &[
    "One question at a time, please.",
    "Just one question, please.",
];

impl Answer {
    /// The answer in words.
    pub(super) fn say(self, stream: &mut Stream) -> &'static str {
        pick(
            match self {
                Self::Yes => YES,
                Self::No => NO,
                Self::Unknown => UNKNOWN,
            },
            stream,
        )
    }

    /// What a reply of the user says; none if it answers nothing.
    pub fn of_reply(reply: &str) -> Option<Self> {
        [(Self::Yes, YES), (Self::No, NO), (Self::Unknown, UNKNOWN)]
            .into_iter()
            .find_map(|(answer, phrases)| phrases.contains(&reply).then_some(answer))
    }
}

pub(super) fn say_unclear(stream: &mut Stream) -> &'static str {
    pick(UNCLEAR, stream)
}

pub(super) fn say_several(stream: &mut Stream) -> &'static str {
    pick(SEVERAL, stream)
}

fn pick(phrases: &[&'static str], stream: &mut Stream) -> &'static str {
    stream.choose(phrases).copied().unwrap_or_default()
}

/// How a user answers a question that it understood.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserModel {
    /// Probability that an answer is the opposite of the truth.
    pub noise: f64,
    /// Probability that the user has "no idea".
    pub terse: f64,
}

impl UserModel {
    /// A user who always answers truly.
    pub const TRUTHFUL: Self = Self {
        noise: 0.0,
        terse: 0.0,
    };

    /// Draws the answer where the truth is `holds`. Asking again draws again.
    pub(super) fn answer(self, holds: bool, stream: &mut Stream) -> Answer {
        let (terse, wrong) = (stream.chance(self.terse), stream.chance(self.noise));
        match (terse, holds != wrong) {
            (true, _) => Answer::Unknown,
            (false, true) => Answer::Yes,
            (false, false) => Answer::No,
        }
    }

    /// `P(answer | the truth is `holds`)`.
    pub fn likelihood(self, answer: Answer, holds: bool) -> f64 {
        match (answer, holds) {
            (Answer::Unknown, _) => self.terse,
            (Answer::Yes, true) | (Answer::No, false) => (1.0 - self.terse) * (1.0 - self.noise),
            (Answer::Yes, false) | (Answer::No, true) => (1.0 - self.terse) * self.noise,
        }
    }
}
