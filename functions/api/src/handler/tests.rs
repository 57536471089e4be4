//! The routes on memory ports: every status of the interface, fed from `events/api-*.json` where there is one.

use axum::http::{HeaderMap, HeaderName};
use firstcome_core::memory::{
    MemoryCatalog, MemoryClock, MemoryEntropy, MemoryLedger, MemoryOutbox, MemoryWallets, PostFault,
};
use firstcome_core::{
    AnnouncementKind, ApiKey, Benefit, BroadcastId, BroadcastJob, Campaign, CampaignId, Chunk,
    ChunkOutcome, Claim, ClaimId, Coupon, CouponLedger, KeyRecord, LEASE_SECONDS,
    MEMBERSHIP_SHARDS, NewCampaign, PageCounts, PartnerId, SoldMarks, Timestamp, Topic, UserId,
    coupon_code,
};
use serde_json::{Value, json};

use super::*;
use crate::gateway::{Answer, Door};
use crate::openapi;

mod doors;
mod hostile;
mod pages;
mod repeats;

/// The campaign that the events are about.
const CAMPAIGN: &str = "01KSR4Q5ACF3P2V7WM8X9NYBTD";
const SECRET: &str = "a secret of at least thirty-two bytes";

/// Requests per second of one partner.
const BUDGET: u32 = 1000;

pub(crate) struct InMemory;

impl Ports for InMemory {
    type Campaigns = MemoryLedger;
    type Catalog = MemoryCatalog;
    type Coupons = MemoryLedger;
    type UserCoupons = MemoryCatalog;
    type Redemptions = MemoryLedger;
    type Wallets = MemoryWallets;
    type Keys = MemoryCatalog;
    type Claims = MemoryOutbox;
    type Broadcasts = MemoryOutbox;
}

struct Stage {
    ledger: MemoryLedger,
    catalog: MemoryCatalog,
    outbox: MemoryOutbox,
    wallets: MemoryWallets,
    clock: MemoryClock,
    door: Door,
}

struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

/// The key of the events (partner `acme`, every scope), another partner's, and one with a single scope.
fn key(id: u64) -> ApiKey {
    ApiKey::from_random(id, [2, 3])
}

fn stage() -> Stage {
    let ledger = MemoryLedger::default();
    let (catalog, outbox, clock) = (
        MemoryCatalog::over(&ledger),
        MemoryOutbox::default(),
        MemoryClock::at(now()),
    );
    let keys = [
        (1, "acme", Scope::ALL.to_vec()),
        (2, "rival", Scope::ALL.to_vec()),
        (3, "acme", vec![Scope::Tickets]),
    ];
    for (id, partner, scopes) in keys {
        let record = KeyRecord {
            partner_id: PartnerId::new(partner).unwrap(),
            sha256: key(id).secret_sha256(),
            scopes,
            status: "active".into(),
            expires_at: None,
        };
        catalog.add_key(key(id).key_id(), record);
    }
    let wallets = MemoryWallets::over(&ledger);
    let api = Api::<InMemory> {
        campaigns: ledger.clone(),
        catalog: catalog.clone(),
        coupons: ledger.clone(),
        user_coupons: catalog.clone(),
        redemptions: ledger.clone(),
        wallets: wallets.clone(),
        budgets: Budgets::new(BUDGET),
        gate: Gate::new(catalog.clone()),
        claims: outbox.clone(),
        broadcasts: outbox.clone(),
        tickets: TicketKey::new(SECRET).unwrap(),
        cursors: CursorSeal::derived_from(SECRET),
        websocket_url: "wss://socket.example.com/live".into(),
        clock: Box::new(clock.clone()),
        entropy: Box::new(MemoryEntropy::seeded(7)),
    };
    Stage {
        ledger,
        catalog,
        outbox,
        wallets,
        clock,
        door: Door::new(Arc::new(api)),
    }
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000)
}

fn campaign_of(partner: &str, id: &str, total: u32) -> Campaign {
    let new: NewCampaign = serde_json::from_value(json!({"title": "t", "total": total})).unwrap();
    new.into_campaign(
        CampaignId::new(id).unwrap(),
        PartnerId::new(partner).unwrap(),
        now(),
    )
    .unwrap()
}

impl Stage {
    /// Stores the events' campaign, changed as the test needs it.
    fn with_campaign(self, change: impl FnOnce(&mut Campaign)) -> Self {
        let mut campaign = campaign_of("acme", CAMPAIGN, 2);
        change(&mut campaign);
        self.catalog.add(&campaign);
        self
    }

    async fn win(&self, campaign: &Campaign, user: &str, claim: &str) -> Coupon {
        let claim = Claim {
            claim_id: ClaimId::new(claim).unwrap(),
            partner_id: campaign.partner_id.clone(),
            campaign_id: campaign.campaign_id.clone(),
            user_id: UserId::new(user).unwrap(),
            requested_at: now(),
            sent_at: now(),
            connection_id: None,
            trace: None,
        };
        let coupon = Coupon::for_claim(campaign, &claim, 0, coupon_code([7; 10]), now());
        let attempt = campaign
            .campaign_id
            .minted_at()
            .map_or(0, |at| at.millis().unsigned_abs());
        let attempt = u128::from(attempt) << 64
            | user
                .bytes()
                .fold(0, |sum, byte| sum * 31 + u128::from(byte));
        let chunk = Chunk {
            campaign: campaign.clone(),
            shard: 0,
            coupons: vec![coupon.clone()],
            attempt,
        };
        assert_eq!(
            self.ledger.issue(&chunk).await.unwrap(),
            ChunkOutcome::Issued
        );
        coupon
    }

    async fn event(&self, name: &str) -> Answered {
        let path = format!(
            "{}/../../events/api-{name}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let event = std::fs::read_to_string(path).unwrap();
        self.send(&serde_json::from_str(&event).unwrap()).await
    }

    /// Holds the answer to the document, and what was accepted as well.
    async fn send(&self, event: &Value) -> Answered {
        let method = event["requestContext"]["http"]["method"].as_str().unwrap();
        let operation = openapi::operation_of(method, event["rawPath"].as_str().unwrap());
        let answer = answered(&self.door.answer(&event.to_string()).await);
        if let Some(operation) = operation {
            openapi::check_answer(operation, answer.status, &answer.headers, &answer.body);
            if let Some(schema) = openapi::body_schema(operation).filter(|_| answer.status < 300) {
                let sent = serde_json::from_str(event["body"].as_str().unwrap()).unwrap();
                assert_eq!(openapi::violation(schema, &sent), None, "accepted: {sent}");
            }
        } else {
            assert!([400, 404, 405].contains(&answer.status));
        }
        answer
    }

    async fn ask(
        &self,
        method: &str,
        target: &str,
        body: impl AsRef<str>,
        headers: &[(&str, &str)],
    ) -> Answered {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        self.send(&event(method, path, query, body.as_ref(), headers))
            .await
    }

    async fn get(&self, path: &str) -> Answered {
        self.ask("GET", path, "", &[]).await
    }

    async fn post(&self, path: &str, body: &str) -> Answered {
        self.ask("POST", path, body.to_owned(), &[]).await
    }

    fn announced(&self) -> Vec<(AnnouncementKind, u16)> {
        let kind = |(job, delay): (BroadcastJob, u16)| match job {
            BroadcastJob::Announce(announcement) => (announcement.kind, delay),
            other => panic!("{other:?} is no announcement"),
        };
        self.outbox.broadcasts().into_iter().map(kind).collect()
    }
}

/// A request as API Gateway hands it over, by the events' partner if no key is given.
fn event(method: &str, path: &str, query: &str, body: &str, headers: &[(&str, &str)]) -> Value {
    let mut sent = json!({"host": "api.example.com", "x-forwarded-proto": "https", "x-api-key": key(1).reveal()});
    for (name, value) in headers {
        sent[*name] = (*value).into();
    }
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query, "headers": sent,
        "requestContext": {"http": {"method": method, "path": path}, "stage": "$default"},
        "body": body, "isBase64Encoded": false,
    })
}

