//! Built-in environments by name: `elicitation:table=guess-who,noise=0.1`.
//!
//! The one place that knows which environments there are. Adding one is an arm here and a file in
//! `envs/src`.

use std::fmt::Write as _;
use std::fs;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;
use socratiq_envs::elicitation::{Elicitation, ElicitationConfig, Questioner, Style, Table};
use socratiq_envs::{Bandit, Environment};

use crate::spec;

/// A built-in environment with its settings, ready to make instances.
#[derive(Clone, Debug)]
pub enum Task {
    /// One turn, optimum in closed form.
    Bandit(Bandit),
    /// Find out a hidden item by asking.
    Elicitation(ElicitationConfig, Arc<Table>),
}

/// Every built-in environment's name and what it is.
pub const TASKS: [(&str, &str); 2] = [
    (
        "bandit",
        "name an arm, get its reward: one turn, an optimum in closed form",
    ),
    (
        "elicitation",
        "find out a hidden item with yes/no questions, then name it; driven by a table",
    ),
];

impl Task {
    /// A new instance of the environment.
    ///
    /// # Errors
    /// When a setting has no meaning.
    pub fn make(&self) -> Result<Box<dyn Environment>> {
        Ok(match self {
            Self::Bandit(bandit) => Box::new(bandit.clone()),
            Self::Elicitation(config, table) => {
                Box::new(Elicitation::new(config.clone(), table.clone())?)
            }
        })
    }

    /// The name without settings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bandit(_) => TASKS[0].0,
            Self::Elicitation(..) => TASKS[1].0,
        }
    }

    /// All settings with their values, as JSON.
    ///
    /// # Errors
    /// None that a built-in task can have.
    pub fn settings(&self) -> Result<Value> {
        fn json(settings: &impl Serialize) -> Result<Value> {
            serde_json::to_value(settings).context("settings that are no JSON")
        }
        match self {
            Self::Bandit(bandit) => json(bandit),
            Self::Elicitation(config, _) => json(config),
        }
    }

    /// The scripted policies that play this task, best first, with their names.
    pub fn baselines(&self) -> Vec<(&'static str, Questioner)> {
        match self {
            Self::Bandit(_) => Vec::new(),
            Self::Elicitation(config, table) => Style::ALL
                .into_iter()
                .map(|style| {
                    let questioner = Questioner::new(style, config.clone(), table.clone());
                    (style.name(), questioner)
                })
                .collect(),
        }
    }
}

impl FromStr for Task {
    type Err = anyhow::Error;

    /// Reads `name` or `name:key=value,key=value`.
    fn from_str(spec: &str) -> Result<Self> {
        let (name, settings) = spec::split(spec)?;
        let task = match name {
            "bandit" => Self::Bandit(spec::read(settings, spec)?),
            "elicitation" => {
                let config: ElicitationConfig = spec::read(settings, spec)?;
                let table = Arc::new(load_table(&config.table)?);
                Self::Elicitation(config, table)
            }
            unknown => {
                let mut known = String::new();
                for (name, _) in TASKS {
                    write!(known, " {name}")?;
                }
                bail!("there is no environment `{unknown}`; there are:{known}");
            }
        };
        // An instance is made once, so that a bad setting shows here and not in mid-run.
        task.make()
            .with_context(|| format!("environment `{spec}`"))?;
        Ok(task)
    }
}

/// A shipped table by its name, or a `.json` or `.csv` file.
fn load_table(name: &str) -> Result<Table> {
    if let Some(table) = Table::shipped(name) {
        return table.with_context(|| format!("the shipped table `{name}`"));
    }
    let path = std::path::Path::new(name);
    let extension = path.extension().and_then(|e| e.to_str());
    let Some(extension @ ("json" | "csv")) = extension else {
        bail!(
            "there is no table `{name}`: give {} or a .json or .csv file",
            Table::SHIPPED.join(", ")
        );
    };
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{name}`"))?;
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or(name);
    match extension {
        "csv" => Table::from_csv(stem, &text),
        _ => Table::from_json(&text),
    }
    .with_context(|| format!("table `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_error(spec: &str, expected: &str) {
        let error = format!("{:#}", spec.parse::<Task>().unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_spec_sets_what_it_names_and_leaves_the_defaults() {
        let task: Task = "elicitation:table=guess-who,noise=0.1".parse().unwrap();
        let settings = task.settings().unwrap();
        assert_eq!(settings["table"], "guess-who");
        assert_eq!(settings["noise"], 0.1);
        assert_eq!(settings["turn_limit"], 30);
        assert_eq!(task.name(), "elicitation");
    }

    #[test]
    fn a_bad_spec_says_what_is_wrong() {
        check_error(
            "chess",
            "there is no environment `chess`; there are: bandit elicitation",
        );
        check_error("elicitation:nois=0.1", "unknown field `nois`");
        check_error("elicitation:noise", "`noise` is not `key=value`");
        check_error("elicitation:noise=0.1,noise=0.2", "`noise` is set twice");
        check_error("elicitation:noise=much", "expected f64");
        check_error(
            "elicitation:noise=1.5",
            "`noise` is 1.5: it is a probability from 0 to 1",
        );
        check_error("elicitation:turn_limit=0", "`turn_limit` is 0");
        check_error("elicitation:table=planets", "there is no table `planets`");
        check_error("elicitation:table=nowhere.csv", "cannot read `nowhere.csv`");
    }
}
