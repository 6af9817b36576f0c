//! Luck: users are stochastic, and preferences over dialogues with luck in them teach the wrong policy.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use socratiq::envs::exact::{FiniteMdp, MdpSpec, PreferenceModel, population_dpo};
use socratiq::stats::Estimate;

use crate::lab::{Curve, curves, number, write_page};

/// The settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Luck {
    mdp: PathBuf,
    betas: Vec<f64>,
}

const MODELS: [(&str, PreferenceModel); 3] = [
    ("user's tokens in the loss", PreferenceModel::Unmasked),
    ("agent's tokens only", PreferenceModel::Masked),
    ("with exact margin", PreferenceModel::MaskedWithValueMargin),
];

impl Luck {
    pub(crate) fn run(&self) -> Result<()> {
        let path = self.mdp.display();
        let text =
            fs::read_to_string(&self.mdp).with_context(|| format!("cannot read `{path}`"))?;
        let spec: MdpSpec = serde_json::from_str(&text).with_context(|| format!("`{path}`"))?;
        let mdp = FiniteMdp::try_from(spec)?;
        let mut page = String::from(PAGE);
        let mut points: Vec<Vec<f64>> = vec![Vec::new(); 1 + MODELS.len()];
        for beta in self.betas.iter().copied() {
            let mut risky = vec![mdp.solve(beta)?.policy[0]];
            for (_, model) in MODELS {
                risky.push(population_dpo(&mdp, beta, model)?[0]);
            }
            let cells: Vec<String> = risky.iter().map(|risky| number(*risky)).collect();
            writeln!(page, "| {beta} | {} |", cells.join(" | "))?;
            for (points, risky) in points.iter_mut().zip(risky) {
                points.push(risky);
            }
        }
        let ordered = (0..self.betas.len()).all(|at| {
            let bias = |model: usize| (points[model][at] - points[0][at]).abs();
            bias(1) > bias(2) && bias(2) > bias(3) && bias(3) < 1e-5
        });
        writeln!(
            page,
            "\nThe bias falls in this order at {} β, and the margin leaves none.\n\n![P(risky) by β](luck.svg)",
            if ordered { "every" } else { "not every" }
        )?;
        let names = std::iter::once("true optimum").chain(MODELS.map(|(name, _)| name));
        let drawn: Vec<Curve> = (names.zip(&points))
            .map(|(name, risky)| Curve {
                name: name.to_owned(),
                points: (self.betas.iter().copied().zip(risky))
                    .map(|(beta, risky)| {
                        let exact = Estimate {
                            mean: *risky,
                            low: *risky,
                            high: *risky,
                        };
                        (beta, exact)
                    })
                    .collect(),
            })
            .collect();
        let picture = curves("What luck teaches", "β", "P(risky)", &drawn);
        write_page("luck", &page, &picture)
    }
}

const PAGE: &str = "# Luck\n\n\
`cargo run --release --example reproduce -- configs/reproduce/luck.toml`\n\n\
The paper assumes that the world is deterministic; users are not. A risky arm pays much or little by luck, a safe one \
always the same, and a little more than the risky one's mean. Learned from infinitely many preferences over trajectories, with no \
error but the model's own: P(risky) of the policy, by what the loss is of. All numbers are exact, so there are no \
intervals.\n\n\
| β | true optimum | user's tokens in the loss | agent's tokens only | agent's tokens, exact value margin |\n\
| --- | --- | --- | --- | --- |\n";
