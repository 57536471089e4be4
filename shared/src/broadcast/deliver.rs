//! Answers and snapshots: each socket gets its own frame. Of a job only what could not be posted goes on, as a new job, so that
//! one slow socket costs the others nothing.

use crate::{
    Answer, Campaign, Clock, ConnectionId, DeliveryJob, DeliveryRetries, Forgetting, JobError,
    LAST_DELIVERY, PortError, Post, PostSummary, Posted, Poster, Pusher, ServerFrame, Settlement,
    StockCounters, StockShard, Timestamp, broadcast::poster::encode, claim_list,
    delivery_delay_seconds,
};

/// Posts answers to the sockets that claimed. An answer whose socket is gone is dropped: it stands, and can be asked for
/// again. Those that could not be posted, or not before the deadline, go on as a job of the next generation. A socket that cannot
/// be told at the last one counts as gone.
///
/// # Errors
/// [`JobError::Port`] if the rest could not be sent on, [`JobError::Undelivered`] if at the last generation the deadline came
/// first: the job is to come again.
pub async fn deliver_answers<P: Pusher, C: Forgetting, K: Clock>(
    poster: &Poster<'_, P, C, K>,
    retries: &impl DeliveryRetries,
    answers: Vec<Answer>,
    generation: u8,
) -> Result<PostSummary, JobError> {
    let (summary, open) = post_answers(poster, &answers, generation).await?;
    let rest: Vec<Answer> = answers
        .into_iter()
        .zip(open)
        .filter_map(|(answer, open)| open.then_some(answer))
        .collect();
    let left = rest.len();
    let job = |generation| DeliveryJob::Deliver {
        answers: rest,
        generation,
    };
    carry_on(retries, left, generation, job).await?;
    Ok(summary)
}

/// Sends the rest of a job on, if there is one.
async fn carry_on(
    retries: &impl DeliveryRetries,
    left: usize,
    generation: u8,
    job: impl FnOnce(u8) -> DeliveryJob,
) -> Result<(), JobError> {
    if left == 0 {
        return Ok(());
    }
    if generation >= LAST_DELIVERY {
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        return Err(JobError::Undelivered(left));
    }
    let delay = delivery_delay_seconds(generation);
    retries.deliver_later(&job(generation + 1), delay).await?;
    Ok(())
}

/// Posts the answers, forgets who is gone, and tells of each answer whether it is still to be posted.
async fn post_answers<P: Pusher, C: Forgetting, K: Clock>(
    poster: &Poster<'_, P, C, K>,
    answers: &[Answer],
    generation: u8,
) -> Result<(PostSummary, Vec<bool>), JobError> {
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
    let mut posted = poster.post(&posts).await;
    if generation >= LAST_DELIVERY {
        give_up(&mut posted);
    }
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
    let is_open = |settlement| matches!(settlement, Settlement::Failed | Settlement::Unsettled);
    let open = posted.settlements.into_iter().map(is_open).collect();
    Ok((summary, open))
}

/// After the last try, who could not be told counts as gone.
fn give_up(posted: &mut Posted) {
    let mut given_up = 0;
    for settlement in &mut posted.settlements {
        if *settlement == Settlement::Failed {
            *settlement = Settlement::Gone;
            given_up += 1;
        }
    }
    if given_up > 0 {
        tracing::warn!(
            sockets = given_up,
            "sockets that could not be told count as gone"
        );
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
    retries: &impl DeliveryRetries,
    counters: &impl StockCounters,
    (connection_id, campaign): (ConnectionId, Campaign),
    generation: u8,
) -> Result<PostSummary, JobError> {
    let stock = whole_stock(counters, &campaign.campaign_id, campaign.shards).await?;
    let known = Campaign {
        closed_at: campaign.closed_at.or(all_frozen_at(&stock)),
        ..campaign.clone()
    };
    let (issued, remaining) = totals(&stock);
    let phase = known.phase(poster.clock.now(), remaining == 0);
    let answer = Answer {
        connection_id: connection_id.clone(),
        frame: ServerFrame::snapshot(&known, phase, issued),
        requested_at: None,
        trace: None,
    };
    let (summary, open) = post_answers(poster, &[answer], generation).await?;
    let left = open.into_iter().filter(|open| *open).count();
    // Not the frame: by then the stock is another.
    let job = |generation| DeliveryJob::Snapshot {
        connection_id,
        campaign,
        generation,
    };
    carry_on(retries, left, generation, job).await?;
    Ok(summary)
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
