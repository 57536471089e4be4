//! `firstcome audit`: whether a campaign's coupons are those that its counters have paid for. What is damage, and what may
//! be repaired, is the domain's to say.

use std::time::Instant;

use firstcome_core::aws::operator::{AuditReport, Operator};
use firstcome_core::{
    Audit, AuditedShard, Campaign, Clock, SystemClock, Timestamp, auditable_until,
};
use serde_json::{Value, json};

use crate::arguments::AuditPlan;
use crate::terminal::{Terminal, grouped};
use crate::{CommandError, Verdict};

pub(crate) async fn run(
    plan: &AuditPlan,
    stack: &str,
    terminal: &Terminal,
) -> Result<Verdict, CommandError> {
    let operator = Operator::find(stack).await?;
    let campaign = operator.campaign(&plan.campaign).await?;
    refuse_if_too_late(&campaign, SystemClock.now())?;

    let started = Instant::now();
    let meter = terminal.meter("scan", "coupons", campaign.total.into());
    let progress = |coupons| meter.set(coupons);
    let report = operator.audit(&campaign, plan.rate, progress).await?;
    meter.finish(&format!(
        "{} items read, {} read units at {} a second",
        grouped(report.items),
        grouped(report.read_units.ceil() as u64),
        grouped(plan.rate.into())
    ));

    let repaired = plan.repair && report.audit.sold_mark_missing;
    if repaired {
        operator.mark_sold(&campaign).await?;
    }
    if terminal.speaks_json() {
        let seconds = started.elapsed().as_secs_f64();
        terminal.print_json(&audit_json(&campaign, &report, seconds, repaired));
    }
    for line in table(&campaign, &report.audit, repaired) {
        terminal.say(&line);
    }
    Ok(if report.audit.balances() {
        Verdict::Held
    } else {
        Verdict::Broken
    })
}

/// Coupons begin to vanish by their age a while after the campaign; then they cannot be counted any more.
fn refuse_if_too_late(campaign: &Campaign, now: Timestamp) -> Result<(), CommandError> {
    let until = auditable_until(campaign);
    if now < until {
        return Ok(());
    }
    let message = format!(
        "the campaign's coupons could be counted until {until}; since then they vanish by their age"
    );
    Err(CommandError::Usage(message))
}

fn table(campaign: &Campaign, audit: &Audit, repaired: bool) -> Vec<String> {
    let row = |shard: &str, numbers: [u64; 4], good: bool| {
        let [quota, remaining, issued, coupons] = numbers.map(grouped);
        let mark = if good { "ok" } else { "DIFFERS" };
        format!("  {shard:>5}  {quota:>10}  {remaining:>10}  {issued:>10}  {coupons:>10}  {mark}")
    };
    let mut lines = vec![
        String::new(),
        format!(
            "  {:>5}  {:>10}  {:>10}  {:>10}  {:>10}",
            "shard", "quota", "remaining", "issued", "coupons"
        ),
    ];
    let mut sum = [0; 4];
    for shard in &audit.shards {
        let numbers = numbers(shard);
        sum = std::array::from_fn(|at| sum[at] + numbers[at]);
        lines.push(row(
            &shard.stock.shard.to_string(),
            numbers,
            adds_up(numbers),
        ));
    }
    let good = adds_up(sum) && sum[0] == u64::from(campaign.total) && sum[3] == audit.coupons;
    sum[3] = audit.coupons;
    lines.push(row("all", sum, good));
    lines.push(String::new());
    lines.extend(
        audit
            .damage
            .iter()
            .map(|damage| format!("  DAMAGE  {damage}")),
    );
    lines.extend(remarks(audit, repaired).map(|remark| format!("  {remark}")));
    lines
}

fn remarks(audit: &Audit, repaired: bool) -> impl Iterator<Item = &'static str> {
    let mark = match (audit.sold_mark_missing, repaired) {
        (true, true) => Some("The sold mark was missing and is set now."),
        (true, false) => Some(
            "The sold mark is missing: everybody is answered rightly, but doors still queue claims. --repair sets it.",
        ),
        (false, _) => None,
    };
    let verdict = if !audit.damage.is_empty() {
        "The books do NOT balance. Nothing of it can be repaired safely; point-in-time recovery shows what happened."
    } else if audit.moving {
        "Coupons were issued during the count: no damage was found, but nothing is proved. Audit again after the sale."
    } else {
        "The books balance."
    };
    mark.into_iter().chain([verdict])
}

