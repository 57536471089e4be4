//! Posts many frames at once: a pool of slots, a limiter, bounded retries, a deadline. Whom to post to, and what to do
//! about the gone, is its callers' business.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{ConnectionId, broadcast::limiter::Limiter};

/// Posts in flight at once. A Lambda environment has 1,024 file descriptors; 300 posts of 10 ms make 30,000 a second,
/// more than an account's whole quota of 10,000 requests.
pub const POOL: usize = 300;

/// How long one post may take.
const POST_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a post is refused for now before it counts as failed.
const MAX_THROTTLES: u32 = 8;
/// How often a post fails before it counts as failed.
const MAX_FAILURES: u32 = 3;
/// The first pause between tries; it doubles up to [`MAX_BACKOFF`], and a random part of it is taken.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// How long a young connection that reads as gone is given to finish its handshake.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);

/// What became of one post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// The socket has it.
    Delivered,
    /// There is no such socket, or its handshake is still running.
    Gone,
    /// Too many posts, or this socket does not read fast enough.
    Throttled,
    /// Anything else: it may or may not have it.
    Failed,
}

/// Posts to one socket.
pub trait Pusher {
    /// Posts once. MUST NOT retry by itself: the engine does, outside of its slots.
    fn push(
        &self,
        connection: &ConnectionId,
        payload: Arc<[u8]>,
    ) -> impl Future<Output = PushOutcome> + Send;
}

/// One frame for one socket.
#[derive(Clone, Debug)]
pub struct Post {
    /// The socket.
    pub connection_id: ConnectionId,
    /// The encoded frame; sockets that get the same one share it.
    pub payload: Arc<[u8]>,
    /// Whether the socket is so young that "gone" may mean "not yet": then it gets one more try a second later.
    pub young: bool,
}

/// What became of a post, with all its tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The socket has it.
    Sent,
    /// There is no such socket.
    Gone,
    /// Every try failed or was throttled.
    Failed,
    /// The deadline came first; it may or may not have gone out.
    Unsettled,
}

/// What became of many posts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// One per post, in the order of the posts.
    pub settlements: Vec<Settlement>,
    /// How often a post was answered "too many".
    pub throttled: u32,
}

impl Posted {
    /// How many posts, from the first on, are settled without a gap.
    pub fn settled_prefix(&self) -> usize {
        self.settlements
            .iter()
            .take_while(|settlement| **settlement != Settlement::Unsettled)
            .count()
    }
}

/// The posting machine. One per execution environment.
#[derive(Debug)]
pub struct PostEngine<P> {
    pusher: P,
    pool: Semaphore,
    limiter: Limiter,
}

impl<P: Pusher> PostEngine<P> {
    /// Posts through `pusher`, at most `requests_per_second` and [`POOL`] at once.
    pub fn new(pusher: P, requests_per_second: u32) -> Self {
        Self::with_pool(pusher, requests_per_second, POOL)
    }

    /// As [`Self::new`], with at most `pool` posts in flight.
    pub fn with_pool(pusher: P, requests_per_second: u32, pool: usize) -> Self {
        Self {
            pusher,
            pool: Semaphore::new(pool),
            limiter: Limiter::new(requests_per_second),
        }
    }

    /// Posts all, and returns at the deadline at the latest.
    pub async fn post_all(&self, posts: &[Post], deadline: Instant) -> Posted {
        let throttled = AtomicU32::new(0);
        let mut settlements = vec![Settlement::Unsettled; posts.len()];
        let settle =
            async |index: usize, post| (index, self.settle(post, deadline, &throttled).await);
        let mut running: FuturesUnordered<_> = posts
            .iter()
            .enumerate()
            .map(|(index, post)| settle(index, post))
            .collect();
        while let Some((index, settlement)) = running.next().await {
            settlements[index] = settlement;
        }
        drop(running);
        Posted {
            settlements,
            throttled: throttled.into_inner(),
        }
    }

    async fn settle(&self, post: &Post, deadline: Instant, throttled: &AtomicU32) -> Settlement {
        tokio::select! {
            // First the time, then the work: what is late must not start a post.
            biased;
            () = sleep_until(deadline) => Settlement::Unsettled,
            settlement = self.try_until_settled(post, throttled) => settlement,
        }
    }

    async fn try_until_settled(&self, post: &Post, throttled: &AtomicU32) -> Settlement {
        let (mut throttles, mut failures, mut may_be_connecting) = (0, 0, post.young);
        loop {
            match self.try_once(post).await {
                PushOutcome::Delivered => return Settlement::Sent,
                PushOutcome::Gone if may_be_connecting => {
                    may_be_connecting = false;
                    sleep(HANDSHAKE_GRACE).await;
                    continue;
                }
                PushOutcome::Gone => return Settlement::Gone,
                PushOutcome::Throttled => {
                    throttled.fetch_add(1, Ordering::Relaxed);
                    throttles += 1;
                    // A socket that does not read is answered 429 as well: one such must not drive the rate to the floor.
                    if throttles == 1 {
                        self.limiter.slow_down();
                    }
                }
                PushOutcome::Failed => failures += 1,
            }
            if throttles >= MAX_THROTTLES || failures >= MAX_FAILURES {
                return Settlement::Failed;
            }
            sleep(backoff(throttles + failures)).await;
        }
    }

