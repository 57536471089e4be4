//! The HTTP API: its answers and its errors.

use std::time::Duration;

use firstcome_core::{Clock, Scope, SystemClock, Timestamp};
use firstcome_tests::{Stack, eventually};
use reqwest::Method;
use serde_json::json;
use tokio::time::sleep;

#[tokio::test]
async fn a_claim_over_http_is_accepted_then_issued_and_stands() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(2).await;
    let claims = format!("/v1/campaigns/{campaign}/claims");
    let accepted = partner
        .post(&claims, json!({"userId": "ann", "claimId": "c1"}))
        .await
        .expect(202);
    assert_eq!(accepted, json!({"claimId": "c1", "status": "accepted"}));
    let state = eventually(
        "ann's coupon stands",
        Duration::from_secs(240),
        async || {
            let state = partner.get(&format!("{claims}/ann")).await.expect(200);
            (state["status"] == "issued").then_some(state)
        },
    )
    .await;
    let again = partner
        .post(&claims, json!({"userId": "ann", "claimId": "c1"}))
        .await
        .expect(200);
    assert_eq!(
        (&again["status"], &again["coupon"]),
        (&json!("issued"), &state["coupon"])
    );
    let other = partner
        .post(&claims, json!({"userId": "ann", "claimId": "c2"}))
        .await
        .expect(200);
    assert_eq!(
        (&other["status"], &other["coupon"]),
        (&json!("already_issued"), &state["coupon"])
    );
    let minted = partner
        .post(&claims, json!({"userId": "bob"}))
        .await
        .expect(202);
    assert!(minted["claimId"].is_string());
}

