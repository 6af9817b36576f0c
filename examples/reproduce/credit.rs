//! Credit: DPO learns from verdicts over whole dialogues; do its implicit rewards find the turn that was at fault?

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::executor::block_on;
use socratiq::envs::elicitation::{
    ElicitationConfig, Meaning, Plan, Planted, Questioner, Style, Table, plant,
};
use socratiq::envs::{Message, Role, RunSeed, Split, Trajectory};
use socratiq::logs::{Preference, Record, Turns};
use socratiq::objective::{Kind, Objective};
use socratiq::pairs::make_pairs;
use socratiq::rollouts::FACTS;
use socratiq::score::check::{Judge, Judged, auroc_interval, suspicion};
use socratiq::score::{Models, Scored, Scorer};
use socratiq::stats::Estimate;
use socratiq::train::config::TooLong;
use socratiq::train::example::Encoder;

use crate::lab::{
    Curve, SEEDS, curves, folder, number, over_seeds, play, say, set, shown, train, write_log,
    write_page, write_preferences,
};

/// Dialogues to learn from, with as many mistaken ones beside them, and such to judge.
const PLANTED: u64 = 1500;
const JUDGED: u64 = 300;
/// Preferences among dialogues of people, and the share of them that is learned from.
const PREFERENCES: usize = 8000;
const SHARES: [usize; 3] = [500, 2000, 8000];

pub(crate) fn run() -> Result<()> {
    let mut found: Vec<Vec<Estimate>> = Vec::new();
    let mut correlations: Vec<Vec<f64>> = Vec::new();
    for seed in SEEDS {
        found.push(planted_mistakes(seed)?);
        correlations.push(exact_advantages(seed)?);
    }
    let judges = [
        "implicit reward, DPO",
        "log-probability, SFT (control)",
        "implicit reward, DPO on shuffled verdicts (control)",
        "return shared equally (control)",
    ];
    let mut page = String::from(PAGE);
    page += "| judge | seed 1 | seed 2 | seed 3 | over seeds |\n| --- | --- | --- | --- | --- |\n";
    for (at, judge) in judges.iter().enumerate() {
        let areas: Vec<Estimate> = found.iter().map(|seed| seed[at]).collect();
        let each: Vec<String> = areas.iter().map(shown).collect();
        let means: Vec<f64> = areas.iter().map(|area| area.mean).collect();
        writeln!(
            page,
            "| {judge} | {} | {} |",
            each.join(" | "),
            shown(&over_seeds(&means))
        )?;
    }
    let worst = found.iter().map(|seed| seed[0].low).fold(1.0, f64::min);
    let control = found
        .iter()
        .flat_map(|seed| seed[1..].iter().map(|area| area.high))
        .fold(0.0, f64::max);
    writeln!(
        page,
        "\nThe lowest end of an interval of the implicit reward is {worst:.3}, the highest end of any control's \
         {control:.3}: {}.",
        match (worst > control, worst >= 0.9) {
            (true, true) => "reproduced, above every control and above 0.9",
            (true, false) => "partly reproduced: above every control, but not above 0.9",
            (false, _) => "not reproduced",
        }
    )?;
    page += ADVANTAGES;
    page += "| preferences | seed 1 | seed 2 | seed 3 | over seeds |\n| --- | --- | --- | --- | --- |\n";
    let mut points = Vec::new();
    for (at, name) in ["none: log-probability under SFT"]
        .into_iter()
        .map(str::to_owned)
        .chain(SHARES.map(|share| share.to_string()))
        .enumerate()
    {
        let values: Vec<f64> = correlations.iter().map(|seed| seed[at]).collect();
        let each: Vec<String> = values.iter().map(|value| number(*value)).collect();
        let all = over_seeds(&values);
        writeln!(page, "| {name} | {} | {} |", each.join(" | "), shown(&all))?;
        if at > 0 {
            points.push((SHARES[at - 1] as f64, all));
        }
    }
    page += "\n![correlation by number of preferences](credit.svg)\n";
    let curve = Curve {
        name: "β log π/π_ref".to_owned(),
        points,
    };
    let picture = curves(
        "Implicit rewards of turns beside their exact advantages",
        "preferences",
        "correlation",
        &[curve],
    );
    write_page("credit", &page, &picture)
}

