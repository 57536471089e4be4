//! One value, loaded by one reader for all, served while it is being loaded anew and while loading fails.
//! Knows nothing of what it holds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Clock, PortError, Timestamp};

/// How long a value may be served.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    /// Until it is loaded anew, in milliseconds.
    pub ttl_millis: i64,
    /// Up to this much less, at random, so that environments do not load in step; in milliseconds.
    pub jitter_millis: i64,
    /// Until it is no longer served even if loading fails, in milliseconds from its load.
    pub max_stale_millis: i64,
    /// After a failed load, until the next try, in milliseconds.
    pub retry_millis: i64,
}

/// How often a cache was asked and what that took, since this was last told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Answered from memory.
    pub hits: usize,
    /// Answered with an old value, because another reader loads or loading failed.
    pub stale: usize,
    /// Loads, failed ones included.
    pub loads: usize,
    /// Loads that failed.
    pub failures: usize,
}

#[derive(Debug)]
struct Entry<T> {
    value: Arc<T>,
    loaded_at: Timestamp,
    fresh_until: Timestamp,
}

#[derive(Debug)]
struct State<T> {
    entry: Option<Entry<T>>,
    /// How many loads have ended, and how the last one failed, if it did.
    loads: u64,
    failure: Option<Arc<PortError>>,
    stats: CacheStats,
}

enum Found<T> {
    Fresh(Arc<T>),
    Stale(Arc<T>),
    Nothing,
}

/// A cached value. Expiry goes by the wall clock: a frozen execution environment's monotonic clock stands still.
#[derive(Debug)]
pub struct Cached<T, K> {
    clock: K,
    freshness: Freshness,
    state: Mutex<State<T>>,
    loading: tokio::sync::Mutex<()>,
}

impl<T, K: Clock> Cached<T, K> {
    /// An empty cache.
    pub fn new(clock: K, freshness: Freshness) -> Self {
        let state = Mutex::new(State {
            entry: None,
            loads: 0,
            failure: None,
            stats: CacheStats::default(),
        });
        Self {
            clock,
            freshness,
            state,
            loading: tokio::sync::Mutex::new(()),
        }
    }

    /// The value. If there is none, one caller loads and the others wait for it; if it is old, one caller loads and
    /// the others get the old one at once; if loading fails, everybody gets the old one as long as it may be served.
    ///
    /// # Errors
    /// The failure of the load, shared by all who waited for it, if there is nothing to serve. Never cached.
    pub async fn get(
        &self,
        load: impl AsyncFnOnce() -> Result<T, PortError>,
    ) -> Result<Arc<T>, Arc<PortError>> {
        let loads_seen = self.state().loads;
        match self.find() {
            Found::Fresh(value) => {
                self.state().stats.hits += 1;
                Ok(value)
            }
            Found::Stale(value) => {
                if let Ok(_turn) = self.loading.try_lock()
                    && let Ok(fresh) = self.load(load).await
                {
                    return Ok(fresh);
                }
                self.state().stats.stale += 1;
                Ok(value)
            }
            Found::Nothing => {
                let _turn = self.loading.lock().await;
                match self.find() {
                    Found::Fresh(value) | Found::Stale(value) => Ok(value),
                    Found::Nothing => match self.failure_since(loads_seen) {
                        Some(failure) => Err(failure),
                        None => self.load(load).await,
                    },
                }
            }
        }
    }

    /// The value as it is held, however old, without a load.
    pub fn held(&self) -> Option<Arc<T>> {
        let state = self.state();
        state.entry.as_ref().map(|entry| Arc::clone(&entry.value))
    }

    /// What happened since this was last asked.
    pub fn take_stats(&self) -> CacheStats {
        std::mem::take(&mut self.state().stats)
    }

    async fn load(
        &self,
        load: impl AsyncFnOnce() -> Result<T, PortError>,
    ) -> Result<Arc<T>, Arc<PortError>> {
        // The age counts from before the load: the value may be as old as that.
        let loaded_at = self.clock.now();
        let loaded = load().await;
        let mut state = self.state();
        state.loads += 1;
        state.stats.loads += 1;
        match loaded {
            Ok(value) => {
                let value = Arc::new(value);
                let jitter = fastrand::i64(0..=self.freshness.jitter_millis.max(0));
                let fresh_until =
                    Timestamp::from_millis(loaded_at.millis() + self.freshness.ttl_millis - jitter);
                state.entry = Some(Entry {
                    value: Arc::clone(&value),
                    loaded_at,
                    fresh_until,
                });
                state.failure = None;
                Ok(value)
            }
            Err(failure) => {
                tracing::warn!(
                    error = &failure as &dyn std::error::Error,
                    "cache not refreshed"
                );
                let failure = Arc::new(failure);
                state.stats.failures += 1;
                if let Some(entry) = &mut state.entry {
                    entry.fresh_until =
                        Timestamp::from_millis(loaded_at.millis() + self.freshness.retry_millis);
                }
                state.failure = Some(Arc::clone(&failure));
                Err(failure)
            }
        }
    }

