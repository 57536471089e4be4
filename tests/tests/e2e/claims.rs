//! Claims over a socket: every outcome, and the same answer again.

use std::time::Duration;

use firstcome_tests::{Partner, Stack, eventually, in_seconds};
use serde_json::{Value, json};
use tokio::time::sleep;

fn code(result: &Value) -> &str {
    result["coupon"]["code"]
        .as_str()
        .unwrap_or_else(|| panic!("no coupon in {result}"))
}

/// The status that the API tells of a user's claim.
async fn status(partner: &Partner, campaign: &str, user: &str) -> Value {
    partner
        .get(&format!("/v1/campaigns/{campaign}/claims/{user}"))
        .await
        .expect(200)
}

#[tokio::test]
async fn a_claim_is_accepted_then_issued_and_stands_at_every_door() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(5).await;
    let mut socket = partner.socket("ann").await;

    let result = socket.claim(&campaign, "c1").await;
    assert_eq!(result["outcome"], "issued");
    assert_eq!(result["campaignId"], campaign);
    assert!(result["id"].is_string());
    for field in ["code", "campaignId", "issuedAt", "expiresAt"] {
        assert!(result["coupon"][field].is_string(), "{field} in {result}");
    }
    let accepted = socket
        .wait("claim.accepted", |frame| frame["type"] == "claim.accepted")
        .await;
    assert_eq!(
        (&accepted["claimId"], &accepted["campaignId"]),
        (&json!("c1"), &json!(campaign))
    );

    let told = status(&partner, &campaign, "ann").await;
    assert_eq!(
        (&told["status"], &told["coupon"]),
        (&json!("issued"), &result["coupon"])
    );
    let listed = partner.get("/v1/users/ann/coupons").await.expect(200);
    assert_eq!(listed["coupons"][0]["code"], code(&result));
    let coupons = stack.coupons(&campaign).await;
    assert_eq!(coupons.len(), 1);
    assert_eq!(
        (coupons[0].user_id.as_str(), coupons[0].claim_id.as_str()),
        ("ann", "c1")
    );
    assert_eq!(coupons[0].partner_id, partner.id().as_str());
    assert_eq!(stack.stock(&campaign).await, (4, 1, 5));
    let state = partner
        .get(&format!("/v1/campaigns/{campaign}"))
        .await
        .expect(200);
    assert_eq!(
        (&state["issued"], &state["remaining"], &state["phase"]),
        (&json!(1), &json!(4), &json!("open"))
    );
}

#[tokio::test]
async fn the_same_claim_gets_the_same_coupon_and_another_one_reads_already_issued() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(5).await;
    let mut socket = partner.socket("ann").await;

    let first = socket.claim(&campaign, "c1").await;
    let again = socket.claim(&campaign, "c1").await;
    assert_eq!(again, first, "a repeat has the same id and says the same");
    let other = socket.claim(&campaign, "c2").await;
    assert_eq!(other["outcome"], "already_issued");
    assert_eq!(other["coupon"], first["coupon"]);
    let asked = socket.result(&campaign).await;
    assert_eq!(
        (&asked["outcome"], &asked["coupon"]),
        (&json!("issued"), &first["coupon"])
    );
    assert_eq!(stack.stock(&campaign).await, (4, 1, 5));
    assert_eq!(stack.coupons(&campaign).await.len(), 1);
}

#[tokio::test]
async fn a_claim_without_an_id_is_given_one() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(1).await;
    let mut socket = partner.socket("ann").await;
    socket.ping().await;
    let frame = json!({"action": "claim", "campaignId": campaign});
    socket.send(frame.to_string()).await;
    let result = socket
        .wait("claim.result", |frame| frame["type"] == "claim.result")
        .await;
    assert_eq!(result["outcome"], "issued");
    let stands = stack.coupons(&campaign).await;
    assert_eq!(stands[0].claim_id, result["claimId"].as_str().unwrap());
}

