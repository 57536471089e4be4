//! Holds template.yaml, functions/, events/ and README.md to each other. Reads files only; no stack, no network.
//! What must hold of the template itself is asked of its expansion, in tests/template/.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use firstcome_core::metric::{METRICS_NAMESPACE, Metric};
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

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Sequence(all) => all.iter().flat_map(texts).collect(),
        Value::Mapping(map) => map.values().flat_map(texts).collect(),
        Value::Tagged(tagged) => texts(&tagged.value),
        _ => vec![],
    }
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
fn the_largest_batch_of_claims_fills_its_transactions() {
    let template: Value = serde_yaml_ng::from_str(&read("template.yaml")).unwrap();
    let size = template["Parameters"]["ClaimBatchSize"]["MaxValue"].as_u64();
    assert_eq!(size.unwrap() % firstcome_core::MAX_CHUNK as u64, 0);
}

/// Logical id → its properties, for those that tell somebody.
fn alarms_that_wake() -> BTreeMap<String, Value> {
    let alarms = of_type("AWS::CloudWatch::Alarm").into_iter();
    alarms
        .filter(|(_, alarm)| !alarm["Properties"]["AlarmActions"].is_null())
        .collect()
}

#[test]
fn every_alarm_tells_the_topic_and_says_in_the_runbook_what_to_do() {
    let runbook = read("docs/runbook.md");
    for (id, alarm) in of_type("AWS::CloudWatch::Alarm") {
        let properties = &alarm["Properties"];
        for actions in ["AlarmActions", "OKActions"] {
            let told = texts(&properties[actions]);
            assert!(told.iter().all(|told| told == "AlarmTopic"), "{id}");
        }
        let name = texts(&properties["AlarmName"]).remove(0);
        let name = name.strip_prefix("${AWS::StackName}-").unwrap();
        let description = properties["AlarmDescription"].as_str().unwrap();
        let (_, anchor) = description.split_once("Do: docs/runbook.md#").unwrap();
        assert_eq!(anchor, name, "{id}");
        assert!(runbook.contains(&format!("\n### {name}\n")), "### {name}");
    }
    assert!(alarms_that_wake().len() >= 10);
}

#[test]
fn no_alarm_that_alert_is_told_of_looks_at_alert() {
    for (id, alarm) in alarms_that_wake() {
        let looks_at = texts(&alarm["Properties"]).join(" ");
        assert!(!looks_at.contains("Alert"), "{id}: {looks_at}");
    }
}

#[test]
fn alarms_that_calculate_are_for_aws_only() {
    for (id, alarm) in of_type("AWS::CloudWatch::Alarm") {
        let calculates = !alarm["Properties"]["Metrics"].is_null();
        assert_eq!(calculates, alarm["Condition"] == "OnAws", "{id}");
    }
}

#[test]
fn alarms_and_dashboard_look_at_metrics_that_are_measured() {
    let measured: BTreeSet<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
    for (id, alarm) in of_type("AWS::CloudWatch::Alarm") {
        let properties = &alarm["Properties"];
        if properties["Namespace"] == METRICS_NAMESPACE {
            let name = properties["MetricName"].as_str().unwrap();
            assert!(measured.contains(name), "{id}: {name}");
        }
    }
    let body = texts(&resources()["Dashboard"]["Properties"]["DashboardBody"]).remove(0);
    let shown = body.split("[\"firstcome\",\"").skip(1);
    let shown: BTreeSet<&str> = shown.map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(shown.len() >= 15, "{shown:?}");
    assert_eq!(shown.difference(&measured).collect::<Vec<_>>(), [&""; 0]);
    serde_json::from_str::<serde_json::Value>(&body).unwrap();
}

#[test]
fn a_worker_knows_its_last_try_by_what_the_queue_allows() {
    let queues = of_type("AWS::SQS::Queue");
    for (function, queue) in [
        ("issue", "ClaimsQueue"),
        ("issue", "PriorityClaimsQueue"),
        ("broadcast", "DeliveriesQueue"),
        ("broadcast", "BroadcastQueue"),
    ] {
        let allowed = &queues[queue]["Properties"]["RedrivePolicy"]["maxReceiveCount"];
        let line = format!("const MAX_RECEIVES: u32 = {};", allowed.as_u64().unwrap());
        assert_eq!(allowed.as_u64(), Some(firstcome_core::MAX_RECEIVES.into()));
        let code = read(&format!("functions/{function}/src/handler.rs"));
        assert!(code.contains(&line), "{function}: {line}");
    }
}

#[test]
fn the_domain_knows_how_long_a_claim_may_wait() {
    let queues = of_type("AWS::SQS::Queue");
    for queue in ["ClaimsQueue", "PriorityClaimsQueue"] {
        let kept = queues[queue]["Properties"]["MessageRetentionPeriod"].as_i64();
        let days = kept.unwrap() / 86_400;
        assert_eq!(kept, Some(days * 86_400), "whole days");
        let line = format!("const QUEUE_RETENTION_SECONDS: i64 = {days} * 86_400;");
        assert!(read("shared/src/claim.rs").contains(&line), "{line}");
    }
}