    fn find(&self) -> Found<T> {
        let now = self.clock.now();
        match &self.state().entry {
            Some(entry) if now.millis_since(entry.loaded_at) > self.freshness.max_stale_millis => {
                Found::Nothing
            }
            Some(entry) if now < entry.fresh_until => Found::Fresh(Arc::clone(&entry.value)),
            Some(entry) => Found::Stale(Arc::clone(&entry.value)),
            None => Found::Nothing,
        }
    }

    /// How the last load failed, if one ended since.
    fn failure_since(&self, loads_seen: u64) -> Option<Arc<PortError>> {
        let state = self.state();
        state.failure.clone().filter(|_| state.loads > loads_seen)
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::memory::MemoryClock;

    const FRESHNESS: Freshness = Freshness {
        ttl_millis: 10_000,
        jitter_millis: 0,
        max_stale_millis: 60_000,
        retry_millis: 1000,
    };

    struct Source {
        loads: AtomicUsize,
        failing: bool,
    }

    impl Source {
        const GOOD: fn() -> Self = || Self {
            loads: AtomicUsize::new(0),
            failing: false,
        };
        const BAD: fn() -> Self = || Self {
            loads: AtomicUsize::new(0),
            failing: true,
        };

        async fn load(&self) -> Result<usize, PortError> {
            let load = self.loads.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(100)).await;
            if self.failing {
                Err(PortError::retry("load", "told to fail"))
            } else {
                Ok(load)
            }
        }

        fn loads(&self) -> usize {
            self.loads.load(Ordering::SeqCst)
        }
    }

    fn cache() -> (Cached<usize, MemoryClock>, MemoryClock) {
        let clock = MemoryClock::at(Timestamp::from_millis(1_790_000_000_000));
        (Cached::new(clock.clone(), FRESHNESS), clock)
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_readers_of_a_cold_cache_cause_one_load() {
        let (cache, _) = cache();
        let source = Source::GOOD();
        let read = join_all((0..1000).map(|_| cache.get(async || source.load().await))).await;
        assert!(read.into_iter().all(|value| *value.unwrap() == 0));
        assert_eq!(source.loads(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_readers_share_one_failure_and_it_is_not_kept() {
        let (cache, _) = cache();
        let (bad, good) = (Source::BAD(), Source::GOOD());
        let read = join_all((0..1000).map(|_| cache.get(async || bad.load().await))).await;
        assert!(read.iter().all(Result::is_err));
        assert_eq!(bad.loads(), 1);
        assert!(cache.get(async || good.load().await).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn after_expiry_one_reader_pays_and_nobody_waits() {
        let (cache, clock) = cache();
        let source = Source::GOOD();
        cache.get(async || source.load().await).await.unwrap();
        clock.advance_millis(10_001);
        let timed = async || {
            let started = Instant::now();
            (
                *cache.get(async || source.load().await).await.unwrap(),
                started.elapsed(),
            )
        };
        let read = join_all((0..1000).map(|_| timed())).await;
        assert_eq!(source.loads(), 2);
        assert_eq!(
            read.iter()
                .filter(|(value, took)| *value == 1 && *took >= Duration::from_millis(100))
                .count(),
            1
        );
        assert_eq!(
            read.iter()
                .filter(|(value, took)| *value == 0 && took.is_zero())
                .count(),
            999
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_load_never_empties_the_cache_before_its_time() {
        let (cache, clock) = cache();
        let (good, bad) = (Source::GOOD(), Source::BAD());
        cache.get(async || good.load().await).await.unwrap();
        for _ in 0..6 {
            clock.advance_millis(10_000);
            assert_eq!(*cache.get(async || bad.load().await).await.unwrap(), 0);
        }
        assert_eq!(bad.loads(), 6);
        clock.advance_millis(1);
        assert!(
            cache.get(async || bad.load().await).await.is_err(),
            "older than max-stale"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_load_is_not_tried_again_at_once() {
        let (cache, clock) = cache();
        let (good, bad) = (Source::GOOD(), Source::BAD());
        cache.get(async || good.load().await).await.unwrap();
        clock.advance_millis(10_001);
        for _ in 0..100 {
            cache.get(async || bad.load().await).await.unwrap();
        }
        assert_eq!(bad.loads(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_is_loaded_anew_at_its_end_and_a_failed_load_tried_again_a_second_later() {
        let (cache, clock) = cache();
        let (good, bad) = (Source::GOOD(), Source::BAD());
        cache.get(async || good.load().await).await.unwrap();
        for (advance, loads) in [(9_999, 0), (1, 1), (999, 1), (1, 2)] {
            clock.advance_millis(advance);
            cache.get(async || bad.load().await).await.unwrap();
            assert_eq!(bad.loads(), loads, "after {advance} ms more");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_look_is_counted_once_as_what_it_was() {
        let (cache, clock) = cache();
        let (good, bad) = (Source::GOOD(), Source::BAD());
        for _ in 0..3 {
            cache.get(async || good.load().await).await.unwrap();
        }
        clock.advance_millis(10_001);
        let read = join_all((0..10).map(|_| cache.get(async || bad.load().await))).await;
        assert!(read.iter().all(Result::is_ok));
        let stats = CacheStats {
            hits: 2,
            stale: 10,
            loads: 2,
            failures: 1,
        };
        assert_eq!(cache.take_stats(), stats);
        assert_eq!(cache.take_stats(), CacheStats::default());
    }
}
