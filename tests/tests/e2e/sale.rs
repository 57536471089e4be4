//! Many users at once: never a coupon too many, never two for one user, never a claim without an answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use firstcome_core::aws::operator::{Queue, RawMessage};
use firstcome_tests::Stack;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::time::sleep;

fn code(result: &Value) -> String {
    result["coupon"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_users_who_claim_at_once_get_exactly_thirty_coupons() {
    const USERS: usize = 100;
    const STOCK: u64 = 30;
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(30).await;
    let crowd = partner.sockets(USERS).await;

    let start = Arc::new(Barrier::new(USERS));
    let claims = crowd
        .into_iter()
        .enumerate()
        .map(|(number, (user, mut socket))| {
            let (start, campaign) = (Arc::clone(&start), campaign.clone());
            tokio::spawn(async move {
                start.wait().await;
                let first = socket.claim(&campaign, "first").await;
                // Every fifth insists, half of those with another claim.
                let second = match number % 10 {
                    0 => Some(socket.claim(&campaign, "first").await),
                    5 => Some(socket.claim(&campaign, "second").await),
                    _ => None,
                };
                socket.close().await;
                (user, first, second)
            })
        });
    let answers: Vec<_> = join_all(claims)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();

    let coupons = stack.coupons(&campaign).await;
    assert_eq!(coupons.len() as u64, STOCK, "exactly the stock");
    assert_eq!(stack.stock(&campaign).await, (0, STOCK, STOCK));
    let holders: BTreeSet<&str> = coupons
        .iter()
        .map(|coupon| coupon.user_id.as_str())
        .collect();
    let codes: BTreeSet<&str> = coupons.iter().map(|coupon| coupon.code.as_str()).collect();
    assert_eq!(
        (holders.len(), codes.len()),
        (coupons.len(), coupons.len()),
        "one per user, each its own code"
    );
    for (user, first, second) in &answers {
        let coupon = coupons.iter().find(|coupon| coupon.user_id == *user);
        match (first["outcome"].as_str().unwrap(), coupon) {
            ("issued", Some(coupon)) => assert_eq!(code(first), coupon.code),
            ("sold_out", None) => {}
            (outcome, coupon) => panic!("{user} was answered {outcome}, the table says {coupon:?}"),
        }
        let Some(second) = second else { continue };
        if second["claimId"] == "first" {
            assert_eq!(second, first, "the same claim, the same answer");
        } else {
            let expected = if coupon.is_some() {
                "already_issued"
            } else {
                "sold_out"
            };
            assert_eq!(second["outcome"], expected);
            assert_eq!(second["coupon"], first["coupon"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sockets_and_a_producer_claim_for_every_user_at_once_and_each_gets_one_at_most() {
    const USERS: usize = 50;
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(20).await;
    // The producer has its answers sent to a socket of its own.
    let mut witness = partner.socket("producer").await;
    let connection = stack.sockets_of(&partner).await.pop().unwrap();
    let (left, right) = (partner.sockets(USERS).await, partner.sockets(USERS).await);

    let start = Arc::new(Barrier::new(2 * USERS + 1));
    let producer = {
        let (start, stack, campaign) = (Arc::clone(&start), stack.clone(), campaign.clone());
        let messages: Vec<_> = (0..USERS)
            .map(|number| {
                let message = json!({
                    "version": 1, "claimId": format!("producer-{number}"), "partnerId": partner.id().as_str(),
                    "campaignId": campaign, "userId": format!("user-{number}"), "connectionId": connection.as_str(),
                });
                RawMessage { group: campaign.clone(), body: message.to_string() }
            })
            .collect();
        tokio::spawn(async move {
            start.wait().await;
            stack
                .operator()
                .send(Queue::Claims, &messages)
                .await
                .unwrap();
        })
    };
    let sockets = left.into_iter().map(|socket| ("left", socket));
    let sockets = sockets.chain(right.into_iter().map(|socket| ("right", socket)));
    let claims = sockets.map(|(claim_id, (user, mut socket))| {
        let (start, campaign) = (Arc::clone(&start), campaign.clone());
        tokio::spawn(async move {
            start.wait().await;
            let answer = socket.claim(&campaign, claim_id).await;
            socket.close().await;
            (user, claim_id.to_owned(), answer)
        })
    });
    let claims: Vec<_> = claims.collect();
    let mut answers: Vec<_> = join_all(claims)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    producer.await.unwrap();
    for number in 0..USERS {
        let claim_id = format!("producer-{number}");
        let is_answer =
            |frame: &Value| frame["type"] == "claim.result" && frame["claimId"] == claim_id;
        let answer = witness.wait("the producer's answer", is_answer).await;
        answers.push((format!("user-{number}"), claim_id, answer));
    }

    let coupons = stack.coupons(&campaign).await;
    assert_eq!(coupons.len(), 20, "exactly the stock");
    assert_eq!(stack.stock(&campaign).await, (0, 20, 20));
    let holders: BTreeSet<&str> = coupons
        .iter()
        .map(|coupon| coupon.user_id.as_str())
        .collect();
    assert_eq!(holders.len(), 20, "one per user");
    for (user, claim_id, answer) in &answers {
        let coupon = coupons.iter().find(|coupon| coupon.user_id == *user);
        match (answer["outcome"].as_str().unwrap(), coupon) {
            ("issued", Some(coupon)) if coupon.claim_id == *claim_id => {
                assert_eq!(code(answer), coupon.code);
            }
            ("already_issued", Some(coupon)) if coupon.claim_id != *claim_id => {
                assert_eq!(code(answer), coupon.code);
            }
            ("sold_out", None) => {}
            (outcome, coupon) => {
                panic!("{user}, {claim_id}: answered {outcome}, the table says {coupon:?}")
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_stock_than_users_gives_everybody_one() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(2500).await;
    let crowd = partner.sockets(30).await;
    let claims = crowd.into_iter().map(|(_, mut socket)| {
        let campaign = campaign.clone();
        async move { socket.claim(&campaign, "c1").await }
    });
    let answers = join_all(claims).await;
    assert!(answers.iter().all(|answer| answer["outcome"] == "issued"));
    assert_eq!(stack.coupons(&campaign).await.len(), 30);
    assert_eq!(stack.stock(&campaign).await, (2470, 30, 2500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_closed_during_its_sale_issues_nothing_after_the_answer_to_close() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(1000).await;
    let mut crowd = partner.sockets(60).await;
    let mut late = crowd.split_off(50);
    let during = crowd.split_off(10);

    for (user, mut socket) in crowd {
        assert_eq!(
            socket.claim(&campaign, "c1").await["outcome"],
            "issued",
            "{user} came in time"
        );
    }
    let claims = during
        .into_iter()
        .enumerate()
        .map(|(number, (user, mut socket))| {
            let campaign = campaign.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(number as u64 * 25)).await;
                (user, socket.claim(&campaign, "c1").await)
            })
        });
    let claims: Vec<_> = claims.collect();
    sleep(Duration::from_millis(500)).await;
    partner.close(&campaign).await;
    let closed_with = stack.coupons(&campaign).await;
    for (user, socket) in &mut late {
        assert_eq!(
            socket.claim(&campaign, "c1").await["outcome"],
            "closed",
            "{user} came too late"
        );
    }
    let answers: Vec<_> = join_all(claims)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();

    let coupons = stack.coupons(&campaign).await;
    assert_eq!(
        coupons.len(),
        closed_with.len(),
        "nothing is issued after the answer to close"
    );
    for (user, answer) in &answers {
        let coupon = coupons.iter().find(|coupon| coupon.user_id == *user);
        match (answer["outcome"].as_str().unwrap(), coupon) {
            ("issued", Some(coupon)) => assert_eq!(code(answer), coupon.code),
            ("closed", None) => {}
            (outcome, coupon) => panic!("{user} was answered {outcome}, the table says {coupon:?}"),
        }
    }
    let (remaining, issued, quota) = stack.stock(&campaign).await;
    assert_eq!(
        (remaining + issued, issued, quota),
        (1000, coupons.len() as u64, 1000)
    );
}
