//! The domain of firstcome: pure rules, ports, and the use cases between them.
//! With default features no AWS crate is compiled; only `aws` names the SDK, only `memory` holds fakes.

mod alert;
mod announcements;
mod audit;
#[cfg(feature = "aws")]
pub mod aws;
mod benefit;
mod broadcast;
mod cache;
mod campaign;
mod catalog;
mod claim;
mod closing;
mod connection;
mod coupon;
mod dead_letters;
mod directory;
mod frame;
mod gate;
#[cfg(feature = "hostile")]
pub mod hostile;
mod ids;
mod ink;
mod input;
mod issuance;
mod job;
pub mod lambda;
mod ledger;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod metric;
mod news;
mod partner;
mod port;
mod redemption;
mod refresh;
#[cfg(feature = "schema")]
pub mod schema;
mod ticket;
mod timestamp;
mod trace;
mod wallet;
mod whole;

pub use alert::*;
pub use announcements::*;
pub use audit::*;
pub use benefit::*;
pub use broadcast::*;
pub use cache::*;
pub use campaign::*;
pub use catalog::*;
pub use claim::*;
pub use closing::*;
pub use connection::*;
pub use coupon::*;
pub use dead_letters::*;
pub use directory::*;
pub use frame::*;
pub use gate::*;
pub use ids::*;
pub use ink::*;
pub use input::*;
pub use issuance::*;
pub use job::*;
pub use ledger::*;
pub use news::*;
pub use partner::*;
pub use port::*;
pub use redemption::*;
pub use refresh::*;
pub use ticket::*;
pub use timestamp::*;
pub use trace::*;
pub use wallet::*;
pub use whole::{optional_whole, whole};
