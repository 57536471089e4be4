//! How far an announcement has come: the port over its record and its pages.

use crate::{Announcement, BroadcastId, ConnectionId, PortError, Timestamp};

/// Whether every page of an announcement has been sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FanOut {
    /// Not known to be: the page jobs are to be sent (again).
    Pending,
    /// They are all in the queue, or done.
    Complete,
}

/// How far one page has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageProgress {
    /// The last connection that is settled; `None` before the first.
    pub cursor: Option<ConnectionId>,
    /// Whether nobody is left after it.
    pub done: bool,
}

/// One step of a page. `seen = sent + gone + failed`, by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageStep {
    /// The announcement.
    pub broadcast_id: BroadcastId,
    /// The membership shard.
    pub shard: u16,
    /// Which run of a page job takes the step: tells a run its own step when an answer was lost.
    pub run: u64,
    /// Where the step started.
    pub from: Option<ConnectionId>,
    /// Where it ended; the same if nobody was there.
    pub to: Option<ConnectionId>,
    /// Sockets that have the frame.
    pub sent: u32,
    /// Sockets that are gone.
    pub gone: u32,
    /// Sockets that could not be told.
    pub failed: u32,
    /// Whether the page ends here.
    pub done: bool,
    /// When the run started.
    pub started_at: Timestamp,
    /// When the step was taken.
    pub at: Timestamp,
}

/// Whether a step counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// It does.
    Committed,
    /// Another run has stepped from there; this one's counts are dropped.
    Overtaken,
}

/// Keeps announcements' progress (function `broadcast`; `template.yaml` bounds it to keys `BROADCAST#*`).
pub trait FanOutRecords {
    /// Opens the announcement's record unless it stands, and tells whether its pages have been sent for.
    fn begin(
        &self,
        announcement: &Announcement,
        now: Timestamp,
    ) -> impl Future<Output = Result<FanOut, PortError>> + Send;
    /// Notes that all pages have been sent for.
    fn complete(&self, id: &BroadcastId) -> impl Future<Output = Result<(), PortError>> + Send;
    /// How far a page is. MUST see every step that was answered before the call.
    fn progress(
        &self,
        id: &BroadcastId,
        shard: u16,
    ) -> impl Future<Output = Result<PageProgress, PortError>> + Send;
    /// Moves the cursor and adds the counts, both or neither. MUST refuse unless the cursor stands at `from`; MUST
    /// recognize a repeat of the same run's step.
    fn step(&self, step: &PageStep) -> impl Future<Output = Result<StepOutcome, PortError>> + Send;
}
