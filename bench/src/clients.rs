//! The ways to post to many connections that are compared: the usual ones around the plain SDK call, and the engine.

use std::{io, sync::Arc, time::Duration};

use aws_sdk_apigatewaymanagement::{Client, primitives::Blob};
use clap::ValueEnum;
use firstcome_core::{
    ConnectionId, Post, PostEngine, PushOutcome, Pusher, Settlement,
    aws::{Aws, GatewayPusher},
};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    ladder,
    process::{self, MemoryGauge},
    report::Run,
};

/// Longer than any run.
const PATIENCE: Duration = Duration::from_secs(600);

/// A way to post.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
pub enum Variant {
    /// One plain SDK call after the other.
    Sequential,
    /// Plain SDK calls, so many at once, the next chunk when the last of them is answered.
    Chunked,
    /// All plain SDK calls at once.
    Unbounded,
    /// The engine over the plain SDK call.
    PlainEngine,
    /// The engine over the adapter that function `broadcast` uses.
    Engine,
}

/// What to post.
#[derive(Clone, Debug)]
pub struct Task {
    /// Where to.
    pub endpoint: String,
    /// To how many connections.
    pub posts: u32,
    /// How many posts at once.
    pub in_flight: usize,
    /// How many posts a second, for the engine.
    pub rate: u32,
    /// How many steps of the ladder the plain SDK call has taken.
    pub steps: usize,
}

/// The SDK's client, with settings of the ladder.
#[derive(Debug)]
pub struct PlainPusher(Client);

impl PlainPusher {
    /// After so many steps of the ladder; 0 is the client as it comes.
    pub async fn load(endpoint: &str, steps: usize) -> Self {
        Self(Client::from_conf(ladder::config(endpoint, steps).await))
    }
}

impl Pusher for PlainPusher {
    async fn push(&self, connection: &ConnectionId, payload: Arc<[u8]>) -> PushOutcome {
        let sent = self
            .0
            .post_to_connection()
            .connection_id(connection.as_str())
            .data(Blob::new(payload.to_vec()))
            .send()
            .await;
        let Err(error) = sent else {
            return PushOutcome::Delivered;
        };
        match error
            .raw_response()
            .map(|response| response.status().as_u16())
        {
            Some(410) => PushOutcome::Gone,
            Some(429) => PushOutcome::Throttled,
            _ => PushOutcome::Failed,
        }
    }
}

/// Runs a variant once. First it opens its connections, with as many posts as it will have in flight; these are not
/// measured.
///
/// # Errors
/// If the process cannot be measured.
pub async fn run(variant: Variant, task: &Task) -> io::Result<Run> {
    let plain = PlainPusher::load(&task.endpoint, task.steps).await;
    match variant {
        Variant::Sequential => measure(task, async |posts| one_by_one(&plain, posts).await).await,
        Variant::Chunked => {
            measure(task, async |posts| {
                chunked(&plain, posts, task.in_flight).await
            })
            .await
        }
        Variant::Unbounded => measure(task, async |posts| at_once(&plain, posts).await).await,
        Variant::PlainEngine => {
            let engine = PostEngine::with_pool(plain, task.rate, task.in_flight);
            measure(task, async |posts| by_engine(&engine, posts).await).await
        }
        Variant::Engine => {
            let pusher = GatewayPusher::new(&Aws::load().await, task.endpoint.clone());
            let engine = PostEngine::with_pool(pusher, task.rate, task.in_flight);
            measure(task, async |posts| by_engine(&engine, posts).await).await
        }
    }
}

async fn measure(task: &Task, post: impl AsyncFn(Vec<Post>) -> Run) -> io::Result<Run> {
    let memory = MemoryGauge::open()?;
    let warm_up = u32::try_from(task.in_flight)
        .unwrap_or(u32::MAX)
        .min(task.posts);
    post(posts(warm_up)).await;
    let (started, cpu) = (Instant::now(), process::cpu_time()?);
    let outcomes = post(posts(task.posts)).await;
    let wall = started.elapsed();
    let cpu = process::cpu_time()?.saturating_sub(cpu);
    let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    Ok(Run {
        posts: task.posts,
        wall_micros: micros(wall),
        cpu_micros: micros(cpu),
        peak_kib: memory.peak_kib()?,
        ..outcomes
    })
}

/// Connection ids of the length API Gateway's have, and one frame for all.
fn posts(count: u32) -> Vec<Post> {
    let payload: Arc<[u8]> = Arc::from(FRAME.as_bytes());
    let post = |index| {
        let connection_id = ConnectionId::new(format!("C{index:014}=")).ok()?;
        Some(Post {
            connection_id,
            payload: Arc::clone(&payload),
            young: false,
        })
    };
    (0..count).filter_map(post).collect()
}

/// A frame as `broadcast` sends it.
pub const FRAME: &str = r#"{"id":"2f9d5c1e8b7a4f60913c2d4e5f6a7b8c","type":"broadcast","campaignId":"01JBKZ8Y3M4N5P6Q7R8S9T0V1W","message":"The doors open at nine. First come, first served: three hundred coupons."}"#;

async fn one_by_one(pusher: &PlainPusher, posts: Vec<Post>) -> Run {
    let mut run = Run::default();
    for post in posts {
        run.count(pusher.push(&post.connection_id, post.payload).await);
    }
    run
}

async fn chunked(pusher: &PlainPusher, posts: Vec<Post>, size: usize) -> Run {
    let mut run = Run::default();
    for chunk in posts.chunks(size) {
        run.count_all(at_once_of(pusher, chunk).await);
    }
    run
}

async fn at_once(pusher: &PlainPusher, posts: Vec<Post>) -> Run {
    let mut run = Run::default();
    run.count_all(at_once_of(pusher, &posts).await);
    run
}

async fn at_once_of(pusher: &PlainPusher, posts: &[Post]) -> Vec<PushOutcome> {
    join_all(
        posts
            .iter()
            .map(|post| pusher.push(&post.connection_id, Arc::clone(&post.payload))),
    )
    .await
}

async fn by_engine<P: Pusher>(engine: &PostEngine<P>, posts: Vec<Post>) -> Run {
    let posted = engine.post_all(&posts, Instant::now() + PATIENCE).await;
    let mut run = Run {
        throttled: posted.throttled,
        ..Run::default()
    };
    for settlement in posted.settlements {
        *match settlement {
            Settlement::Sent => &mut run.delivered,
            Settlement::Gone => &mut run.gone,
            Settlement::Failed | Settlement::Unsettled => &mut run.failed,
        } += 1;
    }
    run
}

impl Run {
    fn count(&mut self, outcome: PushOutcome) {
        *match outcome {
            PushOutcome::Delivered => &mut self.delivered,
            PushOutcome::Gone => &mut self.gone,
            PushOutcome::Throttled => &mut self.throttled,
            PushOutcome::Failed => &mut self.failed,
        } += 1;
    }

    fn count_all(&mut self, outcomes: Vec<PushOutcome>) {
        outcomes.into_iter().for_each(|outcome| self.count(outcome));
    }
}
