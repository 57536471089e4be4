//! Answers and snapshots: each socket gets its own frame.

use crate::{
    Answer, Campaign, Clock, ConnectionId, Forgetting, JobError, PortError, Post, PostSummary,
    Posted, Poster, Pusher, ServerFrame, Settlement, StockCounters, StockShard, Timestamp,
    broadcast::poster::encode, claim_list,
};

/// Posts answers to the sockets that claimed. An answer whose socket is gone is dropped: it stands, and can be asked for
/// again.
///
/// # Errors
/// [`JobError::Undelivered`] if a post failed or the deadline came first: the job is to come again.
pub async fn deliver_answers<P: Pusher, C: Forgetting, K: Clock>(
    poster: &Poster<'_, P, C, K>,
    answers: &[Answer],
) -> Result<PostSummary, JobError> {
    let post = |answer: &Answer| {
        let (connection_id, payload) = (answer.connection_id.clone(), encode(&answer.frame)?);
        // Whoever could send a claim has finished the handshake.
        Ok::<_, JobError>(Post {
            connection_id,
            payload,
            young: false,
        })
    };
    let posts = answers.iter().map(post).collect::<Result<Vec<_>, _>>()?;
    let posted = poster.post(&posts).await;
    let summary = PostSummary::count(&posted, posts.len());
    let is_gone = |(post, settlement): (Post, &Settlement)| {
        (*settlement == Settlement::Gone).then_some(post.connection_id)
    };
    poster
        .forget(
            posts
                .into_iter()
                .zip(&posted.settlements)
                .filter_map(is_gone)
                .collect(),
            None,
        )
        .await;
    poster.report("deliver", &claims_of(answers, &posted), summary);
    let now = poster.clock.now();
    poster.facts().answered_after = delivered(answers, &posted)
        .filter_map(|answer| Some(now.millis_since(answer.requested_at?)))
        .collect();
    match summary.failed + summary.unsettled {
        0 => Ok(summary),
        open => Err(JobError::Undelivered(open)),
    }
}

fn delivered<'a>(answers: &'a [Answer], posted: &'a Posted) -> impl Iterator<Item = &'a Answer> {
    let pairs = answers.iter().zip(&posted.settlements);
    pairs
        .filter(|(_, settlement)| **settlement == Settlement::Sent)
        .map(|(answer, _)| answer)
}

/// Whose answers these were and what became of each, so that a claim is found in the log by its id.
fn claims_of(answers: &[Answer], posted: &Posted) -> String {
    let of = |wanted: &[Settlement]| {
        let pairs = answers.iter().zip(&posted.settlements);
        claim_list(
            pairs
                .filter(|(_, settlement)| wanted.contains(settlement))
                .filter_map(|(answer, _)| Some((answer.frame.claim_id()?, answer.trace.as_ref()))),
        )
    };
    let parts = [
        ("sent", of(&[Settlement::Sent])),
        ("gone", of(&[Settlement::Gone])),
        ("open", of(&[Settlement::Failed, Settlement::Unsettled])),
    ];
    let told = parts
        .into_iter()
        .filter_map(|(name, list)| Some(format!("{name}: {}", list?)));
    told.collect::<Vec<_>>().join("; ")
}

/// Posts a campaign's present state to a socket that has just subscribed.
///
/// # Errors
/// As [`deliver_answers`], and [`JobError::Port`] if the stock cannot be read whole.
pub async fn deliver_snapshot<P: Pusher, C: Forgetting, K: Clock>(
    poster: &Poster<'_, P, C, K>,
    counters: &impl StockCounters,
    connection_id: ConnectionId,
    mut campaign: Campaign,
) -> Result<PostSummary, JobError> {
    let stock = whole_stock(counters, &campaign.campaign_id, campaign.shards).await?;
    campaign.closed_at = campaign.closed_at.or(all_frozen_at(&stock));
    let (issued, remaining) = totals(&stock);
    let phase = campaign.phase(poster.clock.now(), remaining == 0);
    let frame = ServerFrame::snapshot(&campaign, phase, issued);
    deliver_answers(
        poster,
        &[Answer {
            connection_id,
            frame,
            requested_at: None,
            trace: None,
        }],
    )
    .await
}

/// When the last of these shards was frozen; `None` while one of them may still issue.
fn all_frozen_at(stock: &[StockShard]) -> Option<Timestamp> {
    let frozen: Option<Vec<Timestamp>> = stock.iter().map(|shard| shard.closed_at).collect();
    frozen?.into_iter().max()
}

/// All stock shards. A missing one is damage, never "empty".
pub(super) async fn whole_stock(
    counters: &impl StockCounters,
    campaign: &crate::CampaignId,
    shards: u16,
) -> Result<Vec<StockShard>, PortError> {
    let wanted: Vec<u16> = (0..shards).collect();
    let stock = counters.stock(campaign, &wanted).await?;
    if stock.len() < wanted.len() {
        return Err(PortError::reject(
            "read the whole stock",
            "a stock shard is missing",
        ));
    }
    Ok(stock)
}

/// Issued and remaining coupons over all shards.
pub(super) fn totals(stock: &[StockShard]) -> (u32, u32) {
    (
        stock.iter().map(|shard| shard.issued).sum(),
        stock.iter().map(|shard| shard.remaining).sum(),
    )
}
