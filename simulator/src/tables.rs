//! DynamoDB at its worst. A transaction is decided at one instant (`truth`), and becomes visible to plain reads item by
//! item (`seen`); until then each of its items is locked, and other transactions that touch it are refused.

use std::collections::BTreeMap;

use fastrand::Rng;
use firstcome_core::{
    Campaign, CampaignId, Chunk, ChunkOutcome, Coupon, CouponReason, FIRST_PACE_SECONDS, Freeze,
    Mark, PartnerId, StockReason, StockShard, Timestamp, UserId,
};

use crate::Broken;
use crate::fault::{Rates, Stats, happens};

/// The key of a coupon. It is the one-per-user rule.
pub(crate) type CouponKey = (PartnerId, UserId, CampaignId);

/// One item of a table.
#[derive(Clone, Debug)]
pub(crate) struct Item<T> {
    /// As decided.
    pub(crate) truth: Option<T>,
    /// As plain reads see it.
    pub(crate) seen: Option<T>,
    /// Whether a transaction has decided it and not yet made it visible.
    pub(crate) locked: bool,
    /// When `seen` last became `truth`, in virtual milliseconds.
    pub(crate) seen_at: u64,
}

impl<T> Default for Item<T> {
    fn default() -> Self {
        Self {
            truth: None,
            seen: None,
            locked: false,
            seen_at: 0,
        }
    }
}

impl<T: Clone> Item<T> {
    fn standing(value: T) -> Self {
        Self {
            truth: Some(value.clone()),
            seen: Some(value),
            ..Self::default()
        }
    }

    fn decide(&mut self, value: T) {
        self.truth = Some(value);
        self.locked = true;
    }

    /// A write of this item alone: everybody sees it at once.
    fn write(&mut self, value: T, now: u64) {
        self.truth = Some(value);
        self.show(now);
    }

    fn show(&mut self, now: u64) {
        self.seen = self.truth.clone();
        self.locked = false;
        self.seen_at = now;
    }
}

/// A stock counter. Signed, so that a store without its condition can go wrong visibly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counter {
    pub(crate) remaining: i64,
    pub(crate) issued: i64,
    pub(crate) quota: i64,
    pub(crate) closed_at: Option<Timestamp>,
}

/// A campaign with its stock.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) record: Item<Campaign>,
    pub(crate) shards: Vec<Item<Counter>>,
    pub(crate) sold: bool,
    /// Until when the stock tick's mark stands.
    pub(crate) tick: Option<Timestamp>,
    /// Seconds from one stock tick to the next.
    pub(crate) pace: u16,
}

impl Offer {
    fn new(campaign: Campaign) -> Self {
        let shards = campaign
            .quotas()
            .map(|(_, quota)| {
                Item::standing(Counter {
                    remaining: i64::from(quota),
                    issued: 0,
                    quota: i64::from(quota),
                    closed_at: None,
                })
            })
            .collect();
        Self {
            record: Item::standing(campaign),
            shards,
            sold: false,
            tick: None,
            pace: FIRST_PACE_SECONDS,
        }
    }

    /// Whether every shard is empty in truth.
    pub(crate) fn is_empty(&self) -> bool {
        self.counters().all(|counter| counter.remaining <= 0)
    }

    /// The counters in truth.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.shards.iter().filter_map(|shard| shard.truth.as_ref())
    }

    /// Whether the record is closed early in truth.
    pub(crate) fn is_closed(&self) -> bool {
        let record = self.record.truth.as_ref();
        record.is_some_and(|campaign| campaign.closed_at.is_some())
    }

    /// Whether the closing that was begun has not come to its end, in truth.
    pub(crate) fn is_half_closed(&self) -> bool {
        let record = self.record.truth.as_ref();
        record.is_some_and(|campaign| campaign.closing_at.is_some() && campaign.closed_at.is_none())
    }

    /// Whether any shard can still issue, in truth.
    pub(crate) fn can_issue(&self) -> bool {
        let mut counters = self.counters();
        counters.any(|counter| counter.remaining > 0 && counter.closed_at.is_none())
    }
}

/// An item that a decided transaction still has to show.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Shard(CampaignId, u16),
    Coupon(CouponKey),
}

/// What the store says to a transaction at once.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It is over.
    Answered(ChunkOutcome),
    /// It is decided; these items become visible one after the other.
    Decided(Vec<Target>),
}

/// All tables.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) offers: BTreeMap<CampaignId, Offer>,
    pub(crate) coupons: BTreeMap<CouponKey, Item<Coupon>>,
    /// By attempt: the request, and whether all of it is visible.
    requests: BTreeMap<u128, (Chunk, bool)>,
    /// Users whose coupon the store finds invalid.
    pub(crate) unstorable: Vec<UserId>,
    pub(crate) broken: Option<Broken>,
    /// Writes of stock shards so far.
    shard_writes: u64,
}

