//! One batch of DeliveriesQueue or BroadcastQueue: every record is a job of its own, judged alone. What a job does is the
//! domain's; nothing here knows a table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use firstcome_core::{
    Audience, BroadcastJob, BroadcastOutbox, Clock, DeliveryJob, DeliveryRetries, FanOutRecords,
    Forgetting, JobError, PostEngine, PostFacts, Poster, Pusher, StockCounters, StockTicks,
    announce, deliver_answers, deliver_snapshot,
    lambda::{Panicked, RawEvent, UnreadableEvent, catch_panic, read},
    metric::{self, Metric},
    post_page, post_stock,
};
use futures_util::{StreamExt, stream};
use lambda_runtime::{Context, Diagnostic, tracing};
use serde::Deserialize;
use tokio::time::Instant;

/// The function's timeout (template.yaml).
const TIMEOUT: Duration = Duration::from_secs(30);

/// Kept back from the invocation's time: for committing what was posted and sending the rest on.
const RESERVE: Duration = Duration::from_secs(3);

/// After so many receives a message that fails goes to its dead-letter queue (template.yaml, `maxReceiveCount`).
const MAX_RECEIVES: u32 = 10;

/// Jobs at work at once: they share the engine's slots and its rate.
const JOBS_AT_ONCE: usize = 10;

/// When posting has to end for the invocation to end in time.
pub(crate) fn deadline(context: &Context) -> Instant {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let left = Duration::from_millis(context.deadline).saturating_sub(now);
    // `cargo lambda watch` gives no time of day; a real invocation never begins past its deadline.
    let left = if left.is_zero() { TIMEOUT } else { left };
    Instant::now() + left.saturating_sub(RESERVE)
}

/// A message of either queue; `kind` tells which.
#[derive(Deserialize)]
#[serde(untagged)]
enum Job {
    Delivery(DeliveryJob),
    Broadcast(BroadcastJob),
}

/// What the jobs need.
pub(crate) struct Worker<P, C, S, R, O, D, K> {
    pub(crate) engine: PostEngine<P>,
    pub(crate) connections: C,
    pub(crate) campaigns: S,
    pub(crate) records: R,
    pub(crate) outbox: O,
    pub(crate) retries: D,
    pub(crate) clock: K,
}

