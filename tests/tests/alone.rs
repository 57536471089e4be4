//! Announcements to a crowd: with workers killed by SIGKILL at work, and many at once; claims behind a backlog; and a stack
//! that is broken on purpose. One test after the other, on the local AWS: SOCKETS=1000 for a larger crowd.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![expect(clippy::print_stdout, reason = "tells what it measured")]

#[path = "alone/doctor.rs"]
mod doctor;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use firstcome_core::aws::operator::Queue;
use firstcome_core::{Clock, SystemClock, Timestamp};
use firstcome_tests::{Partner, Socket, Stack, eventually, processes, raw};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Open sockets unless `SOCKETS` says otherwise.
const SOCKETS: usize = 300;
/// Announcements under way while claims are answered.
const ANNOUNCEMENTS: usize = 30;
/// Claims, one after the other.
const CLAIMS: usize = 10;
/// Claims of one campaign that wait when others come.
const BACKLOG: usize = 4000;
/// How many of them one producer sends.
const SHARE: usize = 500;
/// Sockets that send frames without waiting for answers, and claims that wait in the queue meanwhile.
const FLOODING: usize = 60;
const QUEUED: usize = 40;
/// Within how long they are answered all the same. A batch that found no execution would wait for its visibility timeout of 70 s.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// Claims of a campaign that two full transactions empty, and the event source's settings for a rush (docs/capacity.md), with a longer window.
const RUSH: usize = 300;
const RUSH_STOCK: u32 = 198;
const RUSH_BATCH: (i32, i32) = (495, 5);
/// What template.yaml says by default.
const USUAL_BATCH: (i32, i32) = (10, 0);
/// How often an announcement may be over before a worker could be killed in the middle, and a backlog before a claim could
/// come behind it.
const ATTEMPTS: usize = 10;

fn crowd_size() -> usize {
    std::env::var("SOCKETS").map_or(SOCKETS, |count| count.parse().unwrap())
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap()
}

