//! The handler on memory ports, fed with events as SQS sends them.

use std::time::Duration;

use firstcome_core::memory::{
    MemoryClock, MemoryEntropy, MemoryLedger, MemoryOutbox, sample_campaign,
};
use firstcome_core::{Campaign, FrameBody, Outcome};

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
/// From the begin of an invocation.
const DEADLINE: Duration = Duration::from_secs(7);

type MemoryWorker = Worker<
    MemoryLedger,
    MemoryLedger,
    MemoryLedger,
    MemoryOutbox,
    MemoryOutbox,
    MemoryOutbox,
    MemoryClock,
    MemoryEntropy,
>;

struct Bench {
    worker: MemoryWorker,
    ledger: MemoryLedger,
    outbox: MemoryOutbox,
    campaign: Campaign,
}

fn bench(total: u32) -> Bench {
    let (ledger, outbox) = (MemoryLedger::default(), MemoryOutbox::default());
    let campaign = sample_campaign(total, NOW);
    ledger.add(&campaign);
    let clock = MemoryClock::at(NOW);
    let worker = Worker {
        issuer: Issuer::new(
            ledger.clone(),
            ledger.clone(),
            clock.clone(),
            MemoryEntropy::seeded(1),
        ),
        news: StockNews::new(ledger.clone(), outbox.clone(), clock),
        deliveries: outbox.clone(),
        returns: outbox.clone(),
    };
    Bench {
        worker,
        ledger,
        outbox,
        campaign,
    }
}

impl Bench {
    async fn handle(&self, event: &str) -> Vec<String> {
        let event: SqsEvent = serde_json::from_str(event).unwrap();
        let response = self.worker.handle(event, Instant::now() + DEADLINE).await;
        response
            .batch_item_failures
            .into_iter()
            .map(|failure| failure.item_identifier)
            .collect()
    }

    fn outcomes(&self) -> Vec<Outcome> {
        let jobs = self.outbox.deliveries().into_iter();
        let answers = jobs.flat_map(|job| match job {
            DeliveryJob::Deliver { answers, .. } => answers,
            DeliveryJob::Snapshot { .. } => Vec::new(),
        });
        let outcome = |answer: Answer| match answer.frame.body {
            FrameBody::ClaimResult { outcome, .. } => outcome,
            other => panic!("{other:?}"),
        };
        answers.map(outcome).collect()
    }
}

const CLAIMS: &str = include_str!("../../../../events/issue-claims.json");
const POISON: &str = include_str!("../../../../events/issue-poison.json");

