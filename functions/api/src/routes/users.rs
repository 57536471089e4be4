//! What a partner's server does for one user: a ticket for a socket, the list of coupons.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use firstcome_core::{
    DEFAULT_TICKET_SECONDS, PartnerId, Ticket, Timestamp, UserCoupons, UserId, optional_whole,
};
use serde::{Deserialize, Serialize};

use super::{Answer, CouponBody};
use crate::{
    handler::{Api, Ports},
    request::{Body, Cursor, PathIds},
};

/// How many coupons make a page.
const PAGE: u16 = 50;

/// What a ticket is wanted for.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewTicket {
    user_id: UserId,
    /// How long it can be used, in seconds. Default: 60.
    #[cfg_attr(test, schemars(range(min = 10, max = 300)))]
    #[serde(default, deserialize_with = "optional_whole")]
    ttl_seconds: Option<u32>,
}

/// A ticket for one WebSocket connection.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Ticket"))]
#[serde(rename_all = "camelCase")]
pub(crate) struct TicketView {
    /// Goes into the query of the address: `?ticket=`.
    ticket: String,
    /// The first second at which it opens nothing.
    expires_at: Timestamp,
    web_socket_url: String,
}

/// A page of a user's coupons, newest campaign first.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct CouponPage {
    coupons: Vec<CouponBody>,
    /// The cursor of the following page; left out on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
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
    let view = TicketView {
        ticket: api.tickets.sign(&ticket)?,
        expires_at: Timestamp::EPOCH.plus_seconds(ticket.expires_at),
        web_socket_url: api.websocket_url.clone(),
    };
    Ok((StatusCode::CREATED, Json(view)).into_response())
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
    let coupons = page.items.into_iter().map(CouponBody::from).collect();
    let next = page.next.map(|next| api.cursors.close(&of, next.as_str()));
    Ok(Json(CouponPage { coupons, next }).into_response())
}