fn answered(answer: &Answer) -> Answered {
    let answer = serde_json::to_value(answer).unwrap();
    assert_eq!(answer["isBase64Encoded"], false);
    let mut headers = HeaderMap::new();
    for (name, value) in answer["headers"].as_object().unwrap() {
        let name: HeaderName = name.parse().unwrap();
        headers.insert(name, value.as_str().unwrap().parse().unwrap());
    }
    let status = u16::try_from(answer["statusCode"].as_u64().unwrap()).unwrap();
    let answered = Answered {
        status,
        headers,
        body: serde_json::from_str(answer["body"].as_str().unwrap()).unwrap_or(Value::Null),
    };
    if answered.status >= 400 {
        assert_eq!(answered.headers["content-type"], "application/problem+json");
        assert_eq!(answered.body["status"], answered.status);
        assert_eq!(answered.body["type"], "about:blank");
    }
    answered
}

impl Answered {
    fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.body["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.body
        );
    }

    fn names(&self, field: &str) {
        self.is_problem(400, "malformed");
        assert_eq!(self.body["field"], field, "{}", self.body);
    }
}

// The gate.

#[tokio::test]
async fn health_and_the_interface_need_no_key() {
    let stage = stage();
    assert_eq!(stage.event("healthz").await.status, 200);
    let interface = stage
        .ask("GET", "/openapi.json", "", &[("x-api-key", "")])
        .await;
    assert_eq!(
        (interface.status, interface.body["openapi"].as_str()),
        (200, Some("3.1.0"))
    );
    assert_eq!(stage.catalog.key_reads(), 0);
}

