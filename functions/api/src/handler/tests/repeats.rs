//! The same request again: it is recognized before anything that depends on the time of day is judged, and for a day.

use super::*;

/// A route that takes an `Idempotency-Key`: its path, a request, another one, and what in the answer names what was made.
const KEYED: [(&str, &str, &str, &str); 6] = [
    (
        "/v1/campaigns",
        r#"{"title":"t","total":1}"#,
        r#"{"title":"u","total":1}"#,
        "campaignId",
    ),
    (
        "/v1/broadcasts",
        r#"{"message":"m"}"#,
        r#"{"message":"n"}"#,
        "broadcastId",
    ),
    (
        "/v1/campaigns/{campaignId}/broadcasts",
        r#"{"message":"m"}"#,
        r#"{"message":"n"}"#,
        "broadcastId",
    ),
    (
        "/v1/users/{userId}/wallet/earn",
        r#"{"amount":5,"reason":"r"}"#,
        r#"{"amount":6,"reason":"r"}"#,
        "entryId",
    ),
    (
        "/v1/users/{userId}/wallet/use",
        r#"{"amount":5,"reason":"r"}"#,
        r#"{"amount":6,"reason":"r"}"#,
        "entryId",
    ),
    (
        "/v1/transfers",
        r#"{"fromUserId":"user-1","toUserId":"v","amount":1}"#,
        r#"{"fromUserId":"user-1","toUserId":"v","amount":2}"#,
        "entryId",
    ),
];

const DAY_MILLIS: i64 = 86_400_000;

async fn rich_stage() -> Stage {
    let stage = stage().with_campaign(|_| ());
    let body = r#"{"amount":500,"reason":"r"}"#;
    stage
        .move_points("/v1/users/user-1/wallet/earn", "first", body)
        .await;
    stage
}

#[test]
fn every_route_of_the_document_that_takes_a_key_is_among_these() {
    let keyed = openapi::served()["paths"].as_object().unwrap().iter();
    let takes_a_key = |operation: &Value| {
        let parameters = operation["parameters"].as_array();
        parameters.is_some_and(|all| {
            all.iter().any(|one| {
                one.to_string().contains("IdempotencyKey")
                    || one.to_string().contains("Idempotency-Key")
            })
        })
    };
    let keyed: Vec<&str> = keyed
        .filter(|(_, operations)| operations.as_object().unwrap().values().any(takes_a_key))
        .map(|(path, _)| path.as_str())
        .collect();
    let mut known = KEYED.map(|(path, ..)| path);
    known.sort_unstable();
    assert_eq!(keyed, known);
}

#[tokio::test]
async fn a_key_names_its_request_for_a_day_whatever_it_is_the_request_of() {
    for (path, body, other, name) in KEYED {
        let stage = rich_stage().await;
        let path = filled(path);
        let ask = async |body: &str| stage.move_points(&path, "key", body).await;
        let first = ask(body).await;
        assert!(first.status < 300, "{path}: {}", first.body);
        stage.clock.advance_millis(DAY_MILLIS - 1000);
        let again = ask(body).await;
        assert_eq!(
            (again.status, &again.body[name]),
            (first.status, &first.body[name]),
            "{path}"
        );
        ask(other).await.is_problem(422, "idempotency_mismatch");

        // A day after it came first, the key is free: it is judged by time, though the store still holds what it knew.
        stage.clock.advance_millis(1000);
        let anew = ask(other).await;
        assert_eq!(anew.status, first.status, "{path}: {}", anew.body);
        assert_ne!(anew.body[name], first.body[name], "{path}");
        ask(body).await.is_problem(422, "idempotency_mismatch");
        stage.clock.advance_millis(DAY_MILLIS);
        let third = ask(other).await;
        assert_eq!(third.status, first.status, "{path}");
        assert_ne!(third.body[name], anew.body[name], "{path}");
    }
}

