//! A pace in units per second for calls whose price is known only afterwards.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Lets calls go while what was spent is within so many units per second, seen from the first call. Calls that are under
/// way at the same time may overdraw it together; the next ones then wait for that as well.
#[derive(Debug)]
pub(super) struct Pace {
    per_unit: Duration,
    /// When everything spent so far is paid for.
    paid: Mutex<Instant>,
}

impl Pace {
    /// Of so many units per second, from now on.
    pub(super) fn per_second(units: u32) -> Self {
        Self {
            per_unit: Duration::from_secs(1) / units.max(1),
            paid: Mutex::new(Instant::now()),
        }
    }

    /// Waits until everything spent is paid for, what others spend meanwhile included.
    pub(super) async fn wait(&self) {
        loop {
            let paid = *self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            if paid <= Instant::now() {
                return;
            }
            sleep_until(paid).await;
        }
    }

    /// Takes note of what a call has cost.
    pub(super) fn spend(&self, units: f64) {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = (*paid).max(Instant::now()) + self.per_unit.mul_f64(units.max(0.0));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn several_callers_together_keep_the_pace() {
        let (pace, started) = (Pace::per_second(100), Instant::now());
        let callers = (0..4).map(|_| async {
            for _ in 0..25 {
                pace.wait().await;
                pace.spend(10.0);
            }
        });
        join_all(callers).await;
        // 1,000 units at 100 a second; the last four callers' 10 units each are not waited for.
        let took = started.elapsed().as_secs_f64();
        assert!((9.6..=10.0).contains(&took), "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_nobody_used_is_not_made_up_for() {
        let pace = Pace::per_second(10);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let started = Instant::now();
        for _ in 0..3 {
            pace.wait().await;
            pace.spend(10.0);
        }
        assert_eq!(started.elapsed(), Duration::from_secs(2));
    }
}
