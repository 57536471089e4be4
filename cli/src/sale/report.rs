//! The summary of a sale: tables for people, one JSON object for programs. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::cpu::Cpu;
use super::latency::Latencies;
use super::verify::{Broadcast, Check};
use crate::terminal::{grouped, visible};

/// Where the time of the claims went on this machine, and what AWS is expected to take for the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spent {
    pub(crate) cpu: Cpu,
    /// Within which this client has sent its claims.
    pub(crate) window: Duration,
    /// p50, p95 and p99 from claim to answer in seconds; `None` where that many would never be answered.
    pub(crate) expected: [Option<f64>; 3],
}

/// What is told in the end.
pub(crate) struct Report {
    pub(crate) campaign: String,
    pub(crate) partner: String,
    pub(crate) users: u32,
    pub(crate) stock: u32,
    pub(crate) claims: usize,
    pub(crate) outcomes: BTreeMap<String, u64>,
    pub(crate) latencies: Latencies,
    /// From the first claim to the last answer.
    pub(crate) selling: Duration,
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) handshakes_repeated: BTreeMap<String, u64>,
    pub(crate) asked_again: u64,
    pub(crate) heard_again: u64,
    pub(crate) lost: u64,
    /// Only of a local stack.
    pub(crate) spent: Option<Spent>,
    pub(crate) broadcasts: Vec<Broadcast>,
    pub(crate) checks: Vec<Check>,
}

impl Report {
    pub(crate) fn held(&self) -> bool {
        self.checks.iter().all(|check| check.kept)
    }