    async fn try_once(&self, post: &Post) -> PushOutcome {
        let Ok(_slot) = self.pool.acquire().await else {
            return PushOutcome::Failed;
        };
        self.limiter.permit().await;
        let push = self
            .pusher
            .push(&post.connection_id, Arc::clone(&post.payload));
        let outcome = timeout(POST_TIMEOUT, push)
            .await
            .unwrap_or(PushOutcome::Failed);
        if matches!(outcome, PushOutcome::Delivered | PushOutcome::Gone) {
            self.limiter.speed_up();
        }
        outcome
    }
}

/// A random pause before try `tries + 1` (full jitter).
fn backoff(tries: u32) -> Duration {
    let longest = FIRST_BACKOFF
        .saturating_mul(1 << tries.min(10))
        .min(MAX_BACKOFF);
    longest.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryPusher;

    fn post(name: &str, young: bool) -> Post {
        let connection_id = ConnectionId::new(name).unwrap();
        Post {
            connection_id,
            payload: Arc::from(b"x".as_slice()),
            young,
        }
    }

    fn posts(names: &[&str]) -> Vec<Post> {
        names.iter().map(|name| post(name, false)).collect()
    }

    fn in_seconds(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_slot_takes_the_next_post_at_once() {
        let pusher = MemoryPusher::default();
        for (name, millis) in [("a", 100), ("b", 300), ("c", 200)] {
            pusher.takes(name, Duration::from_millis(millis));
        }
        let engine = PostEngine::with_pool(pusher, 1000, 2);
        let start = Instant::now();
        let posted = engine
            .post_all(&posts(&["a", "b", "c"]), in_seconds(9))
            .await;
        assert_eq!(posted.settlements, [Settlement::Sent; 3]);
        // Chunks of two would take 500 ms.
        assert!(
            (300..320).contains(&start.elapsed().as_millis()),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_throttled_or_fails_is_tried_again() {
        let pusher = MemoryPusher::default();
        pusher.answers(
            "a",
            &[
                PushOutcome::Throttled,
                PushOutcome::Throttled,
                PushOutcome::Delivered,
            ],
        );
        pusher.answers("b", &[PushOutcome::Failed, PushOutcome::Delivered]);
        let engine = PostEngine::new(pusher, 1000);
        let posted = engine.post_all(&posts(&["a", "b"]), in_seconds(9)).await;
        assert_eq!(
            posted,
            Posted {
                settlements: vec![Settlement::Sent; 2],
                throttled: 2
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_works_fails_after_bounded_tries() {
        let pusher = MemoryPusher::default();
        pusher.answers("a", &[PushOutcome::Failed; 20]);
        pusher.answers("b", &[PushOutcome::Throttled; 20]);
        let engine = PostEngine::new(&pusher, 1000);
        let posted = engine.post_all(&posts(&["a", "b"]), in_seconds(60)).await;
        assert_eq!(
            posted,
            Posted {
                settlements: vec![Settlement::Failed; 2],
                throttled: MAX_THROTTLES
            }
        );
        assert_eq!(pusher.attempts("a"), MAX_FAILURES as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_young_connection_that_reads_as_gone_gets_a_second_try() {
        let pusher = MemoryPusher::default();
        for name in ["young", "old"] {
            pusher.answers(name, &[PushOutcome::Gone, PushOutcome::Delivered]);
        }
        let engine = PostEngine::new(&pusher, 1000);
        let posted = engine
            .post_all(&[post("young", true), post("old", false)], in_seconds(9))
            .await;
        assert_eq!(posted.settlements, [Settlement::Sent, Settlement::Gone]);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_deadline_the_rest_is_unsettled() {
        let pusher = MemoryPusher::default();
        pusher.takes("slow", Duration::from_millis(2500));
        let engine = PostEngine::with_pool(&pusher, 1000, 1);
        let posted = engine
            .post_all(&posts(&["fast", "slow", "next"]), in_seconds(1))
            .await;
        assert_eq!(
            posted.settlements,
            [
                Settlement::Sent,
                Settlement::Unsettled,
                Settlement::Unsettled
            ]
        );
        assert_eq!(posted.settled_prefix(), 1);
        assert_eq!(pusher.attempts("next"), 0);
        let late = engine.post_all(&posts(&["next"]), Instant::now()).await;
        assert_eq!((late.settled_prefix(), pusher.attempts("next")), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_socket_halves_the_rate_once_however_often_it_is_tried() {
        let pusher = MemoryPusher::default();
        pusher.answers("slow", &[PushOutcome::Throttled; 20]);
        let engine = PostEngine::new(&pusher, 100);
        engine.post_all(&posts(&["slow"]), in_seconds(60)).await;
        let start = Instant::now();
        engine.post_all(&posts(&["fine"; 50]), in_seconds(60)).await;
        // At full rate it would take 0.4 s, the burst taken off; after eight halvings 20 s.
        let seconds = start.elapsed().as_secs_f64();
        assert!((0.6..1.4).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_post_that_hangs_is_given_up() {
        let pusher = MemoryPusher::default();
        pusher.takes("a", Duration::from_secs(3600));
        let engine = PostEngine::new(&pusher, 1000);
        let posted = engine.post_all(&posts(&["a"]), in_seconds(30)).await;
        assert_eq!(posted.settlements, [Settlement::Failed]);
    }
}
