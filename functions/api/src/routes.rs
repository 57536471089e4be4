//! The routes, by what they are about; what several of them need is here.

pub(crate) mod broadcasts;
pub(crate) mod campaigns;
pub(crate) mod claims;
pub(crate) mod redemptions;
pub(crate) mod users;
pub(crate) mod wallets;

use axum::response::Response;
use firstcome_core::{
    Campaign, CampaignId, CampaignRecords, Coupon, CouponView, PartnerId, Redemption,
};
use serde::Serialize;

use crate::{
    handler::{Api, Ports},
    problem::Problem,
};

/// What a route answers.
type Answer = Result<Response, Problem>;

/// A coupon as its partner sees it: what its holder sees, and, while it is redeemed, its use.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Coupon"))]
pub(crate) struct CouponBody {
    #[serde(flatten)]
    coupon: CouponView,
    #[serde(flatten)]
    redemption: Option<Redemption>,
}

impl From<Coupon> for CouponBody {
    fn from(coupon: Coupon) -> Self {
        Self {
            coupon: CouponView::from(&coupon),
            redemption: coupon.redemption,
        }
    }
}

/// The partner's campaign. Another partner's is as unknown as one that does not exist.
async fn own_campaign<P: Ports>(
    api: &Api<P>,
    partner: &PartnerId,
    id: &CampaignId,
) -> Result<Campaign, Problem> {
    let found = api
        .campaigns
        .find(id)
        .await?
        .filter(|campaign| campaign.partner_id == *partner);
    found.ok_or_else(|| Problem::not_found("there is no such campaign"))
}
