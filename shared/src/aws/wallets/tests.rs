//! The exact requests: every condition that the book's contract stands on, and how refusals are told apart.

use serde_json::{Value, json};

use super::*;
use crate::aws::replay::{replay, requests};
use crate::{
    Begin, Cause, Coupon, CouponChange, EntryKind, EntryReason, LotChange, Operation,
    OperationAnswer, Operations, OrderId, PartnerId, Redemption, Refusal, UserId, WalletChange,
    earned,
};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

fn book(responses: &[(u16, Value)]) -> (DynamoWallets, impl Fn() -> Vec<(String, Value)> + use<>) {
    let (aws, client) = replay(responses);
    let book = DynamoWallets::new(&aws, "Wallets".into()).with_coupons("Coupons".into());
    (book, move || requests(&client))
}

fn holder(user: &str) -> Holder {
    Holder {
        partner_id: PartnerId::new("acme").unwrap(),
        user_id: UserId::new(user).unwrap(),
    }
}

fn earn(wallet: &Wallet, points: u64, ttl: Option<i64>) -> WalletChange {
    let expires_at = ttl.map(|ttl| NOW.plus_seconds(ttl));
    let cause = Cause {
        reason: Some(EntryReason::new("visit").unwrap()),
        ..Cause::of(EntryKind::Earn)
    };
    wallet
        .addition(earned(points, expires_at), cause, NOW, 1)
        .unwrap()
}

fn wallet_of(user: &str, lots: &[(u64, Option<i64>)]) -> Wallet {
    lots.iter()
        .fold(Wallet::empty(holder(user)), |wallet, (points, ttl)| {
            earn(&wallet, *points, *ttl).applied_to(&wallet).unwrap()
        })
}

fn operation() -> Operation {
    Operation {
        partner_id: PartnerId::new("acme").unwrap(),
        key_sha256: "kk".into(),
        request_sha256: "rr".into(),
        attempt: 255,
    }
}

fn guard(change: &WalletChange) -> Guard {
    let answer = OperationAnswer::Entered {
        entry_user: change.holder.user_id.clone(),
        entry_id: change.last_entry.clone().unwrap(),
    };
    Guard::Operation(operation(), answer)
}

fn error(kind: &str, more: Value) -> (u16, Value) {
    let mut body =
        json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{kind}"), "message": "m"});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    (400, body)
}

fn cancelled(codes: &[&str]) -> (u16, Value) {
    let reasons: Vec<Value> = codes.iter().map(|code| json!({"Code": code})).collect();
    error(
        "TransactionCanceledException",
        json!({"CancellationReasons": reasons}),
    )
}

const EXPIRY: &str = "001790000060000";

#[tokio::test]
async fn a_first_earning_writes_operation_wallet_lot_entry_and_pointer_in_one_transaction() {
    let change = earn(&Wallet::empty(holder("ann")), 10, Some(60));
    let id = change.last_entry.clone().unwrap();
    let posting = Posting {
        guard: guard(&change),
        changes: vec![change],
    };
    let (book, sent) = book(&[(200, json!({}))]);
    assert_eq!(book.post(&posting).await.unwrap(), PostOutcome::Posted);
    let (operation, body) = sent().remove(0);
    assert_eq!(operation, "TransactWriteItems");
    assert!(
        body["ClientRequestToken"].is_string(),
        "a repeat by the SDK is the same transaction"
    );
    let expires_at = NOW.plus_seconds(60);
    let expected = json!([
        {"Update": {
            "TableName": "Wallets",
            "Key": {"pk": {"S": "acme#kk"}, "sk": {"S": "OP#kk"}},
            "UpdateExpression": "SET #status = :finished, entryId = :entryId, entryUser = :entryUser REMOVE leaseUntil",
            "ConditionExpression": "#status = :inProgress AND attempt = :attempt",
            "ExpressionAttributeNames": {"#status": "status"},
            "ExpressionAttributeValues": {
                ":finished": {"S": "finished"}, ":inProgress": {"S": "in_progress"},
                ":attempt": {"S": "000000000000000000000000000000ff"},
                ":entryId": {"S": id}, ":entryUser": {"S": "ann"},
            },
        }},
        {"Update": {
            "TableName": "Wallets",
            "Key": {"pk": {"S": "acme#ann"}, "sk": {"S": "WALLET"}},
            "UpdateExpression": "SET #version = :next, balance = :balance, lastEntry = :entry, dueAt = :due",
            "ConditionExpression": "attribute_not_exists(pk)",
            "ExpressionAttributeNames": {"#version": "version"},
            "ExpressionAttributeValues": {
                ":next": {"N": "1"}, ":balance": {"N": "10"}, ":entry": {"S": id}, ":due": {"S": expires_at},
            },
        }},
        {"Put": {
            "TableName": "Wallets",
            "Item": {
                "pk": {"S": "acme#ann"}, "sk": {"S": format!("LOT#{EXPIRY}#{id}")}, "remaining": {"N": "10"},
                "shares": {"L": [{"M": {"lotId": {"S": id}, "amount": {"N": "10"}, "expiresAt": {"S": expires_at}}}]},
            },
            "ConditionExpression": "attribute_not_exists(pk)",
        }},
        {"Put": {
            "TableName": "Wallets",
            "Item": {
                "pk": {"S": "acme#ann"}, "sk": {"S": format!("ENTRY#{id}")}, "entryId": {"S": id},
                "type": {"S": "earn"}, "amount": {"N": "10"}, "balance": {"N": "10"}, "createdAt": {"S": NOW},
                "reason": {"S": "visit"},
                "lots": {"L": [{"M": {"lotId": {"S": id}, "amount": {"N": "10"}, "expiresAt": {"S": expires_at}}}]},
            },
            "ConditionExpression": "attribute_not_exists(pk)",
        }},
        {"Put": {
            "TableName": "Wallets",
            "Item": {
                "pk": {"S": format!("EXPIRY#{}", DuePointer::shard(&holder("ann")))},
                "sk": {"S": format!("{EXPIRY}#acme#ann")},
            },
        }},
    ]);
    assert_eq!(body["TransactItems"], expected);
}

