//! How bad it gets: which faults a run meets and how often, and how long calls take. All of it drawn from the seed.

use std::time::Duration;

use fastrand::Rng;

/// One attempt of a call to DynamoDB is given up after this long (as the adapters do, `shared/src/aws.rs`).
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Chances of each fault per call, in thousandths. They hold while the storm lasts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    /// A worker, door or poster dies at a random one of its next port calls.
    pub(crate) crash: u32,
    /// A message is handed out again while somebody holds it.
    pub(crate) duplicate: u32,
    /// A transaction meets writes of somebody unknown at random positions.
    pub(crate) conflict: u32,
    /// The store asks for patience.
    pub(crate) throttle: u32,
    /// A call is carried out and its response lost.
    pub(crate) lost_response: u32,
    /// A call does not arrive.
    pub(crate) lost_request: u32,
    /// A call arrives long after its caller gave up.
    pub(crate) late: u32,
    /// A transaction that is decided becomes visible only in seconds.
    pub(crate) slow_apply: u32,
    /// A cancellation keeps a reason to itself.
    pub(crate) silent_reason: u32,
    /// The queue does not learn of an acknowledgement.
    pub(crate) lost_acknowledgement: u32,
    /// A post to a socket fails or is throttled.
    pub(crate) push: u32,
    /// A call takes far longer than usual.
    pub(crate) slow: u32,
    /// Every second write of a stock shard, in a transaction or by itself, meets a transaction.
    pub(crate) every_second_shard_write: bool,
}

impl Rates {
    /// Each fault absent, rare, usual or a plague, whatever the others are.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut level = |most: u32| [0, most / 8, most / 3, most][rng.usize(0..4)];
        Self {
            crash: level(400),
            duplicate: level(400),
            conflict: level(600),
            throttle: level(300),
            lost_response: level(300),
            lost_request: level(150),
            late: level(400),
            slow_apply: level(400),
            silent_reason: level(500),
            lost_acknowledgement: level(300),
            push: level(300),
            slow: level(150),
            every_second_shard_write: false,
        }
    }

    /// Nothing but conflicts on every second write of a shard.
    pub(crate) fn of_a_rush() -> Self {
        Self {
            every_second_shard_write: true,
            ..Self::default()
        }
    }
}

/// Whether something of this chance, in thousandths, happens.
pub(crate) fn happens(rng: &mut Rng, chance: u32) -> bool {
    chance > 0 && rng.u32(0..1000) < chance
}

/// A random time of so many milliseconds.
pub(crate) fn millis(rng: &mut Rng, range: std::ops::RangeInclusive<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// What the faults did to one run, or to many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Port calls made by the product's code.
    pub steps: u64,
    /// Claims put into the queue.
    pub claims: u64,
    /// Of those, the ones that state a time ahead of the queue's.
    pub ahead: u64,
    /// Coupons that stand at the end.
    pub coupons: u64,
    /// Environments that died in the middle of an invocation, time-outs included.
    pub crashes: u64,
    /// Messages handed out while somebody held them.
    pub duplicates: u64,
    /// Messages handed out again after their visibility ended.
    pub redeliveries: u64,
    /// Transactions and transactional reads refused because of somebody else's write.
    pub conflicts: u64,
    /// Of those, the ones that met a real write of this run.
    pub real_conflicts: u64,
    /// Calls carried out whose response was lost.
    pub lost_responses: u64,
    /// Calls refused to spare the store.
    pub throttles: u64,
    /// Transactions written after their caller had died or given up.
    pub zombies: u64,
    /// Identical transactions that were recognized, done or in progress.
    pub repeats: u64,
    /// Plain reads that saw less than was decided.
    pub half_reads: u64,
    /// Messages in the dead-letter queue, all of them unparseable.
    pub dead_letters: u64,
    /// Delivery jobs that carry on what another could not post.
    pub sent_on: u64,
    /// Early closings that were answered.
    pub closings: u64,
    /// Of those, the ones of campaigns that had not opened.
    pub unopened: u64,
    /// Closers that died or gave up between the note of the closing and its end.
    pub broken_off: u64,
    /// Closings that only the refresher finished.
    pub finished: u64,
    /// Tries to freeze a shard that met a transaction.
    pub busy_freezes: u64,
    /// Coupons issued while a closing had frozen another shard of theirs.
    pub beside_frozen: u64,
    /// Closings answered while claims were waiting, some coupons had gone and some were left.
    pub in_the_rush: u64,
}

impl Stats {
    /// Name and value of each, in the order they are printed.
    pub fn table(&self) -> [(&'static str, u64); 23] {
        [
            ("steps", self.steps),
            ("claims", self.claims),
            ("claims ahead of the queue's clock", self.ahead),
            ("coupons", self.coupons),
            ("crashes", self.crashes),
            ("duplicates", self.duplicates),
            ("redeliveries", self.redeliveries),
            ("conflicts", self.conflicts),
            ("conflicts with a write of the run", self.real_conflicts),
            ("lost responses", self.lost_responses),
            ("throttles", self.throttles),
            ("zombies", self.zombies),
            ("recognized repeats", self.repeats),
            ("half-visible reads", self.half_reads),
            ("dead letters (unparseable)", self.dead_letters),
            ("delivery jobs sent on", self.sent_on),
            ("early closings answered", self.closings),
            ("… before the opening", self.unopened),
            ("closings broken off", self.broken_off),
            ("closings finished by the refresher", self.finished),
            ("freezes in conflict", self.busy_freezes),
            ("coupons beside a frozen shard", self.beside_frozen),
            ("closings in the middle of a rush", self.in_the_rush),
        ]
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.claims += other.claims;
        self.ahead += other.ahead;
        self.coupons += other.coupons;
        self.crashes += other.crashes;
        self.duplicates += other.duplicates;
        self.redeliveries += other.redeliveries;
        self.conflicts += other.conflicts;
        self.real_conflicts += other.real_conflicts;
        self.lost_responses += other.lost_responses;
        self.throttles += other.throttles;
        self.zombies += other.zombies;
        self.repeats += other.repeats;
        self.half_reads += other.half_reads;
        self.dead_letters += other.dead_letters;
        self.sent_on += other.sent_on;
        self.closings += other.closings;
        self.unopened += other.unopened;
        self.broken_off += other.broken_off;
        self.finished += other.finished;
        self.busy_freezes += other.busy_freezes;
        self.beside_frozen += other.beside_frozen;
        self.in_the_rush += other.in_the_rush;
    }

    /// Those that must not be zero over many runs, or the runs have shown nothing.
    pub fn required(&self) -> [(&'static str, u64); 8] {
        [
            ("steps", self.steps),
            ("crashes", self.crashes),
            ("duplicates", self.duplicates),
            ("conflicts", self.conflicts),
            ("lost responses", self.lost_responses),
            ("closings broken off", self.broken_off),
            ("closings finished by the refresher", self.finished),
            ("coupons beside a frozen shard", self.beside_frozen),
        ]
    }

    /// … and over rushes that are closed.
    pub fn required_of_a_rush(&self) -> [(&'static str, u64); 4] {
        [
            ("steps", self.steps),
            ("conflicts", self.conflicts),
            ("closings in the middle of a rush", self.in_the_rush),
            ("freezes in conflict", self.busy_freezes),
        ]
    }
}
