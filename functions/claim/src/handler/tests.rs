//! The claim door on memory ports, fed with events as API Gateway sends them.

use firstcome_core::memory::{
    MemoryClock, MemoryConnections, MemoryDirectory, MemoryEntropy, MemoryLedger, MemoryOutbox,
    sample_campaign,
};
use firstcome_core::{
    Campaign, CampaignDirectory, CampaignId, Chunk, Claim, ClaimId, Clock, ConnectionId, Coupon,
    CouponLedger, DIRECTORY_FRESHNESS, DeliveryJob, SoldMarks, Timestamp, coupon_code,
};

use serde_json::Value;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

const CLAIM: &str = include_str!("../../../../events/claim-claim.json");
const RESULT: &str = include_str!("../../../../events/claim-result.json");
const SUBSCRIBE: &str = include_str!("../../../../events/claim-subscribe.json");
const UNSUBSCRIBE: &str = include_str!("../../../../events/claim-unsubscribe.json");
const PING: &str = include_str!("../../../../events/claim-ping.json");
const MALFORMED: &str = include_str!("../../../../events/claim-malformed.json");

type MemoryGate = Gate<
    MemoryDirectory,
    MemoryLedger,
    MemoryLedger,
    MemoryOutbox,
    MemoryConnections,
    MemoryOutbox,
    MemoryClock,
    MemoryEntropy,
>;

struct Bench {
    gate: MemoryGate,
    store: MemoryDirectory,
    ledger: MemoryLedger,
    outbox: MemoryOutbox,
    clock: MemoryClock,
    campaign: Campaign,
}

/// A door that knows one campaign, changed as the test wants.
fn bench(change: impl FnOnce(&mut Campaign)) -> Bench {
    let (store, outbox, clock) = (
        MemoryDirectory::default(),
        MemoryOutbox::default(),
        MemoryClock::at(NOW),
    );
    let mut campaign = sample_campaign(10, NOW);
    change(&mut campaign);
    let ledger = store.ledger.clone();
    ledger.add(&campaign);
    store.publish(NOW, vec![campaign.clone()]);
    let gate = Gate {
        directory: CampaignDirectory::new(store.clone(), clock.clone(), DIRECTORY_FRESHNESS),
        records: ledger.clone(),
        coupons: ledger.clone(),
        claims: outbox.clone(),
        subscriptions: MemoryConnections::default(),
        deliveries: outbox.clone(),
        clock: clock.clone(),
        entropy: MemoryEntropy::seeded(1),
    };
    Bench {
        gate,
        store,
        ledger,
        outbox,
        clock,
        campaign,
    }
}

impl Bench {
    async fn send(&self, event: &str) -> Value {
        let event: SocketEvent = serde_json::from_str(event).unwrap();
        let response = handle(&self.gate, event, None).await.unwrap();
        assert_eq!(response.status_code, 200);
        match response.body.unwrap() {
            Body::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Registers the events' socket.
    async fn connect(&self) {
        use firstcome_core::{Connection, Registry, Topic};
        let connection = Connection {
            connection_id: ConnectionId::new("L0SM9cOFvHcCIhw=").unwrap(),
            partner_id: PartnerId::new("acme").unwrap(),
            user_id: UserId::new("user-1").unwrap(),
            connected_at: NOW,
            topics: vec![Topic::Partner(PartnerId::new("acme").unwrap())],
        };
        let registered = self.gate.subscriptions.register(&connection, "ticket");
        registered.await.unwrap();
    }

    /// The event's user wins a coupon by this claim, whatever the door knows.
    async fn issue(&self, claim_id: &str) -> Coupon {
        let claim = Claim {
            claim_id: ClaimId::new(claim_id).unwrap(),
            partner_id: self.campaign.partner_id.clone(),
            campaign_id: self.campaign.campaign_id.clone(),
            user_id: UserId::new("user-1").unwrap(),
            requested_at: NOW,
            sent_at: NOW,
            connection_id: None,
            trace: None,
        };
        let coupon = Coupon::for_claim(&self.campaign, &claim, 0, coupon_code([3; 10]), NOW);
        let chunk = Chunk {
            campaign: self.campaign.clone(),
            shard: 0,
            coupons: vec![coupon.clone()],
            attempt: 1,
        };
        self.ledger.issue(&chunk).await.unwrap();
        coupon
    }
}

#[tokio::test]
async fn a_claim_on_an_open_campaign_is_queued_with_the_doors_own_time() {
    let bench = bench(|_| {});
    let answer = bench.send(CLAIM).await;
    assert_eq!(answer["type"], "claim.accepted");
    assert_eq!(answer["claimId"], "claim-1");
    let claims = bench.outbox.claims();
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].requested_at, NOW);
    assert_eq!(claims[0].partner_id.as_str(), "acme");
    assert_eq!(claims[0].user_id.as_str(), "user-1");
    assert_eq!(
        claims[0].connection_id.as_ref().unwrap().as_str(),
        "L0SM9cOFvHcCIhw="
    );
    assert_eq!(
        bench.send(CLAIM).await["id"],
        answer["id"],
        "the same receipt for the same claim"
    );
}

