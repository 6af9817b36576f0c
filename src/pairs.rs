//! Trajectories with returns to preferences: which of them are compared, and where their prompt ends.
//!
//! Everything is in the order of the input, and what is random comes from a run's seed. A dialogue ends here with
//! the agent's last message, since nothing is learned from what follows it. Dialogues are compared by their words; the
//! preferences keep the exact tokens, where they were recorded.

mod divergence;
mod rule;

pub use rule::{Group, RULES, Rule, Selection};

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use socratiq_envs::{Ending, Message, Role, RunSeed, Stream, TOKEN_IDS, Trajectory};

use crate::logs::{Preference, Turns, common_messages};

/// Returns nearer than this share of their size are equal: sums of rewards differ by rounding.
const TIE: f64 = 1e-12;

/// More comparisons than this are a mistake.
const MOST_COMPARISONS: usize = 10_000_000;

/// What was compared, and why pairs were not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PairReport {
    /// Trajectories read.
    pub trajectories: usize,
    /// Groups among which trajectories are compared.
    pub groups: usize,
    /// Pairs kept.
    pub pairs: usize,
    /// Those of them with a side that was cut off before its end, so that its return may lack rewards.
    pub truncated: usize,
    /// What was dropped, by reason.
    pub dropped: Dropped,
}

/// Numbers of dropped pairs, by the first reason that holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Trajectories that are alone in their group.
    pub single: usize,
    /// Pairs with equal returns.
    pub tie: usize,
    /// Pairs whose returns differ by less than `margin`.
    pub below_margin: usize,
    /// Pairs in which the agent says the same, though the returns differ: that was luck.
    pub identical: usize,
    /// Pairs in which different tools were offered.
    pub tools: usize,
    /// Pairs whose sides differ in length by more than `length_ratio`.
    pub length: usize,
    /// Pairs beyond `max_pairs`.
    pub max_pairs: usize,
}

/// Makes preferences of trajectories.
///
/// The prompt of a pair is what both dialogues begin with, to where they part; the margin is the difference of
/// their returns.
///
/// # Errors
/// When a trajectory lacks what it is to be grouped by, or there would be more comparisons than make sense.
pub fn make_pairs(
    trajectories: &[Trajectory],
    rule: &Rule,
    seed: RunSeed,
) -> Result<(Vec<Preference>, PairReport)> {
    let dialogues: Vec<Vec<Message>> = trajectories.iter().map(words).collect();
    let mut report = PairReport {
        trajectories: trajectories.len(),
        ..PairReport::default()
    };
    let mut stream = seed.stream("pairs");

    // 1. Which trajectories may be compared.
    let groups = group(trajectories, &dialogues, rule.group)?;
    report.groups = groups.len();

    // 2. Which are compared, better first.
    let mut candidates: Vec<(usize, usize)> = Vec::new();
    for members in &groups {
        if members.len() < 2 {
            report.dropped.single += 1;
            continue;
        }
        let returns = |index: usize| trajectories[index].return_;
        candidates.extend(match rule.selection {
            Selection::Divergence => divergence::candidates(members, &dialogues, &returns),
            _ => select(members, &returns, rule.selection, &mut stream)?,
        });
        if candidates.len() > MOST_COMPARISONS {
            bail!("that is more than {MOST_COMPARISONS} comparisons: use `random:per_group=…`");
        }
    }

    // 3. Which comparisons say something.
    let mut kept = Vec::new();
    for (better, worse) in candidates {
        let (a, b) = (&trajectories[better], &trajectories[worse]);
        let margin = a.return_ - b.return_;
        if !margin.is_finite() {
            bail!(
                "the returns of `{}` and `{}` differ by more than a number holds",
                a.id,
                b.id
            );
        }
        let common = common_messages(&[&dialogues[better], &dialogues[worse]]);
        let length = |index: usize| said(&dialogues[index][common..]);
        let dropped = &mut report.dropped;
        let reason = if margin <= TIE * a.return_.abs().max(b.return_.abs()).max(1.0) {
            &mut dropped.tie
        } else if margin < rule.margin {
            &mut dropped.below_margin
        } else if dialogues[better] == dialogues[worse] {
            &mut dropped.identical
        } else if a.tools != b.tools {
            &mut dropped.tools
        } else if rule
            .length_ratio
            .is_some_and(|most| is_lopsided(length(better), length(worse), most))
        {
            &mut dropped.length
        } else {
            kept.push((better, worse, common, margin));
            continue;
        };
        *reason += 1;
    }

    // 4. As many as are wanted, drawn from all.
    if let Some(most) = rule.max_pairs.filter(|most| *most < kept.len()) {
        report.dropped.max_pairs = kept.len() - most;
        kept = draw(kept.len(), most, &mut stream)
            .into_iter()
            .map(|index| kept[index])
            .collect();
    }
    report.pairs = kept.len();
    let is_cut = |index: usize| trajectories[index].ending == Ending::Truncated;
    let cut = kept
        .iter()
        .filter(|(better, worse, ..)| is_cut(*better) || is_cut(*worse));
    report.truncated = cut.count();

    let preference = |(better, worse, common, margin): (usize, usize, usize, f64)| {
        let [mut chosen, mut rejected] =
            [better, worse].map(|index| to_last_action(trajectories[index].dialogue()));
        Preference {
            rejected: vec![Turns::Chat(rejected.split_off(common))],
            margin: Some(margin),
            weight: 1.0,
            tools: trajectories[better].tools.clone(),
            chat_template_kwargs: serde_json::Map::new(),
            chosen: Turns::Chat(chosen.split_off(common)),
            prompt: Turns::Chat(chosen),
        }
    };
    Ok((kept.into_iter().map(preference).collect(), report))
}

