//! Campaigns, announcement reports and users' coupons as partners manage and read them, on DynamoDB.

use std::time::Duration;

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::{put_item::PutItemError, transact_write_items::TransactWriteItemsError},
    types::{
        CancellationReason, Put, ReturnValuesOnConditionCheckFailure as OnFailure,
        TransactWriteItem, builders::PutBuilder,
    },
};

use crate::{
    BroadcastId, BroadcastReport, BroadcastReports, Campaign, CampaignCatalog, CampaignId,
    CampaignRecords, Coupon, Creation, IDEMPOTENCY_SECONDS, Idempotency, Opening, Page, PageCounts,
    PartnerId, PortError, REPORT_SECONDS, ReportRecord, Timestamp, UserCoupons, UserId,
    aws::{
        Aws, DynamoCampaigns,
        campaigns::{campaign_key, stock_key},
        error::port_error,
        item::{Item, key, number, read, record, text, ttl},
        page::page,
    },
};

/// How long a transaction may be tried while others write the same items: the function has 10 s (template.yaml).
const PATIENCE: Duration = Duration::from_secs(8);
/// How often. Issuance holds a shard for some 25 ms at a time, so that a gap is soon met.
const MAX_TRIES: u32 = 20;

/// [`CampaignCatalog`] and [`BroadcastReports`] on the Campaigns table.
#[derive(Clone, Debug)]
pub struct DynamoCatalog {
    client: Client,
    table: String,
    campaigns: DynamoCampaigns,
}

/// What became of a transaction that was tried with patience.
enum Transacted {
    Applied,
    /// A condition did not hold; the reasons are in the order of the items.
    Refused(Vec<CancellationReason>),
}

impl DynamoCatalog {
    /// On the Campaigns table.
    pub fn new(aws: &Aws, table: String) -> Self {
        Self {
            client: aws.dynamo(),
            campaigns: DynamoCampaigns::new(aws, table.clone()),
            table,
        }
    }

    /// Tries the transaction again, with jitter, for as long as only conflicts and throttles stop it.
    async fn transact(
        &self,
        operation: &'static str,
        items: Vec<TransactWriteItem>,
    ) -> Result<Transacted, PortError> {
        let tries = async {
            for attempt in 0..MAX_TRIES {
                let request = self
                    .client
                    .transact_write_items()
                    .set_transact_items(Some(items.clone()));
                match request.send().await {
                    Ok(_) => return Ok(Transacted::Applied),
                    Err(error) => match judge(&error) {
                        Judgement::Refused(reasons) => return Ok(Transacted::Refused(reasons)),
                        Judgement::Busy => pause(attempt).await,
                        Judgement::Failed => return Err(port_error(operation, error)),
                    },
                }
            }
            Err(PortError::retry(
                operation,
                "others kept writing the same items",
            ))
        };
        let late = |_| {
            Err(PortError::retry(
                operation,
                "others kept writing the same items for 8 s",
            ))
        };
        tokio::time::timeout(PATIENCE, tries)
            .await
            .unwrap_or_else(late)
    }

    async fn standing(
        &self,
        operation: &'static str,
        id: &CampaignId,
    ) -> Result<Campaign, PortError> {
        let found = self.campaigns.find(id).await?;
        found.ok_or_else(|| PortError::reject(operation, "the campaign's record is missing"))
    }

    /// A creation met something that stands: an earlier try of its own, or an earlier request with the same key.
    async fn met(
        &self,
        campaign: &Campaign,
        idempotency: Option<&Idempotency>,
        reasons: Vec<CancellationReason>,
    ) -> Result<Creation, PortError> {
        let mut standing = reasons.into_iter().map(|reason| reason.item);
        // The record's id has 80 random bits: whoever stored it was an earlier try of this call, whose answer was lost.
        if standing.next().flatten().is_some() {
            return Ok(Creation::Created);
        }
        let (Some(idempotency), Some(item)) = (idempotency, standing.next().flatten()) else {
            return Err(PortError::reject(
                CREATE,
                "a condition failed where none was set",
            ));
        };
        match made_before::<CampaignId>(CREATE, idempotency, &item, "campaignId")? {
            None => Ok(Creation::Mismatch),
            Some(id) if id == campaign.campaign_id => Ok(Creation::Created),
            Some(id) => self.standing(CREATE, &id).await.map(Creation::Repeated),
        }
    }

