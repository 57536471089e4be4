//! The minute's round: closings that stopped half-way are finished, a new snapshot for the doors, announcements that are due,
//! repairs of those that were lost, and the audit that no coupon appeared or vanished.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use crate::{
    ANNOUNCE_AHEAD_SECONDS, Announcement, BroadcastId, BroadcastJob, BroadcastOutbox, Campaign,
    CampaignClosing, CampaignId, Clock, PortError, Snapshot, SoldMarks, StockCounters, Timestamp,
    close_campaign, closed, delay_seconds, opened, sold_out, stock_damage,
};

/// A campaign leaves the snapshot so many seconds after its end (a day).
pub(crate) const RETIRE_AFTER_SECONDS: i64 = 86_400;
/// An announcement that was due longer ago than this, in seconds, is no news any more.
const REPAIR_SECONDS: i64 = 3600;
/// How long a round may be held up by the closings it finishes: the doors wait for the snapshot. The next round goes on.
const FINISHING_PATIENCE: Duration = Duration::from_secs(3);
/// Closings finished at once.
const FINISHED_AT_ONCE: usize = 8;
/// An announcement is given so long, in seconds, before it counts as lost.
const REPAIR_GRACE_SECONDS: i64 = 20;

/// The live campaigns (index `LIVE`).
pub trait LiveCampaigns {
    /// Every campaign that has not been retired. MUST see every creation that was answered before the call.
    fn live(&self) -> impl Future<Output = Result<Vec<Campaign>, PortError>> + Send;
    /// Those of which every shard was proved empty.
    fn sold(&self) -> impl Future<Output = Result<HashSet<CampaignId>, PortError>> + Send;
    /// Takes a campaign out of the index; repeating is harmless.
    fn retire(&self, id: &CampaignId) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Whether a snapshot was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// Every replica has it.
    Published,
    /// A newer one stands.
    Late,
}

/// Writes what the doors read.
pub trait SnapshotStore {
    /// Publishes the snapshot on every replica, unless a newer one stands. A reader sees all of it or nothing.
    fn publish(
        &self,
        snapshot: &Snapshot,
    ) -> impl Future<Output = Result<Publication, PortError>> + Send;
}

/// Knows which announcements have gone out.
pub trait AnnouncementRecords {
    /// Those of these that have been handed to every page job.
    fn fanned_out(
        &self,
        ids: &[BroadcastId],
    ) -> impl Future<Output = Result<HashSet<BroadcastId>, PortError>> + Send;
}

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Campaigns in the snapshot.
    pub campaigns: usize,
    /// Announcements sent, delayed ones included.
    pub announced: usize,
    /// Campaigns taken out of the index.
    pub retired: usize,
    /// Early closings that had stopped half-way and were finished.
    pub finished: usize,
    /// Campaigns whose counters do not add up. Anything but 0 is damage.
    pub drifted: usize,
    /// Whether another refresher was faster.
    pub late: bool,
}

/// Runs a round.
///
/// # Errors
/// [`PortError`] if the snapshot could not be made or written. The rest of the round is done as far as it can be, and
/// the next one does it again.
pub async fn refresh<S, B, K>(store: &S, broadcasts: &B, clock: &K) -> Result<Round, PortError>
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
    let built_at = clock.now();
    let mut live = store.live().await?;
    let finished = finish_closings(store, &mut live, clock).await;
    let (retired, campaigns): (Vec<_>, Vec<_>) = live
        .into_iter()
        .partition(|campaign| is_over(campaign, built_at));
    let snapshot = Snapshot {
        version: built_at.millis(),
        built_at,
        campaigns,
    };
    let publication = store.publish(&snapshot).await?;

    let mut round = Round {
        campaigns: snapshot.campaigns.len(),
        finished: finished.len(),
        ..Round::default()
    };
    round.late = publication == Publication::Late;
    for campaign in &retired {
        match store.retire(&campaign.campaign_id).await {
            Ok(()) => round.retired += 1,
            Err(error) => warn(campaign, &error, "campaign not retired"),
        }
    }
    let now = clock.now();
    match announce(store, broadcasts, &snapshot.campaigns, &finished, now).await {
        Ok(announced) => round.announced = announced,
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "announcements not sent; next round tries again"
            );
        }
    }
    round.drifted = audit(store, &snapshot.campaigns).await;
    Ok(round)
}

