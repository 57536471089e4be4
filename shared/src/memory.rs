//! In-memory ports, for tests.

mod catalog;
mod connections;
mod directory;
mod fan_out;
mod ledger;
mod outbox;
mod pusher;
mod redemptions;
mod refresh;
mod wallets;

pub use catalog::*;
pub use connections::*;
pub use directory::*;
pub use fan_out::*;
pub use ledger::*;
pub use outbox::*;
pub use pusher::*;
pub use refresh::*;
pub use wallets::*;
