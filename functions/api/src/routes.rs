//! The routes, by what they are about; what several of them need is here.

pub(crate) mod broadcasts;
pub(crate) mod campaigns;
pub(crate) mod claims;
pub(crate) mod users;

use axum::response::Response;
use firstcome_core::{Campaign, CampaignId, CampaignRecords, PartnerId};

use crate::{
    handler::{Api, Ports},
    problem::Problem,
};

/// What a route answers.
type Answer = Result<Response, Problem>;

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
