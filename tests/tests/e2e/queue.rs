//! Producers that put claims straight on the queue, and what is no claim at all.

use std::collections::BTreeSet;
use std::time::Duration;

use firstcome_core::aws::operator::{Queue, RawMessage};
use firstcome_tests::{Stack, eventually, in_seconds, raw};
use serde_json::{Value, json};

fn with(mut message: Value, field: &str, value: Value) -> Value {
    message[field] = value;
    message
}

#[tokio::test]
async fn a_producers_claim_is_issued_and_answered_to_the_socket_it_names() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(3).await;
    let mut socket = partner.socket("ann").await;
    let connection = stack.sockets_of(&partner).await.pop().unwrap();

    let message = partner.claim_message(&campaign, "ann", "c1");
    let message = with(message, "connectionId", json!(connection.as_str()));
    stack
        .operator()
        .send(Queue::Claims, &[raw(&campaign, message)])
        .await
        .unwrap();
    let result = socket
        .wait("claim.result", |frame| frame["type"] == "claim.result")
        .await;
    assert_eq!(
        (&result["claimId"], &result["outcome"]),
        (&json!("c1"), &json!("issued"))
    );

    // Nobody waits for this one; its answer is the API's.
    stack
        .operator()
        .send(
            Queue::Claims,
            &[raw(
                &campaign,
                partner.claim_message(&campaign, "bob", "b1"),
            )],
        )
        .await
        .unwrap();
    let path = format!("/v1/campaigns/{campaign}/claims/bob");
    let issued =
        async || (partner.get(&path).await.expect(200)["status"] == "issued").then_some(());
    eventually("bob's coupon stands", Duration::from_secs(240), issued).await;
    assert_eq!(stack.stock(&campaign).await, (1, 2, 3));
}

#[tokio::test]
async fn a_claims_own_time_is_judged_and_not_the_workers_clock() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let window = json!({"title": "window", "total": 3, "opensAt": in_seconds(-1), "closesAt": in_seconds(3600)});
    let campaign = partner.campaign_of(window).await;
    let mut socket = partner.socket("ann").await;
    let connection = stack.sockets_of(&partner).await.pop().unwrap();
    let at = |claim_id: &str, seconds: i64| {
        let message = partner.claim_message(&campaign, "ann", claim_id);
        let message = with(message, "connectionId", json!(connection.as_str()));
        raw(
            &campaign,
            with(message, "requestedAt", json!(in_seconds(seconds))),
        )
    };
    for (claim_id, seconds, outcome) in [
        ("early", -60, "not_open"),
        ("future", 600, "rejected"),
        ("now", 0, "issued"),
        ("early", -60, "already_issued"),
    ] {
        stack
            .operator()
            .send(Queue::Claims, &[at(claim_id, seconds)])
            .await
            .unwrap();
        let is_answer =
            |frame: &Value| frame["type"] == "claim.result" && frame["claimId"] == claim_id;
        assert_eq!(
            socket.wait("claim.result", is_answer).await["outcome"],
            outcome,
            "{claim_id}"
        );
    }
}

#[tokio::test]
async fn of_500_messages_the_distinct_users_are_issued_and_the_garbage_ends_in_the_dead_letter_queue()
 {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(1000).await;
    let user = |number: u32| format!("user-{number}");
    let valid = |number: u32, claim_id: String| {
        raw(
            &campaign,
            partner.claim_message(&campaign, &user(number), &claim_id),
        )
    };

    let mut messages: Vec<RawMessage> = (0..390)
        .map(|number| valid(number, format!("claim-{number}")))
        .collect();
    // Half of the duplicates are the same message again, half the same user with another claim.
    messages.extend((0..50).map(|number| valid(number, format!("claim-{number}"))));
    messages.extend((50..100).map(|number| valid(number, format!("other-{number}"))));
    // The campaign's id in each tells them from other tests' garbage.
    let sound = partner.claim_message(&campaign, "poison", "poison");
    let mut truncated = sound.to_string();
    truncated.pop();
    let without = |field: &str| {
        let mut message = sound.clone();
        message.as_object_mut().map(|object| object.remove(field));
        message.to_string()
    };
    let garbage = [
        format!("not JSON: {campaign}"),
        truncated,
        format!(r#"["{campaign}"]"#),
        without("userId"),
        without("version"),
        with(sound.clone(), "version", json!(2)).to_string(),
        with(sound.clone(), "userId", json!("no spaces")).to_string(),
        with(sound.clone(), "claimId", json!("")).to_string(),
        with(sound.clone(), "userId", json!("x".repeat(129))).to_string(),
        with(sound.clone(), "padding", json!("x".repeat(9000))).to_string(),
    ];
    messages.extend(garbage.iter().map(|body| raw(&campaign, body)));
    fastrand::shuffle(&mut messages);
    assert_eq!(messages.len(), 500);
    stack
        .operator()
        .send(Queue::Claims, &messages)
        .await
        .unwrap();

    // Nothing waits for the garbage: the valid ones are through long before that is given up.
    let all_issued = async || (stack.coupons(&campaign).await.len() >= 390).then_some(());
    eventually("390 coupons", Duration::from_secs(150), all_issued).await;
    let mut dead = Vec::new();
    eventually("10 dead letters", Duration::from_secs(120), async || {
        dead.extend(stack.operator().take_dead_claims(&campaign).await.unwrap());
        (dead.len() >= 10).then_some(())
    })
    .await;
    let (dead, garbage) = (BTreeSet::from_iter(dead), BTreeSet::from(garbage));
    assert_eq!(dead, garbage, "exactly the garbage died");

    let coupons = stack.coupons(&campaign).await;
    let holders: BTreeSet<String> = coupons
        .iter()
        .map(|coupon| coupon.user_id.clone())
        .collect();
    assert_eq!(holders, (0..390).map(user).collect());
    assert_eq!(coupons.len(), 390);
    assert_eq!(stack.stock(&campaign).await, (610, 390, 1000));
}
