//! Announcements' progress in memory, with the rules of the stored one.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    Announcement, BroadcastId, ConnectionId, FanOut, FanOutRecords, PageProgress, PageStep,
    PortError, StepOutcome, Timestamp,
};

/// Records and pages of announcements.
#[derive(Debug, Default)]
pub struct MemoryFanOut {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: HashMap<BroadcastId, FanOut>,
    pages: HashMap<(BroadcastId, u16), Page>,
}

#[derive(Debug, Default)]
struct Page {
    progress: PageProgress,
    run: u64,
    counts: [u32; 3],
}

impl MemoryFanOut {
    /// Whether the announcement has a record, and what it says.
    pub fn record(&self, id: &BroadcastId) -> Option<FanOut> {
        self.state().records.get(id).copied()
    }

    /// Sent, gone and failed, over all pages.
    pub fn counts(&self, id: &BroadcastId) -> [u32; 3] {
        let state = self.state();
        let pages = state
            .pages
            .iter()
            .filter(|((of, _), _)| of == id)
            .map(|(_, page)| page.counts);
        pages.fold([0; 3], |sum, counts| {
            std::array::from_fn(|i| sum[i] + counts[i])
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_step(&self, step: &PageStep) -> StepOutcome {
        let mut state = self.state();
        let page = state
            .pages
            .entry((step.broadcast_id.clone(), step.shard))
            .or_default();
        let stands_at = |cursor: &Option<ConnectionId>| page.progress.cursor == *cursor;
        if stands_at(&step.from) {
            page.progress = PageProgress {
                cursor: step.to.clone(),
                done: step.done,
            };
            page.run = step.run;
            page.counts =
                std::array::from_fn(|i| page.counts[i] + [step.sent, step.gone, step.failed][i]);
            StepOutcome::Committed
        } else if stands_at(&step.to) && page.run == step.run {
            StepOutcome::Committed
        } else {
            StepOutcome::Overtaken
        }
    }
}

impl FanOutRecords for MemoryFanOut {
    async fn begin(
        &self,
        announcement: &Announcement,
        _now: Timestamp,
    ) -> Result<FanOut, PortError> {
        Ok(*self
            .state()
            .records
            .entry(announcement.broadcast_id.clone())
            .or_insert(FanOut::Pending))
    }

    async fn complete(&self, id: &BroadcastId) -> Result<(), PortError> {
        self.state().records.insert(id.clone(), FanOut::Complete);
        Ok(())
    }

    async fn progress(&self, id: &BroadcastId, shard: u16) -> Result<PageProgress, PortError> {
        Ok(self
            .state()
            .pages
            .get(&(id.clone(), shard))
            .map(|page| page.progress.clone())
            .unwrap_or_default())
    }

    async fn step(&self, step: &PageStep) -> Result<StepOutcome, PortError> {
        Ok(self.try_step(step))
    }
}
