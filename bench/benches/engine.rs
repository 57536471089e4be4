//! The engine's own cost per post: everything but the post. One iteration is one post.

#![expect(clippy::expect_used, reason = "a benchmark may stop")]

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use firstcome_core::{ConnectionId, Post, PostEngine, PushOutcome, Pusher};
use tokio::{
    runtime::{Builder, Runtime},
    task::yield_now,
    time::Instant,
};

/// A page's members (`PAGE_LIMIT`).
const PAGE: usize = 500;

/// Delivers without doing anything.
struct AtOnce;

impl Pusher for AtOnce {
    async fn push(&self, connection: &ConnectionId, payload: Arc<[u8]>) -> PushOutcome {
        black_box((connection, payload));
        PushOutcome::Delivered
    }
}

/// Delivers without doing anything, at the second look: the pool fills up, and every post is woken.
struct Later;

impl Pusher for Later {
    async fn push(&self, connection: &ConnectionId, payload: Arc<[u8]>) -> PushOutcome {
        yield_now().await;
        black_box((connection, payload));
        PushOutcome::Delivered
    }
}

fn posts() -> Vec<Post> {
    let payload: Arc<[u8]> = Arc::from([b'x'; 200].as_slice());
    let post = |index| Post {
        connection_id: ConnectionId::new(format!("C{index:014}=")).expect("within its bounds"),
        payload: Arc::clone(&payload),
        young: false,
    };
    (0..PAGE).map(post).collect()
}

fn measure<P: Pusher>(criterion: &mut Criterion, name: &str, runtime: &Runtime, pusher: P) {
    let engine = {
        let _context = runtime.enter();
        PostEngine::new(pusher, u32::MAX)
    };
    let posts = posts();
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut left = usize::try_from(iterations).unwrap_or(usize::MAX);
            runtime.block_on(async {
                let start = Instant::now();
                while left > 0 {
                    let page = &posts[..left.min(PAGE)];
                    let deadline = Instant::now() + Duration::from_secs(60);
                    black_box(engine.post_all(page, deadline).await);
                    left -= page.len();
                }
                start.elapsed()
            })
        });
    });
}

fn overhead(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    measure(
        criterion,
        "engine, per post, answered at once",
        &runtime,
        AtOnce,
    );
    measure(
        criterion,
        "engine, per post, answered later",
        &runtime,
        Later,
    );
}

criterion_group! {
    name = engine;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    targets = overhead
}
criterion_main!(engine);
