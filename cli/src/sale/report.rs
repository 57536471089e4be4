//! The summary of a sale: tables for people, one JSON object for programs. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::latency::Latencies;
use super::verify::{Broadcast, Check};
use crate::terminal::{grouped, visible};

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
