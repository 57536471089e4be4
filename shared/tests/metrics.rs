//! The line that a function writes for CloudWatch, as CloudWatch reads it. In a process of its own: what is installed stays.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::process::Command;

use firstcome_core::metric::{self, MAX_VALUES, Metric};
use firstcome_core::{CampaignId, Timestamp};
use serde_json::{Value, json};

/// The test itself, run again as a function whose stdout can be read.
#[test]
#[ignore = "is what the test below runs"]
fn a_function_of_three_invocations() {
    metric::install().unwrap();
    let campaign = CampaignId::mint(Timestamp::from_millis(1_790_000_000_000), 1);
    metric::count_of(Metric::Issued, &campaign, 40);
    metric::count_of(Metric::Issued, &campaign, 2);
    metric::count(Metric::Conflicts, 0);
    metric::gauge(Metric::StockDrift, 0.0);
    let millis = (1..=495).rev().map(f64::from).collect();
    metric::values(Metric::ClaimToDecidedMillis, millis);
    metric::values(Metric::BatchSize, vec![495.0]);
    metric::flush("request-1");
    metric::flush("request-2");
    metric::values(Metric::ClaimToDecidedMillis, vec![7.0]);
    metric::flush("request-3");
}

fn lines() -> Vec<Value> {
    let me = std::env::current_exe().unwrap();
    let ran = Command::new(me)
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "a_function_of_three_invocations",
        ])
        .env("AWS_LAMBDA_FUNCTION_NAME", "issue")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let text = String::from_utf8(ran.stdout).unwrap();
    text.lines()
        .filter(|line| line.starts_with("{\"_aws\""))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_invocation_writes_one_line_of_its_own_values() {
    let lines = lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let told = &lines[0]["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(told["Namespace"], "firstcome");
    assert_eq!(told["Dimensions"], json!([["function"]]));
    assert_eq!(lines[0]["function"], "issue");
    assert_eq!(lines[0]["requestId"], "request-1");
    let names: Vec<&str> = told["Metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|metric| metric["Name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["BatchSize", "ClaimToDecidedMillis", "Issued", "StockDrift"]
    );
    assert_eq!(lines[0]["Issued"], 42);
    assert_eq!(lines[0]["StockDrift"], 0.0);
    assert_eq!(lines[0]["campaigns"].as_object().unwrap().len(), 1);
    assert!(lines[0]["campaigns"].to_string().contains("\"Issued\":42"));

    // A count starts anew, a gauge holds, and what was of a campaign is gone.
    assert_eq!(lines[1]["Issued"], Value::Null);
    assert_eq!(lines[1]["campaigns"], Value::Null);
    assert_eq!(lines[1]["StockDrift"], 0.0);
    assert_eq!(lines[2]["ClaimToDecidedMillis"], json!([7.0]));
}

#[test]
fn many_values_are_thinned_evenly_and_keep_their_ends() {
    let values: Vec<f64> =
        serde_json::from_value(lines()[0]["ClaimToDecidedMillis"].clone()).unwrap();
    assert_eq!(values.len(), MAX_VALUES);
    assert_eq!((values[0], values[99]), (1.0, 495.0));
    assert!((values[50] - 248.0).abs() <= 5.0, "{}", values[50]);
    assert!((values[95] - 471.0).abs() <= 5.0, "{}", values[95]);
}
