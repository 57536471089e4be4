//! How many posts may start each second: additive increase, multiplicative decrease. Knows nothing of what is posted.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// How much unused time may be made up for at once: a tenth of a second's posts.
const BURST: Duration = Duration::from_millis(100);
/// The rate is judged by the answers of so long a span …
const WINDOW: Duration = Duration::from_millis(100);
/// … and of so many posts, at least.
const SAMPLE: u32 = 20;
/// The share of refusals that is no overload yet: single sockets that do not read are answered 429 as well.
const TOLERATED: f64 = 0.01;
/// A cut goes so far below what was let through.
const MARGIN: f64 = 0.02;
/// The most that one cut takes.
const DEEPEST_CUT: f64 = 0.5;
/// How the rate grows: so much of the ceiling per second after a cut …
const GROWTH: f64 = 0.01;
/// … and so much per second more with each second since. Half the ceiling takes seven seconds.
const ACCELERATION: f64 = 0.02;
/// The most it grows by at once: at a low rate a sample takes long.
const LARGEST_STEP: f64 = 0.1;
/// Answers that come too seldom tell nothing about the rate, nor does an idle hour: what has not become a sample in this
/// time, or in twice the time it takes at the rate, is forgotten.
const MEMORY: Duration = Duration::from_secs(1);

/// Paces posts. Lives as long as the execution environment, so that one invocation's lesson serves the next.
///
/// A token bucket on the other side lets its rate through and refuses the rest, so the share refused says how far the
/// rate is off: it is cut by that share. Halving instead would leave a quarter of the granted rate unused.
#[derive(Debug)]
pub(super) struct Limiter {
    floor: f64,
    ceiling: f64,
    rate: Mutex<Rate>,
    // Held while waiting, so that waiters queue and one that gives up has reserved nothing.
    next: tokio::sync::Mutex<Instant>,
}

/// The right to start one post. Its answer tells about the rate it was given at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permit {
    cuts: u32,
}

#[derive(Debug)]
struct Rate {
    per_second: f64,
    cuts: u32,
    /// Time of posting since the last cut.
    calm: Duration,
    window: Window,
}

/// The answers since the rate was judged last.
#[derive(Debug)]
struct Window {
    since: Instant,
    granted: u32,
    refused: u32,
}

impl Limiter {
    /// At most `per_second` posts a second, at least a fiftieth of that.
    pub(super) fn new(per_second: u32) -> Self {
        let ceiling = f64::from(per_second.max(1));
        let now = Instant::now();
        Self {
            floor: (ceiling / 50.0).max(1.0),
            ceiling,
            rate: Mutex::new(Rate {
                per_second: ceiling,
                cuts: 0,
                calm: Duration::ZERO,
                window: Window::new(now),
            }),
            next: tokio::sync::Mutex::new(now),
        }
    }

    /// Waits until one more post may start.
    pub(super) async fn permit(&self) -> Permit {
        let mut next = self.next.lock().await;
        let mut now = Instant::now();
        if now < *next {
            sleep_until(*next).await;
            now = Instant::now();
        }
        let (pause, cuts) = {
            let rate = self.rate();
            (Duration::from_secs_f64(1.0 / rate.per_second), rate.cuts)
        };
        let earliest = now.checked_sub(BURST).unwrap_or(*next);
        *next = earliest.max(*next) + pause;
        Permit { cuts }
    }

    /// The post was let through.
    pub(super) fn granted(&self, permit: Permit) {
        self.note(permit, |window| window.granted += 1);
    }

    /// The post was refused for now.
    pub(super) fn refused(&self, permit: Permit) {
        self.note(permit, |window| window.refused += 1);
    }

    /// Posts that may start in a second, as things stand.
    pub(super) fn per_second(&self) -> f64 {
        self.rate().per_second
    }

