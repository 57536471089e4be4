//! Campaigns, stock, coupons and marks in memory: one lock makes every operation atomic.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use crate::{
    Campaign, CampaignClosing, CampaignId, CampaignRecords, Chunk, ChunkOutcome, Confirmation,
    Coupon, CouponLedger, CouponReason, FIRST_PACE_SECONDS, Freeze, Mark, PartnerId, PortError,
    SoldMarks, StandingCoupons, StockCounters, StockReason, StockShard, StockTicks, Timestamp,
    UserId,
};

/// What the next call of [`CouponLedger::issue`] shall meet.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Nothing is written; the store asks for patience.
    Throttled,
    /// It is written, and the response is lost.
    LostAfterWrite,
    /// It is lost on the way.
    LostBeforeWrite,
    /// It is written, and no response ever comes.
    Hangs,
    /// Somebody else is writing the stock counter.
    StockBusy,
    /// Somebody else is writing the coupon at this position.
    CouponBusy(usize),
    /// The coupon at this position can never be stored.
    CouponInvalid(usize),
    /// Cancelled without a single reason.
    Unexplained,
    /// The port fails.
    Error,
}

#[derive(Debug, Default)]
struct State {
    campaigns: HashMap<CampaignId, Campaign>,
    stock: BTreeMap<(CampaignId, u16), StockShard>,
    coupons: BTreeMap<(PartnerId, UserId, CampaignId), Coupon>,
    sold: HashSet<CampaignId>,
    ticks: HashMap<CampaignId, Tick>,
    /// By attempt: what was applied. The whole chunk is compared, as the real token covers the whole request.
    applied: HashMap<u128, Vec<Chunk>>,
    faults: VecDeque<Fault>,
    busy_confirmations: usize,
    busy_freezes: usize,
    closing_steps: Vec<String>,
    asked: Vec<(u16, usize)>,
    stock_reads: usize,
    failing: bool,
    failing_marks: bool,
    hanging_marks: bool,
    read_time: Duration,
}

/// A store in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryLedger(Arc<Mutex<State>>);

