//! The rules of the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use socratiq::envs::exact::{FiniteMdp, MdpSpec};
use socratiq::train::config::Config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder of the repository.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut open = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    found
}

fn sources() -> Vec<PathBuf> {
    ["src", "envs/src", "agents", "tests", "examples"]
        .into_iter()
        .flat_map(files)
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect()
}

fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(manifest)).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let (envs, agents) = (
        dependencies("envs/Cargo.toml"),
        dependencies("agents/Cargo.toml"),
    );
    for (package, found, forbidden) in [
        (
            "envs",
            &envs,
            &[
                "socratiq",
                "socratiq-agents",
                "candle-core",
                "candle-nn",
                "tokenizers",
                "tokio",
                "clap",
                "reqwest",
            ][..],
        ),
        (
            "agents",
            &agents,
            &["socratiq", "tokio", "clap", "reqwest"][..],
        ),
    ] {
        for name in forbidden {
            assert!(!found.contains(*name), "{package} must not know {name}");
        }
    }
    assert!(agents.contains("socratiq-envs"));
}

#[test]
fn every_module_says_what_it_is() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("//! "),
            "{}: no module header",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled apart, so that this file passes.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("#[ig", "nore"),
        concat!("XX", "X"),
    ];
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for mark in marks {
            assert!(!text.contains(mark), "{}: {mark}", path.display());
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            !["utils", "common", "helpers", "misc"].contains(&name),
            "{}",
            path.display()
        );
    }
}

#[test]
fn every_config_parses() {
    let mut count = 0;
    for path in files("configs") {
        let text = fs::read_to_string(&path).unwrap();
        let folder = path
            .parent()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str());
        match folder {
            Some("exact") => {
                let spec: MdpSpec = serde_json::from_str(&text).unwrap();
                FiniteMdp::try_from(spec).unwrap().solve(0.1).unwrap();
            }
            // Settings of an example, which refuses those that it does not know.
            Some("reproduce") => {
                let settings: toml::Table = text.parse().unwrap();
                let name = path.file_stem().and_then(|name| name.to_str()).unwrap();
                assert_eq!(settings["result"].as_str(), Some(name));
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/reproduce");
                assert!(root.join(name).with_extension("rs").is_file(), "{name}");
            }
            _ if path
                .extension()
                .is_some_and(|extension| extension == "toml") =>
            {
                let config = Config::read(&path, &[]).unwrap_or_else(|error| panic!("{error:#}"));
                // What is not said is said by the resolved config, which reads as the same.
                let resolved = Config::parse(&config.to_toml().unwrap(), &path, &[]).unwrap();
                assert_eq!(resolved, config, "{}", path.display());
            }
            _ => panic!("{}: no rule says how to read it", path.display()),
        }
        count += 1;
    }
    assert!(count > 0);
}

/// README's file tree lists a path per line, indented by two spaces per level, then a phrase.
#[test]
fn the_readmes_file_tree_is_the_real_one() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let block = readme.split("```text\nsocratiq\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    let mut folders: Vec<String> = Vec::new();
    let mut listed = BTreeSet::new();
    for line in block.lines() {
        let depth = (line.len() - line.trim_start().len()) / 2 - 1;
        let (name, phrase) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
        assert!(!phrase.trim().is_empty(), "`{name}` has no phrase");
        folders.truncate(depth);
        let path = format!("{}{name}", folders.concat());
        assert!(root().join(&path).exists(), "README lists `{path}`");
        if name.ends_with('/') {
            folders.push(name.to_owned());
        }
        listed.insert(path);
    }
    let mut real = BTreeSet::new();
    for folder in ["src", "envs/src", "agents/src", "examples", "tests/it"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let relative = path
                .strip_prefix(root())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if path.extension().is_some_and(|e| e == "rs") {
                real.insert(relative);
            }
        }
    }
    for path in &real {
        assert!(listed.contains(path), "README does not list `{path}`");
    }
}
