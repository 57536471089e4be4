//! What issuing costs, counted at the adapter: the real issuer and the real requests, against tables that do nothing but keep
//! items and count units. `cargo test --features aws accounting -- --nocapture` prints the figures.
//!
//! Units as DynamoDB bills them (developer guide, "item sizes and formats" and "transactions"): a write of an item costs one
//! unit per 1 KB begun, in a transaction two; a strongly consistent read one per 4 KB begun, in a transaction two. What AWS
//! bills for a transaction that was cancelled is not documented in full: here it counts as if it had been written.

#![expect(
    clippy::print_stdout,
    reason = "figures for people, shown with --nocapture"
)]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use aws_sdk_dynamodb::config::{
    Credentials, SharedCredentialsProvider, SharedHttpClient,
    http::{HttpRequest, HttpResponse},
};
use aws_smithy_http_client::test_util::infallible_client_fn;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::*;
use crate::aws::{DynamoCampaigns, DynamoCatalog};
use crate::memory::{MemoryClock, MemoryEntropy, MemoryLedger, MemoryOutbox, sample_campaign};
use crate::{
    CampaignCatalog, CampaignRecords, Claim, ClaimId, Clock, Decisions, Entropy, Issuer, MAX_CHUNK,
    Outcome, StockCounters, StockNews, Timestamp, Verdict,
};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_123);
/// How long a transaction of 100 items holds its counter (about the p50 of TransactWriteItems measured on Lambda).
const TRANSACTION: Duration = Duration::from_millis(32);

// ── Sizes ──

fn item_size(item: &Value) -> usize {
    let attributes = item.as_object().into_iter().flatten();
    attributes
        .map(|(name, value)| name.len() + value_size(value))
        .sum()
}

/// The size of an attribute's value, as it stands in a request: `{"S": "text"}`.
fn value_size(value: &Value) -> usize {
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    match (kind.as_str(), value) {
        ("S", Value::String(text)) => text.len(),
        ("N", Value::String(number)) => number_size(number),
        ("BOOL" | "NULL", _) => 1,
        ("M", map) => {
            let entries = map.as_object().unwrap();
            let size = |(name, value): (&String, &Value)| 1 + name.len() + value_size(value);
            3 + entries.iter().map(size).sum::<usize>()
        }
        ("L", list) => {
            let elements = list.as_array().unwrap().iter();
            3 + elements.map(|value| 1 + value_size(value)).sum::<usize>()
        }
        other => panic!("no size for {other:?}"),
    }
}

/// One byte, one more for two significant digits begun, one more for a sign.
fn number_size(number: &str) -> usize {
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    let significant = digits.trim_matches('0').len();
    1 + significant.div_ceil(2) + usize::from(number.starts_with('-'))
}

fn write_units(size: usize) -> u64 {
    size.div_ceil(1024).max(1) as u64
}

fn read_units(item: Option<&Value>) -> u64 {
    item.map_or(0, item_size).div_ceil(4096).max(1) as u64
}

#[test]
fn sizes_are_those_of_dynamodbs_rules() {
    for (item, size) in [
        (json!({"a": {"S": "bc"}}), 3),
        (json!({"쿠": {"S": "폰"}}), 6),
        (json!({"n": {"N": "12345"}}), 5),
        (json!({"n": {"N": "1000"}}), 3),
        (json!({"n": {"N": "-12"}}), 4),
        (json!({"yes": {"BOOL": true}}), 4),
        (json!({"m": {"M": {"x": {"S": "y"}}}}), 7),
        (json!({"l": {"L": [{"N": "1"}, {"NULL": true}]}}), 9),
    ] {
        assert_eq!(item_size(&item), size, "{item}");
    }
}

// ── Tables that count ──

type Key = (String, String, String);

#[derive(Clone, Debug, Default)]
struct Counts {
    calls: BTreeMap<String, u64>,
    written: u64,
    read: u64,
    cancelled: u64,
    largest_coupon: usize,
}

