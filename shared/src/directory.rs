//! The campaigns as the doors know them: a snapshot held in memory, and a look at the record for those younger than it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    CacheStats, Cached, Campaign, CampaignId, CampaignRecords, Clock, Freshness, PortError,
    Timestamp,
};

/// A campaign created this long before a snapshot may still be missing in it: its transaction may have ended after
/// the snapshot's read. The API's own time-out is 10 s; in milliseconds.
const BIRTH_MARGIN_MILLIS: i64 = 30_000;
/// An id from this far ahead is nobody's; machines' clocks differ by less. In milliseconds.
const FUTURE_MILLIS: i64 = 60_000;
/// How long a campaign read by itself is trusted, in milliseconds.
const YOUNG_TTL_MILLIS: i64 = 10_000;
/// How long its absence is trusted, in milliseconds.
const ABSENT_TTL_MILLIS: i64 = 2_000;
/// Reads of single campaigns per second and environment.
const YOUNG_READS_PER_SECOND: u32 = 50;
/// Single campaigns remembered; then it starts anew.
const YOUNG_REMEMBERED: usize = 1024;

/// How the doors hold the snapshot: 10 s with jitter, and through ten minutes of failing loads.
pub const DIRECTORY_FRESHNESS: Freshness = Freshness {
    ttl_millis: 10_000,
    jitter_millis: 2_000,
    max_stale_millis: 600_000,
    retry_millis: 1_000,
};

/// All live campaigns at one instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Grows with every snapshot; a late refresher loses.
    pub version: i64,
    /// Every campaign stored before this is in it.
    pub built_at: Timestamp,
    /// The campaigns.
    pub campaigns: Vec<Campaign>,
}

/// What a door holds in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct CampaignIndex {
    /// See [`Snapshot::built_at`].
    pub built_at: Timestamp,
    /// By id.
    pub campaigns: HashMap<CampaignId, Arc<Campaign>>,
    /// Campaigns proved sold out, as of the load.
    pub sold: HashSet<CampaignId>,
}

impl CampaignIndex {
    /// From a snapshot, or from none: then every campaign is younger than it.
    pub fn new(snapshot: Option<Snapshot>, sold: HashSet<CampaignId>) -> Self {
        let built_at = snapshot
            .as_ref()
            .map_or(Timestamp::EPOCH, |snapshot| snapshot.built_at);
        let campaigns = snapshot.into_iter().flat_map(|snapshot| snapshot.campaigns);
        let by_id = campaigns.map(|campaign| (campaign.campaign_id.clone(), Arc::new(campaign)));
        Self {
            built_at,
            campaigns: by_id.collect(),
            sold,
        }
    }
}

/// Reads what doors hold.
pub trait Snapshots {
    /// The newest whole snapshot, with the sold marks. MUST fail rather than give part of one.
    fn index(&self) -> impl Future<Output = Result<CampaignIndex, PortError>> + Send;
}

/// What a door knows of a campaign.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// It exists; whether it was proved sold out.
    Known(Arc<Campaign>, bool),
    /// There is none.
    Unknown,
    /// Too many young campaigns were asked for; nothing is known.
    Busy,
}

/// Campaigns by id, for the doors. One per execution environment.
#[derive(Debug)]
pub struct CampaignDirectory<S, K> {
    store: S,
    clock: K,
    index: Cached<CampaignIndex, K>,
    young: tokio::sync::Mutex<Young>,
}

#[derive(Debug, Default)]
struct Young {
    found: HashMap<CampaignId, (Option<Arc<Campaign>>, Timestamp)>,
    second: i64,
    reads: u32,
}

impl<S: Snapshots + CampaignRecords, K: Clock + Clone> CampaignDirectory<S, K> {
    /// An empty directory over this store.
    pub fn new(store: S, clock: K, freshness: Freshness) -> Self {
        Self {
            index: Cached::new(clock.clone(), freshness),
            young: tokio::sync::Mutex::default(),
            store,
            clock,
        }
    }

    /// Loads the snapshot, for a start that has the time: the first look-up then ends in memory, and later reads find a
    /// connection open.
    ///
    /// # Errors
    /// [`PortError`] if it cannot be read; the next look-up tries again.
    pub async fn warm(&self) -> Result<(), Arc<PortError>> {
        let loaded = self.index.get(async || Box::pin(self.store.index()).await);
        loaded.await.map(drop)
    }

