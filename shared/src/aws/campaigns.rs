//! Table Campaigns as the hot paths use it: the record, the stock counters, and the marks `SOLD` and `TICK`.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::{
    put_item::PutItemError,
    update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
};
use aws_sdk_dynamodb::types::ReturnValue;
use serde::Deserialize;

use super::error::port_error;
use super::item::{Item, key, number, read, text, ttl};
use super::{Aws, batch};
use crate::{
    Campaign, CampaignClosing, CampaignId, CampaignRecords, FIRST_PACE_SECONDS, Freeze, Mark,
    PortError, SoldMarks, StockCounters, StockShard, StockTicks, Timestamp,
};

/// The key of a campaign's record.
pub(crate) fn campaign_key(id: &CampaignId) -> Item {
    key(format!("CAMPAIGN#{id}"), "CAMPAIGN")
}

/// The key of a stock shard.
pub(crate) fn stock_key(id: &CampaignId, shard: u16) -> Item {
    key(format!("STOCK#{id}#{shard}"), "STOCK")
}

/// Campaigns in DynamoDB.
#[derive(Clone, Debug)]
pub struct DynamoCampaigns {
    client: Client,
    table: String,
}

/// A stock shard as stored, the shard's number being in its key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredShard {
    pk: String,
    remaining: u32,
    issued: u32,
    quota: u32,
    #[serde(default)]
    closed_at: Option<Timestamp>,
}

impl DynamoCampaigns {
    /// On this table.
    pub fn new(aws: &Aws, table: String) -> Self {
        Self {
            client: aws.dynamo(),
            table,
        }
    }

    /// Several campaigns' records; what does not exist is left out.
    pub(crate) async fn find_all(&self, ids: &[CampaignId]) -> Result<Vec<Campaign>, PortError> {
        const OPERATION: &str = "read the campaigns";
        let keys = ids.iter().map(campaign_key).collect();
        let items = batch::get(&self.client, &self.table, OPERATION, keys).await?;
        items
            .into_iter()
            .map(|item| read(OPERATION, item))
            .collect()
    }
}

impl CampaignRecords for DynamoCampaigns {
    async fn find(&self, id: &CampaignId) -> Result<Option<Campaign>, PortError> {
        const OPERATION: &str = "read the campaign";
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(campaign_key(id)));
        let output = request
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| port_error(OPERATION, error))?;
        output.item.map(|item| read(OPERATION, item)).transpose()
    }
}

impl StockCounters for DynamoCampaigns {
    async fn stock(
        &self,
        campaign: &CampaignId,
        shards: &[u16],
    ) -> Result<Vec<StockShard>, PortError> {
        const OPERATION: &str = "read the stock";
        let keys = shards
            .iter()
            .map(|shard| stock_key(campaign, *shard))
            .collect();
        let items = batch::get(&self.client, &self.table, OPERATION, keys).await?;
        items.into_iter().map(stock_shard).collect()
    }
}

fn stock_shard(item: Item) -> Result<StockShard, PortError> {
    const OPERATION: &str = "read the stock";
    let stored: StoredShard = read(OPERATION, item)?;
    let shard = stored
        .pk
        .rsplit('#')
        .next()
        .and_then(|number| number.parse().ok());
    Ok(StockShard {
        shard: shard
            .ok_or_else(|| PortError::reject(OPERATION, "shard without a number in its key"))?,
        remaining: stored.remaining,
        issued: stored.issued,
        quota: stored.quota,
        closed_at: stored.closed_at,
    })
}

impl SoldMarks for DynamoCampaigns {
    async fn mark_sold(&self, campaign: &Campaign) -> Result<Mark, PortError> {
        let mut item = key("SOLD", campaign.campaign_id.as_str());
        item.insert("ttl".into(), ttl(campaign.forgotten_at()));
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk)");
        match put.send().await {
            Ok(_) => Ok(Mark::Set),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(PutItemError::is_conditional_check_failed_exception) =>
            {
                Ok(Mark::Stood)
            }
            Err(error) => Err(port_error("mark the campaign sold out", error)),
        }
    }

    async fn is_sold(&self, campaign: &CampaignId) -> Result<bool, PortError> {
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key("SOLD", campaign.as_str())));
        let sent = request.consistent_read(true).send().await;
        Ok(sent
            .map_err(|error| port_error("read the sold mark", error))?
            .item
            .is_some())
    }
}