#[tokio::test]
async fn a_campaign_reads_back_as_created() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let body = json!({
        "title": "선착순", "total": 7, "opensAt": "2030-01-01T00:00:00Z", "closesAt": "2030-01-02T00:00:00Z",
        "couponTtlSeconds": 3600, "benefit": {"percent": 10}, "priority": true,
    });
    let created = partner
        .post_once("/v1/campaigns", body.clone(), "once")
        .await
        .expect(201);
    for field in ["title", "total", "couponTtlSeconds", "benefit", "priority"] {
        assert_eq!(created[field], body[field], "{field}");
    }
    let instant = |text: &serde_json::Value| Timestamp::parse(text.as_str().unwrap()).unwrap();
    assert_eq!(instant(&created["opensAt"]), instant(&body["opensAt"]));
    assert_eq!(created["partnerId"], partner.id().as_str());
    assert_eq!(
        (&created["phase"], &created["issued"], &created["remaining"]),
        (&json!("scheduled"), &json!(0), &json!(7))
    );

    let id = created["campaignId"].as_str().unwrap();
    let read = partner
        .get(&format!("/v1/campaigns/{id}"))
        .await
        .expect(200);
    assert_eq!(
        (&read["title"], &read["total"], &read["phase"]),
        (&body["title"], &json!(7), &json!("scheduled"))
    );
    assert_eq!(read["priority"], true);
    let listed = partner.get("/v1/campaigns").await.expect(200);
    assert_eq!(listed["campaigns"].as_array().unwrap().len(), 1);
    assert_eq!(listed["campaigns"][0]["campaignId"], id);

    let again = partner
        .post_once("/v1/campaigns", body.clone(), "once")
        .await;
    assert!([200, 201].contains(&again.status), "{}", again.body);
    assert_eq!(
        again.body["campaignId"], id,
        "the same key, the same campaign"
    );
    partner
        .post_once("/v1/campaigns", json!({"title": "x", "total": 8}), "once")
        .await
        .problem(422);
    let listed = partner.get("/v1/campaigns").await.expect(200);
    assert_eq!(listed["campaigns"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn whoever_has_no_good_key_is_told_401() {
    let stack = Stack::find().await;
    let unknown = format!("fck_{}_{}", "0123456789abcdef", "0".repeat(64));
    for key in [None, Some("nonsense"), Some(unknown.as_str())] {
        stack.stranger(key).get("/v1/campaigns").await.problem(401);
    }
    let end = SystemClock.now().plus_seconds(2);
    let expired = stack.partner_with(&Scope::ALL, Some(end)).await;
    sleep(Duration::from_secs(3)).await;
    expired.get("/v1/campaigns").await.problem(401);
}

#[tokio::test]
async fn a_revoked_key_opens_nothing() {
    let stack = Stack::find().await;
    let created = stack
        .operator()
        .create_partner("revoked", &Scope::ALL, None)
        .await
        .unwrap();
    stack.operator().revoke_key(&created.key_id).await.unwrap();
    stack
        .stranger(Some(&created.api_key))
        .get("/v1/campaigns")
        .await
        .problem(401);
}

#[tokio::test]
async fn a_key_without_the_scope_is_told_403() {
    let stack = Stack::find().await;
    let partner = stack.partner_with(&[Scope::Tickets], None).await;
    partner
        .post("/v1/tickets", json!({"userId": "ann"}))
        .await
        .expect(201);
    partner.get("/v1/campaigns").await.problem(403);
    partner
        .post("/v1/campaigns", json!({"title": "t", "total": 1}))
        .await
        .problem(403);
    partner
        .post("/v1/broadcasts", json!({"message": "m"}))
        .await
        .problem(403);
    partner.get("/v1/users/ann/coupons").await.problem(403);
}

#[tokio::test]
async fn what_does_not_exist_is_told_404() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    for path in [
        "/v1/campaigns/01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "/v1/campaigns/nope",
        "/v1/broadcasts/nope",
        "/v1/nothing",
    ] {
        partner.get(path).await.problem(404);
    }
}

/// Characters that mean something to a parser of paths and nothing in an id, as a client may write them.
const ENCODED: [&str; 14] = [
    "%09", "%0A", "%0D", "%00", "%20", "%23", "%25", "%2e%2e", "%2E", "%2F", "%3F", "%5C", "%7F",
    "%C2%A0",
];

/// What could be taken for bob's wallet, his coupon or the campaign, if somebody on the way mended it.
fn mendable(campaign: &str) -> Vec<(Method, String)> {
    let mut all = Vec::new();
    let twice = ENCODED.map(|encoded| encoded.replace('%', "%25"));
    for encoded in ENCODED
        .iter()
        .copied()
        .chain(twice.iter().map(String::as_str))
    {
        for path in [
            format!("/v1/users/b{encoded}ob/wallet/use"),
            format!("/v1/users/{encoded}bob/wallet/use"),
            format!("/v1/users/bob{encoded}/wallet/use"),
            format!("/v1/users/bob/wallet/use{encoded}"),
            format!("/v1/users/b{encoded}ob/coupons/{campaign}/redemption"),
        ] {
            all.push((Method::POST, path));
        }
        all.push((Method::GET, format!("/v1/campaigns/{campaign}{encoded}")));
    }
    for path in [
        "/v1/users/bob%2Fwallet%2Fuse%3F/wallet/earn",
        "/v1/users/bob%2Fwallet%2Fuse%23/wallet/earn",
        "/v1/users/x%2F..%2Fbob/wallet/use",
        "/v1/users/x/%2e%2e/bob/wallet/use",
        "/v1/users/x%5C..%5Cbob/wallet/use",
    ] {
        all.push((Method::POST, path.to_owned()));
    }
    all
}

#[tokio::test]
async fn no_encoded_path_moves_points_uses_a_coupon_or_shows_a_campaign() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(2).await;
    let mut socket = partner.socket("bob").await;
    assert_eq!(socket.claim(&campaign, "c1").await["outcome"], "issued");
    socket.close().await;
    let earning = json!({"amount": 500, "reason": "r"});
    let earned = partner.post_once("/v1/users/bob/wallet/earn", earning, "k");
    earned.await.expect(200);
    let contents = async || {
        let paths = ["wallet", "wallet/entries", "coupons"];
        let mut contents = Vec::new();
        for path in paths {
            let path = format!("/v1/users/bob/{path}");
            contents.push(partner.get(&path).await.expect(200));
        }
        contents
    };
    let before = contents().await;
    for (n, (method, path)) in mendable(&campaign).into_iter().enumerate() {
        // API Gateway drops what follows a decoded `?`, and nobody behind it can tell (functions/api/src/path.rs).
        if !stack.is_local() && path.contains("%3F") {
            continue;
        }
        let body = if path.contains("redemption") {
            r#"{"orderId": "m"}"#
        } else {
            r#"{"amount": 100, "reason": "r"}"#
        };
        let key = format!("mended-{n}");
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", &key),
        ];
        let status = partner
            .call_as_written(method.clone(), &path, &headers, body)
            .await;
        assert!((400..500).contains(&status), "{method} {path}: {status}");
    }
    assert_eq!(contents().await, before);
    // The same request with nothing to mend is carried out.
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "good"),
    ];
    let good = "/v1/users/bob/wallet/use";
    let body = r#"{"amount": 100, "reason": "r"}"#;
    let status = partner.call_as_written(Method::POST, good, &headers, body);
    assert_eq!(status.await, 200);
    assert_eq!(
        partner.get("/v1/users/bob/wallet").await.expect(200)["balance"],
        400
    );
}

