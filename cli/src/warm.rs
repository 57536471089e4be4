//! `firstcome warm`: raises what a table takes at once, before a sale.

use firstcome_core::aws::operator::{Operator, Warmth};
use serde_json::{Value, json};

use crate::arguments::WarmPlan;
use crate::plan::prices::{TAKEN, WARM_READ, WARM_WRITE};
use crate::terminal::{Terminal, grouped};
use crate::{CommandError, Verdict};

pub(crate) async fn run(
    plan: &WarmPlan,
    stack: &str,
    terminal: &Terminal,
) -> Result<Verdict, CommandError> {
    let operator = Operator::find(stack).await?;
    let table = operator.table_name(&plan.table).await?;
    let before = operator.warmth(&table).await?;
    let wanted = before.raised_to(plan.reads.into(), plan.writes.into());
    let usd = cost(before, wanted);
    let told = |after: Warmth, note: Option<&str>| {
        if terminal.speaks_json() {
            terminal.print_json(&as_json(&table, [before, wanted, after], usd, note));
        }
    };

    terminal.say(&format!("  {table} takes {} at once", words(before)));
    if wanted == before {
        terminal.say("  Nothing to raise.");
        told(before, None);
        return Ok(Verdict::Held);
    }
    terminal.say(&format!(
        "  Raising it to {} costs about USD {usd:.2}, once: each unit more at the price of a provisioned unit-hour, which is \
         assumed (list price of us-east-1, {TAKEN}; see {}). It cannot be lowered again.",
        words(wanted),
        WARM_WRITE.page
    ));
    if !plan.yes {
        let message =
            "warm throughput is charged at once and cannot be lowered: add --yes to raise it";
        return Err(CommandError::Usage(message.to_owned()));
    }
    let after = operator.warm(&table, wanted).await?;
    if operator.is_local() {
        let note = "The local AWS takes the request and keeps nothing of it: nothing was warmed, nothing is charged.";
        terminal.say(&format!("  {note}"));
        told(after, Some(note));
    } else {
        terminal.say(&format!("  Done: it takes {} at once", words(after)));
        told(after, None);
    }
    Ok(Verdict::Held)
}

/// What the raise costs once, in USD.
fn cost(before: Warmth, wanted: Warmth) -> f64 {
    let more = |wanted: u64, before: u64| wanted.saturating_sub(before) as f64;
    more(wanted.writes, before.writes) * WARM_WRITE.usd
        + more(wanted.reads, before.reads) * WARM_READ.usd
}

fn words(warmth: Warmth) -> String {
    let (writes, reads) = (grouped(warmth.writes), grouped(warmth.reads));
    format!("{writes} writes/s and {reads} reads/s")
}

fn as_json(
    table: &str,
    [before, wanted, after]: [Warmth; 3],
    usd: f64,
    note: Option<&str>,
) -> Value {
    let units = |warmth: Warmth| json!({"writes": warmth.writes, "reads": warmth.reads});
    json!({
        "table": table,
        "before": units(before),
        "wanted": units(wanted),
        "after": units(after),
        "usd": usd,
        "note": note,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_added_costs() {
        let before = Warmth {
            reads: 12_000,
            writes: 4_000,
            is_settled: true,
        };
        assert_eq!(cost(before, before), 0.0);
        // 96,000 write units at 0.00065 and 10,000 read units at 0.00013 USD.
        let usd = cost(before, before.raised_to(22_000, 100_000));
        assert!((usd - 63.7).abs() < 1e-9, "{usd}");
    }
}