#[tokio::test]
async fn no_unknown_or_expired_key_gets_401() {
    let stage = stage();
    let mut expired = KeyRecord {
        partner_id: PartnerId::new("acme").unwrap(),
        sha256: key(4).secret_sha256(),
        scopes: Scope::ALL.to_vec(),
        status: "active".into(),
        expires_at: Some(now()),
    };
    stage.catalog.add_key(key(4).key_id(), expired.clone());
    (expired.status, expired.expires_at) = ("revoked".into(), None);
    stage.catalog.add_key(key(5).key_id(), expired);
    stage
        .event("claim-without-key")
        .await
        .is_problem(401, "unauthorized");
    let wrong_secret = ApiKey::from_random(1, [2, 4]).reveal();
    for bad in [
        "",
        "nonsense",
        &key(9).reveal(),
        &wrong_secret,
        &key(4).reveal(),
        &key(5).reveal(),
    ] {
        let answer = stage
            .ask("GET", "/v1/campaigns", "", &[("x-api-key", bad)])
            .await;
        answer.is_problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn every_route_asks_for_its_scope_before_it_reads_anything() {
    let stage = stage();
    let narrow = key(3).reveal();
    let routes = [
        ("POST", "/v1/campaigns", "campaigns"),
        ("GET", "/v1/campaigns", "campaigns"),
        ("GET", "/v1/campaigns/x", "campaigns"),
        ("POST", "/v1/campaigns/x/close", "campaigns"),
        ("POST", "/v1/campaigns/x/claims", "claims"),
        ("GET", "/v1/campaigns/x/claims/u", "claims"),
        ("GET", "/v1/users/u/coupons", "coupons"),
        ("POST", "/v1/users/u/coupons/x/redemption", "coupons"),
        ("DELETE", "/v1/users/u/coupons/x/redemption", "coupons"),
        ("GET", "/v1/users/u/wallet", "points"),
        ("GET", "/v1/users/u/wallet/entries", "points"),
        ("POST", "/v1/users/u/wallet/earn", "points"),
        ("POST", "/v1/users/u/wallet/use", "points"),
        ("POST", "/v1/transfers", "points"),
        ("POST", "/v1/campaigns/x/broadcasts", "broadcasts"),
        ("POST", "/v1/broadcasts", "broadcasts"),
        ("GET", "/v1/broadcasts/x", "broadcasts"),
    ];
    for (method, path, scope) in routes {
        let answer = stage
            .ask(method, path, "x".repeat(9000), &[("x-api-key", &narrow)])
            .await;
        answer.is_problem(403, "forbidden");
        assert!(
            answer.body["detail"].as_str().unwrap().ends_with(scope),
            "{path}"
        );
    }
    let other = json!({"userId": "u"}).to_string();
    assert_eq!(
        stage
            .ask("POST", "/v1/tickets", other, &[("x-api-key", &narrow)])
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn an_unknown_route_and_a_wrong_method_are_problems_too() {
    let stage = stage();
    stage
        .get("/v2/campaigns")
        .await
        .is_problem(404, "not_found");
    stage
        .ask("DELETE", "/v1/campaigns", "", &[])
        .await
        .is_problem(405, "method_not_allowed");
    stage.get("/v1/users/%FF/coupons").await.names("userId");
}

#[tokio::test]
async fn a_store_that_asks_for_patience_gives_503_without_internals() {
    let stage = stage().with_campaign(|_| ());
    assert_eq!(stage.event("list-campaigns").await.status, 200);
    stage.ledger.fail(true);
    let answer = stage.event("get-campaign").await;
    answer.is_problem(503, "unavailable");
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(!answer.body.to_string().contains("told to fail"));
}

#[tokio::test]
async fn damage_in_the_store_gives_500_without_internals() {
    let stage = stage().with_campaign(|_| ());
    stage
        .ledger
        .lose_shard(&CampaignId::new(CAMPAIGN).unwrap(), 0);
    let answer = stage.event("get-campaign").await;
    answer.is_problem(500, "internal");
    assert!(!answer.body.to_string().contains("shard"));
}

#[tokio::test]
async fn a_partner_past_its_budget_is_told_to_come_again_and_no_other() {
    let stage = stage();
    for _ in 0..BUDGET {
        assert_eq!(stage.get("/v1/campaigns").await.status, 200);
    }
    let refused = stage.get("/v1/campaigns").await;
    refused.is_problem(429, "too_many_requests");
    assert_eq!(refused.headers["retry-after"], "1");
    let rival = key(2).reveal();
    let theirs = stage
        .ask("GET", "/v1/campaigns", "", &[("x-api-key", &rival)])
        .await;
    assert_eq!(theirs.status, 200);
    stage.clock.advance_millis(1000);
    assert_eq!(stage.get("/v1/campaigns").await.status, 200);
}

// Bodies.

#[tokio::test]
async fn a_bad_body_is_named_by_field_and_never_echoed() {
    let stage = stage();
    let cases = [
        ("", "body"),
        ("secret", "body"),
        ("[\"secret\", 5]", "body"),
        (r#"{"title":"secret","total":5} secret"#, "body"),
        (r#"{"title":"secret"}"#, "total"),
        (r#"{"title":"secret","total":5,"total":6}"#, "total"),
        (r#"{"title":"secret","total":"secret"}"#, "total"),
        (
            r#"{"title":"secret","total":"secret, expected secret"}"#,
            "total",
        ),
        (r#"{"title":"secret","total":-1}"#, "total"),
        (r#"{"title":"secret","total":0}"#, "total"),
        (r#"{"title":"secret","total":10000001}"#, "total"),
        (r#"{"title":7,"total":1}"#, "title"),
        (r#"{"title":"","total":1}"#, "title"),
        (
            r#"{"title":"t","total":1,"opensAt":"secret must be secret"}"#,
            "opensAt",
        ),
        (r#"{"title":"t","total":1,"opensAt":5}"#, "opensAt"),
        (
            r#"{"title":"t","total":1,"closesAt":"1971-01-01T00:00:00Z"}"#,
            "closesAt",
        ),
        (
            r#"{"title":"t","total":1,"couponTtlSeconds":0}"#,
            "couponTtlSeconds",
        ),
        (
            r#"{"title":"t","total":1,"benefit":{"secret":1,"secret":2}}"#,
            "benefit",
        ),
        (
            r#"{"title":"t","total":1,"benefit":"\ud800 secret"}"#,
            "benefit",
        ),
        (r#"{"title":"secret","total":1e400}"#, "total"),
        (r#"{"title":"\ud800 secret","total":1}"#, "title"),
        (
            r#"{"title":"t","total":1,"benefit":{"type":"points","amount":0}}"#,
            "benefit",
        ),
    ];
    for (body, field) in cases {
        let answer = stage.post("/v1/campaigns", body).await;
        answer.names(field);
        assert!(
            !answer.body.to_string().contains("secret"),
            "{}",
            answer.body
        );
    }
    let long = json!({"title": "t", "total": 1, "benefit": "x".repeat(255)}).to_string();
    stage.post("/v1/campaigns", &long).await.names("benefit");
    let answer = stage
        .post(
            "/v1/campaigns",
            r#"{"title":"t","total":1,"opensAt":"soon"}"#,
        )
        .await;
    assert_eq!(
        answer.body["detail"],
        "opensAt must be an RFC 3339 time such as 2026-01-31T09:00:00Z"
    );
}

#[tokio::test]
async fn a_body_over_eight_kilobytes_gets_413() {
    let stage = stage();
    let padded = |length: usize| format!("{:<length$}", r#"{"title":"t","total":1}"#);
    stage
        .post("/v1/campaigns", &padded(8193))
        .await
        .is_problem(413, "too_large");
    assert_eq!(stage.post("/v1/campaigns", &padded(8192)).await.status, 201);
}

// Campaigns.

#[tokio::test]
async fn a_created_campaign_shows_what_was_sent_and_its_stock() {
    let stage = stage();
    let created = stage.event("create-campaign").await;
    assert_eq!(created.status, 201, "{}", created.body);
    let expected = json!({
        "campaignId": created.body["campaignId"],
        "partnerId": "acme",
        "title": "선착순 쿠폰",
        "total": 300,
        "opensAt": now(),
        "closesAt": now().plus_seconds(30 * 86_400),
        "couponTtlSeconds": 2_592_000,
        "benefit": {"percent": 10},
        "phase": "open",
        "issued": 0,
        "remaining": 300,
        "createdAt": now(),
    });
    assert_eq!(created.body, expected);
    let shown = stage
        .get(&format!(
            "/v1/campaigns/{}",
            created.body["campaignId"].as_str().unwrap()
        ))
        .await;
    assert_eq!((shown.status, shown.body), (200, expected));
}

#[tokio::test]
async fn the_same_key_and_body_create_one_campaign_and_another_body_gets_422() {
    let stage = stage();
    let first = stage.event("create-campaign").await;
    stage.clock.advance_millis(5000);
    let second = stage.event("create-campaign").await;
    assert_eq!(
        (second.status, &second.body["campaignId"]),
        (201, &first.body["campaignId"])
    );
    assert_eq!(
        stage.get("/v1/campaigns").await.body["campaigns"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let create = |body: &'static str, name: &'static str, id: u64| {
        let stage = &stage;
        async move {
            let key = key(id).reveal();
            stage
                .ask(
                    "POST",
                    "/v1/campaigns",
                    body,
                    &[("idempotency-key", name), ("x-api-key", &key)],
                )
                .await
        }
    };
    let other = r#"{"title":"other","total":1}"#;
    create(other, "spring-sale", 1)
        .await
        .is_problem(422, "idempotency_mismatch");
    assert_eq!(
        create(other, "spring-sale", 2).await.status,
        201,
        "another partner's key is another key"
    );
    create(other, "", 1).await.names("Idempotency-Key");
}

#[tokio::test]
async fn what_is_due_within_three_minutes_is_announced_at_once_with_its_delay() {
    for (opens, closes, expected) in [
        (0, 3600, vec![(AnnouncementKind::Opened, 0)]),
        (61, 3600, vec![(AnnouncementKind::Opened, 61)]),
        (
            10,
            180,
            vec![
                (AnnouncementKind::Opened, 10),
                (AnnouncementKind::Closed, 180),
            ],
        ),
        (181, 3600, vec![]),
    ] {
        let stage = stage();
        let (opens, closes) = (now().plus_seconds(opens), now().plus_seconds(closes));
        let body =
            json!({"title": "t", "total": 1, "opensAt": opens, "closesAt": closes}).to_string();
        assert_eq!(stage.post("/v1/campaigns", &body).await.status, 201);
        assert_eq!(stage.announced(), expected);
    }
}

#[tokio::test]
async fn a_campaign_is_created_and_closed_even_if_its_announcement_cannot_be_sent() {
    let stage = stage().with_campaign(|_| ());
    stage.outbox.fail(true);
    assert_eq!(stage.event("create-campaign").await.status, 201);
    assert_eq!(stage.event("close-campaign").await.status, 200);
}

#[tokio::test]
async fn the_phase_follows_the_window_the_stock_and_the_closing() {
    let phase = async |stage: &Stage| stage.event("get-campaign").await.body["phase"].clone();
    let later = |campaign: &mut Campaign| campaign.opens_at = now().plus_seconds(60);
    assert_eq!(phase(&stage().with_campaign(later)).await, "scheduled");
    assert_eq!(
        phase(&stage().with_campaign(|campaign| campaign.closes_at = now())).await,
        "closed"
    );
    let stage = stage().with_campaign(|campaign| campaign.total = 1);
    assert_eq!(phase(&stage).await, "open");
    stage.win(&campaign_of("acme", CAMPAIGN, 1), "u", "c").await;
    let sold = stage.event("get-campaign").await.body;
    assert_eq!(
        (&sold["phase"], &sold["issued"], &sold["remaining"]),
        (&json!("sold_out"), &json!(1), &json!(0))
    );
}

#[tokio::test]
async fn closing_again_gives_the_first_closings_time() {
    let stage = stage().with_campaign(|_| ());
    for _ in 0..2 {
        let closed = stage.event("close-campaign").await;
        assert_eq!(
            (closed.status, &closed.body["phase"]),
            (200, &json!("closed"))
        );
        assert_eq!(closed.body["closedAt"], json!(now()));
        stage.clock.advance_millis(90_000);
    }
    assert!(
        stage
            .ledger
            .shards(&CampaignId::new(CAMPAIGN).unwrap())
            .iter()
            .all(|s| s.closed_at == Some(now()))
    );
    let jobs = stage.outbox.broadcasts();
    assert!(
        jobs.iter().all(|job| *job == jobs[0]),
        "the same announcement, whoever closes"
    );
    assert_eq!(stage.announced()[0], (AnnouncementKind::Closed, 0));
}

#[tokio::test]
async fn another_partners_campaign_is_as_unknown_as_none_at_all() {
    let stage =
        stage().with_campaign(|campaign| campaign.partner_id = PartnerId::new("rival").unwrap());
    let missing = CampaignId::mint(now(), 5);
    let claim = r#"{"userId":"u","message":"m"}"#;
    for id in [CAMPAIGN, missing.as_str(), "no-ulid", "..."] {
        for (method, path) in [
            ("GET", ""),
            ("POST", "/close"),
            ("POST", "/claims"),
            ("GET", "/claims/u"),
            ("POST", "/broadcasts"),
        ] {
            let answer = stage
                .ask(method, &format!("/v1/campaigns/{id}{path}"), claim, &[])
                .await;
            answer.is_problem(404, "not_found");
            assert_eq!(answer.body["detail"], "there is no such campaign");
        }
    }
    assert!(stage.outbox.claims().is_empty() && stage.outbox.broadcasts().is_empty());
}

#[tokio::test]
async fn campaigns_are_listed_newest_first_page_by_page() {
    let stage = stage();
    let ids: Vec<_> = (0..45)
        .map(|n| CampaignId::mint(now().plus_seconds(n), 1))
        .collect();
    ids.iter()
        .for_each(|id| stage.catalog.add(&campaign_of("acme", id.as_str(), 1)));
    stage.catalog.add(&campaign_of(
        "rival",
        CampaignId::mint(now(), 9).as_str(),
        1,
    ));
    let (mut seen, mut path) = (Vec::new(), "/v1/campaigns".to_owned());
    loop {
        let page = stage.get(&path).await;
        assert_eq!(page.status, 200);
        let campaigns = page.body["campaigns"].as_array().unwrap().clone();
        assert!(campaigns.len() <= 20);
        seen.extend(
            campaigns
                .iter()
                .map(|campaign| campaign["campaignId"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page.body["next"].as_str() else {
            break;
        };
        path = format!("/v1/campaigns?cursor={next}");
    }
    let expected: Vec<_> = ids.iter().rev().map(ToString::to_string).collect();
    assert_eq!(seen, expected);
    // The last is what a cursor once was: an id that anybody can encode.
    for bad in [
        "secret",
        "%21",
        "",
        "a&cursor=b",
        "MDFLU1I0UTVBQ0YzUDJWN1dNOFg5TllCVEQ",
    ] {
        for list in ["campaigns", "users/u/coupons", "users/u/wallet/entries"] {
            let answer = stage.get(&format!("/v1/{list}?cursor={bad}")).await;
            answer.names("cursor");
        }
    }
}

// Tickets.

#[tokio::test]
async fn a_ticket_opens_a_socket_for_its_user_until_it_expires() {
    let stage = stage();
    let answer = stage.event("create-ticket").await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.body["webSocketUrl"], "wss://socket.example.com/live");
    assert_eq!(answer.body["expiresAt"], json!(now().plus_seconds(120)));
    let ticket = TicketKey::new(SECRET)
        .unwrap()
        .verify(answer.body["ticket"].as_str().unwrap(), now())
        .unwrap();
    assert_eq!(
        (ticket.partner_id.as_str(), ticket.user_id.as_str()),
        ("acme", "user-1")
    );
    let default = stage.post("/v1/tickets", r#"{"userId":"u"}"#).await;
    assert_eq!(default.body["expiresAt"], json!(now().plus_seconds(60)));
    stage
        .post("/v1/tickets", r#"{"userId":"u","ttlSeconds":9}"#)
        .await
        .names("ttlSeconds");
    stage
        .post("/v1/tickets", r#"{"userId":"u","ttlSeconds":301}"#)
        .await
        .names("ttlSeconds");
    stage
        .post("/v1/tickets", r#"{"userId":"a b"}"#)
        .await
        .names("userId");
}

// Claims.

#[tokio::test]
async fn a_claim_in_an_open_campaign_is_accepted_with_the_doors_time() {
    let stage = stage().with_campaign(|_| ());
    let answer = stage.event("claim").await;
    assert_eq!(
        (answer.status, answer.body),
        (202, json!({"claimId": "claim-1", "status": "accepted"}))
    );
    let [claim] = &stage.outbox.claims()[..] else {
        panic!("one claim is sent")
    };
    assert_eq!((claim.requested_at, &claim.connection_id), (now(), &None));
    assert_eq!(
        (claim.partner_id.as_str(), claim.user_id.as_str()),
        ("acme", "user-1")
    );
    stage.event("claim-malformed").await.names("userId");
}

#[tokio::test]
async fn a_claim_without_an_id_gets_one() {
    let stage = stage().with_campaign(|_| ());
    let answer = stage
        .post(
            &format!("/v1/campaigns/{CAMPAIGN}/claims"),
            r#"{"userId":"u"}"#,
        )
        .await;
    assert_eq!(
        answer.body["claimId"],
        stage.outbox.claims()[0].claim_id.as_str()
    );
}

#[tokio::test]
async fn a_claim_that_cannot_be_queued_is_not_accepted() {
    let stage = stage().with_campaign(|_| ());
    stage.outbox.fail(true);
    stage.event("claim").await.is_problem(503, "unavailable");
}

#[tokio::test]
async fn a_standing_coupon_answers_every_claim_whatever_became_of_the_campaign() {
    let stage = stage().with_campaign(|campaign| campaign.closes_at = now().plus_seconds(60));
    let campaign = campaign_of("acme", CAMPAIGN, 2);
    let coupon = stage.win(&campaign, "user-1", "claim-1").await;
    stage.ledger.mark_sold(&campaign).await.unwrap();
    stage.event("close-campaign").await;
    stage.clock.advance_millis(3_600_000);
    let expected = json!({
        "code": coupon.code, "campaignId": CAMPAIGN, "issuedAt": coupon.issued_at, "expiresAt": coupon.expires_at,
    });
    let own = stage.event("claim").await;
    assert_eq!(
        (own.status, &own.body["status"], &own.body["coupon"]),
        (200, &json!("issued"), &expected)
    );
    let body = r#"{"userId":"user-1","claimId":"claim-2"}"#;
    let other = stage
        .post(&format!("/v1/campaigns/{CAMPAIGN}/claims"), body)
        .await;
    assert_eq!(
        (other.status, &other.body["status"], &other.body["coupon"]),
        (200, &json!("already_issued"), &expected)
    );
    assert_eq!(
        stage.event("claim-status").await.body,
        json!({"status": "issued", "coupon": expected})
    );
    assert!(stage.outbox.claims().is_empty());
}

#[tokio::test]
async fn without_a_coupon_the_opening_is_judged_then_the_sold_mark_then_the_end() {
    let later = Some(now().plus_seconds(60));
    for (opens, closes, closed, sold, expected) in [
        (later, None, false, false, "not_open"),
        (later, None, false, true, "not_open"),
        (later, None, true, false, "closed"),
        (later, None, true, true, "sold_out"),
        (None, Some(now()), false, false, "closed"),
        (None, None, true, false, "closed"),
        (None, None, false, true, "sold_out"),
        (None, Some(now()), false, true, "sold_out"),
        (None, None, true, true, "sold_out"),
    ] {
        let stage = stage().with_campaign(|campaign| {
            campaign.opens_at = opens.unwrap_or(Timestamp::EPOCH);
            campaign.closes_at = closes.unwrap_or(now().plus_seconds(3600));
            campaign.closed_at = closed.then(now);
        });
        if sold {
            stage
                .ledger
                .mark_sold(&campaign_of("acme", CAMPAIGN, 2))
                .await
                .unwrap();
        }
        stage.event("claim").await.is_problem(409, expected);
        assert_eq!(
            stage.event("claim-status").await.body,
            json!({"status": expected})
        );
        assert!(stage.outbox.claims().is_empty());
    }
    let stage = stage().with_campaign(|_| ());
    assert_eq!(
        stage.event("claim-status").await.body,
        json!({"status": "undecided"})
    );
    stage
        .get(&format!("/v1/campaigns/{CAMPAIGN}/claims/a b"))
        .await
        .names("userId");
}

// Coupons.

#[tokio::test]
async fn a_users_coupons_are_listed_page_by_page_under_their_own_partner() {
    let stage = stage();
    for n in 0..60 {
        let campaign = campaign_of(
            "acme",
            CampaignId::mint(now().plus_seconds(n), 1).as_str(),
            1,
        );
        stage.catalog.add(&campaign);
        stage.win(&campaign, "user-1", "c").await;
    }
    let first = stage.event("list-coupons").await;
    assert_eq!(
        (
            first.status,
            first.body["coupons"].as_array().unwrap().len()
        ),
        (200, 50)
    );
    let next = first.body["next"].as_str().unwrap();
    let second = stage
        .get(&format!("/v1/users/user-1/coupons?cursor={next}"))
        .await;
    assert_eq!(second.body["coupons"].as_array().unwrap().len(), 10);
    assert!(second.body.get("next").is_none());
    let rival = stage
        .ask(
            "GET",
            "/v1/users/user-1/coupons",
            "",
            &[("x-api-key", &key(2).reveal())],
        )
        .await;
    assert_eq!(rival.body, json!({"coupons": []}));
    stage.get("/v1/users/a b/coupons").await.names("userId");
}

#[tokio::test]
async fn a_cursor_opens_only_the_list_it_came_from() {
    let stage = stage();
    for n in 0..51 {
        let id = CampaignId::mint(now().plus_seconds(n), 1);
        let campaign = campaign_of("acme", id.as_str(), 1);
        stage.catalog.add(&campaign);
        stage.win(&campaign, "user-1", "c").await;
    }
    let page = stage.event("list-coupons").await;
    let next = page.body["next"].as_str().unwrap();
    let ask = async |list: &str, whose: u64| {
        let path = format!("/v1/{list}?cursor={next}");
        let key = key(whose).reveal();
        stage.ask("GET", &path, "", &[("x-api-key", &key)]).await
    };
    assert_eq!(ask("users/user-1/coupons", 1).await.status, 200);
    for list in [
        "users/user-2/coupons",
        "campaigns",
        "users/user-1/wallet/entries",
    ] {
        ask(list, 1).await.names("cursor");
    }
    ask("users/user-1/coupons", 2).await.names("cursor");
}

// Coupons in use.

/// What the events' coupon looks like to its partner.
fn coupon_body(coupon: &Coupon) -> Value {
    json!({
        "code": coupon.code, "campaignId": CAMPAIGN, "issuedAt": coupon.issued_at, "expiresAt": coupon.expires_at,
    })
}

const REDEMPTION: &str = "/v1/users/user-1/coupons/01KSR4Q5ACF3P2V7WM8X9NYBTD/redemption";

#[tokio::test]
async fn a_coupon_is_redeemed_once_shown_so_and_rolled_back() {
    let stage = stage().with_campaign(|_| ());
    let coupon = stage
        .win(&campaign_of("acme", CAMPAIGN, 2), "user-1", "c")
        .await;
    let fresh = coupon_body(&coupon);
    let mut used = fresh.clone();
    used["redeemedAt"] = json!(now());
    used["orderId"] = json!("order-1");
    for _ in 0..2 {
        let answer = stage.event("redeem-coupon").await;
        assert_eq!((answer.status, answer.body), (200, used.clone()));
        stage.clock.advance_millis(1000);
    }
    let listed = stage.event("list-coupons").await;
    assert_eq!(listed.body["coupons"], json!([used]));
    let standing = stage.event("claim-status").await;
    assert_eq!(standing.body, json!({"status": "issued", "coupon": used}));
    let claimed = stage.event("claim").await;
    assert_eq!(claimed.body["coupon"], used);
    stage
        .post(REDEMPTION, r#"{"orderId":"order-2"}"#)
        .await
        .is_problem(409, "already_redeemed");
    let path = format!("{REDEMPTION}?orderId=order-2");
    stage
        .ask("DELETE", &path, "", &[])
        .await
        .is_problem(409, "already_redeemed");
    for _ in 0..2 {
        let answer = stage.event("roll-back-redemption").await;
        assert_eq!((answer.status, answer.body), (200, fresh.clone()));
    }
    let again = stage.post(REDEMPTION, r#"{"orderId":"order-2"}"#).await;
    assert_eq!(again.body["orderId"], "order-2");
}

#[tokio::test]
async fn a_coupon_of_a_wrong_code_or_past_its_expiry_is_not_redeemed() {
    let stage = stage().with_campaign(|_| ());
    let coupon = stage
        .win(&campaign_of("acme", CAMPAIGN, 2), "user-1", "c")
        .await;
    stage
        .post(REDEMPTION, r#"{"orderId":"o","code":"wrong"}"#)
        .await
        .is_problem(409, "wrong_code");
    stage
        .clock
        .advance_millis(coupon.expires_at.millis_since(now()));
    let body = json!({"orderId": "o", "code": coupon.code}).to_string();
    stage
        .post(REDEMPTION, &body)
        .await
        .is_problem(409, "coupon_expired");
    stage.clock.advance_millis(-1);
    assert_eq!(stage.post(REDEMPTION, &body).await.status, 200);
}

#[tokio::test]
async fn a_coupon_that_is_not_there_is_unknown_in_one_way_only() {
    let stage = stage().with_campaign(|_| ());
    stage
        .win(&campaign_of("acme", CAMPAIGN, 2), "user-1", "c")
        .await;
    let missing = CampaignId::mint(now(), 5);
    for (path, whose) in [
        (REDEMPTION.to_owned(), 2),
        (REDEMPTION.replace("user-1", "user-2"), 1),
        (REDEMPTION.replace(CAMPAIGN, missing.as_str()), 1),
        (REDEMPTION.replace(CAMPAIGN, "no-ulid"), 1),
    ] {
        let key = key(whose).reveal();
        let headers = [("x-api-key", key.as_str())];
        let post = stage.ask("POST", &path, r#"{"orderId":"o"}"#, &headers);
        let rolled_back = format!("{path}?orderId=o");
        let delete = stage.ask("DELETE", &rolled_back, "", &headers);
        for answer in [post.await, delete.await] {
            answer.is_problem(404, "not_found");
            assert_eq!(answer.body["detail"], "there is no such coupon");
        }
    }
}

#[tokio::test]
async fn a_redemption_names_its_order() {
    let stage = stage().with_campaign(|_| ());
    for body in ["{}", r#"{"orderId":"a b"}"#, r#"{"orderId":7}"#] {
        stage.post(REDEMPTION, body).await.names("orderId");
    }
    for query in ["", "?orderId=", "?orderId=a%20b", "?orderId=a&orderId=b"] {
        let path = format!("{REDEMPTION}{query}");
        stage.ask("DELETE", &path, "", &[]).await.names("orderId");
    }
}

#[tokio::test]
async fn a_coupon_worth_points_credits_the_wallet_and_its_rollback_needs_them() {
    let points = Benefit::new(r#"{"type":"points","amount":100}"#).unwrap();
    let stage = stage().with_campaign(|campaign| campaign.benefit = Some(points));
    stage
        .win(&campaign_of("acme", CAMPAIGN, 2), "user-1", "c")
        .await;
    let redeemed = stage.event("redeem-coupon").await;
    assert_eq!(redeemed.status, 200);
    let entries = stage.event("list-entries").await;
    let entry = &entries.body["entries"][0];
    assert_eq!(
        (&entry["type"], &entry["amount"], &entry["orderId"]),
        (&json!("redemption"), &json!(100), &json!("order-1"))
    );
    assert_eq!(entry["entryId"], redeemed.body["entryId"]);
    assert_eq!(stage.event("use-points").await.status, 200);
    stage
        .event("roll-back-redemption")
        .await
        .is_problem(409, "insufficient_points");
    assert_eq!(stage.event("redeem-coupon").await.body, redeemed.body);
}

// Points.

impl Stage {
    async fn move_points(&self, path: &str, key: &str, body: &str) -> Answered {
        self.ask("POST", path, body.to_owned(), &[("idempotency-key", key)])
            .await
    }

    async fn balance(&self, user: &str) -> Value {
        self.get(&format!("/v1/users/{user}/wallet")).await.body["balance"].clone()
    }
}

#[tokio::test]
async fn points_are_earned_used_and_moved_and_the_ledger_adds_up() {
    let stage = stage();
    let nothing = json!({"balance": 0, "expiringNext": null});
    assert_eq!(stage.event("show-wallet").await.body, nothing);
    let earned = stage.event("earn-points").await;
    assert_eq!(earned.status, 200, "{}", earned.body);
    let expires_at = "2030-01-01T00:00:00.000Z";
    let expected = json!({
        "entryId": earned.body["entryId"], "type": "earn", "amount": 500, "balance": 500, "createdAt": now(),
        "reason": "첫 방문",
        "lots": [{"lotId": earned.body["entryId"], "amount": 500, "expiresAt": expires_at}],
    });
    assert_eq!(earned.body, expected);
    let wallet = stage.event("show-wallet").await.body;
    let next = json!({"amount": 500, "expiresAt": expires_at});
    assert_eq!(wallet, json!({"balance": 500, "expiringNext": next}));
    let used = stage.event("use-points").await;
    assert_eq!(
        (used.status, &used.body["amount"], &used.body["balance"]),
        (200, &json!(-20), &json!(480))
    );
    let moved = stage.event("transfer-points").await;
    assert_eq!(
        (moved.status, &moved.body["type"], &moved.body["amount"]),
        (200, &json!("transfer_out"), &json!(-30))
    );
    assert_eq!(moved.body["counterpart"], "user-2");
    assert_eq!(
        (stage.balance("user-1").await, stage.balance("user-2").await),
        (json!(450), json!(30))
    );
    let entries = stage.event("list-entries").await.body;
    assert_eq!(
        entries["entries"],
        json!([moved.body, used.body, earned.body]),
        "newest first"
    );
}

#[tokio::test]
async fn a_key_is_required_and_means_one_request() {
    let stage = stage();
    let (earn, spend) = ("/v1/users/u/wallet/earn", "/v1/users/u/wallet/use");
    let body = r#"{"amount":5,"reason":"r"}"#;
    let transfer = r#"{"fromUserId":"u","toUserId":"v","amount":1}"#;
    for (path, body) in [(earn, body), (spend, body), ("/v1/transfers", transfer)] {
        stage.post(path, body).await.names("Idempotency-Key");
        stage
            .move_points(path, "", body)
            .await
            .names("Idempotency-Key");
    }
    let first = stage.move_points(earn, "k", body).await;
    assert_eq!(first.status, 200);
    stage.clock.advance_millis(60_000);
    assert_eq!(stage.move_points(earn, "k", body).await.body, first.body);
    for (path, other) in [
        (earn, r#"{"amount":6,"reason":"r"}"#),
        (spend, body),
        ("/v1/users/v/wallet/earn", body),
        ("/v1/transfers", transfer),
    ] {
        let answer = stage.move_points(path, "k", other).await;
        answer.is_problem(422, "idempotency_mismatch");
    }
    let rival = key(2).reveal();
    let headers = [("idempotency-key", "k"), ("x-api-key", rival.as_str())];
    let theirs = stage.ask("POST", spend, body, &headers).await;
    theirs.is_problem(409, "insufficient_points");
    assert_eq!(stage.balance("u").await, 5);
}

#[tokio::test]
async fn a_request_that_is_still_being_carried_out_is_to_be_asked_again() {
    let stage = stage();
    let (path, body) = ("/v1/users/u/wallet/earn", r#"{"amount":5,"reason":"r"}"#);
    // Its function dies before anything is written, without giving the lease back.
    stage.wallets.fail_next([PostFault::Hang]);
    let dying = stage.move_points(path, "k", body);
    let a_while = std::time::Duration::from_millis(100);
    assert!(tokio::time::timeout(a_while, dying).await.is_err());
    let answer = stage.move_points(path, "k", body).await;
    answer.is_problem(409, "in_progress");
    assert_eq!(answer.headers["retry-after"], "1");
    stage.clock.advance_millis(LEASE_SECONDS * 1000);
    assert_eq!(stage.move_points(path, "k", body).await.status, 200);
    assert_eq!(stage.balance("u").await, 5);
}

#[tokio::test]
async fn too_few_points_are_a_conflict_for_good_and_a_failing_store_is_not() {
    let stage = stage();
    let (earn, spend) = ("/v1/users/u/wallet/earn", "/v1/users/u/wallet/use");
    let body = r#"{"amount":5,"reason":"r"}"#;
    stage.wallets.fail_next([PostFault::Error]);
    let failed = stage.move_points(earn, "e", body).await;
    failed.is_problem(503, "unavailable");
    assert_eq!(stage.balance("u").await, 0);
    for _ in 0..2 {
        let refused = stage.move_points(spend, "u", body).await;
        refused.is_problem(409, "insufficient_points");
        assert_eq!(stage.move_points(earn, "e", body).await.status, 200);
    }
    assert_eq!(stage.balance("u").await, 5);
}

#[tokio::test]
async fn points_are_whole_and_within_their_bounds() {
    let stage = stage();
    let earn = "/v1/users/u/wallet/earn";
    let past = format!(r#"{{"amount":1,"reason":"r","expiresAt":"{}"}}"#, now());
    for (body, field) in [
        (r#"{"amount":0,"reason":"r"}"#, "amount"),
        (r#"{"amount":-1,"reason":"r"}"#, "amount"),
        (r#"{"amount":1.5,"reason":"r"}"#, "amount"),
        (r#"{"amount":1000000000001,"reason":"r"}"#, "amount"),
        (r#"{"amount":"1","reason":"r"}"#, "amount"),
        (r#"{"reason":"r"}"#, "amount"),
        (r#"{"amount":1}"#, "reason"),
        (r#"{"amount":1,"reason":""}"#, "reason"),
        (
            r#"{"amount":1,"reason":"r","expiresAt":"soon"}"#,
            "expiresAt",
        ),
        (&past, "expiresAt"),
    ] {
        stage.move_points(earn, "k", body).await.names(field);
    }
    let good = r#"{"amount":1,"reason":"r"}"#;
    assert_eq!(
        stage.move_points(earn, "k", good).await.status,
        200,
        "a malformed request leaves its key free"
    );
    for (body, field) in [
        (
            r#"{"fromUserId":"u","toUserId":"u","amount":1}"#,
            "toUserId",
        ),
        (
            r#"{"fromUserId":"u v","toUserId":"u","amount":1}"#,
            "fromUserId",
        ),
        (r#"{"fromUserId":"u","amount":1}"#, "toUserId"),
    ] {
        let answer = stage.move_points("/v1/transfers", "t", body).await;
        answer.names(field);
    }
    for path in ["wallet", "wallet/entries"] {
        let answer = stage.get(&format!("/v1/users/a b/{path}")).await;
        answer.names("userId");
    }
}

#[tokio::test]
async fn what_has_expired_is_gone_from_the_wallet_and_in_the_ledger() {
    let stage = stage();
    let body = json!({"amount": 7, "reason": "r", "expiresAt": now().plus_seconds(1)}).to_string();
    let earn = "/v1/users/user-1/wallet/earn";
    stage.move_points(earn, "k", &body).await;
    stage.clock.advance_millis(999);
    assert_eq!(stage.balance("user-1").await, 7);
    stage.clock.advance_millis(1);
    let entries = stage.event("list-entries").await.body;
    assert_eq!(entries["entries"][0]["type"], "expire");
    assert_eq!(stage.balance("user-1").await, 0);
    assert_eq!(
        stage.move_points(earn, "k", &body).await.status,
        200,
        "a repeat is answered as it was"
    );
}

#[tokio::test]
async fn entries_are_listed_page_by_page_under_their_own_partner() {
    let stage = stage();
    for n in 1..=60 {
        let body = json!({"amount": n, "reason": "r"}).to_string();
        let path = "/v1/users/user-1/wallet/earn";
        stage.move_points(path, &format!("k{n}"), &body).await;
    }
    let first = stage.event("list-entries").await;
    let next = first.body["next"].as_str().unwrap();
    let path = format!("/v1/users/user-1/wallet/entries?cursor={next}");
    let second = stage.get(&path).await;
    assert!(second.body.get("next").is_none());
    let amounts: Vec<i64> = [&first, &second]
        .iter()
        .flat_map(|page| page.body["entries"].as_array().unwrap())
        .map(|entry| entry["amount"].as_i64().unwrap())
        .collect();
    assert_eq!(amounts, (1..=60).rev().collect::<Vec<i64>>());
    let rival = key(2).reveal();
    let path = "/v1/users/user-1/wallet/entries";
    let theirs = stage.ask("GET", path, "", &[("x-api-key", &rival)]).await;
    assert_eq!(theirs.body, json!({"entries": []}));
}

// Broadcasts.

fn announcement(stage: &Stage, n: usize) -> firstcome_core::Announcement {
    match stage.outbox.broadcasts().swap_remove(n) {
        (BroadcastJob::Announce(announcement), 0) => announcement,
        other => panic!("{other:?} is no announcement for now"),
    }
}

#[tokio::test]
async fn a_repeated_broadcast_has_the_same_id_and_is_sent_again_until_it_is_fanned_out() {
    let stage = stage();
    let first = stage.event("broadcast").await;
    assert_eq!(first.status, 202);
    let id = first.body["broadcastId"].as_str().unwrap().to_owned();
    assert_eq!(stage.event("broadcast").await.body, first.body);
    let sent = announcement(&stage, 1);
    assert_eq!(sent, announcement(&stage, 0));
    assert_eq!(
        serde_json::to_value(&sent.frame).unwrap(),
        json!({"id": id, "type": "broadcast", "message": "곧 시작합니다"})
    );
    assert_eq!(sent.topic, Topic::Partner(PartnerId::new("acme").unwrap()));

    stage
        .catalog
        .progress(&BroadcastId::new(id).unwrap(), true, vec![]);
    assert_eq!(stage.event("broadcast").await.body, first.body);
    assert_eq!(stage.outbox.broadcasts().len(), 2);
}

#[tokio::test]
async fn the_same_key_with_another_message_or_audience_gets_422() {
    let stage = stage().with_campaign(|_| ());
    assert_eq!(stage.event("broadcast").await.status, 202);
    let key = [("idempotency-key", "soon")];
    let mismatch = stage
        .ask("POST", "/v1/broadcasts", r#"{"message":"other"}"#, &key)
        .await;
    mismatch.is_problem(422, "idempotency_mismatch");
    let same = json!({"message": "곧 시작합니다"}).to_string();
    let elsewhere = stage
        .ask(
            "POST",
            &format!("/v1/campaigns/{CAMPAIGN}/broadcasts"),
            same,
            &key,
        )
        .await;
    elsewhere.is_problem(422, "idempotency_mismatch");
    assert_eq!(stage.outbox.broadcasts().len(), 1);
}

#[tokio::test]
async fn a_campaigns_broadcast_names_the_campaign_and_two_without_a_key_are_two() {
    let stage = stage().with_campaign(|_| ());
    let (first, second) = (
        stage.event("broadcast-campaign").await,
        stage.event("broadcast-campaign").await,
    );
    assert_eq!(first.status, 202);
    assert_ne!(first.body["broadcastId"], second.body["broadcastId"]);
    let frame = serde_json::to_value(announcement(&stage, 0).frame).unwrap();
    assert_eq!(
        (&frame["campaignId"], &frame["message"]),
        (&json!(CAMPAIGN), &json!("Ten minutes left"))
    );
}

#[tokio::test]
async fn a_message_is_one_to_4096_bytes() {
    let stage = stage();
    for (length, status) in [(0, 400), (4096, 202), (4097, 400)] {
        let body = json!({"message": "x".repeat(length)}).to_string();
        assert_eq!(
            stage.post("/v1/broadcasts", &body).await.status,
            status,
            "{length} bytes"
        );
    }
}

#[tokio::test]
async fn a_broadcast_that_cannot_be_queued_is_not_accepted() {
    let stage = stage();
    stage.outbox.fail(true);
    stage
        .event("broadcast")
        .await
        .is_problem(503, "unavailable");
    stage.outbox.fail(false);
    assert_eq!(stage.event("broadcast").await.status, 202);
    assert_eq!(stage.outbox.broadcasts().len(), 1);
}

#[tokio::test]
async fn a_report_sums_its_pages_and_is_its_partners_own() {
    let stage = stage();
    stage
        .event("broadcast-report")
        .await
        .is_problem(404, "not_found");
    let id = stage.event("broadcast").await.body["broadcastId"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/v1/broadcasts/{id}");
    let running = json!({"status": "running", "seen": 0, "sent": 0, "gone": 0, "failed": 0, "startedAt": now()});
    assert_eq!(stage.get(&path).await.body, running);

    let finished_at = Some(now().plus_seconds(2));
    let page = PageCounts {
        seen: 6,
        sent: 3,
        gone: 2,
        failed: 1,
        done: true,
        finished_at,
    };
    let pages = vec![page; usize::from(MEMBERSHIP_SHARDS)];
    stage
        .catalog
        .progress(&BroadcastId::new(id).unwrap(), true, pages);
    let report = stage.get(&path).await;
    let finished = json!({
        "status": "finished", "seen": 48, "sent": 24, "gone": 16, "failed": 8,
        "startedAt": now(), "finishedAt": finished_at,
    });
    assert_eq!((report.status, report.body), (200, finished));
    let rival = stage
        .ask("GET", &path, "", &[("x-api-key", &key(2).reveal())])
        .await;
    rival.is_problem(404, "not_found");
    stage.clock.advance_millis(7 * 86_400_000 - 1000);
    assert_eq!(stage.get(&path).await.status, 200);
    stage.clock.advance_millis(1000);
    stage.get(&path).await.is_problem(404, "not_found");
    stage
        .get("/v1/broadcasts/a.b")
        .await
        .is_problem(404, "not_found");
}

#[tokio::test]
async fn every_job_that_is_sent_can_be_read_by_its_receiver() {
    let stage = stage().with_campaign(|_| ());
    stage.event("create-campaign").await;
    stage.event("close-campaign").await;
    stage.event("broadcast").await;
    let jobs = stage.outbox.broadcasts();
    assert_eq!(jobs.len(), 3);
    for (job, _) in jobs {
        let message = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<BroadcastJob>(&message).unwrap(), job);
    }
}

// The written interface.

/// A path with the events' ids filled in.
fn filled(path: &str) -> String {
    path.replace("{campaignId}", CAMPAIGN)
        .replace("{userId}", "user-1")
        .replace("{broadcastId}", "x")
}

#[tokio::test]
async fn every_written_route_is_served_with_its_methods_and_no_other() {
    let stage = stage();
    for (path, operations) in openapi::served()["paths"].as_object().unwrap() {
        for method in ["get", "post", "put", "patch", "delete"] {
            let answer = stage
                .ask(
                    &method.to_uppercase(),
                    &filled(path),
                    "",
                    &[("x-api-key", "")],
                )
                .await;
            let operation = operations.get(method);
            match operation.map(|operation| operation["security"][0].is_object()) {
                None => {
                    answer.is_problem(405, "method_not_allowed");
                    let allowed = answer.headers["allow"].to_str().unwrap().to_lowercase();
                    let mut allowed: Vec<&str> = allowed
                        .split(',')
                        .filter(|method| *method != "head")
                        .collect();
                    allowed.sort_unstable();
                    let written = operations.as_object().unwrap().keys();
                    let mut written: Vec<&str> = written.map(String::as_str).collect();
                    written.sort_unstable();
                    assert_eq!(allowed, written, "{method} {path}");
                }
                Some(true) => answer.is_problem(401, "unauthorized"),
                Some(false) => assert_eq!(answer.status, 200, "{method} {path}"),
            }
        }
    }
}

/// What a member of a body is replaced by.
fn replacements() -> Vec<Value> {
    firstcome_core::hostile::values()
}

#[tokio::test]
async fn a_body_is_malformed_if_the_document_does_not_admit_it_and_only_then() {
    let stage = stage().with_campaign(|_| ());
    let mut judged = (0, 0);
    for (path, operations) in openapi::served()["paths"].as_object().unwrap() {
        let Some(operation) = operations.get("post") else {
            continue;
        };
        let Some(schema) = openapi::body_schema(operation) else {
            continue;
        };
        let name = schema["$ref"].as_str().unwrap();
        let written = openapi::served().pointer(&name[1..]).unwrap();
        let example = &operation["requestBody"]["content"]["application/json"]["example"];
        let post = async |name: String, body: &Value| {
            // Within the partner's budget.
            stage.clock.advance_millis(10);
            let key = format!("{path} {name}");
            let headers = [("idempotency-key", key.as_str())];
            stage
                .ask("POST", &filled(path), body.to_string(), &headers)
                .await
        };
        for field in written["properties"].as_object().unwrap().keys() {
            let mut without = example.clone();
            without.as_object_mut().unwrap().remove(field);
            let answer = post(format!("without {field}"), &without).await;
            if written["required"]
                .as_array()
                .unwrap()
                .contains(&json!(field))
            {
                answer.names(field);
            } else {
                assert_ne!(
                    answer.status, 400,
                    "{name} without {field}: {}",
                    answer.body
                );
            }
            for (n, value) in replacements().into_iter().enumerate() {
                // How long it is as JSON, no schema can say.
                if field == "benefit" && value.to_string().len() > 256 {
                    continue;
                }
                let mut changed = example.clone();
                changed[field] = value;
                let answer = post(format!("{field} {n}"), &changed).await;
                let admitted = openapi::violation(schema, &changed).is_none();
                assert_eq!(admitted, answer.status != 400, "{changed}: {}", answer.body);
                if admitted {
                    judged.0 += 1;
                } else {
                    judged.1 += 1;
                }
            }
        }
    }
    assert!(judged.0 > 50 && judged.1 > 200, "{judged:?}");
}

#[tokio::test]
async fn a_parameter_is_malformed_if_the_document_does_not_admit_it_and_only_then() {
    let stage = stage().with_campaign(|_| ());
    let parameters = &openapi::served()["components"]["parameters"];
    let long = "x".repeat(300);
    for (value, encoded) in [
        ("x", "x"),
        ("a.b", "a.b"),
        (".", "."),
        ("..", ".."),
        ("a b", "a%20b"),
        ("a@b", "a%40b"),
        ("a\\b", "a%5Cb"),
        ("\u{1}", "%01"),
        ("é", "%C3%A9"),
        (&long[..64], &long[..64]),
        (&long[..65], &long[..65]),
        (&long[..129], &long[..129]),
    ] {
        let admitted =
            |name: &str| openapi::violation(&parameters[name]["schema"], &json!(value)).is_none();
        // API Gateway decodes the path, and not the query.
        let wallet = stage.get(&format!("/v1/users/{value}/wallet")).await;
        assert_eq!(admitted("userId"), wallet.status == 200, "{value}");
        let path = format!("{REDEMPTION}?orderId={encoded}");
        let back = stage.ask("DELETE", &path, "", &[]).await;
        assert_eq!(admitted("orderId"), back.status != 400, "{value}");
    }
    let body = r#"{"amount":1,"reason":"r"}"#;
    for key in ["x", "a b", "!~", &long[..255], &long[..256], "a\tb", ""] {
        let earned = stage
            .move_points("/v1/users/u/wallet/earn", key, body)
            .await;
        for name in ["Idempotency-Key", "RequiredIdempotencyKey"] {
            let schema = &parameters[name]["schema"];
            let admitted = openapi::violation(schema, &json!(key)).is_none();
            assert_eq!(admitted, earned.status != 400, "{key:?}");
        }
    }
}