    fn note(&self, permit: Permit, count: impl FnOnce(&mut Window)) {
        let mut rate = self.rate();
        // What was started before a cut would be counted against the rate after it.
        if permit.cuts != rate.cuts {
            return;
        }
        let now = Instant::now();
        rate.forget_stale(now);
        count(&mut rate.window);
        if rate.window.is_full(now) {
            rate.judge(now, self.floor, self.ceiling);
        }
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rate {
    fn forget_stale(&mut self, now: Instant) {
        let sample = Duration::from_secs_f64(f64::from(SAMPLE) / self.per_second);
        if now.duration_since(self.window.since) > MEMORY.max(2 * sample) {
            self.window = Window::new(now);
        }
    }

    fn judge(&mut self, now: Instant, floor: f64, ceiling: f64) {
        let refused = self.window.share_refused();
        if refused > TOLERATED {
            let cut = (refused + MARGIN).min(DEEPEST_CUT);
            self.per_second = (self.per_second * (1.0 - cut)).max(floor);
            self.cuts = self.cuts.wrapping_add(1);
            self.calm = Duration::ZERO;
        } else {
            let span = now.duration_since(self.window.since);
            self.calm += span;
            let slope = GROWTH + ACCELERATION * self.calm.as_secs_f64();
            let growth = (ceiling * slope * span.as_secs_f64()).min(LARGEST_STEP * self.per_second);
            self.per_second = (self.per_second + growth).min(ceiling);
        }
        self.window = Window::new(now);
    }
}

impl Window {
    fn new(since: Instant) -> Self {
        Self {
            since,
            granted: 0,
            refused: 0,
        }
    }

    fn is_full(&self, now: Instant) -> bool {
        self.granted + self.refused >= SAMPLE && now.duration_since(self.since) >= WINDOW
    }

    fn share_refused(&self) -> f64 {
        f64::from(self.refused) / f64::from(self.granted + self.refused)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    async fn seconds_for(limiter: &Limiter, posts: u32) -> f64 {
        let start = Instant::now();
        for _ in 0..posts {
            limiter.permit().await;
        }
        start.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_posts_at_a_hundred_a_second_take_ten_seconds() {
        let seconds = seconds_for(&Limiter::new(100), 1000).await;
        assert!((9.8..10.2).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_above_the_timers_grain_is_kept() {
        let seconds = seconds_for(&Limiter::new(5000), 10_000).await;
        assert!((1.8..2.2).contains(&seconds), "{seconds}");
    }

    /// One full window of a hundred answers at the present rate.
    async fn window(limiter: &Limiter, refused: u32) {
        let cuts = limiter.rate().cuts;
        (1..refused).for_each(|_| limiter.refused(Permit { cuts }));
        (refused..100).for_each(|_| limiter.granted(Permit { cuts }));
        tokio::time::advance(WINDOW).await;
        if refused > 0 {
            limiter.refused(Permit { cuts });
        } else {
            limiter.granted(Permit { cuts });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_cut_by_the_share_refused_but_never_by_more_than_half() {
        let limiter = Limiter::new(1000);
        for (refused, rate) in [(10, 880.0), (90, 440.0), (100, 220.0)] {
            window(&limiter, refused).await;
            let per_second = limiter.rate().per_second;
            assert!((per_second - rate).abs() < 2.0, "{refused}: {per_second}");
        }
        for _ in 0..10 {
            window(&limiter, 100).await;
        }
        assert_eq!(limiter.rate().per_second, 20.0, "never below the floor");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_started_before_a_cut_does_not_cut_again() {
        let limiter = Limiter::new(1000);
        let before = limiter.permit().await;
        window(&limiter, 100).await;
        tokio::time::advance(WINDOW).await;
        (0..100).for_each(|_| limiter.refused(before));
        assert_eq!(limiter.rate().per_second, 500.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stray_refusal_is_no_overload() {
        let limiter = Limiter::new(1000);
        window(&limiter, 1).await;
        assert_eq!(limiter.rate().per_second, 1000.0);
    }

    #[tokio::test(start_paused = true)]
    async fn half_the_rate_comes_back_in_seven_seconds_of_posting() {
        let limiter = Limiter::new(1000);
        window(&limiter, 100).await;
        let start = Instant::now();
        while limiter.rate().per_second < 1000.0 {
            window(&limiter, 0).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!((6.0..8.0).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_hour_is_no_evidence() {
        let limiter = Limiter::new(1000);
        window(&limiter, 100).await;
        tokio::time::advance(Duration::from_secs(3600)).await;
        window(&limiter, 0).await;
        let per_second = limiter.rate().per_second;
        assert!((500.0..550.0).contains(&per_second), "{per_second}");
    }

    /// The other side: lets `rate` posts a second through, a tenth of a second's at once, or a few.
    struct Bucket {
        rate: f64,
        tokens: f64,
        at: Instant,
    }

    impl Bucket {
        fn new(rate: f64) -> Self {
            Self {
                rate,
                tokens: (rate / 10.0).max(5.0),
                at: Instant::now(),
            }
        }

        fn grants(&mut self) -> bool {
            let earned = self.at.elapsed().as_secs_f64() * self.rate;
            (self.tokens, self.at) = (
                (self.tokens + earned).min((self.rate / 10.0).max(5.0)),
                Instant::now(),
            );
            let granted = self.tokens >= 1.0;
            self.tokens -= if granted { 1.0 } else { 0.0 };
            granted
        }
    }

    /// Posts for so long, with answers that take `latency`; returns how many were granted and refused.
    async fn post(
        limiter: &Limiter,
        bucket: &mut Bucket,
        latency: Duration,
        seconds: u64,
    ) -> (f64, f64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut answers = VecDeque::new();
        let (mut granted, mut refused) = (0.0, 0.0);
        while Instant::now() < end {
            let permit = limiter.permit().await;
            let is_granted = bucket.grants();
            *if is_granted {
                &mut granted
            } else {
                &mut refused
            } += 1.0;
            answers.push_back((Instant::now() + latency, permit, is_granted));
            while let Some(&(at, permit, is_granted)) = answers.front()
                && at <= Instant::now()
            {
                if is_granted {
                    limiter.granted(permit);
                } else {
                    limiter.refused(permit);
                }
                answers.pop_front();
            }
        }
        (granted, refused)
    }

    #[tokio::test(start_paused = true)]
    async fn it_settles_at_the_granted_rate_within_two_seconds() {
        for (ceiling, rate, millis) in [
            (10_000, 1000.0, 0),
            (10_000, 1000.0, 10),
            (10_000, 1000.0, 100),
            (2000, 1000.0, 10),
            (1000, 990.0, 10),
            (280, 100.0, 10),
        ] {
            let (limiter, mut bucket) = (Limiter::new(ceiling), Bucket::new(rate));
            let latency = Duration::from_millis(millis);
            post(&limiter, &mut bucket, latency, 2).await;
            let (granted, refused) = post(&limiter, &mut bucket, latency, 20).await;
            let case =
                format!("{ceiling} {rate} {millis} ms: {granted} granted, {refused} refused");
            assert!(granted / 20.0 >= 0.95 * rate, "{case}");
            assert!(refused / (granted + refused) < 0.03, "{case}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_less_than_a_sample_a_second_is_learnt_too() {
        let (limiter, mut bucket) = (Limiter::new(100), Bucket::new(10.0));
        let latency = Duration::from_millis(10);
        post(&limiter, &mut bucket, latency, 10).await;
        let (granted, refused) = post(&limiter, &mut bucket, latency, 60).await;
        let case = format!("{granted} granted, {refused} refused");
        assert!(granted / 60.0 >= 8.0, "{case}");
        assert!(refused / (granted + refused) < 0.15, "{case}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_has_reserved_nothing() {
        let limiter = Limiter::new(1);
        limiter.permit().await;
        let waiters =
            (0..50).map(|_| tokio::time::timeout(Duration::from_millis(10), limiter.permit()));
        futures_util::future::join_all(waiters).await;
        assert!(seconds_for(&limiter, 1).await < 1.1);
    }
}