    /// The campaign with this id. Most calls end in memory.
    ///
    /// # Errors
    /// [`PortError`] if the snapshot, or a young campaign, cannot be read: never "there is none".
    pub async fn look_up(&self, id: &CampaignId) -> Result<Lookup, Arc<PortError>> {
        // Boxed, like the other reads below the doors: the SDK's nested futures would overflow the compiler's depth limit.
        let index = self
            .index
            .get(async || Box::pin(self.store.index()).await)
            .await?;
        if let Some(campaign) = index.campaigns.get(id) {
            return Ok(Lookup::Known(Arc::clone(campaign), index.sold.contains(id)));
        }
        let Some(born) = id.minted_at() else {
            return Ok(Lookup::Unknown);
        };
        let in_snapshot = index.built_at.millis_since(born) > BIRTH_MARGIN_MILLIS;
        let in_future = born.millis_since(self.clock.now()) > FUTURE_MILLIS;
        if in_snapshot || in_future {
            return Ok(Lookup::Unknown);
        }
        self.look_up_young(id, index.sold.contains(id)).await
    }

    /// What the looks since the last call took, and how old the snapshot in memory is, in milliseconds; `None` if there is
    /// none.
    pub fn take_stats(&self) -> (CacheStats, Option<i64>) {
        let held = self.index.held();
        let built_at = held
            .map(|index| index.built_at)
            .filter(|at| *at > Timestamp::EPOCH);
        let age = built_at.map(|at| self.clock.now().millis_since(at));
        (self.index.take_stats(), age)
    }

    /// Held for the read, so that many who ask at once share it.
    async fn look_up_young(&self, id: &CampaignId, sold: bool) -> Result<Lookup, Arc<PortError>> {
        let mut young = self.young.lock().await;
        let now = self.clock.now();
        if let Some((found, _)) = young.found.get(id).filter(|(_, until)| now < *until) {
            return Ok(found
                .clone()
                .map_or(Lookup::Unknown, |campaign| Lookup::Known(campaign, sold)));
        }
        if !young.may_read(now) {
            return Ok(Lookup::Busy);
        }
        let found = Box::pin(self.store.find(id))
            .await
            .map_err(Arc::new)?
            .map(Arc::new);
        let ttl = if found.is_some() {
            YOUNG_TTL_MILLIS
        } else {
            ABSENT_TTL_MILLIS
        };
        if young.found.len() >= YOUNG_REMEMBERED {
            young.found.clear();
        }
        young.found.insert(
            id.clone(),
            (found.clone(), Timestamp::from_millis(now.millis() + ttl)),
        );
        Ok(found.map_or(Lookup::Unknown, |campaign| Lookup::Known(campaign, sold)))
    }
}

impl Young {
    fn may_read(&mut self, now: Timestamp) -> bool {
        if self.second != now.epoch_seconds() {
            (self.second, self.reads) = (now.epoch_seconds(), 0);
        }
        self.reads += 1;
        self.reads <= YOUNG_READS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryClock, MemoryDirectory, sample_campaign};

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn directory(
        store: &MemoryDirectory,
    ) -> (CampaignDirectory<MemoryDirectory, MemoryClock>, MemoryClock) {
        let clock = MemoryClock::at(NOW);
        (
            CampaignDirectory::new(store.clone(), clock.clone(), DIRECTORY_FRESHNESS),
            clock,
        )
    }

    #[tokio::test]
    async fn a_campaign_of_the_snapshot_is_known_without_a_read_of_its_record() {
        let store = MemoryDirectory::default();
        let campaign = sample_campaign(10, NOW.plus_seconds(-3600));
        store.publish(NOW, vec![campaign.clone()]);
        let (directory, _) = directory(&store);
        for _ in 0..100 {
            let found = directory.look_up(&campaign.campaign_id).await.unwrap();
            assert_eq!(found, Lookup::Known(Arc::new(campaign.clone()), false));
        }
        assert_eq!((store.index_reads(), store.record_reads()), (1, 0));
    }

    #[tokio::test]
    async fn a_warm_directory_reads_nothing_at_its_first_look_up() {
        let store = MemoryDirectory::default();
        let campaign = sample_campaign(10, NOW.plus_seconds(-3600));
        store.publish(NOW, vec![campaign.clone()]);
        let (directory, _) = directory(&store);
        directory.warm().await.unwrap();
        assert_eq!(store.index_reads(), 1);
        directory.look_up(&campaign.campaign_id).await.unwrap();
        assert_eq!(store.index_reads(), 1);
    }

    #[tokio::test]
    async fn a_directory_that_could_not_be_warmed_is_loaded_by_a_later_look_up() {
        let store = MemoryDirectory::default();
        let campaign = sample_campaign(10, NOW.plus_seconds(-3600));
        store.publish(NOW, vec![campaign.clone()]);
        store.fail(true);
        let (directory, clock) = directory(&store);
        assert!(directory.warm().await.is_err());
        store.fail(false);
        clock.advance_millis(DIRECTORY_FRESHNESS.retry_millis);
        let found = directory.look_up(&campaign.campaign_id).await.unwrap();
        assert!(matches!(found, Lookup::Known(..)));
    }

