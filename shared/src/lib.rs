//! The domain of firstcome: pure rules, ports, and the use cases between them.
//! With default features no AWS crate is compiled; only `aws` names the SDK, only `memory` holds fakes.

#[cfg(feature = "aws")]
pub mod aws;
mod campaign;
mod claim;
mod connection;
mod coupon;
mod frame;
mod ids;
mod job;
mod ledger;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
mod partner;
mod port;
mod ticket;
mod timestamp;

pub use campaign::*;
pub use claim::*;
pub use connection::*;
pub use coupon::*;
pub use frame::*;
pub use ids::*;
pub use job::*;
pub use ledger::*;
pub use partner::*;
pub use port::*;
pub use ticket::*;
pub use timestamp::*;