#[tokio::test]
async fn a_spending_pins_the_version_and_what_every_lot_holds() {
    let wallet = wallet_of("ann", &[(10, Some(60)), (20, None)]);
    let cause = Cause::of(EntryKind::Use);
    let change = wallet.withdrawal(15, None, cause, NOW, 9).unwrap();
    let posting = Posting {
        guard: Guard::None,
        changes: vec![change],
    };
    let (book, sent) = book(&[(200, json!({}))]);
    book.post(&posting).await.unwrap();
    let items = sent().remove(0).1["TransactItems"].clone();
    let wallet = &items[0]["Update"];
    assert_eq!(wallet["ConditionExpression"], "#version = :seen");
    assert_eq!(
        wallet["ExpressionAttributeValues"][":seen"],
        json!({"N": "2"})
    );
    assert_eq!(
        wallet["UpdateExpression"], "SET #version = :next, balance = :balance, lastEntry = :entry",
        "the pointer stays"
    );
    let emptied = &items[1]["Delete"];
    assert_eq!(emptied["ConditionExpression"], "remaining = :seen");
    assert_eq!(
        emptied["ExpressionAttributeValues"],
        json!({":seen": {"N": "10"}})
    );
    let reduced = &items[2]["Update"];
    assert_eq!(reduced["ConditionExpression"], "remaining = :seen");
    assert_eq!(
        reduced["UpdateExpression"],
        "SET remaining = :left, shares = :shares"
    );
    assert_eq!(
        (
            &reduced["ExpressionAttributeValues"][":left"],
            &reduced["ExpressionAttributeValues"][":seen"]
        ),
        (&json!({"N": "15"}), &json!({"N": "20"}))
    );
    assert_eq!(items.as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn an_expiry_moves_the_pointer_with_the_lots() {
    let wallet = wallet_of("ann", &[(10, Some(60)), (20, Some(90))]);
    let change = wallet.settlement(NOW.plus_seconds(60), 9).unwrap();
    let last = change.applied_to(&wallet).unwrap();
    let last = last.settlement(NOW.plus_seconds(90), 9).unwrap();
    let (book, sent) = book(&[(200, json!({})), (200, json!({}))]);
    for change in [change, last] {
        let posting = Posting {
            guard: Guard::None,
            changes: vec![change],
        };
        book.post(&posting).await.unwrap();
    }
    let sent = sent();
    let items = |n: usize| sent[n].1["TransactItems"].as_array().unwrap().clone();
    let pointer = |millis: &str| json!({"S": format!("{millis}#acme#ann")});
    let (old, new) = (pointer(EXPIRY), pointer("001790000090000"));
    assert_eq!(items(0)[3]["Delete"]["Key"]["sk"], old);
    assert_eq!(items(0)[4]["Put"]["Item"]["sk"], new);
    assert_eq!(items(1)[3]["Delete"]["Key"]["sk"], new);
    assert_eq!(
        (items(0).len(), items(1).len()),
        (5, 4),
        "the last one sets no pointer"
    );
    assert_eq!(
        items(1)[0]["Update"]["UpdateExpression"],
        "SET #version = :next, balance = :balance, lastEntry = :entry REMOVE dueAt"
    );
}

#[tokio::test]
async fn a_coupon_worth_points_changes_in_the_same_transaction() {
    let change = earn(&Wallet::empty(holder("user-1")), 10, None);
    let to = Some(Redemption {
        redeemed_at: NOW,
        order_id: OrderId::new("o1").unwrap(),
        entry_id: change.last_entry.clone(),
    });
    let judged = Coupon::sample();
    let posting = Posting {
        guard: Guard::Coupon(Box::new(CouponChange { judged, to })),
        changes: vec![change],
    };
    let (book, sent) = book(&[(200, json!({}))]);
    book.post(&posting).await.unwrap();
    let coupon = sent().remove(0).1["TransactItems"][0]["Update"].clone();
    assert_eq!(coupon["TableName"], "Coupons");
    assert_eq!(
        coupon["ConditionExpression"],
        "code = :code AND expiresAt = :expiresAt AND attribute_not_exists(orderId)"
    );
    assert_eq!(
        coupon["UpdateExpression"],
        "SET redeemedAt = :at, orderId = :order, entryId = :entry"
    );
}

#[tokio::test]
async fn a_failed_transaction_is_refused_stale_busy_unknown_or_an_error() {
    let change = earn(&Wallet::empty(holder("ann")), 10, None);
    let guarded = Posting {
        guard: guard(&change),
        changes: vec![change],
    };
    let free = Posting {
        guard: Guard::None,
        ..guarded.clone()
    };
    let failed = "ConditionalCheckFailed";
    for (posting, response, expected) in [
        (&guarded, cancelled(&[failed, "None"]), PostOutcome::Refused),
        (&guarded, cancelled(&[failed, failed]), PostOutcome::Refused),
        (&guarded, cancelled(&["None", failed]), PostOutcome::Stale),
        (&free, cancelled(&[failed, "None"]), PostOutcome::Stale),
        (
            &guarded,
            cancelled(&["None", "TransactionConflict"]),
            PostOutcome::Busy,
        ),
        (
            &guarded,
            cancelled(&["TransactionConflict", failed]),
            PostOutcome::Stale,
        ),
        (
            &guarded,
            cancelled(&["ThrottlingError", "None"]),
            PostOutcome::Busy,
        ),
        (
            &guarded,
            error("ProvisionedThroughputExceededException", json!({})),
            PostOutcome::Busy,
        ),
        (
            &guarded,
            error("TransactionInProgressException", json!({})),
            PostOutcome::Unknown,
        ),
        (&guarded, (500, json!({})), PostOutcome::Unknown),
    ] {
        let (book, _) = book(std::slice::from_ref(&response));
        assert_eq!(book.post(posting).await.unwrap(), expected, "{response:?}");
    }
    for response in [
        cancelled(&["None", "ValidationError"]),
        error("AccessDeniedException", json!({})),
    ] {
        let (book, _) = book(std::slice::from_ref(&response));
        assert!(book.post(&guarded).await.is_err(), "{response:?}");
    }
}

#[tokio::test]
async fn a_wallet_is_one_consistent_query_read_to_its_end() {
    let wallet = wallet_of("ann", &[(10, Some(60)), (20, None)]);
    let stored: Vec<Value> = {
        let change = |lot| LotChange::Add(lot);
        let mut written = Vec::new();
        let (book, sent) = book(&[(200, json!({}))]);
        let posting = Posting {
            guard: Guard::None,
            changes: vec![WalletChange {
                lots: wallet.lots.iter().cloned().map(change).collect(),
                ..earn(&Wallet::empty(holder("ann")), 1, None)
            }],
        };
        book.post(&posting).await.unwrap();
        let items = sent().remove(0).1["TransactItems"].clone();
        for item in items.as_array().unwrap() {
            if item["Put"]["Item"]["remaining"].is_object() {
                written.push(item["Put"]["Item"].clone());
            }
        }
        written
    };
    let record = json!({
        "pk": {"S": "acme#ann"}, "sk": {"S": "WALLET"}, "version": {"N": "2"}, "balance": {"N": "30"},
        "dueAt": {"S": wallet.due_at}, "lastEntry": {"S": wallet.last_entry},
    });
    let behind = json!({"pk": {"S": "acme#ann"}, "sk": stored[0]["sk"]});
    let pages = [
        (
            200,
            json!({"Items": [stored[0]], "LastEvaluatedKey": behind}),
        ),
        (200, json!({"Items": [stored[1], record]})),
    ];
    let (book, sent) = book(&pages);
    assert_eq!(book.wallet(&holder("ann")).await.unwrap(), wallet);
    let (first, second) = (&sent()[0].1, &sent()[1].1);
    assert_eq!(
        (&first["KeyConditionExpression"], &first["ConsistentRead"]),
        (
            &json!("pk = :pk AND sk BETWEEN :lots AND :wallet"),
            &json!(true)
        )
    );
    assert_eq!(
        first["ExpressionAttributeValues"],
        json!({":pk": {"S": "acme#ann"}, ":lots": {"S": "LOT#"}, ":wallet": {"S": "WALLET"}})
    );
    assert_eq!(second["ExclusiveStartKey"], behind);
}

#[tokio::test]
async fn an_operation_begins_if_nothing_stands_or_a_dead_attempt_at_the_same_request() {
    let (book, sent) = book(&[(200, json!({}))]);
    assert_eq!(book.begin(&operation(), NOW).await.unwrap(), Begin::Begun);
    let (name, body) = sent().remove(0);
    assert_eq!(name, "PutItem");
    assert_eq!(
        body["ConditionExpression"],
        "attribute_not_exists(pk) OR #ttl <= :now OR \
         (requestSha256 = :request AND #status = :inProgress AND leaseUntil <= :nowMillis)"
    );
    assert_eq!(
        body["ExpressionAttributeValues"],
        json!({
            ":now": {"N": "1790000000"}, ":nowMillis": {"N": "1790000000000"}, ":request": {"S": "rr"},
            ":inProgress": {"S": "in_progress"},
        })
    );
    assert_eq!(
        body["Item"],
        json!({
            "pk": {"S": "acme#kk"}, "sk": {"S": "OP#kk"}, "status": {"S": "in_progress"},
            "requestSha256": {"S": "rr"}, "attempt": {"S": "000000000000000000000000000000ff"},
            "leaseUntil": {"N": "1790000030000"}, "ttl": {"N": "1790086400"},
        })
    );
    assert_eq!(body["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
}

#[tokio::test]
async fn what_stands_under_a_key_is_told_apart() {
    let entry_id = EntryId::behind(None, NOW, 1);
    let item = |request: &str, status: &str, attempt: &str, more: Value| {
        let mut item = json!({
            "pk": {"S": "acme#kk"}, "sk": {"S": "OP#kk"}, "requestSha256": {"S": request},
            "status": {"S": status}, "attempt": {"S": attempt}, "ttl": {"N": "1790086400"},
        });
        for (name, value) in more.as_object().unwrap() {
            item[name] = value.clone();
        }
        error("ConditionalCheckFailedException", json!({"Item": item}))
    };
    let lease = json!({"leaseUntil": {"N": "1790000030000"}});
    let own = format!("{:032x}", 255);
    let entered = json!({"entryUser": {"S": "ann"}, "entryId": {"S": entry_id}});
    let refused = json!({"refusal": {"S": "insufficient_points"}});
    let cases = [
        (
            item("other", "in_progress", "1", lease.clone()),
            Begin::Mismatch,
        ),
        (
            item("other", "finished", "1", entered.clone()),
            Begin::Mismatch,
        ),
        (
            item("rr", "in_progress", "1", lease.clone()),
            Begin::InProgress,
        ),
        // The first try of this very call was stored, its answer lost.
        (item("rr", "in_progress", &own, lease), Begin::Begun),
        (
            item("rr", "finished", "1", entered),
            Begin::Answered(OperationAnswer::Entered {
                entry_user: UserId::new("ann").unwrap(),
                entry_id,
            }),
        ),
        (
            item("rr", "finished", "1", refused),
            Begin::Answered(OperationAnswer::Refused {
                refusal: Refusal::InsufficientPoints,
            }),
        ),
    ];
    for (response, expected) in cases {
        let (book, _) = book(std::slice::from_ref(&response));
        assert_eq!(
            book.begin(&operation(), NOW).await.unwrap(),
            expected,
            "{response:?}"
        );
    }
}

#[tokio::test]
async fn an_attempt_whose_lease_has_ended_stands_for_nothing() {
    let until = NOW.plus_seconds(crate::LEASE_SECONDS).millis();
    for (request, status, after, expected) in [
        ("rr", "in_progress", -1, Some(Begin::InProgress)),
        ("rr", "in_progress", 0, None),
        ("other", "in_progress", 0, Some(Begin::Mismatch)),
    ] {
        let item = json!({
            "pk": {"S": "acme#kk"}, "sk": {"S": "OP#kk"}, "requestSha256": {"S": request}, "status": {"S": status},
            "attempt": {"S": "1"}, "ttl": {"N": "1790086400"}, "leaseUntil": {"N": until.to_string()},
        });
        let (book, _) = book(&[(200, json!({"Item": item}))]);
        let now = Timestamp::from_millis(until + after);
        let standing = book.standing(&operation(), now).await.unwrap();
        assert_eq!(standing, expected, "{request} {after}");
    }
}

#[tokio::test]
async fn a_refusal_and_a_release_touch_only_the_attempts_own_operation() {
    let failed = error("ConditionalCheckFailedException", json!({}));
    let (book, sent) = book(&[(200, json!({})), (200, json!({})), failed]);
    let refused = book
        .refuse(&operation(), Refusal::InsufficientPoints)
        .await
        .unwrap();
    let answer = OperationAnswer::Refused {
        refusal: Refusal::InsufficientPoints,
    };
    assert_eq!(refused, Begin::Answered(answer));
    book.release(&operation()).await.unwrap();
    book.release(&operation()).await.unwrap();
    let sent = sent();
    assert_eq!(
        sent[0].1["UpdateExpression"],
        "SET #status = :finished, refusal = :refusal REMOVE leaseUntil"
    );
    assert_eq!(sent[1].1["UpdateExpression"], "SET leaseUntil = :ended");
    for (name, body) in &sent {
        assert_eq!(name, "UpdateItem");
        assert_eq!(
            body["ConditionExpression"],
            "#status = :inProgress AND attempt = :attempt"
        );
    }
}

#[tokio::test]
async fn entries_are_read_backwards_and_pointers_up_to_now() {
    let change = earn(&Wallet::empty(holder("ann")), 10, None);
    let entry = &change.entries[0];
    let stored: Item = serde_dynamo::to_item(entry).unwrap();
    let wire = json!({
        "entryId": {"S": entry.entry_id}, "type": {"S": "earn"}, "amount": {"N": "10"}, "balance": {"N": "10"},
        "createdAt": {"S": NOW}, "reason": {"S": "visit"},
        "lots": {"L": [{"M": {"lotId": {"S": entry.entry_id}, "amount": {"N": "10"}}}]},
    });
    let key = json!({"pk": {"S": "acme#ann"}, "sk": {"S": format!("ENTRY#{}", entry.entry_id)}});
    let mut wire = wire;
    wire["pk"] = key["pk"].clone();
    wire["sk"] = key["sk"].clone();
    assert_eq!(stored.len() + 2, wire.as_object().unwrap().len());
    let due = json!({"pk": {"S": "EXPIRY#3"}, "sk": {"S": format!("{EXPIRY}#acme#ann")}});
    let (book, sent) = book(&[
        (
            200,
            json!({"Items": [wire.clone(), wire], "LastEvaluatedKey": key}),
        ),
        (200, json!({"Items": [due]})),
    ]);
    let page = book
        .entries(&holder("ann"), Some(&entry.entry_id), 1)
        .await
        .unwrap();
    assert_eq!(
        page,
        EntryPage {
            entries: vec![entry.clone()],
            next: Some(entry.entry_id.clone())
        }
    );
    let pointer = DuePointer {
        due_at: NOW.plus_seconds(60),
        holder: holder("ann"),
    };
    let now = NOW.plus_seconds(60);
    let found = book.due(3, now, Some(&pointer), 100).await.unwrap();
    assert_eq!(found, [pointer]);

    let (entries, due) = (&sent()[0].1, &sent()[1].1);
    assert_eq!(
        (&entries["ScanIndexForward"], &entries["ConsistentRead"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(
        entries["KeyConditionExpression"],
        "pk = :pk AND begins_with(sk, :entries)"
    );
    assert_eq!(entries["ExclusiveStartKey"], key);
    assert_eq!(entries["Limit"], 2, "one more than the page holds");
    assert_eq!(
        due["KeyConditionExpression"],
        "pk = :pk AND sk < :behindNow"
    );
    assert_eq!(
        due["ExpressionAttributeValues"],
        json!({":pk": {"S": "EXPIRY#3"}, ":behindNow": {"S": "001790000060001"}})
    );
}
