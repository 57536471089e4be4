//! Claims: made and asked for by a partner's server, in the order of verdict.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use firstcome_core::{
    Campaign, CampaignId, Claim, ClaimId, ClaimOutbox, Coupon, Outcome, PartnerId, PortError,
    SoldMarks, StandingCoupons, Timestamp, UserId,
    metric::{self, Metric},
};
use serde::{Deserialize, Serialize};

use super::{Answer, CouponBody, own_campaign};
use crate::{
    handler::{Api, Ports},
    problem::Problem,
    request::{Body, PathIds},
};

/// A user's wish for a coupon.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewClaim {
    user_id: UserId,
    /// Strongly advised: a repeat with the same id gets the same answer. Default: an id of its own.
    claim_id: Option<ClaimId>,
}

/// What became of the claim so far.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Claim"))]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClaimView {
    claim_id: ClaimId,
    status: ClaimStatus,
    /// The coupon that stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    coupon: Option<CouponBody>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum ClaimStatus {
    /// In the queue: ask for the answer, or hear it on a socket.
    Accepted,
    /// This claim won the coupon.
    Issued,
    /// The user holds a coupon that another claim won.
    AlreadyIssued,
}

/// What a user's claims have come to.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Standing"))]
pub(crate) struct StandingView {
    status: StandingStatus,
    /// The coupon that stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    coupon: Option<CouponBody>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum StandingStatus {
    /// A coupon stands.
    Issued,
    /// None stands, and every coupon has gone.
    SoldOut,
    /// None stands, and the campaign takes no more claims.
    Closed,
    /// None stands, and the campaign has not opened yet.
    NotOpen,
    /// None stands, and one may still come. A user who never claimed looks the same.
    Undecided,
}

pub(crate) async fn claim<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
    Body {
        value: NewClaim { user_id, claim_id },
        ..
    }: Body<NewClaim>,
) -> Answer {
    // The door's time: a claim counts from here, however long the reads take.
    let now = api.clock.now();
    let standing = Standing::read(&api, &partner, &ids.campaign()?, &user_id).await?;
    let claim_id = claim_id.unwrap_or_else(|| ClaimId::mint(now, api.entropy.bits()));
    if let Some(coupon) = standing.coupon {
        let status = if coupon.claim_id == claim_id {
            ClaimStatus::Issued
        } else {
            ClaimStatus::AlreadyIssued
        };
        let coupon = Some(CouponBody::from(coupon));
        metric::count(Metric::ClaimsStanding, 1);
        let named = Extension(claim_id.clone());
        let view = ClaimView {
            claim_id,
            status,
            coupon,
        };
        return Ok((named, Json(view)).into_response());
    }
    if let Some(refusal) = standing.refusal_at(now) {
        Metric::of_refusal(refusal)
            .into_iter()
            .for_each(|metric| metric::count(metric, 1));
        return Err(Problem::conflict(refusal.as_str(), reason(refusal)));
    }
    let claim = Claim {
        claim_id: claim_id.clone(),
        partner_id: partner,
        campaign_id: standing.campaign.campaign_id.clone(),
        user_id,
        requested_at: now,
        sent_at: now,
        connection_id: None,
        trace: None,
    };
    api.claims.enqueue(&claim, &standing.campaign).await?;
    metric::count_of(Metric::ClaimsAccepted, &claim.campaign_id, 1);
    let named = Extension(claim_id.clone());
    let view = ClaimView {
        claim_id,
        status: ClaimStatus::Accepted,
        coupon: None,
    };
    Ok((StatusCode::ACCEPTED, named, Json(view)).into_response())
}

pub(crate) async fn status<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
) -> Answer {
    let standing = Standing::read(&api, &partner, &ids.campaign()?, &ids.user()?).await?;
    let refusal = standing.refusal_at(api.clock.now());
    let status = match (&standing.coupon, refusal) {
        (Some(_), _) => StandingStatus::Issued,
        (None, None) => StandingStatus::Undecided,
        (None, Some(Outcome::NotOpen)) => StandingStatus::NotOpen,
        (None, Some(Outcome::SoldOut)) => StandingStatus::SoldOut,
        (None, Some(_)) => StandingStatus::Closed,
    };
    let coupon = standing.coupon.map(CouponBody::from);
    Ok(Json(StandingView { status, coupon }).into_response())
}

/// What is known of one user's claim.
struct Standing {
    campaign: Campaign,
    sold: bool,
    coupon: Option<Coupon>,
}

impl Standing {
    /// One after the other. The sold mark stands before an early closing can (the catalog's contract), so a record read
    /// first never shows the end without the mark; and only who held no coupon after both may be refused for them.
    async fn read<P: Ports>(
        api: &Api<P>,
        partner: &PartnerId,
        id: &CampaignId,
        user: &UserId,
    ) -> Result<Self, Problem> {
        let campaign = own_campaign(api, partner, id).await?;
        let sold = api.campaigns.is_sold(id).await?;
        let coupon: Result<_, PortError> = api.coupons.coupon(partner, user, id).await;
        Ok(Self {
            campaign,
            sold,
            coupon: coupon?,
        })
    }

    /// What stands against a claim made at `now` by a user without a coupon.
    fn refusal_at(&self, now: Timestamp) -> Option<Outcome> {
        self.campaign.refusal(self.sold, now)
    }
}

fn reason(refusal: Outcome) -> &'static str {
    match refusal {
        Outcome::NotOpen => "the campaign has not opened yet",
        Outcome::SoldOut => "every coupon has gone",
        _ => "the campaign takes no more claims",
    }
}
