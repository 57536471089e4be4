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
    handler::{Api, Ports},
    problem::Problem,
};

/// How long a known key is taken for granted, in milliseconds: a revoked one works on for so long.
const KNOWN_MILLIS: i64 = 60_000;
/// How long an unknown key is not asked for again, in milliseconds.
const UNKNOWN_MILLIS: i64 = 10_000;
/// How many keys are remembered.
const CAPACITY: usize = 1000;

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
}

impl<K: KeyStore> Gate<K> {
    pub(crate) fn new(keys: K) -> Self {
        Self {
            keys,
            reads: Mutex::default(),
        }
    }

    /// Whose key it is, if it opens `scope` at `now`.
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

    async fn record(&self, key_id: &str, now: Timestamp) -> Result<Option<KeyRecord>, PortError> {
        let read = self.read_of(key_id, now);
        let loaded = read.get_or_init(|| self.load(key_id, now)).await;
        let shared_failure = |fate| PortError {
            operation: "read the API key",
            fate,
            source: "see the log above".into(),
        };
        loaded.record.clone().map_err(shared_failure)
    }

    async fn load(&self, key_id: &str, now: Timestamp) -> Loaded {
        let record = self.keys.key(key_id).await;
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

    /// The read that answers for this key: a fresh one, one under way, or a new one.
    fn read_of(&self, key_id: &str, now: Timestamp) -> Read {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = |read: &Read| read.get().is_none_or(|loaded| now < loaded.fresh_until);
        if let Some(read) = reads.get(key_id).filter(|read| answers(read)) {
            return read.clone();
        }
        if reads.len() >= CAPACITY {
            // Guessed keys go first, so that guessing cannot push the known ones out.
            let known = |read: &Read| {
                read.get()
                    .is_none_or(|loaded| matches!(loaded.record, Ok(Some(_))))
            };
            reads.retain(|_, read| answers(read) && known(read));
            if reads.len() >= CAPACITY {
                reads.clear();
            }
        }
        let read = Read::default();
        reads.insert(key_id.into(), read.clone());
        read
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
    let partner = api.gate.partner(key, scope, api.clock.now()).await?;
    request.extensions_mut().insert(partner);
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use firstcome_core::memory::MemoryCatalog;
    use futures_util::future::join_all;

    use super::*;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn gate() -> (Gate<MemoryCatalog>, MemoryCatalog, ApiKey) {
        let (store, key) = (MemoryCatalog::default(), ApiKey::from_random(1, [2, 3]));
        let record = KeyRecord {
            partner_id: PartnerId::new("acme").unwrap(),
            sha256: key.secret_sha256(),
            scopes: vec![Scope::Claims],
            status: "active".into(),
            expires_at: None,
        };
        store.add_key(key.key_id(), record);
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
        assert!(
            gate.partner(&key.reveal(), Scope::Claims, NOW)
                .await
                .is_ok()
        );
        for guess in 100..1500 {
            let text = ApiKey::from_random(guess, [2, 3]).reveal();
            assert!(gate.partner(&text, Scope::Claims, NOW).await.is_err());
        }
        assert!(gate.reads.lock().unwrap().len() <= CAPACITY);
        let reads = store.key_reads();
        assert!(
            gate.partner(&key.reveal(), Scope::Claims, NOW)
                .await
                .is_ok()
        );
        assert_eq!(store.key_reads(), reads);
    }
}