impl Counts {
    fn calls_of(&self, operation: &str) -> u64 {
        self.calls.get(operation).copied().unwrap_or_default()
    }

    fn write_calls(&self) -> u64 {
        let writes = [
            "TransactWriteItems",
            "PutItem",
            "UpdateItem",
            "BatchWriteItem",
            "DeleteItem",
        ];
        writes
            .map(|operation| self.calls_of(operation))
            .iter()
            .sum()
    }
}

#[derive(Debug, Default)]
struct Tables {
    items: HashMap<Key, Value>,
    counts: Counts,
    /// Transactions under way, by the counter they write.
    under_way: HashMap<String, i32>,
}

/// Tables that understand what the adapters ask, and count it; clones share them.
#[derive(Clone, Debug, Default)]
struct Meter(Arc<Mutex<Tables>>);

fn key_of(table: &Value, item: &Value) -> Key {
    let part = |name: &str| item[name]["S"].as_str().unwrap().to_owned();
    (table.as_str().unwrap().to_owned(), part("pk"), part("sk"))
}

fn number_in(value: &Value) -> i64 {
    value["N"].as_str().unwrap().parse().unwrap()
}

fn refused() -> (u16, Value) {
    let error = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
    (400, json!({ "__type": error }))
}

impl Meter {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap()
    }

    /// What was counted since the last time.
    fn take(&self) -> Counts {
        std::mem::take(&mut self.tables().counts)
    }

    fn aws(&self) -> Aws {
        let meter = self.clone();
        let http: SharedHttpClient = infallible_client_fn(move |request| {
            let request = HttpRequest::try_from(request).unwrap();
            let target = request.headers().get("x-amz-target").unwrap();
            let operation = target.rsplit('.').next().unwrap().to_owned();
            let body = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
            let (status, answer) = meter.tables().answer(&operation, &body);
            HttpResponse::new(status.try_into().unwrap(), answer.to_string().into())
                .try_into_http1x()
                .unwrap()
        });
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "key", "secret", None, None, "test",
            )))
            .retry_config(RetryConfig::disabled())
            .http_client(http)
            .build();
        Aws::from_config(config)
    }
}

impl Tables {
    fn answer(&mut self, operation: &str, body: &Value) -> (u16, Value) {
        *self.counts.calls.entry(operation.to_owned()).or_default() += 1;
        match operation {
            "GetItem" => {
                let item = self.items.get(&key_of(&body["TableName"], &body["Key"]));
                assert_eq!(body["ConsistentRead"], true);
                self.counts.read += read_units(item);
                (200, item.map_or(json!({}), |item| json!({ "Item": item })))
            }
            "BatchGetItem" => (200, self.batch_get(body)),
            "TransactGetItems" => (200, self.transact_get(body)),
            "PutItem" => self.put_mark(body),
            "UpdateItem" => self.mark_tick(body),
            "TransactWriteItems" => self.transact_write(body),
            other => panic!("{other} is not counted"),
        }
    }

    fn batch_get(&mut self, body: &Value) -> Value {
        let mut responses = Map::new();
        for (table, asked) in body["RequestItems"].as_object().unwrap() {
            assert_eq!(asked["ConsistentRead"], true);
            let keys = asked["Keys"].as_array().unwrap();
            assert!(keys.len() <= 100);
            let found = keys
                .iter()
                .map(|key| self.items.get(&key_of(&json!(table), key)));
            let found: Vec<Option<&Value>> = found.collect();
            self.counts.read += found.iter().map(|item| read_units(*item)).sum::<u64>();
            responses.insert(
                table.clone(),
                found.into_iter().flatten().cloned().collect(),
            );
        }
        json!({"Responses": responses, "UnprocessedKeys": {}})
    }

