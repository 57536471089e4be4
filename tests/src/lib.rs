//! Harness of the end-to-end tests: a deployed stack, partners on it, HTTP calls and sockets with time-outs.
//!
//! Everything here fails by panicking with a sentence. The tests see only what a client, a producer or an operator sees.

#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "a test harness fails by panicking"
)]

mod partner;
pub mod processes;
mod socket;
mod stack;

pub use partner::{Partner, Reply, raw};
pub use socket::Socket;
pub use stack::{Stack, eventually, in_seconds};
