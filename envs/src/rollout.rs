//! `rollout`: the only loop in which agents meet an environment.

use std::sync::Arc;

use crate::environment::{Environment, Observation};
use crate::error::{EnvError, Result};
use crate::message::{Message, Tool};
use crate::policy::Policy;
use crate::seed::EpisodeSeed;
use crate::trajectory::{Episode, Trajectory, Turn};

/// Plays one episode with a policy per agent and records what each agent saw, said and earned.
///
/// The trajectories' `id` and `env` are left empty: the caller knows them.
///
/// # Errors
/// What the environment or a policy fails with, and [`EnvError::NoPolicy`] when the environment waits for
/// an agent beyond `policies`.
pub async fn rollout(
    environment: &mut dyn Environment,
    policies: &mut [&mut dyn Policy],
    seed: EpisodeSeed,
) -> Result<Episode> {
    for policy in policies.iter_mut() {
        policy.begin(seed).await?;
    }
    let mut recorders = vec![Recorder::default(); policies.len()];
    let mut facts = Vec::new();
    let mut observation = environment.reset(seed).await?;
    let ending = loop {
        let agent = observation.agent.0;
        recorder(&mut recorders, agent)?.hear(&observation);
        let action = policies[agent].act(&observation).await?;
        recorders[agent].say(action.clone());
        let step = environment.step(action).await?;
        recorders[agent].earn(step.reward);
        for (other, reward) in step.other_rewards {
            recorder(&mut recorders, other.0)?.earn(reward);
        }
        facts.push(step.facts);
        observation = step.observation;
        if let Some(ending) = step.ending {
            break ending;
        }
    };
    // The last words are part of what their agent has heard.
    recorder(&mut recorders, observation.agent.0)?.hear(&observation);
    let trajectories = recorders
        .into_iter()
        .zip(policies)
        .map(|(recorder, policy)| Trajectory {
            id: String::new(),
            env: String::new(),
            seed: Some(seed),
            messages: recorder.turns,
            tools: recorder.tools.to_vec(),
            return_: recorder.return_,
            ending,
            tokens: policy.token_records(),
            metadata: serde_json::Map::new(),
        })
        .collect();
    Ok(Episode {
        trajectories,
        facts,
    })
}

fn recorder(recorders: &mut [Recorder], agent: usize) -> Result<&mut Recorder> {
    let policies = recorders.len();
    recorders
        .get_mut(agent)
        .ok_or(EnvError::NoPolicy { agent, policies })
}

/// One agent's side of a running episode.
#[derive(Clone, Debug, Default)]
struct Recorder {
    turns: Vec<Turn>,
    tools: Arc<[Tool]>,
    return_: f64,
}

impl Recorder {
    fn hear(&mut self, observation: &Observation) {
        self.tools = observation.tools.clone();
        let heard = observation.messages.iter().cloned();
        self.turns
            .extend(heard.map(|message| Turn::new(message, None)));
    }

    fn say(&mut self, message: Message) {
        self.turns.push(Turn::new(message, Some(0.0)));
    }

    /// Credits the agent's latest action; before its first one only the return counts.
    fn earn(&mut self, reward: f64) {
        self.return_ += reward;
        if let Some(earned) = self.turns.iter_mut().rev().find_map(|t| t.reward.as_mut()) {
            *earned += reward;
        }
    }
}
