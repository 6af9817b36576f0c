//! The best possible questioner of a small table, by exhaustive search over sets of candidates.

use std::collections::HashMap;

use super::ElicitationConfig;
use super::table::Table;

/// Tables of more items than this are not solved exactly.
const MAX_ITEMS: usize = 64;
/// Candidate sets visited before the search gives up.
const MAX_SETS: usize = 2_000_000;

/// A set of candidate items, one bit each.
type Set = u64;

/// What to do about every candidate set that the best questioner can meet.
///
/// For a user who never lies, what the agent knows is the set of items that fit all answers, and the best
/// expected return from a set S is
/// `V(S) = max( success/|S|, max_a −c/(1−q) + |S_yes|/|S| V(S_yes) + |S_no|/|S| V(S_no) )`
/// with the cost c of a question and the probability q of "no idea", after which one asks again. The turn
/// limit is left out.
#[derive(Clone, Debug)]
pub struct Plan {
    value: f64,
    search: Search,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Choice {
    Ask(usize),
    Guess,
}

impl Plan {
    /// The optimal plan; none where answers may lie, or where the table is too large to solve.
    pub fn solve(table: &Table, config: &ElicitationConfig) -> Option<Self> {
        let items = table.items().len();
        if items > MAX_ITEMS || config.noise > 0.0 || config.terse >= 1.0 {
            return None;
        }
        let everything = Set::MAX >> (MAX_ITEMS - items);
        let holds: Vec<Set> = (0..table.attributes().len())
            .map(|attribute| {
                (0..items)
                    .filter(|item| table.holds(*item, attribute))
                    .fold(0, |set, item| set | 1 << item)
            })
            .collect();
        let cost = config.question_cost / (1.0 - config.terse);
        let mut search = Search {
            success: config.success_reward,
            cost,
            bounds: bounds(items, config.success_reward, cost),
            holds,
            solved: HashMap::new(),
        };
        let value = search.value(everything)?;
        Some(Self { value, search })
    }

    /// The best expected return of an episode.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// The attribute to ask about when `possible` says which items are left; none when it is time to guess.
    pub fn ask(&self, possible: impl Iterator<Item = bool>) -> Option<usize> {
        match self.search.solved.get(&set_of(possible))? {
            (_, Choice::Ask(attribute)) => Some(*attribute),
            (_, Choice::Guess) => None,
        }
    }

