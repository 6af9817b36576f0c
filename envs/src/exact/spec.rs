//! A finite MDP as it is written down, and the rules that it must keep.

use std::collections::{BTreeMap, HashMap, HashSet};

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::DiGraph;
use serde::{Deserialize, Serialize};

use super::FiniteMdp;

/// How far a sum of probabilities may be from 1.
const SUM_TOLERANCE: f64 = 1e-9;

/// A finite MDP as JSON has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdpSpec {
    /// All states.
    pub states: Vec<StateSpec>,
    /// Where episodes start, with probabilities that sum to 1.
    pub initial: BTreeMap<String, f64>,
    /// All actions of all states.
    pub actions: Vec<ActionSpec>,
}

/// One state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSpec {
    /// Its name.
    pub id: String,
    /// True where episodes end.
    pub terminal: bool,
}

/// One action of one state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionSpec {
    /// The state in which it can be chosen.
    pub state: String,
    /// Its name, unique in that state.
    pub action: String,
    /// `π_ref(a|s)`; a state's sum to 1.
    pub reference: f64,
    /// `r(s,a)`.
    pub reward: f64,
    /// Which states may follow, with probabilities that sum to 1.
    pub next: BTreeMap<String, f64>,
}

/// Why an [`MdpSpec`] is no finite MDP, or a question about one has no answer.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum MdpError {
    /// There is nothing to solve.
    #[error("the MDP has no states")]
    Empty,
    /// Two states share an id.
    #[error("state `{id}` is listed twice: give each state its own id")]
    DuplicateState {
        /// The id.
        id: String,
    },
    /// Two actions of a state share a name.
    #[error(
        "action `{action}` of state `{state}` is listed twice: give a state's actions different names"
    )]
    DuplicateAction {
        /// The state.
        state: String,
        /// The action.
        action: String,
    },
    /// An id that no state has.
    #[error("{place} names state `{id}`, which is not in `states`")]
    Dangling {
        /// Where it is named.
        place: String,
        /// The id.
        id: String,
    },
    /// A number that is no probability.
    #[error("{place} is {value}, which is not a probability from 0 to 1")]
    NotAProbability {
        /// Which number.
        place: String,
        /// Its value.
        value: f64,
    },
    /// Probabilities that do not sum to 1.
    #[error("{place} sum to {sum} instead of 1")]
    Sum {
        /// Which numbers.
        place: String,
        /// Their sum.
        sum: f64,
    },
    /// A reward that is infinite or no number.
    #[error("the reward of {place} is {value}: rewards are finite numbers")]
    Reward {
        /// Of which action.
        place: String,
        /// Its value.
        value: f64,
    },
    /// A terminal state with actions.
    #[error("state `{id}` is terminal but has actions: remove them or set \"terminal\": false")]
    TerminalActs {
        /// The state.
        id: String,
    },
    /// A state where nothing can be done.
    #[error("state `{id}` has no actions: add some or set \"terminal\": true")]
    Stuck {
        /// The state.
        id: String,
    },
    /// States that can come again: the horizon would not be finite.
    #[error("states can come again ({}): the horizon must be finite, so remove the cycle", .states.join(", "))]
    Cycle {
        /// The states that reach each other.
        states: Vec<String>,
    },
    /// A β without meaning.
    #[error("beta is {beta}: it must be a finite number above 0")]
    Beta {
        /// Its value.
        beta: f64,
    },
    /// Too many trajectories to list.
    #[error("the MDP has more than {limit} trajectories: too many to enumerate")]
    TooManyPaths {
        /// The limit.
        limit: usize,
    },
    /// Gradient descent did not arrive.
    #[error("gradient descent stopped after {updates} updates with a gradient of {gradient:e}")]
    NotConverged {
        /// How many updates were made.
        updates: usize,
        /// The largest entry of the gradient.
        gradient: f64,
    },
}

impl TryFrom<MdpSpec> for FiniteMdp {
    type Error = MdpError;