    fn transact_get(&mut self, body: &Value) -> Value {
        let gets = body["TransactItems"].as_array().unwrap();
        assert!(gets.len() <= 100);
        let find = |get: &Value| {
            self.items
                .get(&key_of(&get["Get"]["TableName"], &get["Get"]["Key"]))
        };
        let found: Vec<Option<&Value>> = gets.iter().map(find).collect();
        self.counts.read += found.iter().map(|item| 2 * read_units(*item)).sum::<u64>();
        let response =
            |item: Option<&Value>| item.map_or(json!({}), |item| json!({ "Item": item }));
        json!({"Responses": found.into_iter().map(response).collect::<Vec<_>>()})
    }

    /// `attribute_not_exists(pk)`. A refused write costs what stands.
    fn put_mark(&mut self, body: &Value) -> (u16, Value) {
        assert_eq!(body["ConditionExpression"], "attribute_not_exists(pk)");
        let (key, item) = (key_of(&body["TableName"], &body["Item"]), &body["Item"]);
        let standing = self.items.get(&key);
        self.counts.written += write_units(standing.map_or(0, item_size).max(item_size(item)));
        if standing.is_some() {
            return refused();
        }
        self.items.insert(key, item.clone());
        (200, json!({}))
    }

    /// The mark of a stock tick at its first pace.
    fn mark_tick(&mut self, body: &Value) -> (u16, Value) {
        let key = key_of(&body["TableName"], &body["Key"]);
        let value = |name: &str| &body["ExpressionAttributeValues"][name];
        let mut item = body["Key"].clone();
        let until = number_in(value(":first")) + number_in(value(":stale"));
        item["standsUntil"] = json!({"N": until.to_string()});
        item["ttl"] = value(":ttl").clone();
        self.counts.written += write_units(item_size(&item));
        let standing = self.items.get(&key);
        if standing.is_some_and(|old| number_in(&old["standsUntil"]) >= number_in(value(":now"))) {
            return refused();
        }
        self.items.insert(key, item.clone());
        (200, json!({ "Attributes": item }))
    }

    fn transact_write(&mut self, body: &Value) -> (u16, Value) {
        let actions = body["TransactItems"].as_array().unwrap();
        assert!(actions.len() <= 100);
        let judged: Vec<_> = actions.iter().map(|action| self.judge(action)).collect();
        for (size, _) in &judged {
            self.counts.written += 2 * write_units(*size);
        }
        if judged.iter().all(|(_, verdict)| verdict.is_ok()) {
            self.items
                .extend(judged.into_iter().filter_map(|(_, verdict)| verdict.ok()));
            return (200, json!({}));
        }
        self.counts.cancelled += 1;
        let reasons: Vec<Value> = judged
            .into_iter()
            .map(|(_, verdict)| verdict.err().unwrap_or(json!({"Code": "None"})))
            .collect();
        (
            400,
            json!({
                "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                "Message": "cancelled", "CancellationReasons": reasons,
            }),
        )
    }

    /// The size that is billed for an action, and the item it writes or the reason it does not.
    fn judge(&mut self, action: &Value) -> (usize, Result<(Key, Value), Value>) {
        let refused = |item: Value| Err(json!({"Code": "ConditionalCheckFailed", "Item": item}));
        let put = &action["Put"];
        if put.is_object() {
            let key = key_of(&put["TableName"], &put["Item"]);
            let size = item_size(&put["Item"]);
            if key.0 == "coupons" {
                self.counts.largest_coupon = self.counts.largest_coupon.max(size);
            }
            return match self.items.get(&key) {
                Some(standing) => (size.max(item_size(standing)), refused(standing.clone())),
                None => (size, Ok((key, put["Item"].clone()))),
            };
        }
        let update = &action["Update"];
        let key = key_of(&update["TableName"], &update["Key"]);
        let before = self.items.get(&key).expect("the stock counter stands");
        let n = number_in(&update["ExpressionAttributeValues"][":n"]);
        let (remaining, issued) = (
            number_in(&before["remaining"]),
            number_in(&before["issued"]),
        );
        let mut after = before.clone();
        after["remaining"] = json!({"N": (remaining - n).to_string()});
        after["issued"] = json!({"N": (issued + n).to_string()});
        let size = item_size(before).max(item_size(&after));
        if self.under_way.get(&key.1).is_some_and(|others| *others > 1) {
            return (size, Err(json!({"Code": "TransactionConflict"})));
        }
        if remaining < n {
            return (size, refused(before.clone()));
        }
        (size, Ok((key, after)))
    }
}

