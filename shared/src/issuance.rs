//! Decides claims: the order of verdict, users with several messages, and who has to be asked for a coupon.
//! How coupons are taken from the stock is [`sale`]'s business; queues and answers are the handler's.

mod sale;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use crate::{
    Campaign, CampaignId, CampaignRecords, Claim, Clock, CouponLedger, Entropy, Outcome, PortError,
    StockCounters, Timestamp, UserId, Verdict,
};
pub use sale::LOOK_UP_GRACE;
use sale::{EmptyShards, Sale, Tally};

/// Campaigns of one batch that are decided at once; fair queues make more than a few rare.
const CAMPAIGNS_AT_ONCE: usize = 4;

/// What became of a batch of claims.
#[derive(Debug, Default)]
pub struct Decisions {
    /// In the order of the claims; `None` is undecided: the claim MUST come again.
    pub verdicts: Vec<Option<Verdict>>,
    /// Campaigns whose stock this batch changed.
    pub changed: Vec<Campaign>,
    /// Campaigns of which this batch saw every shard empty.
    pub sold_out: Vec<Campaign>,
    /// Coupons this batch issued.
    pub issued: usize,
    /// … of each campaign in [`Self::changed`], in the same order.
    pub issued_of: Vec<usize>,
    /// When the last claim was decided.
    pub decided_at: Timestamp,
    /// Transactions sent, repeats included.
    pub transactions: usize,
    /// Transactions that were refused because others wrote at the same time, or to spare the store.
    pub conflicts: usize,
}

/// Decides claims. One per execution environment: it remembers which shards are empty, for stock never rises.
#[derive(Debug)]
pub struct Issuer<C, L, K, E> {
    campaigns: C,
    ledger: L,
    clock: K,
    entropy: E,
    empty_shards: EmptyShards,
}

/// One user's claims of a batch.
struct Wish<'a> {
    /// Every one of them.
    claims: Vec<(usize, &'a Claim)>,
    /// The earliest one inside the window: the one that asks for a coupon.
    leader: Option<&'a Claim>,
}

