//! Ports of issuance: the coupons, the stock they are taken from, and the campaign they belong to.
//! One trait per capability, one IAM statement per trait (template.yaml names the port beside each).

use std::collections::HashMap;

use crate::{Campaign, CampaignId, Coupon, PartnerId, PortError, Timestamp, UserId};

/// The most coupons one transaction can issue: 100 items, less the stock counter (DynamoDB `TransactWriteItems`).
pub const MAX_CHUNK: usize = 99;

/// Reads campaigns as they stand.
pub trait CampaignRecords {
    /// The campaign, `None` if there is none. MUST see every write that was answered before the call.
    fn find(
        &self,
        id: &CampaignId,
    ) -> impl Future<Output = Result<Option<Campaign>, PortError>> + Send;
}

/// One of a campaign's stock counters. `remaining + issued = quota`, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StockShard {
    /// Which one, from 0.
    pub shard: u16,
    /// Coupons it can still issue.
    pub remaining: u32,
    /// Coupons it has issued; never falls.
    pub issued: u32,
    /// What it started with.
    pub quota: u32,
    /// When an early closing froze it; from then on it issues nothing, and what it holds, it holds for good.
    pub closed_at: Option<Timestamp>,
}

/// Reads stock counters.
pub trait StockCounters {
    /// The named shards, in any order; one that does not exist is left out.
    /// MUST see every write that was answered before the call.
    fn stock(
        &self,
        campaign: &CampaignId,
        shards: &[u16],
    ) -> impl Future<Output = Result<Vec<StockShard>, PortError>> + Send;
}

/// Up to [`MAX_CHUNK`] coupons of different users, all from one shard, issued together or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// The campaign; its partner makes the coupons' keys.
    pub campaign: Campaign,
    /// The shard that pays.
    pub shard: u16,
    /// The coupons.
    pub coupons: Vec<Coupon>,
    /// Set apart from every other attempt: a chunk sent again unchanged carries the same, anything else a new one.
    pub attempt: u128,
}

/// What became of a chunk.
#[derive(Clone, Debug, PartialEq)]
pub enum ChunkOutcome {
    /// Every coupon stands and the shard has paid for it.
    Issued,
    /// Nothing was written, for these reasons; `coupons` is in the chunk's order.
    Cancelled {
        /// What the stock counter said.
        stock: StockReason,
        /// What each coupon's key said.
        coupons: Vec<CouponReason>,
    },
    /// Nothing was written; the store asked for patience.
    Throttled,
    /// It may or may not have been written. Only the identical chunk, or a read, can tell.
    Unknown,
}

/// Why the stock counter refused, if it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StockReason {
    /// Nothing said: proves nothing.
    None,
    /// It has fewer than the chunk needs: this many.
    Short(u32),
    /// An early closing has frozen it, and it holds this much for good.
    Closed(u32),
    /// There is no such counter: damage, never "empty".
    Missing,
    /// Somebody else is writing it, or it is throttled.
    Busy,
}

/// Why a coupon was refused, if it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CouponReason {
    /// Nothing said: proves nothing.
    None,
    /// The user holds this one.
    Stands(Coupon),
    /// Somebody else is writing this user's coupon, or it is throttled.
    Busy,
    /// It can never be stored.
    Invalid,
}

/// What a transactional read of several users' coupons found.
#[derive(Clone, Debug, PartialEq)]
pub enum Confirmation {
    /// At one instant during the call, exactly these coupons stood; no other of the users held one.
    Standing(HashMap<UserId, Coupon>),
    /// A write to one of them was under way: nothing is known.
    Busy,
}

/// Reads standing coupons.
pub trait StandingCoupons {
    /// The coupon of one user. MUST see every write that was answered before the call and be serializable with
    /// [`CouponLedger::issue`]: where a stock counter was seen paid for a coupon, that coupon is seen. A write under way
    /// is an error that may pass.
    fn coupon(
        &self,
        partner: &PartnerId,
        user: &UserId,
        campaign: &CampaignId,
    ) -> impl Future<Output = Result<Option<Coupon>, PortError>> + Send;
}

/// The book of issued coupons.
pub trait CouponLedger {
    /// The users' coupons that stand. MUST see every write that was answered before the call; of a write under way
    /// it may see any part.
    fn standing(
        &self,
        campaign: &Campaign,
        users: &[UserId],
    ) -> impl Future<Output = Result<HashMap<UserId, Coupon>, PortError>> + Send;

    /// Issues the chunk: takes its size from the shard's `remaining` and stores every coupon, or does nothing.
    /// MUST refuse if the shard has too few, is frozen or missing, or if any user holds a coupon of the campaign.
    /// MUST NOT repeat the call by itself.
    fn issue(&self, chunk: &Chunk) -> impl Future<Output = Result<ChunkOutcome, PortError>> + Send;

    /// The users' coupons as of one instant (at most 100 users). MUST be serializable with [`Self::issue`].
    fn confirm(
        &self,
        campaign: &Campaign,
        users: &[UserId],
    ) -> impl Future<Output = Result<Confirmation, PortError>> + Send;
}

/// Whether a mark was set by this call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This call set it.
    Set,
    /// It stood already.
    Stood,
}

/// Marks that a campaign has sold out.
pub trait SoldMarks {
    /// Sets the mark once. The caller MUST have seen every shard empty.
    fn mark_sold(
        &self,
        campaign: &Campaign,
    ) -> impl Future<Output = Result<Mark, PortError>> + Send;
    /// Whether the mark stands.
    fn is_sold(
        &self,
        campaign: &CampaignId,
    ) -> impl Future<Output = Result<bool, PortError>> + Send;
}

/// The pace of a campaign that none is noted for, in seconds from one stock tick to the next.
pub const FIRST_PACE_SECONDS: u16 = 1;

/// A pending stock tick, so that many workers cause one; and how far apart the campaign's ticks are, its pace.
pub trait StockTicks {
    /// Sets the mark unless one stands, and returns the pace: in so many seconds the tick is due. `None` if one stands; one
    /// that is older than the pace and `stale_after_seconds` does not.
    fn mark(
        &self,
        campaign: &CampaignId,
        now: Timestamp,
        stale_after_seconds: i64,
    ) -> impl Future<Output = Result<Option<u16>, PortError>> + Send;
    /// Takes the mark away, no harm if there is none, and returns the pace.
    fn clear(&self, campaign: &CampaignId) -> impl Future<Output = Result<u16, PortError>> + Send;
    /// Notes the pace. MUST leave a mark as it stands.
    fn set_pace(
        &self,
        campaign: &CampaignId,
        seconds: u16,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), PortError>> + Send;
}