#[tokio::test]
async fn a_method_that_a_route_has_not_is_told_405() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let told = partner.delete("/v1/campaigns").await;
    assert_eq!(told.problem(405), "method_not_allowed");
}

#[tokio::test]
async fn a_malformed_body_is_told_400_with_the_field() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(1).await;
    let claims = format!("/v1/campaigns/{campaign}/claims");
    for (path, body, field) in [
        ("/v1/campaigns", json!({"title": "t", "total": 0}), "total"),
        (
            "/v1/campaigns",
            json!({"title": "t", "total": 10_000_001}),
            "total",
        ),
        (
            "/v1/campaigns",
            json!({"title": "t", "total": "many"}),
            "total",
        ),
        ("/v1/campaigns", json!({"total": 1}), "title"),
        (
            "/v1/campaigns",
            json!({"title": "t".repeat(129), "total": 1}),
            "title",
        ),
        (
            "/v1/campaigns",
            json!({"title": "t", "total": 1, "opensAt": "tomorrow"}),
            "opensAt",
        ),
        (
            "/v1/campaigns",
            json!({"title": "t", "total": 1, "benefit": "b".repeat(300)}),
            "benefit",
        ),
        ("/v1/tickets", json!({"userId": "no spaces"}), "userId"),
        (
            "/v1/tickets",
            json!({"userId": "ann", "ttlSeconds": 9}),
            "ttlSeconds",
        ),
        (
            "/v1/tickets",
            json!({"userId": "ann", "ttlSeconds": 301}),
            "ttlSeconds",
        ),
        (&claims, json!({"claimId": "c1"}), "userId"),
        (
            &claims,
            json!({"userId": "ann", "claimId": "no spaces"}),
            "claimId",
        ),
        (
            "/v1/broadcasts",
            json!({"message": "m".repeat(4097)}),
            "message",
        ),
    ] {
        let reply = partner.post(path, body.clone()).await;
        let told = reply.body.to_string();
        reply.problem(400);
        assert!(
            told.contains(field),
            "{field} in {told}, the answer to {body}"
        );
    }
    let window = json!({"title": "t", "total": 1, "opensAt": "2030-01-02T00:00:00Z", "closesAt": "2030-01-01T00:00:00Z"});
    partner.post("/v1/campaigns", window).await.problem(400);
    partner.post_text("/v1/campaigns", "{").await.problem(400);
}

#[tokio::test]
async fn a_body_over_8_kilobytes_is_told_413() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    partner
        .post("/v1/broadcasts", json!({"message": "m".repeat(9000)}))
        .await
        .problem(413);
}

#[tokio::test]
async fn health_and_description_need_no_key() {
    let stack = Stack::find().await;
    let anybody = stack.stranger(None);
    assert_eq!(anybody.get("/healthz").await.status, 200);
    let description = anybody.get("/openapi.json").await.expect(200);
    assert!(description["openapi"].is_string());
    for path in [
        "/v1/campaigns",
        "/v1/tickets",
        "/v1/broadcasts/{broadcastId}",
    ] {
        let documented = description["paths"]
            .as_object()
            .unwrap()
            .keys()
            .any(|known| same_path(known, path));
        assert!(documented, "{path}");
    }
}

/// Whether two path templates are the same but for the names of their parameters.
fn same_path(left: &str, right: &str) -> bool {
    let shape = |path: &str| {
        path.split('/')
            .map(|part| if part.starts_with('{') { "{}" } else { part }.to_owned())
            .collect::<Vec<_>>()
    };
    shape(left) == shape(right)
}
