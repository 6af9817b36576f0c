//! Planted mistakes: the turns that are at fault are known.

use std::path::Path;

use anyhow::{Context as _, Result};
use futures::executor::block_on;
use socratiq::envs::elicitation::{
    Elicitation, Planted, Questioner, Repeating, Style, Wasted, plant,
};
use socratiq::envs::{RunSeed, Split, Trajectory, rollout};
use socratiq::logs::Preference;
use socratiq::pairs::make_pairs;
use socratiq::score::check::{Judge, Judged, Unit, auroc_interval, suspicion};
use socratiq::stats::Estimate;

use super::{JUDGED, PREFERENCES, said, score, task};
use crate::lab::{folder, say, set, train, write_log, write_preferences};

/// Dialogues with mistakes that preferences are of; SFT reads half of them.
const DIALOGUES: usize = 6000;
/// How often a turn is wasted: so often that a wasted one is about as likely as another.
const ABSENCE: f64 = 0.4;
/// What a wasted turn costs, in nats of the verdict, and the β for which that is the reward.
const COST: f64 = 2.0;
const BETA: f64 = 1.0;

/// Areas under the curve by unit, in the order of [`UNITS`], and judge.
pub(super) type Areas = [Vec<Estimate>; 3];

/// What is judged, and what the page calls it.
pub(super) const UNITS: [(Unit, &str); 3] = [
    (Unit::Turn, "turn"),
    (Unit::Choice, "token with a choice"),
    (Unit::Token, "token"),
];

/// The areas of the judges, in the order of the page.
pub(super) fn areas(seed: u64) -> Result<Areas> {
    let folder = folder("credit", seed)?;
    let run = RunSeed(seed);
    say(&format!("planted mistakes, seed {seed}"));
    // 1. Dialogues with mistakes; the verdict is on the whole dialogue.
    let mut dialogues = absent_minded(run)?;
    let log = folder.join("log.jsonl");
    write_log(&log, &dialogues[..DIALOGUES / 2])?;
    for dialogue in &mut dialogues {
        let said: Vec<_> = said(dialogue)
            .map(|message| message.text().into_owned())
            .collect();
        let wasted = said.windows(2).filter(|two| two[0] == two[1]).count();
        dialogue.return_ = -COST * wasted as f64;
        // Compared are dialogues of as many turns. Repeating makes them longer, and if verdicts could be told from
        // that, the ends of turns would bear the blame.
        let group = said.len().to_string();
        dialogue.metadata.insert("group".to_owned(), group.into());
    }
    let preferences = folder.join("preferences.jsonl");
    write_preferences(&preferences, &verdicts(&dialogues, run)?)?;
    let mut returns: Vec<f64> = dialogues.iter().map(|dialogue| dialogue.return_).collect();
    run.stream("shuffled verdicts").shuffle(&mut returns);
    for (dialogue, return_) in dialogues.iter_mut().zip(returns) {
        dialogue.return_ = return_;
    }
    let shuffled = folder.join("shuffled.jsonl");
    write_preferences(&shuffled, &verdicts(&dialogues, run)?)?;
    // 2. Policies.
    let sft = train(
        "sft.toml",
        &folder.join("sft"),
        seed,
        &[set("data.train", &log)],
    )?;
    let dpo = |name: &str, data: &Path| {
        let settings = [
            set("model.path", &sft),
            set("data.train", data),
            format!("objective.beta={BETA}"),
        ];
        train("dpo.toml", &folder.join(name), seed, &settings)
    };
    let (dpo, control) = (dpo("dpo", &preferences)?, dpo("shuffled", &shuffled)?);
    // 3. What each says of the tokens of unseen dialogues.
    let unseen = planted(run, Split::Eval, JUDGED)?;
    let mistaken: Vec<&Trajectory> = unseen.iter().map(|planted| &planted.mistaken).collect();
    let scored = |model: &Path| score(model, &sft, &mistaken);
    let (of_dpo, of_sft, of_control) = (scored(&dpo)?, scored(&sft)?, scored(&control)?);
    let judges = [
        (&of_dpo, Judge::ImplicitReward),
        (&of_sft, Judge::Logprob),
        (&of_control, Judge::ImplicitReward),
        (&of_dpo, Judge::Uniform),
    ];
    let mut found = Areas::default();
    for (scored, judge) in judges {
        for (found, (unit, _)) in found.iter_mut().zip(UNITS) {
            let judged = scored.iter().zip(&unseen);
            let judged: Vec<Vec<Judged>> = judged
                .map(|(scored, planted)| suspicion(scored, planted.turn, judge, unit))
                .collect();
            let area = auroc_interval(&judged, &mut run.stream("bootstrap"));
            found.push(area.context("nothing to judge")?);
        }
    }
    Ok(found)
}

/// Preferences by the model of Bradley and Terry: the better of two is preferred with probability σ(difference of
/// returns). With verdicts that are always right, nothing keeps the policy near its reference, and what it blames beside
/// the mistake itself is anybody's guess.
fn verdicts(dialogues: &[Trajectory], run: RunSeed) -> Result<Vec<Preference>> {
    let rule =
        format!("random:group=given,margin=0.5,max_pairs={PREFERENCES},per_group={PREFERENCES}");
    let (mut pairs, _) = make_pairs(dialogues, &rule.parse()?, run)?;
    let mut stream = run.stream("verdicts");
    for pair in &mut pairs {
        let difference = pair.margin.take().context("a pair without its margin")?;
        if !stream.chance(1.0 / (1.0 + (-difference).exp())) {
            std::mem::swap(&mut pair.chosen, &mut pair.rejected[0]);
        }
    }
    Ok(pairs)
}

/// Dialogues of the best questioner in an absent state of mind.
fn absent_minded(run: RunSeed) -> Result<Vec<Trajectory>> {
    let (config, table) = task()?;
    let mut environment = Elicitation::new(config.clone(), table.clone())?;
    let questioner = Questioner::new(Style::Optimal, config, table);
    let mut questioner = Repeating::new(questioner, Wasted::Share(ABSENCE));
    let mut all = Vec::new();
    for index in 0..DIALOGUES as u64 {
        let seed = run.episode(Split::Train, index);
        let episode = block_on(rollout(&mut environment, &mut [&mut questioner], seed))?;
        all.extend(episode.solo());
    }
    Ok(all)
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