    /// Remembers that the key's request made this broadcast; the id is that of the first such request. `None`: it made
    /// another one, of another request.
    async fn remember(
        &self,
        id: &BroadcastId,
        asked: &ReportRecord,
        idempotency: &Idempotency,
    ) -> Result<Option<BroadcastId>, PortError> {
        let mut item = memory(&asked.partner_id, idempotency, BROADCAST, asked.created_at);
        item.insert("broadcastId".into(), text(id.as_str()));
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(FORGOTTEN)
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":now", ttl(asked.created_at))
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        match request.send().await {
            Ok(_) => Ok(Some(id.clone())),
            Err(error) => match refused_by(&error) {
                Some(item) => made_before(OPEN, idempotency, &item, "broadcastId"),
                None => Err(port_error(OPEN, error)),
            },
        }
    }
}

const CREATE: &str = "create the campaign";
const LIST: &str = "list the campaigns";
const OPEN: &str = "open the report";

/// Nothing is known of the key, or nothing that still counts: an item past its TTL may linger for days.
const FORGOTTEN: &str = "attribute_not_exists(pk) OR #ttl <= :now";
/// The sort keys of what is known of keys, by what they made.
const CAMPAIGN: &str = "CAMPAIGN";
const BROADCAST: &str = "BROADCAST";

/// What is to be known of a key, without what it made.
fn memory(
    partner: &PartnerId,
    idempotency: &Idempotency,
    made: &'static str,
    now: Timestamp,
) -> Item {
    let pk = format!("IDEMPOTENCY#{partner}#{}", idempotency.key_sha256);
    let mut item = key(pk, made);
    item.insert("bodySha256".into(), text(&idempotency.body_sha256));
    item.insert("ttl".into(), ttl(now.plus_seconds(IDEMPOTENCY_SECONDS)));
    item
}

/// The id of what the key made before; `None` if that was of another request.
fn made_before<T: TryFrom<String>>(
    operation: &'static str,
    idempotency: &Idempotency,
    item: &Item,
    name: &str,
) -> Result<Option<T>, PortError> {
    if attribute(item, "bodySha256") != Some(&idempotency.body_sha256) {
        return Ok(None);
    }
    let id = attribute(item, name).and_then(|id| T::try_from(id.to_owned()).ok());
    id.map(Some)
        .ok_or_else(|| PortError::reject(operation, "the idempotency item names nothing"))
}

impl CampaignCatalog for DynamoCatalog {
    async fn create(
        &self,
        campaign: &Campaign,
        idempotency: Option<&Idempotency>,
    ) -> Result<Creation, PortError> {
        let items = creation(&self.table, campaign, idempotency)?;
        match self.transact(CREATE, items).await? {
            Transacted::Applied => Ok(Creation::Created),
            Transacted::Refused(reasons) => self.met(campaign, idempotency, reasons).await,
        }
    }

