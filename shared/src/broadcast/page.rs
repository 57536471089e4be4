//! Posts one membership shard of an announcement, page by page, from the committed cursor on.

use crate::{
    Audience, BroadcastJob, BroadcastOutbox, Clock, ConnectionId, FanOutRecords, Forgetting,
    JobError, MAX_GENERATION, MemberPage, PAGE_LIMIT, PageJob, PageStep, PostSummary, Posted,
    Poster, Pusher, StepOutcome, Timestamp, broadcast::poster::encode,
};

/// Posts the rest of the page. The cursor moves with the counts, in one write: a job that comes again, or twice at once,
/// adds nobody twice. Short of time, it sends itself on.
///
/// # Errors
/// [`JobError`]: the job is to come again, and takes up at the cursor.
pub async fn post_page<P: Pusher, C: Forgetting + Audience, K: Clock>(
    poster: &Poster<'_, P, C, K>,
    records: &impl FanOutRecords,
    outbox: &impl BroadcastOutbox,
    job: PageJob,
) -> Result<PostSummary, JobError> {
    let mut summary = PostSummary::default();
    let result = post_steps(poster, records, &job, &mut summary).await;
    poster.report(
        "page",
        &format!("{}/{}", job.broadcast_id, job.shard),
        summary,
    );
    match result? {
        PageEnd::Done | PageEnd::Overtaken => Ok(summary),
        PageEnd::Late if job.generation >= MAX_GENERATION => Err(JobError::Generations),
        PageEnd::Late => {
            let next = PageJob {
                generation: job.generation + 1,
                ..job
            };
            outbox.send(&[(BroadcastJob::Page(next), 0)]).await?;
            Ok(summary)
        }
    }
}

enum PageEnd {
    /// Everybody in the shard is settled.
    Done,
    /// Another run of the page carries on from there.
    Overtaken,
    /// The deadline came; somebody is left.
    Late,
}

async fn post_steps<P: Pusher, C: Forgetting + Audience, K: Clock>(
    poster: &Poster<'_, P, C, K>,
    records: &impl FanOutRecords,
    job: &PageJob,
    summary: &mut PostSummary,
) -> Result<PageEnd, JobError> {
    let payload = encode(&job.frame)?;
    let run = Run {
        job,
        id: fastrand::u64(..),
        started_at: poster.clock.now(),
    };
    let progress = records.progress(&job.broadcast_id, job.shard).await?;
    let (mut cursor, mut done) = (progress.cursor, progress.done);
    while !done {
        if poster.is_late() {
            return Ok(PageEnd::Late);
        }
        let page = poster
            .connections
            .members(&job.topic, job.shard, cursor.as_ref(), PAGE_LIMIT)
            .await?;
        let posted = poster.tell(&page.members, &payload).await;
        if posted.settled_prefix() == 0 && !page.members.is_empty() {
            return Ok(PageEnd::Late);
        }
        let step = run.step(cursor, &page, &posted, poster.clock.now());
        if records.step(&step).await? == StepOutcome::Overtaken {
            return Ok(PageEnd::Overtaken);
        }
        summary.add(PostSummary::count(&posted, posted.settled_prefix()));
        poster
            .forget_gone_members(&job.topic, &page.members, &posted)
            .await;
        (cursor, done) = (step.to, step.done);
    }
    Ok(PageEnd::Done)
}

/// One run of a page job.
struct Run<'a> {
    job: &'a PageJob,
    id: u64,
    started_at: Timestamp,
}

impl Run<'_> {
    /// The step over what is settled without a gap: a cursor cannot say more.
    fn step(
        &self,
        from: Option<ConnectionId>,
        page: &MemberPage,
        posted: &Posted,
        at: Timestamp,
    ) -> PageStep {
        let settled = posted.settled_prefix();
        let counts = PostSummary::count(posted, settled);
        let last = page.members[..settled]
            .last()
            .map(|member| member.connection_id.clone());
        PageStep {
            broadcast_id: self.job.broadcast_id.clone(),
            shard: self.job.shard,
            run: self.id,
            to: last.or_else(|| from.clone()),
            from,
            sent: counts.sent,
            gone: counts.gone,
            failed: counts.failed,
            done: settled == page.members.len() && page.next.is_none(),
            started_at: self.started_at,
            at,
        }
    }
}
