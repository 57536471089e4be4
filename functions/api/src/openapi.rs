//! The OpenAPI document of the routes, made from the types they read and write. Compiled for tests only: they hold
//! `openapi.json`, which the function serves as it is, to this table, and every answer of a handler test to that file.

use std::{collections::BTreeMap, sync::OnceLock};

use axum::http::{HeaderMap, StatusCode};
use firstcome_core::{
    BroadcastId, BroadcastReport, CampaignId, Entry, NewCampaign, OrderId, Scope, UserId, schema,
};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::{
    handler::{Health, OPENAPI},
    problem::ProblemBody,
    routes::{
        CouponBody,
        broadcasts::{BroadcastAccepted, NewBroadcast},
        campaigns::{CampaignPage, CampaignView},
        claims::{ClaimView, NewClaim, StandingView},
        redemptions::NewRedemption,
        users::{CouponPage, NewTicket, TicketView},
        wallets::{EntriesView, NewEarning, NewSpending, NewTransfer, WalletView},
    },
};

/// Where the document refers to types.
const SCHEMAS: &str = "/components/schemas";

const ABOUT: &str = "First-come-first-served coupons: what a partner's server calls. Unknown members of a body are \
ignored; points in time are RFC 3339 in UTC; ids are opaque; amounts are whole numbers. Errors are problems (RFC 9457) with \
a stable `code`. What another partner owns is as unknown as what does not exist. An `Idempotency-Key` names a request for a \
day: the same request again is answered as it was, another one under the same key with 422. A path that is no route answers \
404 `not_found`, a method that a route has not 405 `method_not_allowed` with `Allow`. The gateway in front may answer 429 \
or 503 of its own, without a problem document.

Refuse an id that does not match its parameter's schema before it becomes a part of a URL. A valid id never needs \
percent-encoding, and encoding an invalid one does not make it safe: the gateway decodes a path before it is routed, so that \
`%2F` becomes `/` and `%3F` ends the path, and one route can become another.";

/// A kind of refusal: a status, and the codes it comes with.
struct Refusal {
    name: &'static str,
    status: u16,
    codes: &'static [&'static str],
    says: &'static str,
    /// Whether `Retry-After` comes along: `Some(true)` always, `Some(false)` with some of the codes.
    retry_after: Option<bool>,
}

impl Refusal {
    const fn new(
        name: &'static str,
        status: u16,
        codes: &'static [&'static str],
        says: &'static str,
    ) -> Self {
        Self {
            name,
            status,
            codes,
            says,
            retry_after: None,
        }
    }

    const fn passing(self, always: bool) -> Self {
        Self {
            retry_after: Some(always),
            ..self
        }
    }
}

const MALFORMED: Refusal = Refusal::new(
    "Malformed",
    400,
    &["malformed"],
    "`field` names what is malformed.",
);
const UNAUTHORIZED: Refusal = Refusal::new(
    "Unauthorized",
    401,
    &["unauthorized"],
    "No key, or one that is unknown, revoked or expired.",
);
const FORBIDDEN: Refusal =
    Refusal::new("Forbidden", 403, &["forbidden"], "The key lacks the scope.");