#[test]
fn the_domain_returns_facts_and_measures_nothing() {
    let mut folders = vec![root().join("shared/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let code = std::fs::read_to_string(&path).unwrap();
            let measures = code.contains("metric::") || code.contains("metrics::");
            // lambda.rs is what every function has around its handler, and none of the domain.
            let may_measure = path.ends_with("src/metric.rs") || path.ends_with("src/lambda.rs");
            assert_eq!(measures, may_measure, "{}", path.display());
        }
    }
}

/// The source files whose rules serve claims, partners and sockets: not the operator's, and not what only proves or measures.
fn service_sources() -> Vec<(PathBuf, String)> {
    sources(&[
        "bench",
        "cli",
        "model",
        "operator",
        "simulator",
        "tests",
        "verify",
    ])
}

/// Every source file of the repository, except below folders of these names.
fn sources(without: &[&str]) -> Vec<(PathBuf, String)> {
    let (mut folders, mut found) = (vec![root()], vec![]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                let is_ours = !name.starts_with('.') && name != "target";
                folders.extend((is_ours && !without.contains(&name)).then_some(path));
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// The names in back quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether a source file holds this test: a function with a test's attribute, or one of a list of contracts.
fn is_test_of(name: &str, text: &str) -> bool {
    let Some((before, _)) = text.split_once(&format!("fn {name}(")) else {
        return false;
    };
    let attributes = before.rsplit("\n\n").next().unwrap();
    let is_marked = attributes.contains("#[test]") || attributes.contains("#[tokio::test");
    is_marked || text.contains(&format!("\n    {name},\n"))
}

#[test]
fn every_rule_about_time_is_listed_and_every_test_of_one_exists() {
    let page = read("docs/time-rules.md");
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<Vec<&str>> = rows.skip(2).map(|row| row.split('|').collect()).collect();
    assert!(rows.len() >= 20, "{} rows", rows.len());
    let all = sources(&[]);
    for row in rows {
        let tests: Vec<_> = quoted(row[4]).collect();
        assert!(!tests.is_empty(), "nothing tests: {}", row[1]);
        for test in tests {
            let exists = all.iter().any(|(_, text)| is_test_of(test, text));
            assert!(exists, "{test} is no test; the row of: {}", row[1]);
        }
    }
    let listed: BTreeSet<&str> = quoted(&page).collect();
    let mut limits = BTreeSet::new();
    for (path, text) in service_sources() {
        let constants = text.lines().filter(|line| line.contains(": i64 = "));
        let constants = constants.filter(|line| !line.starts_with(' '));
        let names = constants.filter_map(|line| line.split_once("const ")?.1.split_once(':'));
        for (name, _) in names.filter(|(name, _)| is_a_time(name)) {
            assert!(listed.contains(name), "{name} of {}", path.display());
            limits.insert(name.to_owned());
        }
    }
    assert!(limits.len() >= 20, "{limits:?}");
}

fn is_a_time(name: &str) -> bool {
    name.ends_with("_SECONDS") || name.ends_with("_MILLIS")
}

#[test]
fn every_page_that_the_sources_name_has_the_section() {
    let mut named = 0;
    for (path, text) in sources(&[]) {
        // Written as a page, an arrow and a heading, in parentheses.
        for (at, arrow) in text.match_indices(" › ") {
            let page = text[..at].rsplit(['(', ' ', '\n']).next().unwrap();
            let heading = text[at + arrow.len()..].split([')', '\n']).next();
            if page.ends_with(".md") {
                let wanted = format!("# {}", heading.unwrap());
                let exists = read(page).lines().any(|line| {
                    line.starts_with('#') && line.trim_start_matches('#') == &wanted[1..]
                });
                assert!(
                    exists,
                    "{page} has no section{}: {}",
                    &wanted[1..],
                    path.display()
                );
                named += 1;
            }
        }
    }
    assert!(named > 0, "none is named: the form has changed");
}

/// Crates of others that a binary is made of, each with the features it is compiled with.
fn dependencies(package: &str) -> BTreeMap<String, String> {
    let tree = std::process::Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["tree", "--locked", "--offline", "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p}|{f}"])
        .args(["--package", package])
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "{package}: {said}");
    // A member of the workspace has its path behind its version, a repeated crate "(*)" behind its features.
    let lines = String::from_utf8(tree.stdout).unwrap();
    let found = lines.lines().filter_map(|line| line.split_once('|'));
    found
        .filter(|(name, _)| !name.contains(" (/"))
        .map(|(name, features)| (name.to_owned(), features.replace(" (*)", "")))
        .collect()
}

/// Cargo resolves the features of each binary alone, so the SDK was once compiled three times.
#[test]
fn a_crate_that_binaries_share_is_compiled_once() {
    let mut seen: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut differ = vec![];
    for binary in folders().into_iter().chain(["firstcome-cli".into()]) {
        for (name, features) in dependencies(&binary) {
            let (first, known) = seen
                .entry(name.clone())
                .or_insert_with(|| (binary.clone(), features.clone()));
            if *known != features {
                differ.push(format!(
                    "{name}: {first} has [{known}], {binary} [{features}]"
                ));
            }
        }
    }
    assert!(seen.len() > 100, "{seen:?}");
    assert_eq!(
        differ, [""; 0],
        "add the feature to tools/workspace-hack/Cargo.toml"
    );
}
