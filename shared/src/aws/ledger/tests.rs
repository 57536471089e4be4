//! What each response of DynamoDB means for a chunk of coupons. Only what is certain may settle it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::aws::replay::{bodies, replay, requests};
use crate::memory::sample_campaign;
use crate::{Claim, ClaimId, Fate, Timestamp, coupon_code};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// A chunk for so many users.
fn chunk(users: usize) -> Chunk {
    let campaign = sample_campaign(10, NOW);
    let coupon = |n| {
        let claim = Claim {
            claim_id: ClaimId::new(format!("claim-{n}")).unwrap(),
            partner_id: campaign.partner_id.clone(),
            campaign_id: campaign.campaign_id.clone(),
            user_id: UserId::new(format!("user-{n}")).unwrap(),
            requested_at: NOW,
            sent_at: NOW,
            connection_id: None,
            trace: None,
        };
        Coupon::for_claim(&campaign, &claim, 0, coupon_code([7; 10]), NOW)
    };
    Chunk {
        shard: 0,
        coupons: (0..users).map(coupon).collect(),
        attempt: 1,
        campaign: campaign.clone(),
    }
}

fn error(status: u16, kind: &str) -> (u16, Value) {
    (
        status,
        json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{kind}"), "message": "no"}),
    )
}

fn cancelled(reasons: Value) -> (u16, Value) {
    let (status, mut body) = error(400, "TransactionCanceledException");
    body["CancellationReasons"] = reasons;
    (status, body)
}

async fn issue(response: (u16, Value)) -> Result<ChunkOutcome, Fate> {
    let (aws, client) = replay(&[response]);
    let ledger = DynamoLedger::new(&aws, "Coupons".into(), "Campaigns".into());
    let outcome = ledger.issue(&chunk(2)).await.map_err(|error| error.fate);
    assert_eq!(requests(&client).len(), 1, "never repeated by itself");
    outcome
}

#[tokio::test]
async fn only_a_success_is_issued_and_only_a_certain_refusal_is_final() {
    assert_eq!(issue((200, json!({}))).await, Ok(ChunkOutcome::Issued));
    for (status, kind) in [
        (400, "TransactionInProgressException"),
        (500, "InternalServerError"),
        (503, "ThrottlingException"),
    ] {
        let outcome = issue(error(status, kind)).await;
        assert_eq!(outcome, Ok(ChunkOutcome::Unknown), "{status} {kind}");
    }
    for kind in [
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingException",
    ] {
        let outcome = issue(error(400, kind)).await;
        assert_eq!(outcome, Ok(ChunkOutcome::Throttled), "{kind}");
    }
    assert_eq!(
        issue(error(400, "ValidationException")).await,
        Err(Fate::Reject)
    );
    let unexplained = cancelled(Value::Null);
    assert_eq!(issue(unexplained).await, Ok(ChunkOutcome::Throttled));
}

#[test]
fn what_never_left_is_refused_and_what_was_never_answered_is_unknown() {
    let fate = |error| outcome_of(error).map_err(|error| error.fate);
    let unknown = Ok(ChunkOutcome::Unknown);
    assert_eq!(fate(SdkError::timeout_error("late")), unknown);
    assert_eq!(
        fate(SdkError::construction_failure("no")),
        Err(Fate::Reject)
    );
}

#[tokio::test]
async fn the_first_reason_is_the_stocks() {
    let failed = |item: Value| json!({"Code": "ConditionalCheckFailed", "Item": item});
    let shard = |remaining: &str| json!({"pk": {"S": "STOCK#c#0"}, "remaining": {"N": remaining}});
    let mut closed = shard("5");
    closed["closedAt"] = json!({"N": "1"});
    for (reason, expected) in [
        (json!({"Code": "None"}), Ok(StockReason::None)),
        (json!({}), Ok(StockReason::None)),
        (failed(shard("1")), Ok(StockReason::Short(1))),
        (failed(closed), Ok(StockReason::Closed(5))),
        (failed(json!({})), Ok(StockReason::Missing)),
        (
            json!({"Code": "ConditionalCheckFailed"}),
            Ok(StockReason::Missing),
        ),
        (failed(json!({"pk": {"S": "STOCK#c#0"}})), Err(Fate::Reject)),
        (failed(json!({"closedAt": {"S": "t"}})), Err(Fate::Reject)),
        (json!({"Code": "ValidationError"}), Err(Fate::Reject)),
        (
            json!({"Code": "TransactionConflict"}),
            Ok(StockReason::Busy),
        ),
        (json!({"Code": "ThrottlingError"}), Ok(StockReason::Busy)),
    ] {
        let outcome = issue(cancelled(
            json!([reason, {"Code": "None"}, {"Code": "None"}]),
        ))
        .await;
        let expected = expected.map(|stock| ChunkOutcome::Cancelled {
            stock,
            coupons: vec![CouponReason::None; 2],
        });
        assert_eq!(outcome, expected, "{reason}");
    }
}