// ── The sale ──

/// A transaction that takes its time, so that others meet it at its counter.
#[derive(Clone)]
struct Slow {
    ledger: DynamoLedger,
    meter: Meter,
}

impl CouponLedger for Slow {
    async fn standing(
        &self,
        campaign: &Campaign,
        users: &[UserId],
    ) -> Result<HashMap<UserId, Coupon>, PortError> {
        self.ledger.standing(campaign, users).await
    }

    async fn issue(&self, chunk: &Chunk) -> Result<ChunkOutcome, PortError> {
        let counter = format!("STOCK#{}#{}", chunk.campaign.campaign_id, chunk.shard);
        let under_way = |by: i32| {
            let mut tables = self.meter.tables();
            *tables.under_way.entry(counter.clone()).or_default() += by;
        };
        under_way(1);
        let outcome = self.ledger.issue(chunk).await;
        // Only a transaction that goes through holds its counter; the others learn of it as late.
        let held = outcome
            .as_ref()
            .is_ok_and(|outcome| *outcome == ChunkOutcome::Issued);
        under_way(if held { 0 } else { -1 });
        sleep(TRANSACTION).await;
        under_way(if held { -1 } else { 0 });
        outcome
    }

    async fn confirm(
        &self,
        campaign: &Campaign,
        users: &[UserId],
    ) -> Result<Confirmation, PortError> {
        self.ledger.confirm(campaign, users).await
    }
}

struct Sale {
    meter: Meter,
    campaign: Campaign,
    campaigns: DynamoCampaigns,
    ledger: Slow,
}

impl Sale {
    /// An open campaign whose ids are as long as they may be, stored by the adapter itself.
    async fn of(total: u32, shards: u16) -> Self {
        let meter = Meter::default();
        let aws = meter.aws();
        let mut campaign = sample_campaign(total, NOW);
        campaign.campaign_id = CampaignId::new("k".repeat(64)).unwrap();
        campaign.partner_id = PartnerId::new("p".repeat(64)).unwrap();
        campaign.shards = shards;
        DynamoCatalog::new(&aws, "campaigns".into())
            .create(&campaign, None)
            .await
            .unwrap();
        meter.take();
        Self {
            campaigns: DynamoCampaigns::new(&aws, "campaigns".into()),
            ledger: Slow {
                ledger: DynamoLedger::new(&aws, "coupons".into(), "campaigns".into()),
                meter: meter.clone(),
            },
            meter,
            campaign,
        }
    }

    fn issuer(&self, seed: u64) -> Issuer<DynamoCampaigns, Slow, MemoryClock, MemoryEntropy> {
        Issuer::new(
            self.campaigns.clone(),
            self.ledger.clone(),
            MemoryClock::at(NOW),
            MemoryEntropy::seeded(seed),
        )
    }

    fn claims(&self, users: std::ops::Range<usize>) -> Vec<Claim> {
        claims(&self.campaign, users)
    }
}

/// Claims of different users, with ids as long as they may be.
fn claims(campaign: &Campaign, users: std::ops::Range<usize>) -> Vec<Claim> {
    let claim = |number: usize| Claim {
        claim_id: ClaimId::new(format!("{number:0>64}")).unwrap(),
        partner_id: campaign.partner_id.clone(),
        campaign_id: campaign.campaign_id.clone(),
        user_id: UserId::new(format!("{number:0>128}")).unwrap(),
        requested_at: NOW,
        sent_at: NOW,
        connection_id: None,
        trace: None,
    };
    users.map(claim).collect()
}

async fn decide<C, L, K, E>(issuer: &Issuer<C, L, K, E>, claims: &[Claim]) -> Decisions
where
    C: CampaignRecords + StockCounters,
    L: CouponLedger,
    K: Clock,
    E: Entropy,
{
    issuer
        .decide(claims, Instant::now() + Duration::from_secs(7))
        .await
}

