//! `socratiq generate` with planners: what it prints, and the trees that it writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::DType;
use serde_json::Value;
use socratiq::agents::planning::{NodeId, Tree};

use crate::models::Case;
use crate::support::{assert_close, fails, succeeds};

/// The small model of `golden/trl.json`.
fn write_model(folder: &Path) {
    let golden: Value =
        serde_json::from_str(&fs::read_to_string("tests/it/golden/trl.json").unwrap()).unwrap();
    let tensors: BTreeMap<String, Vec<usize>> =
        serde_json::from_value(golden["tensors"].clone()).unwrap();
    Case {
        name: "llama".to_owned(),
        config: golden["config"].clone(),
        tensors,
        logits: Vec::new(),
    }
    .write(folder, DType::F32, 1);
    let tokenizer = golden["tokenizer"].to_string();
    fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
    let config = r#"{"eos_token": "<eos>"}"#;
    fs::write(folder.join("tokenizer_config.json"), config).unwrap();
    let template = "{% for message in messages %}{{ message.role }}: {{ message.content }}<eos>{% endfor %}\
                    {% if add_generation_prompt %}assistant: {% endif %}";
    fs::write(folder.join("chat_template.jinja"), template).unwrap();
}

#[test]
fn generate_plans_and_writes_the_tree_in_three_forms() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let model = place("model");
    fs::create_dir(&model).unwrap();
    write_model(Path::new(&model));
    let messages = place("messages.json");
    fs::write(&messages, r#"[{"role": "user", "content": "a b"}]"#).unwrap();
    let arguments = |planner: &'static str| {
        let plain = ["generate", "--model", &model, "--messages", &messages];
        let more = ["--max-new-tokens", "6", "--json", "--planner", planner];
        [&plain[..], &more].concat()
    };
    for planner in [
        "beam:width=3",
        "best-of:n=4,score=likelihood",
        "mcts:simulations=20,objective=likelihood,batch=4",
    ] {
        for name in ["tree.json", "tree.html", "tree.dot"] {
            let path = place(name);
            let printed = succeeds(&[&arguments(planner)[..], &["--tree", &path]].concat(), "");
            let printed: Value = serde_json::from_str(&printed).unwrap();
            assert_eq!(printed["objective"], "likelihood");
            let (score, logprob) = (printed["score"].as_f64(), printed["logprob"].as_f64());
            assert_close(score.unwrap(), logprob.unwrap(), 1e-6);
            let text = fs::read_to_string(&path).unwrap();
            match name {
                "tree.json" => {
                    let tree: Tree = serde_json::from_str(&text).unwrap();
                    assert!(tree.len() > 6, "{planner}");
                    if !planner.starts_with("mcts") {
                        assert_close(tree.node(NodeId::ROOT).value, score.unwrap(), 1e-9);
                    }
                }
                "tree.html" => assert!(text.starts_with("<!doctype html>")),
                _ => assert!(text.starts_with("digraph {")),
            }
        }
    }
    // The model may be its own reference: every log-ratio is 0.
    let with_reference = [&arguments("best-of:n=3")[..], &["--reference", &model]].concat();
    let printed: Value = serde_json::from_str(&succeeds(&with_reference, "")).unwrap();
    assert_eq!(printed["objective"], "log-ratio");
    assert_close(printed["score"].as_f64().unwrap(), 0.0, 1e-4);

    let tree = place("tree.txt");
    let with_tree = |planner| [&arguments(planner)[..], &["--tree", &tree]].concat();
    fails(
        &arguments("beam:objective=log-ratio"),
        "needs a reference model",
    );
    fails(&with_tree("beam"), "written as .html, .json or .dot");
    fails(&arguments("best-of:level=turn"), "copies of an environment");
    let tree = place("tree.dot");
    let with_tree = |planner| [&arguments(planner)[..], &["--tree", &tree]].concat();
    fails(&with_tree("greedy"), "has no tree");
}