/// Finishes the early closings that were begun and whose end the record does not show: of closers that died, gave up in a rush,
/// or are still at work, which does no harm. Returns those that are closed now; the others are left to the next round.
async fn finish_closings<S, K>(store: &S, live: &mut [Campaign], clock: &K) -> HashSet<CampaignId>
where
    S: CampaignClosing + SoldMarks + Sync,
    K: Clock,
{
    let unfinished: Vec<_> = live
        .iter_mut()
        .filter(|campaign| campaign.is_being_closed())
        .map(|campaign| finish_closing(store, campaign, clock))
        .collect();
    let mut finished = stream::iter(unfinished).buffer_unordered(FINISHED_AT_ONCE);
    let mut closed = HashSet::new();
    while let Some(one) = finished.next().await {
        closed.extend(one);
    }
    closed
}

async fn finish_closing<S, K>(store: &S, campaign: &mut Campaign, clock: &K) -> Option<CampaignId>
where
    S: CampaignClosing + SoldMarks + Sync,
    K: Clock,
{
    match close_campaign(store, campaign, clock, FINISHING_PATIENCE).await {
        Ok(closed_at) => {
            campaign.closed_at = Some(closed_at);
            Some(campaign.campaign_id.clone())
        }
        Err(error) => {
            warn(campaign, &error, "closing not finished; next round goes on");
            None
        }
    }
}

fn warn(campaign: &Campaign, error: &PortError, message: &str) {
    tracing::warn!(campaign.id = %campaign.campaign_id, error = error as &dyn std::error::Error, "{message}");
}

fn is_over(campaign: &Campaign, now: Timestamp) -> bool {
    campaign.ends_at().plus_seconds(RETIRE_AFTER_SECONDS) <= now
}

/// Sends what is due soon as delayed messages, and again what should have gone out, did not, and still holds. Sending
/// one twice is harmless: its id is the same.
async fn announce<S, B>(
    store: &S,
    broadcasts: &B,
    campaigns: &[Campaign],
    just_closed: &HashSet<CampaignId>,
    now: Timestamp,
) -> Result<usize, PortError>
where
    S: LiveCampaigns + AnnouncementRecords,
    B: BroadcastOutbox,
{
    let sold = store.sold().await?;
    let wanted = |campaign: &Campaign| {
        let id = &campaign.campaign_id;
        let mut wanted = announcements(campaign, sold.contains(id), now);
        wanted.extend(just_closed.contains(id).then(|| closed(campaign)));
        wanted
    };
    let wanted: Vec<Announcement> = campaigns.iter().flat_map(wanted).collect();
    let ids: Vec<BroadcastId> = wanted
        .iter()
        .map(|announcement| announcement.broadcast_id.clone())
        .collect();
    let gone_out = store.fanned_out(&ids).await?;
    let jobs: Vec<(BroadcastJob, u16)> = wanted
        .into_iter()
        .filter(|announcement| !gone_out.contains(&announcement.broadcast_id))
        .map(|announcement| {
            let delay = announcement.due_at.map_or(0, |due| delay_seconds(due, now));
            (BroadcastJob::Announce(announcement), delay)
        })
        .collect();
    broadcasts.send(&jobs).await?;
    Ok(jobs.len())
}

/// What a campaign has to announce at `now`: due within [`ANNOUNCE_AHEAD_SECONDS`], or overdue and still true.
fn announcements(campaign: &Campaign, sold: bool, now: Timestamp) -> Vec<Announcement> {
    let open = now < campaign.ends_at();
    let mut all = Vec::new();
    if open && is_due(campaign.opens_at, campaign.created_at, now) {
        all.push(opened(campaign));
    }
    if is_due(campaign.ends_at(), campaign.created_at, now) {
        all.push(closed(campaign));
    }
    if open && sold {
        all.push(sold_out(campaign));
    }
    all
}

/// Soon, or lost: past its time and the grace, but not so long that nobody cares. What the creating or closing call
/// sends itself is given its grace from then.
fn is_due(due: Timestamp, created_at: Timestamp, now: Timestamp) -> bool {
    let ahead = due.millis_since(now);
    let overdue = now.millis_since(due.max(created_at));
    (1..=ANNOUNCE_AHEAD_SECONDS * 1000).contains(&ahead)
        || (REPAIR_GRACE_SECONDS * 1000..=REPAIR_SECONDS * 1000).contains(&overdue)
}

