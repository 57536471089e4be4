//! Coupons in use: redeemed once for one order, rolled back for that order only. A coupon worth points credits its
//! holder's wallet in the same write, and the rollback takes them back in the same write.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::{
    Amount, CampaignId, Cause, Coupon, Entropy, EntryId, EntryKind, Guard, Holder, Obstacle,
    OrderId, PortError, Posting, Refusal, Settled, StandingCoupons, Teller, Timestamp, Wallet,
    WalletBook, WalletChange, earned,
};

/// How often a coupon that others keep using is judged again.
const MAX_TRIES: u32 = 20;

/// A coupon's use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Redemption {
    /// When it was redeemed.
    pub redeemed_at: Timestamp,
    /// For which order.
    pub order_id: OrderId,
    /// The entry that credited its points, if it is worth points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_id: Option<EntryId>,
}

/// What a coupon becomes: redeemed, or usable again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponChange {
    /// The coupon as it was judged: its code, its expiry, and whether and for what it was redeemed.
    pub judged: Coupon,
    /// Its use from now on.
    pub to: Option<Redemption>,
}

impl CouponChange {
    /// The coupon after it.
    pub fn applied(&self) -> Coupon {
        Coupon {
            redemption: self.to.clone(),
            ..self.judged.clone()
        }
    }
}

/// What became of a coupon's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It stands.
    Recorded,
    /// Nothing was written; the coupon is this by now, or gone.
    Refused(Option<Box<Coupon>>),
    /// Nothing was written: somebody else is writing it.
    Busy,
}

/// Records the use of coupons.
pub trait Redemptions {
    /// Makes the change. MUST refuse unless the coupon stands as it was judged.
    fn record(
        &self,
        change: &CouponChange,
    ) -> impl Future<Output = Result<Recorded, PortError>> + Send;
}

/// Which coupon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponOf {
    /// Whose, and under which partner.
    pub holder: Holder,
    /// Of which campaign.
    pub campaign_id: CampaignId,
}

/// What became of a redemption or a rollback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CouponUse {
    /// The coupon is what was asked for, by this call or by an earlier one.
    Done(Coupon),
    /// No such coupon under this partner.
    Unknown,
    /// The code is not the coupon's.
    WrongCode,
    /// It is redeemed for another order.
    OtherOrder,
    /// It can no longer be used.
    Expired,
    /// Its points could not be credited or taken back.
    Refused(Refusal),
}

/// Where coupons are used.
#[derive(Clone, Copy)]
pub struct CouponDesk<'a, C, R, B> {
    /// Reads coupons.
    pub coupons: &'a C,
    /// Records their use.
    pub redemptions: &'a R,
    /// Credits wallets.
    pub teller: Teller<'a, B>,
}

/// What a look at a coupon says.
enum Judgement {
    /// The answer.
    Final(CouponUse),
    /// This change is to be made.
    Change(CouponChange),
}

/// The points that move with a coupon's change.
enum Movement {
    /// These come into the wallet.
    Credit(u64),
    /// What this entry credited goes again.
    TakeBack(EntryId, u64),
}

