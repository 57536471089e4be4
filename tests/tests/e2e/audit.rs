//! The audit after a sale: sound books balance, and a false sold mark does not stay hidden.

use std::time::Duration;

use firstcome_core::aws::operator::{AuditReport, Queue, RawMessage};
use firstcome_core::{Campaign, CampaignId, Damage, Mark};
use firstcome_tests::{Partner, Stack, eventually, raw};

/// Read units per second: the whole table of a test stack in no time.
const RATE: u32 = 10_000;

async fn record(stack: &Stack, campaign: &str) -> Campaign {
    let id = CampaignId::new(campaign).unwrap();
    stack.operator().campaign(&id).await.unwrap()
}

async fn audit(stack: &Stack, campaign: &Campaign) -> AuditReport {
    let report = stack.operator().audit(campaign, RATE, |_| {}).await;
    report.unwrap()
}

/// So many users claim; returns when that many coupons stand.
async fn sell(stack: &Stack, partner: &Partner, campaign: &str, users: usize) {
    let message = |number: usize| {
        let (user, claim) = (format!("user-{number}"), format!("claim-{number}"));
        raw(campaign, partner.claim_message(campaign, &user, &claim))
    };
    let messages: Vec<RawMessage> = (0..users).map(message).collect();
    stack
        .operator()
        .send(Queue::Claims, &messages)
        .await
        .unwrap();
    eventually(
        "every claim is issued",
        Duration::from_secs(240),
        async || (stack.coupons(campaign).await.len() >= users).then_some(()),
    )
    .await;
}

#[tokio::test]
async fn sound_books_balance_in_every_shard() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(2500).await;
    sell(&stack, &partner, &campaign, 150).await;
    let record = record(&stack, &campaign).await;
    let report = audit(&stack, &record).await;
    assert!(report.audit.balances(), "{:?}", report.audit);
    assert_eq!(report.audit.coupons, 150);
    assert_eq!(report.audit.shards.len(), usize::from(record.shards));
    let paid: u64 = report.audit.shards.iter().map(|shard| shard.coupons).sum();
    assert_eq!(paid, 150);
    assert!(report.items >= 150 && report.read_units > 0.0);
}

#[tokio::test]
async fn a_missing_sold_mark_can_be_set_and_a_false_one_is_damage() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    // As many users as coupons: whether a worker saw the last shard run empty, and has set the mark, is chance.
    let campaign = partner.campaign(20).await;
    sell(&stack, &partner, &campaign, 20).await;
    let sold = record(&stack, &campaign).await;
    let report = audit(&stack, &sold).await;
    assert!(report.audit.balances(), "{:?}", report.audit);
    stack.operator().mark_sold(&sold).await.unwrap();
    let report = audit(&stack, &sold).await;
    assert!(report.audit.balances() && !report.audit.sold_mark_missing);

    let unsold = record(&stack, &partner.campaign(20).await).await;
    let marked = stack.operator().mark_sold(&unsold).await;
    assert_eq!(marked.unwrap(), Mark::Set);
    assert_eq!(
        audit(&stack, &unsold).await.audit.damage,
        [Damage::SoldWithStock { remaining: 20 }]
    );
}
