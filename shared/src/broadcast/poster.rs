//! What all jobs of `broadcast` share: posting before a deadline, forgetting who is gone, and the summary of it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use crate::{
    Clock, ConnectionId, Forgetting, Member, PortError, Post, PostEngine, Posted, Pusher,
    ServerFrame, Settlement, Timestamp, Topic,
};

/// How old a connection must be for "gone" to be believed, in milliseconds: before, its handshake may still run (API
/// Gateway answers 410 until `$connect` has answered).
pub const YOUNG_MILLIS: i64 = 30_000;

/// How many members one query reads, posts to and commits together.
pub const PAGE_LIMIT: u16 = 500;

/// How often a job is carried on in a new message. Lambda stops loops through SQS at 16 hops; an announcement has some
/// behind it when its pages start.
pub const MAX_GENERATION: u8 = 8;

/// How many connection records are read at once when they are to be forgotten.
const RECORD_READS: usize = 16;

/// Why a job is to come again.
#[derive(Debug, Error)]
pub enum JobError {
    /// A remote call failed.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Answers that the last generation had no time to post. Sent again they carry the same ids.
    #[error("failed to deliver {0} of the answers in time")]
    Undelivered(u32),
    /// The page was carried on often enough; the queue's redelivery takes it from its cursor.
    #[error("failed to finish the page in {MAX_GENERATION} generations")]
    Generations,
    /// A frame that cannot be written.
    #[error("failed to encode the frame")]
    Encode(#[from] serde_json::Error),
}

/// What a job has posted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PostSummary {
    /// Sockets that have their frame.
    pub sent: u32,
    /// Sockets that are gone.
    pub gone: u32,
    /// Sockets that could not be told.
    pub failed: u32,
    /// Posts the deadline left open; they come again.
    pub unsettled: u32,
    /// How often a post was answered "too many"; such posts count above by how they ended.
    pub throttled: u32,
}

impl PostSummary {
    /// Counts the first `settled` of the posts as they ended, the rest as unsettled.
    pub(super) fn count(posted: &Posted, settled: usize) -> Self {
        let mut summary = Self {
            throttled: posted.throttled,
            ..Self::default()
        };
        for (index, settlement) in posted.settlements.iter().enumerate() {
            *match settlement {
                _ if index >= settled => &mut summary.unsettled,
                Settlement::Sent => &mut summary.sent,
                Settlement::Gone => &mut summary.gone,
                Settlement::Failed => &mut summary.failed,
                Settlement::Unsettled => &mut summary.unsettled,
            } += 1;
        }
        summary
    }

    /// Adds another part of the same job.
    pub(super) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.gone += other.gone;
        self.failed += other.failed;
        self.unsettled += other.unsettled;
        self.throttled += other.throttled;
    }
}

/// What a job's posts came to, as far as they went; of a job that comes again as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostFacts {
    /// How the posts ended.
    pub posts: PostSummary,
    /// For each answer that was posted, how long after the claim's own time; in milliseconds.
    pub answered_after: Vec<i64>,
}

impl PostFacts {
    /// Adds those of another job.
    pub fn add(&mut self, other: Self) {
        self.posts.add(other.posts);
        self.answered_after.extend(other.answered_after);
    }
}

/// Posts for one job, until its deadline.
#[derive(Debug)]
pub struct Poster<'a, P, C, K> {
    engine: &'a PostEngine<P>,
    pub(super) connections: &'a C,
    pub(super) clock: &'a K,
    deadline: Instant,
    started: Instant,
    facts: Mutex<PostFacts>,
}

impl<'a, P: Pusher, C: Forgetting, K: Clock> Poster<'a, P, C, K> {
    /// Starts a job that stops posting at `deadline`. Leave time after it for a commit and a message.
    pub fn new(
        engine: &'a PostEngine<P>,
        connections: &'a C,
        clock: &'a K,
        deadline: Instant,
    ) -> Self {
        Self {
            engine,
            connections,
            clock,
            deadline,
            started: Instant::now(),
            facts: Mutex::default(),
        }
    }

