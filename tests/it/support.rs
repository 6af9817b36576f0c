//! What several test modules use.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use socratiq::agents::model::{Adapters, Decoder};
use socratiq::agents::{AgentError, Codec, Generator, Prompt};
use socratiq::envs::exact::{ActionSpec, FiniteMdp, MdpSpec, StateSpec};
use socratiq::envs::{Message, RunSeed, Stream, Tool};

/// Fails unless two numbers are as near as `tolerance`.
#[track_caller]
pub(crate) fn assert_close(actual: f64, expected: f64, tolerance: f64) {
    let error = (actual - expected).abs();
    assert!(
        error <= tolerance,
        "{actual} is {error:e} from {expected}, more than {tolerance:e}"
    );
}

/// How the world of a random MDP answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum World {
    Deterministic,
    Stochastic,
}

/// A random tree of `depth` decisions with two initial states, two or three actions everywhere and, in a
/// stochastic world, two outcomes per action. Some branches end early.
pub(crate) fn random_tree(seed: u64, depth: usize, world: World) -> FiniteMdp {
    let mut stream = RunSeed(seed).stream("random tree");
    let mut spec = MdpSpec::default();
    let starts = probabilities(2, &mut stream);
    for (number, probability) in starts.into_iter().enumerate() {
        let id = format!("s{number}");
        spec.initial.insert(id.clone(), probability);
        grow(&mut spec, &id, depth, world, &mut stream);
    }
    FiniteMdp::try_from(spec).unwrap()
}

fn grow(spec: &mut MdpSpec, id: &str, depth: usize, world: World, stream: &mut Stream) {
    let root = !id.contains('.');
    let terminal = depth == 0 || (!root && stream.chance(0.15));
    spec.states.push(StateSpec {
        id: id.to_owned(),
        terminal,
    });
    if terminal {
        return;
    }
    let count = 2 + stream.below(2);
    for (number, reference) in probabilities(count, stream).into_iter().enumerate() {
        let outcomes = match world {
            World::Deterministic => vec![1.0],
            World::Stochastic => probabilities(2, stream),
        };
        let mut next = BTreeMap::new();
        for (outcome, probability) in outcomes.into_iter().enumerate() {
            let child = format!("{id}.{number}{outcome}");
            next.insert(child.clone(), probability);
            grow(spec, &child, depth - 1, world, stream);
        }
        spec.actions.push(ActionSpec {
            state: id.to_owned(),
            action: format!("a{number}"),
            reference,
            reward: 2.0 * stream.unit() - 1.0,
            next,
        });
    }
}

fn probabilities(count: usize, stream: &mut Stream) -> Vec<f64> {
    let weights: Vec<f64> = (0..count).map(|_| 0.1 + stream.unit()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// Runs the command with `input` on its stdin.
pub(crate) fn socratiq(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_socratiq"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that needs no input may be gone before it is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// The command succeeds and prints this.
#[track_caller]
pub(crate) fn succeeds(arguments: &[&str], input: &str) -> String {
    let output = socratiq(arguments, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The command fails, says why in one line that contains `expected`, and prints no data.
#[track_caller]
pub(crate) fn fails(arguments: &[&str], expected: &str) {
    let output = socratiq(arguments, "");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    assert!(output.stdout.is_empty());
    assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    assert!(errors.contains(expected), "{errors}");
}

/// A codec of plain ids, some of which end a turn.
pub(crate) struct Ids(pub(crate) Vec<u32>);

impl Codec for Ids {
    fn encode_observation(
        &self,
        _: &[Message],
        _: &[Message],
        _: &[Tool],
        _: bool,
    ) -> Result<Prompt, AgentError> {
        Ok(Prompt::Append(vec![7]))
    }

    fn encode_action(
        &self,
        _: &[Message],
        _: &Message,
        _: &[Tool],
    ) -> Result<Vec<u32>, AgentError> {
        Ok(vec![self.end_of_turn()])
    }

    fn decode_action(&self, ids: &[u32]) -> Result<Message, AgentError> {
        Ok(Message::assistant(format!("{ids:?}")))
    }

    fn is_end_of_turn(&self, id: u32) -> bool {
        self.0.contains(&id)
    }

    fn end_of_turn(&self) -> u32 {
        self.0[0]
    }
}

/// A generator in which any of `ends` ends a turn.
pub(crate) fn generator(decoder: &Arc<Decoder>, ends: &[u32]) -> Generator {
    Generator::new(decoder.clone(), Arc::new(Ids(ends.to_vec())), Adapters::On)
}
