//! The HTTP API: its answers and its errors.

use std::time::Duration;

use firstcome_core::{Clock, Scope, SystemClock, Timestamp};
use firstcome_tests::{Stack, eventually};
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