    async fn recall(
        &self,
        partner: &PartnerId,
        idempotency: &Idempotency,
        now: Timestamp,
    ) -> Result<Option<Creation>, PortError> {
        const OPERATION: &str = "recall the campaign's creation";
        let key = format!("IDEMPOTENCY#{partner}#{}", idempotency.key_sha256);
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(self::key(key, CAMPAIGN)))
            .consistent_read(true);
        let output = request
            .send()
            .await
            .map_err(|error| port_error(OPERATION, error))?;
        let Some(item) = output.item.filter(|item| counts(item, now)) else {
            return Ok(None);
        };
        match made_before::<CampaignId>(OPERATION, idempotency, &item, "campaignId")? {
            None => Ok(Some(Creation::Mismatch)),
            Some(id) => {
                let standing = self.standing(OPERATION, &id).await?;
                Ok(Some(Creation::Repeated(standing)))
            }
        }
    }

    async fn list(
        &self,
        partner: &PartnerId,
        after: Option<&CampaignId>,
        limit: u16,
    ) -> Result<Page<Campaign>, PortError> {
        let table = (&self.client, self.table.as_str());
        let (items, next) =
            newest_first(table, LIST, format!("PARTNER#{partner}"), after, limit).await?;
        let ids: Vec<_> = items
            .iter()
            .filter_map(|item| CampaignId::new(attribute(item, "sk")?).ok())
            .collect();
        let mut campaigns = self.campaigns.find_all(&ids).await?;
        campaigns.sort_by(|a, b| b.campaign_id.cmp(&a.campaign_id));
        Ok(Page {
            items: campaigns,
            next,
        })
    }
}

impl BroadcastReports for DynamoCatalog {
    async fn open(
        &self,
        id: &BroadcastId,
        asked: &ReportRecord,
        idempotency: Option<&Idempotency>,
    ) -> Result<Opening, PortError> {
        let id = match idempotency {
            None => id.clone(),
            Some(idempotency) => match self.remember(id, asked, idempotency).await? {
                Some(first) => first,
                None => return Ok(Opening::Mismatch),
            },
        };
        let mut item = record(OPEN, key(report_pk(&id), "REPORT"), asked)?;
        item.insert(
            "ttl".into(),
            ttl(asked.created_at.plus_seconds(REPORT_SECONDS)),
        );
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        let standing = match request.send().await {
            Ok(_) => asked.clone(),
            Err(error) => match refused_by(&error) {
                Some(item) => read(OPEN, item)?,
                None => return Err(port_error(OPEN, error)),
            },
        };
        Ok(Opening::Standing(id, standing))
    }

    async fn report(
        &self,
        id: &BroadcastId,
        now: Timestamp,
    ) -> Result<Option<BroadcastReport>, PortError> {
        const OPERATION: &str = "read the report";
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true);
        let query = query
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text(report_pk(id)));
        let items = query
            .send()
            .await
            .map_err(|error| port_error(OPERATION, error))?
            .items
            .unwrap_or_default();
        let is_report = |item: &Item| attribute(item, "sk") == Some("REPORT");
        let (reports, pages): (Vec<_>, Vec<_>) = items.into_iter().partition(is_report);
        let Some(report) = reports.into_iter().find(|report| counts(report, now)) else {
            return Ok(None);
        };
        let pages: Result<Vec<PageCounts>, _> = pages
            .into_iter()
            .map(|item| read(OPERATION, item))
            .collect();
        Ok(Some(BroadcastReport::sum(
            &read(OPERATION, report)?,
            &pages?,
        )))
    }
}

/// [`UserCoupons`] on the Coupons table.
#[derive(Clone, Debug)]
pub struct DynamoUserCoupons {
    client: Client,
    table: String,
}

impl DynamoUserCoupons {
    /// On the Coupons table.
    pub fn new(aws: &Aws, table: String) -> Self {
        Self {
            client: aws.dynamo(),
            table,
        }
    }
}

impl UserCoupons for DynamoUserCoupons {
    async fn coupons_of(
        &self,
        partner: &PartnerId,
        user: &UserId,
        after: Option<&CampaignId>,
        limit: u16,
    ) -> Result<Page<Coupon>, PortError> {
        const OPERATION: &str = "list the user's coupons";
        let table = (&self.client, self.table.as_str());
        let (items, next) =
            newest_first(table, OPERATION, format!("{partner}#{user}"), after, limit).await?;
        let coupons: Result<_, _> = items
            .into_iter()
            .map(|item| read(OPERATION, item))
            .collect();
        Ok(Page {
            items: coupons?,
            next,
        })
    }
}