impl MemoryLedger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a campaign with its whole stock.
    pub fn add(&self, campaign: &Campaign) {
        let mut state = self.state();
        for (shard, quota) in campaign.quotas() {
            let stock = StockShard {
                shard,
                remaining: quota,
                issued: 0,
                quota,
                closed_at: campaign.closed_at,
            };
            state
                .stock
                .insert((campaign.campaign_id.clone(), shard), stock);
        }
        state
            .campaigns
            .insert(campaign.campaign_id.clone(), campaign.clone());
    }

    /// Closes a campaign early, the record and every shard at once, and sets no sold mark.
    pub fn close(&self, id: &CampaignId, now: Timestamp) {
        let mut state = self.state();
        if let Some(campaign) = state.campaigns.get_mut(id) {
            campaign.closing_at.get_or_insert(now);
            campaign.closed_at.get_or_insert(now);
        }
        state
            .stock
            .iter_mut()
            .filter(|((of, _), _)| of == id)
            .for_each(|(_, stock)| {
                stock.closed_at.get_or_insert(now);
            });
    }

    /// Freezes one shard, as a closing does that stops half-way.
    pub fn freeze_shard(&self, id: &CampaignId, shard: u16, now: Timestamp) {
        if let Some(stock) = self.state().stock.get_mut(&(id.clone(), shard)) {
            stock.closed_at.get_or_insert(now);
        }
    }

    /// Sets a shard's counts, as sales do.
    pub fn set_shard(&self, id: &CampaignId, shard: StockShard) {
        let key = (id.clone(), shard.shard);
        self.state().stock.insert(key, shard);
    }

    /// The next so many tries to freeze a shard meet a transaction.
    pub fn freezes_busy(&self, times: usize) {
        self.state().busy_freezes = times;
    }

    /// The steps of closings so far: `begin`, `freeze 0`, `sold`, `end`.
    pub fn closing_steps(&self) -> Vec<String> {
        self.state().closing_steps.clone()
    }

    /// Loses a shard, as only damage can.
    pub fn lose_shard(&self, id: &CampaignId, shard: u16) {
        self.state().stock.remove(&(id.clone(), shard));
    }

    /// The next issues meet these, in order.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// The next so many transactional reads meet a write.
    pub fn confirmations_busy(&self, times: usize) {
        self.state().busy_confirmations = times;
    }

    /// From now on (or no more) every call fails.
    pub fn fail(&self, failing: bool) {
        self.state().failing = failing;
    }

    /// From now on a read of many coupons takes so long.
    pub fn reads_take(&self, time: Duration) {
        self.state().read_time = time;
    }

    /// From now on (or no more) sold marks cannot be set.
    pub fn fail_marks(&self, failing: bool) {
        self.state().failing_marks = failing;
    }

    /// From now on setting a sold mark never ends.
    pub fn hang_marks(&self) {
        self.state().hanging_marks = true;
    }

    /// How often [`CouponLedger::issue`] was called.
    pub fn issue_calls(&self) -> usize {
        self.state().asked.len()
    }

    /// The shard and the size of each of those chunks.
    pub fn asked(&self) -> Vec<(u16, usize)> {
        self.state().asked.clone()
    }

    /// How often the stock was read.
    pub fn stock_reads(&self) -> usize {
        self.state().stock_reads
    }

    /// The campaign's coupons.
    pub fn coupons(&self, id: &CampaignId) -> Vec<Coupon> {
        self.state()
            .coupons
            .values()
            .filter(|coupon| coupon.campaign_id == *id)
            .cloned()
            .collect()
    }

    /// The campaign's shards.
    pub fn shards(&self, id: &CampaignId) -> Vec<StockShard> {
        self.state()
            .stock
            .iter()
            .filter(|((of, _), _)| of == id)
            .map(|(_, stock)| *stock)
            .collect()
    }

    /// Looks at, and may change, the coupon under this key while nobody else does.
    pub(super) fn with_coupon<T>(
        &self,
        partner: &PartnerId,
        user: &UserId,
        campaign: &CampaignId,
        look: impl FnOnce(Option<&mut Coupon>) -> T,
    ) -> T {
        let key = (partner.clone(), user.clone(), campaign.clone());
        look(self.state().coupons.get_mut(&key))
    }

    pub(super) fn check(&self, operation: &'static str) -> Result<(), PortError> {
        if self.state().failing {
            Err(PortError::retry(operation, "told to fail"))
        } else {
            Ok(())
        }
    }
}

impl CampaignRecords for MemoryLedger {
    async fn find(&self, id: &CampaignId) -> Result<Option<Campaign>, PortError> {
        self.check("read the campaign")?;
        Ok(self.state().campaigns.get(id).cloned())
    }
}

impl StockCounters for MemoryLedger {
    async fn stock(
        &self,
        campaign: &CampaignId,
        shards: &[u16],
    ) -> Result<Vec<StockShard>, PortError> {
        self.check("read the stock")?;
        let mut state = self.state();
        state.stock_reads += 1;
        Ok(shards
            .iter()
            .filter_map(|shard| state.stock.get(&(campaign.clone(), *shard)).copied())
            .collect())
    }
}

impl StandingCoupons for MemoryLedger {
    async fn coupon(
        &self,
        partner: &PartnerId,
        user: &UserId,
        campaign: &CampaignId,
    ) -> Result<Option<Coupon>, PortError> {
        self.check("read the coupon")?;
        Ok(self
            .state()
            .coupons
            .get(&(partner.clone(), user.clone(), campaign.clone()))
            .cloned())
    }
}

impl State {
    fn standing(&self, campaign: &Campaign, users: &[UserId]) -> HashMap<UserId, Coupon> {
        let key = |user: &UserId| {
            (
                campaign.partner_id.clone(),
                user.clone(),
                campaign.campaign_id.clone(),
            )
        };
        users
            .iter()
            .filter_map(|user| Some((user.clone(), self.coupons.get(&key(user))?.clone())))
            .collect()
    }

