//! What is told to everybody: partners' words, the campaign's own news, and sockets that are gone.

use std::collections::BTreeSet;
use std::time::Duration;

use firstcome_core::{CampaignId, Topic};
use firstcome_tests::{Socket, Stack, eventually, in_seconds};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// The distinct ids of the frames of one kind that come within 4 s.
async fn ids_of(socket: &mut Socket, kind: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    while let Some(frame) = socket
        .wait_for(Duration::from_secs(4), |frame| frame["type"] == kind)
        .await
    {
        ids.insert(frame["id"].as_str().unwrap().to_owned());
    }
    ids
}

#[tokio::test]
async fn a_broadcast_is_heard_once_and_reported() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let (mut ann, mut bob) = (partner.socket("ann").await, partner.socket("bob").await);
    let message = json!({"message": "hello"});
    let first = partner
        .post_once("/v1/broadcasts", message.clone(), "key-1")
        .await
        .expect(202);
    let again = partner
        .post_once("/v1/broadcasts", message, "key-1")
        .await
        .expect(202);
    assert_eq!(first["broadcastId"], again["broadcastId"]);
    let other = partner
        .post_once("/v1/broadcasts", json!({"message": "goodbye"}), "key-1")
        .await;
    other.problem(422);

    let report = partner
        .finished_report(first["broadcastId"].as_str().unwrap())
        .await;
    let counts = ["seen", "sent", "gone", "failed"].map(|field| report[field].as_u64().unwrap());
    assert_eq!(counts, [2, 2, 0, 0]);
    assert!(report["status"].is_string() && report["startedAt"].is_string());
    for socket in [&mut ann, &mut bob] {
        assert_eq!(ids_of(socket, "broadcast").await.len(), 1);
    }
}

#[tokio::test]
async fn a_campaigns_broadcast_is_heard_by_its_subscribers_only() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(1).await;
    let (mut listener, mut other) = (
        partner.subscribed("ann", &campaign).await,
        partner.socket("bob").await,
    );
    let broadcast = partner.broadcast(Some(&campaign), "to subscribers").await;
    assert_eq!(partner.finished_report(&broadcast).await["sent"], 1);
    listener
        .wait("broadcast", |frame| frame["message"] == "to subscribers")
        .await;
    assert!(
        other
            .wait_for(Duration::from_secs(3), |frame| frame["type"] == "broadcast")
            .await
            .is_none()
    );
}

#[tokio::test]
async fn opening_and_closing_are_announced_on_time_and_once() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let (opens, closes) = (in_seconds(8), in_seconds(16));
    let started = Instant::now();
    let body = json!({"title": "news", "total": 1, "opensAt": opens, "closesAt": closes});
    let campaign = partner.campaign_of(body).await;
    let mut socket = partner.subscribed("ann", &campaign).await;
    let news = |kind: &'static str| {
        let campaign = campaign.clone();
        move |frame: &Value| frame["type"] == kind && frame["campaignId"] == campaign
    };
    let opened = socket
        .wait("campaign.opened", news("campaign.opened"))
        .await;
    assert!(opened["id"].is_string());
    assert!(
        started.elapsed() >= Duration::from_secs(7),
        "not before the opening"
    );
    socket
        .wait("campaign.closed", news("campaign.closed"))
        .await;
    assert!(
        started.elapsed() >= Duration::from_secs(15),
        "not before the end"
    );
    // A repeat has the same id, so a second id would be a second announcement.
    assert!(
        ids_of(&mut socket, "campaign.opened")
            .await
            .iter()
            .all(|id| *id == opened["id"])
    );
}

#[tokio::test]
async fn closing_early_is_announced() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(5).await;
    let mut socket = partner.subscribed("ann", &campaign).await;
    partner.close(&campaign).await;
    socket
        .wait("campaign.closed", |frame| {
            frame["type"] == "campaign.closed"
        })
        .await;
}

#[tokio::test]
async fn stock_and_sold_out_are_announced_while_it_sells() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(2).await;
    let mut watcher = partner.subscribed("zoe", &campaign).await;
    for user in ["ann", "bob"] {
        assert_eq!(
            partner.socket(user).await.claim(&campaign, "c1").await["outcome"],
            "issued"
        );
    }
    assert_eq!(
        partner.socket("cyd").await.claim(&campaign, "c1").await["outcome"],
        "sold_out"
    );
    let is_last = |frame: &Value| frame["type"] == "campaign.stock" && frame["issued"] == 2;
    let last = watcher.wait("the last campaign.stock", is_last).await;
    assert_eq!(
        (&last["campaignId"], &last["remaining"]),
        (&json!(campaign), &json!(0))
    );
    watcher
        .wait("campaign.sold_out", |frame| {
            frame["type"] == "campaign.sold_out"
        })
        .await;
}

#[tokio::test]
async fn a_socket_cut_without_a_close_frame_is_forgotten() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let (cut, mut stays) = (partner.socket("ann").await, partner.socket("bob").await);
    assert_eq!(stack.sockets_of(&partner).await.len(), 2);
    cut.cut();
    // By `$disconnect` if it comes; else by a broadcast that meets the socket once it is 30 s old.
    eventually(
        "the table forgets the socket",
        Duration::from_secs(300),
        async || {
            let report = partner
                .finished_report(&partner.broadcast(None, "anybody there?").await)
                .await;
            assert_eq!(report["failed"], 0);
            let sum = ["sent", "gone", "failed"]
                .iter()
                .map(|field| report[*field].as_u64().unwrap())
                .sum::<u64>();
            assert_eq!(report["seen"], sum);
            sleep(Duration::from_secs(1)).await;
            (stack.sockets_of(&partner).await.len() == 1).then_some(())
        },
    )
    .await;
    stays
        .wait("broadcast", |frame| frame["message"] == "anybody there?")
        .await;
}

#[tokio::test]
async fn a_socket_whose_disconnect_was_lost_is_found_gone_and_wholly_forgotten() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(1).await;
    let socket = partner.subscribed("ann", &campaign).await;
    let connected = Instant::now();
    let connection = stack.sockets_of(&partner).await.pop().unwrap();
    let topics = [
        Topic::Partner(partner.id().clone()),
        Topic::Campaign(CampaignId::new(campaign.as_str()).unwrap()),
    ];
    let items = async || {
        stack
            .operator()
            .connection_items(&connection, &topics)
            .await
            .unwrap()
    };
    let before = items().await;
    assert_eq!(before.len(), 3, "its record and two memberships");

    let mut stays = partner.socket("bob").await;
    socket.cut();
    // Were `$disconnect` lost, the table would look as before: put it back once it was cleaned up.
    sleep(Duration::from_secs(31).saturating_sub(connected.elapsed())).await;
    if items().await.is_empty() {
        stack.operator().restore(&before).await.unwrap();
    }
    let broadcast = partner.broadcast(None, "anybody there?").await;
    let report = partner.finished_report(&broadcast).await;
    let counts = ["seen", "sent", "gone", "failed"].map(|field| report[field].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 1, 0]);
    stays
        .wait("broadcast", |frame| frame["message"] == "anybody there?")
        .await;
    let forgotten = async || items().await.is_empty().then_some(());
    eventually(
        "record and memberships are removed",
        Duration::from_secs(30),
        forgotten,
    )
    .await;
}