#[tokio::test]
async fn a_claim_before_the_opening_is_refused_and_the_same_one_counts_afterwards() {
    let bench = bench(|campaign| campaign.opens_at = NOW.plus_seconds(5));
    let answer = bench.send(CLAIM).await;
    assert_eq!(
        (answer["type"].as_str(), answer["outcome"].as_str()),
        (Some("claim.result"), Some("not_open"))
    );
    assert!(bench.outbox.claims().is_empty());
    bench.clock.advance_millis(5000);
    assert_eq!(bench.send(CLAIM).await["type"], "claim.accepted");
}

#[tokio::test]
async fn another_partners_campaign_looks_like_none() {
    let foreign = bench(|campaign| campaign.partner_id = PartnerId::new("other").unwrap());
    let absent = bench(|_| {});
    absent.store.publish(NOW, vec![]);
    let absent_claim = CLAIM.replace("01M3250V000000000000000001", "01M0000000000000000000000X");
    let foreign = foreign.send(CLAIM).await;
    assert_eq!(foreign["outcome"], "unknown_campaign");
    assert_eq!(
        absent.send(&absent_claim).await["outcome"],
        "unknown_campaign"
    );
    assert!(foreign.get("coupon").is_none());
}

#[tokio::test]
async fn another_partners_campaign_cannot_be_subscribed_to_nor_asked_about() {
    let bench = bench(|campaign| campaign.partner_id = PartnerId::new("other").unwrap());
    assert_eq!(bench.send(SUBSCRIBE).await["code"], "unknown_campaign");
    assert!(bench.outbox.deliveries().is_empty());
    assert_eq!(bench.send(RESULT).await["outcome"], "unknown_campaign");
}

#[tokio::test]
async fn a_sold_out_campaign_refuses_without_the_queue_but_not_a_winner() {
    let bench = bench(|_| {});
    bench.ledger.mark_sold(&bench.campaign).await.unwrap();
    let refused = bench.send(CLAIM).await;
    assert_eq!(refused["outcome"], "sold_out");
    let coupon = bench.issue("claim-1").await;
    let answer = bench.send(CLAIM).await;
    assert_eq!(
        (
            answer["outcome"].as_str(),
            answer["coupon"]["code"].as_str()
        ),
        (Some("issued"), Some(&*coupon.code))
    );
    assert!(bench.outbox.claims().is_empty());
}

#[tokio::test]
async fn after_the_end_another_claim_of_a_winner_reads_already_issued() {
    let bench = bench(|campaign| campaign.closes_at = NOW);
    let refused = bench.send(CLAIM).await;
    assert_eq!(refused["outcome"], "closed");
    let coupon = bench.issue("another").await;
    let answer = bench.send(CLAIM).await;
    assert_eq!(answer["outcome"], "already_issued");
    assert_eq!(answer["coupon"]["code"], coupon.code);
}

#[tokio::test]
async fn a_result_is_undecided_until_there_is_a_fact() {
    let bench = bench(|_| {});
    assert_eq!(bench.send(RESULT).await["type"], "claim.undecided");
    let coupon = bench.issue("claim-1").await;
    let answer = bench.send(RESULT).await;
    assert_eq!(answer["outcome"], "issued");
    assert_eq!(answer["claimId"], "claim-1");
    assert_eq!(answer["coupon"]["code"], coupon.code);
    assert!(bench.outbox.claims().is_empty(), "never enqueues");
}

#[tokio::test]
async fn a_result_knows_of_an_early_close_before_the_snapshot_does() {
    let bench = bench(|_| {});
    bench.send(RESULT).await;
    bench.ledger.close(&bench.campaign.campaign_id, NOW);
    assert_eq!(bench.send(RESULT).await["outcome"], "closed");
}