const PAGE: &str = "# Which turn was at fault\n\n\
`cargo run --release --example reproduce -- credit`\n\n\
After Fig. 1 of [arXiv 2404.12358](https://arxiv.org/abs/2404.12358). The best questioner plays for an animal, and again \
with one wasted turn: it repeats a question. A policy of 0.4 million weights learns to talk as in both kinds of dialogues \
(SFT), then by DPO from pairs of a clean and a mistaken dialogue about different animals, which say only which dialogue \
is better. On dialogues of unseen seeds, every token is judged by its implicit reward β log π/π_ref. The number is the \
area under the ROC curve of −implicit reward for the tokens of the planted turn: 1 finds them all, ½ is chance. Intervals \
are 95 %, within a seed over dialogues, over seeds Student's t of three.\n\n";

const ADVANTAGES: &str = "\n## Beside exact advantages\n\n\
The value V of every set of animals that are left is solved exactly, so each turn of a dialogue has its advantage \
Q − V. Policies learn from dialogues of people of middling skill, by which of two earned more; the table has the \
correlation (Pearson) of a turn's implicit reward with its advantage, over the turns of 300 unseen dialogues. V is that of \
the best questioner, not the soft value at the policy's own β, so a correlation of 1 is not to be expected.\n\n";

fn task() -> Result<(ElicitationConfig, Arc<Table>)> {
    let config = ElicitationConfig {
        table: "animals".to_owned(),
        ..ElicitationConfig::default()
    };
    let table = Table::shipped("animals").context("a shipped table")??;
    Ok((config, Arc::new(table)))
}

/// The areas of the judges, in the order of the page.
fn planted_mistakes(seed: u64) -> Result<Vec<Estimate>> {
    let folder = folder("credit", seed)?;
    let run = RunSeed(seed);
    say(&format!("planted mistakes, seed {seed}"));
    // 1. Dialogues with and without a mistake; the verdict is on the whole dialogue.
    let learned = planted(run, Split::Train, PLANTED)?;
    let judged = |verdict: f64, trajectory: &Trajectory| Trajectory {
        return_: verdict,
        ..trajectory.clone()
    };
    let mut dialogues: Vec<Trajectory> = Vec::new();
    for planted in &learned {
        dialogues.push(judged(1.0, &planted.clean));
        dialogues.push(judged(0.0, &planted.mistaken));
    }
    let log = folder.join("log.jsonl");
    write_log(&log, &dialogues)?;
    let pairs = |dialogues: &[Trajectory], name: &str| -> Result<_> {
        let path = folder.join(name);
        // Half of the comparisons are ties.
        let rule = format!("random:margin=0.5,per_group={}", 2 * PLANTED);
        write_preferences(&path, &make_pairs(dialogues, &rule.parse()?, run)?.0)?;
        Ok(path)
    };
    let preferences = pairs(&dialogues, "preferences.jsonl")?;
    let mut stream = run.stream("shuffled verdicts");
    let mut verdicts: Vec<f64> = dialogues.iter().map(|dialogue| dialogue.return_).collect();
    for at in (1..verdicts.len()).rev() {
        verdicts.swap(at, stream.below(at + 1));
    }
    for (dialogue, verdict) in dialogues.iter_mut().zip(verdicts) {
        dialogue.return_ = verdict;
    }
    let shuffled = pairs(&dialogues, "shuffled.jsonl")?;
    // 2. Policies.
    let sft = train(
        "sft.toml",
        &folder.join("sft"),
        seed,
        &[set("data.train", &log)],
    )?;
    let dpo = |name: &str, data: &Path| {
        let settings = [set("model.path", &sft), set("data.train", data)];
        train("dpo.toml", &folder.join(name), seed, &settings)
    };
    let (dpo, control) = (dpo("dpo", &preferences)?, dpo("shuffled", &shuffled)?);
    // 3. What each says of the tokens of unseen dialogues.
    let unseen = planted(run, Split::Eval, JUDGED)?;
    let areas = [
        (&dpo, Judge::ImplicitReward),
        (&sft, Judge::Logprob),
        (&control, Judge::ImplicitReward),
        (&dpo, Judge::Uniform),
    ];
    areas
        .into_iter()
        .map(|(model, judge)| {
            let mistaken: Vec<&Trajectory> = unseen.iter().map(|p| &p.mistaken).collect();
            let scored = score(model, &sft, &mistaken)?;
            let tokens: Vec<Vec<Judged>> = scored
                .iter()
                .zip(&unseen)
                .map(|(scored, planted)| suspicion(scored, planted.turn, judge))
                .collect();
            let area = auroc_interval(&tokens, &mut run.stream("bootstrap"));
            area.context("no token to judge")
        })
        .collect()
}

