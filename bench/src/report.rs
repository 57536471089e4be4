//! What a run of a client tells its parent, as one line of JSON. The Node client writes the same.

use serde::{Deserialize, Serialize};

/// One run of one client.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Posts asked for, those that open the connections left out.
    pub posts: u32,
    /// From the first post to the last answer.
    pub wall_micros: u64,
    /// User and system time in that span.
    pub cpu_micros: u64,
    /// The most memory the process has had resident.
    pub peak_kib: u64,
    /// Sockets that have the frame.
    pub delivered: u32,
    /// Sockets that are gone.
    pub gone: u32,
    /// How often a post was answered 429.
    pub throttled: u32,
    /// Sockets that could not be told.
    pub failed: u32,
}
