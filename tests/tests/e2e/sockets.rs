//! The way in: tickets, malformed frames, subscriptions.

use std::time::Duration;

use firstcome_tests::{Socket, Stack, eventually};
use serde_json::{Value, json};
use tokio::time::sleep;

/// The status with which a handshake is refused; one that the gateway was too busy for says nothing.
async fn refusal(address: &str) -> u16 {
    let refused = async || match Socket::open(address).await {
        Ok(_) => panic!("the socket opened"),
        Err(status) => (status < 500).then_some(status),
    };
    eventually("a refusal", Duration::from_secs(30), refused).await
}

#[tokio::test]
async fn a_wrong_or_missing_ticket_opens_nothing() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let good = partner.address("ann", 60).await;
    let (url, ticket) = good.split_once("?ticket=").unwrap();

    assert_eq!(refusal(url).await, 401);
    let mut parts: Vec<&str> = ticket.split('.').collect();
    let other = partner.address("bob", 60).await;
    let other: Vec<&str> = other.split_once("?ticket=").unwrap().1.split('.').collect();
    // Bob's claims under Ann's signature.
    parts[1] = other[1];
    for wrong in ["nonsense", "a.b.c", parts.join(".").as_str()] {
        let status = refusal(&format!("{url}?ticket={wrong}")).await;
        assert!([401, 403].contains(&status), "{status} for {wrong}");
    }
    assert!(
        Socket::open(&good).await.is_ok(),
        "the ticket itself is good"
    );
}

#[tokio::test]
async fn an_expired_ticket_opens_nothing() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let address = partner.address("ann", 10).await;
    sleep(Duration::from_secs(11)).await;
    let status = refusal(&address).await;
    assert!([401, 403].contains(&status), "{status}");
}

#[tokio::test]
async fn a_used_ticket_opens_nothing_more() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let address = partner.address("ann", 60).await;
    let mut first = Socket::open(&address).await.unwrap();
    let status = refusal(&address).await;
    assert!([401, 403].contains(&status), "{status}");
    first.ping().await;
    first.close().await;
    let status = refusal(&address).await;
    assert!(
        [401, 403].contains(&status),
        "{status} after the first socket has closed"
    );
}

#[tokio::test]
async fn a_malformed_frame_is_answered_with_an_error_and_the_socket_stays() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(1).await;
    let mut socket = partner.socket("ann").await;
    let nine_kilobytes = json!({"action": "ping", "x": "y".repeat(9000)}).to_string();
    for malformed in [
        "hello",
        "[1,2",
        "{}",
        r#"{"action":"steal"}"#,
        r#"{"action":7}"#,
        r#"{"action":"claim"}"#,
        r#"{"action":"claim","campaignId":"k","claimId":"no spaces"}"#,
        nine_kilobytes.as_str(),
    ] {
        socket.send(malformed).await;
        let error = socket.wait("error", |frame| frame["type"] == "error").await;
        assert!(
            error["code"].is_string() && error["message"].is_string() && error["id"].is_string(),
            "{error}"
        );
    }
    assert_eq!(socket.claim(&campaign, "c1").await["outcome"], "issued");
}

#[tokio::test]
async fn whoever_subscribes_gets_a_snapshot_and_hears_until_unsubscribed() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(3).await;
    let mut socket = partner.subscribed("ann", &campaign).await;

    let snapshot = socket
        .wait("campaign.snapshot", |frame| {
            frame["type"] == "campaign.snapshot"
        })
        .await;
    assert_eq!(snapshot["campaignId"], campaign);
    let counts = ["total", "issued", "remaining"].map(|field| snapshot[field].as_u64().unwrap());
    assert_eq!((counts, &snapshot["phase"]), ([3, 0, 3], &json!("open")));
    assert!(snapshot["opensAt"].is_string() && snapshot["closesAt"].is_string());

    partner.broadcast(Some(&campaign), "first").await;
    let heard = socket
        .wait("broadcast", |frame| frame["type"] == "broadcast")
        .await;
    assert_eq!(
        (&heard["message"], &heard["campaignId"]),
        (&json!("first"), &json!(campaign))
    );
    let frame = json!({"action": "unsubscribe", "campaignId": campaign});
    socket
        .ask(frame, "unsubscribed", |frame| {
            frame["type"] == "unsubscribed"
        })
        .await;
    partner.broadcast(Some(&campaign), "second").await;
    let is_second = |frame: &Value| frame["message"] == "second";
    assert!(
        socket
            .wait_for(Duration::from_secs(5), is_second)
            .await
            .is_none()
    );
}

#[tokio::test]
async fn a_socket_opened_with_a_campaign_hears_it_at_once() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(3).await;
    let address = format!("{}&campaignId={campaign}", partner.address("ann", 60).await);
    let mut socket = Socket::open(&address).await.unwrap();
    socket.ping().await;
    partner.broadcast(Some(&campaign), "welcome").await;
    socket
        .wait("broadcast", |frame| frame["message"] == "welcome")
        .await;
}