    fn issue(&mut self, chunk: &Chunk) -> ChunkOutcome {
        if self
            .applied
            .get(&chunk.attempt)
            .is_some_and(|applied| applied.contains(chunk))
        {
            return ChunkOutcome::Issued;
        }
        let size = u32::try_from(chunk.coupons.len()).unwrap_or(u32::MAX);
        let stock_key = (chunk.campaign.campaign_id.clone(), chunk.shard);
        let stock = match self.stock.get(&stock_key) {
            None => StockReason::Missing,
            Some(stock) if stock.closed_at.is_some() => StockReason::Closed(stock.remaining),
            Some(stock) if stock.remaining < size => StockReason::Short(stock.remaining),
            Some(_) => StockReason::None,
        };
        let standing = self.standing(&chunk.campaign, &users(chunk));
        let reason = |coupon: &Coupon| {
            standing
                .get(&coupon.user_id)
                .cloned()
                .map_or(CouponReason::None, CouponReason::Stands)
        };
        let coupons: Vec<CouponReason> = chunk.coupons.iter().map(reason).collect();
        if stock != StockReason::None || coupons.iter().any(|reason| *reason != CouponReason::None)
        {
            return ChunkOutcome::Cancelled { stock, coupons };
        }
        if let Some(stock) = self.stock.get_mut(&stock_key) {
            stock.remaining -= size;
            stock.issued += size;
        }
        for coupon in &chunk.coupons {
            let key = (
                coupon.partner_id.clone(),
                coupon.user_id.clone(),
                coupon.campaign_id.clone(),
            );
            self.coupons.insert(key, coupon.clone());
        }
        self.applied
            .entry(chunk.attempt)
            .or_default()
            .push(chunk.clone());
        ChunkOutcome::Issued
    }
}

fn users(chunk: &Chunk) -> Vec<UserId> {
    chunk
        .coupons
        .iter()
        .map(|coupon| coupon.user_id.clone())
        .collect()
}

/// A cancellation with one reason at one position: 0 is the stock counter, coupons follow.
fn cancelled(chunk: &Chunk, stock: StockReason, at: Option<(usize, CouponReason)>) -> ChunkOutcome {
    let mut coupons = vec![CouponReason::None; chunk.coupons.len()];
    if let Some((slot, (_, reason))) =
        at.and_then(|at| coupons.get_mut(at.0).map(|slot| (slot, at)))
    {
        *slot = reason;
    }
    ChunkOutcome::Cancelled { stock, coupons }
}

impl CouponLedger for MemoryLedger {
    async fn standing(
        &self,
        campaign: &Campaign,
        users: &[UserId],
    ) -> Result<HashMap<UserId, Coupon>, PortError> {
        self.check("read the coupons")?;
        let time = self.state().read_time;
        if !time.is_zero() {
            sleep(time).await;
        }
        Ok(self.state().standing(campaign, users))
    }

    async fn issue(&self, chunk: &Chunk) -> Result<ChunkOutcome, PortError> {
        self.check("issue the coupons")?;
        let fault = {
            let mut state = self.state();
            state.asked.push((chunk.shard, chunk.coupons.len()));
            state.faults.pop_front()
        };
        if fault == Some(Fault::Hangs) {
            self.state().issue(chunk);
            return pending().await;
        }
        let mut state = self.state();
        Ok(match fault {
            None | Some(Fault::Hangs) => state.issue(chunk),
            Some(Fault::Throttled) => ChunkOutcome::Throttled,
            Some(Fault::LostBeforeWrite) => ChunkOutcome::Unknown,
            Some(Fault::LostAfterWrite) => {
                state.issue(chunk);
                ChunkOutcome::Unknown
            }
            Some(Fault::StockBusy) => cancelled(chunk, StockReason::Busy, None),
            Some(Fault::CouponBusy(at)) => {
                cancelled(chunk, StockReason::None, Some((at, CouponReason::Busy)))
            }
            Some(Fault::CouponInvalid(at)) => {
                cancelled(chunk, StockReason::None, Some((at, CouponReason::Invalid)))
            }
            Some(Fault::Unexplained) => cancelled(chunk, StockReason::None, None),
            Some(Fault::Error) => {
                return Err(PortError::reject("issue the coupons", "told to fail"));
            }
        })
    }

    async fn confirm(
        &self,
        campaign: &Campaign,
        users: &[UserId],
    ) -> Result<Confirmation, PortError> {
        self.check("confirm the coupons")?;
        let mut state = self.state();
        if state.busy_confirmations > 0 {
            state.busy_confirmations -= 1;
            return Ok(Confirmation::Busy);
        }
        Ok(Confirmation::Standing(state.standing(campaign, users)))
    }
}