    #[tokio::test]
    async fn a_campaign_younger_than_the_snapshot_is_read_once() {
        let store = MemoryDirectory::default();
        store.publish(NOW, vec![]);
        let campaign = sample_campaign(10, NOW.plus_seconds(1));
        store.ledger.add(&campaign);
        let (directory, _) = directory(&store);
        for _ in 0..100 {
            let found = directory.look_up(&campaign.campaign_id).await.unwrap();
            assert!(matches!(found, Lookup::Known(..)));
        }
        assert_eq!(store.record_reads(), 1);
    }

    #[tokio::test]
    async fn an_absent_young_campaign_is_asked_for_again_soon() {
        let store = MemoryDirectory::default();
        store.publish(NOW, vec![]);
        let campaign = sample_campaign(10, NOW.plus_seconds(1));
        let (directory, clock) = directory(&store);
        assert_eq!(
            directory.look_up(&campaign.campaign_id).await.unwrap(),
            Lookup::Unknown
        );
        store.ledger.add(&campaign);
        assert_eq!(
            directory.look_up(&campaign.campaign_id).await.unwrap(),
            Lookup::Unknown
        );
        clock.advance_millis(ABSENT_TTL_MILLIS);
        assert!(matches!(
            directory.look_up(&campaign.campaign_id).await.unwrap(),
            Lookup::Known(..)
        ));
    }

    #[tokio::test]
    async fn a_single_campaign_is_trusted_for_ten_seconds_and_its_absence_for_two() {
        for (is_there, trusted) in [(true, YOUNG_TTL_MILLIS), (false, ABSENT_TTL_MILLIS)] {
            let store = MemoryDirectory::default();
            store.publish(NOW, vec![]);
            let campaign = sample_campaign(10, NOW.plus_seconds(1));
            if is_there {
                store.ledger.add(&campaign);
            }
            let (directory, clock) = directory(&store);
            let reads = async || {
                let found = directory.look_up(&campaign.campaign_id).await.unwrap();
                assert_eq!(matches!(found, Lookup::Known(..)), is_there);
                store.record_reads()
            };
            assert_eq!(reads().await, 1);
            clock.advance_millis(trusted - 1);
            assert_eq!(reads().await, 1, "{is_there}: just before the end");
            clock.advance_millis(1);
            assert_eq!(reads().await, 2, "{is_there}: at the end");
        }
    }

    #[tokio::test]
    async fn an_id_is_looked_for_from_its_margin_before_the_snapshot_to_a_minute_ahead() {
        for (born, is_looked_for) in [
            (-BIRTH_MARGIN_MILLIS - 1, false),
            (-BIRTH_MARGIN_MILLIS, true),
            (FUTURE_MILLIS, true),
            (FUTURE_MILLIS + 1, false),
        ] {
            let store = MemoryDirectory::default();
            store.publish(NOW, vec![]);
            let (directory, _) = directory(&store);
            let id = CampaignId::mint(Timestamp::from_millis(NOW.millis() + born), 1);
            assert_eq!(directory.look_up(&id).await.unwrap(), Lookup::Unknown);
            assert_eq!(store.record_reads(), usize::from(is_looked_for), "{born}");
        }
    }

    #[tokio::test]
    async fn old_future_and_foreign_ids_are_unknown_without_a_read() {
        let store = MemoryDirectory::default();
        store.publish(NOW, vec![]);
        let (directory, _) = directory(&store);
        let ids = [
            CampaignId::mint(NOW.plus_seconds(-31), 1),
            CampaignId::mint(NOW.plus_seconds(61), 1),
            CampaignId::new("no-ulid").unwrap(),
        ];
        for id in ids {
            assert_eq!(directory.look_up(&id).await.unwrap(), Lookup::Unknown);
        }
        assert_eq!(store.record_reads(), 0);
    }

    #[tokio::test]
    async fn a_flood_of_made_up_young_ids_is_bounded() {
        let store = MemoryDirectory::default();
        store.publish(NOW, vec![]);
        let (directory, _) = directory(&store);
        for random in 0..500 {
            let found = directory
                .look_up(&CampaignId::mint(NOW, random))
                .await
                .unwrap();
            assert_ne!(
                matches!(found, Lookup::Busy),
                random < u128::from(YOUNG_READS_PER_SECOND)
            );
        }
        assert_eq!(store.record_reads(), YOUNG_READS_PER_SECOND as usize);
    }

    #[tokio::test]
    async fn an_unreadable_snapshot_is_an_error_and_not_an_empty_one() {
        let store = MemoryDirectory::default();
        let campaign = sample_campaign(10, NOW.plus_seconds(-3600));
        store.publish(NOW, vec![campaign.clone()]);
        let (directory, clock) = directory(&store);
        store.fail(true);
        assert!(directory.look_up(&campaign.campaign_id).await.is_err());
        store.fail(false);
        directory.look_up(&campaign.campaign_id).await.unwrap();
        store.fail(true);
        clock.advance_millis(300_000);
        assert!(matches!(
            directory.look_up(&campaign.campaign_id).await.unwrap(),
            Lookup::Known(..)
        ));
    }
}