fn planted(run: RunSeed, split: Split, count: u64) -> Result<Vec<Planted>> {
    let (config, table) = task()?;
    let questioner = Questioner::new(Style::Optimal, config.clone(), table.clone());
    let mut all = Vec::new();
    for index in 0..count {
        let seed = run.episode(split, index);
        all.extend(block_on(plant(&config, &table, &questioner, seed))?);
    }
    Ok(all)
}

/// The correlations with exact advantages: of SFT's log-probabilities, and of DPO's implicit rewards by the number of
/// preferences.
fn exact_advantages(seed: u64) -> Result<Vec<f64>> {
    let folder = folder("advantages", seed)?;
    let run = RunSeed(seed);
    say(&format!("exact advantages, seed {seed}"));
    let log = folder.join("log.jsonl");
    let dialogues = play("mediocre", "greedy", None, (run, Split::Train, 0, 3000))?;
    write_log(&log, &dialogues)?;
    let sft = train(
        "sft.toml",
        &folder.join("sft"),
        seed,
        &[set("data.train", &log)],
    )?;
    let rule = format!("random:margin=0.2,per_group={}", PREFERENCES * 4 / 3 + 200);
    let (pairs, _) = make_pairs(&dialogues, &rule.parse()?, run)?;
    let unseen = play("mediocre", "greedy", None, (run, Split::Eval, 0, JUDGED))?;
    let advantages = advantages(&unseen)?;
    let unseen: Vec<&Trajectory> = unseen.iter().collect();

    let scored = score(&sft, &sft, &unseen)?;
    let logprob = |scored: &Scored, at: usize| scored.logprob[at];
    let mut correlations = vec![correlation(&scored, &advantages, logprob)];
    for share in SHARES {
        let path = folder.join(format!("preferences-{share}.jsonl"));
        write_preferences(&path, &pairs[..share.min(pairs.len())])?;
        let settings = [set("model.path", &sft), set("data.train", &path)];
        let out = folder.join(format!("dpo-{share}"));
        let dpo = train("dpo.toml", &out, seed, &settings)?;
        let scored = score(&dpo, &sft, &unseen)?;
        let reward = |scored: &Scored, at: usize| scored.credit.implicit_reward[at];
        correlations.push(correlation(&scored, &advantages, reward));
    }
    Ok(correlations)
}