/// Checks that every campaign's counters add up ([`stock_damage`]) and tells how many do not.
async fn audit<S: StockCounters>(store: &S, campaigns: &[Campaign]) -> usize {
    let mut drifted = 0;
    for campaign in campaigns {
        let shards: Vec<u16> = (0..campaign.shards).collect();
        let stock = match store.stock(&campaign.campaign_id, &shards).await {
            Ok(stock) => stock,
            Err(error) => {
                warn(campaign, &error, "stock not audited");
                continue;
            }
        };
        let damage = stock_damage(campaign, &stock);
        drifted += usize::from(!damage.is_empty());
        for damage in damage {
            tracing::error!(campaign.id = %campaign.campaign_id, %damage, "stock drift");
        }
    }
    drifted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryClock, MemoryOutbox, MemoryRefreshStore, sample_campaign};
    use crate::{AnnouncementKind, StockShard};

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    async fn round(
        store: &MemoryRefreshStore,
        now: Timestamp,
    ) -> (Round, Vec<(AnnouncementKind, u16)>) {
        let outbox = MemoryOutbox::default();
        let round = refresh(store, &outbox, &MemoryClock::at(now))
            .await
            .unwrap();
        let kind = |(job, delay): (BroadcastJob, u16)| match job {
            BroadcastJob::Announce(announcement) => (announcement.kind, delay),
            other => panic!("{other:?}"),
        };
        (round, outbox.broadcasts().into_iter().map(kind).collect())
    }

    #[tokio::test]
    async fn an_opening_within_three_minutes_is_sent_delayed_and_never_early() {
        let store = MemoryRefreshStore::default();
        let mut campaign = sample_campaign(10, NOW);
        campaign.opens_at = Timestamp::from_millis(NOW.millis() + 59_001);
        store.add(&campaign);
        assert_eq!(round(&store, NOW).await.1, [(AnnouncementKind::Opened, 60)]);
    }

    #[tokio::test]
    async fn an_opening_further_away_waits_for_a_later_round() {
        let store = MemoryRefreshStore::default();
        let mut campaign = sample_campaign(10, NOW);
        campaign.opens_at = NOW.plus_seconds(181);
        store.add(&campaign);
        assert_eq!(round(&store, NOW).await.1, []);
    }

    #[tokio::test]
    async fn a_lost_opening_is_sent_again_while_it_holds_and_not_once_it_has_gone_out() {
        let store = MemoryRefreshStore::default();
        let campaign = sample_campaign(10, NOW);
        store.add(&campaign);
        assert_eq!(
            round(&store, NOW.plus_seconds(60)).await.1,
            [(AnnouncementKind::Opened, 0)]
        );
        store.gone_out(&opened(&campaign).broadcast_id);
        assert_eq!(round(&store, NOW.plus_seconds(60)).await.1, []);
    }

    #[tokio::test]
    async fn an_announcement_is_sent_from_three_minutes_ahead_and_again_from_20_seconds_to_an_hour_after()
     {
        let store = MemoryRefreshStore::default();
        let opens_at = NOW.plus_seconds(3600);
        store.add(&Campaign {
            opens_at,
            closes_at: opens_at.plus_seconds(86_400),
            ..sample_campaign(10, NOW)
        });
        for (after, is_sent) in [
            (-ANNOUNCE_AHEAD_SECONDS * 1000 - 1, false),
            (-ANNOUNCE_AHEAD_SECONDS * 1000, true),
            (-1, true),
            (0, false),
            (REPAIR_GRACE_SECONDS * 1000 - 1, false),
            (REPAIR_GRACE_SECONDS * 1000, true),
            (REPAIR_SECONDS * 1000, true),
            (REPAIR_SECONDS * 1000 + 1, false),
        ] {
            let now = Timestamp::from_millis(opens_at.millis() + after);
            let sent = round(&store, now).await.1;
            let kinds: Vec<_> = sent.into_iter().map(|(kind, _)| kind).collect();
            let expected = is_sent.then_some(AnnouncementKind::Opened);
            assert_eq!(kinds, Vec::from_iter(expected), "{after} ms after");
        }
    }

    #[tokio::test]
    async fn a_campaign_closed_early_announces_its_end_and_no_opening() {
        let store = MemoryRefreshStore::default();
        let mut campaign = sample_campaign(10, NOW);
        campaign.closed_at = Some(NOW.plus_seconds(30));
        store.add(&campaign);
        assert_eq!(
            round(&store, NOW.plus_seconds(60)).await.1,
            [(AnnouncementKind::Closed, 0)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_closing_that_stopped_half_way_is_finished_published_and_announced() {
        let store = MemoryRefreshStore::default();
        let campaign = sample_campaign(2500, NOW);
        let id = &campaign.campaign_id;
        store.add(&campaign);
        store.begin_closing(id, NOW).await.unwrap();
        store.freeze(id, 0, NOW).await.unwrap();
        let now = NOW.plus_seconds(60);
        let (first, announced) = round(&store, now).await;
        assert_eq!((first.finished, first.drifted), (1, 0));
        assert!(announced.contains(&(AnnouncementKind::Closed, 0)));
        let published = store.published().unwrap().campaigns.remove(0);
        assert_eq!(published.closed_at, Some(now));
        let stock = store.ledger.shards(id);
        assert!(stock.iter().all(|shard| shard.closed_at.is_some()));
        assert_eq!(stock[0].closed_at, Some(NOW), "as it was frozen");
        assert_eq!(round(&store, now.plus_seconds(1)).await.0.finished, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closing_that_meets_only_conflicts_holds_the_snapshot_up_for_three_seconds() {
        let store = MemoryRefreshStore::default();
        let campaigns: Vec<Campaign> = (1..=5)
            .map(|n| Campaign {
                campaign_id: CampaignId::mint(NOW, n),
                ..sample_campaign(1, NOW)
            })
            .collect();
        for campaign in &campaigns {
            store.add(campaign);
            let begun = store.begin_closing(&campaign.campaign_id, NOW);
            begun.await.unwrap();
        }
        store.ledger.freezes_busy(usize::MAX);
        let began = tokio::time::Instant::now();
        assert_eq!(round(&store, NOW).await.0.finished, 0);
        assert_eq!(began.elapsed(), FINISHING_PATIENCE);
        assert_eq!(store.published().unwrap().campaigns.len(), 5);
        store.ledger.freezes_busy(0);
        let next = NOW.plus_seconds(60);
        assert_eq!(round(&store, next).await.0.finished, 5, "the next one does");
    }

    #[tokio::test]
    async fn a_campaign_leaves_a_day_after_its_end() {
        let store = MemoryRefreshStore::default();
        let campaign = sample_campaign(10, NOW);
        store.add(&campaign);
        let end = campaign.closes_at.plus_seconds(RETIRE_AFTER_SECONDS);
        let just_before = Timestamp::from_millis(end.millis() - 1);
        assert_eq!(round(&store, just_before).await.0.campaigns, 1);
        let last = round(&store, end).await.0;
        assert_eq!((last.campaigns, last.retired), (0, 1));
        assert_eq!(store.published().unwrap().campaigns, []);
    }

    #[tokio::test]
    async fn a_missing_shard_is_drift() {
        let store = MemoryRefreshStore::default();
        let campaign = sample_campaign(2500, NOW);
        store.add(&campaign);
        assert_eq!(round(&store, NOW).await.0.drifted, 0);
        store.ledger.lose_shard(&campaign.campaign_id, 1);
        assert_eq!(round(&store, NOW).await.0.drifted, 1);
    }

    /// Counters as they are said to be.
    struct Counters(Vec<StockShard>);

    impl StockCounters for Counters {
        async fn stock(&self, _: &CampaignId, _: &[u16]) -> Result<Vec<StockShard>, PortError> {
            Ok(self.0.clone())
        }
    }

    #[tokio::test]
    async fn a_shard_that_gained_or_a_quota_that_is_not_of_the_total_is_drift() {
        let campaign = sample_campaign(2500, NOW);
        let sound: Vec<StockShard> = campaign
            .quotas()
            .map(|(shard, quota)| StockShard {
                shard,
                remaining: quota - 1,
                issued: 1,
                quota,
                closed_at: None,
            })
            .collect();
        let drifted = async |harm: fn(&mut [StockShard])| {
            let mut shards = sound.clone();
            harm(&mut shards);
            audit(&Counters(shards), std::slice::from_ref(&campaign)).await
        };
        assert_eq!(drifted(|_| {}).await, 0);
        // Sums of all shards would not show this one.
        let moved = |shards: &mut [StockShard]| {
            shards[0].remaining += 1;
            shards[1].remaining -= 1;
        };
        assert_eq!(drifted(moved).await, 1);
        let grown = |shards: &mut [StockShard]| {
            shards[0].remaining += 1;
            shards[0].quota += 1;
        };
        assert_eq!(drifted(grown).await, 1);
    }

    #[tokio::test]
    async fn an_older_snapshot_never_replaces_a_newer_one() {
        let store = MemoryRefreshStore::default();
        assert!(!round(&store, NOW.plus_seconds(60)).await.0.late);
        assert!(round(&store, NOW).await.0.late);
        assert_eq!(store.published().unwrap().built_at, NOW.plus_seconds(60));
    }
}