    fn claims_per_second(&self) -> f64 {
        let answered: u64 = self.outcomes.values().sum();
        let seconds = self.selling.as_secs_f64();
        if seconds > 0.0 {
            answered as f64 / seconds
        } else {
            0.0
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let parts = [
            self.outcome_table(),
            self.speed(),
            self.spent
                .map_or_else(String::new, |spent| self.effort(spent)),
            self.broadcast_table(),
            self.trouble(),
            self.check_list(),
        ];
        parts
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let broadcasts = self.broadcasts.iter().map(|broadcast| {
            let report = &broadcast.report;
            json!({
                "name": broadcast.name, "audience": broadcast.audience, "heard": broadcast.heard,
                "deliveryMs": percentiles(&broadcast.delivery), "seen": report.seen, "sent": report.sent, "gone": report.gone,
                "failed": report.failed, "finished": report.finished_at.is_some(),
            })
        });
        let checks = self.checks.iter().map(
            |check| json!({"promise": check.promise, "kept": check.kept, "found": check.found}),
        );
        json!({
            "held": self.held(),
            "campaignId": self.campaign,
            "partnerId": self.partner,
            "users": self.users,
            "stock": self.stock,
            "claims": self.claims,
            "outcomes": self.outcomes,
            "claimToResultMs": percentiles(&self.latencies),
            "claimsPerSecond": self.claims_per_second().round(),
            "refusedByGateway": self.refused,
            "handshakesRepeated": self.handshakes_repeated,
            "askedAgain": self.asked_again,
            "repeatsReceived": self.heard_again,
            "socketsLost": self.lost,
            "cpuSeconds": self.spent.map(|spent| self.cpu_json(spent.cpu)),
            "expectedOnAws": self.spent.map(expected_json),
            "broadcasts": broadcasts.collect::<Vec<_>>(),
            "checks": checks.collect::<Vec<_>>(),
        })
    }

    fn outcome_table(&self) -> String {
        let mut text = String::from("\n  Answers\n");
        for (outcome, count) in &self.outcomes {
            text += &format!(
                "    {outcome:<16} {:>7}   {}\n",
                grouped(*count),
                meaning(outcome)
            );
        }
        text
    }

    fn speed(&self) -> String {
        let answered: u64 = self.outcomes.values().sum();
        if answered == 0 {
            return "  Claim → result\n    no claim was answered\n".to_owned();
        }
        let [p50, p95, p99] =
            [50, 95, 99].map(|percent| measured(self.latencies.percentile(percent)));
        let max = measured(self.latencies.max());
        let rate = self.claims_per_second();
        format!(
            "  Claim → result\n    p50 {p50}   p95 {p95}   p99 {p99}   max {max}\n    {} claims answered in {} = {rate:.0} claims/s\n",
            grouped(answered),
            seconds(self.selling)
        )
    }

    /// CPU time of the functions for each claim, in milliseconds.
    fn millis_per_claim(&self, cpu: Cpu) -> Option<f64> {
        (self.claims > 0).then(|| cpu.functions.as_secs_f64() * 1000.0 / self.claims as f64)
    }

    fn effort(&self, spent: Spent) -> String {
        let Cpu {
            local_aws,
            functions,
            client,
        } = spent.cpu;
        let each = self.millis_per_claim(spent.cpu).unwrap_or_default();
        let [p50, p95, p99] = spent
            .expected
            .map(|wait| wait.map_or_else(|| "never".to_owned(), |wait| format!("{wait:.2} s")));
        format!(
            "  Where that time went, in CPU seconds\n    local AWS {}   functions {} ({each:.2} ms a claim)   this client {}\n    \
             on AWS, by `firstcome plan` for claims within {}: p50 {p50}   p95 {p95}   p99 {p99}\n",
            seconds(local_aws),
            seconds(functions),
            seconds(client),
            seconds(spent.window)
        )
    }

    fn cpu_json(&self, cpu: Cpu) -> Value {
        json!({
            "localAws": cpu.local_aws.as_secs_f64(), "functions": cpu.functions.as_secs_f64(),
            "functionsMsPerClaim": self.millis_per_claim(cpu), "client": cpu.client.as_secs_f64(),
        })
    }

    fn broadcast_table(&self) -> String {
        let mut text = String::from(
            "  Broadcasts           heard by    sent    gone  failed   after p50      p95      p99     last\n",
        );
        for Broadcast {
            name,
            audience,
            heard,
            delivery,
            report,
        } in &self.broadcasts
        {
            let heard = format!("{}/{}", grouped(*heard as u64), grouped(*audience as u64));
            let [sent, gone, failed] = [report.sent, report.gone, report.failed].map(grouped);
            let [p50, p95, p99] =
                [50, 95, 99].map(|percent| measured(delivery.percentile(percent)));
            let last = measured(delivery.max());
            text += &format!(
                "    {name:<15} {heard:>11} {sent:>7} {gone:>7} {failed:>7} {p50:>11} {p95:>8} {p99:>8} {last:>8}\n"
            );
        }
        text
    }

    /// What went wrong on the way and was made good; nothing if nothing did.
    fn trouble(&self) -> String {
        let mut lines = Vec::new();
        for (what, counts) in [
            ("frame refused, sent again", &self.refused),
            ("handshake repeated", &self.handshakes_repeated),
        ] {
            lines.extend(counts.iter().map(|(reason, count)| {
                format!("    {:>7} × {what}: {}\n", grouped(*count), visible(reason))
            }));
        }
        for (what, count) in [
            ("no answer for 10 s or more, asked again", self.asked_again),
            (
                "frame received twice, told apart by its id",
                self.heard_again,
            ),
            ("socket lost, opened again with a new ticket", self.lost),
        ] {
            if count > 0 {
                lines.push(format!("    {:>7} × {what}\n", grouped(count)));
            }
        }
        if lines.is_empty() {
            String::new()
        } else {
            format!("  Made good on the way\n{}", lines.concat())
        }
    }

    fn check_list(&self) -> String {
        let mut text = String::from("  Promises, checked in the tables and through the API\n");
        for Check {
            promise,
            kept,
            found,
        } in &self.checks
        {
            let mark = if *kept { "ok" } else { "FAILED" };
            text += &format!("    {mark:<6}  {promise:<42} {}\n", visible(found));
        }
        text
    }
}

fn expected_json(spent: Spent) -> Value {
    let [p50, p95, p99] = spent
        .expected
        .map(|wait| wait.map(|seconds| (seconds * 1000.0).round()));
    json!({
        "claimsWithinMs": (spent.window.as_secs_f64() * 1000.0).round(),
        "claimToResultMs": {"p50": p50, "p95": p95, "p99": p99},
    })
}

fn percentiles(latencies: &Latencies) -> Value {
    let whole = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let millis = |duration: Option<Duration>| duration.map(whole);
    json!({
        "p50": millis(latencies.percentile(50)),
        "p95": millis(latencies.percentile(95)),
        "p99": millis(latencies.percentile(99)),
        "max": millis(latencies.max()),
    })
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// What was measured, or that nothing was.
fn measured(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "none".to_owned(), seconds)
}

fn meaning(outcome: &str) -> &'static str {
    match outcome {
        "issued" => "won a coupon",
        "already_issued" => "second claim of a winner: the coupon it already has",
        "sold_out" => "came too late",
        _ => "not expected in this sale",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kept: bool) -> Report {
        Report {
            campaign: "k".into(),
            partner: "p".into(),
            users: 2,
            stock: 1,
            claims: 2,
            outcomes: BTreeMap::from([("issued".into(), 1), ("sold_out".into(), 1)]),
            latencies: Latencies::new(vec![Duration::from_millis(100), Duration::from_millis(300)]),
            selling: Duration::from_secs(2),
            refused: BTreeMap::new(),
            handshakes_repeated: BTreeMap::new(),
            asked_again: 0,
            heard_again: 0,
            lost: 0,
            spent: None,
            broadcasts: vec![],
            checks: vec![Check {
                promise: "every claim was answered",
                kept,
                found: "2 of 2 claims".into(),
            }],
        }
    }

