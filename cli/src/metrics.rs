//! `firstcome metrics`: what the functions have measured, added up from the lines in their log groups, and held to the
//! tables. The lines are those that CloudWatch makes its metrics of; the same command reads them locally and on AWS.
//!
//! A function's process that is killed in the middle of an invocation writes no line: then the metrics say less than the
//! tables, and never more.

use std::collections::BTreeMap;

use firstcome_core::aws::operator::{LogLine, Operator, OperatorError, StoredStock};
use firstcome_core::metric::{CAMPAIGNS_FIELD, METRICS_NAMESPACE, Metric, MetricKind};
use firstcome_core::{CampaignId, Clock, SystemClock};
use serde_json::{Map, Value, json};

use crate::arguments::MetricsPlan;
use crate::terminal::{Terminal, grouped};
use crate::{CommandError, Verdict};

/// What a metric line is found by; nothing else in the logs holds it.
const MARK: &str = "CloudWatchMetrics";
/// The most campaigns that are held to their counters without being asked for; the youngest.
const MOST_CAMPAIGNS: usize = 20;

pub(crate) async fn run(
    plan: &MetricsPlan,
    stack: &str,
    terminal: &Terminal,
) -> Result<Verdict, CommandError> {
    let operator = Operator::find(stack).await?;
    let since = SystemClock
        .now()
        .plus_seconds(-60 * i64::from(plan.since_minutes));
    let lines = operator.log_lines(Some(MARK), since).await?;
    let totals = Totals::of(&lines);

    let mut books = Vec::new();
    for (campaign, measured) in totals.chosen(plan.campaign.as_ref()) {
        // A sale that began before the window is measured in part only.
        if plan.campaign.is_some() || campaign.minted_at().is_some_and(|born| born >= since) {
            books.push(book(&operator, campaign, measured, plan.campaign.is_some()).await?);
        }
    }
    let holds = books.iter().all(Book::agrees);
    if terminal.speaks_json() {
        terminal.print_json(&json!({
            "lines": totals.lines,
            "metrics": totals.rows().map(|row| row.json()).collect::<Vec<_>>(),
            "campaigns": books.iter().map(Book::json).collect::<Vec<_>>(),
            "agrees": holds,
        }));
    }
    for line in table(&totals).chain(books.iter().map(Book::line)) {
        terminal.say(&line);
    }
    Ok(if holds {
        Verdict::Held
    } else {
        Verdict::Broken
    })
}

/// All values of one metric of one function.
#[derive(Debug, Default, PartialEq)]
struct Series {
    values: Vec<f64>,
}

/// Everything that the lines say.
#[derive(Debug, Default)]
struct Totals {
    lines: usize,
    series: BTreeMap<(String, &'static str), (Metric, Series)>,
    campaigns: BTreeMap<CampaignId, BTreeMap<String, u64>>,
}

impl Totals {
    fn of(lines: &[LogLine]) -> Self {
        let mut totals = Self::default();
        for line in lines {
            if let Some(emf) = metric_line(&line.text) {
                totals.lines += 1;
                totals.add(&line.function, &emf);
            }
        }
        totals
    }

    fn add(&mut self, function: &str, emf: &Map<String, Value>) {
        for metric in Metric::ALL {
            let values = match emf.get(metric.name()) {
                Some(Value::Array(values)) => values.iter().filter_map(Value::as_f64).collect(),
                Some(value) => value.as_f64().into_iter().collect(),
                None => Vec::new(),
            };
            if !values.is_empty() {
                let key = (function.to_owned(), metric.name());
                let (_, series) = self
                    .series
                    .entry(key)
                    .or_insert((*metric, Series::default()));
                series.values.extend(values);
            }
        }
        let campaigns = emf.get(CAMPAIGNS_FIELD).and_then(Value::as_object);
        for (campaign, counts) in campaigns.into_iter().flatten() {
            let (Ok(id), Some(counts)) = (CampaignId::new(campaign.as_str()), counts.as_object())
            else {
                continue;
            };
            let of_campaign = self.campaigns.entry(id).or_default();
            for (name, count) in counts {
                *of_campaign.entry(name.clone()).or_default() += count.as_u64().unwrap_or_default();
            }
        }
    }

