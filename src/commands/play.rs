//! `socratiq play`: a person is the policy.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use futures::executor::block_on;
use socratiq::Task;
use socratiq::envs::elicitation::ElicitationFacts;
use socratiq::envs::{Ending, EpisodeSeed, Message, Observation, Role, rollout};

use super::Styles;

const HELP: &str = "Type what the agent says and press Enter. /help shows this, /items lists what the \
                    table holds, /quit or Ctrl-D leaves.";

/// Plays one episode with a person at the keyboard, or with lines from a file.
pub(crate) fn play(task: &Task, seed: Option<u64>) -> Result<()> {
    let seed = EpisodeSeed(match seed {
        Some(seed) => seed,
        // A new game each time; the number is shown, so that the game can be played again.
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() % 1_000_000,
    });
    let (mut out, styles) = (io::stdout().lock(), Styles::of_stdout());
    let Styles { dim, reset, .. } = styles;
    let mut environment = task.make()?;
    let opening = block_on(environment.reset(seed))?;
    writeln!(out, "{dim}{HELP} This is --seed {}.{reset}\n", seed.0)?;
    hear(&mut out, &opening, styles)?;

    let mut return_ = 0.0;
    let mut lines = io::stdin().lock().lines();
    loop {
        write!(out, "{}> {reset}", styles.agent)?;
        out.flush()?;
        let Some(line) = lines.next() else {
            writeln!(
                out,
                "\n{dim}You left; the return so far is {return_:.2}.{reset}"
            )?;
            return Ok(());
        };
        let line = line.context("cannot read the keyboard")?;
        if !io::stdin().is_terminal() {
            // What was piped in is part of the record.
            writeln!(out, "{line}")?;
        }
        match line.trim() {
            "" => {}
            "/quit" => {
                writeln!(
                    out,
                    "{dim}You left; the return so far is {return_:.2}.{reset}"
                )?;
                return Ok(());
            }
            "/help" => writeln!(out, "{dim}{HELP}{reset}")?,
            "/items" => list_items(&mut out, task)?,
            said => {
                let step = block_on(environment.step(Message::assistant(said)))?;
                return_ += step.reward;
                hear(&mut out, &step.observation, styles)?;
                if let Some(facts) = step.facts.get::<ElicitationFacts>() {
                    progress(&mut out, facts, styles)?;
                }
                if let Some(ending) = step.ending {
                    return close(&mut out, task, seed, (ending, return_), step.facts.get());
                }
            }
        }
    }
}

fn hear(out: &mut impl Write, observation: &Observation, styles: Styles) -> Result<()> {
    for message in &observation.messages {
        let colour = match message.role {
            Role::User => styles.bold,
            _ => styles.dim,
        };
        writeln!(out, "{colour}{}{}", message.text(), styles.reset)?;
    }
    Ok(())
}

fn list_items(out: &mut impl Write, task: &Task) -> Result<()> {
    if let Task::Elicitation(_, table) = task {
        let names: Vec<&str> = table
            .items()
            .iter()
            .map(|item| item.name.as_str())
            .collect();
        writeln!(out, "{}", names.join(", "))?;
    }
    Ok(())
}

fn progress(out: &mut impl Write, facts: &ElicitationFacts, styles: Styles) -> Result<()> {
    if facts.success.is_none() {
        let ElicitationFacts {
            questions,
            bits,
            candidates,
            ..
        } = facts;
        writeln!(
            out,
            "{}  question {questions}: {:+.2} bits, {candidates} left{}",
            styles.dim,
            // Rounding noise must not show as "-0.00".
            if bits.abs() < 0.005 { 0.0 } else { *bits },
            styles.reset
        )?;
    }
    Ok(())
}

/// How the game came out, beside how the best questioner would have played it.
fn close(
    out: &mut impl Write,
    task: &Task,
    seed: EpisodeSeed,
    (ending, return_): (Ending, f64),
    facts: Option<&ElicitationFacts>,
) -> Result<()> {
    let why = match ending {
        Ending::Terminated => "The episode is over",
        Ending::Truncated => "That was the last turn",
    };
    writeln!(out, "\n{why}. Return: {return_:.2}")?;
    let Some(facts) = facts else { return Ok(()) };
    if ending == Ending::Truncated {
        writeln!(out, "It was {}.", facts.hidden)?;
    }
    let per_question = facts.total_bits / f64::from(facts.questions.max(1));
    writeln!(
        out,
        "Your {} questions brought {:.2} bits, {per_question:.2} each.",
        facts.questions, facts.total_bits
    )?;
    if let Some((name, mut questioner)) = task.baselines().into_iter().next() {
        let mut environment = task.make()?;
        let episode = block_on(rollout(environment.as_mut(), &mut [&mut questioner], seed))?;
        if let Some(best) = episode.outcome::<ElicitationFacts>() {
            let outcome = match best.success {
                Some(true) => "found it",
                _ => "did not find it",
            };
            writeln!(
                out,
                "On this one the {name} questioner {outcome} after {} questions.",
                best.questions
            )?;
        }
    }
    Ok(())
}
