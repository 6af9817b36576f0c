//! Elicitation: the main job on three seeds, against what else one could learn from the same log.

use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use socratiq::quickstart::Quickstart;
use socratiq::stats::Estimate;

use crate::lab::{Curve, curves, folder, over_seeds, say, shown, write_page};

/// No setting of the main job was chosen by them.
const SEEDS: [u64; 3] = [0, 101, 102];
/// Policies of the picture.
const DRAWN: [&str; 6] = [
    "sft",
    "filtered-bc",
    "dpo",
    "dpo+lookahead",
    "iterate",
    "optimal",
];

/// What is read of a main job's `report.json`.
#[derive(Deserialize)]
struct Report {
    seen_items: Table,
    orderings: Orderings,
}

#[derive(Deserialize)]
struct Table {
    columns: Vec<Column>,
    questions: Vec<Questions>,
}

impl Table {
    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

#[derive(Deserialize)]
struct Column {
    name: String,
    success: Estimate,
    #[serde(rename = "return")]
    return_: Estimate,
}

#[derive(Deserialize)]
struct Questions {
    per_episode: Estimate,
    bits_per_question: Estimate,
}

#[derive(Deserialize)]
struct Orderings {
    seen_items: Vec<Ordering>,
}

#[derive(Deserialize)]
struct Ordering {
    better: String,
    worse: String,
    #[serde(rename = "return")]
    return_: Estimate,
}

pub(crate) fn run() -> Result<()> {
    let reports = SEEDS
        .iter()
        .map(|seed| one(*seed))
        .collect::<Result<Vec<_>>>()?;
    let tables: Vec<&Table> = reports.iter().map(|report| &report.seen_items).collect();
    let mut page = String::from(PAGE);
    for (place, column) in tables[0].columns.iter().enumerate() {
        let over = |of: &dyn Fn(&Table) -> f64| {
            over_seeds(&tables.iter().map(|table| of(table)).collect::<Vec<_>>())
        };
        writeln!(
            page,
            "| `{}` | {} | {} | {:.0} | {:.1} | {:.2} |",
            column.name,
            shown(&over(&|table| table.columns[place].success.mean)),
            shown(&over(&|table| table.columns[place].return_.mean)),
            over(&|table| score(table, place)).mean,
            over(&|table| table.questions[place].per_episode.mean).mean,
            over(&|table| table.questions[place].bits_per_question.mean).mean,
        )?;
    }
    let names: Vec<String> = SEEDS.iter().map(|seed| format!("seed {seed}")).collect();
    write!(
        page,
        "{CLAIMS}\n| difference of returns | {} | surely positive |\n| --- |{} --- |\n",
        names.join(" | "),
        " --- |".repeat(SEEDS.len())
    )?;
    for (place, claim) in reports[0].orderings.seen_items.iter().enumerate() {
        let all = reports
            .iter()
            .map(|report| &report.orderings.seen_items[place].return_);
        let held = all
            .clone()
            .filter(|difference| difference.low > 0.0)
            .count();
        let cells: Vec<String> = all.map(shown).collect();
        writeln!(
            page,
            "| `{}` − `{}` | {} | {held} of {} |",
            claim.better,
            claim.worse,
            cells.join(" | "),
            SEEDS.len()
        )?;
    }
    page.push_str("\n![returns by seed](elicitation.svg)\n");
    let drawing: Vec<Curve> = DRAWN
        .iter()
        .map(|name| Curve {
            name: (*name).to_owned(),
            points: SEEDS
                .iter()
                .zip(&tables)
                .filter_map(|(seed, table)| Some((*seed as f64, table.column(name)?.return_)))
                .collect(),
        })
        .collect();
    let picture = curves("Elicitation by seed", "seed", "return", &drawing);
    write_page("elicitation", &page, &picture)
}

const PAGE: &str = "# Elicitation\n\n\
`cargo run --release --example reproduce -- elicitation`\n\n\
The main job (`socratiq quickstart`), run on three seeds that no setting was chosen by: 6000 conversations of people who \
play middling well, everybody on the same 500 unseen episodes. Means with 95 % t-intervals over \
seeds, which are wide and may pass 1 with three of them. The score is \
LMRL-Gym's: 0 for the random questioner, 50 for the log's, 100 for the optimal one, and straight lines in between.\n\n\
| policy | success | return | score | questions | bits per question |\n\
| --- | --- | --- | --- | --- | --- |\n";

const CLAIMS: &str = "\nPaired by episode, with the bootstrap interval of each seed:\n";

/// The report of a seed's main job, which is run unless that was done.
fn one(seed: u64) -> Result<Report> {
    let out = folder("elicitation", seed)?;
    let path = out.join("report.json");
    if !path.is_file() {
        say(&format!("the main job in {}", out.display()));
        let job = Quickstart {
            out,
            seed,
            conversations: 6000,
            episodes: 500,
        };
        job.run(&AtomicBool::new(false))?;
    }
    let text = fs::read_to_string(&path)?;
    serde_json::from_str(&text).with_context(|| format!("`{}`", path.display()))
}

/// LMRL-Gym's normalised score (Abdulhai et al. 2023): 0, 50 and 100 are the random questioner's, the log's and the
/// optimal return.
fn score(table: &Table, place: usize) -> f64 {
    let of = |name| (table.column(name)).map_or(f64::NAN, |column| column.return_.mean);
    let (least, log, most) = (of("random"), of("logs"), of("optimal"));
    let return_ = table.columns[place].return_.mean;
    match return_ < log {
        true => 50.0 * (return_ - least) / (log - least),
        false => 50.0 + 50.0 * (return_ - log) / (most - log),
    }
}
