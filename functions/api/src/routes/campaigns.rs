//! Campaigns: created, listed, shown and closed by their partner.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use firstcome_core::{
    ANNOUNCE_AHEAD_SECONDS, Announcement, Benefit, BroadcastJob, BroadcastOutbox, CLOSING_PATIENCE,
    Campaign, CampaignCatalog, CampaignId, Creation, Idempotency, NewCampaign, PartnerId, Phase,
    PortError, StockCounters, Timestamp, close_campaign, closed, delay_seconds, opened, sha256_hex,
};
use futures_util::future::try_join_all;
use serde::Serialize;

use super::{Answer, own_campaign};
use crate::{
    handler::{Api, Ports},
    problem::Problem,
    request::{Body, Cursor, PathIds, idempotency_key},
};

/// How many campaigns make a page; each costs a read of its stock.
const PAGE: u16 = 20;

/// A campaign as its partner sees it.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Campaign"))]
#[serde(rename_all = "camelCase")]
pub(crate) struct CampaignView {
    campaign_id: CampaignId,
    partner_id: PartnerId,
    title: String,
    total: u32,
    /// The first instant at which a claim counts.
    opens_at: Timestamp,
    /// The first instant at which a claim no longer counts.
    closes_at: Timestamp,
    /// How long a coupon can be used, in seconds from its issue.
    coupon_ttl_seconds: u32,
    /// What a coupon gives.
    #[serde(
        serialize_with = "Benefit::to_json",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(test, schemars(with = "Option<serde_json::Value>"))]
    benefit: Option<Benefit>,
    phase: Phase,
    /// How many coupons have been issued.
    issued: u32,
    /// How many are left: `total - issued`.
    remaining: u32,
    created_at: Timestamp,
    /// When it was closed early.
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<Timestamp>,
    /// Whether its claims wait in a queue of their own; left out if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    priority: bool,
}

/// A page of campaigns, newest first.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct CampaignPage {
    campaigns: Vec<CampaignView>,
    /// The cursor of the following page; left out on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl CampaignView {
    fn new(campaign: Campaign, issued: u32, remaining: u32, now: Timestamp) -> Self {
        Self {
            phase: campaign.phase(now, remaining == 0),
            campaign_id: campaign.campaign_id,
            partner_id: campaign.partner_id,
            title: campaign.title,
            total: campaign.total,
            opens_at: campaign.opens_at,
            closes_at: campaign.closes_at,
            coupon_ttl_seconds: campaign.coupon_ttl_seconds,
            benefit: campaign.benefit,
            issued,
            remaining,
            created_at: campaign.created_at,
            closed_at: campaign.closed_at,
            priority: campaign.priority,
        }
    }
}

pub(crate) async fn create<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    headers: HeaderMap,
    Body { value, sha256 }: Body<NewCampaign>,
) -> Answer {
    let now = api.clock.now();
    let key = idempotency_key(&headers)?;
    value.validate()?;
    let idempotency = key.map(|key| Idempotency {
        key_sha256: sha256_hex(key.as_str().as_bytes()),
        body_sha256: sha256,
    });
    let id = CampaignId::mint(now, api.entropy.bits());
    let campaign = match value.into_campaign(id, partner.clone(), now) {
        Ok(campaign) => campaign,
        // What was in time when it came first is answered as it was then.
        Err(late) => {
            return Ok(recall(&api, &partner, idempotency, now)
                .await?
                .ok_or(late)?);
        }
    };
    let view = match api.catalog.create(&campaign, idempotency.as_ref()).await? {
        Creation::Mismatch => return Err(Problem::idempotency_mismatch()),
        Creation::Repeated(standing) => view(&api, standing, now).await?,
        Creation::Created => {
            announce(
                &api,
                &[
                    (opened(&campaign), campaign.opens_at),
                    (closed(&campaign), campaign.closes_at),
                ],
                now,
            )
            .await;
            let total = campaign.total;
            CampaignView::new(campaign, 0, total, now)
        }
    };
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// The answer to a creation that is too late for a first time: what the key made before.
async fn recall<P: Ports>(
    api: &Api<P>,
    partner: &PartnerId,
    idempotency: Option<Idempotency>,
    now: Timestamp,
) -> Result<Option<Response>, Problem> {
    let Some(idempotency) = idempotency else {
        return Ok(None);
    };
    match api.catalog.recall(partner, &idempotency, now).await? {
        None => Ok(None),
        Some(Creation::Repeated(standing)) => {
            let view = view(api, standing, now).await?;
            Ok(Some((StatusCode::CREATED, Json(view)).into_response()))
        }
        Some(Creation::Created | Creation::Mismatch) => Err(Problem::idempotency_mismatch()),
    }
}

pub(crate) async fn list<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    cursor: Cursor,
) -> Answer {
    let of = ["campaigns", partner.as_str()];
    let after = api.cursors.open(&of, cursor)?;
    let page = api.catalog.list(&partner, after.as_ref(), PAGE).await?;
    let now = api.clock.now();
    let campaigns = try_join_all(
        page.items
            .into_iter()
            .map(|campaign| view(&api, campaign, now)),
    )
    .await?;
    let next = page.next.map(|next| api.cursors.close(&of, next.as_str()));
    Ok(Json(CampaignPage { campaigns, next }).into_response())
}

pub(crate) async fn show<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
) -> Answer {
    let campaign = own_campaign(&api, &partner, &ids.campaign()?).await?;
    Ok(Json(view(&api, campaign, api.clock.now()).await?).into_response())
}

pub(crate) async fn close<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
) -> Answer {
    let mut campaign = own_campaign(&api, &partner, &ids.campaign()?).await?;
    let closing = close_campaign(&api.campaigns, &campaign, &*api.clock, CLOSING_PATIENCE);
    campaign.closed_at = Some(closing.await?);
    // Sent on a repeat, too: the first closing may have died before it got here, and the id is the same.
    let now = api.clock.now();
    announce(&api, &[(closed(&campaign), campaign.ends_at())], now).await;
    Ok(Json(view(&api, campaign, api.clock.now()).await?).into_response())
}

/// The campaign with its present stock.
async fn view<P: Ports>(
    api: &Api<P>,
    campaign: Campaign,
    now: Timestamp,
) -> Result<CampaignView, PortError> {
    let shards: Vec<u16> = (0..campaign.shards).collect();
    let stock = api.campaigns.stock(&campaign.campaign_id, &shards).await?;
    if stock.len() != shards.len() {
        return Err(PortError::reject(
            "read the stock",
            "a stock shard is missing",
        ));
    }
    let sum = |part: fn(&firstcome_core::StockShard) -> u32| stock.iter().map(part).sum();
    Ok(CampaignView::new(
        campaign,
        sum(|shard| shard.issued),
        sum(|shard| shard.remaining),
        now,
    ))
}

/// Sends those that are due soon; `refresh` sends the later ones, and again what could not be sent here.
async fn announce<P: Ports>(
    api: &Api<P>,
    announcements: &[(Announcement, Timestamp)],
    now: Timestamp,
) {
    let soon = announcements
        .iter()
        .filter(|(_, due)| *due <= now.plus_seconds(ANNOUNCE_AHEAD_SECONDS));
    let jobs: Vec<_> = soon
        .map(|(announcement, due)| {
            (
                BroadcastJob::Announce(announcement.clone()),
                delay_seconds(*due, now),
            )
        })
        .collect();
    if jobs.is_empty() {
        return;
    }
    if let Err(error) = api.broadcasts.send(&jobs).await {
        tracing::warn!(error = %error, cause = %error.source, "announcement left to refresh");
    }
}
