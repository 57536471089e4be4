//! The jobs of `broadcast` on memory ports, in paused time.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    memory::{
        MemoryClock, MemoryConnections, MemoryFanOut, MemoryLedger, MemoryOutbox, MemoryPusher,
    },
    *,
};

/// Everything the jobs need, and one campaign of 3,000 coupons.
struct Stage {
    pusher: MemoryPusher,
    connections: MemoryConnections,
    campaigns: MemoryLedger,
    records: MemoryFanOut,
    outbox: MemoryOutbox,
    clock: MemoryClock,
    campaign: Campaign,
    now: Timestamp,
}

impl Stage {
    fn new() -> Self {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let new: NewCampaign =
            serde_json::from_value(serde_json::json!({"title": "t", "total": 3000})).unwrap();
        let campaign = new
            .into_campaign(
                CampaignId::mint(now, 1),
                PartnerId::new("acme").unwrap(),
                now,
            )
            .unwrap();
        let campaigns = MemoryLedger::default();
        campaigns.add(&campaign);
        Self {
            pusher: MemoryPusher::default(),
            connections: MemoryConnections::default(),
            campaigns,
            records: MemoryFanOut::default(),
            outbox: MemoryOutbox::default(),
            clock: MemoryClock::at(now),
            campaign,
            now,
        }
    }

    fn topic(&self) -> Topic {
        Topic::Campaign(self.campaign.campaign_id.clone())
    }

    /// Connects sockets that hear the campaign, `age` seconds ago.
    fn connect(&self, names: &[String], age: i64) {
        self.connect_millis(names, age * 1000);
    }

    /// As [`Self::connect`], `age` milliseconds ago.
    fn connect_millis(&self, names: &[String], age: i64) {
        for name in names {
            self.connections.insert(Connection {
                connection_id: ConnectionId::new(name.as_str()).unwrap(),
                partner_id: self.campaign.partner_id.clone(),
                user_id: UserId::new("u").unwrap(),
                connected_at: Timestamp::from_millis(self.now.millis() - age),
                topics: vec![
                    Topic::Partner(self.campaign.partner_id.clone()),
                    self.topic(),
                ],
            });
        }
    }

    fn announcement(&self) -> Announcement {
        opened(&self.campaign)
    }

    fn engine(&self, per_second: u32) -> PostEngine<&MemoryPusher> {
        PostEngine::new(&self.pusher, per_second)
    }

    async fn announce(&self, announcement: Announcement) -> Announced {
        announce(
            &self.campaigns,
            &self.records,
            &self.outbox,
            announcement,
            self.clock.now(),
        )
        .await
        .unwrap()
    }

    /// Runs a job as the handler does, with so many seconds to go.
    async fn run(
        &self,
        engine: &PostEngine<&MemoryPusher>,
        job: BroadcastJob,
        seconds: u64,
    ) -> PostSummary {
        self.try_run(engine, job, seconds).await.unwrap()
    }

    async fn try_run(
        &self,
        engine: &PostEngine<&MemoryPusher>,
        job: BroadcastJob,
        seconds: u64,
    ) -> Result<PostSummary, JobError> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let poster = Poster::new(engine, &self.connections, &self.clock, deadline);
        match job {
            BroadcastJob::Page(job) => post_page(&poster, &self.records, &self.outbox, job).await,
            BroadcastJob::Stock(job) => {
                post_stock(&poster, &self.campaigns, &self.outbox, job).await
            }
            BroadcastJob::Announce(_) => unreachable!("announced by itself"),
        }
    }

    /// Runs every job from the `from`th on, those they send included.
    async fn drain(&self, engine: &PostEngine<&MemoryPusher>, from: usize, seconds: u64) {
        let mut next = from;
        while let Some((job, _)) = self.outbox.broadcasts().get(next).cloned() {
            self.run(engine, job, seconds).await;
            next += 1;
        }
    }

    async fn deliver(&self, names: &[&str]) -> Result<PostSummary, JobError> {
        self.deliver_generation(names, 0, 25).await
    }

    /// Posts answers as a job of this generation, with so many seconds to go.
    async fn deliver_generation(
        &self,
        names: &[&str],
        generation: u8,
        seconds: u64,
    ) -> Result<PostSummary, JobError> {
        let engine = self.engine(1000);
        let poster = Poster::new(
            &engine,
            &self.connections,
            &self.clock,
            Instant::now() + Duration::from_secs(seconds),
        );
        let answer = |name: &&str| Answer {
            connection_id: ConnectionId::new(*name).unwrap(),
            frame: ServerFrame::repeatable(&[name], FrameBody::Pong),
            requested_at: Some(self.clock.now().plus_seconds(-2)),
            trace: None,
        };
        let answers = names.iter().map(answer).collect();
        deliver_answers(&poster, &self.outbox, answers, generation).await
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("connection-{i:05}")).collect()
}