#[tokio::test]
async fn a_broadcast_under_a_key_of_yesterday_is_sent() {
    let stage = stage();
    let key = [("idempotency-key", "k")];
    let mut ids = Vec::new();
    for _ in 0..3 {
        let accepted = stage
            .ask("POST", "/v1/broadcasts", r#"{"message":"m"}"#, &key)
            .await;
        let id = accepted.body["broadcastId"].as_str().unwrap().to_owned();
        let id = BroadcastId::new(id).unwrap();
        stage.catalog.progress(&id, true, vec![]);
        ids.push(id);
        stage.clock.advance_millis(DAY_MILLIS);
    }
    let sent: Vec<_> = (0..3)
        .map(|n| announcement(&stage, n).broadcast_id)
        .collect();
    assert_eq!(sent, ids);
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);
}

#[tokio::test]
async fn what_was_in_time_when_it_came_first_is_answered_as_it_was() {
    let stage = rich_stage().await;
    let soon = now().plus_seconds(6);
    let campaign = json!({"title": "t", "total": 1, "closesAt": soon});
    let earning = json!({"amount": 5, "reason": "r", "expiresAt": soon});
    let cases = [
        ("/v1/campaigns", campaign, "title", "campaignId", "closesAt"),
        (
            "/v1/users/user-1/wallet/earn",
            earning,
            "reason",
            "entryId",
            "expiresAt",
        ),
    ];
    let mut firsts = Vec::new();
    for (path, body, ..) in &cases {
        let first = stage.move_points(path, "k", &body.to_string()).await;
        assert!(first.status < 300, "{}", first.body);
        firsts.push(first);
    }
    stage.clock.advance_millis(7000);
    for ((path, body, text, name, field), first) in cases.iter().zip(&firsts) {
        let again = stage.move_points(path, "k", &body.to_string()).await;
        assert_eq!(
            (again.status, &again.body[name]),
            (first.status, &first.body[name]),
            "{path}"
        );
        let mut other = body.clone();
        other[text] = json!("other");
        let other = other.to_string();
        stage
            .move_points(path, "k", &other)
            .await
            .is_problem(422, "idempotency_mismatch");
        stage.move_points(path, "new", &other).await.names(field);
    }
    let late = json!({"title": "t", "total": 1, "closesAt": soon}).to_string();
    stage.post("/v1/campaigns", &late).await.names("closesAt");
    // What no time of day can mend is malformed, key or no key.
    for body in [
        json!({"title": "", "total": 1, "closesAt": soon}),
        json!({"title": "t", "total": 1, "opensAt": soon, "closesAt": soon}),
    ] {
        let answer = stage
            .move_points("/v1/campaigns", "k", &body.to_string())
            .await;
        answer.is_problem(400, "malformed");
    }
}

#[tokio::test]
async fn a_request_that_failed_in_time_is_malformed_once_it_is_late() {
    let stage = rich_stage().await;
    let path = "/v1/users/user-1/wallet/earn";
    let earning = json!({"amount": 5, "reason": "r", "expiresAt": now().plus_seconds(6)});
    let ask = async || stage.move_points(path, "k", &earning.to_string()).await;
    stage.wallets.fail_next([PostFault::Error]);
    ask().await.is_problem(503, "unavailable");
    stage.clock.advance_millis(7000);
    ask().await.names("expiresAt");
    assert_eq!(stage.balance("user-1").await, 500);
}

#[tokio::test]
async fn a_redemption_is_repeated_after_the_coupon_has_expired() {
    let stage = stage().with_campaign(|_| ());
    let campaign = campaign_of("acme", CAMPAIGN, 2);
    let coupon = stage.win(&campaign, "user-1", "c").await;
    let first = stage.event("redeem-coupon").await;
    assert_eq!(first.status, 200);
    let end = coupon.expires_at.millis_since(now());
    stage.clock.advance_millis(end);
    let again = stage.event("redeem-coupon").await;
    assert_eq!((again.status, again.body), (200, first.body));
}
