//! What `api` is made of: its ports, its routes by scope, and one summary line per request.

use std::{sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::{MatchedPath, Request},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use firstcome_core::{
    BroadcastOutbox, BroadcastReports, CampaignCatalog, CampaignClosing, CampaignRecords, ClaimId,
    ClaimOutbox, Clock, Entropy, KeyStore, Operations, Redemptions, Scope, SoldMarks,
    StandingCoupons, StockCounters, TicketKey, UserCoupons, WalletBook,
    metric::{self, Metric},
};
use lambda_http::RequestExt;
use serde::Serialize;

use crate::{
    auth::{Gate, admit},
    budget::Budgets,
    problem::{Code, Problem},
    request::CursorSeal,
    routes::{broadcasts, campaigns, claims, redemptions, users, wallets},
};

/// The interface of these routes as OpenAPI 3.1, made from the types they read and write (`openapi.rs`, `make contracts`).
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// A sign of life.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Which adapter stands behind each port.
pub(crate) trait Ports: Send + Sync + 'static {
    type Campaigns: CampaignRecords + StockCounters + SoldMarks + CampaignClosing + Send + Sync;
    type Catalog: CampaignCatalog + BroadcastReports + Send + Sync;
    type Coupons: StandingCoupons + Send + Sync;
    type UserCoupons: UserCoupons + Send + Sync;
    type Redemptions: Redemptions + Send + Sync;
    type Wallets: WalletBook + Operations + Send + Sync;
    type Keys: KeyStore + Send + Sync;
    type Claims: ClaimOutbox + Send + Sync;
    type Broadcasts: BroadcastOutbox + Send + Sync;
}

/// Everything the routes share, built once per cold start.
pub(crate) struct Api<P: Ports> {
    pub(crate) campaigns: P::Campaigns,
    pub(crate) catalog: P::Catalog,
    pub(crate) coupons: P::Coupons,
    pub(crate) user_coupons: P::UserCoupons,
    pub(crate) redemptions: P::Redemptions,
    pub(crate) wallets: P::Wallets,
    pub(crate) budgets: Budgets,
    pub(crate) gate: Gate<P::Keys>,
    pub(crate) claims: P::Claims,
    pub(crate) broadcasts: P::Broadcasts,
    pub(crate) tickets: TicketKey,
    pub(crate) cursors: CursorSeal,
    pub(crate) websocket_url: String,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) entropy: Box<dyn Entropy>,
}

/// The routes. A key and its scope are asked for before anything of the request is read.
pub(crate) fn router<P: Ports>(api: Arc<Api<P>>) -> Router {
    let scoped = |scope: Scope, routes: Router<Arc<Api<P>>>| {
        routes.route_layer(from_fn_with_state((api.clone(), scope), admit::<P>))
    };
    let campaigns = Router::new()
        .route(
            "/v1/campaigns",
            get(campaigns::list).post(campaigns::create),
        )
        .route("/v1/campaigns/{campaignId}", get(campaigns::show))
        .route("/v1/campaigns/{campaignId}/close", post(campaigns::close));
    let claims = Router::new()
        .route("/v1/campaigns/{campaignId}/claims", post(claims::claim))
        .route(
            "/v1/campaigns/{campaignId}/claims/{userId}",
            get(claims::status),
        );
    let broadcasts = Router::new()
        .route("/v1/broadcasts", post(broadcasts::to_partner))
        .route(
            "/v1/campaigns/{campaignId}/broadcasts",
            post(broadcasts::to_campaign),
        )
        .route("/v1/broadcasts/{broadcastId}", get(broadcasts::report));
    let coupons = Router::new()
        .route("/v1/users/{userId}/coupons", get(users::coupons))
        .route(
            "/v1/users/{userId}/coupons/{campaignId}/redemption",
            post(redemptions::redeem).delete(redemptions::roll_back),
        );
    let points = Router::new()
        .route("/v1/users/{userId}/wallet", get(wallets::show))
        .route("/v1/users/{userId}/wallet/entries", get(wallets::entries))
        .route("/v1/users/{userId}/wallet/earn", post(wallets::earn))
        .route("/v1/users/{userId}/wallet/use", post(wallets::spend))
        .route("/v1/transfers", post(wallets::transfer));
    Router::new()
        .merge(scoped(Scope::Campaigns, campaigns))
        .merge(scoped(
            Scope::Tickets,
            Router::new().route("/v1/tickets", post(users::ticket)),
        ))
        .merge(scoped(Scope::Claims, claims))
        .merge(scoped(Scope::Coupons, coupons))
        .merge(scoped(Scope::Points, points))
        .merge(scoped(Scope::Broadcasts, broadcasts))
        .route("/healthz", get(async || Json(Health { status: "ok" })))
        .route(
            "/openapi.json",
            get(async || ([(CONTENT_TYPE, "application/json")], OPENAPI)),
        )
        .fallback(async || Problem::not_found("there is no such route"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "the route has no such method",
            )
        })
        .layer(from_fn(summarize))
        .with_state(api)
}

/// Logs the route, never the path: a path holds user ids.
async fn summarize(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let request_id = request
        .lambda_context_ref()
        .map_or_else(String::new, |context| context.request_id.clone());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none".into(), |path| path.as_str().to_owned());
    let response = next.run(request).await.into_response();
    let code = response
        .extensions()
        .get::<Code>()
        .map_or("", |code| code.0);
    let (status, duration_ms) = (
        response.status().as_u16(),
        started.elapsed().as_millis() as u64,
    );
    let claim_id = response
        .extensions()
        .get::<ClaimId>()
        .map(tracing::field::display);
    tracing::info!(http.method = %method, http.route = route, http.status = status, duration_ms, problem.code = code, claim.id = claim_id, "request answered");
    metric::count(Metric::ApiRequests, 1);
    metric::count(Metric::ApiRefused, (400..500).contains(&status).into());
    metric::count(Metric::ApiFailed, (status >= 500).into());
    metric::flush(&request_id);
    response
}

#[cfg(test)]
mod tests;
