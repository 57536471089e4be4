//! Claims: made and asked for by a partner's server, in the order of verdict.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use firstcome_core::{
    Campaign, CampaignId, Claim, ClaimId, ClaimOutbox, Coupon, CouponView, Outcome, PartnerId,
    PortError, SoldMarks, StandingCoupons, Timestamp, UserId, Verdict,
};
use serde::{Deserialize, Serialize};

use super::{Answer, own_campaign};
use crate::{
    handler::{Api, Ports},
    problem::Problem,
    request::{Body, PathIds},
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewClaim {
    user_id: UserId,
    claim_id: Option<ClaimId>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClaimView {
    #[serde(skip_serializing_if = "Option::is_none")]
    claim_id: Option<ClaimId>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    coupon: Option<CouponView>,
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
        let verdict = Verdict::Standing(coupon);
        let status = verdict.outcome_for(&claim_id).as_str();
        let coupon = verdict.coupon().map(CouponView::from);
        return Ok(Json(ClaimView {
            claim_id: Some(claim_id),
            status,
            coupon,
        })
        .into_response());
    }
    if let Some(refusal) = standing.refusal_at(now) {
        return Err(Problem::conflict(refusal.as_str(), reason(refusal)));
    }
    let claim = Claim {
        claim_id: claim_id.clone(),
        partner_id: partner,
        campaign_id: standing.campaign.campaign_id,
        user_id,
        requested_at: now,
        sent_at: now,
        connection_id: None,
    };
    api.claims.enqueue(&claim).await?;
    let view = ClaimView {
        claim_id: Some(claim_id),
        status: "accepted",
        coupon: None,
    };
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

pub(crate) async fn status<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
) -> Answer {
    let standing = Standing::read(&api, &partner, &ids.campaign()?, &ids.user()?).await?;
    let status = match &standing.coupon {
        Some(_) => Outcome::Issued.as_str(),
        None => standing
            .refusal_at(api.clock.now())
            .map_or("undecided", Outcome::as_str),
    };
    let coupon = standing.coupon.as_ref().map(CouponView::from);
    Ok(Json(ClaimView {
        claim_id: None,
        status,
        coupon,
    })
    .into_response())
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
