//! Issuance on the memory ledger: every step of the protocol, met with what can go wrong there.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::memory::{Fault, MemoryClock, MemoryEntropy, MemoryLedger, sample_campaign};
use crate::{ClaimId, MAX_CHUNK, Outcome, PartnerId, Timestamp};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

type MemoryIssuer = Issuer<MemoryLedger, MemoryLedger, MemoryClock, MemoryEntropy>;

fn issuer(ledger: &MemoryLedger) -> MemoryIssuer {
    Issuer::new(
        ledger.clone(),
        ledger.clone(),
        MemoryClock::at(NOW),
        MemoryEntropy::seeded(7),
    )
}

fn open(total: u32) -> (MemoryLedger, Campaign) {
    let (ledger, campaign) = (MemoryLedger::default(), sample_campaign(total, NOW));
    ledger.add(&campaign);
    (ledger, campaign)
}

fn claim(campaign: &Campaign, user: &str, claim_id: &str) -> Claim {
    Claim {
        claim_id: ClaimId::new(claim_id).unwrap(),
        partner_id: campaign.partner_id.clone(),
        campaign_id: campaign.campaign_id.clone(),
        user_id: UserId::new(user).unwrap(),
        requested_at: NOW,
        sent_at: NOW,
        connection_id: None,
        trace: None,
    }
}

fn claims(campaign: &Campaign, users: std::ops::Range<u32>) -> Vec<Claim> {
    users
        .map(|n| claim(campaign, &format!("user-{n}"), &format!("claim-{n}")))
        .collect()
}

async fn decide(issuer: &MemoryIssuer, claims: &[Claim]) -> Vec<Option<Outcome>> {
    let decisions = issuer
        .decide(claims, Instant::now() + Duration::from_secs(7))
        .await;
    let outcome = |(claim, verdict): (&Claim, &Option<Verdict>)| {
        Some(verdict.as_ref()?.outcome_for(&claim.claim_id))
    };
    claims
        .iter()
        .zip(&decisions.verdicts)
        .map(outcome)
        .collect()
}

fn count(outcomes: &[Option<Outcome>], outcome: Outcome) -> usize {
    outcomes.iter().filter(|one| **one == Some(outcome)).count()
}

/// I1, I2 and I4: the books balance, and no user holds two.
fn assert_books(ledger: &MemoryLedger, campaign: &Campaign, issued: usize) {
    let coupons = ledger.coupons(&campaign.campaign_id);
    assert_eq!(coupons.len(), issued);
    let users: BTreeSet<&UserId> = coupons.iter().map(|coupon| &coupon.user_id).collect();
    assert_eq!(users.len(), issued, "one per user");
    let mut sum = 0;
    for shard in ledger.shards(&campaign.campaign_id) {
        assert_eq!(shard.remaining + shard.issued, shard.quota);
        let taken = coupons
            .iter()
            .filter(|coupon| coupon.shard == shard.shard)
            .count();
        assert_eq!(taken, shard.issued as usize, "shard {}", shard.shard);
        sum += shard.quota;
    }
    assert_eq!(sum, campaign.total);
}

#[tokio::test(start_paused = true)]
async fn exactly_the_stock_is_issued_and_the_rest_is_sold_out() {
    for (total, users) in [
        (1, 64),
        (300, 1000),
        (500, 200),
        (2500, 3000),
        (99, 100),
        (7, 7),
    ] {
        let (ledger, campaign) = open(total);
        let outcomes = decide(&issuer(&ledger), &claims(&campaign, 0..users)).await;
        let winners = total.min(users) as usize;
        assert_eq!(count(&outcomes, Outcome::Issued), winners);
        assert_eq!(count(&outcomes, Outcome::SoldOut), users as usize - winners);
        assert_books(&ledger, &campaign, winners);
    }
}

#[tokio::test(start_paused = true)]
async fn many_workers_at_once_issue_exactly_the_stock() {
    let (ledger, campaign) = open(2500);
    let workers: Vec<_> = (0..16).map(|_| issuer(&ledger)).collect();
    let batches: Vec<_> = (0..16)
        .map(|n| claims(&campaign, n * 200..(n + 1) * 200))
        .collect();
    let decided = workers
        .iter()
        .zip(&batches)
        .map(|(worker, batch)| decide(worker, batch));
    let outcomes: Vec<_> = futures_util::future::join_all(decided).await.concat();
    assert_eq!(count(&outcomes, Outcome::Issued), 2500);
    assert_eq!(count(&outcomes, Outcome::SoldOut), 700);
    assert_books(&ledger, &campaign, 2500);
}

