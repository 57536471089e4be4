//! The gate: an API key opens the routes of its scopes. Keys are cached; concurrent misses of one share one read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::Response,
};
use firstcome_core::{ApiKey, Fate, KeyRecord, KeyStore, PartnerId, PortError, Scope, Timestamp};
use tokio::sync::OnceCell;

use crate::{
    budget::Bucket,
    handler::{Api, Ports},
    problem::Problem,
};

/// How long a known key is taken for granted, in milliseconds: a revoked one works on for so long.
const KNOWN_MILLIS: i64 = 60_000;
/// How long an unknown key is not asked for again, in milliseconds.
const UNKNOWN_MILLIS: i64 = 10_000;
/// How many keys are remembered.
const CAPACITY: usize = 1000;
/// Reads of keys that turn out to be unknown, at once and then per second: a flood of guesses costs an environment no
/// more. A key that was good here before is read whatever the flood.
const UNKNOWN_READS: u32 = 50;
/// See [`UNKNOWN_READS`].
const UNKNOWN_READS_PER_SECOND: u32 = 10;

/// One read of a key: under way while the cell is empty, shared by all who wait for it.
type Read = Arc<OnceCell<Loaded>>;

struct Loaded {
    record: Result<Option<KeyRecord>, Fate>,
    /// By the wall clock: a frozen environment's monotonic clock stands still.
    fresh_until: Timestamp,
}

/// Tells whose a key is.
pub(crate) struct Gate<K> {
    keys: K,
    reads: Mutex<HashMap<String, Read>>,
    guesses: Mutex<Bucket>,
}

impl<K: KeyStore> Gate<K> {
    pub(crate) fn new(keys: K) -> Self {
        Self {
            keys,
            reads: Mutex::default(),
            guesses: Mutex::new(Bucket::full(UNKNOWN_READS, UNKNOWN_READS_PER_SECOND)),
        }
    }

    /// Whose key it is, if it opens `scope` at `now`. A text that has not the form of a key costs no read.
    pub(crate) async fn partner(
        &self,
        text: &str,
        scope: Scope,
        now: Timestamp,
    ) -> Result<PartnerId, Problem> {
        let key = ApiKey::parse(text).ok_or_else(Problem::unauthorized)?;
        let record = self
            .record(key.key_id(), now)
            .await?
            .filter(|record| record.admits(&key, now));
        let record = record.ok_or_else(Problem::unauthorized)?;
        if !record.scopes.contains(&scope) {
            let detail = format!("the key lacks the scope {}", scope.as_str());
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
        }
        Ok(record.partner_id)
    }

    async fn record(&self, key_id: &str, now: Timestamp) -> Result<Option<KeyRecord>, Problem> {
        let read = self
            .read_of(key_id, now)
            .ok_or_else(|| Problem::too_many("too many unknown keys are being tried"))?;
        let loaded = read.get_or_init(|| self.load(key_id, now)).await;
        let shared_failure = |fate| PortError {
            operation: "read the API key",
            fate,
            source: "see the log above".into(),
        };
        Ok(loaded.record.clone().map_err(shared_failure)?)
    }

    async fn load(&self, key_id: &str, now: Timestamp) -> Loaded {
        let record = self.keys.key(key_id).await;
        if !matches!(record, Ok(None)) {
            let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
            guesses.give_back();
        }
        let fresh_millis = match &record {
            Ok(Some(_)) => KNOWN_MILLIS,
            Ok(None) => UNKNOWN_MILLIS,
            // Shared by those who wait for it, then forgotten.
            Err(_) => 0,
        };
        let fresh_until = Timestamp::from_millis(now.millis() + fresh_millis);
        let record = record.map_err(|error| {
            tracing::warn!(error = %error, cause = %error.source, "API key not read");
            error.fate
        });
        Loaded {
            record,
            fresh_until,
        }
    }

