//! Starts an announcement: waits until it is due, drops it when it no longer holds, sends for its pages.

use crate::{
    Announcement, AnnouncementKind, BroadcastJob, BroadcastOutbox, FanOut, FanOutRecords, JobError,
    MEMBERSHIP_SHARDS, PageJob, PortError, StockCounters, Timestamp, Topic, delay_seconds,
};

/// What became of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// Its pages are in the queue.
    FannedOut,
    /// They were already.
    FannedOutBefore,
    /// It is not due yet and comes again.
    Postponed,
    /// It no longer holds.
    Void,
}

/// Starts an announcement. Repeating it sends for the pages again until the record says that all were sent: pages keep
/// cursors, so that nobody is skipped, and clients tell repeats by the frame's id.
///
/// # Errors
/// [`JobError::Port`]: the job is to come again.
pub async fn announce(
    counters: &impl StockCounters,
    records: &impl FanOutRecords,
    outbox: &impl BroadcastOutbox,
    announcement: Announcement,
    now: Timestamp,
) -> Result<Announced, JobError> {
    let announced = if let Some(due) = announcement.due_at.filter(|due| now < *due) {
        let delay = delay_seconds(due, now);
        outbox
            .send(&[(BroadcastJob::Announce(announcement.clone()), delay)])
            .await?;
        Announced::Postponed
    } else if announcement.void_at.is_some_and(|void| void <= now)
        || is_closed(counters, &announcement).await?
    {
        Announced::Void
    } else if records.begin(&announcement, now).await? == FanOut::Complete {
        Announced::FannedOutBefore
    } else {
        let jobs: Vec<_> = (0..MEMBERSHIP_SHARDS)
            .map(|shard| (page_job(&announcement, shard), 0))
            .collect();
        outbox.send(&jobs).await?;
        records.complete(&announcement.broadcast_id).await?;
        Announced::FannedOut
    };
    tracing::info!(
        job.kind = "announce",
        broadcast.id = %announcement.broadcast_id,
        announcement.kind = ?announcement.kind,
        outcome = ?announced,
        "announced"
    );
    Ok(announced)
}

/// Whether an opening has been overtaken by an early close: that freezes every shard and is always finished, so one tells.
async fn is_closed(
    counters: &impl StockCounters,
    announcement: &Announcement,
) -> Result<bool, PortError> {
    match (&announcement.topic, announcement.kind) {
        (Topic::Campaign(campaign), AnnouncementKind::Opened) => {
            let stock = counters.stock(campaign, &[0]).await?;
            Ok(stock.iter().any(|shard| shard.closed_at.is_some()))
        }
        _ => Ok(false),
    }
}

fn page_job(announcement: &Announcement, shard: u16) -> BroadcastJob {
    BroadcastJob::Page(PageJob {
        broadcast_id: announcement.broadcast_id.clone(),
        topic: announcement.topic.clone(),
        shard,
        generation: 0,
        frame: announcement.frame.clone(),
    })
}