/// Quota, remaining, issued, coupons.
fn numbers(shard: &AuditedShard) -> [u64; 4] {
    let stock = shard.stock;
    [
        stock.quota.into(),
        stock.remaining.into(),
        stock.issued.into(),
        shard.coupons,
    ]
}

fn adds_up([quota, remaining, issued, coupons]: [u64; 4]) -> bool {
    remaining + issued == quota && issued == coupons
}

fn audit_json(campaign: &Campaign, report: &AuditReport, seconds: f64, repaired: bool) -> Value {
    let audit = &report.audit;
    let shard = |shard: &AuditedShard| {
        let [quota, remaining, issued, coupons] = numbers(shard);
        json!({"shard": shard.stock.shard, "quota": quota, "remaining": remaining, "issued": issued, "coupons": coupons})
    };
    json!({
        "campaignId": campaign.campaign_id.as_str(),
        "partnerId": campaign.partner_id.as_str(),
        "total": campaign.total,
        "coupons": audit.coupons,
        "balanced": audit.balances(),
        "moving": audit.moving,
        "damage": audit.damage.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "shards": audit.shards.iter().map(shard).collect::<Vec<_>>(),
        "soldMarkMissing": audit.sold_mark_missing && !repaired,
        "repaired": repaired,
        "itemsRead": report.items,
        "readUnits": report.read_units,
        "seconds": seconds,
    })
}

#[cfg(test)]
mod tests {
    use firstcome_core::{
        CampaignId, Damage, NewCampaign, PartnerId, RETENTION_SECONDS, StockShard,
    };

    use super::*;

    fn campaign(total: u32, closes_at: Timestamp) -> Campaign {
        let created_at = closes_at.plus_seconds(-60);
        let new = NewCampaign {
            title: "t".into(),
            total,
            opens_at: None,
            closes_at: Some(closes_at),
            coupon_ttl_seconds: None,
            benefit: None,
            shards: None,
            priority: None,
        };
        let (id, partner) = (
            CampaignId::mint(created_at, 1),
            PartnerId::new("acme").unwrap(),
        );
        new.into_campaign(id, partner, created_at).unwrap()
    }

    fn audit(issued: u32, coupons: u64, damage: Vec<Damage>) -> Audit {
        let stock = StockShard {
            shard: 0,
            remaining: 5 - issued,
            issued,
            quota: 5,
            closed_at: None,
        };
        Audit {
            shards: vec![AuditedShard { stock, coupons }],
            coupons,
            damage,
            moving: false,
            sold_mark_missing: false,
        }
    }

    #[test]
    fn the_table_marks_the_shard_that_differs_and_names_the_damage() {
        let campaign = campaign(5, Timestamp::from_millis(1_790_000_000_000));
        let good = table(&campaign, &audit(3, 3, vec![]), false).join("\n");
        assert!(
            good.contains("The books balance.") && !good.contains("DIFFERS"),
            "{good}"
        );
        let damage = vec![Damage::CouponsDiffer {
            shard: 0,
            issued: 3,
            coupons: 4,
        }];
        let bad = table(&campaign, &audit(3, 4, damage), false).join("\n");
        assert_eq!(
            bad.matches("DIFFERS").count(),
            2,
            "the shard and the sum: {bad}"
        );
        assert!(
            bad.contains("DAMAGE  shard 0: 3 issued, but 4 coupons stand"),
            "{bad}"
        );
        assert!(bad.contains("do NOT balance"), "{bad}");
    }

    #[test]
    fn coupons_that_may_have_vanished_are_not_counted() {
        let closes_at = Timestamp::from_millis(1_790_000_000_000);
        let campaign = campaign(5, closes_at);
        let until = closes_at.plus_seconds(RETENTION_SECONDS);
        for (millis, is_counted) in [(-1, true), (0, false), (1, false)] {
            let now = Timestamp::from_millis(until.millis() + millis);
            let judged = refuse_if_too_late(&campaign, now);
            assert_eq!(judged.is_ok(), is_counted, "{millis}");
        }
    }
}
