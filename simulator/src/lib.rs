//! Runs the real issuance, claim door, broadcast and refresh code on one seed and virtual time, against queues and tables
//! that do the worst SQS and DynamoDB may do, and checks the invariants at every write and every answer.
//!
//! One seed is one run: the same seed does the same, step by step. What is real: the handler of function `issue` with
//! issuer and stock news, the claim door with its directory, early closing, the refresher, and the use cases of `broadcast`. What is not:
//! the AWS adapters, which the contract suite and the tests of replayed requests hold to the ports' contracts.

mod actors;
mod book;
mod fault;
mod known;
mod ports;
mod queue;
mod run;
mod scenario;
mod tables;
mod world;

pub use fault::Stats;
pub use known::Known;
pub use run::{Options, Run, run};

/// A store that forgets one of its conditions: the checker must see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Broken {
    /// Chunks are taken from shards that hold too little.
    StockCondition,
    /// Chunks are taken from closed shards.
    ClosedCondition,
    /// Coupons are overwritten.
    CouponCondition,
    /// Doors read half of a transaction.
    PlainReadAtTheDoor,
}