impl Tables {
    pub(crate) fn add(&mut self, campaign: Campaign) {
        self.offers
            .insert(campaign.campaign_id.clone(), Offer::new(campaign));
    }

    /// What plain reads see of some shards.
    pub(crate) fn stock(&self, id: &CampaignId, shard: u16) -> Option<StockShard> {
        Some(as_read(shard, self.shard(id, shard)?.seen.as_ref()?))
    }

    /// `TransactWriteItems` for a chunk. Its token covers the whole request; only a success is remembered.
    pub(crate) fn begin(
        &mut self,
        chunk: &Chunk,
        rng: &mut Rng,
        rates: &Rates,
        stats: &mut Stats,
    ) -> Begun {
        if let Some((known, visible)) = self.requests.get(&chunk.attempt)
            && known == chunk
        {
            stats.repeats += 1;
            return Begun::Answered(if *visible {
                ChunkOutcome::Issued
            } else {
                ChunkOutcome::Unknown // TransactionInProgress
            });
        }
        let conflict = self.write_of_a_shard(rates);
        let (stock, coupons) = self.reasons(chunk, conflict, rng, rates, stats);
        let refused = stock != StockReason::None
            || coupons.iter().any(|reason| *reason != CouponReason::None);
        if refused {
            return Begun::Answered(silence(stock, coupons, rng, rates));
        }
        Begun::Decided(self.decide(chunk))
    }

    fn reasons(
        &self,
        chunk: &Chunk,
        conflict: bool,
        rng: &mut Rng,
        rates: &Rates,
        stats: &mut Stats,
    ) -> (StockReason, Vec<CouponReason>) {
        let storm = happens(rng, rates.conflict);
        let stock = match self.shard(&chunk.campaign.campaign_id, chunk.shard) {
            None => StockReason::Missing,
            Some(item) if item.locked || conflict || (storm && rng.bool()) => {
                stats.conflicts += 1;
                stats.real_conflicts += u64::from(item.locked);
                StockReason::Busy
            }
            Some(item) => self.stock_reason(item, chunk.coupons.len()),
        };
        let coupons = chunk
            .coupons
            .iter()
            .map(|coupon| self.coupon_reason(coupon, storm, rng, stats))
            .collect();
        (stock, coupons)
    }

    fn stock_reason(&self, item: &Item<Counter>, wanted: usize) -> StockReason {
        let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
        match &item.truth {
            None => StockReason::Missing,
            Some(counter)
                if counter.closed_at.is_some() && self.broken != Some(Broken::ClosedCondition) =>
            {
                StockReason::Closed(as_read(0, counter).remaining)
            }
            Some(counter)
                if counter.remaining < wanted && self.broken != Some(Broken::StockCondition) =>
            {
                StockReason::Short(u32::try_from(counter.remaining).unwrap_or(0))
            }
            Some(_) => StockReason::None,
        }
    }

    fn coupon_reason(
        &self,
        coupon: &Coupon,
        storm: bool,
        rng: &mut Rng,
        stats: &mut Stats,
    ) -> CouponReason {
        if self.unstorable.contains(&coupon.user_id) {
            return CouponReason::Invalid;
        }
        let item = self.coupons.get(&key(coupon));
        let locked = item.is_some_and(|item| item.locked);
        if locked || (storm && rng.u8(0..4) == 0) {
            stats.conflicts += 1;
            stats.real_conflicts += u64::from(locked);
            return CouponReason::Busy;
        }
        match item.and_then(|item| item.truth.clone()) {
            Some(standing) if self.broken != Some(Broken::CouponCondition) => {
                CouponReason::Stands(standing)
            }
            _ => CouponReason::None,
        }
    }

    fn decide(&mut self, chunk: &Chunk) -> Vec<Target> {
        let id = chunk.campaign.campaign_id.clone();
        let size = i64::try_from(chunk.coupons.len()).unwrap_or(i64::MAX);
        if let Some(item) = self.shard_mut(&id, chunk.shard)
            && let Some(counter) = item.truth
        {
            item.decide(Counter {
                remaining: counter.remaining - size,
                issued: counter.issued + size,
                ..counter
            });
        }
        let mut targets = vec![Target::Shard(id, chunk.shard)];
        for coupon in &chunk.coupons {
            let key = key(coupon);
            self.coupons
                .entry(key.clone())
                .or_default()
                .decide(coupon.clone());
            targets.push(Target::Coupon(key));
        }
        self.requests.insert(chunk.attempt, (chunk.clone(), false));
        targets
    }

