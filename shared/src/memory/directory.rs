//! Snapshots in memory, over a [`MemoryLedger`] for the records.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::MemoryLedger;
use crate::{
    Campaign, CampaignId, CampaignIndex, CampaignRecords, DEFAULT_COUPON_TTL_SECONDS, PartnerId,
    PortError, Snapshot, Snapshots, SoldMarks, Timestamp, shards_for,
};

#[derive(Debug, Default)]
struct State {
    snapshot: Option<Snapshot>,
    index_reads: usize,
    record_reads: usize,
    failing: bool,
}

/// What the doors read; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDirectory {
    /// The records and marks behind it.
    pub ledger: MemoryLedger,
    state: Arc<Mutex<State>>,
}

impl MemoryDirectory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a snapshot of these campaigns; a later `built_at` is a later version.
    pub fn publish(&self, built_at: Timestamp, campaigns: Vec<Campaign>) {
        self.state().snapshot = Some(Snapshot {
            version: built_at.millis(),
            built_at,
            campaigns,
        });
    }

    /// From now on (or no more) every read fails.
    pub fn fail(&self, failing: bool) {
        self.state().failing = failing;
    }

    /// How often the snapshot was read.
    pub fn index_reads(&self) -> usize {
        self.state().index_reads
    }

    /// How often a single record was read.
    pub fn record_reads(&self) -> usize {
        self.state().record_reads
    }

    fn check(&self) -> Result<(), PortError> {
        if self.state().failing {
            Err(PortError::retry("read the directory", "told to fail"))
        } else {
            Ok(())
        }
    }
}

impl Snapshots for MemoryDirectory {
    async fn index(&self) -> Result<CampaignIndex, PortError> {
        self.check()?;
        let snapshot = {
            let mut state = self.state();
            state.index_reads += 1;
            state.snapshot.clone()
        };
        let mut sold = HashSet::new();
        for id in snapshot
            .iter()
            .flat_map(|snapshot| &snapshot.campaigns)
            .map(|campaign| &campaign.campaign_id)
        {
            if self.ledger.is_sold(id).await? {
                sold.insert(id.clone());
            }
        }
        Ok(CampaignIndex::new(snapshot, sold))
    }
}

impl CampaignRecords for MemoryDirectory {
    async fn find(&self, id: &CampaignId) -> Result<Option<Campaign>, PortError> {
        self.check()?;
        self.state().record_reads += 1;
        self.ledger.find(id).await
    }
}

/// A campaign of partner `acme`, created and opened at `now` for an hour.
#[expect(
    clippy::unwrap_used,
    reason = "constants within their bounds; compiled for tests only"
)]
pub fn sample_campaign(total: u32, now: Timestamp) -> Campaign {
    Campaign {
        campaign_id: CampaignId::mint(now, 1),
        partner_id: PartnerId::new("acme").unwrap(),
        title: "Coffee".into(),
        total,
        opens_at: now,
        closes_at: now.plus_seconds(3600),
        coupon_ttl_seconds: DEFAULT_COUPON_TTL_SECONDS,
        benefit: None,
        shards: shards_for(total),
        priority: false,
        created_at: now,
        closing_at: None,
        closed_at: None,
    }
}
