//! Takes coupons from a campaign's stock for the leaders of a batch: chunks of up to 99 users, each one transaction on
//! one shard, several at once on different shards, until everybody is served, refused or the deadline is near.
//!
//! What is known of a shard is an upper bound, because stock never rises: a bound of zero is proof of emptiness. A shard that an
//! early closing has frozen issues nothing more, and what was read of it then stays true. The closing freezes them one by one;
//! the others sell on meanwhile, and nobody is refused before all of them are frozen or empty.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Issuer, within};
use crate::{
    Campaign, CampaignId, CampaignRecords, Chunk, ChunkOutcome, Claim, Clock, Confirmation, Coupon,
    CouponLedger, CouponReason, Entropy, Fate, MAX_CHUNK, Outcome, StockCounters, StockReason,
    UserId, Verdict, coupon_code,
};

/// Transactions in flight at once, each on another shard: a batch of 495 (template.yaml) in one round.
const CHUNKS_AT_ONCE: usize = 5;
/// How often a chunk of unknown outcome is sent again, unchanged, before its users go back to the queue.
const REPEATS_OF_UNKNOWN: u32 = 4;
/// Users in one transactional read (DynamoDB `TransactGetItems`: 100 items).
const USERS_PER_CONFIRMATION: usize = 100;
/// How often a transactional read that met a write is tried.
const CONFIRMATION_TRIES: u32 = 4;
/// The back-off after the n-th fruitless try is a random part of this times 2^n, at most [`BACKOFF_CAP`].
const BACKOFF_BASE: Duration = Duration::from_millis(20);
/// See [`BACKOFF_BASE`].
const BACKOFF_CAP: Duration = Duration::from_millis(500);
/// How long after the deadline the users of a chunk of unknown outcome may still be looked up.
pub const LOOK_UP_GRACE: Duration = Duration::from_millis(800);
/// Campaigns whose empty shards are remembered; then it starts anew, at the price of a stock read.
const CAMPAIGNS_REMEMBERED: usize = 1024;

/// Which shards were seen empty. True forever, so it outlives the batch.
#[derive(Debug, Default)]
pub(super) struct EmptyShards(Mutex<HashMap<CampaignId, BTreeSet<u16>>>);

impl EmptyShards {
    fn of(&self, campaign: &CampaignId) -> BTreeSet<u16> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(campaign)
            .cloned()
            .unwrap_or_default()
    }

    fn remember(&self, campaign: &CampaignId, shards: impl Iterator<Item = u16>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CAMPAIGNS_REMEMBERED && !known.contains_key(campaign) {
            known.clear();
        }
        known.entry(campaign.clone()).or_default().extend(shards);
    }
}

/// What a sale did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) issued: usize,
    pub(super) sold_out: bool,
    pub(super) transactions: usize,
    pub(super) conflicts: usize,
}

/// A leader that still wants a coupon.
#[derive(Clone, Copy)]
struct Buyer<'a> {
    claim: &'a Claim,
    /// The first round it may take part in: a user whose coupon another worker is writing sits one out.
    from_round: u32,
}

/// A chunk that was sent, and those it was for.
struct Settled<'a> {
    chunk: Chunk,
    buyers: Vec<Buyer<'a>>,
    outcome: ChunkOutcome,
    transactions: usize,
}

/// One batch's dealings with one campaign's stock.
pub(super) struct Sale<'a, C, L, K, E> {
    issuer: &'a Issuer<C, L, K, E>,
    campaign: &'a Campaign,
    deadline: Instant,
    waiting: Vec<Buyer<'a>>,
    verdicts: HashMap<UserId, Verdict>,
    /// Upper bounds of what each shard holds; of a frozen one, what it holds for good.
    bounds: BTreeMap<u16, u32>,
    /// Shards somebody else was writing in the last round.
    busy: HashSet<u16>,
    /// Shards that an early closing has frozen.
    frozen: HashSet<u16>,
    tally: Tally,
}