#[tokio::test]
async fn the_others_are_the_coupons_in_their_order() {
    let standing = chunk(1).coupons.remove(0);
    let at = coupon_key(
        &standing.partner_id,
        &standing.user_id,
        &standing.campaign_id,
    );
    let mut item = serde_json::to_value(&standing).unwrap();
    for (name, value) in item.as_object_mut().unwrap() {
        *value = match value {
            Value::Number(number) => json!({"N": number.to_string()}),
            Value::String(text) => json!({"S": text}),
            other => panic!("{name}: {other}"),
        };
    }
    for (name, value) in &at {
        item[name] = json!({"S": value.as_s().unwrap()});
    }
    for (reason, expected) in [
        (json!({"Code": "None"}), CouponReason::None),
        (
            json!({"Code": "ConditionalCheckFailed", "Item": item}),
            CouponReason::Stands(standing),
        ),
        (
            json!({"Code": "ConditionalCheckFailed"}),
            CouponReason::Busy,
        ),
        (
            json!({"Code": "ConditionalCheckFailed", "Item": {}}),
            CouponReason::Busy,
        ),
        (json!({"Code": "ValidationError"}), CouponReason::Invalid),
        (
            json!({"Code": "ItemCollectionSizeLimitExceeded"}),
            CouponReason::Invalid,
        ),
        (json!({"Code": "TransactionConflict"}), CouponReason::Busy),
    ] {
        let outcome = issue(cancelled(
            json!([{"Code": "None"}, {"Code": "None"}, reason]),
        ))
        .await;
        let expected = ChunkOutcome::Cancelled {
            stock: StockReason::None,
            coupons: vec![CouponReason::None, expected],
        };
        assert_eq!(outcome, Ok(expected), "{reason}");
    }
}

#[tokio::test]
async fn the_same_chunk_has_the_same_token_and_no_other_has() {
    let (same, mut attempt, mut content) = (chunk(2), chunk(2), chunk(2));
    attempt.attempt = 2;
    content.coupons.pop();
    let tokens = [&same, &attempt, &content].map(|chunk| token(chunk).unwrap());
    assert_eq!(tokens[0], token(&chunk(2)).unwrap());
    assert!(tokens[0] != tokens[1] && tokens[0] != tokens[2]);
    assert_eq!(tokens[0].len(), 32);
}

#[tokio::test]
async fn the_same_chunk_is_the_same_request_byte_by_byte() {
    let chunk = chunk(10);
    let (aws, client) = replay(&vec![(200, json!({})); 4]);
    let ledger = DynamoLedger::new(&aws, "Coupons".into(), "Campaigns".into());
    for _ in 0..4 {
        ledger.issue(&chunk.clone()).await.unwrap();
    }
    let sent = bodies(&client);
    assert!(sent.iter().all(|body| *body == sent[0]));
    let length = sent[0].len().to_string();
    let header = |request: &HttpRequest| request.headers().get("content-length") == Some(&length);
    assert!(client.actual_requests().all(header));
    // Nothing was lost on the way.
    let (_, request) = requests(&client).remove(0);
    let items = request["TransactItems"].as_array().unwrap();
    assert_eq!(items.len(), 11);
    let item = items[10]["Put"]["Item"].as_object().unwrap();
    assert_eq!(item["userId"], json!({"S": "user-9"}));
    assert_eq!(item.len(), 11, "{item:?}");
}

/// One coupon, read while it is being written so many times.
async fn read_when_busy(times: usize) -> Result<Option<Coupon>, Fate> {
    let busy = cancelled(json!([{"Code": "TransactionConflict"}]));
    let mut responses = vec![busy; times];
    responses.push((200, json!({"Responses": [{}]})));
    let (aws, _) = replay(&responses);
    let campaign = sample_campaign(10, NOW);
    let user = UserId::new("u").unwrap();
    let coupons = DynamoCoupons::new(&aws, "Coupons".into());
    let found = coupons.coupon(&campaign.partner_id, &user, &campaign.campaign_id);
    found.await.map_err(|error| error.fate)
}

#[tokio::test(start_paused = true)]
async fn a_coupon_that_is_being_written_is_read_again_after_growing_pauses() {
    assert_eq!(read_when_busy(0).await, Ok(None));
    assert_eq!(read_when_busy(2).await, Ok(None));
    let started = Instant::now();
    for _ in 0..50 {
        assert_eq!(read_when_busy(3).await, Err(Fate::Retry));
    }
    // On average 10, 20 and 40 ms; pauses that shrank would be 35 ms at most.
    let waited = started.elapsed() / 50;
    assert!(waited > Duration::from_millis(45), "{waited:?}");
    assert!(waited < Duration::from_millis(140), "{waited:?}");
}

#[tokio::test]
async fn a_coupon_leaves_the_table_by_itself_once_it_answers_nothing_any_more() {
    let (aws, client) = replay(&[(200, json!({}))]);
    let ledger = DynamoLedger::new(&aws, "Coupons".into(), "Campaigns".into());
    let chunk = chunk(1);
    ledger.issue(&chunk).await.unwrap();
    let (_, request) = &requests(&client)[0];
    let item = &request["TransactItems"][1]["Put"]["Item"];
    let forgotten = chunk.coupons[0].forgotten_at(&chunk.campaign);
    assert_eq!(item["ttl"]["N"], forgotten.epoch_seconds().to_string());
}