/// One page of a partition whose sort keys are campaign ids, the youngest first. One item more than the page holds is asked
/// for: only if there is one, there is a next page.
async fn newest_first(
    (client, table): (&Client, &str),
    operation: &'static str,
    pk: String,
    after: Option<&CampaignId>,
    limit: u16,
) -> Result<(Vec<Item>, Option<CampaignId>), PortError> {
    let start = after.map(|id| key(pk.clone(), id.as_str()));
    let query = client
        .query()
        .table_name(table)
        .consistent_read(true)
        .key_condition_expression("pk = :pk")
        .expression_attribute_values(":pk", text(pk))
        .scan_index_forward(false);
    let (items, more) = page(operation, query, start, limit).await?;
    let last = items.last().filter(|_| more);
    let next = last.and_then(|item| CampaignId::new(attribute(item, "sk")?).ok());
    Ok((items, next))
}

/// A creation's items. The record comes first, then the idempotency item if there is one: [`DynamoCatalog::met`] relies
/// on their positions. At most 68 of the 100 that `TransactWriteItems` takes.
fn creation(
    table: &str,
    campaign: &Campaign,
    idempotency: Option<&Idempotency>,
) -> Result<Vec<TransactWriteItem>, PortError> {
    let (id, partner) = (&campaign.campaign_id, &campaign.partner_id);
    let new = |item| put(table, item).condition_expression("attribute_not_exists(pk)");
    let mut puts = vec![new(record(CREATE, campaign_key(id), campaign)?)];
    if let Some(idempotency) = idempotency {
        let mut item = memory(partner, idempotency, CAMPAIGN, campaign.created_at);
        item.insert("campaignId".into(), text(id.as_str()));
        let remember = put(table, item)
            .condition_expression(FORGOTTEN)
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":now", ttl(campaign.created_at));
        puts.push(remember);
    }
    puts.push(put(table, key(format!("PARTNER#{partner}"), id.as_str())));
    puts.push(put(table, key("LIVE", id.as_str())));
    for (shard, quota) in campaign.quotas() {
        let mut item = stock_key(id, shard);
        item.insert("remaining".into(), number(quota));
        item.insert("issued".into(), number(0));
        item.insert("quota".into(), number(quota));
        puts.push(new(item));
    }
    let build = |put: PutBuilder| {
        let put = put
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .build();
        put.map(|put| TransactWriteItem::builder().put(put).build())
            .map_err(|e| PortError::reject(CREATE, e))
    };
    puts.into_iter().map(build).collect()
}

fn put(table: &str, item: Item) -> PutBuilder {
    Put::builder().table_name(table).set_item(Some(item))
}

enum Judgement {
    Refused(Vec<CancellationReason>),
    Busy,
    Failed,
}

fn judge<R>(error: &SdkError<TransactWriteItemsError, R>) -> Judgement {
    let reasons = match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
            cancelled.cancellation_reasons()
        }
        Some(TransactWriteItemsError::TransactionInProgressException(_)) => return Judgement::Busy,
        _ => return Judgement::Failed,
    };
    let says = |codes: &[&str]| {
        reasons
            .iter()
            .any(|reason| reason.code().is_some_and(|code| codes.contains(&code)))
    };
    if says(&["ConditionalCheckFailed"]) {
        Judgement::Refused(reasons.to_vec())
    } else if says(&[
        "TransactionConflict",
        "ThrottlingError",
        "ProvisionedThroughputExceeded",
    ]) {
        Judgement::Busy
    } else {
        Judgement::Failed
    }
}

fn refused_by<R>(error: &SdkError<PutItemError, R>) -> Option<Item> {
    match error.as_service_error()? {
        PutItemError::ConditionalCheckFailedException(failed) => failed.item().cloned(),
        _ => None,
    }
}

/// Waits up to 25 ms, 50 ms … 400 ms, with full jitter.
async fn pause(attempt: u32) {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(
        1..=25 << attempt.min(4),
    )))
    .await;
}

