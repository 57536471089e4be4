//! Ends a campaign before its time, in steps that get through a rush. DynamoDB cancels a transaction over all of a campaign's
//! shards while any one of them is in another, so the shards are frozen one by one, and the record is closed last.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{Campaign, CampaignId, Clock, Fate, PortError, SoldMarks, StockShard, Timestamp};

/// How long `api` tries before it answers that the closing goes on; `refresh` then finishes it. Interface: 200 within 5 s.
pub const CLOSING_PATIENCE: Duration = Duration::from_millis(4500);

/// Shards of a campaign that are frozen at once.
const FREEZES_AT_ONCE: usize = 16;
/// The bound of the first pause between two tries of one step, in milliseconds. Each pause is a random part of its bound.
const FIRST_PAUSE_MILLIS: u64 = 10;
/// How often that bound doubles, up to 80 ms: a transaction holds a shard for some 25 ms, so a gap is soon met.
const DOUBLINGS: u32 = 3;

/// How long after the closing was noted the record of a campaign that has not opened may be closed. Whoever claimed before the
/// note was told `not_open`, and is told so again because that claim's own time lies before `closed_at` ([`Campaign::refusal_at`]).
/// This holds while the clocks of the closer and of SQS differ by less than this.
const SETTLING: Duration = Duration::from_millis(500);

const OPERATION: &str = "close the campaign";

/// What became of one try to freeze a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// It issues nothing from now on; this is what it holds for good.
    Frozen(StockShard),
    /// A transaction holds it. Nothing was changed.
    Busy,
}

/// The steps of an early closing, each of which may be repeated by anybody at any time.
pub trait CampaignClosing {
    /// Notes on the record that the campaign is being closed, so that a closing that stops half-way is found and finished.
    /// The first note stands. It is no verdict: nobody is refused for it.
    fn begin_closing(
        &self,
        campaign: &CampaignId,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), PortError>> + Send;

    /// Freezes a shard. MUST be serializable with [`CouponLedger::issue`](crate::CouponLedger::issue): what the shard holds
    /// in the answer, it holds for good. A shard that is frozen already is answered as it is.
    fn freeze(
        &self,
        campaign: &CampaignId,
        shard: u16,
        now: Timestamp,
    ) -> impl Future<Output = Result<Freeze, PortError>> + Send;

    /// Closes the record, and returns the time that stands; the first one does. The caller MUST have frozen every shard and,
    /// if all of them were empty, MUST have marked the campaign as sold out: the doors say `closed` from the record alone.
    fn end_closing(
        &self,
        campaign: &CampaignId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Timestamp, PortError>> + Send;
}

/// Closes the campaign, or finishes a closing that stopped half-way. Once `Ok`, nothing more is issued. Repeating is harmless
/// and gives the first closing's time. A campaign of which nothing was left is marked as sold out first, and reads `sold_out` at
/// the doors after the closing as before it.
///
/// # Errors
/// [`PortError`]: of kind [`Fate::Retry`] if conflicts and throttles lasted longer than `patience`. Whatever was frozen by then
/// stays frozen.
pub async fn close_campaign<S, K>(
    store: &S,
    campaign: &Campaign,
    clock: &K,
    patience: Duration,
) -> Result<Timestamp, PortError>
where
    S: CampaignClosing + SoldMarks + Sync,
    K: Clock + ?Sized,
{
    if let Some(closed_at) = campaign.closed_at {
        return Ok(closed_at);
    }
    let late = |_| {
        let busy = "steps of it were in conflict for too long; it is finished later";
        Err(PortError::retry(OPERATION, busy))
    };
    timeout(patience, close(store, campaign, clock))
        .await
        .unwrap_or_else(late)
}

async fn close<S, K>(store: &S, campaign: &Campaign, clock: &K) -> Result<Timestamp, PortError>
where
    S: CampaignClosing + SoldMarks + Sync,
    K: Clock + ?Sized,
{
    let id = &campaign.campaign_id;
    let mut tries = Tries::default();
    while let Err(error) = store.begin_closing(id, clock.now()).await {
        tries.pause_after(error).await?;
    }
    let noted = Instant::now();
    let freezes: Vec<_> = (0..campaign.shards)
        .map(|shard| freeze(store, id, shard, clock))
        .collect();
    let frozen: Vec<StockShard> = stream::iter(freezes)
        .buffer_unordered(FREEZES_AT_ONCE)
        .try_collect()
        .await?;
    let mut tries = Tries::default();
    if frozen.iter().all(|shard| shard.remaining == 0) {
        while let Err(error) = store.mark_sold(campaign).await {
            tries.pause_after(error).await?;
        }
    }
    if clock.now() < campaign.opens_at {
        sleep_until(noted + SETTLING).await;
    }
    loop {
        match store.end_closing(id, clock.now()).await {
            Ok(closed_at) => return Ok(closed_at),
            Err(error) => tries.pause_after(error).await?,
        }
    }
}

/// Freezes a shard, however often a transaction holds it.
async fn freeze<S, K>(
    store: &S,
    campaign: &CampaignId,
    shard: u16,
    clock: &K,
) -> Result<StockShard, PortError>
where
    S: CampaignClosing,
    K: Clock + ?Sized,
{
    let mut tries = Tries::default();
    loop {
        match store.freeze(campaign, shard, clock.now()).await {
            Ok(Freeze::Frozen(stock)) => return Ok(stock),
            Ok(Freeze::Busy) => tries.pause().await,
            Err(error) => tries.pause_after(error).await?,
        }
    }
}

/// The pauses between the tries of one step.
#[derive(Debug, Default)]
struct Tries {
    doublings: u32,
}

impl Tries {
    /// Waits, unless the error is one that will not pass.
    async fn pause_after(&mut self, error: PortError) -> Result<(), PortError> {
        if error.fate == Fate::Reject {
            return Err(error);
        }
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "step of a closing is tried again"
        );
        self.pause().await;
        Ok(())
    }

