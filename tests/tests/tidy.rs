//! Holds template.yaml, functions/, events/ and README.md to each other. Reads files only; no stack, no network.
//! What must hold of the template itself is asked of its expansion, in tests/template/.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_yaml_ng::Value;

fn root() -> PathBuf {
    std::env::var_os("TIDY_ROOT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
        PathBuf::from,
    )
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn resources() -> BTreeMap<String, Value> {
    let template: Value = serde_yaml_ng::from_str(&read("template.yaml")).unwrap();
    serde_yaml_ng::from_value(template["Resources"].clone()).unwrap()
}

fn of_type(kind: &str) -> BTreeMap<String, Value> {
    resources()
        .into_iter()
        .filter(|(_, resource)| resource["Type"] == kind)
        .collect()
}

/// Function name → its resource.
fn functions() -> BTreeMap<String, Value> {
    of_type("AWS::Serverless::Function")
        .into_values()
        .map(|f| {
            (
                f["Metadata"]["BuildProperties"]["Binary"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
                f,
            )
        })
        .collect()
}

fn folders() -> BTreeSet<String> {
    std::fs::read_dir(root().join("functions"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn every_function_folder_has_a_template_block_and_nothing_else_has() {
    let deployed = functions();
    assert_eq!(folders(), deployed.keys().cloned().collect());
    for (name, function) in deployed {
        assert_eq!(
            function["Properties"]["CodeUri"],
            format!("functions/{name}").as_str()
        );
    }
}

#[test]
fn every_function_has_an_event() {
    let events: Vec<String> = std::fs::read_dir(root().join("events"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in folders() {
        assert!(
            events
                .iter()
                .any(|e| e.starts_with(&format!("{name}-")) && e.ends_with(".json")),
            "events/{name}-*.json"
        );
    }
}

#[test]
fn every_function_has_a_row_in_the_readme() {
    let readme = read("README.md");
    for name in folders() {
        assert!(
            readme
                .lines()
                .any(|line| line.starts_with('|') && line.contains(&format!("`{name}`"))),
            "README row of {name}"
        );
    }
}

#[test]
fn every_variable_a_function_reads_is_set_and_no_other() {
    for (name, function) in functions() {
        let code = read(&format!("functions/{name}/src/main.rs"));
        let read: BTreeSet<String> = ["variable(\"", "env::var(\""]
            .iter()
            .flat_map(|call| code.split(call).skip(1))
            .map(|rest| rest.split('"').next().unwrap().to_owned())
            .collect();
        let set: BTreeSet<String> = function["Properties"]["Environment"]["Variables"]
            .as_mapping()
            .unwrap()
            .keys()
            .map(|key| key.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(read, set, "{name}");
    }
}

#[test]
fn a_batch_of_claims_fills_its_transactions() {
    let size = resources()["ClaimsEventSource"]["Properties"]["BatchSize"].as_u64();
    assert_eq!(size.unwrap() % firstcome_core::MAX_CHUNK as u64, 0);
}