    /// What the posts came to, once the job has ended.
    pub fn into_facts(self) -> PostFacts {
        self.facts
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, PostFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the deadline has come.
    pub(super) fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    pub(super) async fn post(&self, posts: &[Post]) -> Posted {
        self.engine.post_all(posts, self.deadline).await
    }

    /// Posts the same bytes to all members.
    pub(super) async fn tell(&self, members: &[Member], payload: &Arc<[u8]>) -> Posted {
        let now = self.clock.now();
        let post = |member: &Member| Post {
            connection_id: member.connection_id.clone(),
            payload: Arc::clone(payload),
            young: is_young(member.connected_at, now),
        };
        self.post(&members.iter().map(post).collect::<Vec<_>>())
            .await
    }

    /// Forgets the members of `topic` that are gone and old enough for that to be true.
    pub(super) async fn forget_gone_members(
        &self,
        topic: &Topic,
        members: &[Member],
        posted: &Posted,
    ) {
        let now = self.clock.now();
        let gone = members
            .iter()
            .zip(&posted.settlements)
            .filter(|(member, settlement)| {
                **settlement == Settlement::Gone && !is_young(member.connected_at, now)
            })
            .map(|(member, _)| member.connection_id.clone());
        self.forget(gone.collect(), Some(topic)).await;
    }

    /// Forgets connections wholly, by their records; the young stay. Those without a record lose their membership in
    /// `topic`. What fails here, or comes too late, is only logged: the next announcement meets the same 410, and
    /// the items have a TTL.
    pub(super) async fn forget(&self, gone: Vec<ConnectionId>, topic: Option<&Topic>) {
        if gone.is_empty() {
            return;
        }
        let count = gone.len();
        match timeout_at(self.deadline, self.try_forget(gone, topic)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, cause = %error.source, connections.gone = count, "gone connections stay for now");
            }
            Err(_) => tracing::warn!(
                connections.gone = count,
                "no time to forget gone connections"
            ),
        }
    }

    async fn try_forget(
        &self,
        gone: Vec<ConnectionId>,
        topic: Option<&Topic>,
    ) -> Result<(), PortError> {
        let now = self.clock.now();
        let read = async |id: ConnectionId| {
            let record = self.connections.connection(&id).await;
            (id, record)
        };
        let mut reads = stream::iter(gone.into_iter().map(read)).buffer_unordered(RECORD_READS);
        let (mut known, mut orphans) = (Vec::new(), Vec::new());
        while let Some((id, record)) = reads.next().await {
            match record? {
                Some(connection) if is_young(connection.connected_at, now) => {}
                Some(connection) => known.push(connection),
                None => orphans.push(id),
            }
        }
        drop(reads);
        self.connections.forget(&known).await?;
        match topic {
            Some(topic) if !orphans.is_empty() => {
                self.connections.forget_members(topic, &orphans).await
            }
            _ => Ok(()),
        }
    }

    /// Notes what the posts came to, and writes the job's one line in the log.
    pub(super) fn report(&self, kind: &'static str, subject: &str, summary: PostSummary) {
        self.facts().posts = summary;
        let PostSummary {
            sent,
            gone,
            failed,
            unsettled,
            throttled,
        } = summary;
        tracing::info!(
            job.kind = kind,
            job.subject = subject,
            posts.sent = sent,
            posts.gone = gone,
            posts.failed = failed,
            posts.unsettled = unsettled,
            posts.throttled = throttled,
            duration_ms = millis(self.started.elapsed()),
            "posted"
        );
    }
}

/// Encodes a frame once for all who get it.
pub(super) fn encode(frame: &ServerFrame) -> Result<Arc<[u8]>, JobError> {
    Ok(Arc::from(serde_json::to_vec(frame)?))
}

fn is_young(connected_at: Timestamp, now: Timestamp) -> bool {
    now.millis_since(connected_at) < YOUNG_MILLIS
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