#[tokio::test]
async fn a_campaign_closed_before_it_opened_is_closed_and_not_unopened() {
    let bench = bench(|campaign| campaign.opens_at = NOW.plus_seconds(3600));
    assert_eq!(bench.send(CLAIM).await["outcome"], "not_open");
    assert_eq!(bench.send(RESULT).await["outcome"], "not_open");
    let id = &bench.campaign.campaign_id;
    bench.ledger.close(id, NOW);
    assert_eq!(bench.send(RESULT).await["outcome"], "closed");
    let closed = bench.ledger.find(id).await.unwrap().unwrap();
    bench.clock.advance_millis(12_000);
    bench.store.publish(bench.clock.now(), vec![closed]);
    assert_eq!(bench.send(CLAIM).await["outcome"], "closed");
    assert!(bench.outbox.claims().is_empty());
}

#[tokio::test]
async fn who_was_told_sold_out_is_told_the_same_after_the_end() {
    let bench = bench(|_| {});
    bench.ledger.mark_sold(&bench.campaign).await.unwrap();
    bench.ledger.close(&bench.campaign.campaign_id, NOW);
    assert_eq!(bench.send(RESULT).await["outcome"], "sold_out");
    assert_eq!(bench.send(CLAIM).await["outcome"], "sold_out");
}

#[tokio::test]
async fn the_end_of_a_sale_that_the_door_learns_before_its_mark_reads_sold_out() {
    let bench = bench(|campaign| campaign.closes_at = NOW.plus_seconds(5));
    assert_eq!(bench.send(CLAIM).await["type"], "claim.accepted");
    bench.ledger.mark_sold(&bench.campaign).await.unwrap();
    bench.clock.advance_millis(5000);
    assert_eq!(bench.send(CLAIM).await["outcome"], "sold_out");
}

#[tokio::test]
async fn a_campaign_that_the_directory_dropped_after_its_end_still_answers_its_winner() {
    let bench = bench(|_| {});
    let coupon = bench.issue("claim-1").await;
    bench.clock.advance_millis(2 * 86_400_000);
    bench.store.publish(bench.clock.now(), Vec::new());
    for event in [CLAIM, RESULT] {
        let answer = bench.send(event).await;
        assert_eq!(answer["outcome"], "issued", "{answer}");
        assert_eq!(answer["coupon"]["code"], coupon.code);
    }
    for (event, name, says) in [
        (CLAIM, "outcome", "unknown_campaign"),
        (SUBSCRIBE, "code", "unknown_campaign"),
    ] {
        let answer = bench.send(&event.replace("acme", "other")).await;
        assert_eq!(answer[name], says, "{answer}");
    }
    bench.connect().await;
    assert_eq!(bench.send(SUBSCRIBE).await["type"], "subscribed");
    let jobs = bench.outbox.deliveries();
    let [DeliveryJob::Snapshot { campaign, .. }] = &jobs[..] else {
        panic!("{jobs:?}")
    };
    assert_eq!(*campaign, bench.campaign);
}

#[tokio::test]
async fn a_campaign_that_is_not_in_the_directory_is_looked_for_a_day_after_its_birth() {
    let bench = bench(|_| {});
    bench.issue("claim-1").await;
    bench.clock.advance_millis(86_400_000 - 1);
    bench.store.publish(bench.clock.now(), Vec::new());
    assert_eq!(bench.send(CLAIM).await["outcome"], "unknown_campaign");
    assert_eq!(bench.send(SUBSCRIBE).await["code"], "unknown_campaign");
    bench.clock.advance_millis(1);
    assert_eq!(bench.send(CLAIM).await["outcome"], "issued");
    assert_eq!(bench.send(SUBSCRIBE).await["code"], "not_connected");
}

#[tokio::test]
async fn a_young_campaign_that_is_absent_is_looked_for_once() {
    let bench = bench(|_| {});
    bench.store.publish(NOW.plus_seconds(-60), Vec::new());
    let young = CampaignId::mint(NOW, 7);
    let event = CLAIM.replace(bench.campaign.campaign_id.as_str(), young.as_str());
    assert_eq!(bench.send(&event).await["outcome"], "unknown_campaign");
    assert_eq!(bench.store.record_reads(), 1);
    bench.ledger.fail(true);
    assert_eq!(bench.send(&event).await["outcome"], "unknown_campaign");
}