    /// The campaign asked for, or the youngest.
    fn chosen(&self, asked: Option<&CampaignId>) -> Vec<(CampaignId, BTreeMap<String, u64>)> {
        if let Some(id) = asked {
            let measured = self.campaigns.get(id).cloned().unwrap_or_default();
            return vec![(id.clone(), measured)];
        }
        let youngest = self.campaigns.iter().rev().take(MOST_CAMPAIGNS);
        youngest
            .map(|(id, measured)| (id.clone(), measured.clone()))
            .collect()
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.series
            .iter()
            .map(|((function, _), (metric, series))| Row {
                function,
                metric: *metric,
                series,
            })
    }
}

/// The line as EMF, if it is one of ours.
fn metric_line(text: &str) -> Option<Map<String, Value>> {
    let emf: Map<String, Value> = serde_json::from_str(text).ok()?;
    let told = &emf.get("_aws")?["CloudWatchMetrics"][0];
    (told["Namespace"] == METRICS_NAMESPACE).then_some(emf)
}

struct Row<'a> {
    function: &'a str,
    metric: Metric,
    series: &'a Series,
}

impl Row<'_> {
    fn sum(&self) -> f64 {
        self.series.values.iter().sum()
    }

    fn last(&self) -> f64 {
        self.series.values.last().copied().unwrap_or_default()
    }

    /// Nearest rank.
    fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.series.values.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
        sorted.get(rank).copied().unwrap_or_default()
    }

    /// The columns: a total for what adds up, the last value of a state, the spread of the rest.
    fn columns(&self) -> [String; 4] {
        let whole = |value: f64| grouped(value.round() as u64);
        let none = String::new;
        match self.metric.kind() {
            MetricKind::Count => [whole(self.sum()), none(), none(), none()],
            MetricKind::Gauge => [format!("{:.1}", self.last()), none(), none(), none()],
            MetricKind::Millis | MetricKind::Size => [
                none(),
                whole(self.percentile(50)),
                whole(self.percentile(95)),
                whole(self.percentile(100)),
            ],
        }
    }

    fn json(&self) -> Value {
        let (name, function) = (self.metric.name(), self.function);
        match self.metric.kind() {
            MetricKind::Count => {
                json!({"function": function, "metric": name, "sum": self.sum()})
            }
            MetricKind::Gauge => {
                json!({"function": function, "metric": name, "last": self.last()})
            }
            MetricKind::Millis | MetricKind::Size => json!({
                "function": function, "metric": name, "values": self.series.values.len(),
                "p50": self.percentile(50), "p95": self.percentile(95), "max": self.percentile(100),
            }),
        }
    }
}

fn table(totals: &Totals) -> impl Iterator<Item = String> {
    let head = format!(
        "  {:<11} {:<23} {:>9} {:>8} {:>8} {:>8}  meaning",
        "function", "metric", "sum|last", "p50", "p95", "max"
    );
    let row = |row: Row<'_>| {
        let [total, p50, p95, max] = row.columns();
        format!(
            "  {:<11} {:<23} {total:>9} {p50:>8} {p95:>8} {max:>8}  {}",
            row.function,
            row.metric.name(),
            row.metric.meaning()
        )
    };
    let rows: Vec<String> = totals.rows().map(row).collect();
    let foot = format!("  from {} lines", grouped(totals.lines as u64));
    [head].into_iter().chain(rows).chain([foot])
}

/// What the metrics and the tables say of one campaign.
#[derive(Debug)]
struct Book {
    campaign: CampaignId,
    accepted: u64,
    measured: u64,
    counters: u64,
    coupons: Option<u64>,
}

