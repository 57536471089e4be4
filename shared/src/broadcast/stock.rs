//! Tells a campaign's stock to those who watch it.

use tokio::time::Instant;

use crate::{
    Audience, BroadcastJob, BroadcastOutbox, CampaignId, Clock, ConnectionId, FIRST_PACE_SECONDS,
    Forgetting, FrameBody, JobError, MAX_GENERATION, MEMBERSHIP_SHARDS, PAGE_LIMIT, PostSummary,
    Poster, Pusher, ServerFrame, StockCounters, StockJob, StockTicks, Timestamp, Topic,
    broadcast::{
        deliver::{totals, whole_stock},
        poster::encode,
    },
    stable_id,
};

/// The slowest pace, in seconds: SQS delays a message by 15 minutes at most
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-delay-queues.html>).
const LAST_PACE_SECONDS: u16 = 900;

/// Takes the tick's mark away, reads the stock, posts it. In this order: whoever changes the stock after the read finds no
/// mark and sends the next job, so the last value always goes out. Short of time, it sends itself on.
///
/// # Errors
/// [`JobError::Port`]: the job is to come again.
pub async fn post_stock<P: Pusher, C: Forgetting + Audience, K: Clock>(
    poster: &Poster<'_, P, C, K>,
    campaigns: &(impl StockTicks + StockCounters),
    outbox: &impl BroadcastOutbox,
    job: StockJob,
) -> Result<PostSummary, JobError> {
    let noted = match job.resume {
        None => Some(campaigns.clear(&job.campaign_id).await?),
        Some(_) => None,
    };
    let mut pace = Pace::new(&job, noted);
    let (issued, remaining) = totals(&whole_stock(campaigns, &job.campaign_id, job.shards).await?);
    let id = stable_id(&[
        "campaign.stock",
        job.campaign_id.as_str(),
        &issued.to_string(),
    ]);
    let body = FrameBody::CampaignStock {
        campaign_id: job.campaign_id.clone(),
        issued,
        remaining,
    };
    let mut summary = PostSummary::default();
    let frame = ServerFrame { id, body };
    let rest = post_frame(poster, campaigns, &frame, &job, &mut pace, &mut summary).await;
    poster.report("stock", job.campaign_id.as_str(), summary);
    let rest = rest?;
    if rest.is_none() {
        pace.settle(campaigns, poster.clock.now()).await;
    }
    match rest {
        Some(resume) if job.generation < MAX_GENERATION => {
            let next = StockJob {
                generation: job.generation + 1,
                resume: Some(resume),
                posted_millis: pace.millis(),
                ..job
            };
            outbox.send(&[(BroadcastJob::Stock(next), 0)]).await?;
        }
        // A gauge: whoever missed this value gets a later one, or the snapshot.
        Some(_) => {
            tracing::warn!(campaign.id = %job.campaign_id, "stock told to a part of its audience only")
        }
        None => {}
    }
    Ok(summary)
}

/// Posts to every member from `job.resume` on; returns where to carry on if the deadline comes first.
async fn post_frame<P: Pusher, C: Forgetting + Audience, K: Clock>(
    poster: &Poster<'_, P, C, K>,
    ticks: &impl StockTicks,
    frame: &ServerFrame,
    job: &StockJob,
    pace: &mut Pace,
    summary: &mut PostSummary,
) -> Result<Option<(u16, Option<ConnectionId>)>, JobError> {
    let payload = encode(frame)?;
    let topic = Topic::Campaign(job.campaign_id.clone());
    let (first, mut after) = job.resume.clone().unwrap_or_default();
    for shard in first..MEMBERSHIP_SHARDS {
        loop {
            if poster.is_late() {
                return Ok(Some((shard, after)));
            }
            let page = poster
                .connections
                .members(&topic, shard, after.as_ref(), PAGE_LIMIT)
                .await?;
            let posted = poster.tell(&page.members, &payload).await;
            let settled = posted.settled_prefix();
            summary.add(PostSummary::count(&posted, settled));
            poster
                .forget_gone_members(&topic, &page.members, &posted)
                .await;
            pace.slow_down(ticks, poster.clock.now()).await;
            if let Some(last) = page.members[..settled].last() {
                after = Some(last.connection_id.clone());
            }
            if settled < page.members.len() {
                return Ok(Some((shard, after)));
            }
            if page.next.is_none() {
                break;
            }
        }
        after = None;
    }
    Ok(None)
}

/// How far apart a campaign's ticks are: as far as one of them takes, so that the gauge of the largest audience keeps one
/// worker busy and leaves the others, and what they may post, to the announcements.
struct Pace {
    campaign: CampaignId,
    began: Instant,
    /// Milliseconds that earlier jobs of the tick took.
    before: u64,
    /// What workers go by; `None` if this job does not know.
    noted: Option<u16>,
}

impl Pace {
    fn new(job: &StockJob, noted: Option<u16>) -> Self {
        Self {
            campaign: job.campaign_id.clone(),
            began: Instant::now(),
            before: job.posted_millis,
            noted,
        }
    }

    /// How long the tick has been posted, in milliseconds.
    fn millis(&self) -> u64 {
        let here = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.before.saturating_add(here)
    }

    fn seconds(&self) -> u16 {
        let seconds = u16::try_from(self.millis().div_ceil(1000)).unwrap_or(u16::MAX);
        seconds.clamp(FIRST_PACE_SECONDS, LAST_PACE_SECONDS)
    }

    /// Notes a pace that has doubled while the tick is still being posted, lest a few more begin beside it.
    async fn slow_down(&mut self, ticks: &impl StockTicks, now: Timestamp) {
        if self.seconds() >= self.noted.unwrap_or_default().saturating_mul(2) {
            self.note(ticks, now).await;
        }
    }

    /// Notes what the whole tick took, faster or slower than before.
    async fn settle(&mut self, ticks: &impl StockTicks, now: Timestamp) {
        if self.noted != Some(self.seconds()) {
            self.note(ticks, now).await;
        }
    }

    /// A failure leaves the pace as it was: the gauge comes too often or too seldom until the next.
    async fn note(&mut self, ticks: &impl StockTicks, now: Timestamp) {
        let seconds = self.seconds();
        match ticks.set_pace(&self.campaign, seconds, now).await {
            Ok(()) => self.noted = Some(seconds),
            Err(error) => {
                tracing::warn!(campaign.id = %self.campaign, error = &error as &dyn std::error::Error, "pace of the stock not noted");
            }
        }
    }
}