const NOT_FOUND: Refusal = Refusal::new(
    "NotFound",
    404,
    &["not_found"],
    "Unknown, or another partner's.",
);
const TOO_LARGE: Refusal = Refusal::new("TooLarge", 413, &["too_large"], "The body is over 8 KB.");
const MISMATCH: Refusal = Refusal::new(
    "Mismatch",
    422,
    &["idempotency_mismatch"],
    "The `Idempotency-Key` came before with another request.",
);
const TOO_MANY: Refusal = Refusal::new(
    "TooManyRequests",
    429,
    &["too_many_requests"],
    "Come again after `Retry-After` seconds.",
)
.passing(true);
const INTERNAL: Refusal = Refusal::new(
    "Internal",
    500,
    &["internal"],
    "The request failed on the service's side.",
);
const UNAVAILABLE: Refusal = Refusal::new(
    "Unavailable",
    503,
    &["unavailable"],
    "Come again after `Retry-After` seconds; nothing is known to have been done.",
)
.passing(true);
const NOT_CLAIMABLE: Refusal = Refusal::new(
    "NotClaimable",
    409,
    &["not_open", "closed", "sold_out"],
    "No coupon stands, and the campaign issues none now.",
);
const NOT_REDEEMABLE: Refusal = Refusal::new(
    "NotRedeemable",
    409,
    &[
        "already_redeemed",
        "wrong_code",
        "coupon_expired",
        "balance_limit",
        "too_many_lots",
    ],
    "Redeemed for another order, or not redeemable; or its points do not fit the wallet.",
);
const NOT_ROLLED_BACK: Refusal = Refusal::new(
    "NotRolledBack",
    409,
    &["already_redeemed", "insufficient_points", "too_many_lots"],
    "Redeemed for another order; or the points it credited are spent.",
);
const NOT_EARNED: Refusal = Refusal::new(
    "NotEarned",
    409,
    &["in_progress", "balance_limit", "too_many_lots"],
    "The points do not fit the wallet; or the same request is still being carried out (`Retry-After`).",
)
.passing(false);
const NOT_SPENT: Refusal = Refusal::new(
    "NotSpent",
    409,
    &["in_progress", "insufficient_points", "too_many_lots"],
    "Too few points; or the same request is still being carried out (`Retry-After`).",
)
.passing(false);
const NOT_MOVED: Refusal = Refusal::new(
    "NotMoved",
    409,
    &["in_progress", "insufficient_points", "balance_limit", "too_many_lots"],
    "Too few points, or too many for the other wallet; or the same request is still being carried out (`Retry-After`).",
)
.passing(false);

/// The types as schemas of the document. Those that come in are described as they are read, those that go out as they
/// are written; what does both, such as an id, is the same either way.
struct Types {
    reading: SchemaGenerator,
    writing: SchemaGenerator,
}

impl Types {
    fn new() -> Self {
        let of = |mut settings: schemars::generate::SchemaSettings| {
            settings.definitions_path = SCHEMAS.into();
            settings.into_generator()
        };
        Self {
            reading: of(schema::reading()),
            writing: of(schema::writing()),
        }
    }

    fn body<T: JsonSchema>(&mut self) -> Value {
        self.reading.subschema_for::<T>().to_value()
    }

    fn answer<T: JsonSchema>(&mut self) -> Value {
        self.writing.subschema_for::<T>().to_value()
    }

    fn all(&mut self) -> Map<String, Value> {
        let mut all = self.writing.take_definitions(true);
        for (name, schema) in self.reading.take_definitions(true) {
            if let Some(written) = all.get(&name) {
                assert_eq!(*written, schema, "{name} is read and written differently");
            }
            all.insert(name, schema);
        }
        all
    }
}

struct Operation {
    method: &'static str,
    path: &'static str,
    document: Map<String, Value>,
    refusals: Vec<&'static Refusal>,
}

/// An operation of these routes' own manners: a key, its scope, and what follows from it.
fn operation(
    method: &'static str,
    path: &'static str,
    scope: Scope,
    id: &str,
    summary: &str,
) -> Operation {
    let mut operation = public(method, path, id, summary);
    operation
        .document
        .insert("tags".into(), json!([scope.as_str()]));
    operation.document.insert(
        "description".into(),
        format!("Needs a key with the scope `{}`.", scope.as_str()).into(),
    );
    operation
        .document
        .insert("security".into(), json!([{"apiKey": [scope.as_str()]}]));
    operation.refusals.extend([
        &UNAUTHORIZED,
        &FORBIDDEN,
        &TOO_MANY,
        &INTERNAL,
        &UNAVAILABLE,
    ]);
    let ids: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
    let ids = ids
        .iter()
        .map(|id| json!({"$ref": format!("#/components/parameters/{id}")}));
    let ids: Vec<Value> = ids.collect();
    if !ids.is_empty() {
        operation.document.insert("parameters".into(), ids.into());
        operation.refusals.push(&NOT_FOUND);
    }
    operation
}

