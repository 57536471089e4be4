//! What belongs to one partner is as good as absent for another, at every door.

use std::time::Duration;

use firstcome_core::aws::operator::{Queue, RawMessage};
use firstcome_tests::{Partner, Socket, Stack};
use serde_json::{Value, json};

/// A campaign that never existed, as young as `campaign`.
fn never_existed(campaign: &str) -> String {
    let last = if campaign.ends_with('0') { "1" } else { "0" };
    format!("{}{last}", &campaign[..campaign.len() - 1])
}

/// The answer without what must differ.
fn essence(mut frame: Value) -> Value {
    for field in ["id", "campaignId", "claimId"] {
        frame.as_object_mut().map(|object| object.remove(field));
    }
    frame
}

/// Two partners, and a campaign of the second.
async fn strangers() -> (Stack, Partner, Partner, String) {
    let stack = Stack::find().await;
    let (stranger, owner) = (stack.partner().await, stack.partner().await);
    let campaign = owner.campaign(3).await;
    (stack, stranger, owner, campaign)
}

#[tokio::test]
async fn a_claim_over_a_socket_learns_nothing_and_gets_nothing() {
    let (stack, stranger, owner, campaign) = strangers().await;
    // Warm: the owner's own claim has made the door know the campaign.
    assert_eq!(
        owner.socket("bob").await.claim(&campaign, "b1").await["outcome"],
        "issued"
    );
    let mut socket = stranger.socket("ann").await;
    let foreign = socket.claim(&campaign, "c1").await;
    assert_eq!(foreign["outcome"], "unknown_campaign");
    let unknown = socket.claim(&never_existed(&campaign), "c2").await;
    assert_eq!(essence(foreign), essence(unknown));
    // Not even of somebody who has the same name there.
    let mut bob = stranger.socket("bob").await;
    assert_eq!(
        bob.claim(&campaign, "b1").await["outcome"],
        "unknown_campaign"
    );
    assert_eq!(stack.stock(&campaign).await, (2, 1, 3));
    assert_eq!(stack.coupons(&campaign).await.len(), 1);
}

#[tokio::test]
async fn a_closed_or_sold_out_campaign_of_another_partner_looks_unknown_too() {
    let (_, stranger, owner, campaign) = strangers().await;
    owner.close(&campaign).await;
    let sold_out = owner.campaign(1).await;
    assert_eq!(
        owner.socket("bob").await.claim(&sold_out, "b1").await["outcome"],
        "issued"
    );
    let mut socket = stranger.socket("ann").await;
    for foreign in [&campaign, &sold_out] {
        assert_eq!(
            socket.claim(foreign, "c1").await["outcome"],
            "unknown_campaign"
        );
    }
}

#[tokio::test]
async fn asking_for_a_result_learns_nothing() {
    let (_, stranger, _, campaign) = strangers().await;
    let mut socket = stranger.socket("ann").await;
    let is_answer = |frame: &Value| !frame["type"].is_null();
    let ask = |id: &str| json!({"action": "result", "campaignId": id});
    let foreign = socket.ask(ask(&campaign), "an answer", is_answer).await;
    let unknown = socket
        .ask(ask(&never_existed(&campaign)), "an answer", is_answer)
        .await;
    assert_eq!(essence(foreign), essence(unknown));
}

#[tokio::test]
async fn a_subscription_hears_nothing() {
    let (_, stranger, owner, campaign) = strangers().await;
    let mut socket = stranger.socket("ann").await;
    let is_answer = |frame: &Value| !frame["type"].is_null();
    let ask = |id: &str| json!({"action": "subscribe", "campaignId": id});
    let foreign = socket.ask(ask(&campaign), "an answer", is_answer).await;
    assert_ne!(foreign["type"], "subscribed");
    let unknown = socket
        .ask(ask(&never_existed(&campaign)), "an answer", is_answer)
        .await;
    assert_eq!(essence(foreign), essence(unknown));

    // Nor does the handshake subscribe; whether it is refused is the gateway's business.
    let address = format!(
        "{}&campaignId={campaign}",
        stranger.address("bob", 60).await
    );
    let handshake = Socket::open(&address).await;
    let mut own = owner.subscribed("cyd", &campaign).await;
    owner.broadcast(Some(&campaign), "ours").await;
    own.wait("broadcast", |frame| frame["message"] == "ours")
        .await;
    // A refusal may repeat the id it was asked about; nothing else may come.
    let is_refusal = |frame: &Value| frame["type"] == "error" || frame["type"] == "claim.result";
    let is_foreign = |frame: &Value| frame["campaignId"] == campaign && !is_refusal(frame);
    for mut deaf in [Some(socket), handshake.ok()].into_iter().flatten() {
        assert_eq!(
            deaf.wait_for(Duration::from_secs(4), is_foreign).await,
            None
        );
    }
}

