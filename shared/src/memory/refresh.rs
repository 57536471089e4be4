//! What the refresher reads and writes, in memory.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::MemoryLedger;
use crate::{
    AnnouncementRecords, BroadcastId, Campaign, CampaignClosing, CampaignId, CampaignRecords,
    Freeze, LiveCampaigns, Mark, PortError, Publication, Snapshot, SnapshotStore, SoldMarks,
    StockCounters, StockShard, Timestamp,
};

#[derive(Debug, Default)]
struct State {
    live: BTreeSet<CampaignId>,
    published: Option<Snapshot>,
    gone_out: HashSet<BroadcastId>,
}

/// The refresher's store; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryRefreshStore {
    /// The stock and marks behind it.
    pub ledger: MemoryLedger,
    state: Arc<Mutex<State>>,
}

impl MemoryRefreshStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a live campaign with its stock.
    pub fn add(&self, campaign: &Campaign) {
        self.ledger.add(campaign);
        self.state().live.insert(campaign.campaign_id.clone());
    }

    /// The announcement has been handed to every page job.
    pub fn gone_out(&self, id: &BroadcastId) {
        self.state().gone_out.insert(id.clone());
    }

    /// The snapshot that stands.
    pub fn published(&self) -> Option<Snapshot> {
        self.state().published.clone()
    }
}

impl LiveCampaigns for MemoryRefreshStore {
    async fn live(&self) -> Result<Vec<Campaign>, PortError> {
        let ids: Vec<CampaignId> = self.state().live.iter().cloned().collect();
        let mut live = Vec::new();
        for id in ids {
            live.extend(self.ledger.find(&id).await?);
        }
        Ok(live)
    }

    async fn sold(&self) -> Result<HashSet<CampaignId>, PortError> {
        let mut sold = HashSet::new();
        let ids: Vec<CampaignId> = self.state().live.iter().cloned().collect();
        for id in ids {
            if self.ledger.is_sold(&id).await? {
                sold.insert(id);
            }
        }
        Ok(sold)
    }

    async fn retire(&self, id: &CampaignId) -> Result<(), PortError> {
        self.state().live.remove(id);
        Ok(())
    }
}

impl SnapshotStore for MemoryRefreshStore {
    async fn publish(&self, snapshot: &Snapshot) -> Result<Publication, PortError> {
        let mut state = self.state();
        if state
            .published
            .as_ref()
            .is_some_and(|standing| standing.version >= snapshot.version)
        {
            return Ok(Publication::Late);
        }
        state.published = Some(snapshot.clone());
        Ok(Publication::Published)
    }
}

impl AnnouncementRecords for MemoryRefreshStore {
    async fn fanned_out(&self, ids: &[BroadcastId]) -> Result<HashSet<BroadcastId>, PortError> {
        Ok(ids
            .iter()
            .filter(|id| self.state().gone_out.contains(id))
            .cloned()
            .collect())
    }
}

impl StockCounters for MemoryRefreshStore {
    async fn stock(
        &self,
        campaign: &CampaignId,
        shards: &[u16],
    ) -> Result<Vec<StockShard>, PortError> {
        self.ledger.stock(campaign, shards).await
    }
}

impl SoldMarks for MemoryRefreshStore {
    async fn mark_sold(&self, campaign: &Campaign) -> Result<Mark, PortError> {
        self.ledger.mark_sold(campaign).await
    }

    async fn is_sold(&self, campaign: &CampaignId) -> Result<bool, PortError> {
        self.ledger.is_sold(campaign).await
    }
}

impl CampaignClosing for MemoryRefreshStore {
    async fn begin_closing(&self, campaign: &CampaignId, now: Timestamp) -> Result<(), PortError> {
        self.ledger.begin_closing(campaign, now).await
    }

    async fn freeze(
        &self,
        campaign: &CampaignId,
        shard: u16,
        now: Timestamp,
    ) -> Result<Freeze, PortError> {
        self.ledger.freeze(campaign, shard, now).await
    }

    async fn end_closing(
        &self,
        campaign: &CampaignId,
        now: Timestamp,
    ) -> Result<Timestamp, PortError> {
        self.ledger.end_closing(campaign, now).await
    }
}
