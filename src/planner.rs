//! Planners by name: `greedy`, `sample:temperature=0.7,top_p=0.9`.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use socratiq_agents::Sampling;

use crate::spec;

/// How an agent chooses its words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Planner {
    /// Token by token.
    Tokens(Sampling),
}

/// Every planner's name and what it is.
pub const PLANNERS: [(&str, &str); 2] = [
    ("greedy", "the likeliest token, one after the other"),
    (
        "sample",
        "tokens drawn from the policy: temperature, top_k, top_p, min_p",
    ),
];

impl FromStr for Planner {
    type Err = anyhow::Error;

    /// Reads `name` or `name:key=value,key=value`.
    fn from_str(spec: &str) -> Result<Self> {
        let (name, settings) = spec::split(spec)?;
        let sampling = match name {
            "greedy" if settings.is_empty() => Sampling::GREEDY,
            "greedy" => bail!("planner `{spec}`: greedy has no settings"),
            "sample" => spec::read(settings, spec)?,
            unknown => {
                let known: Vec<&str> = PLANNERS.iter().map(|(name, _)| *name).collect();
                bail!(
                    "there is no planner `{unknown}`; there are: {}",
                    known.join(", ")
                );
            }
        };
        sampling
            .validate()
            .with_context(|| format!("planner `{spec}`"))?;
        Ok(Self::Tokens(sampling))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planners_are_read_with_their_settings() {
        let Planner::Tokens(sampling) = "sample:temperature=0.7,top_p=0.9".parse().unwrap();
        assert_eq!(
            (sampling.temperature, sampling.top_p, sampling.top_k),
            (0.7, 0.9, 0)
        );
        assert_eq!(
            "greedy".parse::<Planner>().unwrap(),
            Planner::Tokens(Sampling::GREEDY)
        );
        for (spec, expected) in [
            (
                "beams",
                "there is no planner `beams`; there are: greedy, sample",
            ),
            ("greedy:top_k=3", "greedy has no settings"),
            ("sample:top_q=1", "unknown field `top_q`"),
            ("sample:top_p=2", "`top_p`: 2 is out of its range"),
        ] {
            let error = format!("{:#}", spec.parse::<Planner>().unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
