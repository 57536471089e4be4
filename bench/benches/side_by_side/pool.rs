//! The engine by itself: a pool against chunks, and what it costs beside the post.

use std::{fmt, io, sync::Arc, time::Duration};

use firstcome_bench::process;
use firstcome_core::{ConnectionId, Post, PostEngine, PushOutcome, Pusher};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::table::median;

/// How long the posts take, two at once.
const TASKS: [u64; 3] = [100, 300, 200];
/// Posts for the overhead, in pages of 500 as `broadcast` reads them.
const POSTS: usize = 100_000;
const PAGE: usize = 500;
const ROUNDS: usize = 9;

/// Takes as many milliseconds as the connection's id says.
struct Sleeper;

impl Pusher for Sleeper {
    async fn push(&self, connection: &ConnectionId, _: Arc<[u8]>) -> PushOutcome {
        let millis = connection.as_str().parse().unwrap_or_default();
        sleep(Duration::from_millis(millis)).await;
        PushOutcome::Delivered
    }
}

/// Delivers without doing anything.
struct AtOnce;

impl Pusher for AtOnce {
    async fn push(&self, _: &ConnectionId, _: Arc<[u8]>) -> PushOutcome {
        PushOutcome::Delivered
    }
}

/// How long the same posts took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolAgainstChunks {
    pub(crate) pool: Duration,
    pub(crate) chunks: Duration,
}

impl fmt::Display for PoolAgainstChunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pool, chunks) = (self.pool.as_millis(), self.chunks.as_millis());
        write!(
            f,
            "\nPosts of 100, 300 and 200 ms, two at once: engine {pool} ms, chunks {chunks} ms."
        )
    }
}

/// Medians of some rounds.
pub(crate) async fn compare() -> PoolAgainstChunks {
    let (mut pool, mut chunks) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        pool.push(in_a_pool().await.as_secs_f64());
        chunks.push(in_chunks().await.as_secs_f64());
    }
    PoolAgainstChunks {
        pool: Duration::from_secs_f64(median(pool)),
        chunks: Duration::from_secs_f64(median(chunks)),
    }
}

async fn in_a_pool() -> Duration {
    let engine = PostEngine::with_pool(Sleeper, 1000, 2);
    let (posts, start) = (tasks(), Instant::now());
    let deadline = start + Duration::from_secs(9);
    engine.post_all(&posts, deadline).await;
    start.elapsed()
}

async fn in_chunks() -> Duration {
    let (posts, start) = (tasks(), Instant::now());
    for chunk in posts.chunks(2) {
        let pushes = chunk
            .iter()
            .map(|post| Sleeper.push(&post.connection_id, Arc::clone(&post.payload)));
        join_all(pushes).await;
    }
    start.elapsed()
}

fn tasks() -> Vec<Post> {
    TASKS
        .iter()
        .map(|millis| post(&millis.to_string()))
        .collect()
}

/// CPU microseconds per post beside the post itself.
pub(crate) async fn overhead() -> io::Result<f64> {
    let engine = PostEngine::new(AtOnce, u32::MAX);
    let posts: Vec<Post> = (0..POSTS).map(|index| post(&index.to_string())).collect();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let cpu = process::cpu_time()?;
        for page in posts.chunks(PAGE) {
            let deadline = Instant::now() + Duration::from_secs(60);
            engine.post_all(page, deadline).await;
        }
        let spent = process::cpu_time()?.saturating_sub(cpu);
        rounds.push(spent.as_secs_f64() * 1e6 / POSTS as f64);
    }
    Ok(median(rounds))
}

fn post(name: &str) -> Post {
    let connection_id = ConnectionId::new(name).expect("within its bounds");
    Post {
        connection_id,
        payload: Arc::from(b"{}".as_slice()),
        young: false,
    }
}