/// The messages up to the agent's last.
fn to_last_action(mut dialogue: Vec<Message>) -> Vec<Message> {
    while dialogue
        .pop_if(|last| last.role != Role::Assistant)
        .is_some()
    {}
    dialogue
}

/// What was said, without the tokens that it was written with.
fn words(trajectory: &Trajectory) -> Vec<Message> {
    let messages = trajectory.messages.iter().map(|turn| turn.message.clone());
    let mut words: Vec<Message> = messages.collect();
    for message in &mut words {
        message.extra.shift_remove(TOKEN_IDS);
    }
    to_last_action(words)
}

/// The indices of each group's trajectories, in the order of the input.
fn group(
    trajectories: &[Trajectory],
    dialogues: &[Vec<Message>],
    by: Group,
) -> Result<Vec<Vec<usize>>> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, (trajectory, dialogue)) in trajectories.iter().zip(dialogues).enumerate() {
        let id = &trajectory.id;
        let key = match by {
            Group::All => String::new(),
            Group::Prompt | Group::System => {
                let is_before = |m: &&Message| match by {
                    Group::System => m.role == Role::System,
                    _ => m.role != Role::Assistant,
                };
                let before = dialogue.iter().take_while(is_before);
                serde_json::to_string(&(before.collect::<Vec<_>>(), &trajectory.tools))?
            }
            Group::Seed => {
                let seed = trajectory.seed;
                let seed = seed.with_context(|| {
                    format!("trajectory `{id}` has no seed to group by: use group=prompt")
                })?;
                serde_json::to_string(&(&trajectory.env, seed))?
            }
            Group::Given => {
                let given = trajectory.metadata.get("group");
                let given = given.with_context(|| {
                    format!("trajectory `{id}` has no `group` in its metadata: use group=prompt")
                })?;
                given.to_string()
            }
        };
        let place = *places.entry(key).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[place].push(index);
    }
    Ok(groups)
}

/// The pairs of a group that a rule compares, better first.
fn select(
    members: &[usize],
    returns: &dyn Fn(usize) -> f64,
    selection: Selection,
    stream: &mut Stream,
) -> Result<Vec<(usize, usize)>> {
    // Stable: of equal returns, the first in the input comes first.
    let mut ranked = members.to_vec();
    ranked.sort_by(|a, b| returns(*b).total_cmp(&returns(*a)));
    let n = ranked.len();
    let all = n * (n - 1) / 2;
    Ok(match selection {
        Selection::All if all > MOST_COMPARISONS => {
            bail!("a group of {n} has {all} pairs: use `random:per_group=…`, or smaller groups")
        }
        Selection::All => (0..n)
            .flat_map(|i| (i + 1..n).map(move |j| (i, j)))
            .map(|(i, j)| (ranked[i], ranked[j]))
            .collect(),
        Selection::BestWorst | Selection::Divergence => vec![(ranked[0], ranked[n - 1])],
        Selection::TopBottom { k } => {
            let k = k.min(n / 2);
            let (top, bottom) = (&ranked[..k], &ranked[n - k..]);
            top.iter()
                .flat_map(|better| bottom.iter().map(|worse| (*better, *worse)))
                .collect()
        }
        Selection::Random { per_group } => draw(all, per_group.min(all), stream)
            .into_iter()
            .map(|number| nth_pair(number, n))
            .map(|(i, j)| (ranked[i], ranked[j]))
            .collect(),
    })
}

/// `count` different numbers below `bound`, in order.
fn draw(bound: usize, count: usize, stream: &mut Stream) -> Vec<usize> {
    // Floyd's algorithm (Bentley and Floyd 1987): one draw per number.
    let mut drawn = BTreeSet::new();
    for last in bound.saturating_sub(count)..bound {
        let number = stream.below(last + 1);
        if !drawn.insert(number) {
            drawn.insert(last);
        }
    }
    drawn.into_iter().collect()
}

/// Number `number` of the pairs `(0, 1), (0, 2), …, (1, 2), …` of `n` things.
fn nth_pair(mut number: usize, n: usize) -> (usize, usize) {
    let mut i = 0;
    while i + 1 < n && number >= n - 1 - i {
        number -= n - 1 - i;
        i += 1;
    }
    (i, i + 1 + number)
}

/// Characters that the agent says, its tool calls as JSON included.
fn said(messages: &[Message]) -> usize {
    let of_agent = messages
        .iter()
        .filter(|message| message.role == Role::Assistant);
    of_agent
        .map(|message| {
            let calls = message.tool_calls.iter().map(|call| {
                serde_json::to_string(&call.function).map_or(0, |json| json.chars().count())
            });
            message.text().chars().count() + calls.sum::<usize>()
        })
        .sum()
}

fn is_lopsided(a: usize, b: usize, most: f64) -> bool {
    a.max(b) as f64 > most * a.min(b) as f64
}
