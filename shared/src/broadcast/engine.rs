//! Posts many frames at once: a pool of slots, a limiter, bounded retries, a deadline. Whom to post to, and what to do
//! about the gone, is its callers' business.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    ops::Range,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    select,
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    ConnectionId,
    broadcast::limiter::{Limiter, Permit},
};

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

    /// Posts a second that the limiter lets go at this moment.
    pub fn rate(&self) -> f64 {
        self.limiter.per_second()
    }

    /// Posts all, and returns at the deadline at the latest. Of several calls at once each waits in line for the next
    /// slot, so that none starves another.
    pub async fn post_all(&self, posts: &[Post], deadline: Instant) -> Posted {
        let mut work = Work::new(posts);
        select! {
            // First the time, then the work: what is late must not start a post.
            biased;
            () = sleep_until(deadline) => {}
            () = self.settle_all(&mut work) => {}
        }
        work.posted
    }

    /// Only a post with a slot is a future of its own: memory follows the pool, not the number of posts.
    async fn settle_all(&self, work: &mut Work<'_>) {
        let (mut running, mut places) = (FuturesUnordered::new(), Vec::new());
        let mut admission = pin!(self.admit());
        loop {
            let next = work.next();
            select! {
                biased;
                Some(((attempt, permit, outcome), place)) = running.next() => {
                    self.learn(permit, outcome);
                    work.note(attempt, outcome);
                    places.push(place);
                }
                admitted = &mut admission, if matches!(next, Next::Now) => {
                    if let (Some(attempt), Some(admitted)) = (work.take(), admitted) {
                        let post = &work.posts[attempt.index];
                        running.push(Placed::new(places.pop(), self.attempt(post, attempt, admitted)));
                    }
                    admission.set(self.admit());
                }
                () = next.due(), if matches!(next, Next::At(_)) => {}
                else => return,
            }
        }
    }

    /// Waits for a slot, and then for the limiter: a permit is not kept waiting.
    async fn admit(&self) -> Option<Admission<'_>> {
        let slot = self.pool.acquire().await.ok()?;
        let permit = self.limiter.permit().await;
        Some(Admission {
            _slot: slot,
            permit,
        })
    }

    async fn attempt(
        &self,
        post: &Post,
        attempt: Attempt,
        admission: Admission<'_>,
    ) -> (Attempt, Permit, PushOutcome) {
        let payload = Arc::clone(&post.payload);
        let push = self.pusher.push(&post.connection_id, payload);
        let outcome = timeout(POST_TIMEOUT, push).await;
        (
            attempt,
            admission.permit,
            outcome.unwrap_or(PushOutcome::Failed),
        )
    }

    fn learn(&self, permit: Permit, outcome: PushOutcome) {
        match outcome {
            PushOutcome::Delivered | PushOutcome::Gone => self.limiter.granted(permit),
            PushOutcome::Throttled => self.limiter.refused(permit),
            PushOutcome::Failed => {}
        }
    }
}

/// A future on the heap that hands its place back for the next one: an attempt holds kilobytes, and such allocations cost
/// more than all else here.
struct Placed<F>(Option<Pin<Box<F>>>);

impl<F> Placed<F> {
    fn new(place: Option<Pin<Box<F>>>, future: F) -> Self {
        let Some(mut place) = place else {
            return Self(Some(Box::pin(future)));
        };
        place.set(future);
        Self(Some(place))
    }
}

impl<F: Future> Future for Placed<F> {
    type Output = (F::Output, Pin<Box<F>>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(mut place) = self.0.take() else {
            return Poll::Pending;
        };
        let Poll::Ready(output) = place.as_mut().poll(context) else {
            self.0 = Some(place);
            return Poll::Pending;
        };
        Poll::Ready((output, place))
    }
}

/// The right to post once: a slot for as long as it takes, and the limiter's permit.
struct Admission<'a> {
    _slot: SemaphorePermit<'a>,
    permit: Permit,
}

