//! Coupons in use: redeemed for an order, rolled back for it. What must be atomic is the domain's ([`CouponDesk`]).

use std::sync::Arc;

use axum::{Extension, Json, extract::State, response::IntoResponse};
use firstcome_core::{
    Benefit, Campaign, CouponDesk, CouponOf, CouponUse, Holder, OrderId, PartnerId, Teller,
};
use serde::Deserialize;

use super::{Answer, CouponBody, own_campaign, wallets::refused};
use crate::{
    handler::{Api, Ports},
    problem::Problem,
    request::{Body, OrderQuery, PathIds},
};

/// The order that a coupon is used in.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewRedemption {
    order_id: OrderId,
    /// If it is given, it must be the coupon's.
    code: Option<String>,
}

pub(crate) async fn redeem<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
    Body {
        value: NewRedemption { order_id, code },
        ..
    }: Body<NewRedemption>,
) -> Answer {
    // The door's time: a coupon that is good now is good, however long the reads take.
    let desk = desk(&api);
    let (of, campaign) = coupon_of(&api, partner, &ids).await?;
    // A benefit that only looks like points is none: since they are checked, it cannot be created.
    let points = campaign.benefit.as_ref().map(Benefit::points);
    let points = points.transpose().unwrap_or_default().flatten();
    answer(desk.redeem(&of, &order_id, code.as_deref(), points).await?)
}

pub(crate) async fn roll_back<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
    OrderQuery(order): OrderQuery,
) -> Answer {
    let desk = desk(&api);
    let (of, _) = coupon_of(&api, partner, &ids).await?;
    answer(desk.roll_back(&of, &order).await?)
}

fn desk<P: Ports>(api: &Api<P>) -> CouponDesk<'_, P::Coupons, P::Redemptions, P::Wallets> {
    CouponDesk {
        coupons: &api.coupons,
        redemptions: &api.redemptions,
        teller: Teller {
            book: &api.wallets,
            entropy: &*api.entropy,
            now: api.clock.now(),
        },
    }
}

fn unknown() -> Problem {
    Problem::not_found("there is no such coupon")
}

/// The coupon that the path names. Another partner's campaign, an unknown one and an absent coupon look the same.
async fn coupon_of<P: Ports>(
    api: &Api<P>,
    partner: PartnerId,
    ids: &PathIds,
) -> Result<(CouponOf, Campaign), Problem> {
    let user_id = ids.user()?;
    let campaign_id = ids.campaign().map_err(|_| unknown())?;
    let campaign = own_campaign(api, &partner, &campaign_id)
        .await
        .map_err(|problem| {
            if problem.is_not_found() {
                unknown()
            } else {
                problem
            }
        })?;
    let of = CouponOf {
        holder: Holder {
            partner_id: partner,
            user_id,
        },
        campaign_id,
    };
    Ok((of, campaign))
}

fn answer(used: CouponUse) -> Answer {
    match used {
        CouponUse::Done(coupon) => Ok(Json(CouponBody::from(coupon)).into_response()),
        CouponUse::Unknown => Err(unknown()),
        CouponUse::WrongCode => Err(Problem::conflict(
            "wrong_code",
            "the code is not the coupon's",
        )),
        CouponUse::OtherOrder => Err(Problem::conflict(
            "already_redeemed",
            "the coupon is redeemed for another order",
        )),
        CouponUse::Expired => Err(Problem::conflict(
            "coupon_expired",
            "the coupon can no longer be used",
        )),
        CouponUse::Refused(refusal) => Err(refused(refusal)),
    }
}
