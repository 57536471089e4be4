//! Coupons in use: redeemed once among many, rolled back, worth points.

use std::time::Duration;

use firstcome_tests::{Partner, Stack, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// A coupon of a new campaign that `ann` holds: its redemption's path, and the coupon.
async fn won(partner: &Partner, benefit: Value) -> (String, Value) {
    let body = json!({"title": "end-to-end test", "total": 1, "benefit": benefit});
    let campaign = partner.campaign_of(body).await;
    let claims = format!("/v1/campaigns/{campaign}/claims");
    let claim = json!({"userId": "ann", "claimId": "c1"});
    partner.post(&claims, claim).await.expect(202);
    let coupon = eventually(
        "ann's coupon stands",
        Duration::from_secs(240),
        async || {
            let state = partner.get(&format!("{claims}/ann")).await.expect(200);
            (state["status"] == "issued").then(|| state["coupon"].clone())
        },
    )
    .await;
    let path = format!("/v1/users/ann/coupons/{campaign}/redemption");
    (path, coupon)
}

/// The status and body of a redemption for this order.
async fn redeem(partner: &Partner, path: &str, order: &str) -> (u16, Value) {
    let reply = partner.post(path, json!({"orderId": order})).await;
    (reply.status, reply.body)
}

#[tokio::test]
async fn of_two_hundred_redemptions_at_once_one_wins_and_may_ask_again() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let (path, _) = won(&partner, Value::Null).await;
    let orders: Vec<String> = (0..200).map(|n| format!("order-{n}")).collect();
    let answers = join_all(orders.iter().map(|order| redeem(&partner, &path, order))).await;
    let winners: Vec<usize> = (0..200).filter(|n| answers[*n].0 == 200).collect();
    let [winner] = winners[..] else {
        panic!("{winners:?}")
    };
    assert_eq!(answers[winner].1["orderId"], orders[winner].as_str());
    for (status, body) in answers.iter().filter(|(status, _)| *status != 200) {
        assert_eq!((*status, &body["code"]), (409, &json!("already_redeemed")));
    }
    assert_eq!(
        redeem(&partner, &path, &orders[winner]).await,
        answers[winner]
    );
}

#[tokio::test]
async fn a_coupon_is_used_listed_rolled_back_and_used_again() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let (path, coupon) = won(&partner, json!({"percent": 10})).await;
    let wrong = json!({"orderId": "o1", "code": "wrong"});
    assert_eq!(partner.post(&path, wrong).await.problem(409), "wrong_code");
    let body = json!({"orderId": "o1", "code": coupon["code"]});
    let used = partner.post(&path, body).await.expect(200);
    assert_eq!(used["orderId"], "o1");
    assert!(used["redeemedAt"].is_string());
    let listed = partner.get("/v1/users/ann/coupons").await.expect(200);
    assert_eq!(listed["coupons"], json!([used]));
    let other = partner.delete(&format!("{path}?orderId=o2")).await;
    assert_eq!(other.problem(409), "already_redeemed");
    for _ in 0..2 {
        let rolled_back = partner.delete(&format!("{path}?orderId=o1")).await;
        assert_eq!(rolled_back.expect(200), coupon);
    }
    let again = partner.post(&path, json!({"orderId": "o2"})).await;
    assert_eq!(again.expect(200)["orderId"], "o2");

    let stranger = stack.partner().await;
    let theirs = stranger.post(&path, json!({"orderId": "o3"})).await;
    assert_eq!(theirs.problem(404), "not_found");
}

#[tokio::test]
async fn a_coupon_worth_points_credits_the_wallet_and_its_rollback_needs_them() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let (path, _) = won(&partner, json!({"type": "points", "amount": 100})).await;
    let balance = async || {
        let wallet = partner.get("/v1/users/ann/wallet").await.expect(200);
        wallet["balance"].as_u64().unwrap()
    };
    let order = json!({"orderId": "o1"});
    for _ in 0..2 {
        partner.post(&path, order.clone()).await.expect(200);
        assert_eq!(balance().await, 100);
    }
    let back = format!("{path}?orderId=o1");
    partner.delete(&back).await.expect(200);
    assert_eq!(balance().await, 0);
    partner.post(&path, order).await.expect(200);
    let spend = json!({"amount": 1, "reason": "coffee"});
    let spent = partner.post_once("/v1/users/ann/wallet/use", spend, "u1");
    spent.await.expect(200);
    let refused = partner.delete(&back).await;
    assert_eq!(refused.problem(409), "insufficient_points");
    assert_eq!(balance().await, 99);
}