#[tokio::test]
async fn a_queue_that_is_down_is_an_error_frame_and_the_claim_may_come_again() {
    let bench = bench(|_| {});
    bench.outbox.fail(true);
    let answer = bench.send(CLAIM).await;
    assert_eq!(
        (answer["type"].as_str(), answer["code"].as_str()),
        (Some("error"), Some("unavailable"))
    );
    bench.outbox.fail(false);
    assert_eq!(bench.send(CLAIM).await["type"], "claim.accepted");
}

#[tokio::test]
async fn an_unreadable_directory_is_never_an_unknown_campaign() {
    let bench = bench(|_| {});
    bench.store.fail(true);
    assert_eq!(bench.send(CLAIM).await["code"], "unavailable");
}

#[tokio::test(start_paused = true)]
async fn a_start_waits_two_seconds_for_the_snapshot_and_no_longer() {
    let bench = bench(|_| {});
    warm(&bench.gate.directory).await;
    assert_eq!(bench.store.index_reads(), 1);
    let started = tokio::time::Instant::now();
    let slow = CampaignDirectory::new(Never, bench.clock.clone(), DIRECTORY_FRESHNESS);
    warm(&slow).await;
    assert_eq!(started.elapsed(), WARM_UP);
}

/// A store that never answers.
struct Never;

impl Snapshots for Never {
    async fn index(&self) -> Result<firstcome_core::CampaignIndex, firstcome_core::PortError> {
        std::future::pending().await
    }
}

impl CampaignRecords for Never {
    async fn find(&self, _: &CampaignId) -> Result<Option<Campaign>, firstcome_core::PortError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_subscription_of_an_unregistered_connection_is_refused() {
    let bench = bench(|_| {});
    assert_eq!(bench.send(SUBSCRIBE).await["code"], "not_connected");
    assert!(bench.outbox.deliveries().is_empty());
}

#[tokio::test]
async fn a_subscription_is_confirmed_and_followed_by_a_snapshot() {
    let bench = bench(|_| {});
    bench.connect().await;
    assert_eq!(bench.send(SUBSCRIBE).await["type"], "subscribed");
    assert!(matches!(
        &bench.outbox.deliveries()[..],
        [DeliveryJob::Snapshot { .. }]
    ));
    assert_eq!(bench.send(UNSUBSCRIBE).await["type"], "unsubscribed");
}

#[tokio::test]
async fn a_ping_and_a_malformed_frame_are_answered() {
    let bench = bench(|_| {});
    assert_eq!(bench.send(PING).await["type"], "pong");
    let error = bench.send(MALFORMED).await;
    assert_eq!(
        (error["type"].as_str(), error["code"].as_str()),
        (Some("error"), Some("malformed"))
    );
    assert!(error["id"].as_str().is_some_and(|id| !id.is_empty()));
}

#[tokio::test]
async fn a_frame_without_the_authorizers_word_is_an_error() {
    let event = CLAIM.replace("\"partnerId\": \"acme\",", "");
    let event: SocketEvent = serde_json::from_str(&event).unwrap();
    assert!(handle(&bench(|_| {}).gate, event, None).await.is_err());
}

proptest::proptest! {
    #![proptest_config(firstcome_core::hostile::cases(1000))]

    #[test]
    fn whatever_the_event_is_nothing_panics(event in firstcome_core::hostile::events(&[CLAIM, RESULT, SUBSCRIBE, UNSUBSCRIBE, PING, MALFORMED])) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let bench = bench(|_| {});
        if let Ok(response) = runtime.block_on(answer(&bench.gate, &event, Some("Root=x"))) {
            let Some(Body::Text(text)) = response.body else {
                panic!("{response:?}")
            };
            let frame: Value = serde_json::from_str(&text).unwrap();
            proptest::prop_assert!(frame["type"].is_string() && frame["id"].is_string());
        }
    }
}

#[test]
fn a_panic_is_answered_by_an_error_frame() {
    let response = after_panic(&MemoryEntropy::seeded(1)).unwrap();
    let Some(Body::Text(text)) = response.body else {
        panic!("{response:?}")
    };
    let frame: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&frame["type"], &frame["code"]),
        (&"error".into(), &"internal".into())
    );
    assert_eq!(response.status_code, 200);
}