#[tokio::test]
async fn a_sold_out_campaign_turns_away_newcomers_and_still_knows_its_winner() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(1).await;
    let mut winner = partner.socket("ann").await;
    let mut late = partner.socket("bob").await;

    let won = winner.claim(&campaign, "a1").await;
    assert_eq!(won["outcome"], "issued");
    let refused = late.claim(&campaign, "b1").await;
    assert_eq!(refused["outcome"], "sold_out");
    assert!(refused["coupon"].is_null());
    assert_eq!(late.claim(&campaign, "b1").await, refused);
    assert_eq!(late.result(&campaign).await["outcome"], "sold_out");

    // By now the door itself refuses; it must look at the winner's coupon first.
    let sold_out = async || {
        let state = partner
            .get(&format!("/v1/campaigns/{campaign}"))
            .await
            .expect(200);
        (state["phase"] == "sold_out").then_some(())
    };
    eventually(
        "the campaign reads sold_out",
        Duration::from_secs(30),
        sold_out,
    )
    .await;
    sleep(Duration::from_secs(12)).await;
    let again = winner.claim(&campaign, "a1").await;
    assert_eq!(
        (&again["outcome"], &again["coupon"]),
        (&json!("issued"), &won["coupon"])
    );
    let other = winner.claim(&campaign, "a2").await;
    assert_eq!(
        (&other["outcome"], &other["coupon"]),
        (&json!("already_issued"), &won["coupon"])
    );
    assert_eq!(winner.result(&campaign).await["coupon"], won["coupon"]);
    assert_eq!(late.claim(&campaign, "b2").await["outcome"], "sold_out");

    assert_eq!(status(&partner, &campaign, "ann").await["status"], "issued");
    assert_eq!(
        status(&partner, &campaign, "bob").await["status"],
        "sold_out"
    );
    let claims = format!("/v1/campaigns/{campaign}/claims");
    assert_eq!(
        partner
            .post(&claims, json!({"userId": "bob"}))
            .await
            .problem(409),
        "sold_out"
    );
    let winner = partner
        .post(&claims, json!({"userId": "ann", "claimId": "a1"}))
        .await
        .expect(200);
    assert_eq!(
        (&winner["status"], &winner["coupon"]),
        (&json!("issued"), &won["coupon"])
    );
    assert_eq!(stack.stock(&campaign).await, (0, 1, 1));
}

#[tokio::test]
async fn a_closed_campaign_issues_nothing_more_and_still_knows_its_winner() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(5).await;
    let mut winner = partner.socket("ann").await;
    let mut late = partner.socket("bob").await;
    let won = winner.claim(&campaign, "a1").await;

    partner.close(&campaign).await;
    partner.close(&campaign).await;
    assert_eq!(late.claim(&campaign, "b1").await["outcome"], "closed");
    assert_eq!(late.result(&campaign).await["outcome"], "closed");
    let again = winner.claim(&campaign, "a1").await;
    assert_eq!(
        (&again["outcome"], &again["coupon"]),
        (&json!("issued"), &won["coupon"])
    );
    assert_eq!(
        winner.claim(&campaign, "a2").await["outcome"],
        "already_issued"
    );
    assert_eq!(winner.result(&campaign).await["coupon"], won["coupon"]);

    assert_eq!(status(&partner, &campaign, "ann").await["status"], "issued");
    assert_eq!(status(&partner, &campaign, "bob").await["status"], "closed");
    let claims = format!("/v1/campaigns/{campaign}/claims");
    assert_eq!(
        partner
            .post(&claims, json!({"userId": "bob"}))
            .await
            .problem(409),
        "closed"
    );
    let state = partner
        .get(&format!("/v1/campaigns/{campaign}"))
        .await
        .expect(200);
    assert_eq!(state["phase"], "closed");
    assert_eq!(stack.coupons(&campaign).await.len(), 1);
    assert_eq!(stack.stock(&campaign).await, (4, 1, 5));
}

#[tokio::test]
async fn a_claim_before_the_opening_is_refused_and_issued_afterwards_under_the_same_id() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let opening = json!({"title": "soon", "total": 1, "opensAt": in_seconds(8), "closesAt": in_seconds(3600)});
    let campaign = partner.campaign_of(opening).await;
    let mut socket = partner.socket("ann").await;

    assert_eq!(socket.claim(&campaign, "c1").await["outcome"], "not_open");
    let claims = format!("/v1/campaigns/{campaign}/claims");
    assert_eq!(
        partner
            .post(&claims, json!({"userId": "ann", "claimId": "c1"}))
            .await
            .problem(409),
        "not_open"
    );
    assert_eq!(
        status(&partner, &campaign, "ann").await["status"],
        "not_open"
    );
    let state = partner
        .get(&format!("/v1/campaigns/{campaign}"))
        .await
        .expect(200);
    assert_eq!(state["phase"], "scheduled");

    sleep(Duration::from_secs(9)).await;
    assert_eq!(socket.claim(&campaign, "c1").await["outcome"], "issued");
}

