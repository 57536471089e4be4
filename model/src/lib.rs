//! The issuance protocol as a model, and every state of it visited for small sizes. An independent statement of the
//! protocol: it shares no code with the product, so that neither repeats the other's mistakes.
//!
//! `cargo run --release -p firstcome-model` explores all [`sales`], breaks every rule once ([`Broken`]) and prints what it
//! found; with `--traces`, also how each broken rule goes wrong.
//!
//! **What is in it.** Two workers, SQS that redelivers, up to three claims on one or two coupons in one or two shards: two
//! claims of one user, replays of a claimId, claims out of time. One step is one read of one item, one message, one
//! fault, or one item of a transaction becoming visible, so that plain reads see half of a transaction. A worker may die
//! between any two steps; a response may be lost, and its request be applied already, later, or never, and be repeated
//! under its token; a cancellation need not tell all its reasons. Early close is a note on the record, then one write of each
//! shard, refused while a transaction holds it (`TransactionConflict`), then the sold mark if all were empty, then the record;
//! it may stop between any two steps, and anybody goes on. The claim door reads a coupon in a transaction before it refuses. A
//! message states a time and has the queue's, and the campaign may open while it waits.
//!
//! **What is checked.** I1–I6 as statements about every state ([`INVARIANTS`]); that each kind of answer and of trouble is
//! reached, so that nothing holds for want of trying; and that from every state, with no further fault, the sale can still
//! end with everybody answered ([`liveness`]). States that differ only in the names of workers and tokens count once.
//!
//! **What I5 means here.** A refusal by a message's own time (`not_open`, or `closed` after the window) binds that time
//! only: a replay with another time may win, and an early claim's user may hold another claim's coupon when it is
//! delivered again. Every other answer to a claim is the only one it gets, and a message received after its claim's
//! coupon was answered is not refused.
//!
//! **What is not.** The time of a campaign that is closed before it opens (the simulator has it), damage (a missing shard), claims that can never be stored, other campaigns and partners, tokens older
//! than the store remembers, and the clock: a worker may be arbitrarily slow. The read of several coupons after a chunk of
//! unknown outcome is one step; what it misses stays undecided anyway. A delivery that fails is a crash before the answer
//! or after it. States are told apart by 64-bit fingerprints: among the largest sale's two million, two are confused with a
//! probability of about one in ten million.

mod config;
mod explore;
mod property;
pub mod sales;
mod state;
mod step;

pub use config::{Broken, Faults, MESSAGES, Message, SHARDS, Sale, Set, Time, USERS, WORKERS};
pub use explore::{Exploration, Failure, Liveness, counterexample, explore, liveness};
pub use property::*;
pub use state::{Coupon, Refusal, Said, State};
pub use step::{Action, Reasons};