    /// V(S), the best expected return when `possible` says which items are left, also where the best questioner
    /// never comes. None when the search has grown too large.
    pub fn value_of(&mut self, possible: impl Iterator<Item = bool>) -> Option<f64> {
        self.search.value(set_of(possible))
    }
}

fn set_of(possible: impl Iterator<Item = bool>) -> Set {
    possible
        .enumerate()
        .filter(|(_, possible)| *possible)
        .fold(0, |set, (item, _)| set | 1 << item)
}

#[derive(Clone, Debug)]
struct Search {
    success: f64,
    cost: f64,
    /// By number of candidates: a return that no questioner exceeds.
    bounds: Vec<f64>,
    holds: Vec<Set>,
    solved: HashMap<Set, (f64, Choice)>,
}

impl Search {
    /// `V(set)`; none when the search has grown too large.
    fn value(&mut self, set: Set) -> Option<f64> {
        if set == 0 {
            return Some(0.0);
        }
        if let Some((value, _)) = self.solved.get(&set) {
            return Some(*value);
        }
        if self.solved.len() >= MAX_SETS {
            return None;
        }
        let size = set.count_ones();
        let share = |part: Set| f64::from(part.count_ones()) / f64::from(size);
        let mut best = (self.success / f64::from(size), Choice::Guess);
        // The splits with the highest bound first, so that most others need no search.
        let mut splits: Vec<(f64, usize)> = (0..self.holds.len())
            .filter_map(|attribute| {
                let (yes, no) = (set & self.holds[attribute], set & !self.holds[attribute]);
                let bound = |part: Set| share(part) * self.bounds[part.count_ones() as usize];
                (yes != 0 && no != 0).then(|| (bound(yes) + bound(no) - self.cost, attribute))
            })
            .collect();
        splits.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (bound, attribute) in splits {
            if bound <= best.0 {
                break;
            }
            let (yes, no) = (set & self.holds[attribute], set & !self.holds[attribute]);
            let value = share(yes) * self.value(yes)? + share(no) * self.value(no)? - self.cost;
            if value > best.0 {
                best = (value, Choice::Ask(attribute));
            }
        }
        self.solved.insert(set, best);
        Some(best.0)
    }
}

/// By number of candidates, the best return if every split of every size could be asked for.
fn bounds(items: usize, success: f64, cost: f64) -> Vec<f64> {
    let mut bounds = vec![0.0; items + 1];
    for size in 1..=items {
        let guess = success / size as f64;
        bounds[size] = (1..=size / 2)
            .map(|part| {
                let rest = size - part;
                (part as f64 * bounds[part] + rest as f64 * bounds[rest]) / size as f64 - cost
            })
            .fold(guess, f64::max);
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::RunSeed;

    fn random_table(seed: u64, items: usize, attributes: usize) -> Table {
        let mut stream = RunSeed(seed).stream("table");
        loop {
            let header: Vec<String> = (0..attributes).map(|a| format!("Is it w{a}q?")).collect();
            let rows: Vec<String> = (0..items)
                .map(|item| {
                    let cells = (0..attributes).map(|_| ["no", "yes"][stream.below(2)]);
                    format!("i{item},{}", cells.collect::<Vec<_>>().join(","))
                })
                .collect();
            let csv = format!("thing,{}\n{}\n", header.join(","), rows.join("\n"));
            // Rows may coincide by chance; then another table is drawn.
            if let Ok(table) = Table::from_csv("random", &csv) {
                return table;
            }
        }
    }

    /// The same maximum without sharing, bounds or bit sets.
    fn slow_value(table: &Table, set: &[usize], success: f64, cost: f64) -> f64 {
        let guess = success / set.len() as f64;
        (0..table.attributes().len())
            .filter_map(|attribute| {
                let (yes, no): (Vec<usize>, Vec<usize>) =
                    set.iter().partition(|item| table.holds(**item, attribute));
                if yes.is_empty() || no.is_empty() {
                    return None;
                }
                let part = |part: &[usize]| {
                    part.len() as f64 / set.len() as f64 * slow_value(table, part, success, cost)
                };
                Some(part(&yes) + part(&no) - cost)
            })
            .fold(guess, f64::max)
    }

    #[test]
    fn the_plan_is_worth_what_exhaustive_search_finds() {
        for seed in 0..20 {
            let table = random_table(seed, 6, 5);
            for (question_cost, terse) in [(0.05, 0.0), (0.2, 0.3), (0.0, 0.5), (0.6, 0.0)] {
                let config = ElicitationConfig {
                    terse,
                    question_cost,
                    ..ElicitationConfig::default()
                };
                let set: Vec<usize> = (0..6).collect();
                let success = 1.0;
                let slow = slow_value(&table, &set, success, question_cost / (1.0 - terse));
                let mut plan = Plan::solve(&table, &config).unwrap();
                assert!((plan.value() - slow).abs() < 1e-12, "{seed}");
                for left in [vec![3], vec![0, 5], vec![1, 2, 4, 5]] {
                    let slow = slow_value(&table, &left, success, question_cost / (1.0 - terse));
                    let value = plan.value_of((0..6).map(|item| left.contains(&item)));
                    assert!((value.unwrap() - slow).abs() < 1e-12, "{seed}");
                }
            }
        }
    }

    #[test]
    fn a_perfect_table_needs_log2_questions() {
        let rows: Vec<String> = (0..16_u32)
            .map(|i| {
                let cells = (0..4).map(|bit| ["no", "yes"][(i >> bit & 1) as usize]);
                format!("i{i},{}", cells.collect::<Vec<_>>().join(","))
            })
            .collect();
        let csv = format!(
            "thing,Is it aaa?,Is it bbb?,Is it ccc?,Is it ddd?\n{}\n",
            rows.join("\n")
        );
        let table = Table::from_csv("bits", &csv).unwrap();
        let plan = Plan::solve(&table, &ElicitationConfig::default()).unwrap();
        assert!((plan.value() - (1.0 - 4.0 * 0.05)).abs() < 1e-12);
        assert_eq!(table.bound(), 4);
    }

    #[test]
    fn lies_and_large_tables_are_not_solved_exactly() {
        let noisy = ElicitationConfig {
            noise: 0.1,
            ..ElicitationConfig::default()
        };
        assert!(Plan::solve(&random_table(1, 6, 5), &noisy).is_none());
        assert!(Plan::solve(&random_table(1, 65, 12), &ElicitationConfig::default()).is_none());
    }
}
