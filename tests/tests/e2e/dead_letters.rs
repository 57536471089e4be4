//! Dead letters: claims that were given up, sent again by an operator, more than once and by two at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firstcome_core::aws::operator::{HeldLetter, Queue, RawMessage, Replayed};
use firstcome_core::{CampaignId, Reason};
use firstcome_tests::{Partner, Socket, Stack, eventually, in_seconds, raw};
use serde_json::{Value, json};
use tokio::time::sleep;

/// How many letters a look takes in: other tests' letters may lie among them.
const MOST: usize = 1000;
/// How long letters may be hidden by those who look, and answers take.
const PATIENCE: Duration = Duration::from_secs(240);

fn claim(partner: &Partner, campaign: &str, user: &str, more: Value) -> RawMessage {
    let mut body = partner.claim_message(campaign, user, &format!("claim-{user}"));
    for (field, value) in more.as_object().unwrap() {
        body[field] = value.clone();
    }
    raw(campaign, body)
}

/// The campaign's dead letters that can be seen now, held; all others are let go.
async fn held(stack: &Stack, campaign: &str) -> Vec<HeldLetter> {
    let id = CampaignId::new(campaign).unwrap();
    let looked = stack
        .operator()
        .hold_dead_letters(Queue::Claims, MOST)
        .await;
    let (ours, others): (Vec<_>, Vec<_>) = looked
        .unwrap()
        .letters
        .into_iter()
        .partition(|letter| letter.letter.is_about(&id));
    stack.operator().let_go(Queue::Claims, &others).await;
    ours
}

/// Looks until so many letters of the campaign were seen at once.
async fn all_held(stack: &Stack, campaign: &str, letters: usize) -> Vec<HeldLetter> {
    let what = format!("{letters} dead letters");
    eventually(&what, PATIENCE, async || {
        let found = held(stack, campaign).await;
        if found.len() >= letters {
            return Some(found);
        }
        stack.operator().let_go(Queue::Claims, &found).await;
        None
    })
    .await
}

async fn bury(stack: &Stack, messages: &[RawMessage]) {
    stack
        .operator()
        .bury(Queue::Claims, messages)
        .await
        .unwrap();
}

async fn drop_all(stack: &Stack, letters: &[HeldLetter]) {
    let dropped = stack
        .operator()
        .drop_dead_letters(Queue::Claims, letters)
        .await;
    assert!(dropped.unwrap().iter().all(Result::is_ok));
}

/// Sends every letter of the campaign again that may be, as an operator would: look, replay, let go what is left. Returns
/// how many were moved.
async fn replay_all(stack: &Stack, campaign: &str) -> usize {
    let letters = held(stack, campaign).await;
    let done = stack
        .operator()
        .replay_dead_letters(Queue::Claims, &letters)
        .await
        .unwrap();
    let mut staying = Vec::new();
    for (letter, done) in letters.into_iter().zip(&done) {
        match done {
            Replayed::Moved => {}
            Replayed::Refused(_) => staying.push(letter),
            failed => panic!("{}: {failed:?}", letter.message_id),
        }
    }
    stack.operator().let_go(Queue::Claims, &staying).await;
    done.iter()
        .filter(|done| matches!(done, Replayed::Moved))
        .count()
}

/// Replays until so many letters were moved.
async fn replay_until(stack: &Stack, campaign: &str, letters: usize) {
    let mut moved = 0;
    let what = format!("{letters} letters are sent again");
    eventually(&what, PATIENCE, async || {
        moved += replay_all(stack, campaign).await;
        (moved >= letters).then_some(())
    })
    .await;
    assert_eq!(moved, letters);
}

/// The next answer to a claim, heard by the socket that every claim of these tests names.
async fn answer(socket: &mut Socket) -> Value {
    socket
        .wait("claim.result", |frame| frame["type"] == "claim.result")
        .await
}

