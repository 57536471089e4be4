//! In-memory ports, for tests.

mod catalog;
mod connections;
mod fan_out;
mod directory;
mod ledger;
mod pusher;
mod outbox;
mod refresh;

pub use catalog::*;
pub use connections::*;
pub use fan_out::*;
pub use directory::*;
pub use ledger::*;
pub use pusher::*;
pub use outbox::*;
pub use refresh::*;
