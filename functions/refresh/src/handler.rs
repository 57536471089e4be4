//! One round of the refresher, with its summary line. What a round does is the domain's ([`refresh`]).

use std::time::Instant;

use firstcome_core::{
    AnnouncementRecords, BroadcastOutbox, Clock, LiveCampaigns, SnapshotStore, StockCounters,
    refresh,
};
use lambda_runtime::{Error, tracing};

/// Runs a round. A failure is the platform's to see: the schedule comes again in a minute.
pub(crate) async fn handle<S, B, K>(store: &S, broadcasts: &B, clock: &K) -> Result<(), Error>
where
    S: LiveCampaigns + SnapshotStore + AnnouncementRecords + StockCounters,
    B: BroadcastOutbox,
    K: Clock,
{
    let started = Instant::now();
    let round = refresh(store, broadcasts, clock).await?;
    tracing::info!(
        campaigns = round.campaigns,
        announced = round.announced,
        retired = round.retired,
        drifted = round.drifted,
        late = round.late,
        duration_ms = started.elapsed().as_millis(),
        "campaigns refreshed"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use firstcome_core::memory::{MemoryClock, MemoryOutbox, MemoryRefreshStore, sample_campaign};
    use firstcome_core::{CampaignId, Timestamp};

    use super::*;

    #[tokio::test]
    async fn the_schedules_event_publishes_a_snapshot_of_the_live_campaigns() {
        let event: serde_json::Value =
            serde_json::from_str(include_str!("../../../events/refresh-schedule.json")).unwrap();
        assert!(event.is_object());
        let store = MemoryRefreshStore::default();
        let now = Timestamp::from_millis(1_790_000_000_000);
        store.add(&sample_campaign(10, now));
        handle(&store, &MemoryOutbox::default(), &MemoryClock::at(now))
            .await
            .unwrap();
        let published: Vec<CampaignId> = store
            .published()
            .unwrap()
            .campaigns
            .into_iter()
            .map(|campaign| campaign.campaign_id)
            .collect();
        assert_eq!(published, [CampaignId::mint(now, 1)]);
    }
}