/// An operation that needs no key.
fn public(method: &'static str, path: &'static str, id: &str, summary: &str) -> Operation {
    let document = json!({"operationId": id, "summary": summary, "security": [], "responses": {}});
    Operation {
        method,
        path,
        document: document.as_object().cloned().unwrap(),
        // A path, a query or a header may be malformed whatever is asked for.
        refusals: vec![&MALFORMED],
    }
}

impl Operation {
    fn parameter(mut self, name: &str, refusals: &[&'static Refusal]) -> Self {
        let parameters = self.document.entry("parameters").or_insert(json!([]));
        let reference = json!({"$ref": format!("#/components/parameters/{name}")});
        parameters.as_array_mut().unwrap().push(reference);
        self.refused(refusals).refused(&[&MALFORMED])
    }

    fn body(mut self, schema: Value, example: Value) -> Self {
        let content = json!({"application/json": {"schema": schema, "example": example}});
        let body = json!({"required": true, "content": content});
        self.document.insert("requestBody".into(), body);
        self.refused(&[&MALFORMED, &TOO_LARGE])
    }

    fn answer(mut self, status: u16, says: &str, schema: Value, example: Value) -> Self {
        let content = json!({"application/json": {"schema": schema, "example": example}});
        self.document["responses"][status.to_string()] =
            json!({"description": says, "content": content});
        self
    }

    fn refused(mut self, refusals: &[&'static Refusal]) -> Self {
        for refusal in refusals {
            if !self.refusals.iter().any(|known| known.name == refusal.name) {
                self.refusals.push(refusal);
            }
        }
        self
    }
}

/// Every operation there is.
fn operations(types: &mut Types) -> Vec<Operation> {
    let mut all = about_campaigns(types);
    all.extend(about_claims(types));
    all.extend(about_broadcasts(types));
    all.extend(about_coupons(types));
    all.extend(about_points(types));
    all.push(
        public(
            "get",
            "/healthz",
            "getHealth",
            "Tell whether the API answers",
        )
        .answer(
            200,
            "It does.",
            types.answer::<Health>(),
            json!({"status": "ok"}),
        ),
    );
    let document = json!({"type": "object", "properties": {"openapi": {"const": "3.1.0"}}, "required": ["openapi"]});
    all.push(
        public("get", "/openapi.json", "getInterface", "Show this document").answer(
            200,
            "This document.",
            document,
            json!({"openapi": "3.1.0"}),
        ),
    );
    all
}

const CAMPAIGN: &str = "01KSR4Q5ACF3P2V7WM8X9NYBTD";

fn campaign() -> Value {
    json!({
        "campaignId": CAMPAIGN, "partnerId": "acme", "title": "Free coffee", "total": 300,
        "opensAt": "2026-12-01T09:00:00Z", "closesAt": "2026-12-31T09:00:00Z", "couponTtlSeconds": 2_592_000,
        "benefit": {"percent": 10}, "phase": "scheduled", "issued": 0, "remaining": 300,
        "createdAt": "2026-11-21T09:00:00Z",
    })
}

fn coupon() -> Value {
    json!({
        "code": "7Q4M2X9KJ5V8T3NB", "campaignId": CAMPAIGN, "issuedAt": "2026-12-01T09:00:01Z",
        "expiresAt": "2026-12-31T09:00:01Z",
    })
}

fn redeemed() -> Value {
    let mut coupon = coupon();
    coupon["redeemedAt"] = json!("2026-12-02T10:00:00Z");
    coupon["orderId"] = json!("order-1");
    coupon
}

fn entry() -> Value {
    json!({
        "entryId": "01KSR4Q5ACF3P2V7WM8X9NYBTE", "type": "earn", "amount": 500, "balance": 500,
        "createdAt": "2026-12-02T10:00:00Z", "reason": "first visit",
        "lots": [{"lotId": "01KSR4Q5ACF3P2V7WM8X9NYBTE", "amount": 500, "expiresAt": "2030-01-01T00:00:00Z"}],
    })
}

fn about_campaigns(types: &mut Types) -> Vec<Operation> {
    let of = |method, path, id, summary| operation(method, path, Scope::Campaigns, id, summary);
    let closed = || {
        let mut campaign = campaign();
        campaign["phase"] = json!("closed");
        campaign["closedAt"] = json!("2026-12-02T10:00:00Z");
        campaign
    };
    vec![
        of("post", "/v1/campaigns", "createCampaign", "Create a campaign")
            .parameter("Idempotency-Key", &[&MISMATCH])
            .body(
                types.body::<NewCampaign>(),
                json!({"title": "Free coffee", "total": 300, "opensAt": "2030-12-01T09:00:00Z", "benefit": {"percent": 10}}),
            )
            .answer(201, "The campaign; the same one for a repeated `Idempotency-Key`.", types.answer::<CampaignView>(), campaign()),
        of("get", "/v1/campaigns", "listCampaigns", "List the campaigns, newest first")
            .parameter("cursor", &[])
            .answer(200, "One page.", types.answer::<CampaignPage>(), json!({"campaigns": [campaign()]})),
        of("get", "/v1/campaigns/{campaignId}", "getCampaign", "Show a campaign with its present stock")
            .answer(200, "The campaign.", types.answer::<CampaignView>(), campaign()),
        of("post", "/v1/campaigns/{campaignId}/close", "closeCampaign", "Close a campaign early, for good")
            .answer(200, "Closed, now or before. Nothing is issued any more.", types.answer::<CampaignView>(), closed()),
        operation("post", "/v1/tickets", Scope::Tickets, "createTicket", "Get a ticket for one WebSocket connection")
            .body(types.body::<NewTicket>(), json!({"userId": "user-1", "ttlSeconds": 60}))
            .answer(
                201,
                "The ticket.",
                types.answer::<TicketView>(),
                json!({"ticket": "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl", "expiresAt": "2026-12-01T09:01:00Z", "webSocketUrl": "wss://socket.example.com/live"}),
            ),
    ]
}

fn about_claims(types: &mut Types) -> Vec<Operation> {
    vec![
        operation(
            "post",
            "/v1/campaigns/{campaignId}/claims",
            Scope::Claims,
            "claim",
            "Claim a coupon for a user",
        )
        .body(
            types.body::<NewClaim>(),
            json!({"userId": "user-1", "claimId": "claim-1"}),
        )
        .answer(
            202,
            "Accepted: ask for the standing, or listen on a socket.",
            types.answer::<ClaimView>(),
            json!({"claimId": "claim-1", "status": "accepted"}),
        )
        .answer(
            200,
            "The user's coupon stands.",
            types.answer::<ClaimView>(),
            json!({"claimId": "claim-1", "status": "issued", "coupon": coupon()}),
        )
        .refused(&[&NOT_CLAIMABLE]),
        operation(
            "get",
            "/v1/campaigns/{campaignId}/claims/{userId}",
            Scope::Claims,
            "getClaim",
            "Ask what became of a user's claim",
        )
        .answer(
            200,
            "What stands.",
            types.answer::<StandingView>(),
            json!({"status": "issued", "coupon": coupon()}),
        ),
    ]
}

fn about_broadcasts(types: &mut Types) -> Vec<Operation> {
    let of = |method, path, id, summary| operation(method, path, Scope::Broadcasts, id, summary);
    let words = json!({"message": "Ten minutes left"});
    let id = "5b0f3a9c2d7e48f1a6c4e0d2b9871f35";
    let accepted = "On its way; the same broadcast for a repeated `Idempotency-Key`.";
    vec![
        of(
            "post",
            "/v1/broadcasts",
            "broadcast",
            "Tell every connected user",
        )
        .parameter("Idempotency-Key", &[&MISMATCH])
        .body(types.body::<NewBroadcast>(), words.clone())
        .answer(
            202,
            accepted,
            types.answer::<BroadcastAccepted>(),
            json!({"broadcastId": id}),
        ),
        of(
            "post",
            "/v1/campaigns/{campaignId}/broadcasts",
            "broadcastCampaign",
            "Tell every user who watches the campaign",
        )
        .parameter("Idempotency-Key", &[&MISMATCH])
        .body(types.body::<NewBroadcast>(), words)
        .answer(
            202,
            accepted,
            types.answer::<BroadcastAccepted>(),
            json!({"broadcastId": id}),
        ),
        of(
            "get",
            "/v1/broadcasts/{broadcastId}",
            "getBroadcast",
            "Ask how far a broadcast has come",
        )
        .answer(
            200,
            "The report so far; `seen` is `sent + gone + failed`.",
            types.answer::<BroadcastReport>(),
            json!({
                "status": "finished", "seen": 1000, "sent": 990, "gone": 10, "failed": 0,
                "startedAt": "2026-12-01T09:00:00Z", "finishedAt": "2026-12-01T09:00:02Z",
            }),
        ),
    ]
}

fn about_coupons(types: &mut Types) -> Vec<Operation> {
    let of = |method, path, id, summary| operation(method, path, Scope::Coupons, id, summary);
    let redemption = "/v1/users/{userId}/coupons/{campaignId}/redemption";
    vec![
        of(
            "get",
            "/v1/users/{userId}/coupons",
            "listCoupons",
            "List a user's coupons, newest campaign first",
        )
        .parameter("cursor", &[])
        .answer(
            200,
            "One page.",
            types.answer::<CouponPage>(),
            json!({"coupons": [coupon(), redeemed()]}),
        ),
        of(
            "post",
            redemption,
            "redeemCoupon",
            "Redeem a coupon for an order, once and only once",
        )
        .body(
            types.body::<NewRedemption>(),
            json!({"orderId": "order-1", "code": "7Q4M2X9KJ5V8T3NB"}),
        )
        .answer(
            200,
            "Redeemed for this order, now or before.",
            types.answer::<CouponBody>(),
            redeemed(),
        )
        .refused(&[&NOT_REDEEMABLE]),
        of(
            "delete",
            redemption,
            "rollBackRedemption",
            "Make a redeemed coupon usable again",
        )
        .parameter("orderId", &[])
        .answer(
            200,
            "Not redeemed, now or before.",
            types.answer::<CouponBody>(),
            coupon(),
        )
        .refused(&[&NOT_ROLLED_BACK]),
    ]
}

fn about_points(types: &mut Types) -> Vec<Operation> {
    let of = |method, path, id, summary| operation(method, path, Scope::Points, id, summary);
    let done = "The ledger's entry; the same one for a repeat.";
    let used = || {
        let mut entry = entry();
        entry["type"] = json!("use");
        (entry["amount"], entry["balance"]) = (json!(-500), json!(0));
        entry
    };
    let moved = || {
        let mut entry = used();
        entry["type"] = json!("transfer_out");
        entry["counterpart"] = json!("user-2");
        entry
    };
    vec![
        of("get", "/v1/users/{userId}/wallet", "getWallet", "Show a user's points").answer(
            200,
            "The wallet.",
            types.answer::<WalletView>(),
            json!({"balance": 500, "expiringNext": {"amount": 500, "expiresAt": "2030-01-01T00:00:00Z"}}),
        ),
        of("get", "/v1/users/{userId}/wallet/entries", "listEntries", "List a wallet's ledger, newest entry first")
            .parameter("cursor", &[])
            .answer(200, "One page.", types.answer::<EntriesView>(), json!({"entries": [entry()]})),
        of("post", "/v1/users/{userId}/wallet/earn", "earnPoints", "Give a user points")
            .parameter("RequiredIdempotencyKey", &[&MISMATCH])
            .body(types.body::<NewEarning>(), json!({"amount": 500, "expiresAt": "2030-01-01T00:00:00Z", "reason": "first visit"}))
            .answer(200, done, types.answer::<Entry>(), entry())
            .refused(&[&NOT_EARNED]),
        of("post", "/v1/users/{userId}/wallet/use", "usePoints", "Spend a user's points, earliest expiry first")
            .parameter("RequiredIdempotencyKey", &[&MISMATCH])
            .body(types.body::<NewSpending>(), json!({"amount": 500, "reason": "coffee"}))
            .answer(200, done, types.answer::<Entry>(), used())
            .refused(&[&NOT_SPENT]),
        of("post", "/v1/transfers", "transferPoints", "Move points from one user to another")
            .parameter("RequiredIdempotencyKey", &[&MISMATCH])
            .body(types.body::<NewTransfer>(), json!({"fromUserId": "user-1", "toUserId": "user-2", "amount": 500}))
            .answer(200, "The giver's entry; the same one for a repeat.", types.answer::<Entry>(), moved())
            .refused(&[&NOT_MOVED]),
    ]
}

fn parameters(types: &mut Types) -> Value {
    // Visible ASCII and blanks; HTTP strips the outer blanks.
    let key = json!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"});
    let in_path = |name: &str, schema: Value, example: &str| json!({"name": name, "in": "path", "required": true, "schema": schema, "example": example});
    json!({
        "campaignId": in_path("campaignId", types.body::<CampaignId>(), CAMPAIGN),
        "userId": in_path("userId", types.body::<UserId>(), "user-1"),
        "broadcastId": in_path("broadcastId", types.body::<BroadcastId>(), "5b0f3a9c2d7e48f1a6c4e0d2b9871f35"),
        "orderId": {
            "name": "orderId", "in": "query", "required": true, "schema": types.body::<OrderId>(),
            "description": "The order that the coupon was redeemed for.", "example": "order-1",
        },
        "cursor": {
            "name": "cursor", "in": "query", "schema": {"type": "string"},
            "description": "The `next` of an earlier page of the same list; anything else is malformed.",
        },
        "Idempotency-Key": {
            "name": "Idempotency-Key", "in": "header", "schema": key, "example": "order-1-earn",
            "description": "Makes a repeat harmless.",
        },
        "RequiredIdempotencyKey": {
            "name": "Idempotency-Key", "in": "header", "required": true, "schema": key, "example": "order-1-earn",
            "description": "Makes a repeat harmless: it gets the first one's answer.",
        },
    })
}

fn response(refusal: &Refusal, problem: &Value) -> Value {
    let codes = json!({"properties": {"status": {"const": refusal.status}, "code": {"enum": refusal.codes}}});
    let mut schema = json!({"allOf": [problem, codes]});
    if refusal.name == "Malformed" {
        schema["required"] = json!(["field"]);
    }
    let status = StatusCode::from_u16(refusal.status).unwrap();
    let mut example = json!({
        "type": "about:blank", "title": status.canonical_reason(), "status": refusal.status,
        "code": refusal.codes[0], "detail": refusal.says,
    });
    if refusal.name == "Malformed" {
        example["field"] = json!("userId");
    }
    let codes: Vec<String> = refusal
        .codes
        .iter()
        .map(|code| format!("`{code}`"))
        .collect();
    let mut response = json!({
        "description": format!("{}. {}", codes.join(", "), refusal.says),
        "content": {"application/problem+json": {"schema": schema, "example": example}},
    });
    if let Some(always) = refusal.retry_after {
        let seconds = json!({"type": "integer", "minimum": 1});
        response["headers"] = json!({"Retry-After": {
            "description": "In seconds.", "required": always, "schema": seconds, "example": 1,
        }});
    }
    response
}

/// The document.
pub(crate) fn document() -> Value {
    let mut types = Types::new();
    let (mut paths, mut responses) = (json!({}), BTreeMap::new());
    let operations = operations(&mut types);
    let problem = types.answer::<ProblemBody>();
    for mut operation in operations {
        operation.refusals.sort_by_key(|refusal| refusal.status);
        for refusal in &operation.refusals {
            let reference = json!({"$ref": format!("#/components/responses/{}", refusal.name)});
            operation.document["responses"][refusal.status.to_string()] = reference;
            responses.insert(refusal.name, response(refusal, &problem));
        }
        paths[operation.path][operation.method] = operation.document.into();
    }
    let scopes: Vec<Value> = Scope::ALL
        .iter()
        .map(|scope| json!({"name": scope.as_str(), "description": format!("Operations that need the scope `{}`.", scope.as_str())}))
        .collect();
    let parameters = parameters(&mut types);
    json!({
        "openapi": "3.1.0",
        "info": {"title": "firstcome", "version": "1", "description": ABOUT, "license": {"name": "MIT OR Apache-2.0"}},
        "tags": scopes,
        "paths": paths,
        "components": {
            "securitySchemes": {"apiKey": {
                "type": "apiKey", "in": "header", "name": "X-API-Key",
                "description": "A partner's key, as `firstcome partner create` shows it once. Each operation names the scope it needs.",
            }},
            "parameters": parameters,
            "responses": responses,
            "schemas": types.all(),
        },
    })
}

/// The document as it is served.
pub(crate) fn served() -> &'static Value {
    static SERVED: OnceLock<Value> = OnceLock::new();
    SERVED.get_or_init(|| serde_json::from_str(OPENAPI).unwrap())
}

/// The operation that answers such a request, if there is one.
pub(crate) fn operation_of(method: &str, path: &str) -> Option<&'static Value> {
    let is_of = |template: &str| {
        let (asked, known) = (path.split('/'), template.split('/'));
        asked.clone().count() == known.clone().count()
            && asked
                .zip(known)
                .all(|(asked, known)| known.starts_with('{') || asked == known)
    };
    let paths = served()["paths"].as_object()?;
    let (_, operations) = paths.iter().find(|(template, _)| is_of(template))?;
    operations.get(method.to_lowercase())
}