impl<'a, C, L, K, E> Sale<'a, C, L, K, E>
where
    C: CampaignRecords + StockCounters,
    L: CouponLedger,
    K: Clock,
    E: Entropy,
{
    pub(super) fn new(
        issuer: &'a Issuer<C, L, K, E>,
        campaign: &'a Campaign,
        deadline: Instant,
    ) -> Self {
        Self {
            issuer,
            campaign,
            deadline,
            waiting: Vec::new(),
            verdicts: HashMap::new(),
            bounds: BTreeMap::new(),
            busy: HashSet::new(),
            frozen: HashSet::new(),
            tally: Tally::default(),
        }
    }

    /// The verdicts reached, and what it took.
    pub(super) fn finish(self) -> (HashMap<UserId, Verdict>, Tally) {
        (self.verdicts, self.tally)
    }

    /// Serves these leaders, of different users, until all are decided or the deadline is near.
    pub(super) async fn serve(&mut self, leaders: Vec<&'a Claim>) {
        self.waiting = leaders
            .into_iter()
            .map(|claim| Buyer {
                claim,
                from_round: 0,
            })
            .collect();
        if !self.read_stock().await {
            return;
        }
        let mut fruitless = 0;
        let mut round = 0;
        while !self.waiting.is_empty() && Instant::now() < self.deadline {
            if let Some(refusal) = self.end() {
                self.refuse_rest(refusal).await;
                break;
            }
            let before = self.progress();
            let chunks = self.plan(round);
            let settled = join_all(
                chunks
                    .into_iter()
                    .map(|(chunk, buyers)| self.settle(chunk, buyers)),
            )
            .await;
            self.busy.clear();
            for one in settled {
                self.apply(one, round).await;
            }
            round += 1;
            if self.progress() == before {
                self.pause(fruitless).await;
                fruitless += 1;
            } else {
                fruitless = 0;
            }
        }
        self.tally.sold_out = self.is_sold_out();
    }

    /// Why nobody can get a coupon any more, once that is so: no shard can issue, and that is final. Emptiness is judged before
    /// the closing: a shard that is empty after it was empty at it, so whoever reads `sold_out` before it reads the same after it.
    fn end(&self) -> Option<Outcome> {
        if self.is_sold_out() {
            return Some(Outcome::SoldOut);
        }
        self.selling().next().is_none().then_some(Outcome::Closed)
    }

    /// Whether every shard was seen empty.
    fn is_sold_out(&self) -> bool {
        self.bounds.values().all(|bound| *bound == 0)
    }

    /// The shards that may issue something, and how much at most.
    fn selling(&self) -> impl Iterator<Item = (u16, u32)> {
        let known = self.bounds.iter().map(|(shard, bound)| (*shard, *bound));
        known.filter(|(shard, bound)| *bound > 0 && !self.frozen.contains(shard))
    }

    /// Reads the shards not known empty. `false` if nothing can be decided: unreadable, or a shard is missing.
    async fn read_stock(&mut self) -> bool {
        let id = &self.campaign.campaign_id;
        let empty = self.issuer.empty_shards.of(id);
        let unknown: Vec<u16> = (0..self.campaign.shards)
            .filter(|shard| !empty.contains(shard))
            .collect();
        self.bounds = empty.into_iter().map(|shard| (shard, 0)).collect();
        if unknown.is_empty() {
            return true;
        }
        let Some(shards) =
            within(self.deadline, id, self.issuer.campaigns.stock(id, &unknown)).await
        else {
            return false;
        };
        if shards.len() != unknown.len() {
            tracing::error!(campaign.id = %id, found = shards.len(), expected = unknown.len(), "stock shard missing");
            return false;
        }
        for shard in shards {
            if shard.closed_at.is_some() {
                self.frozen.insert(shard.shard);
            }
            self.bound(shard.shard, shard.remaining);
        }
        true
    }

    /// Learns that a shard holds at most this much.
    fn bound(&mut self, shard: u16, at_most: u32) {
        let bound = self.bounds.entry(shard).or_insert(at_most);
        *bound = at_most.min(*bound);
        if *bound == 0 {
            self.issuer
                .empty_shards
                .remember(&self.campaign.campaign_id, std::iter::once(shard));
        }
    }

    /// Spreads those who may buy now over shards that may issue something, in random order so that workers do not meet;
    /// shards that were busy a moment ago come last.
    fn plan(&self, round: u32) -> Vec<(Chunk, Vec<Buyer<'a>>)> {
        let mut random = fastrand::Rng::with_seed(self.random_u64());
        let mut shards: Vec<(u16, u32)> = self.selling().collect();
        random.shuffle(&mut shards);
        shards.sort_by_key(|(shard, _)| self.busy.contains(shard));

        let mut buyers = self
            .waiting
            .iter()
            .filter(|buyer| buyer.from_round <= round)
            .copied();
        let mut chunks = Vec::new();
        for (shard, bound) in shards.into_iter().take(CHUNKS_AT_ONCE) {
            let size = usize::try_from(bound).unwrap_or(MAX_CHUNK).min(MAX_CHUNK);
            let part: Vec<_> = buyers.by_ref().take(size).collect();
            if part.is_empty() {
                break;
            }
            chunks.push((self.chunk(shard, &part), part));
        }
        chunks
    }

    fn chunk(&self, shard: u16, buyers: &[Buyer<'_>]) -> Chunk {
        let now = self.issuer.clock.now();
        let coupon = |buyer: &Buyer<'_>| {
            let mut random = [0; 10];
            random.copy_from_slice(&self.issuer.entropy.bits().to_le_bytes()[..10]);
            Coupon::for_claim(self.campaign, buyer.claim, shard, coupon_code(random), now)
        };
        Chunk {
            campaign: self.campaign.clone(),
            shard,
            coupons: buyers.iter().map(coupon).collect(),
            attempt: self.issuer.entropy.bits(),
        }
    }

    /// Sends a chunk until its outcome is known. Once it is unknown, only `Issued` or `Cancelled` of the identical
    /// chunk can settle it; a throttle of the repeat says nothing about the first try.
    async fn settle(&self, chunk: Chunk, buyers: Vec<Buyer<'a>>) -> Settled<'a> {
        let mut repeats = 0;
        let mut transactions = 0;
        let outcome = loop {
            transactions += 1;
            let outcome = match timeout_at(self.deadline, self.issuer.ledger.issue(&chunk)).await {
                Err(_elapsed) => break ChunkOutcome::Unknown,
                Ok(Ok(ChunkOutcome::Throttled)) if repeats > 0 => ChunkOutcome::Unknown,
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => {
                    let id = &self.campaign.campaign_id;
                    tracing::error!(campaign.id = %id, error = &error as &dyn std::error::Error, "claims undecided");
                    match error.fate {
                        Fate::Reject => break ChunkOutcome::Unknown,
                        Fate::Retry => ChunkOutcome::Unknown,
                    }
                }
            };
            if outcome != ChunkOutcome::Unknown
                || repeats >= REPEATS_OF_UNKNOWN
                || Instant::now() >= self.deadline
            {
                break outcome;
            }
            self.pause(repeats).await;
            repeats += 1;
        };
        Settled {
            chunk,
            buyers,
            outcome,
            transactions,
        }
    }

    async fn apply(&mut self, settled: Settled<'a>, round: u32) {
        let Settled {
            chunk,
            buyers,
            outcome,
            transactions,
        } = settled;
        self.tally.transactions += transactions;
        match outcome {
            ChunkOutcome::Issued => self.issued(chunk),
            ChunkOutcome::Cancelled { stock, coupons } => {
                self.cancelled(chunk.shard, stock, &buyers, coupons, round)
            }
            ChunkOutcome::Throttled => {
                self.tally.conflicts += 1;
                self.busy.insert(chunk.shard);
            }
            ChunkOutcome::Unknown => self.look_up(&buyers).await,
        }
    }

    fn issued(&mut self, chunk: Chunk) {
        let size = u32::try_from(chunk.coupons.len()).unwrap_or(u32::MAX);
        let left = self
            .bounds
            .get(&chunk.shard)
            .map_or(0, |bound| bound.saturating_sub(size));
        self.bound(chunk.shard, left);
        self.tally.issued += chunk.coupons.len();
        for coupon in chunk.coupons {
            self.decide(coupon.user_id.clone(), Verdict::Standing(coupon));
        }
    }

    /// Learns from the reasons by position; `None` proves nothing.
    fn cancelled(
        &mut self,
        shard: u16,
        stock: StockReason,
        buyers: &[Buyer<'a>],
        coupons: Vec<CouponReason>,
        round: u32,
    ) {
        let mut explained = true;
        match stock {
            StockReason::None => explained = false,
            StockReason::Short(left) => self.bound(shard, left),
            StockReason::Closed(left) => {
                self.frozen.insert(shard);
                self.bound(shard, left);
            }
            StockReason::Busy => {
                self.tally.conflicts += 1;
                self.busy.insert(shard);
            }
            StockReason::Missing => {
                tracing::error!(campaign.id = %self.campaign.campaign_id, stock.shard = shard, "stock shard missing");
                self.give_back(buyers);
                return;
            }
        }
        for (buyer, reason) in buyers.iter().zip(coupons) {
            explained |= reason != CouponReason::None;
            match reason {
                CouponReason::None => {}
                CouponReason::Stands(coupon) => {
                    self.decide(buyer.claim.user_id.clone(), Verdict::Standing(coupon))
                }
                CouponReason::Invalid => {
                    self.decide(
                        buyer.claim.user_id.clone(),
                        Verdict::Refused(Outcome::Rejected),
                    );
                }
                CouponReason::Busy => {
                    self.tally.conflicts += 1;
                    let user = &buyer.claim.user_id;
                    self.waiting
                        .iter_mut()
                        .filter(|waiting| waiting.claim.user_id == *user)
                        .for_each(|waiting| waiting.from_round = round + 2);
                }
            }
        }
        if !explained {
            self.busy.insert(shard);
        }
    }

    /// After an unknown outcome: whoever holds a coupon is decided, the rest go back to the queue.
    async fn look_up(&mut self, buyers: &[Buyer<'a>]) {
        self.give_back(buyers);
        let users: Vec<UserId> = buyers
            .iter()
            .map(|buyer| buyer.claim.user_id.clone())
            .collect();
        let read = self.issuer.ledger.standing(self.campaign, &users);
        let standing = within(
            self.deadline + LOOK_UP_GRACE,
            &self.campaign.campaign_id,
            read,
        )
        .await;
        let found = standing
            .into_iter()
            .flatten()
            .map(|(user, coupon)| (user, Verdict::Standing(coupon)));
        self.verdicts.extend(found);
    }

    /// Refuses everybody left, except those who hold a coupon after all. Read in a transaction, and only now that the
    /// reason is known: a plain read may see half of another worker's transaction.
    async fn refuse_rest(&mut self, outcome: Outcome) {
        let waiting = std::mem::take(&mut self.waiting);
        let users: Vec<UserId> = waiting
            .iter()
            .map(|buyer| buyer.claim.user_id.clone())
            .collect();
        let confirmed = join_all(
            users
                .chunks(USERS_PER_CONFIRMATION)
                .map(|part| self.confirm(part)),
        )
        .await;
        for (part, standing) in users.chunks(USERS_PER_CONFIRMATION).zip(confirmed) {
            let Some(mut standing) = standing else {
                continue;
            };
            for user in part {
                let verdict = standing
                    .remove(user)
                    .map_or(Verdict::Refused(outcome), Verdict::Standing);
                self.verdicts.insert(user.clone(), verdict);
            }
        }
    }

    async fn confirm(&self, users: &[UserId]) -> Option<HashMap<UserId, Coupon>> {
        for tries in 0..CONFIRMATION_TRIES {
            let read = self.issuer.ledger.confirm(self.campaign, users);
            match within(self.deadline, &self.campaign.campaign_id, read).await? {
                Confirmation::Standing(standing) => return Some(standing),
                Confirmation::Busy => self.pause(tries).await,
            }
        }
        None
    }

    /// Changes whenever something was decided or learned.
    fn progress(&self) -> (usize, usize, u64, u64) {
        let sitting_out = self
            .waiting
            .iter()
            .map(|buyer| u64::from(buyer.from_round))
            .sum();
        (
            self.waiting.len(),
            self.frozen.len(),
            self.bounds.values().map(|bound| u64::from(*bound)).sum(),
            sitting_out,
        )
    }

    fn decide(&mut self, user: UserId, verdict: Verdict) {
        self.waiting.retain(|buyer| buyer.claim.user_id != user);
        self.verdicts.insert(user, verdict);
    }

    /// Leaves these users undecided for this batch.
    fn give_back(&mut self, buyers: &[Buyer<'a>]) {
        let users: HashSet<&UserId> = buyers.iter().map(|buyer| &buyer.claim.user_id).collect();
        self.waiting
            .retain(|buyer| !users.contains(&buyer.claim.user_id));
    }

    /// Waits a random part of an exponentially growing time, and never past the deadline.
    async fn pause(&self, tries: u32) {
        let most = BACKOFF_BASE
            .saturating_mul(1 << tries.min(10))
            .min(BACKOFF_CAP);
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        let pause =
            Duration::from_micros(fastrand::Rng::with_seed(self.random_u64()).u64(1..=micros));
        sleep(pause.min(self.deadline.saturating_duration_since(Instant::now()))).await;
    }

    fn random_u64(&self) -> u64 {
        let bytes = self.issuer.entropy.bits().to_le_bytes();
        u64::from_le_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
        ])
    }
}
