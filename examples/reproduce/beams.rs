//! Beams: likelihood search on a DPO policy is search for value; does it help, and when does it stop to?

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;
use socratiq::envs::{RunSeed, Split, Trajectory};
use socratiq::evaluation::Outcome;
use socratiq::stats::Estimate;

use crate::lab::{
    Curve, Seeds, Start, TASK, curves, folder, once, over_seeds, play, prefer, say, set, shown,
    start, train, write_page, write_preferences,
};

/// The settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Beams {
    seeds: Seeds,
    betas: Vec<f64>,
    /// Greedy first; the page compares the third with it, and the last with the third.
    widths: [usize; 5],
    preferences: usize,
    episodes: u64,
}

/// Of a policy at one width: the share of episodes in which it earns more than the questioner of the log on the same
/// seed, ties half; and the tokens of an episode.
#[derive(Clone, Copy)]
struct Cell {
    wins: f64,
    tokens: f64,
}

impl Beams {
    pub(crate) fn run(&self) -> Result<()> {
        let mut names: Vec<String> = self
            .betas
            .iter()
            .map(|beta| format!("DPO, β = {beta}"))
            .collect();
        names.push("SFT (control)".to_owned());
        // By seed, policy and width; and by seed and policy, drawn at temperature 1.
        let mut cells: Vec<Vec<Vec<Cell>>> = Vec::new();
        let mut drawn: Vec<Vec<Cell>> = Vec::new();
        for seed in self.seeds {
            let (searched, sampled) = self.one(seed)?;
            cells.push(searched);
            drawn.push(sampled);
        }
        let over = |of: &dyn Fn(usize) -> f64| {
            over_seeds(&(0..self.seeds.len()).map(of).collect::<Vec<_>>())
        };
        let mut page = self.introduction();
        let head: Vec<String> = self
            .widths
            .iter()
            .map(|width| format!("{width} beams"))
            .collect();
        let head = head.join(" | ").replacen("1 beams", "greedy", 1);
        let mut wins = format!(
            "| policy | drawn | {head} |\n|{}\n",
            " --- |".repeat(self.widths.len() + 2)
        );
        let mut tokens = format!(
            "| policy | {head} |\n|{}\n",
            " --- |".repeat(self.widths.len() + 1)
        );
        let mut drawing = Vec::new();
        for (policy, name) in names.iter().enumerate() {
            let of = |width: usize| over(&|seed| cells[seed][policy][width].wins);
            let row: Vec<String> = (0..self.widths.len())
                .map(|width| shown(&of(width)))
                .collect();
            let sampled = shown(&over(&|seed| drawn[seed][policy].wins));
            writeln!(wins, "| {name} | {sampled} | {} |", row.join(" | "))?;
            let of_tokens = |width: usize| over(&|seed| cells[seed][policy][width].tokens).mean;
            let row: Vec<String> = (0..self.widths.len())
                .map(|width| format!("{:.1}", of_tokens(width)))
                .collect();
            writeln!(tokens, "| {name} | {} |", row.join(" | "))?;
            drawing.push(Curve {
                name: name.clone(),
                points: self
                    .widths
                    .iter()
                    .enumerate()
                    .map(|(at, width)| (*width as f64, of(at)))
                    .collect(),
            });
        }
        page += &wins;
        page += "\n![win rate by number of beams](beams.svg)\n\n## Differences\n\n\
             | policy | 5 beams − greedy | 20 beams − 5 beams |\n| --- | --- | --- |\n";
        let mut gains: Vec<Estimate> = Vec::new();
        for (policy, name) in names.iter().enumerate() {
            let between = |a: usize, b: usize| {
                over(&|seed| cells[seed][policy][a].wins - cells[seed][policy][b].wins)
            };
            gains.push(between(2, 0));
            writeln!(
                page,
                "| {name} | {} | {} |",
                shown(&between(2, 0)),
                shown(&between(4, 2))
            )?;
        }
        let control = gains[self.betas.len()].mean;
        let better = gains[..self.betas.len()]
            .iter()
            .filter(|gain| gain.low > 0.0 && gain.mean > control);
        let better = better.count();
        write!(
            page,
            "\nFive beams are surely better than greedy, and gain more than on the SFT policy, at {better} of {} values of β: \
         {}.\n\n{WHY}## Tokens of an episode\n\n{tokens}",
            self.betas.len(),
            match better {
                0 => "not reproduced",
                n if n < self.betas.len() => "partly reproduced",
                _ => "reproduced",
            }
        )?;
        let picture = curves(
            "Win rate against the questioners of the log",
            "beams",
            "win rate",
            &drawing,
        );
        write_page("beams", &page, &picture)
    }

