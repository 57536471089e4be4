//! DynamoDB at its worst. A transaction is decided at one instant (`truth`), and becomes visible to plain reads item by
//! item (`seen`); until then each of its items is locked, and other transactions that touch it are refused.

use std::collections::BTreeMap;

use fastrand::Rng;
use firstcome_core::{
    Campaign, CampaignId, Chunk, ChunkOutcome, Coupon, CouponReason, FIRST_PACE_SECONDS, Mark,
    PartnerId, StockReason, StockShard, Timestamp, UserId,
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

    /// Whether it is closed early in truth.
    pub(crate) fn is_closed(&self) -> bool {
        self.record
            .truth
            .as_ref()
            .is_some_and(|campaign| campaign.closed_at.is_some())
    }
}

/// An item that a decided transaction still has to show.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Record(CampaignId),
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
}

impl Tables {
    pub(crate) fn add(&mut self, campaign: Campaign) {
        self.offers
            .insert(campaign.campaign_id.clone(), Offer::new(campaign));
    }

    /// What plain reads see of some shards.
    pub(crate) fn stock(&self, id: &CampaignId, shard: u16) -> Option<StockShard> {
        let counter = self
            .offers
            .get(id)?
            .shards
            .get(usize::from(shard))?
            .seen
            .as_ref()?;
        let count = |value: i64| u32::try_from(value.max(0)).unwrap_or(u32::MAX);
        Some(StockShard {
            shard,
            remaining: count(counter.remaining),
            issued: count(counter.issued),
            quota: count(counter.quota),
            closed_at: counter.closed_at,
        })
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
        let (stock, coupons) = self.reasons(chunk, rng, rates, stats);
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
        rng: &mut Rng,
        rates: &Rates,
        stats: &mut Stats,
    ) -> (StockReason, Vec<CouponReason>) {
        let storm = happens(rng, rates.conflict);
        let stock = match self.shard(&chunk.campaign.campaign_id, chunk.shard) {
            None => StockReason::Missing,
            Some(item) if item.locked || (storm && rng.bool()) => {
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
                StockReason::Closed
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

    /// The shard that holds most; `None` if all are empty.
    pub(crate) fn fullest(&self, id: &CampaignId) -> Option<usize> {
        let shards = &self.offers.get(id)?.shards;
        let left = |item: &Item<Counter>| item.truth.map_or(0, |counter| counter.remaining);
        let holding = shards.iter().enumerate().filter(|(_, item)| left(item) > 0);
        holding.max_by_key(|(_, item)| left(item)).map(|(k, _)| k)
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

    /// Closes the record and every shard at one instant; `None` if something is locked, or if the shard that must still
    /// hold something is empty.
    pub(crate) fn close(
        &mut self,
        id: &CampaignId,
        holding: Option<usize>,
        now: Timestamp,
    ) -> Option<Vec<Target>> {
        let offer = self.offers.get_mut(id)?;
        if offer.record.locked || offer.shards.iter().any(|shard| shard.locked) {
            return None;
        }
        let held = holding.and_then(|shard| offer.shards.get(shard)?.truth);
        if held.is_some_and(|counter| counter.remaining == 0) {
            return None;
        }
        let mut targets = vec![Target::Record(id.clone())];
        if let Some(mut campaign) = offer.record.truth.clone() {
            campaign.closed_at.get_or_insert(now);
            offer.record.decide(campaign);
        }
        for (shard, item) in (0..).zip(&mut offer.shards) {
            if let Some(mut counter) = item.truth {
                counter.closed_at.get_or_insert(now);
                item.decide(counter);
            }
            targets.push(Target::Shard(id.clone(), shard));
        }
        Some(targets)
    }

    /// Makes one item of a decided transaction visible.
    pub(crate) fn show(&mut self, target: &Target, now: u64) {
        match target {
            Target::Record(id) => {
                if let Some(offer) = self.offers.get_mut(id) {
                    offer.record.show(now);
                }
            }
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
                .any(|offer| offer.record.locked || offer.shards.iter().any(|shard| shard.locked))
    }

    fn shard(&self, id: &CampaignId, shard: u16) -> Option<&Item<Counter>> {
        self.offers.get(id)?.shards.get(usize::from(shard))
    }

    fn shard_mut(&mut self, id: &CampaignId, shard: u16) -> Option<&mut Item<Counter>> {
        self.offers.get_mut(id)?.shards.get_mut(usize::from(shard))
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
