//! One contract, every store: what issuance relies on, run on memory and on the DynamoDB that
//! `FIRSTCOME_CONTRACT_ENDPOINT` names. A store that lets one coupon too many through fails here, whatever its
//! expressions look like.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use firstcome_core::aws::{
    Aws, DynamoCampaigns, DynamoCatalog, DynamoLedger, DynamoUserCoupons, contract,
};
use firstcome_core::memory::{MemoryCatalog, MemoryLedger, sample_campaign};
use firstcome_core::{
    Benefit, BroadcastId, BroadcastReports, CLOSING_PATIENCE, Campaign, CampaignCatalog,
    CampaignClosing, CampaignId, CampaignRecords, Chunk, ChunkOutcome, Claim, ClaimId,
    Confirmation, Coupon, CouponLedger, CouponReason, Creation, Entropy, FIRST_PACE_SECONDS,
    Freeze, IDEMPOTENCY_SECONDS, Idempotency, Issuer, Mark, Opening, Outcome, REPORT_SECONDS,
    ReportRecord, SoldMarks, StockCounters, StockReason, StockTicks, SystemClock, SystemEntropy,
    Timestamp, Topic, UserCoupons, UserId, Verdict, close_campaign, coupon_code,
};
use futures_util::future::join_all;
use tokio::time::Instant;

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// The parts of a store, and how a test fills it.
trait Store: Clone {
    type Campaigns: CampaignRecords
        + StockCounters
        + SoldMarks
        + StockTicks
        + CampaignClosing
        + Clone
        + Sync;
    type Ledger: CouponLedger + Clone;
    type Catalog: CampaignCatalog + BroadcastReports;
    type UserCoupons: UserCoupons;
    fn catalog(&self) -> Self::Catalog;
    /// The coupons of campaigns that were created in this catalog.
    fn user_coupons(&self, catalog: &Self::Catalog) -> Self::UserCoupons;
    fn campaigns(&self) -> Self::Campaigns;
    fn ledger(&self) -> Self::Ledger;
    async fn add(&self, campaign: &Campaign);
    async fn close(&self, campaign: &Campaign) -> Timestamp {
        let campaigns = self.campaigns();
        close_campaign(&campaigns, campaign, &SystemClock, CLOSING_PATIENCE)
            .await
            .unwrap()
    }
}

impl Store for MemoryLedger {
    type Campaigns = Self;
    type Ledger = Self;
    type Catalog = MemoryCatalog;
    type UserCoupons = MemoryCatalog;
    fn catalog(&self) -> MemoryCatalog {
        MemoryCatalog::over(self)
    }
    fn user_coupons(&self, catalog: &MemoryCatalog) -> MemoryCatalog {
        catalog.clone()
    }
    fn campaigns(&self) -> Self {
        self.clone()
    }
    fn ledger(&self) -> Self {
        self.clone()
    }
    async fn add(&self, campaign: &Campaign) {
        MemoryLedger::add(self, campaign);
    }
}

#[derive(Clone)]
struct Dynamo {
    aws: Aws,
    table: String,
    campaigns: DynamoCampaigns,
    ledger: DynamoLedger,
    catalog: DynamoCatalog,
}

impl Store for Dynamo {
    type Campaigns = DynamoCampaigns;
    type Ledger = DynamoLedger;
    type Catalog = DynamoCatalog;
    type UserCoupons = DynamoUserCoupons;
    fn catalog(&self) -> DynamoCatalog {
        self.catalog.clone()
    }
    fn user_coupons(&self, _: &DynamoCatalog) -> DynamoUserCoupons {
        DynamoUserCoupons::new(&self.aws, self.table.clone())
    }
    fn campaigns(&self) -> DynamoCampaigns {
        self.campaigns.clone()
    }
    fn ledger(&self) -> DynamoLedger {
        self.ledger.clone()
    }
    async fn add(&self, campaign: &Campaign) {
        self.catalog.create(campaign, None).await.unwrap();
    }
}

async fn dynamo() -> Dynamo {
    let endpoint = std::env::var("FIRSTCOME_CONTRACT_ENDPOINT")
        .expect("FIRSTCOME_CONTRACT_ENDPOINT must name a DynamoDB; `make test` sets it");
    let aws = Aws::from_config(contract::config(&endpoint).await);
    let table = format!("contract-{:032x}", SystemEntropy.bits());
    contract::create_table(&aws, &table).await.unwrap();
    Dynamo {
        campaigns: DynamoCampaigns::new(&aws, table.clone()),
        ledger: DynamoLedger::new(&aws, table.clone(), table.clone()),
        catalog: DynamoCatalog::new(&aws, table.clone()),
        table,
        aws,
    }
}

