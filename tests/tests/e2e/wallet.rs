//! Points over HTTP: many at once, idempotency keys, a ledger that adds up.

use std::time::Duration;

use firstcome_tests::{Partner, Stack};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// The status and body of a movement. A wallet that many write at once is given up after three seconds: who is told so comes again
/// with the same key, as a client does.
async fn moved(partner: &Partner, path: &str, body: Value, key: &str) -> (u16, Value) {
    for _ in 0..40 {
        let reply = partner.post_once(path, body.clone(), key).await;
        let in_progress = reply.status == 409 && reply.body["code"] == "in_progress";
        if reply.status != 503 && !in_progress {
            return (reply.status, reply.body);
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(500..2000))).await;
    }
    panic!("{path} was told to come again forty times")
}

async fn earn(partner: &Partner, user: &str, amount: u64) {
    let body = json!({"amount": amount, "reason": "test"});
    let path = format!("/v1/users/{user}/wallet/earn");
    let (status, entry) = moved(partner, &path, body, &format!("earn-{user}")).await;
    assert_eq!(status, 200, "{entry}");
}

/// The wallet's balance, if it is the sum of its entries, page by page.
async fn balance(partner: &Partner, user: &str) -> i64 {
    let wallet = format!("/v1/users/{user}/wallet");
    let (mut sum, mut cursor) = (0, String::new());
    loop {
        let page = partner.get(&format!("{wallet}/entries{cursor}")).await;
        let page = page.expect(200);
        let entries = page["entries"].as_array().unwrap();
        sum += entries
            .iter()
            .map(|entry| entry["amount"].as_i64().unwrap())
            .sum::<i64>();
        let Some(next) = page["next"].as_str() else {
            break;
        };
        cursor = format!("?cursor={next}");
    }
    let shown = partner.get(&wallet).await.expect(200)["balance"].clone();
    assert_eq!(shown, json!(sum), "the ledger of {user} adds up");
    sum
}

#[tokio::test]
async fn a_hundred_spenders_of_one_point_on_fifty_points_spend_fifty() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    earn(&partner, "ann", 50).await;
    let body = json!({"amount": 1, "reason": "test"});
    let path = "/v1/users/ann/wallet/use";
    let keys: Vec<String> = (0..100).map(|n| format!("use-{n}")).collect();
    let spend = |key| moved(&partner, path, body.clone(), key);
    let answers = join_all(keys.iter().map(|key| spend(key))).await;
    let spent = answers.iter().filter(|(status, _)| *status == 200).count();
    let refused = answers
        .iter()
        .filter(|(status, body)| *status == 409 && body["code"] == "insufficient_points")
        .count();
    assert_eq!((spent, refused), (50, 50));
    assert_eq!(balance(&partner, "ann").await, 0);
    for (key, answer) in keys.iter().zip(&answers).take(5) {
        assert_eq!(spend(key).await, *answer, "the same key, the same answer");
    }
}

#[tokio::test]
async fn two_hundred_crossing_transfers_among_ten_wallets_keep_the_sum() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let users: Vec<String> = (0..10).map(|n| format!("user-{n}")).collect();
    join_all(users.iter().map(|user| earn(&partner, user, 1000))).await;
    let crossing = (0..200_usize).map(|n| {
        let (from, to) = (&users[n % 10], &users[(n % 10 + 1 + n % 9) % 10]);
        let body = json!({"fromUserId": from, "toUserId": to, "amount": 1 + n % 5});
        let partner = &partner;
        async move { moved(partner, "/v1/transfers", body, &format!("transfer-{n}")).await }
    });
    for (status, body) in join_all(crossing).await {
        assert_eq!(status, 200, "{body}");
    }
    let mut sum = 0;
    for user in &users {
        sum += balance(&partner, user).await;
    }
    assert_eq!(sum, 10_000);
}

#[tokio::test]
async fn a_key_names_one_request_and_is_required() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let path = "/v1/users/ann/wallet/earn";
    let body = json!({"amount": 5, "reason": "test", "expiresAt": "2099-01-01T00:00:00Z"});
    let missing = partner.post(path, body.clone()).await;
    assert_eq!(missing.body["field"], "Idempotency-Key");
    missing.problem(400);
    let first = partner.post_once(path, body.clone(), "k").await.expect(200);
    let again = partner.post_once(path, body.clone(), "k").await.expect(200);
    assert_eq!(again, first);
    let other = json!({"amount": 6, "reason": "test"});
    partner.post_once(path, other, "k").await.problem(422);
    let elsewhere = partner.post_once("/v1/users/bob/wallet/earn", body, "k");
    elsewhere.await.problem(422);
    let wallet = partner.get("/v1/users/ann/wallet").await.expect(200);
    let next = json!({"amount": 5, "expiresAt": "2099-01-01T00:00:00.000Z"});
    assert_eq!(wallet, json!({"balance": 5, "expiringNext": next}));
    let forged = partner
        .get("/v1/users/ann/wallet/entries?cursor=AAAA")
        .await;
    assert_eq!(forged.body["field"], "cursor");
    forged.problem(400);
    let stranger = stack.partner().await;
    let theirs = stranger.get("/v1/users/ann/wallet").await.expect(200);
    assert_eq!(theirs["balance"], 0);
}

#[tokio::test]
async fn points_end_at_their_expiry() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let expires_at = firstcome_tests::in_seconds(3);
    let body = json!({"amount": 5, "reason": "test", "expiresAt": expires_at});
    let path = "/v1/users/ann/wallet/earn";
    partner.post_once(path, body, "k").await.expect(200);
    earn(&partner, "ann", 2).await;
    let limit = Duration::from_secs(60);
    firstcome_tests::eventually("five points expire", limit, async || {
        let wallet = partner.get("/v1/users/ann/wallet").await.expect(200);
        (wallet == json!({"balance": 2, "expiringNext": null})).then_some(())
    })
    .await;
    assert_eq!(balance(&partner, "ann").await, 2);
}