#[tokio::test(start_paused = true)]
async fn an_announcement_reaches_everybody_once_and_its_report_adds_up() {
    let stage = Stage::new();
    let names = names(3000);
    stage.connect(&names, 60);
    stage.pusher.answers(&names[7], &[PushOutcome::Gone]);
    stage.pusher.answers(&names[8], &[PushOutcome::Failed; 9]);
    assert_eq!(
        stage.announce(stage.announcement()).await,
        Announced::FannedOut
    );
    assert_eq!(
        stage.announce(stage.announcement()).await,
        Announced::FannedOutBefore
    );
    stage.drain(&stage.engine(10_000), 0, 25).await;
    let id = stage.announcement().broadcast_id;
    assert_eq!(stage.records.counts(&id), [2998, 1, 1]);
    assert_eq!(stage.pusher.delivered(), 2998);
    assert_eq!(stage.pusher.frames(&names[0]), [stage.announcement().frame]);
    assert_eq!(
        stage.connections.listeners(&stage.topic()).len(),
        2999,
        "the gone one is forgotten"
    );
    assert_eq!(
        stage
            .connections
            .listeners(&Topic::Partner(stage.campaign.partner_id.clone()))
            .len(),
        2999
    );
}

#[tokio::test(start_paused = true)]
async fn a_page_short_of_time_goes_on_as_a_new_job_and_nobody_counts_twice() {
    let stage = Stage::new();
    stage.connect(&names(3000), 60);
    stage.announce(stage.announcement()).await;
    // Two seconds at a hundred posts a second: far less than a page of about 375 members.
    stage.drain(&stage.engine(100), 0, 2).await;
    assert_eq!(
        stage.records.counts(&stage.announcement().broadcast_id),
        [3000, 0, 0]
    );
    let generations = stage
        .outbox
        .broadcasts()
        .into_iter()
        .map(|(job, _)| match job {
            BroadcastJob::Page(page) => page.generation,
            _ => 0,
        });
    assert!((1..=MAX_GENERATION).contains(&generations.max().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_redelivered_page_takes_up_at_its_cursor() {
    let stage = Stage::new();
    stage.connect(&names(3000), 60);
    stage.announce(stage.announcement()).await;
    let page = stage.outbox.broadcasts()[0].0.clone();
    stage.run(&stage.engine(100), page.clone(), 2).await;
    let after_first = stage.pusher.delivered();
    let engine = stage.engine(10_000);
    let second = stage.run(&engine, page.clone(), 25).await;
    assert!(after_first > 0 && second.sent > 0);
    let [sent, ..] = stage.records.counts(&stage.announcement().broadcast_id);
    // What the deadline caught in flight may go out twice, with the same id; it counts once.
    assert!(sent as usize <= stage.pusher.delivered());
    assert_eq!(sent, shard_size(&stage, 0));
    assert_eq!(
        stage.run(&engine, page, 25).await,
        PostSummary::default(),
        "a finished page posts nothing"
    );
}

fn shard_size(stage: &Stage, shard: u16) -> u32 {
    let members = stage.connections.listeners(&stage.topic());
    u32::try_from(
        members
            .iter()
            .filter(|id| membership_shard(id) == shard)
            .count(),
    )
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn of_two_runs_of_a_page_at_once_one_counts() {
    let stage = Stage::new();
    stage.connect(&names(800), 60);
    stage.announce(stage.announcement()).await;
    let page = stage.outbox.broadcasts()[0].0.clone();
    let engine = stage.engine(10_000);
    let (first, second) = tokio::join!(
        stage.run(&engine, page.clone(), 25),
        stage.run(&engine, page, 25)
    );
    let [sent, ..] = stage.records.counts(&stage.announcement().broadcast_id);
    assert_eq!(sent, shard_size(&stage, 0));
    assert_eq!(
        first.sent + second.sent,
        sent,
        "the loser's counts are dropped"
    );
}

#[tokio::test(start_paused = true)]
async fn a_page_carried_on_too_often_is_left_to_the_queue() {
    let stage = Stage::new();
    stage.connect(&names(800), 60);
    stage.announce(stage.announcement()).await;
    let BroadcastJob::Page(page) = stage.outbox.broadcasts()[0].0.clone() else {
        panic!("a page job")
    };
    let job = BroadcastJob::Page(PageJob {
        generation: MAX_GENERATION,
        ..page
    });
    let result = stage.try_run(&stage.engine(10), job, 1).await;
    assert!(matches!(result, Err(JobError::Generations)));
    assert_eq!(
        stage.outbox.broadcasts().len(),
        usize::from(MEMBERSHIP_SHARDS),
        "no ninth generation"
    );
}

#[tokio::test(start_paused = true)]
async fn a_young_connection_that_stays_gone_counts_and_keeps_its_membership() {
    let stage = Stage::new();
    stage.connect(&["young".into()], 29);
    stage.connect(&["late".into()], 1);
    stage.pusher.answers("young", &[PushOutcome::Gone; 5]);
    stage.pusher.answers("late", &[PushOutcome::Gone]);
    stage.announce(stage.announcement()).await;
    stage.drain(&stage.engine(1000), 0, 25).await;
    assert_eq!(
        stage.records.counts(&stage.announcement().broadcast_id),
        [1, 1, 0]
    );
    assert_eq!(stage.pusher.attempts("young"), 2);
    assert_eq!(stage.connections.listeners(&stage.topic()).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_young_until_it_is_thirty_seconds_old() {
    for (age, is_young) in [(YOUNG_MILLIS - 1, true), (YOUNG_MILLIS, false)] {
        let stage = Stage::new();
        stage.connect_millis(&["socket".into()], age);
        stage.pusher.answers("socket", &[PushOutcome::Gone; 5]);
        stage.announce(stage.announcement()).await;
        stage.drain(&stage.engine(1000), 0, 25).await;
        assert_eq!(stage.pusher.attempts("socket"), 1 + usize::from(is_young));
        let listeners = stage.connections.listeners(&stage.topic()).len();
        assert_eq!(listeners, usize::from(is_young), "a page, at {age} ms");

        let stage = Stage::new();
        stage.connect_millis(&["socket".into()], age);
        stage.pusher.answers("socket", &[PushOutcome::Gone; 5]);
        stage.deliver(&["socket"]).await.unwrap();
        let listeners = stage.connections.listeners(&stage.topic()).len();
        assert_eq!(listeners, usize::from(is_young), "an answer, at {age} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gone_membership_without_a_connection_is_removed() {
    let stage = Stage::new();
    let orphan = ConnectionId::new("orphan").unwrap();
    stage
        .connections
        .insert_orphan(&stage.topic(), &orphan, stage.now.plus_seconds(-60));
    stage.pusher.answers("orphan", &[PushOutcome::Gone]);
    stage.announce(stage.announcement()).await;
    stage.drain(&stage.engine(1000), 0, 25).await;
    assert!(stage.connections.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_announcement_waits_until_it_is_due() {
    let stage = Stage::new();
    let due_at = Some(Timestamp::from_millis(stage.now.millis() + 1500));
    let early = Announcement {
        due_at,
        ..stage.announcement()
    };
    assert_eq!(stage.announce(early.clone()).await, Announced::Postponed);
    assert_eq!(
        stage.outbox.broadcasts(),
        [(BroadcastJob::Announce(early.clone()), 2)]
    );
    stage.clock.advance_millis(1499);
    assert_eq!(stage.announce(early.clone()).await, Announced::Postponed);
    stage.clock.advance_millis(1);
    assert_eq!(stage.announce(early).await, Announced::FannedOut);
}

#[tokio::test(start_paused = true)]
async fn an_announcement_that_no_longer_holds_is_dropped() {
    let stage = Stage::new();
    let void = Announcement {
        void_at: Some(stage.now),
        ..stage.announcement()
    };
    assert_eq!(stage.announce(void).await, Announced::Void);
    let holds = Announcement {
        void_at: Some(Timestamp::from_millis(stage.now.millis() + 1)),
        broadcast_id: BroadcastId::new("holds").unwrap(),
        ..stage.announcement()
    };
    assert_eq!(stage.announce(holds).await, Announced::FannedOut);
    stage
        .campaigns
        .close(&stage.campaign.campaign_id, stage.now);
    assert_eq!(
        stage.announce(stage.announcement()).await,
        Announced::Void,
        "closed before it opened"
    );
    let closing = Announcement {
        due_at: None,
        ..closed(&stage.campaign)
    };
    assert_eq!(
        stage.announce(closing).await,
        Announced::FannedOut,
        "a closing holds when closed"
    );
}

#[tokio::test(start_paused = true)]
async fn pages_are_sent_for_again_until_all_were_sent() {
    let stage = Stage::new();
    stage.outbox.fail(true);
    let failed = announce(
        &stage.campaigns,
        &stage.records,
        &stage.outbox,
        stage.announcement(),
        stage.now,
    )
    .await;
    assert!(matches!(failed, Err(JobError::Port(_))));
    assert_eq!(
        stage.records.record(&stage.announcement().broadcast_id),
        Some(FanOut::Pending)
    );
    stage.outbox.fail(false);
    assert_eq!(
        stage.announce(stage.announcement()).await,
        Announced::FannedOut
    );
    assert_eq!(
        stage.outbox.broadcasts().len(),
        usize::from(MEMBERSHIP_SHARDS)
    );
}

fn stock_job(stage: &Stage) -> StockJob {
    let campaign_id = stage.campaign.campaign_id.clone();
    StockJob {
        campaign_id,
        shards: stage.campaign.shards,
        generation: 0,
        resume: None,
        posted_millis: 0,
    }
}

#[tokio::test(start_paused = true)]
async fn the_stock_is_told_after_its_mark_is_cleared() {
    let stage = Stage::new();
    stage.connect(&names(20), 60);
    let id = &stage.campaign.campaign_id;
    assert_eq!(
        stage.campaigns.mark(id, stage.now, 5).await.unwrap(),
        Some(1)
    );
    stage
        .run(
            &stage.engine(1000),
            BroadcastJob::Stock(stock_job(&stage)),
            25,
        )
        .await;
    assert_eq!(
        stage.campaigns.mark(id, stage.now, 5).await.unwrap(),
        Some(1),
        "the next change is told again"
    );
    let body = FrameBody::CampaignStock {
        campaign_id: id.clone(),
        issued: 0,
        remaining: 3000,
    };
    let frame = ServerFrame::repeatable(&["campaign.stock", id.as_str(), "0"], body);
    assert!(
        names(20)
            .iter()
            .all(|name| stage.pusher.frames(name) == [frame.clone()])
    );
}

#[tokio::test(start_paused = true)]
async fn a_stock_job_short_of_time_goes_on_where_it_stopped() {
    let stage = Stage::new();
    stage.connect(&names(1000), 60);
    let engine = stage.engine(100);
    stage
        .run(&engine, BroadcastJob::Stock(stock_job(&stage)), 4)
        .await;
    stage.drain(&engine, 0, 4).await;
    assert!(
        names(1000)
            .iter()
            .all(|name| !stage.pusher.frames(name).is_empty())
    );
    let posts: usize = names(1000)
        .iter()
        .map(|name| stage.pusher.attempts(name))
        .sum();
    assert!(posts <= 1010, "{posts}");
}

/// The pace that the next tick is given.
async fn pace(stage: &Stage) -> Option<u16> {
    let id = &stage.campaign.campaign_id;
    stage.campaigns.mark(id, stage.now, 5).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_stock_is_told_no_faster_than_one_worker_tells_it() {
    let stage = Stage::new();
    stage.connect(&names(1000), 60);
    let job = || BroadcastJob::Stock(stock_job(&stage));
    stage.run(&stage.engine(100), job(), 25).await;
    let slow = pace(&stage).await.unwrap();
    assert!(
        (9..=11).contains(&slow),
        "1,000 sockets at 100 a second: {slow}"
    );
    stage.run(&stage.engine(10_000), job(), 25).await;
    assert_eq!(pace(&stage).await, Some(1), "fast again, fast told");
}

#[tokio::test(start_paused = true)]
async fn a_stock_told_in_many_jobs_is_as_slow_as_all_of_them() {
    let stage = Stage::new();
    stage.connect(&names(1000), 60);
    let engine = stage.engine(100);
    stage
        .run(&engine, BroadcastJob::Stock(stock_job(&stage)), 4)
        .await;
    let so_far = pace(&stage).await.unwrap();
    assert!(
        (2..=5).contains(&so_far),
        "noted while it goes on: {so_far}"
    );
    stage.drain(&engine, 0, 4).await;
    stage
        .campaigns
        .clear(&stage.campaign.campaign_id)
        .await
        .unwrap();
    let whole = pace(&stage).await.unwrap();
    assert!((9..=14).contains(&whole), "{whole}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_stock_shard_is_an_error_and_never_zero() {
    let stage = Stage::new();
    let id = &stage.campaign.campaign_id;
    stage.campaigns.lose_shard(id, 0);
    assert_eq!(
        stage.campaigns.mark(id, stage.now, 5).await.unwrap(),
        Some(1)
    );
    let result = stage
        .try_run(
            &stage.engine(1000),
            BroadcastJob::Stock(stock_job(&stage)),
            25,
        )
        .await;
    assert!(matches!(result, Err(JobError::Port(_))));
    assert_eq!(
        stage.campaigns.mark(id, stage.now, 5).await.unwrap(),
        Some(1),
        "cleared before the read"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_gone_socket_is_dropped_and_the_old_socket_forgotten() {
    let stage = Stage::new();
    stage.connect(&["old".into()], 31);
    stage.connect(&["young".into()], 29);
    for name in ["old", "young", "unknown"] {
        stage.pusher.answers(name, &[PushOutcome::Gone; 3]);
    }
    let summary = stage
        .deliver(&["old", "young", "unknown", "fine"])
        .await
        .unwrap();
    assert_eq!((summary.sent, summary.gone), (1, 3));
    assert_eq!(
        stage.connections.listeners(&stage.topic()),
        [ConnectionId::new("young").unwrap()]
    );
}

/// The sockets of the jobs that were sent on, with the generation and the delay of each.
fn sent_on(stage: &Stage) -> Vec<(Vec<String>, u8, u16)> {
    let job = |(job, delay)| match job {
        DeliveryJob::Deliver {
            answers,
            generation,
        } => {
            let sockets = answers
                .iter()
                .map(|answer| answer.connection_id.to_string());
            (sockets.collect(), generation, delay)
        }
        DeliveryJob::Snapshot {
            connection_id,
            generation,
            ..
        } => (vec![connection_id.to_string()], generation, delay),
    };
    stage.outbox.retries().into_iter().map(job).collect()
}

#[tokio::test(start_paused = true)]
async fn only_what_could_not_be_posted_goes_on() {
    let stage = Stage::new();
    stage.pusher.answers("slow", &[PushOutcome::Throttled; 50]);
    stage.pusher.answers("bad", &[PushOutcome::Failed; 50]);
    let names = ["fine", "slow", "good", "bad"];
    let summary = stage.deliver(&names).await.unwrap();
    assert_eq!((summary.sent, summary.failed), (2, 2));
    let expected = (vec!["slow".to_owned(), "bad".to_owned()], 1, 2);
    assert_eq!(sent_on(&stage), [expected]);
    assert_eq!(stage.pusher.frames("fine").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_deadline_left_goes_on_and_at_the_last_try_comes_again() {
    let stage = Stage::new();
    stage.deliver_generation(&["a", "b"], 3, 0).await.unwrap();
    let both = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(sent_on(&stage), [(both, 4, 128)]);
    let last = stage.deliver_generation(&["a", "b"], LAST_DELIVERY, 0);
    assert!(matches!(last.await, Err(JobError::Undelivered(2))));
    assert_eq!(sent_on(&stage).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_cannot_be_sent_on_comes_again_whole() {
    let stage = Stage::new();
    stage.pusher.answers("slow", &[PushOutcome::Throttled; 50]);
    stage.outbox.fail(true);
    let failed = stage.deliver(&["slow", "fine"]).await;
    assert!(matches!(failed, Err(JobError::Port(_))));
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_cannot_be_told_at_the_last_try_counts_as_gone() {
    let stage = Stage::new();
    stage.connect(&["slow".into()], 60);
    stage.pusher.answers("slow", &[PushOutcome::Throttled; 50]);
    let names = ["slow", "fine"];
    let summary = stage.deliver_generation(&names, LAST_DELIVERY, 25).await;
    let summary = summary.unwrap();
    assert_eq!((summary.sent, summary.gone, summary.failed), (1, 1, 0));
    assert!(sent_on(&stage).is_empty());
    assert!(stage.connections.is_empty(), "forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_slow_sockets_answer_is_tried_five_times_and_the_others_once() {
    let stage = Stage::new();
    stage.connect(&["slow".into()], 60);
    stage.pusher.answers("slow", &[PushOutcome::Throttled; 500]);
    let names = names(199);
    let mut job: Vec<&str> = names.iter().map(String::as_str).collect();
    job.push("slow");
    for generation in 0..=LAST_DELIVERY {
        stage
            .deliver_generation(&job, generation, 25)
            .await
            .unwrap();
        job = vec!["slow"];
    }
    assert_eq!(stage.pusher.delivered(), 199, "each answer once");
    let waited: Vec<u16> = sent_on(&stage).iter().map(|(.., delay)| *delay).collect();
    assert_eq!(waited, [2, 8, 32, 128]);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_could_not_be_posted_is_made_anew_later() {
    let stage = Stage::new();
    stage.pusher.answers("slow", &[PushOutcome::Failed; 50]);
    let engine = stage.engine(1000);
    let deadline = Instant::now() + Duration::from_secs(25);
    let poster = Poster::new(&engine, &stage.connections, &stage.clock, deadline);
    let of = (ConnectionId::new("slow").unwrap(), stage.campaign.clone());
    deliver_snapshot(&poster, &stage.outbox, &stage.campaigns, of, 2)
        .await
        .unwrap();
    assert_eq!(sent_on(&stage), [(vec!["slow".to_owned()], 3, 32)]);
    assert!(matches!(
        &stage.outbox.retries()[..],
        [(DeliveryJob::Snapshot { .. }, _)]
    ));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_tells_the_stock_as_it_stands_now() {
    let stage = Stage::new();
    let engine = stage.engine(1000);
    let poster = Poster::new(
        &engine,
        &stage.connections,
        &stage.clock,
        Instant::now() + Duration::from_secs(25),
    );
    let socket = ConnectionId::new("c").unwrap();
    let again = async || {
        let of = (socket.clone(), stage.campaign.clone());
        deliver_snapshot(&poster, &stage.outbox, &stage.campaigns, of, 0)
            .await
            .unwrap();
    };
    again().await;
    let id = &stage.campaign.campaign_id;
    stage.campaigns.freeze_shard(id, 0, stage.now);
    again().await;
    stage.campaigns.close(id, stage.now);
    again().await;
    let expected = |phase| ServerFrame::snapshot(&stage.campaign, phase, 0);
    assert_eq!(
        stage.pusher.frames("c"),
        [Phase::Open, Phase::Open, Phase::Closed].map(expected),
        "one frozen shard of several is not the end"
    );
}