#[tokio::test(start_paused = true)]
async fn any_stock_over_any_number_of_shards_is_sold_exactly() {
    for (total, shards, users) in [
        (1, 1, 64),
        (1, 64, 64),
        (3, 64, 12),
        (10, 3, 40),
        (1000, 7, 1200),
    ] {
        let (ledger, mut campaign) = (MemoryLedger::default(), sample_campaign(total, NOW));
        campaign.shards = shards;
        ledger.add(&campaign);
        let all = claims(&campaign, 0..users);
        let workers: Vec<MemoryIssuer> = (0..4).map(|_| issuer(&ledger)).collect();
        let batches = all.chunks(all.len() / 4);
        let decided = batches
            .zip(&workers)
            .map(|(batch, worker)| decide(worker, batch));
        let outcomes = futures_util::future::join_all(decided).await.concat();
        let won = usize::try_from(total.min(users)).unwrap();
        assert_eq!(
            count(&outcomes, Outcome::Issued),
            won,
            "{total} over {shards}"
        );
        assert_eq!(
            count(&outcomes, Outcome::SoldOut),
            all.len() - won,
            "{total} over {shards}"
        );
        assert_books(&ledger, &campaign, won);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_costs_one_transaction_per_99_coupons() {
    let (ledger, campaign) = open(1000);
    decide(&issuer(&ledger), &claims(&campaign, 0..1000)).await;
    assert_eq!(ledger.issue_calls(), 1000_usize.div_ceil(MAX_CHUNK));
}

#[tokio::test(start_paused = true)]
async fn losers_after_the_last_coupon_cost_no_transaction_and_no_stock_read() {
    let (ledger, campaign) = open(10);
    let worker = issuer(&ledger);
    decide(&worker, &claims(&campaign, 0..11)).await;
    let before = (ledger.issue_calls(), ledger.stock_reads());
    let outcomes = decide(&worker, &claims(&campaign, 100..1100)).await;
    assert_eq!(count(&outcomes, Outcome::SoldOut), 1000);
    assert_eq!((ledger.issue_calls(), ledger.stock_reads()), before);
}

#[tokio::test(start_paused = true)]
async fn a_redelivered_claim_gets_the_same_coupon_also_after_the_end() {
    let (ledger, campaign) = open(1);
    let winner = claims(&campaign, 0..1);
    let deadline = Instant::now() + Duration::from_secs(7);
    let first = issuer(&ledger).decide(&winner, deadline).await.verdicts;
    ledger.close(&campaign.campaign_id, NOW);
    let again = issuer(&ledger).decide(&winner, deadline).await.verdicts;
    assert_eq!(first, again);
    assert!(matches!(&first[0], Some(Verdict::Standing(_))));
    let mut late = winner.clone();
    late[0].requested_at = campaign.closes_at;
    late[0].sent_at = campaign.closes_at;
    assert_eq!(
        issuer(&ledger).decide(&late, deadline).await.verdicts,
        first,
        "a coupon stands before the window"
    );
}

#[tokio::test(start_paused = true)]
async fn several_claims_of_one_user_win_one_coupon() {
    let (ledger, campaign) = open(10);
    let batch = [
        claim(&campaign, "u", "a"),
        claim(&campaign, "u", "a"),
        claim(&campaign, "u", "b"),
    ];
    let outcomes = decide(&issuer(&ledger), &batch).await;
    assert_eq!(
        outcomes,
        [
            Some(Outcome::Issued),
            Some(Outcome::Issued),
            Some(Outcome::AlreadyIssued)
        ]
    );
    assert_books(&ledger, &campaign, 1);
    let outcomes = decide(&issuer(&ledger), &[claim(&campaign, "u", "c")]).await;
    assert_eq!(outcomes, [Some(Outcome::AlreadyIssued)]);
}

#[tokio::test(start_paused = true)]
async fn the_earliest_claim_inside_the_window_leads() {
    let (ledger, campaign) = open(10);
    let early = Claim {
        requested_at: NOW.plus_seconds(-1),
        sent_at: NOW.plus_seconds(5),
        ..claim(&campaign, "u", "early")
    };
    let first = Claim {
        requested_at: NOW.plus_seconds(1),
        sent_at: NOW.plus_seconds(5),
        ..claim(&campaign, "u", "z-first")
    };
    let second = Claim {
        requested_at: NOW.plus_seconds(2),
        sent_at: NOW.plus_seconds(5),
        ..claim(&campaign, "u", "a-second")
    };
    let outcomes = decide(&issuer(&ledger), &[second, early, first]).await;
    assert_eq!(
        outcomes,
        [
            Some(Outcome::AlreadyIssued),
            Some(Outcome::AlreadyIssued),
            Some(Outcome::Issued)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_claims_own_time_is_judged_against_the_window() {
    let (ledger, campaign) = open(10);
    let at = |user, requested_at| Claim {
        requested_at,
        sent_at: requested_at,
        ..claim(&campaign, user, "c")
    };
    let future = Claim {
        requested_at: NOW.plus_seconds(61),
        ..claim(&campaign, "future", "c")
    };
    let long_ago = Claim {
        sent_at: NOW.plus_seconds(crate::MAX_BEHIND_SECONDS),
        ..claim(&campaign, "long-ago", "c")
    };
    let batch = [
        at("early", NOW.plus_seconds(-1)),
        at("late", campaign.closes_at),
        at("in", NOW),
        future,
        long_ago,
    ];
    let outcomes = decide(&issuer(&ledger), &batch).await;
    let expected = [
        Outcome::NotOpen,
        Outcome::Closed,
        Outcome::Issued,
        Outcome::Rejected,
        Outcome::Rejected,
    ]
    .map(Some);
    assert_eq!(outcomes, expected);
}

/// A claim that states a time and was taken by the queue at another, in milliseconds after `NOW`.
fn clocked(campaign: &Campaign, user: &str, stated: i64, sent: i64) -> Claim {
    let at = |millis| Timestamp::from_millis(NOW.millis() + millis);
    Claim {
        requested_at: at(stated),
        sent_at: at(sent),
        ..claim(campaign, user, user)
    }
}

#[tokio::test(start_paused = true)]
async fn clocks_a_minute_apart_change_no_verdict_at_either_edge_of_the_window() {
    const MINUTE: i64 = 60_000;
    let (ledger, mut campaign) = (MemoryLedger::default(), sample_campaign(10, NOW));
    campaign.closes_at = NOW.plus_seconds(600);
    ledger.add(&campaign);
    let end = 600_000;
    // What each states, when it was sent, and what it is told.
    let cases = [
        // Fast clocks: the queue's time counts.
        (MINUTE - 1, -1, Outcome::NotOpen),
        (MINUTE, 0, Outcome::Issued),
        (end + MINUTE - 1, end - 1, Outcome::Issued),
        (end + MINUTE, end, Outcome::Closed),
        // Slow clocks, or messages held up on their way: what is stated counts.
        (-1, MINUTE - 1, Outcome::NotOpen),
        (0, MINUTE, Outcome::Issued),
        (end - 1, end + MINUTE - 1, Outcome::Issued),
        (end, end + MINUTE, Outcome::Closed),
        // Beyond a minute ahead, nothing counts.
        (MINUTE + 1, 0, Outcome::Rejected),
        (end + MINUTE, end - 1, Outcome::Rejected),
    ];
    let claims: Vec<Claim> = cases
        .iter()
        .enumerate()
        .map(|(n, (stated, sent, _))| clocked(&campaign, &format!("user-{n}"), *stated, *sent))
        .collect();
    let expected = cases.map(|(.., outcome)| Some(outcome));
    assert_eq!(decide(&issuer(&ledger), &claims).await, expected);
    assert_books(&ledger, &campaign, 4);
}

#[tokio::test(start_paused = true)]
async fn of_a_users_claims_the_one_that_was_made_first_leads_whatever_a_fast_clock_states() {
    let (ledger, campaign) = open(10);
    let first = clocked(&campaign, "u", 40_000, 1000);
    let mut second = clocked(&campaign, "u", 2000, 2000);
    second.claim_id = ClaimId::new("second").unwrap();
    let outcomes = decide(&issuer(&ledger), &[second, first]).await;
    assert_eq!(
        outcomes,
        [Some(Outcome::AlreadyIssued), Some(Outcome::Issued)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_foreign_or_absent_campaign_is_unknown() {
    let (ledger, campaign) = open(10);
    let foreign = Claim {
        partner_id: PartnerId::new("other").unwrap(),
        ..claim(&campaign, "u", "a")
    };
    let absent = Claim {
        campaign_id: crate::CampaignId::mint(NOW, 99),
        ..claim(&campaign, "u", "b")
    };
    let outcomes = decide(&issuer(&ledger), &[foreign, absent]).await;
    assert_eq!(outcomes, [Some(Outcome::UnknownCampaign); 2]);
    assert_books(&ledger, &campaign, 0);
}

#[tokio::test(start_paused = true)]
async fn a_campaign_closed_before_it_opened_says_closed_to_later_claims_and_not_open_to_earlier_ones()
 {
    let (ledger, mut campaign) = (MemoryLedger::default(), sample_campaign(10, NOW));
    campaign.opens_at = NOW.plus_seconds(3600);
    campaign.closes_at = NOW.plus_seconds(7200);
    ledger.add(&campaign);
    let at = |user: &str, seconds| Claim {
        requested_at: NOW.plus_seconds(seconds),
        sent_at: NOW.plus_seconds(seconds),
        ..claim(&campaign, user, user)
    };
    let early = [at("early", 0)];
    let not_open = [Some(Outcome::NotOpen)];
    assert_eq!(decide(&issuer(&ledger), &early).await, not_open);
    use crate::CampaignClosing;
    let id = &campaign.campaign_id;
    ledger.begin_closing(id, NOW.plus_seconds(1)).await.unwrap();
    assert_eq!(
        decide(&issuer(&ledger), &[at("between", 1), at("in-time", 3600)]).await,
        [None, Some(Outcome::Issued)],
        "an unfinished closing decides nothing by itself"
    );
    ledger.close(id, NOW.plus_seconds(2));
    assert_eq!(decide(&issuer(&ledger), &early).await, not_open, "again");
    let later = [at("between", 1), at("later", 2), at("late", 3601)];
    assert_eq!(
        decide(&issuer(&ledger), &later).await,
        [
            Some(Outcome::NotOpen),
            Some(Outcome::Closed),
            Some(Outcome::Closed)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_issued_after_an_early_close() {
    let (ledger, campaign) = open(10);
    ledger.close(&campaign.campaign_id, NOW);
    assert_eq!(
        count(
            &decide(&issuer(&ledger), &claims(&campaign, 0..5)).await,
            Outcome::Closed
        ),
        5
    );
    assert_books(&ledger, &campaign, 0);
}

#[tokio::test(start_paused = true)]
async fn a_loser_is_told_sold_out_also_after_an_early_close() {
    let (ledger, campaign) = open(2);
    let all = claims(&campaign, 0..3);
    let before = decide(&issuer(&ledger), &all).await;
    assert_eq!(count(&before, Outcome::SoldOut), 1);
    ledger.close(&campaign.campaign_id, NOW);
    assert_eq!(decide(&issuer(&ledger), &all).await, before);
}

#[tokio::test(start_paused = true)]
async fn a_worker_surprised_by_the_closing_asks_what_was_left_at_it() {
    let (ledger, campaign) = open(3);
    // The first worker has read three left and meets a conflict; meanwhile another sells them and the campaign is closed.
    ledger.fail_next([Fault::StockBusy]);
    let (late, first) = (claims(&campaign, 0..2), claims(&campaign, 2..5));
    let (mine, other) = (issuer(&ledger), issuer(&ledger));
    let (answers, ()) = tokio::join!(decide(&mine, &late), async {
        decide(&other, &first).await;
        ledger.close(&campaign.campaign_id, NOW);
    });
    assert_eq!(answers, [Some(Outcome::SoldOut); 2]);
    assert_books(&ledger, &campaign, 3);
}

#[tokio::test(start_paused = true)]
async fn the_last_coupon_sells_the_campaign_out_with_nobody_turned_away() {
    let (ledger, campaign) = open(2);
    let decisions = issuer(&ledger)
        .decide(
            &claims(&campaign, 0..2),
            Instant::now() + Duration::from_secs(5),
        )
        .await;
    assert_eq!(decisions.sold_out.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_response_is_settled_by_the_identical_request() {
    for fault in [
        Fault::LostAfterWrite,
        Fault::LostBeforeWrite,
        Fault::Throttled,
        Fault::StockBusy,
        Fault::Unexplained,
    ] {
        let (ledger, campaign) = open(300);
        ledger.fail_next([fault.clone(), fault.clone()]);
        let outcomes = decide(&issuer(&ledger), &claims(&campaign, 0..99)).await;
        assert_eq!(count(&outcomes, Outcome::Issued), 99, "{fault:?}");
        assert_books(&ledger, &campaign, 99);
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_repeat_says_nothing_of_the_first_try() {
    let (ledger, campaign) = open(10);
    ledger.fail_next([Fault::LostAfterWrite, Fault::Throttled]);
    let outcomes = decide(&issuer(&ledger), &claims(&campaign, 0..10)).await;
    assert_eq!(count(&outcomes, Outcome::Issued), 10);
    assert_eq!(
        ledger.issue_calls(),
        3,
        "the identical chunk until it is settled"
    );
    assert_books(&ledger, &campaign, 10);
}

#[tokio::test(start_paused = true)]
async fn what_stays_unknown_is_looked_up_and_the_rest_goes_back() {
    let (ledger, campaign) = open(10);
    ledger
        .fail_next(std::iter::once(Fault::LostAfterWrite).chain(vec![Fault::LostBeforeWrite; 10]));
    let outcomes = decide(&issuer(&ledger), &claims(&campaign, 0..5)).await;
    assert_eq!(
        count(&outcomes, Outcome::Issued),
        5,
        "written, and found by the read"
    );

    let (ledger, campaign) = open(10);
    ledger.fail_next(vec![Fault::LostBeforeWrite; 20]);
    let outcomes = decide(&issuer(&ledger), &claims(&campaign, 0..5)).await;
    assert_eq!(outcomes, [None; 5], "never refused for want of knowledge");
    assert_eq!(ledger.issue_calls(), 5, "once, and four times again");
    assert_books(&ledger, &campaign, 0);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_on_one_coupon_holds_up_nobody_else() {
    let (ledger, campaign) = open(300);
    ledger.fail_next([Fault::CouponBusy(3)]);
    let outcomes = decide(&issuer(&ledger), &claims(&campaign, 0..50)).await;
    assert_eq!(count(&outcomes, Outcome::Issued), 50);
    let sizes: Vec<_> = ledger.asked().into_iter().map(|(_, size)| size).collect();
    assert_eq!(
        sizes,
        [50, 49, 1],
        "refused, the rest at once, the one later"
    );
    assert_books(&ledger, &campaign, 50);
}

#[tokio::test(start_paused = true)]
async fn what_nothing_else_explains_is_laid_to_the_shard_and_others_come_first() {
    for (fault, laid_to_the_shard) in [
        (Fault::StockBusy, true),
        (Fault::Throttled, true),
        (Fault::Unexplained, true),
        (Fault::CouponBusy(0), false),
        (Fault::CouponInvalid(0), false),
    ] {
        let mut same = 0;
        for seed in 0..20 {
            let (ledger, mut campaign) = (MemoryLedger::default(), sample_campaign(100, NOW));
            campaign.shards = 4;
            ledger.add(&campaign);
            ledger.fail_next([fault.clone()]);
            let entropy = MemoryEntropy::seeded(seed);
            let clock = MemoryClock::at(NOW);
            let issuer = Issuer::new(ledger.clone(), ledger.clone(), clock, entropy);
            decide(&issuer, &claims(&campaign, 0..2)).await;
            let asked = ledger.asked();
            same += usize::from(asked[0].0 == asked[1].0);
        }
        assert_eq!(same == 0, laid_to_the_shard, "{fault:?}: {same} of 20");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_can_never_be_stored_is_rejected_alone() {
    let (ledger, campaign) = open(300);
    ledger.fail_next([Fault::CouponInvalid(0)]);
    let outcomes = decide(&issuer(&ledger), &claims(&campaign, 0..50)).await;
    assert_eq!(
        (
            count(&outcomes, Outcome::Rejected),
            count(&outcomes, Outcome::Issued)
        ),
        (1, 49)
    );
    assert_books(&ledger, &campaign, 49);
}

#[tokio::test(start_paused = true)]
async fn a_standing_coupon_in_the_chunk_costs_the_others_nothing() {
    let (ledger, campaign) = open(20);
    let racer = issuer(&ledger);
    decide(&racer, &claims(&campaign, 0..1)).await;
    // The same user wins through another worker after this one has read: the transaction meets the coupon.
    let standing = ledger.coupons(&campaign.campaign_id).remove(0);
    let worker = issuer(&ledger);
    let leaders = claims(&campaign, 0..10);
    let mut sale = Sale::new(&worker, &campaign, Instant::now() + Duration::from_secs(7));
    sale.serve(leaders.iter().collect()).await;
    let (verdicts, tally) = sale.finish();
    assert_eq!(verdicts[&standing.user_id], Verdict::Standing(standing));
    assert_eq!((verdicts.len(), tally.issued), (10, 9));
    assert_books(&ledger, &campaign, 10);
}

#[tokio::test(start_paused = true)]
async fn a_missing_shard_is_damage_and_never_empty() {
    let (ledger, campaign) = open(2500);
    ledger.lose_shard(&campaign.campaign_id, 1);
    assert_eq!(
        decide(&issuer(&ledger), &claims(&campaign, 0..5)).await,
        [None; 5]
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_waits_for_a_read_that_no_write_disturbs() {
    let (ledger, campaign) = open(1);
    let worker = issuer(&ledger);
    decide(&worker, &claims(&campaign, 0..1)).await;
    ledger.confirmations_busy(2);
    assert_eq!(
        decide(&worker, &claims(&campaign, 1..3)).await,
        [Some(Outcome::SoldOut); 2]
    );
    ledger.confirmations_busy(100);
    assert_eq!(decide(&worker, &claims(&campaign, 3..5)).await, [None; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_leaves_everything_undecided() {
    let (ledger, campaign) = open(10);
    ledger.fail(true);
    assert_eq!(
        decide(&issuer(&ledger), &claims(&campaign, 0..3)).await,
        [None; 3]
    );
    ledger.fail(false);
    ledger.fail_next([Fault::Error]);
    assert_eq!(
        decide(&issuer(&ledger), &claims(&campaign, 0..3)).await,
        [None; 3]
    );
}

#[tokio::test(start_paused = true)]
async fn deciding_ends_at_the_deadline() {
    let (ledger, campaign) = open(10);
    ledger.fail_next(vec![Fault::StockBusy; 10_000]);
    let started = Instant::now();
    let worker = issuer(&ledger);
    let batch = claims(&campaign, 0..3);
    let decisions = worker
        .decide(&batch, started + Duration::from_secs(2))
        .await;
    assert_eq!(decisions.verdicts, [None, None, None]);
    assert!(started.elapsed() <= Duration::from_millis(2100));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_come_sends_nothing() {
    let (ledger, campaign) = open(10);
    let decisions = issuer(&ledger)
        .decide(&claims(&campaign, 0..3), Instant::now())
        .await;
    assert_eq!(decisions.verdicts, [None, None, None]);
    assert_eq!((ledger.issue_calls(), decisions.transactions), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_takes_too_long_is_given_up() {
    let (ledger, campaign) = open(10);
    ledger.fail_next([Fault::Hangs]);
    ledger.reads_take(Duration::from_secs(5));
    let (started, deadline) = (Instant::now(), Duration::from_secs(6));
    let decisions = issuer(&ledger)
        .decide(&claims(&campaign, 0..3), started + deadline)
        .await;
    assert_eq!(decisions.verdicts, [None, None, None]);
    assert_eq!(started.elapsed(), deadline + LOOK_UP_GRACE);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_hangs_is_looked_up_after_the_deadline() {
    let (ledger, campaign) = open(10);
    ledger.fail_next([Fault::Hangs]);
    ledger.reads_take(Duration::from_millis(500));
    let started = Instant::now();
    let decisions = issuer(&ledger)
        .decide(&claims(&campaign, 0..3), started + Duration::from_secs(2))
        .await;
    assert!(decisions.verdicts.iter().all(Option::is_some));
    assert_eq!(started.elapsed(), Duration::from_millis(2500));
    assert_books(&ledger, &campaign, 3);
}

#[tokio::test(start_paused = true)]
async fn a_batch_tells_what_it_did_campaign_by_campaign() {
    let (ledger, first) = open(10);
    let mut others = [sample_campaign(2, NOW), sample_campaign(5, NOW)];
    for (n, other) in others.iter_mut().enumerate() {
        other.campaign_id = CampaignId::new(format!("other-{n}")).unwrap();
        ledger.add(other);
    }
    let [second, idle] = others;
    let batch = [
        claims(&first, 0..3),
        claims(&second, 10..13),
        vec![Claim {
            requested_at: idle.closes_at.plus_seconds(1),
            ..claim(&idle, "late", "late")
        }],
    ];
    ledger.fail_next([Fault::Throttled, Fault::StockBusy, Fault::CouponBusy(0)]);
    let decisions = issuer(&ledger)
        .decide(&batch.concat(), Instant::now() + Duration::from_secs(7))
        .await;
    let ids = |campaigns: &[Campaign]| -> Vec<CampaignId> {
        campaigns
            .iter()
            .map(|one| one.campaign_id.clone())
            .collect()
    };
    let mut issued: Vec<_> = ids(&decisions.changed)
        .into_iter()
        .zip(decisions.issued_of.clone())
        .collect();
    issued.sort();
    let mut expected = [
        (first.campaign_id.clone(), 3),
        (second.campaign_id.clone(), 2),
    ];
    expected.sort();
    assert_eq!(
        issued, expected,
        "none of the campaign whose claim came late"
    );
    assert_eq!(decisions.sold_out, [second]);
    assert_eq!(decisions.issued, 5);
    assert_eq!(decisions.conflicts, 3);
    assert_eq!(decisions.transactions, ledger.issue_calls());
    assert_eq!(decisions.decided_at, NOW);
}

#[tokio::test(start_paused = true)]
async fn repeats_of_one_transaction_are_counted() {
    let (ledger, campaign) = open(10);
    ledger.fail_next([Fault::LostAfterWrite, Fault::Throttled]);
    let decisions = issuer(&ledger)
        .decide(
            &claims(&campaign, 0..10),
            Instant::now() + Duration::from_secs(7),
        )
        .await;
    assert_eq!((decisions.transactions, decisions.conflicts), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_while_there_is_progress() {
    let (ledger, campaign) = open(2500);
    let started = Instant::now();
    decide(&issuer(&ledger), &claims(&campaign, 0..3000)).await;
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn fruitless_rounds_come_further_and_further_apart() {
    for fault in [Fault::Throttled, Fault::LostBeforeWrite] {
        let (ledger, campaign) = open(10);
        let rounds = if fault == Fault::Throttled { 8 } else { 4 };
        ledger.fail_next(vec![fault; rounds]);
        let started = Instant::now();
        let outcomes = decide(&issuer(&ledger), &claims(&campaign, 0..3)).await;
        assert_eq!(count(&outcomes, Outcome::Issued), 3);
        // Were each pause as long as the first may be, they would end sooner.
        let first = Duration::from_millis(20) * u32::try_from(rounds).unwrap();
        let all = Duration::from_millis(500) * u32::try_from(rounds).unwrap();
        let waited = started.elapsed();
        assert!(first < waited && waited < all, "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn workers_begin_at_different_shards() {
    let (ledger, mut campaign) = open(640);
    campaign.shards = 64;
    ledger.add(&campaign);
    for seed in 0..16 {
        let worker = Issuer::new(
            ledger.clone(),
            ledger.clone(),
            MemoryClock::at(NOW),
            MemoryEntropy::seeded(seed),
        );
        let user = u32::try_from(seed).unwrap();
        decide(&worker, &claims(&campaign, user..user + 1)).await;
    }
    let coupons = ledger.coupons(&campaign.campaign_id);
    let shards: BTreeSet<u16> = coupons.iter().map(|coupon| coupon.shard).collect();
    assert!(shards.len() > 8, "{shards:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_closing_is_told_apart_from_what_went_before() {
    let (ledger, mut campaign) = open(2);
    campaign.shards = 2;
    ledger.add(&campaign);
    let worker = issuer(&ledger);
    decide(&worker, &claims(&campaign, 0..1)).await;
    ledger.close(&campaign.campaign_id, NOW);
    // One shard is remembered as empty and not read again; the other was closed with one left.
    let outcomes = decide(&worker, &claims(&campaign, 1..3)).await;
    assert_eq!(outcomes, [Some(Outcome::Closed); 2]);
}

#[tokio::test(start_paused = true)]
async fn empty_shards_of_so_many_campaigns_are_remembered() {
    let ledger = MemoryLedger::default();
    let worker = issuer(&ledger);
    let campaigns: Vec<Campaign> = (0..=1024)
        .map(|n| Campaign {
            campaign_id: CampaignId::new(format!("campaign-{n}")).unwrap(),
            ..sample_campaign(1, NOW)
        })
        .collect();
    let sell = async |campaign: &Campaign| {
        ledger.add(campaign);
        decide(&worker, &claims(campaign, 0..1)).await;
    };
    let reads_of = async |campaign: &Campaign| {
        let before = ledger.stock_reads();
        let outcomes = decide(&worker, &claims(campaign, 1..2)).await;
        assert_eq!(outcomes, [Some(Outcome::SoldOut)]);
        ledger.stock_reads() - before
    };
    for campaign in &campaigns[..1024] {
        sell(campaign).await;
    }
    assert_eq!(reads_of(&campaigns[0]).await, 0);
    assert_eq!(reads_of(&campaigns[1023]).await, 0);
    sell(&campaigns[1024]).await;
    assert_eq!(reads_of(&campaigns[1024]).await, 0);
    assert_eq!(
        reads_of(&campaigns[0]).await,
        1,
        "forgotten, and read again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_claim_out_of_time_waits_for_its_users_undecided_leader() {
    let (ledger, campaign) = open(10);
    ledger.fail_next(vec![Fault::LostBeforeWrite; 20]);
    let late = Claim {
        requested_at: campaign.closes_at,
        ..claim(&campaign, "u", "late")
    };
    let outcomes = decide(&issuer(&ledger), &[late, claim(&campaign, "u", "in-time")]).await;
    assert_eq!(outcomes, [None; 2], "a coupon may yet answer both");
}

/// A campaign of this many coupons over two shards, of which a closing that stopped half-way has frozen the first.
fn half_closed(total: u32) -> (MemoryLedger, Campaign) {
    let (ledger, mut campaign) = (MemoryLedger::default(), sample_campaign(total, NOW));
    campaign.shards = 2;
    ledger.add(&campaign);
    ledger.freeze_shard(&campaign.campaign_id, 0, NOW);
    (ledger, campaign)
}

#[tokio::test(start_paused = true)]
async fn a_frozen_shard_beside_another_refuses_nobody_while_that_one_sells() {
    let (ledger, campaign) = half_closed(10);
    let outcomes = decide(&issuer(&ledger), &claims(&campaign, 0..3)).await;
    assert_eq!(count(&outcomes, Outcome::Issued), 3);
    assert!(ledger.asked().iter().all(|(shard, _)| *shard == 1));
    // Two are left in the other one, and five for good in the frozen one.
    let outcomes = decide(&issuer(&ledger), &claims(&campaign, 3..9)).await;
    assert_eq!(count(&outcomes, Outcome::Issued), 2);
    assert_eq!(count(&outcomes, Outcome::Closed), 4);
    assert_books(&ledger, &campaign, 5);
}

#[tokio::test(start_paused = true)]
async fn an_empty_frozen_shard_is_empty_like_any_other() {
    let (ledger, campaign) = half_closed(1);
    // The quota of the second shard is none, that of the first one coupon: frozen, it is never issued.
    assert_eq!(
        decide(&issuer(&ledger), &claims(&campaign, 0..1)).await,
        [Some(Outcome::Closed)]
    );
    let (ledger, mut campaign) = (MemoryLedger::default(), sample_campaign(2, NOW));
    campaign.shards = 2;
    ledger.add(&campaign);
    decide(&issuer(&ledger), &claims(&campaign, 0..1)).await;
    let empty = ledger.shards(&campaign.campaign_id);
    let empty = empty.iter().find(|shard| shard.remaining == 0).unwrap();
    ledger.freeze_shard(&campaign.campaign_id, empty.shard, NOW);
    let outcomes = decide(&issuer(&ledger), &claims(&campaign, 1..3)).await;
    assert_eq!(count(&outcomes, Outcome::Issued), 1);
    assert_eq!(count(&outcomes, Outcome::SoldOut), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_surprised_by_a_frozen_shard_sells_from_the_others() {
    let (ledger, mut campaign) = (MemoryLedger::default(), sample_campaign(200, NOW));
    campaign.shards = 2;
    ledger.add(&campaign);
    // It has read both shards when its first chunks are throttled; meanwhile one of them is frozen.
    ledger.fail_next([Fault::Throttled, Fault::Throttled]);
    let (worker, batch) = (issuer(&ledger), claims(&campaign, 0..150));
    let (outcomes, ()) = tokio::join!(decide(&worker, &batch), async {
        ledger.freeze_shard(&campaign.campaign_id, 0, NOW);
    });
    assert_eq!(count(&outcomes, Outcome::Issued), 100);
    assert_eq!(count(&outcomes, Outcome::Closed), 50);
    assert_eq!(ledger.stock_reads(), 1, "the refusal says what it holds");
    assert_books(&ledger, &campaign, 100);
}