fn campaign(total: u32) -> Campaign {
    Campaign {
        campaign_id: CampaignId::mint(NOW, SystemEntropy.bits()),
        ..sample_campaign(total, NOW)
    }
}

/// A campaign whose only shard holds more than a full chunk.
fn in_one_shard(total: u32) -> Campaign {
    Campaign {
        shards: 1,
        ..campaign(total)
    }
}

fn claim(campaign: &Campaign, user: u32, claim_id: &str) -> Claim {
    Claim {
        claim_id: ClaimId::new(claim_id).unwrap(),
        partner_id: campaign.partner_id.clone(),
        campaign_id: campaign.campaign_id.clone(),
        user_id: UserId::new(format!("user-{user}")).unwrap(),
        requested_at: NOW,
        sent_at: NOW,
        connection_id: None,
        trace: None,
    }
}

fn chunk(campaign: &Campaign, shard: u16, users: std::ops::Range<u32>) -> Chunk {
    let coupon = |user| {
        Coupon::for_claim(
            campaign,
            &claim(campaign, user, "c"),
            shard,
            coupon_code([1; 10]),
            NOW,
        )
    };
    Chunk {
        campaign: campaign.clone(),
        shard,
        coupons: users.map(coupon).collect(),
        attempt: SystemEntropy.bits(),
    }
}

async fn issue(store: &impl Store, chunk: &Chunk) -> ChunkOutcome {
    store.ledger().issue(chunk).await.unwrap()
}

async fn books(store: &impl Store, campaign: &Campaign) -> (u32, u32) {
    let shards: Vec<u16> = (0..campaign.shards).collect();
    let stock = store
        .campaigns()
        .stock(&campaign.campaign_id, &shards)
        .await
        .unwrap();
    assert_eq!(stock.len(), shards.len());
    assert!(
        stock
            .iter()
            .all(|shard| shard.remaining + shard.issued == shard.quota)
    );
    (
        stock.iter().map(|shard| shard.remaining).sum(),
        stock.iter().map(|shard| shard.issued).sum(),
    )
}

fn reasons(outcome: ChunkOutcome) -> (StockReason, Vec<CouponReason>) {
    match outcome {
        ChunkOutcome::Cancelled { stock, coupons } => (stock, coupons),
        other => panic!("expected a cancellation, got {other:?}"),
    }
}