/// Kills `broadcast` once the report says that some of `sockets` have the announcement; `None` if all had it by then.
async fn kill_in_the_middle(partner: &Partner, broadcast: &str, sockets: usize) -> Option<u64> {
    let path = format!("/v1/broadcasts/{broadcast}");
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let reply = partner.get(&path).await;
        let seen = if reply.status == 200 {
            count(&reply.body, "seen")
        } else {
            0
        };
        if seen as usize >= sockets {
            return None;
        }
        if seen > 0 {
            processes::kill("Broadcast");
            let seen = count(&partner.get(&path).await.expect(200), "seen");
            return ((seen as usize) < sockets).then_some(seen);
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("the announcement does not begin")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announcement_whose_workers_are_killed_in_the_middle_reaches_everybody() {
    let sockets = crowd_size();
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let mut crowd = partner.sockets(sockets).await;

    for attempt in 1..=ATTEMPTS {
        let message = format!("announcement {attempt}");
        let broadcast = partner.broadcast(None, &message).await;
        let seen = kill_in_the_middle(&partner, &broadcast, sockets).await;
        let report = partner.finished_report(&broadcast).await;
        let counts = ["seen", "sent", "gone", "failed"].map(|field| count(&report, field));
        assert_eq!(counts, [sockets as u64, sockets as u64, 0, 0]);
        let heard = crowd.iter_mut().map(async |(user, socket)| {
            let frame = socket
                .wait(user, |frame| frame["message"] == json!(message))
                .await;
            let is_same = |again: &Value| again["message"] == json!(message);
            // A repeated page is told apart by the frame's id.
            while let Some(again) = socket.wait_for(Duration::from_millis(500), is_same).await {
                assert_eq!(again["id"], frame["id"]);
            }
        });
        join_all(heard).await;
        if let Some(seen) = seen {
            println!("killed when {seen} of {sockets} were counted; attempt {attempt}");
            return;
        }
    }
    panic!("no announcement was caught in the middle")
}

/// How long it takes until a claim has its answer.
async fn timed(socket: &mut Socket, campaign: &str, claim: &str) -> Duration {
    let started = Instant::now();
    let answer = socket.claim(campaign, claim).await;
    assert!(answer["coupon"].is_object(), "{answer}");
    started.elapsed()
}

/// How long claims take, one after the other; the median.
async fn claim_to_result(socket: &mut Socket, campaign: &str, round: &str) -> Duration {
    let mut took = Vec::new();
    for number in 0..CLAIMS {
        took.push(timed(socket, campaign, &format!("{round}-{number}")).await);
    }
    took.sort_unstable();
    took[CLAIMS / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_do_not_wait_until_the_announcements_are_out() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let campaign = partner.campaign(10).await;
    let mut claimant = partner.socket("claimant").await;
    let listeners = stack.partner().await;
    let _crowd = listeners.sockets(crowd_size()).await;

    let idle = claim_to_result(&mut claimant, &campaign, "idle").await;
    let announce = (0..ANNOUNCEMENTS).map(async |number| {
        listeners
            .broadcast(None, &format!("announcement {number}"))
            .await
    });
    let started = Instant::now();
    let broadcasts = join_all(announce).await;
    let busy = claim_to_result(&mut claimant, &campaign, "busy").await;
    let answered = started.elapsed();
    let finished = async |id: &String| {
        let report = listeners.get(&format!("/v1/broadcasts/{id}")).await;
        report.body["finishedAt"].is_string()
    };
    let finished = join_all(broadcasts.iter().map(finished)).await;
    let under_way = finished.iter().filter(|finished| !**finished).count();
    println!(
        "claim to result, median of {CLAIMS}: {} ms idle, {} ms while announcing; {under_way} of {ANNOUNCEMENTS} \
         announcements were still under way after {} ms",
        idle.as_millis(),
        busy.as_millis(),
        answered.as_millis()
    );
    assert!(
        under_way > 0,
        "the announcements were over too soon to tell"
    );
    for id in &broadcasts {
        assert_eq!(listeners.finished_report(id).await["failed"], 0);
    }
}

/// Puts a backlog of claims of this campaign on ClaimsQueue, round by round of other users.
async fn pile_up(stack: &Stack, partner: &Partner, campaign: &str, round: usize) {
    let message = |number: usize| {
        let (user, claim) = (format!("loud-{round}-{number}"), format!("loud-{number}"));
        raw(campaign, partner.claim_message(campaign, &user, &claim))
    };
    let messages: Vec<_> = (0..BACKLOG).map(message).collect();
    let producers = messages
        .chunks(SHARE)
        .map(|share| stack.operator().send(Queue::Claims, share));
    for sent in join_all(producers).await {
        sent.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_marked_priority_does_not_wait_behind_the_others() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let loud = partner.campaign(1_000_000).await;
    for attempt in 1..=ATTEMPTS {
        let quiet = partner.campaign(10).await;
        let marked = json!({"title": "priority", "total": 10, "priority": true});
        let priority = partner.campaign_of(marked).await;
        let mut first = partner.socket(&format!("first-{attempt}")).await;
        let mut second = partner.socket(&format!("second-{attempt}")).await;
        pile_up(&stack, &partner, &loud, attempt).await;
        let in_its_lane = async {
            let took = timed(&mut second, &priority, "in-its-own-queue").await;
            let depth = stack.operator().depth(Queue::Claims).await.unwrap();
            (took, depth.visible)
        };
        let behind = timed(&mut first, &quiet, "behind-the-others");
        let (beside, (ahead, left)) = tokio::join!(behind, in_its_lane);
        println!(
            "behind {BACKLOG} claims of another campaign: {} ms, with priority {} ms, {left} were left; attempt {attempt}",
            beside.as_millis(),
            ahead.as_millis()
        );
        if left > SHARE as u64 {
            assert!(ahead < beside);
            return;
        }
    }
    panic!("no claim came behind a backlog")
}

/// Sends frames until told to stop, as fast as they are refused or answered; counts the refusals of the gateway.
async fn flood(socket: &mut Socket, campaign: &str, stop: &AtomicBool, refused: &AtomicUsize) {
    let frame = json!({"action": "result", "campaignId": campaign}).to_string();
    while !stop.load(Ordering::Relaxed) {
        socket.send(frame.as_str()).await;
        while let Some(heard) = socket.next(Duration::from_millis(20)).await {
            if heard["type"].is_null() {
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_claims_are_answered_while_frames_take_every_execution_of_the_door() {
    let stack = Stack::find().await;
    let (partner, loud) = (stack.partner().await, stack.partner().await);
    let campaign = partner.campaign(QUEUED as u32).await;
    let elsewhere = loud.campaign(1).await;
    let mut listener = partner.socket("listener").await;
    let connection = stack.sockets_of(&partner).await.remove(0);
    let mut crowd = loud.sockets(FLOODING).await;
    let (stop, refused) = (AtomicBool::new(false), AtomicUsize::new(0));

    let floods = crowd
        .iter_mut()
        .map(|(_, socket)| flood(socket, &elsewhere, &stop, &refused));
    let claims = async {
        while refused.load(Ordering::Relaxed) < FLOODING {
            sleep(Duration::from_millis(50)).await;
        }
        let message = |number: usize| {
            let (user, claim) = (format!("queued-{number}"), format!("queued-{number}"));
            let mut message = partner.claim_message(&campaign, &user, &claim);
            message["connectionId"] = json!(connection.as_str());
            raw(&campaign, message)
        };
        let messages: Vec<_> = (0..QUEUED).map(message).collect();
        let (before, started) = (refused.load(Ordering::Relaxed), Instant::now());
        stack
            .operator()
            .send(Queue::Claims, &messages)
            .await
            .unwrap();
        for number in 0..QUEUED {
            let claim = format!("queued-{number}");
            let is_answer =
                |frame: &Value| frame["type"] == "claim.result" && frame["claimId"] == claim;
            let left = ANSWERED_WITHIN.saturating_sub(started.elapsed());
            let answer = listener.wait_for(left, is_answer).await;
            assert_eq!(answer.unwrap_or_default()["outcome"], "issued", "{claim}");
        }
        let took = started.elapsed();
        stop.store(true, Ordering::Relaxed);
        (took, refused.load(Ordering::Relaxed) - before)
    };
    let ((), (took, meanwhile)) = tokio::join!(async { drop(join_all(floods).await) }, claims);
    println!(
        "{QUEUED} claims from the queue answered in {} ms, while the gateway refused {meanwhile} of the frames of {FLOODING} sockets",
        took.as_millis()
    );
    assert!(meanwhile > 0, "the door had executions left");
}

/// Of the batches that issued coupons of this campaign: messages, coupons, transactions.
async fn batches(stack: &Stack, campaign: &str, since: Timestamp) -> Vec<[u64; 3]> {
    let lines = stack.operator().log_lines(Some(campaign), since).await;
    let lines = lines.unwrap().into_iter();
    let emf = lines.filter_map(|line| serde_json::from_str::<Value>(&line.text).ok());
    emf.filter_map(|line| {
        let number = |value: &Value| {
            let one = value.as_array().map_or(value, |values| &values[0]);
            one.as_f64().map(|number| number as u64)
        };
        Some([
            number(&line["BatchSize"])?,
            number(&line["campaigns"][campaign]["Issued"])?,
            number(&line["Transactions"])?,
        ])
    })
    .collect()
}

/// Sends a rush's claims and waits for the coupons; its batches.
async fn rush(stack: &Stack, partner: &Partner, attempt: usize) -> Vec<[u64; 3]> {
    let since = SystemClock.now().plus_seconds(-5);
    let campaign = partner.campaign(RUSH_STOCK).await;
    let message = |number: usize| {
        let (user, claim) = (format!("rush-{attempt}-{number}"), format!("rush-{number}"));
        raw(&campaign, partner.claim_message(&campaign, &user, &claim))
    };
    let messages: Vec<_> = (0..RUSH).map(message).collect();
    let producers = messages
        .chunks(50)
        .map(|share| stack.operator().send(Queue::Claims, share));
    for sent in join_all(producers).await {
        sent.unwrap();
    }
    let limit = Duration::from_secs(120);
    eventually("the rush's batches are in the log", limit, async || {
        let found = batches(stack, &campaign, since).await;
        let issued: u64 = found.iter().map(|[_, issued, _]| issued).sum();
        (issued == u64::from(RUSH_STOCK)).then_some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_is_decided_in_batches_of_hundreds_by_transactions_of_99() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let set = async |(size, window)| {
        let set = stack
            .operator()
            .set_batch("ClaimsEventSource", size, window);
        set.await.unwrap();
    };
    set(RUSH_BATCH).await;
    let mut seen = vec![];
    for attempt in 1..=ATTEMPTS {
        seen = rush(&stack, &partner, attempt).await;
        // Two transactions for 198 coupons: each took 99, the most there is.
        if seen.contains(&[RUSH as u64, RUSH_STOCK.into(), 2]) {
            break;
        }
    }
    set(USUAL_BATCH).await;
    println!("messages, coupons and transactions of the batches: {seen:?}");
    assert!(seen.contains(&[RUSH as u64, RUSH_STOCK.into(), 2]));
}