impl CampaignClosing for DynamoCampaigns {
    async fn begin_closing(&self, campaign: &CampaignId, now: Timestamp) -> Result<(), PortError> {
        let update = self.set_once(campaign_key(campaign), "closingAt", now);
        match update.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(closing_error(
                "note that the campaign is being closed",
                error,
            )),
        }
    }

    async fn freeze(
        &self,
        campaign: &CampaignId,
        shard: u16,
        now: Timestamp,
    ) -> Result<Freeze, PortError> {
        const OPERATION: &str = "freeze a stock shard";
        let update = self.set_once(stock_key(campaign, shard), "closedAt", now);
        match update.send().await {
            Ok(updated) => {
                let item = updated.attributes.unwrap_or_default();
                stock_shard(item).map(Freeze::Frozen)
            }
            // "There is an ongoing transaction in progress for the same item": DynamoDB neither waits nor lets the SDK try again
            // (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html, conflict handling).
            Err(error) if is_in_conflict(&error) => Ok(Freeze::Busy),
            Err(error) => Err(closing_error(OPERATION, error)),
        }
    }

    async fn end_closing(
        &self,
        campaign: &CampaignId,
        now: Timestamp,
    ) -> Result<Timestamp, PortError> {
        const OPERATION: &str = "close the campaign's record";
        let update = self.set_once(campaign_key(campaign), "closedAt", now);
        let updated = update.send().await;
        let item = updated
            .map_err(|error| closing_error(OPERATION, error))?
            .attributes
            .unwrap_or_default();
        let record: Campaign = read(OPERATION, item)?;
        let missing = || PortError::reject(OPERATION, "the record is not closed after all");
        record.closed_at.ok_or_else(missing)
    }
}

impl DynamoCampaigns {
    /// An update that sets this attribute of an existing item unless it is set, and answers with the item as it is then.
    fn set_once(
        &self,
        key: Item,
        attribute: &'static str,
        now: Timestamp,
    ) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .update_expression(format!(
                "SET {attribute} = if_not_exists({attribute}, :now)"
            ))
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":now", text(now.to_string()))
            .return_values(ReturnValue::AllNew)
    }
}

/// An item that has to exist does not: damage, which no repeat mends.
fn closing_error(operation: &'static str, error: SdkError<UpdateItemError>) -> PortError {
    if is_refused(&error) {
        return PortError::reject(operation, "the record or a stock shard is missing");
    }
    port_error(operation, error)
}

fn is_in_conflict(error: &SdkError<UpdateItemError>) -> bool {
    let error = error.as_service_error();
    error.is_some_and(UpdateItemError::is_transaction_conflict_exception)
}

impl StockTicks for DynamoCampaigns {
    async fn mark(
        &self,
        campaign: &CampaignId,
        now: Timestamp,
        stale_after_seconds: i64,
    ) -> Result<Option<u16>, PortError> {
        // The mark outlives its tick, which is due after the pace, by `stale_after_seconds`.
        let update = self
            .tick(campaign)
            .update_expression(
                "SET standsUntil = if_not_exists(paceMillis, :first) + :stale, #ttl = :ttl",
            )
            .condition_expression("attribute_not_exists(standsUntil) OR standsUntil < :now")
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":first", number(u32::from(FIRST_PACE_SECONDS) * 1000))
            .expression_attribute_values(
                ":stale",
                number(now.plus_seconds(stale_after_seconds).millis()),
            )
            .expression_attribute_values(":now", number(now.millis()))
            .expression_attribute_values(":ttl", ttl(now.plus_seconds(TICK_KEPT_SECONDS)));
        match update.send().await {
            Ok(updated) => Ok(Some(pace(updated.attributes()))),
            Err(error) if is_refused(&error) => Ok(None),
            Err(error) => Err(port_error("mark the stock tick", error)),
        }
    }

    async fn clear(&self, campaign: &CampaignId) -> Result<u16, PortError> {
        let update = self
            .tick(campaign)
            .update_expression("REMOVE standsUntil")
            .condition_expression("attribute_exists(pk)"); // an update of nothing would leave an item without a TTL
        match update.send().await {
            Ok(updated) => Ok(pace(updated.attributes())),
            Err(error) if is_refused(&error) => Ok(FIRST_PACE_SECONDS),
            Err(error) => Err(port_error("clear the stock tick", error)),
        }
    }

    async fn set_pace(
        &self,
        campaign: &CampaignId,
        seconds: u16,
        now: Timestamp,
    ) -> Result<(), PortError> {
        let update = self
            .tick(campaign)
            .update_expression("SET paceMillis = :pace, #ttl = :ttl")
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":pace", number(u32::from(seconds) * 1000))
            .expression_attribute_values(":ttl", ttl(now.plus_seconds(TICK_KEPT_SECONDS)));
        let sent = update.send().await;
        sent.map(drop)
            .map_err(|error| port_error("set the stock's pace", error))
    }
}

