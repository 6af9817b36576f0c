//! The `socratiq` command: parses the command line and calls one function.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use socratiq::Task;

/// Agents that learn multi-turn dialogue from preferences over whole conversations.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The main job: conversation logs to a better agent, on a built-in task, with a report
    #[command(after_help = "Example: socratiq quickstart --out runs/quickstart")]
    Quickstart(commands::quickstart::Options),
    /// List the built-in environments, or describe one with a sample episode and its baselines
    #[command(after_help = "Example: socratiq envs elicitation:table=guess-who,noise=0.1")]
    Envs {
        /// Name, and settings if any: NAME:key=value,key=value
        env: Option<Task>,
        /// Episodes per baseline
        #[arg(long, default_value_t = 1000)]
        episodes: u64,
        /// Seed of the run
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Play an environment in the terminal
    #[command(after_help = "Example: socratiq play elicitation --seed 7")]
    Play {
        /// Name, and settings if any: NAME:key=value,key=value
        env: Task,
        /// Seed of the episode; another one each time if left out
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Check and convert preference logs of many formats
    #[command(subcommand, after_help = "Example: socratiq logs check prefs.jsonl.gz")]
    Logs(commands::logs::Logs),
    /// Play many episodes at once and write down what was said and earned
    #[command(
        after_help = "Example: socratiq rollout --model random --env elicitation --episodes 100 --out random.jsonl"
    )]
    Rollout(commands::rollout::Options),
    /// Compare models and planners over the same episodes, with 95 % intervals
    #[command(
        after_help = "Example: socratiq eval --model random mediocre optimal --env elicitation --episodes 500"
    )]
    Eval(commands::eval::Options),
    /// Make preference pairs of trajectories with returns
    #[command(
        after_help = "Example: socratiq pairs rollouts.jsonl --rule best-worst:group=seed --out prefs.jsonl"
    )]
    Pairs(commands::pairs::Options),
    /// Complete a dialogue with the agent's next message
    #[command(
        after_help = "Example: socratiq generate --model SmolLM2-135M-Instruct.Q4_1.gguf --messages chat.json"
    )]
    Generate(commands::generate::Options),
    /// Train a policy: supervised, or on preferences over whole dialogues
    #[command(
        after_help = "Example: socratiq train configs/quickstart/dpo.toml --set out=runs/example"
    )]
    Train(commands::train::Options),
    /// Say which tokens and turns of pairs and dialogues earned what: as data, and as a page to look at
    #[command(
        after_help = "Example: socratiq score --model runs/example --data prefs.jsonl --out scores.jsonl --html credit.html"
    )]
    Score(commands::score::Options),
    /// Write a model as other tools load it
    #[command(
        after_help = "Example: socratiq export --model runs/example --format merged --out merged"
    )]
    Export(commands::export::Options),
    /// Measure speed, beside what the machine and a peer can do in the same run
    #[command(
        subcommand,
        after_help = "Example: socratiq bench generate --shape smollm2-135m"
    )]
    Bench(commands::bench::Bench),
    /// Print what a shell needs to complete this command
    #[command(
        after_help = "Example: socratiq completions bash > ~/.local/share/bash-completion/completions/socratiq"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    #[command(after_help = "Example: socratiq man --out ~/.local/share/man/man1")]
    Man(commands::shell::ManOptions),
    /// Solve a small token MDP exactly: soft-optimal V, Q, policy and implicit reward
    #[command(after_help = "Example: socratiq exact configs/exact/two-turns.json --beta 0.1")]
    Exact {
        /// JSON file with states, initial probabilities and actions
        mdp: PathBuf,
        /// Strength of the KL term
        #[arg(long)]
        beta: f64,
    },
}

fn main() -> ExitCode {
    commands::log_to_stderr();
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) if commands::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            commands::report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Quickstart(options) => return commands::quickstart::quickstart(&options),
        Command::Envs { env: None, .. } => commands::envs::list(),
        Command::Envs {
            env: Some(task),
            episodes,
            seed,
        } => commands::envs::describe(&task, episodes, seed),
        Command::Play { env, seed } => commands::play::play(&env, seed),
        Command::Logs(logs) => commands::logs::logs(&logs),
        Command::Pairs(options) => commands::pairs::pairs(&options),
        Command::Rollout(options) => return commands::rollout::rollout(&options),
        Command::Eval(options) => return commands::eval::eval(&options),
        Command::Train(options) => return commands::train::train(&options),
        Command::Score(options) => commands::score::score(&options),
        Command::Generate(options) => commands::generate::generate(&options),
        Command::Export(options) => commands::export::export(&options),
        Command::Bench(bench) => commands::bench::bench(&bench),
        Command::Completions { shell } => commands::shell::completions(shell),
        Command::Man(options) => commands::shell::man(&options),
        Command::Exact { mdp, beta } => commands::exact::solve(&mdp, beta),
    }?;
    Ok(ExitCode::SUCCESS)
}