    /// Marks the campaign as sold out.
    pub(crate) fn mark_sold(&mut self, id: &CampaignId) -> Mark {
        match self.offers.get_mut(id) {
            Some(offer) if !offer.sold => {
                offer.sold = true;
                Mark::Set
            }
            _ => Mark::Stood,
        }
    }

    /// Whether this write of a shard is one of those that meet somebody else's transaction.
    fn write_of_a_shard(&mut self, rates: &Rates) -> bool {
        self.shard_writes += 1;
        rates.every_second_shard_write && self.shard_writes.is_multiple_of(2)
    }

    /// Notes that the campaign is being closed.
    pub(crate) fn begin_closing(&mut self, id: &CampaignId, now: Timestamp, at: u64) -> Option<()> {
        let record = &mut self.offers.get_mut(id)?.record;
        let mut campaign = record.truth.clone()?;
        campaign.closing_at.get_or_insert(now);
        record.write(campaign, at);
        Some(())
    }

    /// `UpdateItem` of a shard: refused while a transaction holds it.
    pub(crate) fn freeze(
        &mut self,
        id: &CampaignId,
        shard: u16,
        (now, at): (Timestamp, u64),
        (rng, rates, stats): (&mut Rng, &Rates, &mut Stats),
    ) -> Option<Freeze> {
        let conflict = self.write_of_a_shard(rates) || happens(rng, rates.conflict);
        let item = self.shard_mut(id, shard)?;
        if item.locked || conflict {
            stats.busy_freezes += 1;
            return Some(Freeze::Busy);
        }
        let mut counter = item.truth?;
        counter.closed_at.get_or_insert(now);
        item.write(counter, at);
        Some(Freeze::Frozen(as_read(shard, &counter)))
    }

    /// Closes the record; the time that stands.
    pub(crate) fn end_closing(
        &mut self,
        id: &CampaignId,
        now: Timestamp,
        at: u64,
    ) -> Option<Timestamp> {
        let record = &mut self.offers.get_mut(id)?.record;
        let mut campaign = record.truth.clone()?;
        let closed_at = *campaign.closed_at.get_or_insert(now);
        record.write(campaign, at);
        Some(closed_at)
    }

    /// Makes one item of a decided transaction visible.
    pub(crate) fn show(&mut self, target: &Target, now: u64) {
        match target {
            Target::Shard(id, shard) => {
                if let Some(item) = self.shard_mut(id, *shard) {
                    item.show(now);
                }
            }
            Target::Coupon(key) => {
                if let Some(item) = self.coupons.get_mut(key) {
                    item.show(now);
                }
            }
        }
    }

    /// The transaction is wholly visible: its repeat is told so.
    pub(crate) fn finish(&mut self, attempt: u128) {
        if let Some((_, visible)) = self.requests.get_mut(&attempt) {
            *visible = true;
        }
    }

    /// Whether any transaction is decided and not wholly visible.
    pub(crate) fn is_moving(&self) -> bool {
        self.coupons.values().any(|item| item.locked)
            || self
                .offers
                .values()
                .any(|offer| offer.shards.iter().any(|shard| shard.locked))
    }

    fn shard(&self, id: &CampaignId, shard: u16) -> Option<&Item<Counter>> {
        self.offers.get(id)?.shards.get(usize::from(shard))
    }

    fn shard_mut(&mut self, id: &CampaignId, shard: u16) -> Option<&mut Item<Counter>> {
        self.offers.get_mut(id)?.shards.get_mut(usize::from(shard))
    }
}

/// A counter as the product reads it.
fn as_read(shard: u16, counter: &Counter) -> StockShard {
    let count = |value: i64| u32::try_from(value.max(0)).unwrap_or(u32::MAX);
    StockShard {
        shard,
        remaining: count(counter.remaining),
        issued: count(counter.issued),
        quota: count(counter.quota),
        closed_at: counter.closed_at,
    }
}

pub(crate) fn key(coupon: &Coupon) -> CouponKey {
    (
        coupon.partner_id.clone(),
        coupon.user_id.clone(),
        coupon.campaign_id.clone(),
    )
}

/// A cancellation, perhaps with some of its reasons left out: a reason `None` proves nothing.
fn silence(
    mut stock: StockReason,
    mut coupons: Vec<CouponReason>,
    rng: &mut Rng,
    rates: &Rates,
) -> ChunkOutcome {
    if happens(rng, rates.silent_reason) {
        if rng.bool() {
            stock = StockReason::None;
        }
        for reason in &mut coupons {
            if rng.bool() {
                *reason = CouponReason::None;
            }
        }
    }
    ChunkOutcome::Cancelled { stock, coupons }
}