    /// Checks every rule; the error names the place and the remedy.
    fn try_from(spec: MdpSpec) -> Result<Self, MdpError> {
        if spec.states.is_empty() {
            return Err(MdpError::Empty);
        }
        // 1. Names.
        let mut index = HashMap::new();
        for (position, state) in spec.states.iter().enumerate() {
            if index.insert(state.id.as_str(), position).is_some() {
                let id = state.id.clone();
                return Err(MdpError::DuplicateState { id });
            }
        }
        let find = |place: &str, id: &str| {
            index.get(id).copied().ok_or_else(|| MdpError::Dangling {
                place: place.to_owned(),
                id: id.to_owned(),
            })
        };
        let distribution = |place: String, weights: &BTreeMap<String, f64>| {
            let sum = checked_sum(&place, weights.iter().map(|(id, p)| (id.as_str(), *p)))?;
            let resolved = weights
                .iter()
                .map(|(id, p)| Ok((find(&place, id)?, *p)))
                .collect::<Result<Vec<_>, MdpError>>()?;
            if (sum - 1.0).abs() > SUM_TOLERANCE {
                return Err(MdpError::Sum { place, sum });
            }
            Ok(resolved)
        };

        // 2. Numbers.
        let initial = distribution("the initial probabilities".to_owned(), &spec.initial)?;
        let mut origin = Vec::with_capacity(spec.actions.len());
        let mut next = Vec::with_capacity(spec.actions.len());
        let mut actions = vec![Vec::new(); spec.states.len()];
        let mut names = HashSet::new();
        for (position, action) in spec.actions.iter().enumerate() {
            let place = format!("action `{}` of state `{}`", action.action, action.state);
            let state = find(&place, &action.state)?;
            if !names.insert((state, action.action.as_str())) {
                return Err(MdpError::DuplicateAction {
                    state: action.state.clone(),
                    action: action.action.clone(),
                });
            }
            if !action.reward.is_finite() {
                let value = action.reward;
                return Err(MdpError::Reward { place, value });
            }
            next.push(distribution(
                format!("the next-state probabilities of {place}"),
                &action.next,
            )?);
            origin.push(state);
            actions[state].push(position);
        }
        for (state, actions) in spec.states.iter().zip(&actions) {
            let id = state.id.clone();
            match (state.terminal, actions.is_empty()) {
                (true, false) => return Err(MdpError::TerminalActs { id }),
                (false, true) => return Err(MdpError::Stuck { id }),
                (true, true) => continue,
                (false, false) => {}
            }
            let place = format!("the reference probabilities of state `{id}`");
            let references = actions
                .iter()
                .map(|&a| (spec.actions[a].action.as_str(), spec.actions[a].reference));
            let sum = checked_sum(&place, references)?;
            if (sum - 1.0).abs() > SUM_TOLERANCE {
                return Err(MdpError::Sum { place, sum });
            }
        }

        // 3. A finite horizon.
        let leaves_first = leaves_first(&spec, &origin, &next)?;
        Ok(Self {
            spec,
            initial,
            origin,
            next,
            actions,
            leaves_first,
        })
    }
}

/// The sum of numbers that must each be a probability.
fn checked_sum<'a>(
    place: &str,
    weights: impl Iterator<Item = (&'a str, f64)>,
) -> Result<f64, MdpError> {
    let mut sum = 0.0;
    for (name, value) in weights {
        if !(0.0..=1.0).contains(&value) {
            return Err(MdpError::NotAProbability {
                place: format!("`{name}` in {place}"),
                value,
            });
        }
        sum += value;
    }
    Ok(sum)
}

/// The states in an order in which each comes after all that may follow it.
fn leaves_first(
    spec: &MdpSpec,
    origin: &[usize],
    next: &[Vec<(usize, f64)>],
) -> Result<Vec<usize>, MdpError> {
    let mut graph = DiGraph::<(), ()>::with_capacity(spec.states.len(), next.len());
    let nodes: Vec<_> = spec.states.iter().map(|_| graph.add_node(())).collect();
    for (from, reached) in origin.iter().zip(next) {
        for (to, _) in reached {
            graph.add_edge(nodes[*from], nodes[*to], ());
        }
    }
    match toposort(&graph, None) {
        Ok(order) => Ok(order.iter().rev().map(|node| node.index()).collect()),
        Err(found) => {
            let component = tarjan_scc(&graph)
                .into_iter()
                .find(|component| component.contains(&found.node_id()))
                .unwrap_or_default();
            let name = |index: usize| spec.states[index].id.clone();
            let mut states: Vec<String> = component.iter().map(|n| name(n.index())).collect();
            states.sort();
            Err(MdpError::Cycle { states })
        }
    }
}
