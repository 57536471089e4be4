//! The page for a capacity review, and the same as one JSON object. Pure.

use std::fmt::Write;

use firstcome_core::MEMBERSHIP_SHARDS;
use serde_json::{Value, json};

use super::cost::transactions;
use super::sizing::{self, PATIENCE_SECONDS, Reservations};
use super::{Plan, Scenario, limits, prices};
use crate::terminal::grouped;

/// A line of the two columns: what, today, with the quotas granted.
type Row = (String, fn(&Plan, &Scenario) -> String);

/// For people.
pub(super) fn text(plan: &Plan) -> String {
    let mut page = String::new();
    let load = &plan.load;
    let part = |page: &mut String, text: String| {
        page.push_str(&text);
        page.push('\n');
    };
    part(
        &mut page,
        format!(
            "\nCapacity: {} users, {} coupons, first claims within {:.0} s (half of them within {:.1} s)\n",
            number(load.users.into()),
            number(load.stock.into()),
            load.window_seconds,
            load.window_seconds / 8.0
        ),
    );
    part(&mut page, columns(plan));
    part(&mut page, requests(plan));
    part(&mut page, strains(plan));
    part(&mut page, costs(plan));
    part(&mut page, footnotes(plan));
    page
}

fn columns(plan: &Plan) -> String {
    let rows: Vec<Row> = vec![
        ("expected".into(), |_, _| String::new()),
        ("  the crowd has come in after".into(), |_, s| {
            seconds(s.gathering_seconds)
        }),
        ("  claims in the busiest second".into(), |p, _| {
            number(sizing::peak(&p.load))
        }),
        ("  claim → answer, p50".into(), |_, s| {
            wait(s.outcome.percentile(50))
        }),
        ("  claim → answer, p95".into(), |_, s| {
            wait(s.outcome.percentile(95))
        }),
        ("  claim → answer, p99".into(), |_, s| {
            wait(s.outcome.percentile(99))
        }),
        ("  sold out after".into(), |_, s| {
            s.outcome.sold_at.map_or("never".to_owned(), seconds)
        }),
        ("  everybody answered after".into(), |_, s| {
            if s.outcome.unanswered == 0 {
                seconds(s.outcome.ended_at)
            } else {
                "not in 6 h".to_owned()
            }
        }),
        ("  an announcement reaches all after".into(), |_, s| {
            seconds(s.announcing_seconds)
        }),
        ("    at the quota, with no other traffic".into(), |p, s| {
            seconds(((f64::from(p.load.users) - s.quotas.burst) / s.quotas.requests).max(0.0))
        }),
        ("  decided by workers / at the door".into(), |_, s| {
            format!(
                "{} / {}",
                count(s.outcome.queued),
                count(s.outcome.at_the_door)
            )
        }),
        ("  frames refused and sent again".into(), |_, s| {
            count(s.outcome.refused)
        }),
        ("  deepest queue".into(), |_, s| {
            count(s.outcome.deepest as u64)
        }),
        ("parameters of the stack".into(), |_, _| String::new()),
        ("  ClaimRequestsPerSecond".into(), |_, s| {
            number(s.settings.claims)
        }),
        ("  BroadcastRequestsPerSecond".into(), |_, s| {
            number(s.settings.posts_per_worker)
        }),
        ("  ClaimBatchSize".into(), |_, s| {
            number(s.settings.batch as f64)
        }),
        ("  ClaimBatchWindowSeconds".into(), |_, s| {
            number(s.settings.window_seconds)
        }),
        ("  DoorReservedConcurrency".into(), |_, s| {
            reserved(s, |to| to.door)
        }),
        ("  ApiReservedConcurrency".into(), |_, s| {
            reserved(s, |to| to.api)
        }),
        ("  IssueReservedConcurrency".into(), |_, s| {
            reserved(s, |to| to.issue)
        }),
        ("  BroadcastReservedConcurrency".into(), |_, s| {
            reserved(s, |to| to.broadcast)
        }),
        ("by command, before the sale".into(), |_, _| String::new()),
        ("  firstcome pollers on --min".into(), |_, s| {
            number(s.settings.pollers)
        }),
        ("  firstcome warm --writes".into(), |_, s| {
            number(s.settings.warm_writes)
        }),
    ];
    let mut table = format!("{:<40} {:>20}", "", "with today's quotas");
    if plan.granted.is_some() {
        let _ = write!(table, " {:>20}", "with those below");
    }
    table.push('\n');
    for (what, cell) in rows {
        let line = match &plan.granted {
            Some(granted) => format!(
                "{what:<40} {:>20} {:>20}",
                cell(plan, &plan.today),
                cell(plan, granted)
            ),
            None => format!("{what:<40} {:>20}", cell(plan, &plan.today)),
        };
        table.push_str(line.trim_end());
        table.push('\n');
    }
    let _ = writeln!(
        table,
        "  stock: {} shard(s), {} transactions of up to {} coupons; {MEMBERSHIP_SHARDS} pages per announcement",
        plan.shards,
        number(transactions(plan.load.stock, &plan.today.settings).into()),
        plan.today.settings.chunk(),
    );
    table
}

