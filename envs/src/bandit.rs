//! `bandit`: one turn, and an optimum in closed form. What tests use.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::environment::{Environment, Fork, Observation, Step};
use crate::error::{EnvError, Result};
use crate::message::{Message, Role};
use crate::seed::EpisodeSeed;

/// One arm: what to say, and the reward for saying it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// The word that pulls the arm.
    pub name: String,
    /// The reward.
    pub reward: f64,
}

/// A bandit: the agent names an arm and the episode is over. Anything else it says earns 0.
///
/// With a reference policy π_ref over the arms, the soft-optimal policy is
/// `π*(arm) ∝ π_ref(arm) exp(reward/β)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bandit {
    /// The arms.
    pub arms: Vec<Arm>,
    #[serde(skip)]
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Phase {
    #[default]
    BeforeReset,
    Running,
    Over,
}

impl Bandit {
    /// A bandit with these arms.
    pub fn new(arms: Vec<Arm>) -> Self {
        Self {
            arms,
            phase: Phase::default(),
        }
    }
}

/// Three arms, worth 0, ½ and 1.
impl Default for Bandit {
    fn default() -> Self {
        let arm = |name: &str, reward| Arm {
            name: name.to_owned(),
            reward,
        };
        Self::new(vec![arm("red", 0.0), arm("green", 0.5), arm("blue", 1.0)])
    }
}

#[async_trait]
impl Environment for Bandit {
    async fn reset(&mut self, _seed: EpisodeSeed) -> Result<Observation> {
        self.phase = Phase::Running;
        let names: Vec<&str> = self.arms.iter().map(|arm| arm.name.as_str()).collect();
        Ok(Observation::new(vec![Message::user(format!(
            "Pick one: {}.",
            names.join(", ")
        ))]))
    }

    async fn step(&mut self, action: Message) -> Result<Step> {
        match (self.phase, action.role) {
            (Phase::BeforeReset, _) => return Err(EnvError::NotReset),
            (Phase::Over, _) => return Err(EnvError::Ended),
            (Phase::Running, Role::Assistant) => self.phase = Phase::Over,
            (Phase::Running, role) => return Err(EnvError::NotAnAction { role }),
        }
        let text = action.text();
        let said = text.trim().trim_end_matches('.');
        let arm = self
            .arms
            .iter()
            .find(|arm| arm.name.eq_ignore_ascii_case(said));
        let reward = arm.map_or(0.0, |arm| arm.reward);
        let reply = Message::user(format!("That earns {reward}."));
        Ok(Step::terminated(vec![reply], reward))
    }

    async fn fork(&mut self, _fork: Fork) -> Result<Box<dyn Environment>> {
        // Nothing is hidden and nothing random, so both kinds of copy are the same.
        match self.phase {
            Phase::BeforeReset => Err(EnvError::NotReset),
            Phase::Over => Err(EnvError::Ended),
            Phase::Running => Ok(Box::new(self.clone())),
        }
    }
}
