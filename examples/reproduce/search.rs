//! Search: guided by the value or by likelihood is one search, as long as the value is the policy's own.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Deserialize;
use socratiq::agents::planning::{Objective, Solved};
use socratiq::envs::RunSeed;
use socratiq::envs::exact::{FiniteMdp, World};

use crate::lab::{Curve, Seeds, curves, over_seeds, shown, write_page};

/// The settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Search {
    seeds: Seeds,
    betas: Vec<f64>,
    widths: Vec<usize>,
    errors: Vec<f64>,
    trees: usize,
    depth: usize,
}

impl Search {
    pub(crate) fn run(&self) -> Result<()> {
        let mut page = self.introduction();
        let mut drawn = Vec::new();
        let mut exact = true;
        for beta in self.betas.iter().copied() {
            let mut points = Vec::new();
            for error in self.errors.iter().copied() {
                let mut agreed = Vec::new();
                let mut lost = Vec::new();
                for seed in self.seeds {
                    let found = self.one(seed, beta, error)?;
                    agreed.push(found.agreed);
                    lost.push(found.lost);
                }
                let (agreed, lost) = (over_seeds(&agreed), over_seeds(&lost));
                exact &= error > 0.0 || agreed.low >= 1.0;
                writeln!(
                    page,
                    "| {beta} | {error} | {} | {} |",
                    shown(&agreed),
                    shown(&lost)
                )?;
                points.push((error, agreed));
            }
            drawn.push(Curve {
                name: format!("β = {beta}"),
                points,
            });
        }
        writeln!(
            page,
            "\nWith the exact V {} best sequences are the same: {}.\n\n![agreement by error in V](search.svg)",
            if exact { "all" } else { "not all" },
            if exact {
                "reproduced"
            } else {
                "not reproduced"
            }
        )?;
        let picture = curves(
            "Beams guided by V that find what likelihood finds",
            "standard deviation of the error in V",
            "same sequence",
            &drawn,
        );
        write_page("search", &page, &picture)
    }

    fn introduction(&self) -> String {
        let widths: Vec<String> = self.widths.iter().map(usize::to_string).collect();
        format!(
            "# Guided search is likelihood search\n\n\
             `cargo run --release --example reproduce -- configs/reproduce/search.toml`\n\n\
             After Eqs. 12 and 13 of [arXiv 2404.12358](https://arxiv.org/abs/2404.12358): for the soft-optimal policy, beam \
             search for r + β log π_ref + V is beam search for likelihood. Random trees of {} decisions, {} for each of \
             three seeds, with their exact solution; beams of {}. The share of searches in which both find the same best \
             sequence, and the regularised return that the guided one loses to likelihood, with 95 % t-intervals over \
             seeds. Where V has an error, as a learned one has, likelihood, which needs no V, is the better search.\n\n\
             | β | error in V | same best sequence | return lost |\n| --- | --- | --- | --- |\n",
            self.depth,
            self.trees,
            widths.join(", "),
        )
    }

    fn one(&self, seed: u64, beta: f64, error: f64) -> Result<Found> {
        let run = RunSeed(seed);
        let (mut trees, mut errors) = (run.stream("trees"), run.stream("errors"));
        let (mut agreed, mut lost, mut searches) = (0.0, 0.0, 0.0);
        for _ in 0..self.trees {
            let mdp = FiniteMdp::random_tree(self.depth, World::Deterministic, &mut trees)?;
            let solution = mdp.solve(beta)?;
            // Where an episode ends the value is known to be 0.
            let value: Vec<f64> = (solution.value.iter().enumerate())
                .map(|(state, value)| match mdp.actions(state) {
                    [] => 0.0,
                    _ => value + error * errors.normal(),
                })
                .collect();
            for width in self.widths.iter().copied() {
                let best = |objective| -> Result<Vec<usize>> {
                    let solved = Solved {
                        mdp: &mdp,
                        solution: &solution,
                        value: &value,
                        objective,
                    };
                    let found = solved.search(mdp.initial()[0].0, width)?;
                    Ok(found.into_iter().next().unwrap_or_default().0)
                };
                let (guided, likely) =
                    (best(Objective::ValueGuided)?, best(Objective::Likelihood)?);
                let worth = |actions: &[usize]| -> f64 {
                    let of =
                        |action: &usize| mdp.reward(*action) + beta * mdp.reference(*action).ln();
                    actions.iter().map(of).sum()
                };
                agreed += f64::from(guided == likely);
                lost += worth(&likely) - worth(&guided);
                searches += 1.0;
            }
        }
        Ok(Found {
            agreed: agreed / searches,
            lost: lost / searches,
        })
    }
}

/// Of one seed: how often both searches agree, and what the guided one loses.
struct Found {
    agreed: f64,
    lost: f64,
}
