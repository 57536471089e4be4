//! Everything a run shares: tables, queues, sockets, the checker, the one source of chance, and the trace.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use firstcome_core::{
    BroadcastId, BroadcastJob, Connection, ConnectionId, DeliveryJob, FanOut, PageProgress,
    PartnerId, Snapshot, Timestamp, UserId,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::book::{Book, Queued};
use crate::fault::{Rates, Stats, happens, millis};
use crate::queue::Queue;
use crate::tables::Tables;

/// What the clocks show when a run starts.
pub(crate) const BASE: Timestamp = Timestamp::from_millis(1_790_000_000_000);
/// ClaimsQueue's visibility time-out, and a second for the clocks of its machines.
const CLAIMS_VISIBILITY_MILLIS: u64 = 61_000;
/// The other queues' (template.yaml).
const JOBS_VISIBILITY_MILLIS: u64 = 180_000;
/// Every queue's `maxReceiveCount` (template.yaml).
const MAX_RECEIVES: u32 = 10;
/// The storm ends at the latest when a valid message has been received so often. What is left then is enough for one
/// receive in the hands of a worker that dies as the storm ends, and one that meets its last transactions.
pub(crate) const RECEIVES_IN_A_STORM: u32 = 6;

/// A message of ClaimsQueue: the text, and what it is to the checker if it holds a claim.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) text: String,
    pub(crate) queued: Option<Queued>,
}

/// What a run shares, under one lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) rng: Rng,
    pub(crate) rates: Rates,
    pub(crate) stats: Stats,
    pub(crate) tables: Tables,
    pub(crate) claims: Queue<Body>,
    pub(crate) deliveries: Queue<DeliveryJob>,
    pub(crate) broadcasts: Queue<BroadcastJob>,
    pub(crate) book: Book,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) fan_outs: BTreeMap<String, FanOut>,
    pub(crate) pages: BTreeMap<(String, u16), (PageProgress, u64)>,
    /// Requests that are on their way to the tables.
    pub(crate) in_flight: u32,
    /// Partners that are about to close a campaign.
    pub(crate) closers: u32,
    /// Rounds of the refresher that ended well.
    pub(crate) rounds: u32,
    /// Whether everything has ended and the actors shall go.
    pub(crate) over: bool,
    trace: Option<Vec<String>>,
}

impl State {
    /// How long a call takes one way.
    pub(crate) fn latency(&mut self) -> Duration {
        let rates = self.rates;
        if happens(&mut self.rng, rates.slow) {
            millis(&mut self.rng, 100..=1900)
        } else {
            millis(&mut self.rng, 1..=15)
        }
    }

    pub(crate) fn happens(&mut self, chance: u32) -> bool {
        happens(&mut self.rng, chance)
    }

    /// No more faults from now on. What is under way stays under way.
    pub(crate) fn calm_down(&mut self) {
        self.rates = Rates::default();
    }

    /// One socket of each user.
    pub(crate) fn connections_of(&self) -> BTreeMap<(PartnerId, UserId), ConnectionId> {
        let sockets = self.book.sockets();
        sockets
            .map(|(socket, owner)| (owner.clone(), socket.clone()))
            .collect()
    }

    /// The key of an announcement.
    pub(crate) fn fan_out_key(id: &BroadcastId) -> String {
        id.to_string()
    }
}

/// One run's world; shared by all of its actors.
#[derive(Debug)]
pub(crate) struct World {
    state: Mutex<State>,
    started: Instant,
    /// Something was put into a queue, or all is over.
    pub(crate) changed: Notify,
    /// An invariant was violated.
    pub(crate) violated: Notify,
}

impl World {
    pub(crate) fn new(rng: Rng, rates: Rates, trace: bool) -> Arc<Self> {
        let state = State {
            rng,
            rates,
            stats: Stats::default(),
            tables: Tables::default(),
            claims: Queue::new(CLAIMS_VISIBILITY_MILLIS, MAX_RECEIVES),
            deliveries: Queue::new(JOBS_VISIBILITY_MILLIS, MAX_RECEIVES),
            broadcasts: Queue::new(JOBS_VISIBILITY_MILLIS, MAX_RECEIVES),
            book: Book::default(),
            snapshot: None,
            connections: BTreeMap::new(),
            fan_outs: BTreeMap::new(),
            pages: BTreeMap::new(),
            in_flight: 0,
            closers: 0,
            rounds: 0,
            over: false,
            trace: trace.then(Vec::new),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            started: Instant::now(),
            changed: Notify::new(),
            violated: Notify::new(),
        })
    }

    /// Looks at the state, or changes it, at one instant.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = look(&mut state);
        if state.book.violation.is_some() {
            self.violated.notify_one();
        }
        seen
    }

    /// Virtual milliseconds since the start.
    pub(crate) fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The true time of day.
    pub(crate) fn now(&self) -> Timestamp {
        let millis = i64::try_from(self.millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(BASE.millis().saturating_add(millis))
    }

    /// Writes a line of the trace, if one is kept.
    pub(crate) fn note(&self, who: &str, what: impl FnOnce() -> String) {
        let at = self.millis();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trace) = &mut state.trace {
            trace.push(format!("{at:>8} ms  {who:<12} {}", what()));
        }
    }

    /// The trace, taken out.
    pub(crate) fn take_trace(&self) -> Vec<String> {
        self.with(|state| state.trace.take().unwrap_or_default())
    }
}
