//! An environment of one's own in one file: guess a number, told higher or lower.
//!
//! Run it with `cargo run --example custom_environment`.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use socratiq::envs::{
    EnvError, Environment, EpisodeSeed, Fork, Message, Observation, Step, TurnLimit, async_trait,
    check_environment,
};

#[derive(Clone, Default)]
struct HigherLower {
    hidden: Option<u32>,
    found: bool,
}

#[async_trait]
impl Environment for HigherLower {
    async fn reset(&mut self, seed: EpisodeSeed) -> Result<Observation, EnvError> {
        self.hidden = Some(1 + seed.stream(0, "number").below(100) as u32);
        self.found = false;
        let opening = Message::user("I'm thinking of a number from 1 to 100. Guess!");
        Ok(Observation::new(vec![opening]))
    }

    async fn step(&mut self, action: Message) -> Result<Step, EnvError> {
        let hidden = self.hidden.ok_or(EnvError::NotReset)?;
        if self.found {
            return Err(EnvError::Ended);
        }
        let reply = match action.text().trim().parse::<u32>() {
            Err(_) => "That is not a number.",
            Ok(guess) if guess < hidden => "Higher.",
            Ok(guess) if guess > hidden => "Lower.",
            Ok(_) => {
                self.found = true;
                return Ok(Step::terminated(vec![Message::user("Yes!")], 1.0));
            }
        };
        Ok(Step::reply(vec![Message::user(reply)], -0.1))
    }

    async fn fork(&mut self, fork: Fork) -> Result<Box<dyn Environment>, EnvError> {
        match fork {
            Fork::Exact => Ok(Box::new(self.clone())),
            Fork::Resampled(_) => Err(EnvError::CannotFork {
                environment: "higher-lower".to_owned(),
                reason: "it does not keep what the agent knows; use an exact fork".to_owned(),
            }),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 1. Proves the contract: seeds, endings, forks, transcripts. The limit makes every episode end.
    let report = check_environment(|| TurnLimit::new(HigherLower::default(), 20)).await?;
    println!("the contract holds: {report:?}");

    // 2. Plays an episode by halving.
    let mut environment = TurnLimit::new(HigherLower::default(), 20);
    environment.reset(EpisodeSeed(7)).await?;
    let (mut low, mut high, mut ending) = (1, 100, None);
    while ending.is_none() {
        let guess = u32::midpoint(low, high);
        let step = environment
            .step(Message::assistant(guess.to_string()))
            .await?;
        let reply = step.observation.messages[0].text().into_owned();
        println!("{guess}? {reply}");
        match reply.as_str() {
            "Higher." => low = guess + 1,
            _ => high = guess - 1,
        }
        ending = step.ending;
    }
    Ok(())
}
