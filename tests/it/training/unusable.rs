//! What keeps a run from beginning, or ends it: one error that says what to do.

use std::fs;
use std::path::Path;

use super::{metrics, write_config, write_log};
use crate::support::{fails, socratiq, succeeds};

/// A folder with a good log, and the path of a config.
fn prepared() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    write_log(&folder.path().join("prefs.jsonl"), 12);
    let config = write_config(folder.path(), "kind = \"dpo\"");
    let config = config.to_str().unwrap().to_owned();
    (folder, config)
}

fn errors(arguments: &[&str]) -> String {
    String::from_utf8(socratiq(arguments, "").stderr).unwrap()
}

#[test]
fn configs_that_cannot_be_meant_are_refused() {
    let (_folder, config) = prepared();
    for (setting, expected) in [
        ("data.max_lenght=3", "unknown field `max_lenght`"),
        ("objective.kind=\"dop\"", "unknown variant `dop`"),
        ("objective.beta=0", "`beta`: 0 is not above 0"),
        ("objective.tau=0.5", "`tau` has no meaning for this `kind`"),
        (
            "optimizer.learning_rate=-1",
            "`optimizer.learning_rate`: -1 is not above 0",
        ),
        ("train.epochs=1", "give either `updates` or `epochs`"),
        ("model.path=\"x\"", "give either `path` or `[model.new]`"),
        ("train", "it is not `key=value`"),
        ("data.train=[\"missing.jsonl\"]", "missing.jsonl"),
        (
            "optimizer.groups=[{parameters=\"nothing\"}]",
            "`nothing` matches no parameter",
        ),
    ] {
        fails(&["train", &config, "--set", setting], expected);
    }
    fails(&["train", "nowhere.toml"], "cannot read `nowhere.toml`");
    // Errors in the file itself show where.
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("seed = 3", "seed = three")).unwrap();
    assert!(errors(&["train", &config]).contains("line 1"));
}

#[test]
fn bad_rows_stop_a_run_before_it_begins_or_are_left_out_and_counted() {
    let (folder, config) = prepared();
    let log = folder.path().join("prefs.jsonl");
    let mut text = fs::read_to_string(&log).unwrap();
    text.push_str("\n{\"prompt\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"chosen\": []}\n");
    fs::write(&log, text).unwrap();
    let run = folder.path().join("run");
    let refused = errors(&["train", &config]);
    assert!(
        refused.contains("prefs.jsonl: line 13: `rejected`"),
        "{refused}"
    );
    assert!(refused.contains("on_bad_row"), "{refused}");
    assert!(!run.join("config.toml").exists());
    let skipping = ["train", &config, "--set", "data.on_bad_row=\"skip\""];
    let said = errors(&skipping);
    assert!(said.contains("1 rows are left out"), "{said}");
    assert_eq!(metrics(&run).len(), 12);
}

#[test]
fn a_finished_run_is_not_overwritten() {
    let (_folder, config) = prepared();
    succeeds(&["train", &config], "");
    let again = errors(&["train", &config]);
    assert!(
        again.contains("holds a run already: go on with --resume"),
        "{again}"
    );
    // Going on with what is finished changes nothing.
    succeeds(&["train", &config, "--resume"], "");
    // Another config is another run.
    let other = errors(&["train", &config, "--resume", "--set", "objective.beta=0.5"]);
    assert!(other.contains("objective"), "{other}");
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_checkpoint() {
    let (folder, config) = prepared();
    let output = socratiq(
        &[
            "train",
            &config,
            "--set",
            "optimizer.learning_rate=1e30",
            "--set",
            "optimizer.schedule=\"constant\"",
            "--set",
            "optimizer.max_grad_norm=0",
            "--set",
            "train.checkpoint_every=1",
        ],
        "",
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("is not finite"), "{said}");
    assert!(said.contains("Lower `optimizer.learning_rate`"), "{said}");
    for line in metrics(&folder.path().join("run")) {
        assert!(line["loss"].as_f64().unwrap().is_finite());
    }
}

#[test]
fn the_references_numbers_are_computed_again_when_what_they_are_of_changes() {
    let (folder, config) = prepared();
    let run = folder.path().join("run");
    let cache = |run: &Path| fs::read(run.join("reference-train.logprobs")).unwrap();
    succeeds(&["train", &config], "");
    let first = cache(&run);
    // A cache of other data is found out, and not used.
    fs::remove_dir_all(&run).unwrap();
    fs::create_dir(&run).unwrap();
    let mut stale = first.clone();
    let at = stale.windows(8).position(|w| w == b"\"tokens\"").unwrap() + 14;
    stale[at] = if stale[at] == b'0' { b'1' } else { b'0' };
    fs::write(run.join("reference-train.logprobs"), &stale).unwrap();
    let said = errors(&["train", &config]);
    assert!(
        said.contains("of other data, tokens or masks: computed anew"),
        "{said}"
    );
    assert_eq!(cache(&run), first);
}
