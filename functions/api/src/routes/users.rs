//! What a partner's server does for one user: a ticket for a socket, the list of coupons.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use firstcome_core::{DEFAULT_TICKET_SECONDS, PartnerId, Ticket, Timestamp, UserCoupons, UserId};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, CouponBody};
use crate::{
    handler::{Api, Ports},
    request::{Body, Cursor, PathIds},
};

/// How many coupons make a page.
const PAGE: u16 = 50;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewTicket {
    user_id: UserId,
    ttl_seconds: Option<u32>,
}

pub(crate) async fn ticket<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    Body {
        value: NewTicket {
            user_id,
            ttl_seconds,
        },
        ..
    }: Body<NewTicket>,
) -> Answer {
    let ttl_seconds = ttl_seconds.unwrap_or(DEFAULT_TICKET_SECONDS);
    let ticket = Ticket::new(
        partner,
        user_id,
        ttl_seconds,
        api.clock.now(),
        api.entropy.bits(),
    )?;
    let body = json!({
        "ticket": api.tickets.sign(&ticket)?,
        "expiresAt": Timestamp::EPOCH.plus_seconds(ticket.expires_at),
        "webSocketUrl": api.websocket_url,
    });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

pub(crate) async fn coupons<P: Ports>(
    State(api): State<Arc<Api<P>>>,
    Extension(partner): Extension<PartnerId>,
    ids: PathIds,
    cursor: Cursor,
) -> Answer {
    let user = ids.user()?;
    let of = ["coupons", partner.as_str(), user.as_str()];
    let after = api.cursors.open(&of, cursor)?;
    let page = api
        .user_coupons
        .coupons_of(&partner, &user, after.as_ref(), PAGE)
        .await?;
    let coupons: Vec<CouponBody> = page.items.into_iter().map(CouponBody::from).collect();
    let mut body = json!({ "coupons": coupons });
    if let Some(next) = &page.next {
        body["next"] = api.cursors.close(&of, next.as_str()).into();
    }
    Ok(Json(body).into_response())
}
