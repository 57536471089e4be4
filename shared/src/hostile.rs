//! What arrives at a door and should not: values that every door is asked with, and events that are almost what a gateway
//! or a queue hands over. Feature `hostile`: for tests only.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value};

/// Characters that mean something to a parser of paths and nothing in an id: as a client may write them, and as API Gateway
/// hands them over.
pub const ENCODED: [(&str, &str); 14] = [
    ("%09", "\t"),
    ("%0A", "\n"),
    ("%0D", "\r"),
    ("%00", "\0"),
    ("%20", " "),
    ("%23", "#"),
    ("%25", "%"),
    ("%2e%2e", ".."),
    ("%2E", "."),
    ("%2F", "/"),
    ("%3F", "?"),
    ("%5C", "\\"),
    ("%7F", "\u{7f}"),
    ("%C2%A0", "\u{a0}"),
];

/// Values that a member of a message may hold instead of its own: each is admitted by the member's schema if its parser
/// takes it, and only then.
pub fn values() -> Vec<Value> {
    let numbers = [
        "0",
        "1",
        "-1",
        "-0.0",
        "1.0",
        "1.5",
        "60.0",
        "6e1",
        "70000",
        "10000001",
        "1000000000001",
        "9007199254740991.0",
        "9223372036854775808",
        "18446744073709551615",
        "-9223372036854775808",
        "1e300",
        "-1e-300",
        "12345678901234567890123",
    ];
    let times = [
        "2040-11-21T09:00:00Z",
        "2040-11-21T09:00:00.123456789Z",
        "2040-11-21T09:00:00+09:00",
        "2040-11-21t09:00:00z",
        "2040-01-01T09:00:00.000+09:00",
        "2040-11-21",
        "2040-11-21 09:00:00Z",
        "2040-11-21T09:00:00",
        "2040-02-30T09:00:00Z",
        "2040-11-21T24:00:00Z",
        "2040-11-21T09:60:00Z",
        "2040-11-21T09:00Z",
        "20261121T090000Z",
        "2040-11-21T09:00:00 Z",
        "2040-11-21T09:00:00.Z",
        "2040-11-21T09:00:00+0900",
        "1790000000000",
    ];
    let texts = [
        "",
        " ",
        "a b",
        "a\tb",
        "a\nb",
        "a\u{0}b",
        "\u{feff}a",
        "a\u{a0}",
        "é",
        "쿠폰",
        "ａ",
        "\u{1f600}",
        "a/b",
        "a\\b",
        "a#b",
        "a?b",
        "a%20b",
        "%2e",
        "a+b",
        "a,b",
        "a;b",
        "a=b",
        "a\"b",
        "<a>",
        "a.b",
        ".",
        "..",
        "...",
        ".a",
        "a@b",
        "a~b",
        "a:b",
        "a_b",
        "-",
        "x",
        "X",
        "null",
        "undefined",
        "true",
        "0",
        "partner:acme",
        "campaign:x",
        "__proto__",
        "constructor",
    ];
    let long = [64, 65, 128, 129, 256, 257].map(|length| Value::from("x".repeat(length)));
    let wide = [64, 128, 129].map(|length| Value::from("쿠".repeat(length)));
    let numbers = numbers
        .iter()
        .filter_map(|number| serde_json::from_str(number).ok());
    let others = [
        "null",
        "true",
        "false",
        "[]",
        "{}",
        "[\"x\"]",
        "{\"x\":1}",
        "[1]",
    ];
    let others = others
        .iter()
        .filter_map(|other| serde_json::from_str(other).ok());
    let texts = times.iter().chain(&texts).map(|text| Value::from(*text));
    numbers
        .chain(others)
        .chain(texts)
        .chain(long)
        .chain(wide)
        .collect()
}

/// Texts that somebody may send for anything.
fn texts() -> impl Strategy<Value = String> {
    let known = ENCODED
        .iter()
        .flat_map(|(encoded, decoded)| [*encoded, *decoded]);
    let known: Vec<&str> = known
        .chain([
            "",
            "null",
            "9999-12-31T23:59:59.999Z",
            "1e999",
            "a=b&a=c",
            "\"x\"",
            "https,http",
        ])
        .chain([
            "a b",
            "{\"action\":\"claim\"}",
            "ＡＢＣ",
            "\u{202e}",
            "../../x",
            "{}",
            "[]",
            "-1",
            "=",
        ])
        .collect();
    prop_oneof![
        proptest::sample::select(known).prop_map(str::to_owned),
        ".{0,60}",
        Just("x".repeat(9000)),
    ]
}

/// So many cases, of which none is written down: what fails belongs into a test of its own.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

/// Any JSON, not deep.
pub fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        texts().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((texts(), inner), 0..4)
                .prop_map(|members| Value::Object(Map::from_iter(members))),
        ]
    })
}

/// The samples with up to three of their values replaced, members of the JSON in their texts included; and, now and then,
/// something else altogether.
///
/// # Panics
/// If a sample is no JSON.
#[expect(clippy::panic, reason = "compiled for tests only")]
pub fn events(samples: &[&str]) -> impl Strategy<Value = String> + use<> {
    let read = |sample: &&str| -> Value {
        serde_json::from_str(sample).unwrap_or_else(|error| panic!("a sample is no JSON: {error}"))
    };
    let samples: Vec<Value> = samples.iter().map(read).collect();
    let changes = proptest::collection::vec(
        (any::<Index>(), proptest::option::weighted(0.8, json())),
        1..4,
    );
    let changed = (proptest::sample::select(samples), changes).prop_map(|(mut event, changes)| {
        for (at, to) in changes {
            let values = count(&event);
            change(&mut event, &mut at.index(values), to);
        }
        event.to_string()
    });
    prop_oneof![8 => changed, 1 => json().prop_map(|value| value.to_string()), 1 => ".{0,200}"]
}

/// The JSON in a text, if it holds an object.
fn inside(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(Value::is_object)
}

/// How many values there are in it, itself included.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        Value::String(text) => inside(text).as_ref().map_or(0, count),
        _ => 0,
    }
}

/// Replaces the `at`th value, or takes it away. Whether it was among these.
fn change(value: &mut Value, at: &mut usize, to: Option<Value>) -> bool {
    if *at == 0 {
        *value = to.unwrap_or_default();
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| change(item, at, to.clone())),
        Value::Object(members) => {
            let names: Vec<String> = members.keys().cloned().collect();
            names.into_iter().any(|name| {
                if *at == 0 && to.is_none() {
                    members.remove(&name);
                    return true;
                }
                members
                    .get_mut(&name)
                    .is_some_and(|member| change(member, at, to.clone()))
            })
        }
        Value::String(text) => inside(text).is_some_and(|mut inner| {
            let done = change(&mut inner, at, to);
            if done {
                *text = inner.to_string();
            }
            done
        }),
        _ => false,
    }
}
