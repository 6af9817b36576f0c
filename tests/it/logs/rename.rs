//! Logs whose fields have names of their own.

use std::fs;

use serde_json::{Value, json};
use socratiq::logs::Rename;

use super::{log, native, read_all};
use crate::support::{socratiq, succeeds};

fn renames(all: &[&str]) -> Vec<Rename> {
    all.iter().map(|rename| rename.parse().unwrap()).collect()
}

fn said(speaker: &str, text: &str) -> Value {
    json!({"speaker": speaker, "said": text})
}

const ALL: [&str; 5] = [
    "before=prompt",
    "good=chosen",
    "bad=rejected",
    "speaker=role",
    "said=content",
];

fn row() -> Value {
    json!({"before": [said("user", "Q")], "good": [said("assistant", "A")], "bad": [said("assistant", "B")]})
}

#[test]
fn fields_are_found_under_other_names() {
    let (records, bad) =
        read_all(&mut log(&row().to_string(), "log", None).renaming(renames(&ALL)));
    assert!(bad.is_empty(), "{bad:?}");
    let message = |role: &str, text: &str| json!({"role": role, "content": text});
    let expected = json!({"prompt": [message("user", "Q")], "chosen": [message("assistant", "A")],
                          "rejected": [message("assistant", "B")]});
    assert_eq!(native(&records), [expected]);

    // What a tool is called with is not touched.
    let call = json!({"function": {"name": "f", "arguments": {"good": 1}}});
    let calls = json!({"prompt": "Q", "good": [{"role": "assistant", "tool_calls": [call]}], "rejected": "B"});
    let (records, bad) =
        read_all(&mut log(&calls.to_string(), "log", None).renaming(renames(&ALL)));
    assert!(bad.is_empty(), "{bad:?}");
    let call = &native(&records)[0]["chosen"][0]["tool_calls"][0];
    assert_eq!(call["function"]["arguments"], json!({"good": 1}));

    // Two fields cannot have one name.
    let both = json!({"prompt": "Q", "good": "A", "chosen": "C", "rejected": "B"}).to_string();
    let (records, bad) = read_all(&mut log(&both, "log", None).renaming(renames(&ALL)));
    assert!(records.is_empty());
    assert!(
        bad[0].to_string().contains("has both `good` and `chosen`"),
        "{}",
        bad[0]
    );
    assert!("good".parse::<Rename>().is_err());
}

#[test]
fn commands_take_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (file, out) = (path("log.jsonl"), path("native.jsonl"));
    fs::write(&file, row().to_string()).unwrap();
    let named: Vec<&str> = ALL.iter().flat_map(|rename| ["--rename", rename]).collect();
    let report = succeeds(&[&["logs", "check", &file][..], &named].concat(), "");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["total"]["pairs"], 1);
    succeeds(
        &[&["logs", "convert", &file, "--out", &out][..], &named].concat(),
        "",
    );
    let line: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(line["chosen"][0]["content"], "A");
    let refused = socratiq(
        &["logs", "convert", &file, "--out", &out, "--rename", "good"],
        "",
    );
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("is not OLD=NEW"), "{said}");
}