impl<C, R, B> CouponDesk<'_, C, R, B>
where
    C: StandingCoupons + Sync,
    R: Redemptions + Sync,
    B: WalletBook + Sync,
{
    /// Redeems the coupon for the order; again for the same order is the same. A code, if one is given, MUST be the
    /// coupon's; the comparison takes the same time whatever it is. `points` are credited with it.
    ///
    /// # Errors
    /// [`PortError`]: nothing is known to have been done; the same call may be repeated.
    pub async fn redeem(
        &self,
        of: &CouponOf,
        order: &OrderId,
        code: Option<&str>,
        points: Option<Amount>,
    ) -> Result<CouponUse, PortError> {
        self.decide(of, points, |coupon| {
            judge_redemption(coupon, order, code, self.teller.now)
        })
        .await
    }

    /// Makes the coupon usable again if it is redeemed for this order; if it is not redeemed, there is nothing to do.
    /// The points it credited are taken back with it.
    ///
    /// # Errors
    /// As for [`Self::redeem`].
    pub async fn roll_back(&self, of: &CouponOf, order: &OrderId) -> Result<CouponUse, PortError> {
        self.decide(of, None, |coupon| judge_rollback(coupon, order))
            .await
    }

    /// Judges the coupon and records what follows, until one of them is final.
    async fn decide(
        &self,
        of: &CouponOf,
        points: Option<Amount>,
        judge: impl Fn(Coupon) -> Judgement,
    ) -> Result<CouponUse, PortError> {
        let mut standing = self.coupon(of).await?;
        for _ in 0..MAX_TRIES {
            let Some(coupon) = standing else {
                return Ok(CouponUse::Unknown);
            };
            let change = match judge(coupon) {
                Judgement::Final(answer) => return Ok(answer),
                Judgement::Change(change) => change,
            };
            standing = match self.movement(of, &change, points).await? {
                None => match self.redemptions.record(&change).await? {
                    Recorded::Recorded => return Ok(CouponUse::Done(change.applied())),
                    Recorded::Refused(now) => now.map(|coupon| *coupon),
                    Recorded::Busy => self.coupon(of).await?,
                },
                Some(movement) => match self.post(of, &change, &movement).await? {
                    Settled::Done(posting) => return Ok(done(*posting, change)),
                    Settled::Guarded => self.coupon(of).await?,
                    // An earlier try may have been applied and its answer lost: then the wallet refuses the second.
                    Settled::Refused(refusal) => match self.coupon(of).await? {
                        Some(now) if now == change.judged => {
                            return Ok(CouponUse::Refused(refusal));
                        }
                        now => now,
                    },
                },
            };
        }
        Err(PortError::retry(
            "record the coupon's use",
            "others kept using it",
        ))
    }

    async fn coupon(&self, of: &CouponOf) -> Result<Option<Coupon>, PortError> {
        let Holder {
            partner_id,
            user_id,
        } = &of.holder;
        self.coupons
            .coupon(partner_id, user_id, &of.campaign_id)
            .await
    }

    async fn movement(
        &self,
        of: &CouponOf,
        change: &CouponChange,
        points: Option<Amount>,
    ) -> Result<Option<Movement>, PortError> {
        if change.to.is_some() {
            return Ok(points.map(|points| Movement::Credit(points.points())));
        }
        let credited = change.judged.redemption.as_ref();
        let Some(id) = credited.and_then(|redemption| redemption.entry_id.clone()) else {
            return Ok(None);
        };
        let entry = self.teller.book.entry(&of.holder, &id).await?;
        let missing = || PortError::reject("roll the redemption back", "its entry is missing");
        let points = entry.ok_or_else(missing)?.amount.unsigned_abs();
        Ok(Some(Movement::TakeBack(id, points)))
    }

    async fn post(
        &self,
        of: &CouponOf,
        change: &CouponChange,
        movement: &Movement,
    ) -> Result<Settled, PortError> {
        let plan = |wallets: &[Wallet]| {
            let changes: Result<Vec<WalletChange>, Obstacle> = wallets
                .iter()
                .map(|wallet| movement.plan(change, wallet, self.teller.now, self.teller.entropy))
                .collect();
            let changes = changes?;
            let entry_id = changes.last().and_then(|change| change.last_entry.clone());
            let to = change.to.clone().map(|redemption| Redemption {
                entry_id,
                ..redemption
            });
            let guard = Guard::Coupon(Box::new(CouponChange {
                judged: change.judged.clone(),
                to,
            }));
            Ok(Posting { guard, changes })
        };
        self.teller
            .post(std::slice::from_ref(&of.holder), plan)
            .await
    }
}

impl Movement {
    fn plan(
        &self,
        change: &CouponChange,
        wallet: &Wallet,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<WalletChange, Obstacle> {
        let redemption = change.to.as_ref().or(change.judged.redemption.as_ref());
        let cause = |kind| Cause {
            campaign_id: Some(change.judged.campaign_id.clone()),
            order_id: redemption.map(|redemption| redemption.order_id.clone()),
            ..Cause::of(kind)
        };
        match self {
            Self::Credit(points) => {
                let shares = earned(*points, None);
                wallet.addition(shares, cause(EntryKind::Redemption), now, entropy.bits())
            }
            Self::TakeBack(credit, points) => wallet.withdrawal(
                *points,
                Some(credit),
                cause(EntryKind::Rollback),
                now,
                entropy.bits(),
            ),
        }
    }
}

/// The coupon as it was posted: a credit adds its entry to the redemption.
fn done(posting: Posting, change: CouponChange) -> CouponUse {
    let posted = match posting.guard {
        Guard::Coupon(posted) => *posted,
        _ => change,
    };
    CouponUse::Done(posted.applied())
}

fn judge_redemption(
    coupon: Coupon,
    order: &OrderId,
    code: Option<&str>,
    now: Timestamp,
) -> Judgement {
    let is_right = |code: &str| bool::from(code.as_bytes().ct_eq(coupon.code.as_bytes()));
    if !code.is_none_or(is_right) {
        return Judgement::Final(CouponUse::WrongCode);
    }
    match &coupon.redemption {
        Some(redemption) if redemption.order_id == *order => {
            Judgement::Final(CouponUse::Done(coupon))
        }
        Some(_) => Judgement::Final(CouponUse::OtherOrder),
        None if coupon.expires_at <= now => Judgement::Final(CouponUse::Expired),
        None => {
            let to = Some(Redemption {
                redeemed_at: now,
                order_id: order.clone(),
                entry_id: None,
            });
            Judgement::Change(CouponChange { judged: coupon, to })
        }
    }
}

fn judge_rollback(coupon: Coupon, order: &OrderId) -> Judgement {
    match &coupon.redemption {
        None => Judgement::Final(CouponUse::Done(coupon)),
        Some(redemption) if redemption.order_id != *order => {
            Judgement::Final(CouponUse::OtherOrder)
        }
        Some(_) => Judgement::Change(CouponChange {
            judged: coupon,
            to: None,
        }),
    }
}

#[cfg(test)]
mod tests;