    async fn pause(&mut self) {
        let bound = FIRST_PAUSE_MILLIS << self.doublings;
        sleep(Duration::from_millis(fastrand::u64(1..=bound))).await;
        self.doublings = DOUBLINGS.min(self.doublings + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryClock, MemoryLedger, sample_campaign};
    use crate::{CampaignRecords, StockCounters};

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn open(total: u32, shards: u16) -> (MemoryLedger, Campaign) {
        let (ledger, mut campaign) = (MemoryLedger::default(), sample_campaign(total, NOW));
        campaign.shards = shards;
        ledger.add(&campaign);
        (ledger, campaign)
    }

    async fn close(ledger: &MemoryLedger, campaign: &Campaign) -> Result<Timestamp, PortError> {
        close_campaign(ledger, campaign, &MemoryClock::at(NOW), CLOSING_PATIENCE).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_record_is_closed_last_and_every_shard_before_it() {
        let (ledger, campaign) = open(5, 3);
        assert_eq!(close(&ledger, &campaign).await.unwrap(), NOW);
        let mut steps = ledger.closing_steps();
        assert_eq!(
            (steps.remove(0), steps.pop()),
            ("begin".into(), Some("end".into()))
        );
        steps.sort();
        assert_eq!(steps, ["freeze 0", "freeze 1", "freeze 2"]);
        let record = ledger.find(&campaign.campaign_id).await.unwrap().unwrap();
        assert_eq!(
            (record.closing_at, record.closed_at),
            (Some(NOW), Some(NOW))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_closing_outlasts_conflicts_and_gives_up_in_time() {
        let (ledger, campaign) = open(300, 3);
        ledger.freezes_busy(100);
        let began = Instant::now();
        close(&ledger, &campaign).await.unwrap();
        assert!(began.elapsed() < CLOSING_PATIENCE);

        let (ledger, campaign) = open(300, 3);
        ledger.freezes_busy(usize::MAX);
        let began = Instant::now();
        let error = close(&ledger, &campaign).await.unwrap_err();
        assert_eq!(
            (error.fate, began.elapsed()),
            (Fate::Retry, CLOSING_PATIENCE)
        );
        let record = ledger.find(&campaign.campaign_id).await.unwrap().unwrap();
        assert_eq!(
            (record.closing_at, record.closed_at),
            (Some(NOW), None),
            "known as unfinished, and no verdict"
        );
        ledger.freezes_busy(0);
        close(&ledger, &record).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_sold_out_is_marked_before_the_record_is_closed() {
        let (ledger, campaign) = open(1, 1);
        let mut sold = ledger.shards(&campaign.campaign_id)[0];
        (sold.remaining, sold.issued) = (0, 1);
        ledger.set_shard(&campaign.campaign_id, sold);
        close(&ledger, &campaign).await.unwrap();
        assert_eq!(ledger.closing_steps(), ["begin", "freeze 0", "sold", "end"]);
        assert!(ledger.is_sold(&campaign.campaign_id).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_gives_the_first_time_and_a_closed_record_is_asked_for_nothing() {
        let (ledger, campaign) = open(2, 2);
        close(&ledger, &campaign).await.unwrap();
        let clock = MemoryClock::at(NOW.plus_seconds(9));
        let again = close_campaign(&ledger, &campaign, &clock, CLOSING_PATIENCE).await;
        assert_eq!(again.unwrap(), NOW);
        let shards = ledger.stock(&campaign.campaign_id, &[0, 1]).await.unwrap();
        assert!(shards.iter().all(|shard| shard.closed_at == Some(NOW)));

        let record = ledger.find(&campaign.campaign_id).await.unwrap().unwrap();
        let steps = ledger.closing_steps();
        let again = close_campaign(&ledger, &record, &clock, CLOSING_PATIENCE).await;
        assert_eq!(again.unwrap(), NOW);
        assert_eq!(ledger.closing_steps(), steps);
    }

    #[tokio::test(start_paused = true)]
    async fn damage_ends_the_closing_at_once() {
        let (ledger, campaign) = open(2, 2);
        ledger.lose_shard(&campaign.campaign_id, 1);
        let began = Instant::now();
        let error = close(&ledger, &campaign).await.unwrap_err();
        assert_eq!(
            (error.fate, began.elapsed()),
            (Fate::Reject, Duration::ZERO)
        );
        assert_eq!(ledger.closing_steps().last().unwrap(), "freeze 0");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_store_is_tried_again() {
        let (ledger, campaign) = open(2, 2);
        ledger.fail(true);
        let closing = close(&ledger, &campaign);
        let (closed, ()) = tokio::join!(closing, async {
            sleep(Duration::from_secs(2)).await;
            ledger.fail(false);
        });
        assert_eq!(closed.unwrap(), NOW);
    }

    #[tokio::test(start_paused = true)]
    async fn a_campaign_that_has_not_opened_is_closed_well_after_the_note_of_it() {
        for (opens_in, waits) in [(0, Duration::ZERO), (60, SETTLING)] {
            let (ledger, mut campaign) = open(2, 1);
            campaign.opens_at = NOW.plus_seconds(opens_in);
            let began = Instant::now();
            close(&ledger, &campaign).await.unwrap();
            assert_eq!(began.elapsed(), waits);
        }
    }
}