/// Whether an item still counts: past its TTL it may linger for days.
fn counts(item: &Item, now: Timestamp) -> bool {
    let end = item.get("ttl").and_then(|ttl| ttl.as_n().ok());
    end.and_then(|end| end.parse().ok())
        .is_some_and(|end: i64| now.epoch_seconds() < end)
}

fn report_pk(id: &BroadcastId) -> String {
    format!("BROADCAST#{id}")
}

fn attribute<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)
        .and_then(|value| value.as_s().ok())
        .map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        BroadcastStatus, NewCampaign, Timestamp, Topic,
        aws::replay::{replay, requests},
    };

    const TABLE: &str = "Campaigns";

    fn now() -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000)
    }

    fn campaign(total: u32) -> Campaign {
        let new: NewCampaign =
            serde_json::from_value(json!({"title": "t", "total": total})).unwrap();
        new.into_campaign(
            CampaignId::mint(now(), 1),
            PartnerId::new("acme").unwrap(),
            now(),
        )
        .unwrap()
    }

    fn idempotency() -> Idempotency {
        Idempotency {
            key_sha256: "k".into(),
            body_sha256: "b".into(),
        }
    }

    fn catalog(
        responses: &[(u16, Value)],
    ) -> (DynamoCatalog, impl Fn() -> Vec<(String, Value)> + use<>) {
        let (aws, client) = replay(responses);
        (DynamoCatalog::new(&aws, TABLE.into()), move || {
            requests(&client)
        })
    }

    /// A cancelled transaction with these reasons at its first positions.
    fn cancelled(reasons: &[Value]) -> (u16, Value) {
        let kind = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
        (
            400,
            json!({"__type": kind, "message": "cancelled", "CancellationReasons": reasons}),
        )
    }

    fn none() -> Value {
        json!({"Code": "None"})
    }

    fn item(value: &impl serde::Serialize) -> Value {
        let item: Item = serde_dynamo::to_item(value).unwrap();
        item.into_iter()
            .map(|(name, value)| (name, wire(value)))
            .collect()
    }

    fn wire(value: aws_sdk_dynamodb::types::AttributeValue) -> Value {
        use aws_sdk_dynamodb::types::AttributeValue::{Bool, N, S};
        match value {
            S(text) => json!({"S": text}),
            N(number) => json!({"N": number}),
            Bool(flag) => json!({"BOOL": flag}),
            other => panic!("{other:?} is in no sample"),
        }
    }

    #[tokio::test]
    async fn a_creation_stores_everything_in_one_transaction_and_overwrites_nothing() {
        let (catalog, sent) = catalog(&[(200, json!({}))]);
        let campaign = campaign(64_000);
        assert_eq!(
            catalog
                .create(&campaign, Some(&idempotency()))
                .await
                .unwrap(),
            Creation::Created
        );
        let (operation, body) = sent().remove(0);
        assert_eq!(operation, "TransactWriteItems");
        assert!(
            body["ClientRequestToken"].is_string(),
            "a repeat by the SDK is the same transaction"
        );
        let puts: Vec<_> = body["TransactItems"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| &item["Put"])
            .collect();
        assert_eq!(puts.len(), 68);

        let id = campaign.campaign_id.as_str();
        assert_eq!(puts[0]["Item"]["pk"]["S"], format!("CAMPAIGN#{id}"));
        assert_eq!(puts[0]["Item"]["total"]["N"], "64000");
        assert_eq!(puts[0]["ConditionExpression"], "attribute_not_exists(pk)");
        assert_eq!(puts[1]["Item"]["pk"]["S"], "IDEMPOTENCY#acme#k");
        assert_eq!(
            puts[1]["ConditionExpression"],
            "attribute_not_exists(pk) OR #ttl <= :now"
        );
        assert_eq!(
            puts[1]["Item"]["ttl"]["N"],
            (now().epoch_seconds() + 86_400).to_string()
        );
        assert_eq!(
            puts[2]["Item"],
            json!({"pk": {"S": "PARTNER#acme"}, "sk": {"S": id}})
        );
        assert_eq!(
            puts[3]["Item"],
            json!({"pk": {"S": "LIVE"}, "sk": {"S": id}})
        );
        for (shard, put) in puts[4..].iter().enumerate() {
            let expected = json!({
                "pk": {"S": format!("STOCK#{id}#{shard}")}, "sk": {"S": "STOCK"},
                "remaining": {"N": "1000"}, "issued": {"N": "0"}, "quota": {"N": "1000"},
            });
            assert_eq!(put["Item"], expected);
            assert_eq!(put["ConditionExpression"], "attribute_not_exists(pk)");
        }
        assert!(
            puts.iter()
                .all(|put| put["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD")
        );
    }

    #[tokio::test]
    async fn a_known_key_gives_the_first_campaign_for_the_same_body_only() {
        let first = Campaign {
            title: "first".into(),
            campaign_id: CampaignId::mint(now(), 9),
            ..campaign(1)
        };
        let known = |body: &str| {
            let item = json!({"campaignId": {"S": first.campaign_id}, "bodySha256": {"S": body}});
            cancelled(&[
                none(),
                json!({"Code": "ConditionalCheckFailed", "Item": item}),
            ])
        };
        let (repeated, sent) = catalog(&[known("b"), (200, json!({"Item": item(&first)}))]);
        let creation = repeated
            .create(&campaign(1), Some(&idempotency()))
            .await
            .unwrap();
        assert_eq!(creation, Creation::Repeated(first.clone()));
        assert_eq!(sent()[1].1["ConsistentRead"], true);

        let (mismatched, _) = catalog(&[known("other")]);
        assert_eq!(
            mismatched
                .create(&campaign(1), Some(&idempotency()))
                .await
                .unwrap(),
            Creation::Mismatch
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_creation_whose_first_answer_was_lost_is_recognized() {
        let conflict = cancelled(&[json!({"Code": "TransactionConflict"})]);
        let own =
            cancelled(&[json!({"Code": "ConditionalCheckFailed", "Item": {"pk": {"S": "x"}}})]);
        let (catalog, sent) = catalog(&[conflict, own]);
        assert_eq!(
            catalog.create(&campaign(1), None).await.unwrap(),
            Creation::Created
        );
        assert_eq!(sent().len(), 2);
    }

    #[tokio::test]
    async fn a_list_reads_the_index_backwards_and_the_records_consistently() {
        let (newer, older) = (
            Campaign {
                campaign_id: CampaignId::mint(now(), 9),
                ..campaign(1)
            },
            campaign(1),
        );
        let entry =
            |of: &Campaign| json!({"pk": {"S": "PARTNER#acme"}, "sk": {"S": of.campaign_id}});
        let oldest = Campaign {
            campaign_id: CampaignId::mint(now(), 0),
            ..campaign(1)
        };
        let items = [entry(&newer), entry(&older), entry(&oldest)];
        let index = json!({"Items": items, "LastEvaluatedKey": entry(&oldest)});
        let records = json!({"Responses": {TABLE: [item(&older), item(&newer)]}});
        let (catalog, sent) = catalog(&[(200, index), (200, records)]);
        let after = CampaignId::mint(now(), 10);
        let page = catalog
            .list(&PartnerId::new("acme").unwrap(), Some(&after), 2)
            .await
            .unwrap();
        let next = Some(older.campaign_id.clone());
        assert_eq!(
            page,
            Page {
                items: vec![newer, older],
                next
            }
        );

        let query = &sent()[0].1;
        assert_eq!(
            (&query["ScanIndexForward"], &query["ConsistentRead"]),
            (&json!(false), &json!(true))
        );
        assert_eq!(query["Limit"], 3, "one more than the page holds");
        let read = &sent()[1].1["RequestItems"][TABLE]["Keys"];
        assert_eq!(read.as_array().unwrap().len(), 2);
        assert_eq!(
            query["ExclusiveStartKey"],
            json!({"pk": {"S": "PARTNER#acme"}, "sk": {"S": after}})
        );
        assert_eq!(sent()[1].1["RequestItems"][TABLE]["ConsistentRead"], true);
    }

    #[tokio::test]
    async fn a_report_that_stands_is_returned_instead_of_overwritten() {
        let asked = ReportRecord {
            partner_id: PartnerId::new("acme").unwrap(),
            topic: Topic::Campaign(CampaignId::new("k").unwrap()),
            kind: None,
            created_at: now(),
            fanned_out: false,
        };
        let standing = ReportRecord {
            fanned_out: true,
            ..asked.clone()
        };
        let kind = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
        let (catalog, sent) = catalog(&[
            (200, json!({})),
            (400, json!({"__type": kind, "Item": item(&standing)})),
        ]);
        let id = BroadcastId::new("b").unwrap();
        for standing in [asked.clone(), standing] {
            let opening = Opening::Standing(id.clone(), standing);
            assert_eq!(catalog.open(&id, &asked, None).await.unwrap(), opening);
        }
        let (_, put) = &sent()[0];
        assert_eq!(put["ConditionExpression"], "attribute_not_exists(pk)");
        assert_eq!(put["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
        let expected = json!({
            "pk": {"S": "BROADCAST#b"}, "sk": {"S": "REPORT"}, "partnerId": {"S": "acme"}, "topic": {"S": "campaign:k"},
            "createdAt": {"S": now()}, "fannedOut": {"BOOL": false},
            "ttl": {"N": (now().epoch_seconds() + 7 * 86_400).to_string()},
        });
        assert_eq!(put["Item"], expected);
    }

    #[tokio::test]
    async fn a_key_that_still_counts_gives_its_first_broadcast_for_the_same_request_only() {
        let asked = ReportRecord {
            partner_id: PartnerId::new("acme").unwrap(),
            topic: Topic::Campaign(CampaignId::new("k").unwrap()),
            kind: None,
            created_at: now(),
            fanned_out: false,
        };
        let kind = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
        let known = |body: &str| {
            let item = json!({"broadcastId": {"S": "first"}, "bodySha256": {"S": body}});
            (400, json!({"__type": kind, "Item": item}))
        };
        let ok = || (200, json!({}));
        let (catalog, sent) = catalog(&[ok(), ok(), known("b"), ok(), known("other")]);
        let id = BroadcastId::new("second").unwrap();
        let open = async || {
            let opened = catalog.open(&id, &asked, Some(&idempotency())).await;
            match opened.unwrap() {
                Opening::Standing(id, _) => Some(id.to_string()),
                Opening::Mismatch => None,
            }
        };
        assert_eq!(open().await.as_deref(), Some("second"), "the key is free");
        assert_eq!(open().await.as_deref(), Some("first"));
        assert_eq!(open().await, None);
        let sent = sent();
        assert_eq!(sent.len(), 5);
        let (_, key) = &sent[0];
        assert_eq!(
            key["ConditionExpression"],
            "attribute_not_exists(pk) OR #ttl <= :now"
        );
        let epoch = now().epoch_seconds();
        assert_eq!(
            key["ExpressionAttributeValues"][":now"]["N"],
            epoch.to_string()
        );
        let expected = json!({
            "pk": {"S": "IDEMPOTENCY#acme#k"}, "sk": {"S": "BROADCAST"}, "broadcastId": {"S": "second"},
            "bodySha256": {"S": "b"}, "ttl": {"N": (epoch + 86_400).to_string()},
        });
        assert_eq!(key["Item"], expected);
        assert_eq!(sent[1].1["Item"]["pk"]["S"], "BROADCAST#second");
        assert_eq!(sent[3].1["Item"]["pk"]["S"], "BROADCAST#first");
    }

    #[tokio::test]
    async fn a_creation_is_recalled_by_its_key_until_the_key_ends() {
        let first = campaign(1);
        let known = |body: &str, ends: i64| {
            let item = json!({
                "campaignId": {"S": first.campaign_id}, "bodySha256": {"S": body}, "ttl": {"N": ends.to_string()},
            });
            (200, json!({"Item": item}))
        };
        let now_seconds = now().epoch_seconds();
        let (catalog, sent) = catalog(&[
            (200, json!({})),
            known("b", now_seconds),
            known("other", now_seconds + 1),
            known("b", now_seconds + 1),
            (200, json!({"Item": item(&first)})),
        ]);
        let recall = async || {
            let partner = PartnerId::new("acme").unwrap();
            let recalled = catalog.recall(&partner, &idempotency(), now()).await;
            recalled.unwrap()
        };
        assert_eq!(recall().await, None);
        assert_eq!(recall().await, None, "past its end, though it is there");
        assert_eq!(recall().await, Some(Creation::Mismatch));
        assert_eq!(recall().await, Some(Creation::Repeated(first.clone())));
        let (_, read) = &sent()[0];
        assert_eq!(
            read["Key"],
            json!({"pk": {"S": "IDEMPOTENCY#acme#k"}, "sk": {"S": "CAMPAIGN"}})
        );
        assert_eq!(read["ConsistentRead"], true);
    }

    #[tokio::test]
    async fn a_report_is_summed_over_its_pages() {
        let page = |n: u16| {
            json!({
                "sk": {"S": format!("PAGE#{n}")}, "seen": {"N": "3"}, "sent": {"N": "1"}, "gone": {"N": "1"},
                "failed": {"N": "1"}, "done": {"BOOL": true}, "startedAt": {"S": now()}, "finishedAt": {"S": now()},
                "cursor": {"S": "c="}, "run": {"S": "1"}, "ttl": {"N": "1"},
            })
        };
        let report = json!({
            "sk": {"S": "REPORT"}, "partnerId": {"S": "acme"}, "topic": {"S": "partner:acme"},
            "createdAt": {"S": now()}, "fannedOut": {"BOOL": true}, "kind": {"S": "message"},
            "ttl": {"N": now().plus_seconds(REPORT_SECONDS).epoch_seconds().to_string()},
        });
        let mut items: Vec<_> = (0..crate::MEMBERSHIP_SHARDS).map(page).collect();
        items.push(report);
        let found = (200, json!({"Items": items}));
        let none = (200, json!({"Items": []}));
        let (catalog, sent) = catalog(&[found.clone(), found.clone(), found, none]);
        let id = BroadcastId::new("b").unwrap();
        let report = async |second: i64| {
            let found = catalog.report(&id, now().plus_seconds(second)).await;
            found.unwrap()
        };
        let sum = report(0).await.unwrap();
        assert_eq!(
            (sum.status, sum.seen, sum.finished_at),
            (BroadcastStatus::Finished, 24, Some(now()))
        );
        assert_eq!(report(REPORT_SECONDS - 1).await, Some(sum));
        let lingers = report(REPORT_SECONDS).await;
        assert_eq!(lingers, None, "past its end, though it is there");
        assert_eq!(report(0).await, None);
        assert_eq!(sent()[0].1["ConsistentRead"], true);
    }

    #[tokio::test]
    async fn a_users_coupons_are_one_consistent_query() {
        let coupon = Coupon::sample();
        let (aws, client) = replay(&[(200, json!({"Items": [item(&coupon)]}))]);
        let coupons = DynamoUserCoupons::new(&aws, "Coupons".into());
        let page = coupons
            .coupons_of(&coupon.partner_id, &coupon.user_id, None, 50)
            .await
            .unwrap();
        assert_eq!(
            page,
            Page {
                items: vec![coupon],
                next: None
            }
        );
        let (operation, query) = requests(&client).remove(0);
        assert_eq!((operation.as_str(), &query["Limit"]), ("Query", &json!(51)));
        assert_eq!(
            query["ExpressionAttributeValues"][":pk"]["S"],
            "acme#user-1"
        );
        assert_eq!(
            (&query["ScanIndexForward"], &query["ConsistentRead"]),
            (&json!(false), &json!(true))
        );
    }
}