async fn book(
    operator: &Operator,
    campaign: CampaignId,
    measured: BTreeMap<String, u64>,
    scan: bool,
) -> Result<Book, OperatorError> {
    let of = |metric: Metric| measured.get(metric.name()).copied().unwrap_or_default();
    let stock = operator.stock(&campaign).await?;
    let coupons = match scan {
        true => Some(operator.coupons(&campaign).await?.len() as u64),
        false => None,
    };
    Ok(Book {
        accepted: of(Metric::ClaimsAccepted),
        measured: of(Metric::Issued),
        counters: stock.iter().map(|shard: &StoredStock| shard.issued).sum(),
        coupons,
        campaign,
    })
}

impl Book {
    fn agrees(&self) -> bool {
        self.measured == self.counters
            && self.coupons.is_none_or(|coupons| coupons == self.measured)
    }

    fn line(&self) -> String {
        let mark = if self.agrees() { "ok    " } else { "DIFFERS" };
        let coupons = self.coupons.map_or_else(String::new, |coupons| {
            format!(", {} coupons in the table", grouped(coupons))
        });
        format!(
            "  {mark}  campaign {}: {} accepted, {} issued by the metrics, {} by the stock counters{coupons}",
            self.campaign,
            grouped(self.accepted),
            grouped(self.measured),
            grouped(self.counters)
        )
    }

    fn json(&self) -> Value {
        json!({
            "campaignId": self.campaign.as_str(), "accepted": self.accepted, "issued": self.measured,
            "countersIssued": self.counters, "coupons": self.coupons, "agrees": self.agrees(),
        })
    }
}

#[cfg(test)]
mod tests {
    use firstcome_core::Timestamp;

    use super::*;

    const CAMPAIGN: &str = "01J9ZZZZZZ0000000000000000";

    fn line(function: &str, text: String) -> LogLine {
        LogLine {
            function: function.into(),
            at: Timestamp::EPOCH,
            text,
        }
    }

    fn emf(namespace: &str, more: Value) -> String {
        let mut line = json!({"_aws": {"Timestamp": 1, "CloudWatchMetrics": [{"Namespace": namespace, "Dimensions": [["function"]], "Metrics": []}]}});
        for (name, value) in more.as_object().unwrap() {
            line[name] = value.clone();
        }
        line.to_string()
    }

    fn totals() -> Totals {
        let of_campaign = |issued: u64| json!({CAMPAIGN: {"Issued": issued}});
        Totals::of(&[
            line(
                "issue",
                emf(
                    "firstcome",
                    json!({"Issued": 40, "campaigns": of_campaign(40), "ClaimToDecidedMillis": [3, 1, 2]}),
                ),
            ),
            line(
                "issue",
                emf(
                    "firstcome",
                    json!({"Issued": 2, "campaigns": of_campaign(2), "ClaimToDecidedMillis": [100]}),
                ),
            ),
            line("issue", emf("another", json!({"Issued": 1000}))),
            line("refresh", emf("firstcome", json!({"StockDrift": 1.0}))),
            line("refresh", emf("firstcome", json!({"StockDrift": 0.0}))),
            line("issue", "REPORT CloudWatchMetrics".into()),
        ])
    }

    #[test]
    fn counts_add_up_states_are_the_last_and_others_lines_are_none() {
        let totals = totals();
        assert_eq!(totals.lines, 4);
        let columns: Vec<_> = totals
            .rows()
            .map(|row| (row.metric.name(), row.columns()))
            .collect();
        let of = |name| {
            &columns
                .iter()
                .find(|(metric, _)| *metric == name)
                .unwrap()
                .1
        };
        assert_eq!(of("Issued")[0], "42");
        assert_eq!(of("StockDrift")[0], "0.0");
        assert_eq!(of("ClaimToDecidedMillis")[1..], ["2", "100", "100"]);
    }

    #[test]
    fn a_campaigns_book_agrees_only_if_all_three_do() {
        let (campaign, measured) = totals().chosen(None).remove(0);
        let book = |counters, coupons| Book {
            campaign: campaign.clone(),
            accepted: 50,
            measured: measured["Issued"],
            counters,
            coupons,
        };
        assert!(book(42, None).agrees() && book(42, Some(42)).agrees());
        assert!(!book(41, None).agrees() && !book(42, Some(43)).agrees());
        assert!(book(41, None).line().contains("DIFFERS"));
    }
}