impl<P, C, S, R, O, D, K> Worker<P, C, S, R, O, D, K>
where
    P: Pusher,
    C: Forgetting + Audience,
    S: StockCounters + StockTicks,
    R: FanOutRecords,
    O: BroadcastOutbox,
    D: DeliveryRetries,
    K: Clock,
{
    /// As [`Self::handle`], of an event as it came.
    pub(crate) async fn answer(
        &self,
        event: &str,
        deadline: Instant,
    ) -> Result<SqsBatchResponse, Diagnostic> {
        self.handle(read(event).map_err(unreadable)?, deadline)
            .await
    }

    /// Does the batch's jobs before `deadline` and tells which messages must come again.
    async fn handle(
        &self,
        event: SqsEvent,
        deadline: Instant,
    ) -> Result<SqsBatchResponse, Diagnostic> {
        let started = Instant::now();
        let jobs = stream::iter(&event.records).map(|message| self.attempt(message, deadline));
        let mut ended = jobs.buffer_unordered(JOBS_AT_ONCE);
        let (mut facts, mut failed) = (PostFacts::default(), Vec::new());
        while let Some((posted, failure)) = ended.next().await {
            facts.add(posted);
            failed.extend(failure);
        }
        tracing::info!(
            jobs = event.records.len(),
            jobs.failed = failed.len(),
            duration_ms = started.elapsed().as_millis() as u64,
            "batch posted"
        );
        measure(&facts, &failed);
        metric::gauge(Metric::PostRate, self.engine.rate());
        failures(&failed)
    }

    /// Does one job; returns what it posted, and the message if it must come again.
    async fn attempt<'a>(
        &self,
        message: &'a SqsMessage,
        deadline: Instant,
    ) -> (PostFacts, Option<&'a SqsMessage>) {
        let Ok(job) = serde_json::from_str(message.body.as_deref().unwrap_or_default()) else {
            tracing::error!(sqs.message_id = message.message_id, "message is no job");
            metric::count(Metric::Poison, 1);
            return (PostFacts::default(), Some(message));
        };
        let poster = Poster::new(&self.engine, &self.connections, &self.clock, deadline);
        // A job that panics takes no other with it.
        let done = match catch_panic(self.work(&poster, job)).await {
            Ok(done) => done,
            Err(Panicked) => return (poster.into_facts(), Some(message)),
        };
        let facts = poster.into_facts();
        let Err(error) = done else {
            return (facts, None);
        };
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(sqs.message_id = message.message_id, %error, cause, "job comes again");
        (facts, Some(message))
    }

    async fn work(&self, poster: &Poster<'_, P, C, K>, job: Job) -> Result<(), JobError> {
        match job {
            Job::Delivery(DeliveryJob::Deliver {
                answers,
                generation,
            }) => deliver_answers(poster, &self.retries, answers, generation)
                .await
                .map(drop),
            Job::Delivery(DeliveryJob::Snapshot {
                connection_id,
                campaign,
                generation,
            }) => {
                let of = (connection_id, campaign);
                deliver_snapshot(poster, &self.retries, &self.campaigns, of, generation)
                    .await
                    .map(drop)
            }
            Job::Broadcast(BroadcastJob::Announce(announcement)) => {
                let now = self.clock.now();
                announce(
                    &self.campaigns,
                    &self.records,
                    &self.outbox,
                    announcement,
                    now,
                )
                .await
                .map(drop)
            }
            Job::Broadcast(BroadcastJob::Page(page)) => {
                post_page(poster, &self.records, &self.outbox, page)
                    .await
                    .map(drop)
            }
            Job::Broadcast(BroadcastJob::Stock(stock)) => {
                post_stock(poster, &self.campaigns, &self.outbox, stock)
                    .await
                    .map(drop)
            }
        }
    }
}

/// Notes what the batch came to.
fn measure(facts: &PostFacts, failed: &[&SqsMessage]) {
    let posts = facts.posts;
    metric::count(Metric::PostsSent, posts.sent as usize);
    metric::count(Metric::PostsGone, posts.gone as usize);
    metric::count(Metric::PostsFailed, posts.failed as usize);
    metric::count(Metric::PostsOpen, posts.unsettled as usize);
    metric::count(Metric::PostsThrottled, posts.throttled as usize);
    let waited = facts.answered_after.iter();
    metric::values(
        Metric::ClaimToDeliveredMillis,
        waited.map(|millis| (*millis).max(0) as f64).collect(),
    );
    metric::count(Metric::JobsFailed, failed.len());
    let receives = |message: &&&SqsMessage| {
        let count = message.attributes.get("ApproximateReceiveCount");
        count.and_then(|count| count.parse().ok()).unwrap_or(1)
    };
    let last = failed
        .iter()
        .filter(|message| receives(message) >= MAX_RECEIVES);
    metric::count(Metric::LastTries, last.count());
}

fn unreadable(error: UnreadableEvent) -> Diagnostic {
    tracing::error!(%error, "event not read");
    Diagnostic {
        error_type: "Event".into(),
        error_message: error.to_string(),
    }
}

/// The response after a panic: every message comes again.
pub(crate) fn all_again(event: &RawEvent) -> Result<SqsBatchResponse, Diagnostic> {
    let ids = event.message_ids().map_err(unreadable)?;
    named(ids.iter().map(|id| Some(id.as_str())))
}

/// The partial batch response. A message without an id cannot be named, and an empty name fails the whole batch just as
/// well: then that is said plainly.
fn failures(messages: &[&SqsMessage]) -> Result<SqsBatchResponse, Diagnostic> {
    named(messages.iter().map(|message| message.message_id.as_deref()))
}