#[tokio::test]
async fn a_campaign_past_its_end_is_closed() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let short = json!({"title": "short", "total": 1, "closesAt": in_seconds(5)});
    let campaign = partner.campaign_of(short).await;
    let mut socket = partner.socket("ann").await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(socket.claim(&campaign, "c1").await["outcome"], "closed");
    assert!(stack.coupons(&campaign).await.is_empty());
}

#[tokio::test]
async fn an_unknown_campaign_is_answered_as_such() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let mut socket = partner.socket("ann").await;
    for unknown in [
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "7ZZZZZZZZZZZZZZZZZZZZZZZZZ",
        "no-ulid",
    ] {
        assert_eq!(
            socket.claim(unknown, "c1").await["outcome"],
            "unknown_campaign",
            "{unknown}"
        );
    }
}

#[tokio::test]
async fn whoever_never_claimed_is_undecided_while_the_campaign_can_issue() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(1).await;
    let mut socket = partner.socket("ann").await;
    assert_eq!(socket.result(&campaign).await["type"], "claim.undecided");
    assert_eq!(
        status(&partner, &campaign, "ann").await["status"],
        "undecided"
    );
    assert!(
        stack.coupons(&campaign).await.is_empty(),
        "asking never claims"
    );
}

/// Claims and dies at once; then a new socket that learned its answer by `result`.
async fn die_and_come_back(
    partner: &Partner,
    campaign: &str,
    user: &str,
) -> (firstcome_tests::Socket, Value) {
    let mut dying = partner.socket(user).await;
    dying.ping().await;
    dying
        .send(json!({"action": "claim", "campaignId": campaign, "claimId": "c1"}).to_string())
        .await;
    dying.cut();
    let mut socket = partner.socket(user).await;
    let learned = async || {
        let frame = socket.result(campaign).await;
        (frame["type"] == "claim.result").then_some(frame)
    };
    let result = eventually(
        "the answer is learned by `result`",
        Duration::from_secs(240),
        learned,
    )
    .await;
    (socket, result)
}

#[tokio::test]
async fn a_user_whose_socket_died_right_after_claiming_learns_the_answer_on_a_new_one() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(2).await;

    let (mut socket, learned) = die_and_come_back(&partner, &campaign, "ann").await;
    assert_eq!(learned["outcome"], "issued");
    let stands = stack.coupons(&campaign).await;
    assert_eq!((stands.len(), stands[0].code.as_str()), (1, code(&learned)));
    let again = socket.claim(&campaign, "c1").await;
    assert_eq!(
        (&again["outcome"], &again["coupon"]),
        (&json!("issued"), &learned["coupon"])
    );

    // The same after the campaign has sold out …
    assert_eq!(
        partner.socket("bob").await.claim(&campaign, "b1").await["outcome"],
        "issued"
    );
    assert_eq!(
        partner.socket("cyd").await.claim(&campaign, "c1").await["outcome"],
        "sold_out"
    );
    socket.cut();
    let mut socket = partner.socket("ann").await;
    assert_eq!(socket.result(&campaign).await["coupon"], learned["coupon"]);
    let again = socket.claim(&campaign, "c1").await;
    assert_eq!(
        (&again["outcome"], &again["coupon"]),
        (&json!("issued"), &learned["coupon"])
    );

    // … and after it was closed.
    partner.close(&campaign).await;
    socket.cut();
    let mut socket = partner.socket("ann").await;
    assert_eq!(socket.result(&campaign).await["coupon"], learned["coupon"]);
    let again = socket.claim(&campaign, "c1").await;
    assert_eq!(
        (&again["outcome"], &again["coupon"]),
        (&json!("issued"), &learned["coupon"])
    );
    // Who came too late came too late then as well, and is not told otherwise.
    let mut loser = partner.socket("cyd").await;
    assert_eq!(loser.result(&campaign).await["outcome"], "sold_out");
    assert_eq!(loser.claim(&campaign, "c1").await["outcome"], "sold_out");
    assert_eq!(stack.coupons(&campaign).await.len(), 2);
}