async fn a_campaign_reads_back_as_created(store: &impl Store) {
    let campaign = Campaign {
        benefit: Benefit::new(r#"{"points":100.0,"tags":[]}"#).ok(),
        ..campaign(2500)
    };
    store.add(&campaign).await;
    assert_eq!(
        store.campaigns().find(&campaign.campaign_id).await.unwrap(),
        Some(campaign.clone())
    );
    assert_eq!(books(store, &campaign).await, (2500, 0));
    assert_eq!(
        store
            .campaigns()
            .find(&CampaignId::mint(NOW, 1))
            .await
            .unwrap(),
        None
    );
}

async fn a_chunk_is_issued_whole_and_paid_for(store: &impl Store) {
    let campaign = in_one_shard(150);
    store.add(&campaign).await;
    let full = chunk(&campaign, 0, 0..99);
    assert_eq!(issue(store, &full).await, ChunkOutcome::Issued);
    assert_eq!(books(store, &campaign).await, (51, 99));
    let users: Vec<UserId> = full
        .coupons
        .iter()
        .map(|coupon| coupon.user_id.clone())
        .collect();
    let standing = store.ledger().standing(&campaign, &users).await.unwrap();
    assert_eq!(standing.len(), 99);
    assert_eq!(standing[&users[7]], full.coupons[7]);
}

async fn the_identical_chunk_is_applied_once(store: &impl Store) {
    let campaign = campaign(10);
    store.add(&campaign).await;
    let chunk = chunk(&campaign, 0, 0..3);
    assert_eq!(issue(store, &chunk).await, ChunkOutcome::Issued);
    assert_eq!(issue(store, &chunk).await, ChunkOutcome::Issued);
    assert_eq!(books(store, &campaign).await, (7, 3));
}

async fn a_repeat_is_told_that_it_was_issued_whatever_happened_since(store: &impl Store) {
    let campaign = campaign(3);
    store.add(&campaign).await;
    let chunk = chunk(&campaign, 0, 0..3);
    assert_eq!(issue(store, &chunk).await, ChunkOutcome::Issued);
    assert_eq!(
        issue(store, &chunk).await,
        ChunkOutcome::Issued,
        "although the stock is empty and the coupons stand"
    );
    store.close(&campaign).await;
    assert_eq!(
        issue(store, &chunk).await,
        ChunkOutcome::Issued,
        "although the campaign is closed"
    );
    assert_eq!(books(store, &campaign).await, (0, 3));
}

async fn a_chunk_that_was_refused_is_judged_anew_when_it_comes_again(store: &impl Store) {
    let campaign = campaign(2);
    store.add(&campaign).await;
    let chunk = chunk(&campaign, 0, 0..3);
    let refused = reasons(issue(store, &chunk).await);
    assert_eq!(refused, (StockReason::Short(2), standing_at(3, &[])));
    store.close(&campaign).await;
    assert_eq!(
        reasons(issue(store, &chunk).await).0,
        StockReason::Closed(2),
        "a refusal is not remembered"
    );
}

async fn an_attempt_with_other_content_is_another_request(store: &impl Store) {
    let campaign = campaign(10);
    store.add(&campaign).await;
    let first = chunk(&campaign, 0, 0..2);
    assert_eq!(issue(store, &first).await, ChunkOutcome::Issued);

    let mut other_code = first.clone();
    other_code.coupons[1].code = "ANOTHER".into();
    let refused = reasons(issue(store, &other_code).await);
    let standing = standing_at(2, &[(0, &first.coupons[0]), (1, &first.coupons[1])]);
    assert_eq!(refused, (StockReason::None, standing));

    let other_users = Chunk {
        attempt: first.attempt,
        ..chunk(&campaign, 0, 2..4)
    };
    assert_eq!(issue(store, &other_users).await, ChunkOutcome::Issued);
    assert_eq!(books(store, &campaign).await, (6, 4));
}

async fn two_shards_cannot_both_issue_to_one_user(store: &impl Store) {
    let campaign = campaign(2500);
    assert!(campaign.shards > 1, "this case needs two");
    store.add(&campaign).await;
    let chunks = [0, 1].map(|shard| chunk(&campaign, shard, 0..20));
    let (left, right) = tokio::join!(issue(store, &chunks[0]), issue(store, &chunks[1]));
    let issued = [&left, &right].map(|outcome| *outcome == ChunkOutcome::Issued);
    assert!(
        issued != [true, true],
        "every user holds two coupons of one campaign"
    );
    // Both may have met in the middle and been cancelled; then one of them goes again alone.
    let winner = usize::from(!issued[0]);
    if issued == [false, false] {
        assert_eq!(issue(store, &chunks[winner]).await, ChunkOutcome::Issued);
    }
    let loser = Chunk {
        attempt: SystemEntropy.bits(),
        ..chunks[1 - winner].clone()
    };
    let holders: Vec<_> = chunks[winner].coupons.iter().enumerate().collect();
    let refused = reasons(issue(store, &loser).await);
    assert_eq!(refused, (StockReason::None, standing_at(20, &holders)));
    assert_eq!(books(store, &campaign).await, (2480, 20));
}

async fn a_shard_that_holds_too_few_refuses_and_tells_what_it_holds(store: &impl Store) {
    let campaign = campaign(5);
    store.add(&campaign).await;
    let (stock, coupons) = reasons(issue(store, &chunk(&campaign, 0, 0..6)).await);
    assert_eq!(
        (stock, coupons),
        (StockReason::Short(5), vec![CouponReason::None; 6])
    );
    assert_eq!(
        issue(store, &chunk(&campaign, 0, 0..5)).await,
        ChunkOutcome::Issued
    );
    assert_eq!(
        reasons(issue(store, &chunk(&campaign, 0, 5..6)).await).0,
        StockReason::Short(0)
    );
    assert_eq!(books(store, &campaign).await, (0, 5));
}

async fn a_standing_coupon_refuses_at_its_position_and_is_never_overwritten(store: &impl Store) {
    let campaign = campaign(10);
    store.add(&campaign).await;
    let first = chunk(&campaign, 0, 1..2);
    assert_eq!(issue(store, &first).await, ChunkOutcome::Issued);
    let mut second = chunk(&campaign, 0, 0..3);
    second
        .coupons
        .iter_mut()
        .for_each(|coupon| coupon.code = "ANOTHER".into());
    let (stock, coupons) = reasons(issue(store, &second).await);
    assert_eq!(stock, StockReason::None);
    let expected = [
        CouponReason::None,
        CouponReason::Stands(first.coupons[0].clone()),
        CouponReason::None,
    ];
    assert_eq!(coupons, expected);
    assert_eq!(
        books(store, &campaign).await,
        (9, 1),
        "nothing of the chunk was written"
    );
}

/// What each of a chunk's coupons is told: these positions hold the coupons of `holders`, the others nothing.
fn standing_at(size: usize, holders: &[(usize, &Coupon)]) -> Vec<CouponReason> {
    let mut expected = vec![CouponReason::None; size];
    for (position, coupon) in holders {
        expected[*position] = CouponReason::Stands((*coupon).clone());
    }
    expected
}

async fn reasons_come_by_position_in_a_full_chunk(store: &impl Store) {
    let campaign = in_one_shard(150);
    store.add(&campaign).await;
    let mut holders = chunk(&campaign, 0, 0..1);
    holders.coupons.extend(chunk(&campaign, 0, 49..50).coupons);
    holders.coupons.extend(chunk(&campaign, 0, 98..99).coupons);
    assert_eq!(issue(store, &holders).await, ChunkOutcome::Issued);
    let [first, middle, last] = [0, 1, 2].map(|held| &holders.coupons[held]);

    let (stock, coupons) = reasons(issue(store, &chunk(&campaign, 0, 0..99)).await);
    assert_eq!(stock, StockReason::None);
    assert_eq!(
        coupons,
        standing_at(99, &[(0, first), (49, middle), (98, last)])
    );
    assert_eq!(books(store, &campaign).await, (147, 3));
}

async fn a_refusal_of_the_stock_does_not_hide_those_of_coupons(store: &impl Store) {
    let campaign = campaign(5);
    store.add(&campaign).await;
    let held = chunk(&campaign, 0, 1..4);
    assert_eq!(issue(store, &held).await, ChunkOutcome::Issued);
    let [one, two, three] = [0, 1, 2].map(|position| &held.coupons[position]);
    let everybody = chunk(&campaign, 0, 0..5);
    let standing = standing_at(5, &[(1, one), (2, two), (3, three)]);

    // Two are left and five are wanted.
    let refused = reasons(issue(store, &everybody).await);
    assert_eq!(refused, (StockReason::Short(2), standing.clone()));
    // None is left.
    let last = chunk(&campaign, 0, 7..9);
    assert_eq!(issue(store, &last).await, ChunkOutcome::Issued);
    let refused = reasons(issue(store, &everybody).await);
    assert_eq!(refused, (StockReason::Short(0), standing.clone()));
    // Nothing is left, and the campaign is closed: that is what counts.
    store.close(&campaign).await;
    let refused = reasons(issue(store, &everybody).await);
    assert_eq!(refused, (StockReason::Closed(0), standing.clone()));
    // The shard does not exist.
    let elsewhere = Chunk {
        shard: 9,
        ..everybody
    };
    let refused = reasons(issue(store, &elsewhere).await);
    assert_eq!(refused, (StockReason::Missing, standing));
    assert_eq!(books(store, &campaign).await, (0, 5));
}

async fn a_missing_shard_is_missing_and_not_empty(store: &impl Store) {
    let campaign = campaign(10);
    store.add(&campaign).await;
    assert_eq!(
        reasons(issue(store, &chunk(&campaign, 9, 0..1)).await).0,
        StockReason::Missing
    );
    assert_eq!(
        store
            .campaigns()
            .stock(&campaign.campaign_id, &[0, 9])
            .await
            .unwrap()
            .len(),
        1
    );
}

async fn a_closed_campaign_issues_nothing(store: &impl Store) {
    let campaign = campaign(2500);
    store.add(&campaign).await;
    let first = store.close(&campaign).await;
    assert_eq!(store.close(&campaign).await, first, "the first one's time");
    for (shard, quota) in campaign.quotas() {
        assert_eq!(
            reasons(issue(store, &chunk(&campaign, shard, 0..1)).await).0,
            StockReason::Closed(quota)
        );
    }
    assert_eq!(record(store, &campaign).await.closed_at, Some(first));
    assert!(!sold(store, &campaign).await);
    assert_eq!(books(store, &campaign).await, (2500, 0));
}

async fn record(store: &impl Store, campaign: &Campaign) -> Campaign {
    let found = store.campaigns().find(&campaign.campaign_id).await.unwrap();
    found.unwrap()
}

async fn sold(store: &impl Store, campaign: &Campaign) -> bool {
    let sold = store.campaigns().is_sold(&campaign.campaign_id).await;
    sold.unwrap()
}

async fn a_note_of_a_closing_is_kept_and_refuses_nobody(store: &impl Store) {
    let campaign = campaign(10);
    store.add(&campaign).await;
    let campaigns = store.campaigns();
    for at in [NOW, NOW.plus_seconds(9)] {
        let noted = campaigns.begin_closing(&campaign.campaign_id, at).await;
        noted.unwrap();
    }
    let noted = record(store, &campaign).await;
    assert_eq!((noted.closing_at, noted.closed_at), (Some(NOW), None));
    let expected = Campaign {
        closing_at: Some(NOW),
        ..campaign.clone()
    };
    assert_eq!(noted, expected, "and nothing else has changed");
    assert_eq!(
        issue(store, &chunk(&campaign, 0, 0..3)).await,
        ChunkOutcome::Issued
    );
}

async fn a_frozen_shard_keeps_what_it_holds_and_the_others_sell(store: &impl Store) {
    let campaign = Campaign {
        shards: 2,
        ..campaign(20)
    };
    store.add(&campaign).await;
    issue(store, &chunk(&campaign, 0, 0..3)).await;
    let freeze = async |at: Timestamp| {
        let campaigns = store.campaigns();
        let froze = campaigns.freeze(&campaign.campaign_id, 0, at).await;
        match froze.unwrap() {
            Freeze::Frozen(shard) => shard,
            Freeze::Busy => panic!("nobody writes"),
        }
    };
    let frozen = freeze(NOW).await;
    assert_eq!((frozen.shard, frozen.remaining, frozen.issued), (0, 7, 3));
    assert_eq!(frozen.closed_at, Some(NOW));
    assert_eq!(
        reasons(issue(store, &chunk(&campaign, 0, 3..4)).await).0,
        StockReason::Closed(7)
    );
    assert_eq!(
        issue(store, &chunk(&campaign, 1, 3..7)).await,
        ChunkOutcome::Issued
    );
    assert_eq!(freeze(NOW.plus_seconds(9)).await, frozen, "as it was");
    assert_eq!(books(store, &campaign).await, (13, 7));
    let missing = store.campaigns();
    let missing = missing.freeze(&campaign.campaign_id, 9, NOW).await;
    assert_eq!(missing.unwrap_err().fate, firstcome_core::Fate::Reject);
    assert_eq!(books(store, &campaign).await, (13, 7), "nor was one made");
}

async fn a_closing_of_what_has_sold_out_leaves_it_sold_out(store: &impl Store) {
    let campaign = campaign(3);
    store.add(&campaign).await;
    issue(store, &chunk(&campaign, 0, 0..3)).await;
    store.close(&campaign).await;
    assert!(sold(store, &campaign).await);
    assert!(record(store, &campaign).await.closed_at.is_some());
}

/// Many workers sell, and the campaign is closed in the middle of it: whatever stands when the closing is answered is all there
/// ever is, and everybody is told `issued` or `closed`.
async fn nothing_is_issued_once_a_closing_in_a_rush_is_answered(store: &impl Store) {
    let campaign = Campaign {
        shards: 4,
        ..campaign(4000)
    };
    store.add(&campaign).await;
    let (workers, deadline) = (8, Instant::now() + Duration::from_secs(60));
    let sell = async |worker: u32| {
        let issuer = Issuer::new(
            store.campaigns(),
            store.ledger(),
            SystemClock,
            SystemEntropy,
        );
        let (mut issued, mut refused) = (0, 0);
        for batch in 0..40 {
            let first = worker * 1000 + batch * 10;
            let claims: Vec<Claim> = (first..first + 10)
                .map(|user| claim(&campaign, user, "c"))
                .collect();
            let decisions = issuer.decide(&claims, deadline).await;
            for verdict in decisions.verdicts {
                match verdict.expect("decided well before the deadline") {
                    Verdict::Standing(_) => issued += 1,
                    Verdict::Refused(outcome) => {
                        assert_eq!(outcome, Outcome::Closed);
                        refused += 1;
                    }
                }
            }
            // On memory nothing ever waits; let the others act.
            tokio::task::yield_now().await;
        }
        (issued, refused)
    };
    let close = async {
        while books(store, &campaign).await.1 < 400 {
            tokio::task::yield_now().await;
        }
        store.close(&campaign).await;
        books(store, &campaign).await
    };
    let (sold, at_the_answer) = tokio::join!(join_all((0..workers).map(sell)), close);
    let issued: u32 = sold.iter().map(|(issued, _)| issued).sum();
    let refused: u32 = sold.iter().map(|(_, refused)| refused).sum();
    assert_eq!(books(store, &campaign).await, at_the_answer);
    assert_eq!(at_the_answer, (4000 - issued, issued));
    assert_eq!(issued + refused, workers * 400);
    assert!(refused > 0, "closed in the middle of it");
}

async fn a_confirmation_finds_exactly_what_stands(store: &impl Store) {
    let campaign = campaign(10);
    store.add(&campaign).await;
    let issued = chunk(&campaign, 0, 3..5);
    issue(store, &issued).await;
    let users: Vec<UserId> = (0..100)
        .map(|user| claim(&campaign, user, "c").user_id)
        .collect();
    let Confirmation::Standing(found) = store.ledger().confirm(&campaign, &users).await.unwrap()
    else {
        panic!("nobody writes")
    };
    let found: BTreeSet<UserId> = found.into_keys().collect();
    assert_eq!(
        found,
        issued
            .coupons
            .into_iter()
            .map(|coupon| coupon.user_id)
            .collect()
    );
}

async fn marks_are_set_once(store: &impl Store) {
    let (campaign, campaigns) = (campaign(10), store.campaigns());
    assert!(!campaigns.is_sold(&campaign.campaign_id).await.unwrap());
    assert_eq!(campaigns.mark_sold(&campaign).await.unwrap(), Mark::Set);
    assert_eq!(campaigns.mark_sold(&campaign).await.unwrap(), Mark::Stood);
    assert!(campaigns.is_sold(&campaign.campaign_id).await.unwrap());

    let tick_at = async |millis| {
        let now = Timestamp::from_millis(NOW.millis() + millis);
        let marked = campaigns.mark(&campaign.campaign_id, now, 5).await;
        marked.unwrap()
    };
    let tick = async |seconds: i64| tick_at(seconds * 1000).await;
    let clear = async || campaigns.clear(&campaign.campaign_id).await.unwrap();
    assert_eq!(clear().await, FIRST_PACE_SECONDS, "there is none");
    assert_eq!(tick(0).await, Some(FIRST_PACE_SECONDS));
    assert_eq!(
        tick(6).await,
        None,
        "due after a second, waited for for five"
    );
    assert_eq!(tick_at(6001).await, Some(1), "a stale one is taken over");
    assert_eq!(clear().await, 1);
    assert_eq!(tick(8).await, Some(1));
    let pace = campaigns.set_pace(&campaign.campaign_id, 40, NOW);
    pace.await.unwrap();
    assert_eq!(tick(9).await, None, "a pace leaves the mark");
    assert_eq!(clear().await, 40, "and outlives it");
    assert_eq!(tick(10).await, Some(40));
    assert_eq!(tick(55).await, None, "not stale before its tick is due");
    assert_eq!(tick_at(55_001).await, Some(40));
    assert_eq!([clear().await, clear().await], [40; 2]);
}

/// The sale itself: many workers, every user twice, one claim redelivered.
async fn a_concurrent_sale_is_exact(store: &impl Store) {
    let campaign = campaign(1200);
    store.add(&campaign).await;
    let batches: Vec<Vec<Claim>> = (0..8)
        .flat_map(|batch| {
            let of = |claim_id: &'static str| {
                (batch * 200..(batch + 1) * 200)
                    .map(|user| claim(&campaign, user, claim_id))
                    .collect::<Vec<_>>()
            };
            [of("first"), of("first"), of("second")]
        })
        .collect();
    let workers: Vec<_> = batches
        .iter()
        .map(|_| {
            Issuer::new(
                store.campaigns(),
                store.ledger(),
                SystemClock,
                SystemEntropy,
            )
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    let decided = join_all(
        workers
            .iter()
            .zip(&batches)
            .map(|(worker, batch)| worker.decide(batch, deadline)),
    )
    .await;

    let mut winners = BTreeSet::new();
    for (batch, decisions) in batches.iter().zip(&decided) {
        for (claim, verdict) in batch.iter().zip(&decisions.verdicts) {
            match verdict.as_ref().expect("decided well before the deadline") {
                Verdict::Standing(coupon) => {
                    assert_eq!(coupon.user_id, claim.user_id);
                    winners.insert((coupon.user_id.clone(), coupon.code.clone()));
                }
                Verdict::Refused(outcome) => assert_eq!(*outcome, Outcome::SoldOut),
            }
        }
    }
    let users: BTreeSet<&UserId> = winners.iter().map(|(user, _)| user).collect();
    assert_eq!(
        (winners.len(), users.len()),
        (1200, 1200),
        "one code for one user"
    );
    assert_eq!(books(store, &campaign).await, (0, 1200));
}

async fn a_full_last_page_names_no_next_one(store: &impl Store) {
    let catalog = store.catalog();
    let coupons = store.user_coupons(&catalog);
    let user = UserId::new("user-1").unwrap();
    let partner = campaign(1).partner_id;
    for many in 0..=5_u16 {
        if many > 0 {
            let campaign = campaign(1);
            catalog.create(&campaign, None).await.unwrap();
            let outcome = issue(store, &chunk(&campaign, 0, 1..2)).await;
            assert_eq!(outcome, ChunkOutcome::Issued);
        }
        for limit in 1..=6 {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let campaigns = catalog.list(&partner, after.as_ref(), limit).await.unwrap();
                let listed = coupons.coupons_of(&partner, &user, after.as_ref(), limit);
                let coupons = listed.await.unwrap();
                assert_eq!(coupons.next, campaigns.next);
                assert_eq!(coupons.items.len(), campaigns.items.len());
                assert!(
                    many == 0 || !campaigns.items.is_empty(),
                    "{many} by {limit}"
                );
                seen.extend(
                    campaigns
                        .items
                        .into_iter()
                        .map(|campaign| campaign.campaign_id),
                );
                after = campaigns.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen.len(), usize::from(many), "by {limit}");
            assert!(seen.is_sorted_by(|a, b| a > b), "newest first");
        }
    }
}

fn asked(body: &str) -> Idempotency {
    Idempotency {
        key_sha256: "key".into(),
        body_sha256: body.into(),
    }
}

async fn a_key_names_one_creation_for_a_day(store: &impl Store) {
    let catalog = store.catalog();
    let at = |second: i64| Campaign {
        created_at: NOW.plus_seconds(second),
        ..campaign(1)
    };
    let first = at(0);
    let recalled = async |body: &str, second: i64| {
        let now = NOW.plus_seconds(second);
        let recalled = catalog.recall(&first.partner_id, &asked(body), now).await;
        recalled.unwrap()
    };
    assert_eq!(recalled("body", 0).await, None);
    let made = catalog.create(&first, Some(&asked("body"))).await.unwrap();
    assert_eq!(made, Creation::Created);
    let last = IDEMPOTENCY_SECONDS - 1;
    let again = catalog
        .create(&at(last), Some(&asked("body")))
        .await
        .unwrap();
    assert_eq!(again, Creation::Repeated(first.clone()));
    assert_eq!(recalled("body", last).await, Some(again));
    let other = catalog
        .create(&at(last), Some(&asked("other")))
        .await
        .unwrap();
    assert_eq!(other, Creation::Mismatch);
    assert_eq!(recalled("other", last).await, Some(other));
    for body in ["body", "other"] {
        assert_eq!(recalled(body, last + 1).await, None);
    }
    let (second, third) = (at(last + 1), at(last + 2));
    let made = catalog
        .create(&second, Some(&asked("other")))
        .await
        .unwrap();
    assert_eq!(made, Creation::Created);
    let again = catalog.create(&third, Some(&asked("other"))).await.unwrap();
    assert_eq!(again, Creation::Repeated(second));
}

async fn a_key_names_one_broadcast_for_a_day(store: &impl Store) {
    let catalog = store.catalog();
    let open = async |id: &str, body: &str, second: i64| {
        let partner = campaign(1).partner_id;
        let record = ReportRecord {
            topic: Topic::Partner(partner.clone()),
            partner_id: partner,
            kind: None,
            created_at: NOW.plus_seconds(second),
            fanned_out: false,
        };
        let id = BroadcastId::new(id).unwrap();
        match catalog
            .open(&id, &record, Some(&asked(body)))
            .await
            .unwrap()
        {
            Opening::Standing(id, standing) => Some((id.to_string(), standing.created_at)),
            Opening::Mismatch => None,
        }
    };
    let opened = |id: &str, second: i64| Some((id.to_owned(), NOW.plus_seconds(second)));
    let last = IDEMPOTENCY_SECONDS - 1;
    assert_eq!(open("a", "body", 0).await, opened("a", 0));
    assert_eq!(open("b", "body", last).await, opened("a", 0));
    assert_eq!(open("c", "other", last).await, None);
    assert_eq!(open("d", "other", last + 1).await, opened("d", last + 1));
    assert_eq!(open("e", "other", last + 2).await, opened("d", last + 1));
    assert_eq!(open("f", "body", last + 2).await, None);
}

async fn a_report_is_read_for_seven_days(store: &impl Store) {
    let (catalog, id) = (store.catalog(), BroadcastId::new("a").unwrap());
    let partner = campaign(1).partner_id;
    let record = ReportRecord {
        topic: Topic::Partner(partner.clone()),
        partner_id: partner,
        kind: None,
        created_at: NOW,
        fanned_out: false,
    };
    catalog.open(&id, &record, None).await.unwrap();
    let report = async |second: i64| {
        let found = catalog.report(&id, NOW.plus_seconds(second)).await;
        found.unwrap()
    };
    let first = report(0).await;
    assert_eq!(first.as_ref().map(|report| report.started_at), Some(NOW));
    assert_eq!(report(REPORT_SECONDS - 1).await, first);
    assert_eq!(report(REPORT_SECONDS).await, None);
}

/// What the ledger's token rests on, and only a real store can show: DynamoDB refuses a token it has seen with
/// another request, so a token that names the wrong content is an error and never a second write.
#[tokio::test]
async fn dynamo_refuses_a_known_token_with_another_request() {
    let store = dynamo().await;
    let token = format!("{:032x}", SystemEntropy.bits());
    let second = contract::send_two_requests_with_one_token(&store.aws, &store.table, &token).await;
    assert_eq!(second.unwrap(), contract::SecondRequest::RefusedAsMismatch);
}

macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $case() {
                super::$case(&super::MemoryLedger::default()).await;
            })*
        }
        mod dynamo {
            $(#[tokio::test]
            async fn $case() {
                super::$case(&super::dynamo().await).await;
            })*
        }
    };
}

