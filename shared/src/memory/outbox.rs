//! Queues that remember what was sent, clocks that stand still, and randomness that repeats.

use std::future::pending;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    BroadcastJob, BroadcastOutbox, Campaign, Claim, ClaimOutbox, ClaimReturns, Clock, DeliveryJob,
    DeliveryOutbox, DeliveryRetries, Entropy, PortError, Timestamp,
};

#[derive(Debug, Default)]
struct Sent {
    claims: Vec<Claim>,
    deliveries: Vec<DeliveryJob>,
    retries: Vec<(DeliveryJob, u16)>,
    broadcasts: Vec<(BroadcastJob, u16)>,
    returns: Vec<(String, u16)>,
    returned_to: Vec<String>,
    failing: bool,
    hanging: Option<&'static str>,
}

/// All three queues; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryOutbox(Arc<Mutex<Sent>>);

impl MemoryOutbox {
    fn with<T>(&self, look: impl FnOnce(&mut Sent) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on (or no more) every send fails.
    pub fn fail(&self, failing: bool) {
        self.with(|sent| sent.failing = failing);
    }

    /// From now on this operation never ends.
    pub fn hang(&self, operation: &'static str) {
        self.with(|sent| sent.hanging = Some(operation));
    }

    /// The claims sent so far.
    pub fn claims(&self) -> Vec<Claim> {
        self.with(|sent| sent.claims.clone())
    }

    /// The delivery jobs sent so far.
    pub fn deliveries(&self) -> Vec<DeliveryJob> {
        self.with(|sent| sent.deliveries.clone())
    }

    /// The delivery jobs sent on so far, with their delays in seconds.
    pub fn retries(&self) -> Vec<(DeliveryJob, u16)> {
        self.with(|sent| sent.retries.clone())
    }

    /// The broadcast jobs sent so far, with their delays in seconds.
    pub fn broadcasts(&self) -> Vec<(BroadcastJob, u16)> {
        self.with(|sent| sent.broadcasts.clone())
    }

    /// The messages sent back, by receipt, with their delays in seconds.
    pub fn returns(&self) -> Vec<(String, u16)> {
        self.with(|sent| sent.returns.clone())
    }

    /// The queues they were sent back to, a call each.
    pub fn returned_to(&self) -> Vec<String> {
        self.with(|sent| sent.returned_to.clone())
    }

    async fn send(
        &self,
        operation: &'static str,
        put: impl FnOnce(&mut Sent),
    ) -> Result<(), PortError> {
        if self.with(|sent| sent.hanging == Some(operation)) {
            return pending().await;
        }
        self.with(|sent| {
            if sent.failing {
                return Err(PortError::retry(operation, "told to fail"));
            }
            put(sent);
            Ok(())
        })
    }
}

impl ClaimOutbox for MemoryOutbox {
    async fn enqueue(&self, claim: &Claim, _: &Campaign) -> Result<(), PortError> {
        self.send("send the claim", |sent| sent.claims.push(claim.clone()))
            .await
    }
}

impl DeliveryOutbox for MemoryOutbox {
    async fn deliver(&self, job: &DeliveryJob) -> Result<(), PortError> {
        self.send("send the answers", |sent| sent.deliveries.push(job.clone()))
            .await
    }
}

impl DeliveryRetries for MemoryOutbox {
    async fn deliver_later(&self, job: &DeliveryJob, delay_seconds: u16) -> Result<(), PortError> {
        self.send("send the answers", |sent| {
            sent.retries.push((job.clone(), delay_seconds));
        })
        .await
    }
}

impl BroadcastOutbox for MemoryOutbox {
    async fn send(&self, jobs: &[(BroadcastJob, u16)]) -> Result<(), PortError> {
        self.send("send the broadcast jobs", |sent| {
            sent.broadcasts.extend_from_slice(jobs)
        })
        .await
    }
}

impl ClaimReturns for MemoryOutbox {
    async fn come_back(&self, queue_arn: &str, returns: &[(String, u16)]) -> Result<(), PortError> {
        self.send("set when claims come back", |sent| {
            sent.returned_to.push(queue_arn.to_owned());
            sent.returns.extend_from_slice(returns)
        })
        .await
    }
}

/// A clock that moves when told to; clones share it.
#[derive(Clone, Debug)]
pub struct MemoryClock(Arc<AtomicI64>);

impl MemoryClock {
    /// A clock that stands at this time.
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(now.millis())))
    }

    /// Moves on by so many milliseconds.
    pub fn advance_millis(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for MemoryClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Randomness from a seed; clones share the sequence.
#[derive(Clone, Debug, Default)]
pub struct MemoryEntropy(Arc<AtomicU64>);

impl MemoryEntropy {
    /// The sequence of this seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed << 32)))
    }
}

impl Entropy for MemoryEntropy {
    fn bits(&self) -> u128 {
        fastrand::Rng::with_seed(self.0.fetch_add(1, Ordering::SeqCst)).u128(..)
    }
}
