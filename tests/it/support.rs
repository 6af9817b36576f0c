//! What several test modules use.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use socratiq::agents::model::{Adapters, Decoder};
use socratiq::agents::{AgentError, Codec, Generator, Prompt};
use socratiq::envs::exact::FiniteMdp;
pub(crate) use socratiq::envs::exact::World;
use socratiq::envs::{Message, RunSeed, Tool};

/// Fails unless two numbers are as near as `tolerance`.
#[track_caller]
pub(crate) fn assert_close(actual: f64, expected: f64, tolerance: f64) {
    let error = (actual - expected).abs();
    assert!(
        error <= tolerance,
        "{actual} is {error:e} from {expected}, more than {tolerance:e}"
    );
}

/// A random tree of `depth` decisions.
pub(crate) fn random_tree(seed: u64, depth: usize, world: World) -> FiniteMdp {
    FiniteMdp::random_tree(depth, world, &mut RunSeed(seed).stream("random tree")).unwrap()
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

/// A command's settings, each after its `--set`.
pub(crate) fn set<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    settings.collect()
}

/// Ctrl-C.
#[track_caller]
pub(crate) fn interrupt(child: &Child) {
    let process = child.id().to_string();
    let kill = Command::new("kill").args(["-INT", &process]).status();
    assert!(kill.unwrap().success());
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