impl SoldMarks for MemoryLedger {
    async fn mark_sold(&self, campaign: &Campaign) -> Result<Mark, PortError> {
        const OPERATION: &str = "mark the campaign sold out";
        self.check(OPERATION)?;
        if self.state().hanging_marks {
            return pending().await;
        }
        if self.state().failing_marks {
            return Err(PortError::retry(OPERATION, "told to fail"));
        }
        self.state().closing_steps.push("sold".into());
        let new = self.state().sold.insert(campaign.campaign_id.clone());
        Ok(if new { Mark::Set } else { Mark::Stood })
    }

    async fn is_sold(&self, campaign: &CampaignId) -> Result<bool, PortError> {
        self.check("read the sold mark")?;
        Ok(self.state().sold.contains(campaign))
    }
}

impl CampaignClosing for MemoryLedger {
    async fn begin_closing(&self, campaign: &CampaignId, now: Timestamp) -> Result<(), PortError> {
        const OPERATION: &str = "note that the campaign is being closed";
        self.check(OPERATION)?;
        let mut state = self.state();
        state.closing_steps.push("begin".into());
        let record = state.campaigns.get_mut(campaign);
        let missing = || PortError::reject(OPERATION, "the record is missing");
        record.ok_or_else(missing)?.closing_at.get_or_insert(now);
        Ok(())
    }

    async fn freeze(
        &self,
        campaign: &CampaignId,
        shard: u16,
        now: Timestamp,
    ) -> Result<Freeze, PortError> {
        const OPERATION: &str = "freeze a stock shard";
        self.check(OPERATION)?;
        let mut state = self.state();
        if state.busy_freezes > 0 {
            state.busy_freezes -= 1;
            return Ok(Freeze::Busy);
        }
        let missing = || PortError::reject(OPERATION, "the stock shard is missing");
        let stock = state.stock.get_mut(&(campaign.clone(), shard));
        let stock = stock.ok_or_else(missing)?;
        stock.closed_at.get_or_insert(now);
        let frozen = *stock;
        state.closing_steps.push(format!("freeze {shard}"));
        Ok(Freeze::Frozen(frozen))
    }

    async fn end_closing(
        &self,
        campaign: &CampaignId,
        now: Timestamp,
    ) -> Result<Timestamp, PortError> {
        const OPERATION: &str = "close the campaign's record";
        self.check(OPERATION)?;
        let mut state = self.state();
        state.closing_steps.push("end".into());
        let record = state.campaigns.get_mut(campaign);
        let missing = || PortError::reject(OPERATION, "the record is missing");
        Ok(*record.ok_or_else(missing)?.closed_at.get_or_insert(now))
    }
}

/// A campaign's stock tick.
#[derive(Clone, Debug)]
struct Tick {
    stands_until: Option<Timestamp>,
    pace: u16,
}

impl Default for Tick {
    fn default() -> Self {
        Self {
            stands_until: None,
            pace: FIRST_PACE_SECONDS,
        }
    }
}

impl Tick {
    fn mark(&mut self, now: Timestamp, stale_after_seconds: i64) -> Option<u16> {
        let stands = self.stands_until.is_some_and(|until| now <= until);
        (!stands).then(|| {
            self.stands_until = Some(now.plus_seconds(stale_after_seconds + i64::from(self.pace)));
            self.pace
        })
    }
}

impl StockTicks for MemoryLedger {
    async fn mark(
        &self,
        campaign: &CampaignId,
        now: Timestamp,
        stale_after_seconds: i64,
    ) -> Result<Option<u16>, PortError> {
        self.check("mark the stock tick")?;
        let mut state = self.state();
        let tick = state.ticks.entry(campaign.clone()).or_default();
        Ok(tick.mark(now, stale_after_seconds))
    }

    async fn clear(&self, campaign: &CampaignId) -> Result<u16, PortError> {
        self.check("clear the stock tick")?;
        let mut state = self.state();
        let tick = state.ticks.entry(campaign.clone()).or_default();
        tick.stands_until = None;
        Ok(tick.pace)
    }

    async fn set_pace(
        &self,
        campaign: &CampaignId,
        seconds: u16,
        _now: Timestamp,
    ) -> Result<(), PortError> {
        self.check("set the stock's pace")?;
        let mut state = self.state();
        state.ticks.entry(campaign.clone()).or_default().pace = seconds;
        Ok(())
    }
}