/// Q − V of every turn of the agent, by the exact values of what is left.
fn advantages(dialogues: &[Trajectory]) -> Result<Vec<Vec<f64>>> {
    let (config, table) = task()?;
    let mut plan = Plan::solve(&table, &config).context("the table is too large")?;
    let mut value = |left: &[bool]| plan.value_of(left.iter().copied()).context("too large");
    let count = |left: &[bool]| left.iter().filter(|left| **left).count() as f64;
    let mut all = Vec::new();
    for dialogue in dialogues {
        let hidden = dialogue.metadata[FACTS]["hidden"].as_str();
        let items = table.items();
        let hidden = items.iter().position(|item| Some(&*item.name) == hidden);
        let hidden = hidden.context("a hidden item that the table does not have")?;
        let mut left = vec![true; items.len()];
        let mut of_turns = Vec::new();
        for message in said(dialogue) {
            let before = value(&left)?;
            let q_value = match table.reader().read(&message.text()) {
                Meaning::Guess(item) if left[item] => config.success_reward / count(&left),
                Meaning::Guess(_) => 0.0,
                Meaning::Question(attribute) => {
                    let part = |answer: bool| -> Vec<bool> {
                        let fits = |item: usize| table.holds(item, attribute) == answer;
                        let items = left.iter().enumerate();
                        items.map(|(item, left)| *left && fits(item)).collect()
                    };
                    let (yes, no) = (part(true), part(false));
                    let expected = count(&yes) * value(&yes)? + count(&no) * value(&no)?;
                    let expected = expected / count(&left);
                    left = if table.holds(hidden, attribute) {
                        yes
                    } else {
                        no
                    };
                    expected - config.question_cost
                }
                Meaning::Several | Meaning::Unclear => before - config.question_cost,
            };
            of_turns.push(q_value - before);
        }
        all.push(of_turns);
    }
    Ok(all)
}

fn said(dialogue: &Trajectory) -> impl Iterator<Item = &Message> {
    let messages = dialogue.messages.iter().map(|turn| &turn.message);
    messages.filter(|message| message.role == Role::Assistant)
}

/// Pearson's r of sums over turns with the advantages.
fn correlation(
    scored: &[Scored],
    advantages: &[Vec<f64>],
    of: impl Fn(&Scored, usize) -> Option<f64>,
) -> f64 {
    let mut points = Vec::new();
    for (scored, advantages) in scored.iter().zip(advantages) {
        for (turn, advantage) in scored.turns().into_iter().zip(advantages) {
            let sum: f64 = turn.filter_map(|at| of(scored, at)).sum();
            points.push((sum, *advantage));
        }
    }
    let n = points.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let product =
        |f: &dyn Fn(f64, f64) -> f64| -> f64 { points.iter().map(|p| f(p.0 - x, p.1 - y)).sum() };
    let (xy, xx, yy) = (
        product(&|x, y| x * y),
        product(&|x, _| x * x),
        product(&|_, y| y * y),
    );
    xy / (xx * yy).sqrt()
}

/// Every token of some dialogues under a policy and its reference.
fn score(policy: &Path, reference: &Path, dialogues: &[&Trajectory]) -> Result<Vec<Scored>> {
    let text = |path: &Path| path.display().to_string();
    let models = Models::open(&text(policy), Some(&text(reference)), Some(0.1))?;
    let (codec, longest) = (models.codec().clone(), models.context_length());
    let objective = Objective::new(Kind::Dpo);
    let mut encoder = Encoder::new(codec, &objective, longest, TooLong::Refuse);
    let mut scorer = Scorer::new(models);
    let mut scored = Vec::new();
    // Two at a time, as the scorer takes them; neither is the better one here.
    for two in dialogues.chunks(2) {
        let halves = [two[0], two[two.len() - 1]].map(|dialogue| {
            let messages = dialogue.messages.iter().map(|turn| turn.message.clone());
            let messages: Vec<Message> = messages.collect();
            let is_agent = |message: &Message| message.role == Role::Assistant;
            let start = messages.iter().position(is_agent).unwrap_or(0);
            let end = messages.iter().rposition(is_agent).map_or(0, |at| at + 1);
            (messages[..start].to_vec(), messages[start..end].to_vec())
        });
        let [(prompt, first), (_, second)] = halves;
        let pair = Preference {
            prompt: Turns::Chat(prompt),
            chosen: Turns::Chat(first),
            rejected: vec![Turns::Chat(second)],
            margin: None,
            weight: 1.0,
            tools: Vec::new(),
            chat_template_kwargs: serde_json::Map::new(),
        };
        let examples = encoder.encode(&Record::Preference(pair))?;
        for pair in scorer.score(&examples, 0, None)? {
            scored.push(pair.chosen);
            if two.len() == 2 {
                scored.push(pair.rejected);
            }
        }
    }
    Ok(scored)
}