/// How long a tick's item is kept after its last use, in seconds.
const TICK_KEPT_SECONDS: i64 = 3600;

/// The pace a tick's item tells.
fn pace(tick: Option<&Item>) -> u16 {
    let millis = tick.and_then(|item| item.get("paceMillis")?.as_n().ok()?.parse::<u32>().ok());
    let seconds = millis.and_then(|millis| u16::try_from(millis / 1000).ok());
    seconds.unwrap_or(FIRST_PACE_SECONDS)
}

fn is_refused(error: &SdkError<UpdateItemError>) -> bool {
    let error = error.as_service_error();
    error.is_some_and(UpdateItemError::is_conditional_check_failed_exception)
}

impl DynamoCampaigns {
    /// An update of the campaign's tick that answers with the item as it is then.
    fn tick(&self, campaign: &CampaignId) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(format!("TICK#{campaign}"), "TICK")))
            .return_values(ReturnValue::AllNew)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::aws::replay::{replay, requests};
    use crate::memory::sample_campaign;

    #[tokio::test]
    async fn a_sold_mark_stands_as_long_as_the_coupons_may() {
        let (aws, http) = replay(&[(200, json!({}))]);
        let campaigns = DynamoCampaigns::new(&aws, "campaigns".into());
        let campaign = sample_campaign(10, Timestamp::from_millis(1_790_000_000_000));
        campaigns.mark_sold(&campaign).await.unwrap();
        let (_, request) = &requests(&http)[0];
        let ttl = campaign.forgotten_at().epoch_seconds().to_string();
        assert_eq!(request["Item"]["ttl"]["N"], ttl);
    }

    #[tokio::test]
    async fn only_the_condition_says_that_a_mark_stood_or_a_tick_is_under_way() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let campaign = sample_campaign(10, now);
        let id = &campaign.campaign_id;
        for (kind, stood) in [
            ("ConditionalCheckFailedException", true),
            ("AccessDeniedException", false),
        ] {
            let (aws, http) = replay(&[refused(kind), refused(kind), refused(kind)]);
            let campaigns = DynamoCampaigns::new(&aws, "campaigns".into());
            let mark = campaigns.mark_sold(&campaign).await.ok();
            assert_eq!(mark, stood.then_some(Mark::Stood));
            let tick = campaigns.mark(id, now, 5).await.ok();
            assert_eq!(tick, stood.then_some(None));
            let cleared = campaigns.clear(id).await.ok();
            assert_eq!(cleared, stood.then_some(FIRST_PACE_SECONDS));
            let (_, marked) = &requests(&http)[1];
            let first = &marked["ExpressionAttributeValues"][":first"]["N"];
            assert_eq!(first, "1000", "the first pace, in milliseconds");
        }
    }

    fn refused(kind: &str) -> (u16, serde_json::Value) {
        let kind = format!("com.amazonaws.dynamodb.v20120810#{kind}");
        (400, json!({"__type": kind, "message": "no"}))
    }

    #[tokio::test]
    async fn each_step_of_a_closing_is_one_update_that_sets_its_mark_once() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let campaign = sample_campaign(10, now.plus_seconds(-60));
        let id = &campaign.campaign_id;
        let first = now.plus_seconds(-5);
        let mut record: serde_json::Value = serde_json::Map::new().into();
        for (name, value) in serde_json::to_value(&campaign)
            .unwrap()
            .as_object()
            .unwrap()
        {
            let number = value.as_u64().map(|n| json!({"N": n.to_string()}));
            record[name] = number.unwrap_or_else(|| json!({"S": value}));
        }
        record["closedAt"] = json!({"S": first});
        let shard = json!({
            "pk": {"S": format!("STOCK#{id}#2")}, "remaining": {"N": "4"}, "issued": {"N": "6"},
            "quota": {"N": "10"}, "closedAt": {"S": first},
        });
        let (aws, http) = replay(&[
            (200, json!({})),
            (200, json!({ "Attributes": shard })),
            (200, json!({ "Attributes": record })),
        ]);
        let campaigns = DynamoCampaigns::new(&aws, "campaigns".into());
        campaigns.begin_closing(id, now).await.unwrap();
        let frozen = StockShard {
            shard: 2,
            remaining: 4,
            issued: 6,
            quota: 10,
            closed_at: Some(first),
        };
        let froze = campaigns.freeze(id, 2, now).await.unwrap();
        assert_eq!(froze, Freeze::Frozen(frozen), "an earlier time stands");
        assert_eq!(campaigns.end_closing(id, now).await.unwrap(), first);

        let sent = requests(&http);
        let steps = [
            (format!("CAMPAIGN#{id}"), "CAMPAIGN", "closingAt"),
            (format!("STOCK#{id}#2"), "STOCK", "closedAt"),
            (format!("CAMPAIGN#{id}"), "CAMPAIGN", "closedAt"),
        ];
        assert_eq!(sent.len(), steps.len());
        for ((operation, body), (pk, sk, mark)) in sent.iter().zip(steps) {
            assert_eq!(operation, "UpdateItem");
            assert_eq!(body["Key"], json!({"pk": {"S": pk}, "sk": {"S": sk}}));
            let once = format!("SET {mark} = if_not_exists({mark}, :now)");
            assert_eq!(body["UpdateExpression"], once);
            assert_eq!(body["ConditionExpression"], "attribute_exists(pk)");
            assert_eq!(body["ReturnValues"], "ALL_NEW");
            let values = json!({":now": {"S": now}});
            assert_eq!(body["ExpressionAttributeValues"], values);
        }
    }

    #[tokio::test]
    async fn a_freeze_in_conflict_is_busy_and_a_missing_item_is_damage() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let id = CampaignId::mint(now, 1);
        let answer = async |kind: &str| {
            let (aws, _) = replay(&[refused(kind)]);
            let campaigns = DynamoCampaigns::new(&aws, "campaigns".into());
            campaigns
                .freeze(&id, 0, now)
                .await
                .map_err(|error| error.fate)
        };
        let busy = answer("TransactionConflictException").await;
        assert_eq!(busy, Ok(Freeze::Busy));
        for (kind, fate) in [
            ("ConditionalCheckFailedException", crate::Fate::Reject),
            ("ProvisionedThroughputExceededException", crate::Fate::Retry),
            ("ThrottlingException", crate::Fate::Retry),
            ("AccessDeniedException", crate::Fate::Reject),
        ] {
            assert_eq!(answer(kind).await, Err(fate), "{kind}");
        }
        let (aws, _) = replay(&[refused("ConditionalCheckFailedException")]);
        let campaigns = DynamoCampaigns::new(&aws, "campaigns".into());
        let error = campaigns.end_closing(&id, now).await.unwrap_err();
        assert_eq!(error.fate, crate::Fate::Reject);
    }

    /// The whole closing against replayed answers: every second freeze meets a transaction.
    #[tokio::test(start_paused = true)]
    async fn a_closing_gets_through_conflicts_on_every_second_shard_write() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let campaign = Campaign {
            shards: 1,
            ..sample_campaign(10, now)
        };
        let id = &campaign.campaign_id;
        let shard = json!({
            "pk": {"S": format!("STOCK#{id}#0")}, "remaining": {"N": "0"}, "issued": {"N": "10"},
            "quota": {"N": "10"}, "closedAt": {"S": now},
        });
        let mut closed: serde_json::Value = json!({"closedAt": {"S": now}});
        for (name, value) in serde_json::to_value(&campaign)
            .unwrap()
            .as_object()
            .unwrap()
        {
            let number = value.as_u64().map(|n| json!({"N": n.to_string()}));
            closed[name] = number.unwrap_or_else(|| json!({"S": value}));
        }
        let (aws, http) = replay(&[
            (200, json!({})),
            refused("TransactionConflictException"),
            (200, json!({ "Attributes": shard })),
            (200, json!({})),
            (200, json!({ "Attributes": closed })),
        ]);
        let campaigns = DynamoCampaigns::new(&aws, "campaigns".into());
        let clock = crate::memory::MemoryClock::at(now);
        let patience = crate::CLOSING_PATIENCE;
        let closing = crate::close_campaign(&campaigns, &campaign, &clock, patience);
        assert_eq!(closing.await.unwrap(), now);
        let operations: Vec<_> = requests(&http).into_iter().map(|(name, _)| name).collect();
        let expected = [
            "UpdateItem",
            "UpdateItem",
            "UpdateItem",
            "PutItem",
            "UpdateItem",
        ];
        assert_eq!(operations, expected, "the sold mark before the record");
    }
}