    fn introduction(&self) -> String {
        format!(
            "# Beam search on a DPO policy\n\n\
             `cargo run --release --example reproduce -- configs/reproduce/beams.toml`\n\n\
             After Fig. 2 of [arXiv 2404.12358](https://arxiv.org/abs/2404.12358): for a DPO policy, likelihood is the \
             regularised return, so beam search is search for value. Policies of three β learn from the same preferences; \
             the control searches with the SFT policy they began from. The number is the win rate: how often the policy \
             earns more than the questioner of the log on the same unseen seed, ties half, over {} episodes; the mean of \
             three seeds with 95 % t-intervals. “Drawn” is one sample at temperature 1.\n\n",
            self.episodes
        )
    }

    fn one(&self, seed: u64) -> Result<(Vec<Vec<Cell>>, Vec<Cell>)> {
        let folder = folder("beams", seed)?;
        let run = RunSeed(seed);
        say(&format!("beams, seed {seed}"));
        let Start { dialogues, model } = start(seed)?;
        let preferences = folder.join("preferences.jsonl");
        write_preferences(&preferences, &prefer(&dialogues, self.preferences, run)?)?;
        let mut policies: Vec<PathBuf> = Vec::new();
        for beta in &self.betas {
            let settings = [
                set("model.path", &model),
                set("data.train", &preferences),
                format!("objective.beta={beta}"),
            ];
            policies.push(train(
                "dpo.toml",
                &folder.join(format!("dpo-{beta}")),
                seed,
                &settings,
            )?);
        }
        policies.push(model);

        let keys = once(run, Split::Eval, self.episodes);
        let rivals = play(TASK, "mediocre", "greedy", &keys)?;
        let cell = |policy: &Path, planner: &str| -> Result<Cell> {
            let played = play(TASK, &policy.display().to_string(), planner, &keys)?;
            Ok(compare(&played, &rivals))
        };
        let mut searched = Vec::new();
        let mut sampled = Vec::new();
        for policy in &policies {
            let widths = self.widths.iter().map(|width| match width {
                1 => cell(policy, "greedy"),
                _ => cell(policy, &format!("beam:width={width},objective=likelihood")),
            });
            searched.push(widths.collect::<Result<Vec<_>>>()?);
            sampled.push(cell(policy, "sample:temperature=1")?);
        }
        Ok((searched, sampled))
    }
}

const WHY: &str = "Two things differ from the paper. A turn here has about seven tokens and few likely forms, which five beams \
hold: more of them find nothing else, so nothing can be over-optimised. And plain DPO with verdicts that are always right, \
as here, leaves so small a policy worse than it began; the main job, which learns from the likelihood of the better sides \
as well, gains from beams (`dpo+beam` in README).\n\n";

/// Both played the same seeds, in one order.
fn compare(played: &[Trajectory], rivals: &[Trajectory]) -> Cell {
    let n = played.len() as f64;
    let won = played.iter().zip(rivals).map(|(own, rival)| {
        let difference = own.return_ - rival.return_;
        match difference.abs() < 1e-9 {
            true => 0.5,
            false => f64::from(difference > 0.0),
        }
    });
    let tokens = played.iter().filter_map(|t| Outcome::of(t, None).tokens);
    Cell {
        wins: won.sum::<f64>() / n,
        tokens: tokens.sum::<usize>() as f64 / n,
    }
}
