//! One round of the refresher, with its summary line. What a round does is the domain's ([`refresh`]).

use std::time::{Duration, Instant};

use firstcome_core::{
    AnnouncementRecords, BroadcastOutbox, CampaignClosing, Clock, DueWallets, Entropy,
    LiveCampaigns, SnapshotStore, SoldMarks, StockCounters, WalletBook, expire_points,
    metric::{self, Metric},
    refresh,
};
use lambda_runtime::{Error, tracing};

/// The whole minute's work. A failure is the platform's to see: the schedule comes again in a minute.
pub(crate) async fn round<S, B, W, K>(
    store: &S,
    broadcasts: &B,
    wallets: &W,
    clock: &K,
    entropy: &dyn Entropy,
) -> Result<(), Error>
where
    S: LiveCampaigns
        + SnapshotStore
        + AnnouncementRecords
        + StockCounters
        + CampaignClosing
        + SoldMarks
        + Sync,
    B: BroadcastOutbox,
    W: WalletBook + DueWallets + Sync,
    K: Clock,
{
    handle(store, broadcasts, clock).await?;
    expire(wallets, clock, entropy).await
}

/// Runs a round of the campaigns.
async fn handle<S, B, K>(store: &S, broadcasts: &B, clock: &K) -> Result<(), Error>
where
    S: LiveCampaigns
        + SnapshotStore
        + AnnouncementRecords
        + StockCounters
        + CampaignClosing
        + SoldMarks
        + Sync,
    B: BroadcastOutbox,
    K: Clock,
{
    let started = Instant::now();
    let round = refresh(store, broadcasts, clock).await?;
    tracing::info!(
        campaigns = round.campaigns,
        announced = round.announced,
        retired = round.retired,
        finished = round.finished,
        drifted = round.drifted,
        late = round.late,
        duration_ms = started.elapsed().as_millis() as u64,
        "campaigns refreshed"
    );
    // Written, or a newer one stands: either way the doors have a fresh one.
    metric::count(Metric::SnapshotsPublished, 1);
    metric::gauge(Metric::CampaignsLive, round.campaigns as f64);
    metric::gauge(Metric::StockDrift, round.drifted as f64);
    metric::count(Metric::Announced, round.announced);
    Ok(())
}

/// How long a round may expire points: with the snapshot before it, well below the function's 30 s (template.yaml).
const SWEEP: Duration = Duration::from_secs(15);

/// Takes expired points out of wallets that nobody touches. What it leaves, the next round finds.
async fn expire<W, K>(wallets: &W, clock: &K, entropy: &dyn Entropy) -> Result<(), Error>
where
    W: WalletBook + DueWallets + Sync,
    K: Clock,
{
    let started = tokio::time::Instant::now();
    let sweep = expire_points(wallets, clock, entropy, started + SWEEP).await?;
    tracing::info!(
        settled = sweep.settled,
        failed = sweep.failed,
        cut_short = sweep.cut_short,
        duration_ms = started.elapsed().as_millis() as u64,
        "points expired"
    );
    metric::count(Metric::WalletsSettled, sweep.settled);
    metric::count(Metric::WalletsFailed, sweep.failed);
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
