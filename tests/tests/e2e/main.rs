//! End-to-end tests: real HTTP, real sockets, real queue messages against a deployed stack, local or on AWS.
//!
//! `cargo test -p firstcome-tests --features e2e --test e2e`, in the AWS environment (`eval "$(make -s env)"`).
//! Every test has a partner of its own, so all may run at once; none looks at what another one does.

#![expect(clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod audit;
mod broadcasts;
mod claims;
mod dead_letters;
mod http;
mod operations;
mod other_partner;
mod queue;
mod redemption;
mod sale;
mod sockets;
mod wallet;