/// A socket and its id, for claims to be answered to.
async fn listener(stack: &Stack, partner: &Partner) -> (Socket, String) {
    let socket = partner.socket("listener").await;
    let id = stack.sockets_of(partner).await.pop().unwrap().to_string();
    (socket, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_died_are_answered_exactly_however_often_they_are_sent_again() {
    const STOCK: usize = 10;
    const USERS: usize = 24;
    /// Claims that lie there twice, as if a replay had crashed between its send and its delete.
    const TWICE: usize = 6;
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(STOCK as u32).await;
    let (mut socket, connection) = listener(&stack, &partner).await;
    let claims: Vec<RawMessage> = (0..USERS)
        .map(|number| {
            let mut more = json!({ "connectionId": connection });
            if number % 2 == 0 {
                more["requestedAt"] = json!(in_seconds(0));
            }
            claim(&partner, &campaign, &format!("user-{number}"), more)
        })
        .collect();
    let garbage = raw(&campaign, format!("no claim of {campaign}"));
    let mut buried = claims.clone();
    buried.extend_from_slice(&claims[..TWICE]);
    buried.push(garbage.clone());
    bury(&stack, &buried).await;

    let listed = all_held(&stack, &campaign, buried.len()).await;
    let count = |reason| {
        listed
            .iter()
            .filter(|letter| letter.reason == reason)
            .count()
    };
    assert_eq!(count(Reason::ExhaustedRetries), USERS + TWICE);
    assert_eq!(count(Reason::Unparseable), 1);
    let grouped = |letter: &HeldLetter| letter.group.as_deref() == Some(&campaign);
    assert!(listed.iter().all(grouped));
    stack.operator().let_go(Queue::Claims, &listed).await;

    // Two operators at once, again and again until nothing is left to be sent.
    let mut moved = 0;
    eventually("every claim is sent again", PATIENCE, async || {
        let (one, two) = tokio::join!(replay_all(&stack, &campaign), replay_all(&stack, &campaign));
        moved += one + two;
        (moved >= USERS + TWICE).then_some(())
    })
    .await;
    let mut answers: BTreeMap<String, Value> = BTreeMap::new();
    for _ in 0..USERS + TWICE {
        let heard = answer(&mut socket).await;
        let claim_id = heard["claimId"].as_str().unwrap().to_owned();
        if let Some(first) = answers.insert(claim_id, heard.clone()) {
            assert_eq!(first, heard, "the same claim, the same answer");
        }
    }
    assert_eq!(answers.len(), USERS);

    let coupons = stack.coupons(&campaign).await;
    let holders: BTreeSet<&str> = coupons
        .iter()
        .map(|coupon| coupon.user_id.as_str())
        .collect();
    assert_eq!(
        (coupons.len(), holders.len()),
        (STOCK, STOCK),
        "exactly the stock, one per user"
    );
    assert_eq!(stack.stock(&campaign).await, (0, 10, 10));
    for (claim_id, answer) in &answers {
        let coupon = coupons.iter().find(|coupon| coupon.claim_id == *claim_id);
        let expected = coupon.map_or("sold_out", |_| "issued");
        assert_eq!(answer["outcome"], expected, "{claim_id}");
    }

    // All of them once more: nothing changes.
    bury(&stack, &claims).await;
    replay_until(&stack, &campaign, USERS).await;
    for _ in 0..USERS {
        let heard = answer(&mut socket).await;
        assert_eq!(answers[heard["claimId"].as_str().unwrap()], heard);
    }
    assert_eq!(stack.coupons(&campaign).await.len(), STOCK);
    assert_eq!(stack.stock(&campaign).await, (0, 10, 10));

    // What is no claim has stayed where it was, until it is dropped.
    let left = all_held(&stack, &campaign, 1).await;
    let bodies: Vec<&str> = left.iter().map(|letter| letter.body.as_str()).collect();
    assert_eq!(bodies, [garbage.body.as_str()]);
    drop_all(&stack, &left).await;
    assert!(held(&stack, &campaign).await.is_empty());
}

#[tokio::test]
async fn a_claim_without_a_time_is_judged_by_when_it_was_first_sent() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let (mut socket, connection) = listener(&stack, &partner).await;
    let window = json!({"title": "window", "total": 5, "closesAt": in_seconds(15)});
    let campaign = partner.campaign_of(window).await;
    let without_a_time = |user: &str| {
        let more = json!({ "connectionId": connection });
        [claim(&partner, &campaign, user, more)]
    };
    bury(&stack, &without_a_time("in-time")).await;
    sleep(Duration::from_secs(17)).await;
    bury(&stack, &without_a_time("late")).await;

    replay_until(&stack, &campaign, 2).await;
    for _ in 0..2 {
        let heard = answer(&mut socket).await;
        let expected = match heard["claimId"].as_str().unwrap() {
            "claim-in-time" => "issued",
            _ => "closed",
        };
        assert_eq!(heard["outcome"], expected, "{heard}");
    }
    let coupons = stack.coupons(&campaign).await;
    let holders: Vec<&str> = coupons
        .iter()
        .map(|coupon| coupon.user_id.as_str())
        .collect();
    assert_eq!(holders, ["in-time"]);
}

#[tokio::test]
async fn letters_are_told_apart_and_what_a_replay_would_judge_anew_stays() {
    let stack = Stack::find().await;
    let (partner, other) = (stack.partner().await, stack.partner().await);
    let (mut socket, connection) = listener(&stack, &partner).await;
    let campaign = partner.campaign(5).await;
    let future = json!({ "requestedAt": in_seconds(120) });
    let answered = json!({ "connectionId": connection });
    let letters = [
        claim(&partner, &campaign, "future", future),
        claim(&other, &campaign, "stranger", answered),
        raw(&campaign, json!({ "campaignId": campaign }).to_string()),
    ];
    bury(&stack, &letters).await;

    let found = all_held(&stack, &campaign, letters.len()).await;
    let reasons: BTreeSet<Reason> = found.iter().map(|letter| letter.reason).collect();
    assert_eq!(reasons, BTreeSet::from(Reason::ALL));
    stack.operator().let_go(Queue::Claims, &found).await;

    // Only the stranger's goes: its answer is `unknown_campaign`, however often it is asked for.
    replay_until(&stack, &campaign, 1).await;
    let heard = answer(&mut socket).await;
    assert_eq!(
        (&heard["claimId"], &heard["outcome"]),
        (&json!("claim-stranger"), &json!("unknown_campaign"))
    );
    let left = all_held(&stack, &campaign, 2).await;
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|letter| !letter.body.contains("stranger")));
    drop_all(&stack, &left).await;
    assert!(stack.coupons(&campaign).await.is_empty());
}
