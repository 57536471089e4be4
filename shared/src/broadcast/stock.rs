//! Tells a campaign's stock to those who watch it.

use crate::{
    Audience, BroadcastJob, BroadcastOutbox, Clock, ConnectionId, Forgetting, FrameBody, JobError,
    MAX_GENERATION, MEMBERSHIP_SHARDS, PAGE_LIMIT, PostSummary, Poster, Pusher, ServerFrame,
    StockCounters, StockJob, StockTicks, Topic,
    broadcast::{
        deliver::{totals, whole_stock},
        poster::encode,
    },
    stable_id,
};

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
    if job.resume.is_none() {
        campaigns.clear(&job.campaign_id).await?;
    }
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
    let rest = post_frame(poster, &ServerFrame { id, body }, &job, &mut summary).await;
    poster.report("stock", job.campaign_id.as_str(), summary);
    match rest? {
        Some(resume) if job.generation < MAX_GENERATION => {
            let next = StockJob {
                generation: job.generation + 1,
                resume: Some(resume),
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
    frame: &ServerFrame,
    job: &StockJob,
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
