//! A partner's words to everybody who listens, and how far they got.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use firstcome_core::{
    Announcement, AnnouncementKind, BroadcastId, BroadcastJob, BroadcastOutbox, BroadcastReports,
    CampaignId, FrameBody, Idempotency, InvalidValue, Opening, PartnerId, ReportRecord,
    ServerFrame, Topic, sha256_hex,
};
use serde::{Deserialize, Serialize};

use super::{Answer, own_campaign};
use crate::{
    handler::{Api, Ports},
    problem::Problem,
    request::{Body, PathIds, idempotency_key},
};

/// The longest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 4096;

/// A partner's words.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct NewBroadcast {
    /// At most 4096 bytes in UTF-8.
    #[cfg_attr(test, schemars(length(min = 1, max = MAX_MESSAGE_BYTES)))]
    message: String,
}

/// The words are on their way.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct BroadcastAccepted {
    broadcast_id: BroadcastId,
}

pub(crate) async fn to_partner<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    headers: HeaderMap,
    body: Body<NewBroadcast>,
) -> Answer {
    send(&api, partner, None, &headers, body).await
}

pub(crate) async fn to_campaign<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
    headers: HeaderMap,
    body: Body<NewBroadcast>,
) -> Answer {
    let campaign = own_campaign(&api, &partner, &ids.campaign()?)
        .await?
        .campaign_id;
    send(&api, partner, Some(campaign), &headers, body).await
}

pub(crate) async fn report<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
) -> Answer {
    let found = api
        .catalog
        .report(&ids.broadcast()?, api.clock.now())
        .await?
        .filter(|report| report.partner_id == partner);
    let report = found.ok_or_else(|| Problem::not_found("there is no such broadcast"))?;
    Ok(Json(report).into_response())
}

async fn send<P: Ports>(
    api: &Api<P>,
    partner: PartnerId,
    campaign: Option<CampaignId>,
    headers: &HeaderMap,
    Body {
        value: NewBroadcast { message },
        sha256,
    }: Body<NewBroadcast>,
) -> Answer {
    if !(1..=MAX_MESSAGE_BYTES).contains(&message.len()) {
        return Err(InvalidValue {
            field: "message",
            expected: "1 to 4096 bytes",
        }
        .into());
    }
    let topic = campaign
        .clone()
        .map_or(Topic::Partner(partner.clone()), Topic::Campaign);
    let idempotency = idempotency_key(headers)?.map(|key| Idempotency {
        key_sha256: sha256_hex(key.as_str().as_bytes()),
        body_sha256: sha256_hex(format!("{topic}\n{sha256}").as_bytes()),
    });
    let id = BroadcastId::derived(&["broadcast", &api.entropy.bits().to_string()]);
    let asked = ReportRecord {
        partner_id: partner.clone(),
        topic: topic.clone(),
        kind: Some(AnnouncementKind::Message),
        created_at: api.clock.now(),
        fanned_out: false,
    };
    let opening = api.catalog.open(&id, &asked, idempotency.as_ref());
    let Opening::Standing(id, standing) = opening.await? else {
        return Err(Problem::idempotency_mismatch());
    };
    // Sent again on a repeat: the first try may have died between the record and the queue.
    if !standing.fanned_out {
        let announcement = Announcement {
            broadcast_id: id.clone(),
            partner_id: partner,
            topic,
            kind: AnnouncementKind::Message,
            frame: ServerFrame {
                id: id.to_string(),
                body: FrameBody::Broadcast {
                    message,
                    campaign_id: campaign,
                },
            },
            due_at: None,
            void_at: None,
        };
        api.broadcasts
            .send(&[(BroadcastJob::Announce(announcement), 0)])
            .await?;
    }
    Ok((
        StatusCode::ACCEPTED,
        Json(BroadcastAccepted { broadcast_id: id }),
    )
        .into_response())
}