impl<C, L, K, E> Issuer<C, L, K, E>
where
    C: CampaignRecords + StockCounters,
    L: CouponLedger,
    K: Clock,
    E: Entropy,
{
    /// An issuer that remembers nothing yet.
    pub fn new(campaigns: C, ledger: L, clock: K, entropy: E) -> Self {
        Self {
            campaigns,
            ledger,
            clock,
            entropy,
            empty_shards: EmptyShards::default(),
        }
    }

    /// Decides as many claims as it can before `deadline`. Never fails: what cannot be decided is undecided.
    pub async fn decide(&self, claims: &[Claim], deadline: Instant) -> Decisions {
        let mut by_campaign: BTreeMap<&CampaignId, Vec<usize>> = BTreeMap::new();
        for (index, claim) in claims.iter().enumerate() {
            by_campaign
                .entry(&claim.campaign_id)
                .or_default()
                .push(index);
        }
        let mut decided = stream::iter(by_campaign)
            .map(|(id, indexes)| async move {
                let of_campaign: Vec<_> = indexes
                    .into_iter()
                    .map(|index| (index, &claims[index]))
                    .collect();
                self.decide_campaign(id, of_campaign, deadline).await
            })
            .buffer_unordered(CAMPAIGNS_AT_ONCE);

        let mut all = Decisions {
            verdicts: vec![None; claims.len()],
            ..Decisions::default()
        };
        while let Some(one) = decided.next().await {
            one.verdicts
                .into_iter()
                .for_each(|(index, verdict)| all.verdicts[index] = verdict);
            all.issued += one.tally.issued;
            all.transactions += one.tally.transactions;
            all.conflicts += one.tally.conflicts;
            all.issued_of
                .extend((one.tally.issued > 0).then_some(one.tally.issued));
            all.changed
                .extend(one.campaign.clone().filter(|_| one.tally.issued > 0));
            all.sold_out
                .extend(one.campaign.filter(|_| one.tally.sold_out));
        }
        all.decided_at = self.clock.now();
        all
    }

    async fn decide_campaign(
        &self,
        id: &CampaignId,
        claims: Vec<(usize, &Claim)>,
        deadline: Instant,
    ) -> Decided {
        let campaign = match within(deadline, id, self.campaigns.find(id)).await {
            Some(Some(campaign)) => campaign,
            Some(None) => return Decided::without_campaign(claims, Some(Outcome::UnknownCampaign)),
            None => return Decided::without_campaign(claims, None),
        };
        let (own, foreign): (Vec<_>, Vec<_>) = claims
            .into_iter()
            .partition(|(_, claim)| claim.partner_id == campaign.partner_id);
        let mut decided = Decided::without_campaign(foreign, Some(Outcome::UnknownCampaign));
        if own.is_empty() {
            return decided;
        }

        let users: Vec<UserId> = own
            .iter()
            .map(|(_, claim)| claim.user_id.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let Some(standing) = within(deadline, id, self.ledger.standing(&campaign, &users)).await
        else {
            decided
                .verdicts
                .extend(own.into_iter().map(|(index, _)| (index, None)));
            return decided;
        };
        let mut known: HashMap<UserId, Verdict> = standing
            .into_iter()
            .map(|(user, coupon)| (user, Verdict::Standing(coupon)))
            .collect();

        let wishes = wishes(&campaign, own);
        let leaders: Vec<&Claim> = wishes
            .values()
            .filter_map(|wish| wish.leader)
            .filter(|leader| !known.contains_key(&leader.user_id))
            .collect();
        let mut sale = Sale::new(self, &campaign, deadline);
        if !leaders.is_empty() {
            sale.serve(leaders).await;
        }
        let (served, tally) = sale.finish();
        known.extend(served);

        for (user, wish) in wishes {
            let answer =
                |claim: &Claim| answer(&campaign, claim, known.get(user), wish.leader.is_some());
            decided.verdicts.extend(
                wish.claims
                    .iter()
                    .map(|(index, claim)| (*index, answer(claim))),
            );
        }
        Decided {
            tally,
            campaign: Some(campaign),
            ..decided
        }
    }
}

/// [`Decisions`] of one campaign.
#[derive(Default)]
struct Decided {
    verdicts: Vec<(usize, Option<Verdict>)>,
    campaign: Option<Campaign>,
    tally: Tally,
}

impl Decided {
    /// All of these claims refused alike, or all undecided.
    fn without_campaign(claims: Vec<(usize, &Claim)>, refusal: Option<Outcome>) -> Self {
        let verdicts = claims
            .into_iter()
            .map(|(index, _)| (index, refusal.map(Verdict::Refused)))
            .collect();
        Self {
            verdicts,
            ..Self::default()
        }
    }
}

/// The call's result if it comes in time; otherwise the claims that need it stay undecided, and the log says why.
async fn within<T>(
    deadline: Instant,
    campaign: &CampaignId,
    call: impl Future<Output = Result<T, PortError>>,
) -> Option<T> {
    match timeout_at(deadline, call).await {
        Ok(Ok(found)) => return Some(found),
        Ok(Err(error)) => {
            tracing::warn!(campaign.id = %campaign, error = &error as &dyn std::error::Error, "claims undecided");
        }
        Err(_elapsed) => tracing::warn!(campaign.id = %campaign, "claims undecided: out of time"),
    }
    None
}

/// Sorts a campaign's claims by user. The earliest claim inside the window leads: it alone asks for a coupon, and the
/// user's other claims are answered by what it gets.
fn wishes<'a>(
    campaign: &Campaign,
    claims: Vec<(usize, &'a Claim)>,
) -> BTreeMap<&'a UserId, Wish<'a>> {
    let mut wishes: BTreeMap<&UserId, Wish<'_>> = BTreeMap::new();
    for (index, claim) in claims {
        let wish = wishes.entry(&claim.user_id).or_insert(Wish {
            claims: Vec::new(),
            leader: None,
        });
        wish.claims.push((index, claim));
        let order = |claim: &'a Claim| (claim.own_time(), &claim.claim_id);
        if refusal_by_time(campaign, claim).is_none()
            && wish.leader.is_none_or(|first| order(claim) < order(first))
        {
            wish.leader = Some(claim);
        }
    }
    wishes
}

/// What the claim's own time says against it, whatever the stock.
fn refusal_by_time(campaign: &Campaign, claim: &Claim) -> Option<Outcome> {
    if claim.is_from_the_future() || claim.is_from_long_ago() {
        Some(Outcome::Rejected)
    } else {
        campaign.refusal_at(claim.own_time())
    }
}

/// The order of verdict: a standing coupon, then the claim's own time, then what its leader met. `None` while the
/// leader is undecided, even for a claim out of time: the leader may yet win the coupon that answers both. And `None` for a claim
/// before the opening while the campaign is being closed: which of `not_open` and `closed` it will read for ever is not written yet.
fn answer(
    campaign: &Campaign,
    claim: &Claim,
    known: Option<&Verdict>,
    has_leader: bool,
) -> Option<Verdict> {
    match known {
        Some(Verdict::Standing(coupon)) => Some(Verdict::Standing(coupon.clone())),
        None if has_leader => None,
        refused => match refusal_by_time(campaign, claim) {
            Some(Outcome::NotOpen) if campaign.is_being_closed() => None,
            Some(refusal) => Some(Verdict::Refused(refusal)),
            None => refused.cloned(),
        },
    }
}

#[cfg(test)]
mod tests;