#[tokio::test(start_paused = true)]
async fn every_claim_with_a_socket_is_answered_and_acknowledged() {
    let bench = bench(1);
    assert!(bench.handle(CLAIMS).await.is_empty());
    let mut outcomes = bench.outcomes();
    outcomes.sort_by_key(|outcome| outcome.as_str());
    assert_eq!(outcomes, [Outcome::Issued, Outcome::SoldOut]);
    assert_eq!(bench.ledger.coupons(&bench.campaign.campaign_id).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_redelivered_batch_gets_the_same_answers() {
    let bench = bench(10);
    bench.handle(CLAIMS).await;
    bench.handle(CLAIMS).await;
    let jobs = bench.outbox.deliveries();
    assert_eq!(jobs.len(), 2);
    assert_eq!(jobs[0], jobs[1]);
}

#[tokio::test(start_paused = true)]
async fn poison_comes_back_at_once_and_alone() {
    let bench = bench(10);
    let failures = bench.handle(POISON).await;
    assert_eq!(failures.len(), 3, "{failures:?}");
    assert_eq!(
        bench.ledger.coupons(&bench.campaign.campaign_id).len(),
        2,
        "the good ones are decided"
    );
    let expected = ["receipt-2", "receipt-3", "receipt-4"].map(|receipt| (receipt.to_owned(), 0));
    assert_eq!(bench.outbox.returns(), expected);
}

#[tokio::test(start_paused = true)]
async fn undecided_claims_come_back_within_seconds() {
    let bench = bench(10);
    bench.ledger.fail(true);
    assert_eq!(bench.handle(CLAIMS).await.len(), 3);
    assert!(
        bench.outbox.deliveries().is_empty(),
        "no answer before it is durable"
    );
    assert!(
        bench
            .outbox
            .returns()
            .iter()
            .all(|(_, seconds)| (1..=FIRST_RETURN_SECONDS).contains(seconds))
    );
    let queue = "arn:aws:sqs:us-east-1:123456789012:firstcome-claims";
    assert_eq!(bench.outbox.returned_to(), [queue], "the one they are from");
}

#[tokio::test(start_paused = true)]
async fn claims_whose_answers_could_not_be_sent_come_again_to_the_same_answer() {
    let bench = bench(10);
    bench.outbox.fail(true);
    let failures = bench.handle(CLAIMS).await;
    assert_eq!(failures.len(), 2, "those that wait on a socket");
    let coupons = bench.ledger.coupons(&bench.campaign.campaign_id);
    bench.outbox.fail(false);
    assert!(bench.handle(CLAIMS).await.is_empty());
    assert_eq!(bench.ledger.coupons(&bench.campaign.campaign_id), coupons);
    assert_eq!(bench.outcomes(), [Outcome::Issued, Outcome::Issued]);
}

#[tokio::test(start_paused = true)]
async fn whatever_hangs_the_invocation_ends_by_itself() {
    let hung = async |hang: fn(&Bench)| {
        let bench = bench(1);
        hang(&bench);
        let began = Instant::now();
        let come_again = bench.handle(CLAIMS).await.len();
        (began.elapsed(), come_again, bench.outcomes().len())
    };
    let marks = hung(|bench| bench.ledger.hang_marks()).await;
    assert_eq!(marks, (DEADLINE + MARKED_BY, 1, 1), "the loser comes again");
    let answers = hung(|bench| bench.outbox.hang("send the answers")).await;
    assert_eq!(answers, (DEADLINE + ANSWERED_BY, 2, 0), "those on a socket");
    let news = hung(|bench| bench.outbox.hang("send the broadcast jobs")).await;
    assert_eq!(news, (NEWS, 0, 2), "nobody comes again for it");
    let late_news = hung(|bench| {
        bench.ledger.reads_take(DEADLINE - Duration::from_millis(1));
        bench.outbox.hang("send the broadcast jobs");
    });
    assert_eq!(late_news.await.0, DEADLINE + ENDED_BY);
    let returns = hung(|bench| {
        bench.ledger.fail_marks(true);
        bench.outbox.hang("set when claims come back");
    });
    let ended = DEADLINE + ENDED_BY;
    assert_eq!(returns.await, (ended, 1, 1), "the queue knows when");
}

/// A message on its so manyth visit.
fn on_visit(visits: u32) -> SqsMessage {
    let mut message = SqsMessage::default();
    let count = ("ApproximateReceiveCount".into(), visits.to_string());
    message.attributes.extend([count]);
    message
}

#[test]
fn a_claim_in_trouble_stays_away_longer_with_every_visit() {
    let longest = |visits: u32| {
        let message = on_visit(visits);
        (0..2000).map(|_| seconds_away(&message)).max()
    };
    let bounds: Vec<_> = (1..=10).filter_map(longest).collect();
    assert_eq!(bounds, [5, 5, 10, 20, 40, 60, 60, 60, 60, 60]);
}

#[test]
fn a_message_that_will_be_dead_counts_as_a_last_try() {
    let messages = [1, 8, 9, 10, 11].map(on_visit);
    let returns: Returns<'_> = messages.iter().map(|message| (message, 0)).collect();
    assert_eq!(last_tries(&returns), 2);
}

#[tokio::test(start_paused = true)]
async fn deciding_ends_while_there_is_time_to_answer() {
    let seconds_left = |deadline: u64| {
        let mut context = Context::default();
        context.deadline = deadline;
        super::deadline(&context)
            .duration_since(Instant::now())
            .as_secs_f64()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let in_eight_seconds = (now + Duration::from_secs(8)).as_millis() as u64;
    assert!((4.0..=5.5).contains(&seconds_left(in_eight_seconds)));
    assert_eq!(seconds_left(0), 7.5, "told no time, it takes its own");
    let in_a_second = (now + Duration::from_secs(1)).as_millis() as u64;
    assert_eq!(seconds_left(in_a_second), 0.0, "nothing is begun");
}

#[test]
fn the_log_names_claims_by_their_answer() {
    let event: SqsEvent = serde_json::from_str(CLAIMS).unwrap();
    let (received, _) = parse(&event.records);
    let claims: Vec<_> = received.into_iter().map(|one| one.claim).collect();
    let refused = Some(Verdict::Refused(Outcome::SoldOut));
    let decisions = Decisions {
        verdicts: vec![refused.clone(), None, refused],
        ..Decisions::default()
    };
    let named = |outcome| claims_answered(outcome, &claims, &decisions);
    assert_eq!(
        named(Some(Outcome::SoldOut)).as_deref(),
        Some("claim-1 claim-3")
    );
    assert_eq!(named(None).as_deref(), Some("claim-2"));
    assert_eq!(named(Some(Outcome::Issued)), None);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_sold_out_before_the_mark_stands() {
    let bench = bench(1);
    bench.ledger.fail_marks(true);
    assert_eq!(bench.handle(CLAIMS).await.len(), 1, "the loser comes again");
    assert_eq!(bench.outcomes(), [Outcome::Issued]);
    let told = bench.outbox.broadcasts();
    assert!(told.iter().all(|(job, _)| job_name(job) == "stock"));
    bench.ledger.fail_marks(false);
    assert!(bench.handle(CLAIMS).await.is_empty());
    assert!(bench.outcomes().contains(&Outcome::SoldOut));
}

#[tokio::test(start_paused = true)]
async fn stock_is_told_once_for_many_batches_and_the_end_once_for_all() {
    let bench = bench(1);
    bench.handle(CLAIMS).await;
    bench.handle(CLAIMS).await;
    let kinds: Vec<_> = bench
        .outbox
        .broadcasts()
        .into_iter()
        .map(|(job, delay)| (job_name(&job), delay))
        .collect();
    assert_eq!(kinds, [("stock", 1), ("announce", 0)]);
}

fn job_name(job: &firstcome_core::BroadcastJob) -> &'static str {
    match job {
        firstcome_core::BroadcastJob::Announce(_) => "announce",
        firstcome_core::BroadcastJob::Page(_) => "page",
        firstcome_core::BroadcastJob::Stock(_) => "stock",
    }
}

#[test]
fn a_full_job_of_the_longest_answers_fits_the_queue() {
    let id = |length| "x".repeat(length);
    let claim_id = firstcome_core::ClaimId::new(id(64)).unwrap();
    let coupon = firstcome_core::Coupon {
        claim_id: claim_id.clone(),
        ..firstcome_core::Coupon::sample()
    };
    let user = firstcome_core::UserId::new(id(128)).unwrap();
    let campaign = coupon.campaign_id.clone();
    let frame = ServerFrame::claim_result(&campaign, &user, &claim_id, &Verdict::Standing(coupon));
    let answer = Answer {
        connection_id: firstcome_core::ConnectionId::new(id(128)).unwrap(),
        frame,
        requested_at: Some(NOW),
        trace: TraceHeader::read(&format!("Root={}", "a".repeat(251))),
    };
    let job = DeliveryJob::Deliver {
        answers: vec![answer; MAX_ANSWERS_PER_JOB],
        generation: u8::MAX,
    };
    assert!(serde_json::to_string(&job).unwrap().len() < MAX_JOB_BYTES);
}

proptest::proptest! {
    #![proptest_config(firstcome_core::hostile::cases(1000))]

    #[test]
    fn whatever_the_event_is_nothing_panics(event in firstcome_core::hostile::events(&[CLAIMS, POISON])) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let response = runtime.block_on(async {
            bench(10).worker.handle_event(&event, Instant::now() + DEADLINE).await
        });
        if let Ok(response) = response {
            let messages = serde_json::from_str::<SqsEvent>(&event).unwrap().records.len();
            proptest::prop_assert!(response.batch_item_failures.len() <= messages);
        }
    }
}

#[test]
fn after_a_panic_every_message_comes_again() {
    let event: RawEvent = serde_json::from_str(POISON).unwrap();
    let again = all_again(&event).unwrap().batch_item_failures.into_iter();
    let ids: Vec<_> = again.map(|failure| failure.item_identifier).collect();
    assert_eq!(Ok(ids), event.message_ids());
    assert!(all_again(&serde_json::from_str("{}").unwrap()).is_err());
}