#[tokio::test]
async fn the_api_answers_404_as_for_what_does_not_exist() {
    let (stack, stranger, owner, campaign) = strangers().await;
    let broadcast = owner.broadcast(Some(&campaign), "ours").await;
    let unknown = never_existed(&campaign);
    for (foreign, absent) in [
        (
            format!("/v1/campaigns/{campaign}"),
            format!("/v1/campaigns/{unknown}"),
        ),
        (
            format!("/v1/campaigns/{campaign}/claims/ann"),
            format!("/v1/campaigns/{unknown}/claims/ann"),
        ),
        (
            format!("/v1/broadcasts/{broadcast}"),
            "/v1/broadcasts/0123456789abcdef0123456789abcdef".to_owned(),
        ),
    ] {
        let code = stranger.get(&foreign).await.problem(404);
        assert_eq!(code, stranger.get(&absent).await.problem(404), "{foreign}");
    }
    for (path, body) in [
        ("close", json!({})),
        ("claims", json!({"userId": "ann", "claimId": "c1"})),
        ("broadcasts", json!({"message": "theirs"})),
    ] {
        let foreign = stranger
            .post(&format!("/v1/campaigns/{campaign}/{path}"), body.clone())
            .await
            .problem(404);
        let absent = stranger
            .post(&format!("/v1/campaigns/{unknown}/{path}"), body)
            .await
            .problem(404);
        assert_eq!(foreign, absent, "{path}");
    }
    let listed = stranger.get("/v1/campaigns").await.expect(200);
    assert_eq!(listed["campaigns"], json!([]));
    let state = owner
        .get(&format!("/v1/campaigns/{campaign}"))
        .await
        .expect(200);
    assert_eq!(state["phase"], "open");
    assert!(stack.coupons(&campaign).await.is_empty());
}

#[tokio::test]
async fn a_queue_message_that_names_it_is_answered_unknown() {
    let (stack, stranger, owner, campaign) = strangers().await;
    let mut socket = stranger.socket("ann").await;
    let connection = stack.sockets_of(&stranger).await.pop().unwrap();
    let message = |campaign: &str, claim: &str| {
        let body = json!({
            "version": 1, "claimId": claim, "partnerId": stranger.id().as_str(), "campaignId": campaign,
            "userId": "ann", "connectionId": connection.as_str(),
        });
        RawMessage {
            group: campaign.to_owned(),
            body: body.to_string(),
        }
    };
    let unknown = never_existed(&campaign);
    stack
        .operator()
        .send(
            Queue::Claims,
            &[message(&campaign, "c1"), message(&unknown, "c2")],
        )
        .await
        .unwrap();
    let answer = |claim: &'static str| {
        move |frame: &Value| frame["type"] == "claim.result" && frame["claimId"] == claim
    };
    let foreign = socket.wait("claim.result", answer("c1")).await;
    assert_eq!(foreign["outcome"], "unknown_campaign");
    assert_eq!(
        essence(foreign),
        essence(socket.wait("claim.result", answer("c2")).await)
    );
    assert!(stack.coupons(&campaign).await.is_empty());
    assert_eq!(stack.stock(&campaign).await, (3, 0, 3));
    assert_eq!(
        owner.socket("bob").await.claim(&campaign, "b1").await["outcome"],
        "issued"
    );
}