/// What to reserve for one kind of function; 0, which reserves none, where the account's quota does not hold all of them.
fn reservation(scenario: &Scenario, of: impl Fn(Reservations) -> f64) -> f64 {
    sizing::reservations(&scenario.settings, &scenario.quotas).map_or(0.0, of)
}

fn reserved(scenario: &Scenario, of: impl Fn(Reservations) -> f64) -> String {
    number(reservation(scenario, of))
}

fn requests(plan: &Plan) -> String {
    let Some(granted) = &plan.granted else {
        return format!(
            "Quotas to request: none. Everybody is let in {PATIENCE_SECONDS:.0} s after the window at the latest.\n"
        );
    };
    let (have, ask) = (&plan.today.quotas, &granted.quotas);
    let mut text = format!(
        "Quotas to request, to let everybody in {PATIENCE_SECONDS:.0} s after the window\n"
    );
    for (what, have, ask) in [
        (
            "API Gateway: requests/s of the account",
            have.requests,
            ask.requests,
        ),
        (
            "  and their burst (AWS sets it with the rate)",
            have.burst,
            ask.burst,
        ),
        (
            "API Gateway: new WebSocket connections/s",
            have.connections,
            ask.connections,
        ),
        (
            "Lambda: concurrent executions",
            have.concurrency,
            ask.concurrency,
        ),
        (
            "DynamoDB: write units/s of a table",
            have.table_writes,
            ask.table_writes,
        ),
    ] {
        if ask > have {
            let _ = writeln!(
                text,
                "  {what:<46} {:>9} → {:>9}",
                number(have),
                number(ask)
            );
        }
    }
    text
}

fn strains(plan: &Plan) -> String {
    let mut text =
        String::from("Where it breaks first (needed of what there is; above 1 it does)\n");
    for (name, scenario) in scenarios(plan) {
        let _ = writeln!(text, "  {name}");
        for strain in scenario.strains.iter().take(5) {
            let _ = writeln!(
                text,
                "    {:>6.2}  {:<44} {} of {} {}",
                strain.share(),
                strain.what,
                number(strain.needed),
                number(strain.there_is),
                strain.unit
            );
            if strain.share() > 1.0 {
                let _ = writeln!(text, "            {}", strain.then);
            }
        }
    }
    text
}

fn costs(plan: &Plan) -> String {
    let (name, scenario) = scenarios(plan).pop().unwrap_or(("", &plan.today));
    let mut text = format!(
        "Cost of the sale, {name}: USD {:.2} (us-east-1, on demand, list prices of {}: check them)\n",
        scenario.total_usd(),
        prices::TAKEN
    );
    for line in &scenario.bill {
        let _ = writeln!(
            text,
            "  {:>9.2}  {:<26} {:>16}   {}",
            line.usd,
            line.what,
            number(line.number),
            line.page
        );
    }
    for (what, page) in prices::NOT_INCLUDED {
        let _ = writeln!(text, "          + {what}: {page}");
    }
    text
}