    #[test]
    fn one_broken_promise_breaks_the_sale() {
        assert!(report(true).held());
        assert!(!report(false).held());
        assert!(
            report(false)
                .text()
                .contains("FAILED  every claim was answered")
        );
    }

    #[test]
    fn programs_read_the_same_numbers() {
        let json = report(true).json();
        assert_eq!(json["claimToResultMs"]["p95"], 300);
        assert_eq!(json["claimsPerSecond"], 1.0);
        assert_eq!(json["held"], true);
    }

    #[test]
    fn claims_that_nobody_answered_took_no_time_at_all() {
        let silent = Report {
            outcomes: BTreeMap::new(),
            latencies: Latencies::default(),
            ..report(false)
        };
        assert!(silent.text().contains("no claim was answered"));
        assert!(!silent.text().contains("0.00 s"), "{}", silent.text());
        assert_eq!(silent.json()["claimToResultMs"]["p50"], Value::Null);
    }

    #[test]
    fn what_others_wrote_stays_on_its_line() {
        let forged = BTreeMap::from([("x\n    ok      every claim was answered".to_owned(), 1)]);
        let text = Report {
            refused: forged,
            ..report(false)
        }
        .text();
        assert!(
            text.lines().all(|line| !line.starts_with("    ok ")),
            "{text}"
        );
    }

    #[test]
    fn where_the_time_went_is_told_of_a_local_stack_only() {
        let cpu = Cpu {
            local_aws: Duration::from_millis(1500),
            functions: Duration::from_millis(30),
            client: Duration::from_millis(200),
        };
        let spent = Some(Spent {
            cpu,
            window: Duration::from_millis(250),
            expected: [Some(0.5), Some(1.25), None],
        });
        let local = Report {
            spent,
            ..report(true)
        };
        let text = local.text();
        for words in [
            "local AWS 1.50 s   functions 0.03 s (15.00 ms a claim)   this client 0.20 s",
            "claims within 0.25 s: p50 0.50 s   p95 1.25 s   p99 never",
        ] {
            assert!(text.contains(words), "{text}");
        }
        let json = local.json();
        assert_eq!(
            json["cpuSeconds"],
            json!({"localAws": 1.5, "functions": 0.03, "functionsMsPerClaim": 15.0, "client": 0.2})
        );
        assert_eq!(
            json["expectedOnAws"]["claimToResultMs"],
            json!({"p50": 500.0, "p95": 1250.0, "p99": null})
        );
        assert_eq!(json["expectedOnAws"]["claimsWithinMs"], 250.0);

        let on_aws = report(true);
        assert!(!on_aws.text().contains("CPU") && !on_aws.text().contains("on AWS"));
        assert!(on_aws.json()["cpuSeconds"].is_null());
    }

    #[test]
    fn trouble_is_told_only_if_there_was_any() {
        assert!(!report(true).text().contains("Made good"));
        let refused = BTreeMap::from([("TooManyRequestsException".to_owned(), 7)]);
        assert!(
            Report {
                refused,
                ..report(true)
            }
            .text()
            .contains("7 × frame refused")
        );
    }
}