    /// The read that answers for this key: a fresh one, one under way, or a new one; `None` in a flood of guesses.
    fn read_of(&self, key_id: &str, now: Timestamp) -> Option<Read> {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = |read: &Read| read.get().is_none_or(|loaded| now < loaded.fresh_until);
        if let Some(read) = reads.get(key_id).filter(|read| answers(read)) {
            return Some(read.clone());
        }
        let was_good = |read: &Read| {
            read.get()
                .is_some_and(|loaded| matches!(loaded.record, Ok(Some(_))))
        };
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        if !guesses.take(now) && !reads.get(key_id).is_some_and(was_good) {
            return None;
        }
        if reads.len() >= CAPACITY {
            // Guessed keys go first, so that guessing cannot push the known ones out.
            reads.retain(|_, read| answers(read) && (read.get().is_none() || was_good(read)));
            if reads.len() >= CAPACITY {
                reads.clear();
            }
        }
        let read = Read::default();
        reads.insert(key_id.into(), read.clone());
        Some(read)
    }
}

/// Lets a request in and tells the route whose it is.
pub(crate) async fn admit<P: Ports>(
    State((api, scope)): State<(Arc<Api<P>>, Scope)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let key = request
        .headers()
        .get("x-api-key")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let now = api.clock.now();
    let partner = api.gate.partner(key, scope, now).await?;
    api.budgets.take(&partner, now)?;
    request.extensions_mut().insert(partner);
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use firstcome_core::memory::MemoryCatalog;
    use futures_util::future::join_all;

    use super::*;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn record(key: &ApiKey) -> KeyRecord {
        KeyRecord {
            partner_id: PartnerId::new("acme").unwrap(),
            sha256: key.secret_sha256(),
            scopes: vec![Scope::Claims],
            status: "active".into(),
            expires_at: None,
        }
    }

    fn gate() -> (Gate<MemoryCatalog>, MemoryCatalog, ApiKey) {
        let (store, key) = (MemoryCatalog::default(), ApiKey::from_random(1, [2, 3]));
        store.add_key(key.key_id(), record(&key));
        (Gate::new(store.clone()), store, key)
    }

    #[tokio::test]
    async fn a_thousand_concurrent_misses_of_one_key_share_one_read() {
        let (gate, store, key) = gate();
        let text = key.reveal();
        let answers = join_all((0..1000).map(|_| gate.partner(&text, Scope::Claims, NOW))).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(store.key_reads(), 1);
    }

    #[tokio::test]
    async fn a_known_key_is_read_again_after_a_minute_and_an_unknown_one_after_ten_seconds() {
        let (gate, store, key) = gate();
        let unknown = ApiKey::from_random(9, [2, 3]).reveal();
        for (second, reads) in [(0, 2), (9, 2), (10, 3), (59, 4), (60, 5)] {
            let now = NOW.plus_seconds(second);
            assert!(
                gate.partner(&key.reveal(), Scope::Claims, now)
                    .await
                    .is_ok()
            );
            assert!(gate.partner(&unknown, Scope::Claims, now).await.is_err());
            assert_eq!(store.key_reads(), reads, "after {second} s");
        }
    }

    #[tokio::test]
    async fn a_failed_read_is_shared_and_not_remembered() {
        let (gate, store, key) = gate();
        let text = key.reveal();
        store.fail(true);
        let answers = join_all((0..100).map(|_| gate.partner(&text, Scope::Claims, NOW))).await;
        assert!(answers.iter().all(Result::is_err));
        assert_eq!(store.key_reads(), 1);
        store.fail(false);
        assert!(gate.partner(&text, Scope::Claims, NOW).await.is_ok());
    }

    #[tokio::test]
    async fn guessing_keys_neither_fills_the_memory_nor_pushes_known_ones_out() {
        let (gate, store, key) = gate();
        let text = key.reveal();
        assert!(gate.partner(&text, Scope::Claims, NOW).await.is_ok());
        for second in 0..300 {
            for guess in 0..5 {
                let text = ApiKey::from_random(100 + second * 5 + guess, [2, 3]).reveal();
                let now = NOW.plus_seconds(second.cast_signed() / 10);
                assert!(gate.partner(&text, Scope::Claims, now).await.is_err());
            }
        }
        assert!(gate.reads.lock().unwrap().len() <= CAPACITY);
        let reads = store.key_reads();
        assert!(gate.partner(&text, Scope::Claims, NOW).await.is_ok());
        assert_eq!(store.key_reads(), reads);
    }

    #[tokio::test]
    async fn a_flood_of_unknown_keys_costs_a_bounded_number_of_reads_and_spares_the_known() {
        let (gate, store, key) = gate();
        let known = key.reveal();
        assert!(gate.partner(&known, Scope::Claims, NOW).await.is_ok());
        let guess = async |n: u64, second: i64| {
            let text = ApiKey::from_random(100 + n, [2, 3]).reveal();
            let refused = gate.partner(&text, Scope::Claims, NOW.plus_seconds(second));
            refused.await.unwrap_err().into_response().status().as_u16()
        };
        let mut told = HashMap::new();
        for n in 0..10_000 {
            *told.entry(guess(n, 0).await).or_insert(0) += 1;
        }
        assert_eq!(told, HashMap::from([(401, 50), (429, 9950)]));
        assert_eq!(store.key_reads(), 1 + 50);
        for n in 0..100 {
            guess(20_000 + n, 1).await;
        }
        assert_eq!(store.key_reads(), 1 + 50 + 10, "ten more each second");
        for n in 0..1000 {
            guess(30_000 + n, 60).await;
        }
        let before = store.key_reads();
        let later = NOW.plus_seconds(60);
        assert!(gate.partner(&known, Scope::Claims, later).await.is_ok());
        assert_eq!(
            store.key_reads(),
            before + 1,
            "read again whatever the flood"
        );
    }

    #[tokio::test]
    async fn what_has_not_the_form_of_a_key_costs_no_read() {
        let (gate, store, key) = gate();
        let good = key.reveal();
        let upper = good.to_uppercase();
        for text in [
            "",
            "nonsense",
            &good[..good.len() - 1],
            &good[1..],
            &upper,
            "fck_1_2",
        ] {
            assert!(gate.partner(text, Scope::Claims, NOW).await.is_err());
        }
        assert_eq!(store.key_reads(), 0);
    }

    #[tokio::test]
    async fn good_keys_never_use_the_guesses_up() {
        let (gate, store, _) = gate();
        for n in 0..200 {
            let key = ApiKey::from_random(1000 + n, [2, 3]);
            store.add_key(key.key_id(), record(&key));
            let text = key.reveal();
            assert!(gate.partner(&text, Scope::Claims, NOW).await.is_ok());
        }
    }

    #[tokio::test]
    async fn a_key_ends_at_its_instant_and_a_revoked_one_within_a_minute() {
        let (gate, store, key) = gate();
        let (text, end) = (key.reveal(), NOW.plus_seconds(30));
        let expiring = KeyRecord {
            expires_at: Some(end),
            ..record(&key)
        };
        store.add_key(key.key_id(), expiring);
        let works = async |text: &str, at: i64| {
            let now = Timestamp::from_millis(at);
            gate.partner(text, Scope::Claims, now).await.is_ok()
        };
        assert!(works(&text, 29_999).await);
        assert!(!works(&text, 30_000).await, "though it is in the cache");

        // Rotation: both keys open until the old one is revoked.
        let (old, new) = (
            ApiKey::from_random(7, [1, 1]),
            ApiKey::from_random(8, [1, 1]),
        );
        for key in [&old, &new] {
            store.add_key(key.key_id(), record(key));
            assert!(works(&key.reveal(), 40_000).await);
        }
        let revoked = KeyRecord {
            status: "revoked".into(),
            ..record(&old)
        };
        store.add_key(old.key_id(), revoked);
        assert!(
            works(&old.reveal(), 99_999).await,
            "for as long as the cache holds it"
        );
        assert!(!works(&old.reveal(), 100_000).await);
        assert!(works(&new.reveal(), 100_000).await);
    }

    #[tokio::test]
    async fn a_thousand_requests_of_one_key_within_two_minutes_cost_two_reads() {
        let (gate, store, key) = gate();
        let text = key.reveal();
        for n in 0..1000 {
            let now = Timestamp::from_millis(n * 119);
            assert!(gate.partner(&text, Scope::Claims, now).await.is_ok());
        }
        assert_eq!(store.key_reads(), 2);
    }
}
