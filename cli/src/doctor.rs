//! `firstcome doctor`: whether a deployed stack is as its template, and a planned sale, want it. What is a fault is the
//! library's to say; here it becomes a line each.

use firstcome_core::aws::operator::{AccountQuotas, Finding, Health, Needs, Operator};
use serde_json::{Value, json};

use crate::arguments::{CapacityPlan, DoctorPlan, PlannedSale};
use crate::terminal::Terminal;
use crate::{CommandError, Verdict, plan};

/// So many resources are named in a line; the others are counted.
const NAMED: usize = 3;

pub(crate) async fn run(
    wanted: &DoctorPlan,
    stack: &str,
    terminal: &Terminal,
) -> Result<Verdict, CommandError> {
    let operator = Operator::find(stack).await?;
    let needs = match &wanted.sale {
        Some(sale) => Some(needs_of(sale, &operator.quotas().await)?),
        None => None,
    };
    let findings = operator.examine(needs.as_ref()).await?;
    let is_healthy = findings.iter().all(|one| one.health != Health::Bad);
    if terminal.speaks_json() {
        let checks: Vec<Value> = findings.iter().map(as_json).collect();
        terminal.print_json(&json!({"stack": stack, "healthy": is_healthy, "checks": checks}));
    }
    for finding in &findings {
        terminal.say(&line(finding));
    }
    terminal.say(&summary(&findings));
    Ok(if is_healthy {
        Verdict::Held
    } else {
        Verdict::Broken
    })
}

/// What the sale needs under the quotas that the account has; where they do not suffice, of those to ask for.
fn needs_of(sale: &PlannedSale, quotas: &AccountQuotas) -> Result<Needs, CommandError> {
    let known = [
        ("requests", quotas.requests),
        ("burst", quotas.burst),
        ("connections", quotas.connections),
        ("concurrency", quotas.concurrency),
        ("table-writes", quotas.table_writes),
    ];
    let known = known.into_iter();
    let plan = CapacityPlan {
        users: sale.users,
        stock: sale.stock,
        window_seconds: sale.window_seconds,
        region_quota: known
            .filter_map(|(name, quota)| Some((name.to_owned(), quota?)))
            .collect(),
        measured: Vec::new(),
        seed: 1,
    };
    plan::needs(&plan).map_err(CommandError::Usage)
}

fn line(finding: &Finding) -> String {
    let subjects = &finding.subjects;
    let named = subjects
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let more = match subjects.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let remedy = match &finding.remedy {
        Some(remedy) => format!(" → {remedy}"),
        None => String::new(),
    };
    format!(
        "  {:<8} {:<24} {named}{more}: {}{remedy}",
        finding.health.as_str(),
        finding.check,
        finding.detail
    )
}

fn summary(findings: &[Finding]) -> String {
    let count = |health| {
        let such = findings.iter().filter(|one| one.health == health);
        such.map(|one| one.subjects.len()).sum::<usize>()
    };
    let (good, bad, unknown) = (
        count(Health::Good),
        count(Health::Bad),
        count(Health::Unknown),
    );
    match bad {
        0 => format!("\n  Nothing is wrong: {good} ok, {unknown} unknown."),
        _ => format!("\n  Something is wrong: {bad} bad, {good} ok, {unknown} unknown."),
    }
}

fn as_json(finding: &Finding) -> Value {
    json!({
        "check": finding.check,
        "subjects": finding.subjects,
        "health": finding.health.as_str().to_ascii_lowercase(),
        "detail": finding.detail,
        "remedy": finding.remedy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(health: Health, subjects: usize, remedy: Option<&str>) -> Finding {
        Finding {
            check: "event source",
            subjects: (0..subjects).map(|number| format!("S{number}")).collect(),
            health,
            detail: "is disabled".into(),
            remedy: remedy.map(str::to_owned),
        }
    }

    #[test]
    fn a_line_says_the_verdict_the_subject_and_what_to_do() {
        assert_eq!(
            line(&finding(Health::Bad, 1, Some("enable it"))),
            "  BAD      event source             S0: is disabled → enable it"
        );
        assert_eq!(
            line(&finding(Health::Good, 5, None)),
            "  ok       event source             S0, S1, S2 and 2 more: is disabled"
        );
    }

    #[test]
    fn the_summary_counts_resources() {
        let findings = [
            finding(Health::Good, 4, None),
            finding(Health::Unknown, 2, None),
        ];
        assert_eq!(
            summary(&findings).trim(),
            "Nothing is wrong: 4 ok, 2 unknown."
        );
        let bad = [finding(Health::Bad, 1, None)];
        assert_eq!(
            summary(&bad).trim(),
            "Something is wrong: 1 bad, 0 ok, 0 unknown."
        );
    }

    #[test]
    fn a_sale_is_planned_with_the_quotas_that_the_account_has() {
        let sale = PlannedSale {
            users: 1_000_000,
            stock: 100_000,
            window_seconds: 60,
        };
        let small = needs_of(&sale, &AccountQuotas::default()).unwrap();
        let generous = AccountQuotas {
            requests: Some(200_000.0),
            burst: Some(100_000.0),
            connections: Some(5_000.0),
            concurrency: Some(50_000.0),
            table_writes: Some(400_000.0),
        };
        let large = needs_of(&sale, &generous).unwrap();
        assert!(small.requests > 10_000.0, "{small:?}");
        assert_eq!(large.requests, 200_000.0);
        assert!(large.pollers >= 2);
    }
}
