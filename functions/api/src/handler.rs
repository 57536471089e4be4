//! What `api` is made of: its ports and its routes.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{MatchedPath, Request},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
    routing::{MethodRouter, get, post},
};
use firstcome_core::{
    BroadcastOutbox, BroadcastReports, CampaignCatalog, CampaignClosing, CampaignRecords,
    ClaimOutbox, Clock, Entropy, KeyStore, Operations, Redemptions, Scope, SoldMarks,
    StandingCoupons, StockCounters, TicketKey, UserCoupons, WalletBook,
};
use serde::Serialize;

use crate::{
    auth::{Gate, admit},
    budget::Budgets,
    problem::Problem,
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

/// One route.
pub(crate) struct Route<P: Ports> {
    /// Its path, with the names of its parameters.
    pub(crate) path: &'static str,
    /// What a key must be good for; `None` if it needs no key.
    scope: Option<Scope>,
    methods: MethodRouter<Arc<Api<P>>>,
}

/// Every route there is. The router, the judge of paths and the hostile paths of the tests are made from this list.
pub(crate) fn routes<P: Ports>() -> Vec<Route<P>> {
    let open = |path, methods| Route {
        path,
        scope: None,
        methods,
    };
    let of = |scope, path, methods| Route {
        scope: Some(scope),
        ..open(path, methods)
    };
    vec![
        of(
            Scope::Campaigns,
            "/v1/campaigns",
            get(campaigns::list).post(campaigns::create),
        ),
        of(
            Scope::Campaigns,
            "/v1/campaigns/{campaignId}",
            get(campaigns::show),
        ),
        of(
            Scope::Campaigns,
            "/v1/campaigns/{campaignId}/close",
            post(campaigns::close),
        ),
        of(Scope::Tickets, "/v1/tickets", post(users::ticket)),
        of(
            Scope::Claims,
            "/v1/campaigns/{campaignId}/claims",
            post(claims::claim),
        ),
        of(
            Scope::Claims,
            "/v1/campaigns/{campaignId}/claims/{userId}",
            get(claims::status),
        ),
        of(
            Scope::Broadcasts,
            "/v1/broadcasts",
            post(broadcasts::to_partner),
        ),
        of(
            Scope::Broadcasts,
            "/v1/campaigns/{campaignId}/broadcasts",
            post(broadcasts::to_campaign),
        ),
        of(
            Scope::Broadcasts,
            "/v1/broadcasts/{broadcastId}",
            get(broadcasts::report),
        ),
        of(
            Scope::Coupons,
            "/v1/users/{userId}/coupons",
            get(users::coupons),
        ),
        of(
            Scope::Coupons,
            "/v1/users/{userId}/coupons/{campaignId}/redemption",
            post(redemptions::redeem).delete(redemptions::roll_back),
        ),
        of(
            Scope::Points,
            "/v1/users/{userId}/wallet",
            get(wallets::show),
        ),
        of(
            Scope::Points,
            "/v1/users/{userId}/wallet/entries",
            get(wallets::entries),
        ),
        of(
            Scope::Points,
            "/v1/users/{userId}/wallet/earn",
            post(wallets::earn),
        ),
        of(
            Scope::Points,
            "/v1/users/{userId}/wallet/use",
            post(wallets::spend),
        ),
        of(Scope::Points, "/v1/transfers", post(wallets::transfer)),
        open("/healthz", get(async || Json(Health { status: "ok" }))),
        open(
            "/openapi.json",
            get(async || ([(CONTENT_TYPE, "application/json")], OPENAPI)),
        ),
    ]
}

/// Serves the routes. A key and its scope are asked for before anything of the request is read.
pub(crate) fn router<P: Ports>(api: Arc<Api<P>>) -> Router {
    let with = |router: Router<Arc<Api<P>>>, route: Route<P>| {
        let methods = match route.scope {
            Some(scope) => {
                let admit = from_fn_with_state((api.clone(), scope), admit::<P>);
                route.methods.route_layer(admit)
            }
            None => route.methods,
        };
        router.route(route.path, methods)
    };
    let served = routes().into_iter().fold(Router::new(), with);
    served
        .fallback(async || Problem::not_found("there is no such route"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "the route has no such method",
            )
        })
        .layer(from_fn(name_route))
        .with_state(api)
}

/// Leaves the route's path on the response, for the summary line.
async fn name_route(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}

#[cfg(test)]
pub(crate) mod tests;
