//! Broadcasting measured: a stand-in for API Gateway's `@connections`, and what the clients that post to it share.
//! Each run of a client is a process of its own; `benches/side_by_side.rs` starts them and compares.

pub mod client;
pub mod clients;
pub mod ladder;
pub mod process;
pub mod report;
pub mod stand_in;