contract!(
    a_campaign_reads_back_as_created,
    a_chunk_is_issued_whole_and_paid_for,
    the_identical_chunk_is_applied_once,
    a_repeat_is_told_that_it_was_issued_whatever_happened_since,
    a_chunk_that_was_refused_is_judged_anew_when_it_comes_again,
    an_attempt_with_other_content_is_another_request,
    two_shards_cannot_both_issue_to_one_user,
    a_shard_that_holds_too_few_refuses_and_tells_what_it_holds,
    a_standing_coupon_refuses_at_its_position_and_is_never_overwritten,
    reasons_come_by_position_in_a_full_chunk,
    a_refusal_of_the_stock_does_not_hide_those_of_coupons,
    a_missing_shard_is_missing_and_not_empty,
    a_closed_campaign_issues_nothing,
    a_note_of_a_closing_is_kept_and_refuses_nobody,
    a_frozen_shard_keeps_what_it_holds_and_the_others_sell,
    a_closing_of_what_has_sold_out_leaves_it_sold_out,
    nothing_is_issued_once_a_closing_in_a_rush_is_answered,
    a_confirmation_finds_exactly_what_stands,
    marks_are_set_once,
    a_concurrent_sale_is_exact,
    a_full_last_page_names_no_next_one,
    a_key_names_one_creation_for_a_day,
    a_key_names_one_broadcast_for_a_day,
    a_report_is_read_for_seven_days,
);
