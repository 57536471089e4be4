//! Holds template.yaml, functions/, events/ and README.md to each other. Reads files only; no stack, no network.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_yaml_ng::{Mapping, Value};

/// What each function may do, from the design's function table. A transaction is authorized as the actions of its items.
const ALLOWED: &[(&str, &[&str])] = &[
    ("authorize", &["secretsmanager:GetSecretValue"]),
    ("connect", &["dynamodb:GetItem", "dynamodb:PutItem"]),
    (
        "disconnect",
        &[
            "dynamodb:GetItem",
            "dynamodb:BatchWriteItem",
            "dynamodb:DeleteItem",
        ],
    ),
    (
        "claim",
        &[
            "dynamodb:GetItem",
            "dynamodb:Query",
            "dynamodb:PutItem",
            "dynamodb:UpdateItem",
            "dynamodb:DeleteItem",
            "sqs:SendMessage",
        ],
    ),
    (
        "issue",
        &[
            "dynamodb:GetItem",
            "dynamodb:BatchGetItem",
            "dynamodb:UpdateItem",
            "dynamodb:PutItem",
            "sqs:SendMessage",
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:ChangeMessageVisibility",
        ],
    ),
    (
        "broadcast",
        &[
            "dynamodb:Query",
            "dynamodb:GetItem",
            "dynamodb:BatchGetItem",
            "dynamodb:BatchWriteItem",
            "dynamodb:PutItem",
            "dynamodb:UpdateItem",
            "dynamodb:DeleteItem",
            "execute-api:ManageConnections",
            "sqs:SendMessage",
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
        ],
    ),
    (
        "refresh",
        &[
            "dynamodb:Query",
            "dynamodb:DeleteItem",
            "dynamodb:GetItem",
            "dynamodb:BatchGetItem",
            "dynamodb:PutItem",
            "dynamodb:UpdateItem",
            "sqs:SendMessage",
        ],
    ),
    (
        "api",
        &[
            "dynamodb:GetItem",
            "dynamodb:BatchGetItem",
            "dynamodb:Query",
            "dynamodb:PutItem",
            "dynamodb:UpdateItem",
            "dynamodb:DeleteItem",
            "sqs:SendMessage",
            "secretsmanager:GetSecretValue",
        ],
    ),
];

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

fn statements(function: &Value) -> Vec<Mapping> {
    let policies = function["Properties"]["Policies"]
        .as_sequence()
        .cloned()
        .unwrap_or_default();
    policies
        .iter()
        .flat_map(|policy| policy["Statement"].as_sequence().unwrap().clone())
        .map(|statement| statement.as_mapping().unwrap().clone())
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
fn policies_name_only_the_allowed_actions_and_no_bare_wildcard() {
    let deployed = functions();
    assert_eq!(deployed.len(), ALLOWED.len());
    for (name, allowed) in ALLOWED {
        for statement in statements(&deployed[*name]) {
            let actions = texts(&statement["Action"]);
            assert!(!actions.is_empty());
            for action in actions {
                assert!(allowed.contains(&action.as_str()), "{name}: {action}");
            }
            let resources = texts(&statement["Resource"]);
            assert!(
                !resources.is_empty() && resources.iter().all(|r| r != "*"),
                "{name}: wildcard resource"
            );
        }
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
fn every_queue_has_a_dead_letter_queue() {
    for (id, queue) in of_type("AWS::SQS::Queue") {
        let dead = texts(&queue["Properties"]["RedrivePolicy"]["deadLetterTargetArn"]);
        assert_eq!(dead.is_empty(), id.ends_with("DeadLetterQueue"), "{id}");
    }
}

#[test]
fn visibility_is_six_times_the_timeout_plus_the_window_and_batches_answer_in_part() {
    let (all, sources) = (resources(), of_type("AWS::Lambda::EventSourceMapping"));
    assert_eq!(sources.len(), 3);
    for (id, source) in sources {
        let properties = &source["Properties"];
        let target = texts(&properties["FunctionName"]).remove(0);
        let function = target
            .strip_suffix(".Alias")
            .unwrap_or_else(|| panic!("{id} bypasses the alias"));
        let queue = texts(&properties["EventSourceArn"])
            .remove(0)
            .replace(".Arn", "");
        let timeout = all[function]["Properties"]["Timeout"].as_u64().unwrap();
        let visibility = all[&queue]["Properties"]["VisibilityTimeout"]
            .as_u64()
            .unwrap();
        let window = properties["MaximumBatchingWindowInSeconds"]
            .as_u64()
            .unwrap_or_default();
        assert!(
            visibility >= 6 * timeout + window,
            "{queue}: {visibility} s for a timeout of {timeout} s and a window of {window} s"
        );
        assert_eq!(
            texts(&properties["FunctionResponseTypes"]),
            ["ReportBatchItemFailures"],
            "{id}"
        );
    }
}

#[test]
fn a_batch_of_claims_fills_its_transactions() {
    let size = resources()["ClaimsEventSource"]["Properties"]["BatchSize"].as_u64();
    assert_eq!(size.unwrap() % firstcome_core::MAX_CHUNK as u64, 0);
}

#[test]
fn every_route_targets_an_alias() {
    let api = &resources()["WebSocketApi"]["Properties"];
    let routes = api["Routes"].as_mapping().unwrap();
    assert_eq!(routes.len(), 8);
    for (key, route) in routes {
        assert!(
            texts(&route["FunctionArn"])[0].ends_with(".Alias"),
            "{key:?}"
        );
    }
    assert!(
        texts(&resources()["HttpApiIntegration"]["Properties"]["IntegrationUri"])[0]
            .ends_with(".Alias")
    );
}

#[test]
fn every_log_group_ends_its_logs_and_every_function_has_one() {
    let groups = of_type("AWS::Logs::LogGroup");
    assert!(
        groups
            .values()
            .all(|group| !group["Properties"]["RetentionInDays"].is_null())
    );
    for (name, function) in functions() {
        let group = texts(&function["Properties"]["LoggingConfig"]["LogGroup"]).remove(0);
        assert!(groups.contains_key(&group), "{name}: {group}");
    }
}
