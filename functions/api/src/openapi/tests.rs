//! The document against the types, the source and itself.

use std::collections::BTreeSet;

use super::*;
use crate::handler::{routes, tests::InMemory};

fn operations_written() -> impl Iterator<Item = (&'static String, &'static String, &'static Value)>
{
    let paths = served()["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, operations)| {
        let operations = operations.as_object().unwrap();
        operations
            .iter()
            .map(move |(method, operation)| (path, method, operation))
    })
}

#[test]
fn the_served_document_says_what_the_types_say() {
    let mut document = document();
    // Whether a map keeps its order depends on what else is compiled.
    document.sort_all_objects();
    let text = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/openapi.json");
    if std::env::var_os("WRITE_CONTRACTS").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(file).unwrap_or_default() == text,
        "openapi.json differs from the types and the table in openapi.rs: `make contracts` writes it anew"
    );
}

#[test]
fn the_paths_of_the_router_are_the_documents() {
    let routed = routes::<InMemory>();
    let routed: BTreeSet<&str> = routed.iter().map(|route| route.path).collect();
    let written: BTreeSet<&str> = operations_written()
        .map(|(path, _, _)| path.as_str())
        .collect();
    assert_eq!(routed, written);
}

#[test]
fn every_example_is_what_it_is_an_example_of() {
    let mut judged = 0;
    let mut judge = |what: &str, of: &Value| {
        if let (Some(example), schema) = (of.get("example"), &of["schema"]) {
            assert_eq!(violation(schema, example), None, "{what}: {example}");
            judged += 1;
        }
    };
    for (path, method, operation) in operations_written() {
        let what = format!("{method} {path}");
        judge(
            &what,
            &operation["requestBody"]["content"]["application/json"],
        );
        let responses = operation["responses"].as_object().unwrap();
        for response in responses.values() {
            judge(&what, &response["content"]["application/json"]);
        }
    }
    let components = &served()["components"];
    for (name, parameter) in components["parameters"].as_object().unwrap() {
        judge(name, parameter);
    }
    for (name, response) in components["responses"].as_object().unwrap() {
        judge(name, &response["content"]["application/problem+json"]);
    }
    assert!(judged > 50, "{judged}");
}

#[test]
fn every_operation_has_an_id_of_its_own_a_scope_or_none_and_examples() {
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations_written() {
        assert!(
            ids.insert(operation["operationId"].as_str().unwrap()),
            "{method} {path}"
        );
        let scoped = operation["security"][0]["apiKey"].is_array();
        assert_eq!(scoped, path.starts_with("/v1/"), "{method} {path}");
        for status in ["401", "403", "429", "500", "503"] {
            assert_eq!(
                operation["responses"].get(status).is_some(),
                scoped,
                "{status} of {method} {path}"
            );
        }
    }
}

#[test]
fn the_document_warns_of_ids_in_paths_and_each_has_a_form_that_needs_no_encoding() {
    let about = served()["info"]["description"].as_str().unwrap();
    assert!(about.contains("Refuse an id"), "{about}");
    let parameters = served()["components"]["parameters"].as_object().unwrap();
    let in_paths: Vec<_> = parameters
        .values()
        .filter(|one| one["in"] == "path")
        .collect();
    assert!(in_paths.len() >= 3, "{in_paths:?}");
    for parameter in in_paths {
        for unsafe_id in ["bob/wallet/use?", "a%2Fb", "a?b", "a#b", "a b", ""] {
            let refused = violation(&parameter["schema"], &json!(unsafe_id)).is_some();
            assert!(refused, "{unsafe_id:?} is admitted: {parameter}");
        }
    }
}

#[test]
fn no_description_speaks_rust() {
    assert!(!OPENAPI.contains("[`") && !OPENAPI.contains("::"));
}