/// What the schema, a part of the document, has against the value.
pub(crate) fn violation(schema: &Value, value: &Value) -> Option<String> {
    let root = json!({"components": served()["components"], "allOf": [schema]});
    let validator = jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&root)
        .unwrap();
    validator
        .validate(value)
        .err()
        .map(|error| error.to_string())
}

/// The schema of an operation's body.
pub(crate) fn body_schema(operation: &Value) -> Option<&Value> {
    operation.pointer("/requestBody/content/application~1json/schema")
}

/// Holds an answer to the document: its status, its headers, its body.
pub(crate) fn check_answer(operation: &Value, status: u16, headers: &HeaderMap, body: &Value) {
    let id = &operation["operationId"];
    let written = &operation["responses"][status.to_string()];
    let written = match written["$ref"].as_str() {
        Some(reference) => served().pointer(&reference[1..]).unwrap(),
        None => written,
    };
    let content_type = headers["content-type"].to_str().unwrap();
    let schema = &written["content"][content_type]["schema"];
    assert!(
        schema.is_object(),
        "{id} answers {status} {content_type}, which is not written: {body}"
    );
    assert_eq!(violation(schema, body), None, "{id} {status}: {body}");
    let retry_after = &written["headers"]["Retry-After"];
    match headers.get("retry-after") {
        Some(_) => assert!(
            retry_after.is_object(),
            "{id} {status}: Retry-After is not written"
        ),
        None => assert_ne!(
            retry_after["required"], true,
            "{id} {status}: no Retry-After"
        ),
    }
}

mod tests;