/// A post's next try. Ordered by when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attempt {
    due: Instant,
    index: usize,
    throttles: u32,
    failures: u32,
    may_be_connecting: bool,
}

/// When a try may start.
#[derive(Clone, Copy, Debug)]
enum Next {
    Now,
    At(Instant),
    /// What is left is running.
    Nothing,
}

impl Next {
    async fn due(self) {
        if let Self::At(due) = self {
            sleep_until(due).await;
        }
    }
}

/// The posts of one call, and what has become of them.
struct Work<'a> {
    posts: &'a [Post],
    started: Instant,
    /// Posts that were never tried.
    fresh: Range<usize>,
    /// Posts that are tried again later.
    later: BinaryHeap<Reverse<Attempt>>,
    posted: Posted,
}

impl<'a> Work<'a> {
    fn new(posts: &'a [Post]) -> Self {
        Self {
            posts,
            started: Instant::now(),
            fresh: 0..posts.len(),
            later: BinaryHeap::new(),
            posted: Posted {
                settlements: vec![Settlement::Unsettled; posts.len()],
                throttled: 0,
            },
        }
    }

    /// When the next try may start.
    fn next(&self) -> Next {
        match self.later.peek() {
            _ if !self.fresh.is_empty() => Next::Now,
            Some(Reverse(attempt)) if attempt.due <= Instant::now() => Next::Now,
            Some(Reverse(attempt)) => Next::At(attempt.due),
            None => Next::Nothing,
        }
    }

    /// Takes the next try: one that is due again before a fresh one.
    fn take(&mut self) -> Option<Attempt> {
        let again = self.later.peek().map(|Reverse(attempt)| attempt.due);
        if again.is_some_and(|due| due <= Instant::now()) {
            return self.later.pop().map(|Reverse(attempt)| attempt);
        }
        let index = self.fresh.next()?;
        Some(Attempt {
            due: self.started,
            index,
            throttles: 0,
            failures: 0,
            may_be_connecting: self.posts[index].young,
        })
    }

    /// Notes how a try ended: the post is settled, or tried again later.
    fn note(&mut self, mut attempt: Attempt, outcome: PushOutcome) {
        match outcome {
            PushOutcome::Delivered => return self.settle(attempt, Settlement::Sent),
            PushOutcome::Gone if attempt.may_be_connecting => {
                attempt.may_be_connecting = false;
                return self.again(attempt, HANDSHAKE_GRACE);
            }
            PushOutcome::Gone => return self.settle(attempt, Settlement::Gone),
            PushOutcome::Throttled => {
                self.posted.throttled += 1;
                attempt.throttles += 1;
            }
            PushOutcome::Failed => attempt.failures += 1,
        }
        if attempt.throttles >= MAX_THROTTLES || attempt.failures >= MAX_FAILURES {
            self.settle(attempt, Settlement::Failed);
        } else {
            self.again(attempt, backoff(attempt.throttles + attempt.failures));
        }
    }

    fn settle(&mut self, attempt: Attempt, settlement: Settlement) {
        self.posted.settlements[attempt.index] = settlement;
    }