fn all_are(decisions: &Decisions, outcome: Outcome) -> bool {
    decisions
        .verdicts
        .iter()
        .all(|verdict| *verdict == Some(Verdict::Refused(outcome)))
}

/// Sells 1,000 coupons in batches of these sizes, one worker after the other; what issuing and what telling of it cost.
async fn thousand(batches: &[usize], shards: u16) -> (Counts, Counts) {
    let sale = Sale::of(64_000, shards).await;
    let issuer = sale.issuer(1);
    let news = StockNews::new(
        sale.campaigns.clone(),
        MemoryOutbox::default(),
        MemoryClock::at(NOW),
    );
    let (mut sold, mut changed) = (0, Vec::new());
    for size in batches {
        let decisions = decide(&issuer, &sale.claims(sold..sold + size)).await;
        assert_eq!(decisions.issued, *size);
        sold += size;
        changed.extend(decisions.changed);
    }
    assert_eq!(sold, 1000);
    let issuing = sale.meter.take();
    for campaign in &changed {
        news.stock_changed(campaign).await.unwrap();
    }
    (issuing, sale.meter.take())
}

#[tokio::test(start_paused = true)]
async fn a_thousand_coupons_cost_eleven_write_calls_and_two_units_each() {
    println!(
        "\n  1,000 coupons, longest ids     write calls   write units   read units   + telling the stock"
    );
    // Full batches: of whole chunks, as large as ClaimsQueue gives them (template.yaml), or all at once.
    let full = [vec![495, 495, 10], vec![990, 10], vec![1000]];
    for (batches, shards) in full
        .iter()
        .flat_map(|batches| [1, 4, 64].map(|shards| (batches, shards)))
    {
        let (issuing, telling) = thousand(batches, shards).await;
        show(batches, shards, &issuing, &telling);
        assert_eq!(issuing.write_calls(), 11);
        assert_eq!(issuing.cancelled, 0);
        assert_eq!(issuing.written, 11 * 2 + 1000 * 2);
        assert!(issuing.written <= 2030);
        assert!(telling.write_calls() <= batches.len() as u64);
        assert!(issuing.written + telling.written <= 2030);
    }
    // A batch that is no whole number of chunks leaves a small one behind.
    let (issuing, telling) = thousand(&[500, 500], 4).await;
    show(&[500, 500], 4, &issuing, &telling);
    assert_eq!(issuing.write_calls(), 12);
    assert!(issuing.written <= 2030);
}

fn show(batches: &[usize], shards: u16, issuing: &Counts, telling: &Counts) {
    let label = format!("{batches:?}, {shards} shards");
    println!(
        "  {label:<30} {:>11}   {:>11}   {:>10}   {} calls, {} units",
        issuing.write_calls(),
        issuing.written,
        issuing.read,
        telling.write_calls(),
        telling.written
    );
}

#[tokio::test(start_paused = true)]
async fn a_coupon_with_the_longest_ids_costs_one_unit() {
    let sale = Sale::of(10, 1).await;
    let decisions = decide(&sale.issuer(1), &sale.claims(0..1)).await;
    assert_eq!(decisions.issued, 1);
    let size = sale.meter.take().largest_coupon;
    println!("\n  the largest coupon takes {size} bytes of 1,024");
    assert!((600..=1024).contains(&size), "{size} bytes");
}

