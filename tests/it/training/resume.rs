//! A run that was killed or interrupted ends as if it had not been.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{metrics, write_config, write_log};

const DPO: &str = "kind = \"dpo\"";

fn start(config: &Path, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_socratiq"))
        .arg("train")
        .arg(config)
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the run has `lines` lines of metrics.
fn wait_for(run: &Path, lines: usize) {
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
        if text.lines().count() >= lines {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_mins(2),
            "it never came so far"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the end of a run depends on.
fn result(run: &Path) -> Vec<Vec<u8>> {
    [
        "metrics.jsonl",
        "final/model.safetensors",
        "final/tokenizer.json",
    ]
    .iter()
    .map(|name| fs::read(run.join(name)).unwrap())
    .collect()
}

/// The folder of a config for `objective` and its run directory.
fn long_run(objective: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    write_log(&folder.path().join("prefs.jsonl"), 24);
    let config = write_config(folder.path(), objective);
    (folder, config)
}

const LONG: [&str; 6] = [
    "--set",
    "train.updates=60",
    "--set",
    "train.checkpoint_every=7",
    "--set",
    "optimizer.learning_rate=1e-3",
];

#[test]
fn a_run_has_the_same_bits_on_any_number_of_threads() {
    let on = |threads: &str| {
        let folder = tempfile::tempdir().unwrap();
        // Large enough for kernels to share their work out.
        write_log(&folder.path().join("prefs.jsonl"), 100);
        let config = write_config(folder.path(), DPO);
        let larger = [
            "model.new.vocab_size=800",
            "model.new.hidden_size=96",
            "train.pairs_per_update=24",
            "train.updates=4",
        ];
        let status = Command::new(env!("CARGO_BIN_EXE_socratiq"))
            .arg("train")
            .arg(config)
            .args(larger.iter().flat_map(|setting| ["--set", setting]))
            .env("RAYON_NUM_THREADS", threads)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        result(&folder.path().join("run"))
    };
    let alone = on("1");
    assert!(on("2") == alone && on("5") == alone);
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_bits() {
    for objective in [
        DPO,
        "kind = \"dpo\"\nreference_sync_every = 10",
        "kind = \"kto\"",
    ] {
        let (whole, config) = long_run(objective);
        assert!(start(&config, &LONG).wait().unwrap().success());
        let expected = result(&whole.path().join("run"));

        let (folder, config) = long_run(objective);
        let run = folder.path().join("run");
        // Killed at once, in the middle, and again after it went on.
        for (round, lines) in [1, 15, 30, 45].into_iter().enumerate() {
            let more: &[&str] = if round == 0 { &[] } else { &["--resume"] };
            let mut child = start(&config, &[&LONG[..], more].concat());
            wait_for(&run, lines);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let output = start(&config, &[&LONG[..], &["--resume"]].concat())
            .wait_with_output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(metrics(&run).len(), 60);
        assert!(result(&run) == expected, "{objective}: the results differ");
    }
}

#[test]
fn an_interrupted_run_saves_and_says_how_to_go_on() {
    let (whole, config) = long_run(DPO);
    assert!(start(&config, &LONG).wait().unwrap().success());
    let (folder, config) = long_run(DPO);
    let run = folder.path().join("run");
    let child = start(&config, &LONG);
    wait_for(&run, 10);
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupt.success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("--resume"), "{said}");
    // Nothing but what was saved is needed.
    let saved = metrics(&run).len();
    assert!(run.join(format!("checkpoint-{saved}")).is_dir());
    assert!(
        start(&config, &[&LONG[..], &["--resume"]].concat())
            .wait()
            .unwrap()
            .success()
    );
    assert!(result(&run) == result(&whole.path().join("run")));
}