fn footnotes(plan: &Plan) -> String {
    let mut text = String::from("Computed from\n");
    for figure in limits::ALL {
        let value = if figure.value < 1.0 {
            format!("{}", figure.value)
        } else {
            number(figure.value)
        };
        let _ = writeln!(text, "  {value:>9}  {} [{}]", figure.what, figure.source);
    }
    if plan.measured {
        text.push_str(
            "  Rates given with --measured took the place of computed ones in the simulation.\n",
        );
    }
    text.push_str("docs/capacity.md has the formulas, and what they leave out.");
    text
}

fn scenarios(plan: &Plan) -> Vec<(&'static str, &Scenario)> {
    let granted = plan
        .granted
        .iter()
        .map(|granted| ("with the quotas granted", granted));
    [("with today's quotas", &plan.today)]
        .into_iter()
        .chain(granted)
        .collect()
}

/// For programs.
pub(super) fn json(plan: &Plan) -> Value {
    json!({
        "users": plan.load.users,
        "stock": plan.load.stock,
        "windowSeconds": plan.load.window_seconds,
        "shards": plan.shards,
        "today": scenario_json(&plan.today),
        "granted": plan.granted.as_ref().map(scenario_json),
        "pricesTaken": prices::TAKEN,
    })
}

fn scenario_json(scenario: &Scenario) -> Value {
    let (quotas, settings, outcome) = (&scenario.quotas, &scenario.settings, &scenario.outcome);
    let strains = scenario.strains.iter().map(
        |strain| json!({"what": strain.what, "needed": strain.needed, "thereIs": strain.there_is, "unit": strain.unit}),
    );
    let bill = scenario.bill.iter().map(
        |line| json!({"what": line.what, "number": line.number, "usd": line.usd, "page": line.page}),
    );
    let curve = outcome.curve.iter().map(
        |(second, arrived, answered)| json!({"second": second, "arrived": arrived, "answered": answered}),
    );
    json!({
        "quotas": {
            "requestsPerSecond": quotas.requests, "burst": quotas.burst, "newConnectionsPerSecond": quotas.connections,
            "concurrentExecutions": quotas.concurrency, "tableWritesPerSecond": quotas.table_writes,
        },
        "parameters": {
            "ClaimRequestsPerSecond": settings.claims, "BroadcastRequestsPerSecond": settings.posts_per_worker,
            "ClaimBatchSize": settings.batch, "ClaimBatchWindowSeconds": settings.window_seconds,
            "DoorReservedConcurrency": reservation(scenario, |to| to.door), "ApiReservedConcurrency": reservation(scenario, |to| to.api),
            "IssueReservedConcurrency": reservation(scenario, |to| to.issue),
            "BroadcastReservedConcurrency": reservation(scenario, |to| to.broadcast),
        },
        "pollers": settings.pollers,
        "warmWritesPerSecond": settings.warm_writes,
        "couponsPerTransaction": settings.chunk(),
        "gatheringSeconds": scenario.gathering_seconds,
        "announcingSeconds": scenario.announcing_seconds,
        "answerSeconds": {
            "p50": outcome.percentile(50), "p95": outcome.percentile(95), "p99": outcome.percentile(99),
        },
        "soldOutSeconds": outcome.sold_at,
        "answeredSeconds": (outcome.unanswered == 0).then_some(outcome.ended_at),
        "unanswered": outcome.unanswered,
        "decidedByWorkers": outcome.queued,
        "answeredAtTheDoor": outcome.at_the_door,
        "framesRefused": outcome.refused,
        "deepestQueue": outcome.deepest,
        "curve": curve.collect::<Vec<_>>(),
        "strains": strains.collect::<Vec<_>>(),
        "bill": bill.collect::<Vec<_>>(),
        "usd": scenario.total_usd(),
    })
}

/// How long a user waits, or that it is in vain.
fn wait(value: Option<f64>) -> String {
    value.map_or_else(|| "not answered".to_owned(), seconds)
}

fn seconds(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2} s"),
        v if v < 600.0 => format!("{v:.0} s"),
        v => format!("{:.0} min", v / 60.0),
    }
}

fn count(value: u64) -> String {
    grouped(value)
}

fn number(value: f64) -> String {
    if value > 0.0 && value < 10.0 && value.fract() > 0.0 {
        return format!("{value:.1}");
    }
    grouped(value.round().max(0.0) as u64)
}