#[tokio::test(start_paused = true)]
async fn contention_costs_cancelled_transactions_and_more_shards_cost_fewer() {
    const WORKERS: usize = 10;
    const CLAIMS: usize = 2 * MAX_CHUNK;
    println!(
        "\n  {WORKERS} workers × {CLAIMS} claims at once, per 1,000 coupons: write calls, cancelled of them, write units at most"
    );
    let mut cancelled = Vec::new();
    for shards in [1, 4, 64] {
        let sale = Sale::of(64_000, shards).await;
        let started = Instant::now();
        let workers: Vec<_> = (0..WORKERS).map(|seed| sale.issuer(seed as u64)).collect();
        let batches: Vec<_> = (0..WORKERS)
            .map(|worker| sale.claims(worker * CLAIMS..(worker + 1) * CLAIMS))
            .collect();
        let work = workers.iter().zip(&batches);
        let work = work.map(|(worker, batch)| decide(worker, batch));
        let issued: usize = join_all(work).await.iter().map(|done| done.issued).sum();
        assert_eq!(issued, WORKERS * CLAIMS, "everybody is served in time");
        let counts = sale.meter.take();
        let per_thousand = |count: u64| count as f64 * 1000.0 / issued as f64;
        println!(
            "  {:<30} {:>11.1}   {:>11.1}   {:>10.0}   in {:.2} s of {} ms each",
            format!("{shards} shards"),
            per_thousand(counts.write_calls()),
            per_thousand(counts.cancelled),
            per_thousand(counts.written),
            started.elapsed().as_secs_f64(),
            TRANSACTION.as_millis()
        );
        cancelled.push(counts.cancelled);
    }
    assert!(cancelled[2] < cancelled[0], "{cancelled:?}");
}

#[tokio::test(start_paused = true)]
async fn losers_cost_reads_and_not_one_transaction() {
    let sale = Sale::of(99, 3).await;
    let issuer = sale.issuer(1);
    assert_eq!(decide(&issuer, &sale.claims(0..99)).await.issued, 99);
    sale.meter.take();
    println!("\n  a batch of 500 losers       write calls   reads by operation, read units");
    let mut later = None;
    for (worker, name, users) in [
        (&issuer, "the worker that sold out", 1000..1500),
        (&sale.issuer(2), "a worker that just started", 1500..2000),
        (&issuer, "any later batch", 2000..2500),
    ] {
        let decisions = decide(worker, &sale.claims(users)).await;
        assert!(all_are(&decisions, Outcome::SoldOut));
        let counts = sale.meter.take();
        println!(
            "  {name:<28} {:>10}   {:?}, {} units",
            counts.write_calls(),
            counts.calls,
            counts.read
        );
        assert_eq!(counts.write_calls(), 0);
        later = Some(counts);
    }
    let later = later.unwrap();
    // The record, five pages of coupons, and their five confirmations at two units a key; no stock.
    let expected = [("BatchGetItem", 5), ("GetItem", 1), ("TransactGetItems", 5)];
    let expected = expected.map(|(operation, calls)| (operation.to_owned(), calls));
    assert_eq!(later.calls, BTreeMap::from(expected));
    assert_eq!(later.read, 1 + 500 + 2 * 500);
}

#[tokio::test(start_paused = true)]
async fn a_million_losers_after_the_last_coupon_cost_no_transaction() {
    const BATCHES: usize = 2000;
    let (ledger, campaign) = (MemoryLedger::default(), sample_campaign(1000, NOW));
    ledger.add(&campaign);
    let issuer = Issuer::new(
        ledger.clone(),
        ledger.clone(),
        MemoryClock::at(NOW),
        MemoryEntropy::seeded(1),
    );
    assert_eq!(
        decide(&issuer, &claims(&campaign, 0..1000)).await.issued,
        1000
    );
    let (transactions, stock_reads) = (ledger.issue_calls(), ledger.stock_reads());
    assert_eq!(transactions, 1000_usize.div_ceil(MAX_CHUNK));
    let mut batch = claims(&campaign, 0..500);
    for number in 0..BATCHES {
        for (position, claim) in batch.iter_mut().enumerate() {
            let user = format!("loser-{number}-{position}");
            claim.user_id = UserId::new(user).unwrap();
        }
        assert!(all_are(&decide(&issuer, &batch).await, Outcome::SoldOut));
    }
    assert_eq!(ledger.issue_calls(), transactions, "no transaction");
    assert_eq!(ledger.stock_reads(), stock_reads, "nor a look at the stock");
    assert_eq!(ledger.coupons(&campaign.campaign_id).len(), 1000);
}
