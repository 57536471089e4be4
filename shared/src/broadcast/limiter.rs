//! How many posts may start each second: additive increase, multiplicative decrease. Knows nothing of what is posted.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// How much unused time may be made up for at once: a tenth of a second's posts.
const BURST: Duration = Duration::from_millis(100);
/// One moment of overload answers many posts with 429; it halves the rate once.
const CUT_PAUSE: Duration = Duration::from_millis(200);

/// Paces posts. Lives as long as the execution environment, so that one invocation's lesson serves the next.
#[derive(Debug)]
pub(super) struct Limiter {
    floor: f64,
    ceiling: f64,
    rate: Mutex<Rate>,
    // Held while waiting, so that waiters queue and one that gives up has reserved nothing.
    next: tokio::sync::Mutex<Instant>,
}

#[derive(Debug)]
struct Rate {
    per_second: f64,
    cut_at: Option<Instant>,
}

impl Limiter {
    /// At most `per_second` posts a second, at least a fiftieth of that.
    pub(super) fn new(per_second: u32) -> Self {
        let ceiling = f64::from(per_second.max(1));
        Self {
            floor: (ceiling / 50.0).max(1.0),
            ceiling,
            rate: Mutex::new(Rate {
                per_second: ceiling,
                cut_at: None,
            }),
            next: tokio::sync::Mutex::new(Instant::now()),
        }
    }

    /// Waits until one more post may start.
    pub(super) async fn permit(&self) {
        let mut next = self.next.lock().await;
        sleep_until(*next).await;
        let earliest = Instant::now().checked_sub(BURST).unwrap_or(*next);
        *next = earliest.max(*next) + Duration::from_secs_f64(1.0 / self.rate().per_second);
    }

    /// A post was let through: the rate grows by a tenth of the ceiling per second of posting.
    pub(super) fn speed_up(&self) {
        let mut rate = self.rate();
        rate.per_second =
            (rate.per_second + self.ceiling / 10.0 / rate.per_second).min(self.ceiling);
    }

    /// A post was refused for now: the rate is halved, once per [`CUT_PAUSE`].
    pub(super) fn slow_down(&self) {
        let (mut rate, now) = (self.rate(), Instant::now());
        if rate
            .cut_at
            .is_none_or(|cut| now.duration_since(cut) >= CUT_PAUSE)
        {
            rate.per_second = (rate.per_second / 2.0).max(self.floor);
            rate.cut_at = Some(now);
        }
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
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

    #[tokio::test(start_paused = true)]
    async fn overload_halves_the_rate_once_and_success_brings_it_back() {
        let limiter = Limiter::new(100);
        (0..10).for_each(|_| limiter.slow_down());
        assert_eq!(limiter.rate().per_second, 50.0);
        (0..10_000).for_each(|_| limiter.speed_up());
        assert_eq!(limiter.rate().per_second, 100.0);
        for _ in 0..100 {
            tokio::time::advance(CUT_PAUSE).await;
            limiter.slow_down();
        }
        assert_eq!(limiter.rate().per_second, 2.0, "never below the floor");
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