fn named<'a>(ids: impl Iterator<Item = Option<&'a str>>) -> Result<SqsBatchResponse, Diagnostic> {
    let mut response = SqsBatchResponse::default();
    for id in ids {
        match id {
            Some(id) if !id.is_empty() => response.add_failure(id),
            _ => {
                let error_message = "a message that must come again has no id".into();
                return Err(Diagnostic {
                    error_type: "Event".into(),
                    error_message,
                });
            }
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use firstcome_core::memory::{
        MemoryClock, MemoryConnections, MemoryFanOut, MemoryLedger, MemoryOutbox, MemoryPusher,
    };
    use firstcome_core::{
        Campaign, Connection, ConnectionId, FrameBody, MEMBERSHIP_SHARDS, PushOutcome, Timestamp,
    };
    use serde_json::Value;

    use super::*;

    type Stage<'a> = Worker<
        &'a MemoryPusher,
        MemoryConnections,
        MemoryLedger,
        MemoryFanOut,
        MemoryOutbox,
        MemoryOutbox,
        MemoryClock,
    >;

    fn stage(pusher: &MemoryPusher) -> Stage<'_> {
        let outbox = MemoryOutbox::default();
        Worker {
            engine: PostEngine::new(pusher, 1000),
            connections: MemoryConnections::default(),
            campaigns: MemoryLedger::default(),
            records: MemoryFanOut::default(),
            outbox: outbox.clone(),
            retries: outbox,
            clock: MemoryClock::at(Timestamp::parse("2026-11-01T09:00:00Z").unwrap()),
        }
    }

    /// The campaign of the event files.
    fn campaign() -> Campaign {
        let event: SqsEvent =
            serde_json::from_str(include_str!("../../../events/broadcast-snapshot.json")).unwrap();
        let body: Value = serde_json::from_str(event.records[0].body.as_deref().unwrap()).unwrap();
        serde_json::from_value(body["campaign"].clone()).unwrap()
    }

    /// A socket that hears the campaign of the event files.
    fn listener(stage: &Stage<'_>, name: &str) {
        let campaign = campaign();
        stage.connections.insert(Connection {
            connection_id: ConnectionId::new(name).unwrap(),
            partner_id: campaign.partner_id,
            user_id: firstcome_core::UserId::new("user-1").unwrap(),
            connected_at: Timestamp::parse("2026-11-01T08:00:00Z").unwrap(),
            topics: vec![firstcome_core::Topic::Campaign(campaign.campaign_id)],
        });
    }

    async fn handle(stage: &Stage<'_>, event: &str) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(27);
        let response = stage
            .handle(serde_json::from_str(event).unwrap(), deadline)
            .await
            .unwrap();
        response
            .batch_item_failures
            .into_iter()
            .map(|failure| failure.item_identifier)
            .collect()
    }

    /// An event of the jobs sent so far, from the `from`th on.
    fn sent_jobs(stage: &Stage<'_>, from: usize) -> String {
        let record = |(index, (job, _)): (usize, (BroadcastJob, u16))| serde_json::json!({"messageId": format!("m{index}"), "body": serde_json::to_string(&job).unwrap()});
        let records: Vec<Value> = stage
            .outbox
            .broadcasts()
            .into_iter()
            .skip(from)
            .enumerate()
            .map(record)
            .collect();
        serde_json::json!({"Records": records}).to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn answers_reach_their_sockets() {
        let pusher = MemoryPusher::default();
        let failed = handle(
            &stage(&pusher),
            include_str!("../../../events/broadcast-deliver.json"),
        )
        .await;
        assert!(failed.is_empty());
        let outcome =
            |name: &str| serde_json::to_value(&pusher.frames(name)[0]).unwrap()["outcome"].clone();
        assert_eq!(outcome("L0SM9cOFvHcCIhw="), "issued");
        assert_eq!(outcome("L0SM9cOFvHcCIhx="), "sold_out");
    }

    #[tokio::test(start_paused = true)]
    async fn each_record_is_judged_alone() {
        let pusher = MemoryPusher::default();
        pusher.answers("stuck=", &[PushOutcome::Failed; 9]);
        let stage = stage(&pusher);
        let event = include_str!("../../../events/broadcast-mixed.json");
        let no_job = "11111111-0000-4000-8000-000000000002";
        assert_eq!(handle(&stage, event).await, [no_job]);
        assert_eq!(pusher.frames("L0SM9cOFvHcCIhw=").len(), 1);
        // The socket that could not be told goes on alone; if it cannot be sent on, its own message comes again.
        let retries = stage.retries.retries();
        assert!(matches!(
            &retries[..],
            [(DeliveryJob::Deliver { answers, generation: 1 }, 2)] if answers.len() == 1
        ));
        pusher.answers("stuck=", &[PushOutcome::Failed; 9]);
        stage.retries.fail(true);
        let mut failed = handle(&stage, event).await;
        failed.sort();
        assert_eq!(failed, [no_job, "11111111-0000-4000-8000-000000000003"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_message_without_an_id_fails_the_batch() {
        let pusher = MemoryPusher::default();
        let event = serde_json::from_str(r#"{"Records":[{"messageId":"","body":"?"}]}"#).unwrap();
        assert!(stage(&pusher).handle(event, Instant::now()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_reaches_its_socket() {
        let pusher = MemoryPusher::default();
        let stage = stage(&pusher);
        stage.campaigns.add(&campaign());
        assert!(
            handle(
                &stage,
                include_str!("../../../events/broadcast-snapshot.json")
            )
            .await
            .is_empty()
        );
        let frames = pusher.frames("L0SM9cOFvHcCIhw=");
        assert!(matches!(
            &frames[0].body,
            FrameBody::CampaignSnapshot {
                total: 1000,
                issued: 0,
                ..
            }
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn an_announcement_goes_out_through_its_pages() {
        let pusher = MemoryPusher::default();
        let stage = stage(&pusher);
        stage.campaigns.add(&campaign());
        ["a=", "b=", "c="]
            .iter()
            .for_each(|name| listener(&stage, name));
        assert!(
            handle(
                &stage,
                include_str!("../../../events/broadcast-announce.json")
            )
            .await
            .is_empty()
        );
        assert_eq!(
            stage.outbox.broadcasts().len(),
            usize::from(MEMBERSHIP_SHARDS)
        );
        assert!(handle(&stage, &sent_jobs(&stage, 0)).await.is_empty());
        assert_eq!(pusher.delivered(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_and_stock_of_the_event_files_are_posted() {
        let pusher = MemoryPusher::default();
        let stage = stage(&pusher);
        stage.campaigns.add(&campaign());
        (0..40).for_each(|i| listener(&stage, &format!("socket-{i}")));
        assert!(
            handle(&stage, include_str!("../../../events/broadcast-page.json"))
                .await
                .is_empty()
        );
        let on_the_page = pusher.delivered();
        assert!((1..40).contains(&on_the_page));
        assert!(
            handle(&stage, include_str!("../../../events/broadcast-stock.json"))
                .await
                .is_empty()
        );
        assert_eq!(pusher.delivered(), on_the_page + 40);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_whose_time_is_up_go_on_as_a_new_job() {
        let pusher = MemoryPusher::default();
        let stage = stage(&pusher);
        let event =
            serde_json::from_str(include_str!("../../../events/broadcast-deliver.json")).unwrap();
        let response = stage.handle(event, Instant::now()).await.unwrap();
        assert!(response.batch_item_failures.is_empty());
        assert_eq!(pusher.delivered(), 0);
        assert!(matches!(
            &stage.retries.retries()[..],
            [(DeliveryJob::Deliver { answers, .. }, _)] if answers.len() == 2
        ));
    }

    /// Does the event's jobs as `attempt` does, but lets a panic through.
    async fn work_uncaught(stage: &Stage<'_>, event: &str, deadline: Instant) {
        let Ok(event) = read::<SqsEvent>(event) else {
            return;
        };
        for message in event.records {
            let body = message.body.unwrap_or_default();
            if let Ok(job) = serde_json::from_str(&body) {
                let poster = Poster::new(&stage.engine, &stage.connections, &stage.clock, deadline);
                // Whether it is done is of no matter here: only that it does not panic.
                drop(stage.work(&poster, job).await);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_panics_takes_no_other_with_it_and_comes_again() {
        struct Bomb;
        impl Pusher for Bomb {
            async fn push(&self, connection: &ConnectionId, _: Arc<[u8]>) -> PushOutcome {
                assert_ne!(connection.as_str(), "L0SM9cOFvHcCIhw=", "as the test wants");
                PushOutcome::Delivered
            }
        }
        let quiet = MemoryPusher::default();
        let stage = stage(&quiet);
        let worker = Worker {
            engine: PostEngine::new(Bomb, 1000),
            connections: stage.connections,
            campaigns: stage.campaigns,
            records: stage.records,
            outbox: stage.outbox,
            retries: stage.retries,
            clock: stage.clock,
        };
        let event = read(include_str!("../../../events/broadcast-mixed.json")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(27);
        let response = worker.handle(event, deadline).await.unwrap();
        let failed = response.batch_item_failures.into_iter();
        let mut failed: Vec<_> = failed.map(|failure| failure.item_identifier).collect();
        failed.sort();
        let [bomb, no_job] = [1, 2].map(|n| format!("11111111-0000-4000-8000-00000000000{n}"));
        assert_eq!(failed, [bomb, no_job]);
    }

    proptest::proptest! {
        #![proptest_config(firstcome_core::hostile::cases(1000))]

        #[test]
        fn whatever_the_event_is_nothing_panics(event in firstcome_core::hostile::events(&[
            include_str!("../../../events/broadcast-announce.json"),
            include_str!("../../../events/broadcast-deliver.json"),
            include_str!("../../../events/broadcast-mixed.json"),
            include_str!("../../../events/broadcast-page.json"),
            include_str!("../../../events/broadcast-snapshot.json"),
            include_str!("../../../events/broadcast-stock.json"),
        ])) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let pusher = MemoryPusher::default();
            let done = runtime.block_on(async {
                let (stage, deadline) = (stage(&pusher), Instant::now() + Duration::from_secs(27));
                stage.campaigns.add(&campaign());
                work_uncaught(&stage, &event, deadline).await;
                stage.answer(&event, deadline).await
            });
            if let Ok(response) = done {
                let messages = read::<SqsEvent>(&event).unwrap().records;
                let mut known: Vec<_> = messages.into_iter().filter_map(|m| m.message_id).collect();
                for failure in response.batch_item_failures {
                    let named = known.iter().position(|id| *id == failure.item_identifier);
                    proptest::prop_assert!(named.is_some(), "{}", failure.item_identifier);
                    known.swap_remove(named.unwrap());
                }
            }
        }
    }

    #[test]
    fn after_a_panic_every_message_comes_again() {
        let event: RawEvent =
            serde_json::from_str(include_str!("../../../events/broadcast-mixed.json")).unwrap();
        let again = all_again(&event).unwrap().batch_item_failures;
        let ids: Vec<_> = again
            .iter()
            .map(|failure| failure.item_identifier.as_str())
            .collect();
        assert_eq!(ids.len(), event.message_ids().unwrap().len());
        assert!(ids.contains(&"11111111-0000-4000-8000-000000000002"));
        for none in ["{}", r#"{"Records":[{"messageId":""}]}"#] {
            assert!(
                all_again(&serde_json::from_str(none).unwrap()).is_err(),
                "{none}"
            );
        }
    }
}