    fn again(&mut self, attempt: Attempt, pause: Duration) {
        let due = Instant::now() + pause;
        self.later.push(Reverse(Attempt { due, ..attempt }));
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
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::sleep;

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
    async fn sockets_that_do_not_read_do_not_slow_the_others() {
        let pusher = MemoryPusher::default();
        let slow = ["a", "b"];
        slow.iter()
            .for_each(|name| pusher.answers(name, &[PushOutcome::Throttled; 20]));
        let engine = PostEngine::new(&pusher, 100);
        engine.post_all(&posts(&slow), in_seconds(60)).await;
        let start = Instant::now();
        engine.post_all(&posts(&["fine"; 50]), in_seconds(60)).await;
        // At full rate it takes 0.4 s, the burst taken off; at half of it 0.8 s.
        let seconds = start.elapsed().as_secs_f64();
        assert!((0.3..0.6).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_post_that_hangs_is_given_up() {
        let pusher = MemoryPusher::default();
        pusher.takes("a", Duration::from_secs(3600));
        let engine = PostEngine::new(&pusher, 1000);
        let posted = engine.post_all(&posts(&["a"]), in_seconds(30)).await;
        assert_eq!(posted.settlements, [Settlement::Failed]);
    }

    /// Takes ten milliseconds; counts who is inside.
    #[derive(Default)]
    struct Counting {
        inside: AtomicUsize,
        most: AtomicUsize,
    }

    impl Pusher for Counting {
        async fn push(&self, _: &ConnectionId, _: Arc<[u8]>) -> PushOutcome {
            let inside = self.inside.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(inside, Ordering::Relaxed);
            sleep(Duration::from_millis(10)).await;
            self.inside.fetch_sub(1, Ordering::Relaxed);
            PushOutcome::Delivered
        }
    }

    #[tokio::test(start_paused = true)]
    async fn several_calls_share_the_pool_and_none_waits_for_another_to_end() {
        let engine = PostEngine::with_pool(Counting::default(), 1_000_000, 10);
        let start = Instant::now();
        let timed = async |count| {
            engine
                .post_all(&posts(&vec!["c"; count]), in_seconds(60))
                .await;
            start.elapsed().as_millis()
        };
        let (large, small) = tokio::join!(timed(1000), timed(20));
        assert_eq!(engine.pusher.most.load(Ordering::Relaxed), 10);
        assert!((1000..1100).contains(&large), "{large}");
        // In turns with the other: 20 of its own and as many of the other's.
        assert!(small < 100, "{small}");
    }

    /// API Gateway at a thousand posts a second: a token bucket.
    struct Gateway {
        tokens: Mutex<(f64, Instant)>,
        answers: Mutex<Vec<(Instant, PushOutcome)>>,
    }

    impl Pusher for Gateway {
        async fn push(&self, _: &ConnectionId, _: Arc<[u8]>) -> PushOutcome {
            let outcome = {
                let mut tokens = self.tokens.lock().unwrap();
                let earned = tokens.1.elapsed().as_secs_f64() * 1000.0;
                *tokens = ((tokens.0 + earned).min(100.0), Instant::now());
                let is_granted = tokens.0 >= 1.0;
                tokens.0 -= if is_granted { 1.0 } else { 0.0 };
                [PushOutcome::Throttled, PushOutcome::Delivered][usize::from(is_granted)]
            };
            self.answers.lock().unwrap().push((Instant::now(), outcome));
            sleep(Duration::from_millis(10)).await;
            outcome
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_at_a_tenth_of_its_rate_it_settles_there_and_delivers_all() {
        let gateway = Gateway {
            tokens: Mutex::new((100.0, Instant::now())),
            answers: Mutex::default(),
        };
        let engine = PostEngine::new(gateway, 10_000);
        let start = Instant::now();
        let posted = engine
            .post_all(&posts(&["c"; 12_000]), in_seconds(60))
            .await;
        assert!(
            posted
                .settlements
                .iter()
                .all(|settlement| *settlement == Settlement::Sent)
        );
        let answers = engine.pusher.answers.into_inner().unwrap();
        let settled = start + Duration::from_secs(2);
        let (mut granted, mut refused) = (0.0, 0.0);
        for (_, outcome) in answers.iter().filter(|(at, _)| *at >= settled) {
            *if *outcome == PushOutcome::Delivered {
                &mut granted
            } else {
                &mut refused
            } += 1.0;
        }
        let seconds = (answers[answers.len() - 1].0 - settled).as_secs_f64();
        assert!(granted / seconds >= 900.0, "{granted} in {seconds} s");
        assert!(
            refused / (granted + refused) < 0.05,
            "{refused} of {granted}"
        );
    }
}
