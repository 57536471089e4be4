//! Table Campaigns as the hot paths use it: the record, the stock counters, and the marks `SOLD` and `TICK`.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::Deserialize;

use super::error::port_error;
use super::item::{Item, key, number, read, ttl};
use super::{Aws, batch};
use crate::{
    Campaign, CampaignId, CampaignRecords, Mark, PortError, SoldMarks, StockCounters, StockShard,
    StockTicks, Timestamp,
};

/// A mark of a finished campaign is kept as long after its end, in seconds (30 days).
const MARK_RETENTION_SECONDS: i64 = 30 * 86_400;

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
        item.insert(
            "ttl".into(),
            ttl(campaign.closes_at.plus_seconds(MARK_RETENTION_SECONDS)),
        );
        self.put_mark(
            "mark the campaign sold out",
            item,
            "attribute_not_exists(pk)",
            None,
        )
        .await
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

impl StockTicks for DynamoCampaigns {
    async fn mark(
        &self,
        campaign: &CampaignId,
        now: Timestamp,
        stale_after_seconds: i64,
    ) -> Result<Mark, PortError> {
        let mut item = key(format!("TICK#{campaign}"), "TICK");
        item.insert("markedAt".into(), number(now.millis()));
        item.insert("ttl".into(), ttl(now.plus_seconds(3600)));
        let stale = number(now.plus_seconds(-stale_after_seconds).millis());
        let condition = "attribute_not_exists(pk) OR markedAt < :stale";
        self.put_mark(
            "mark the stock tick",
            item,
            condition,
            Some((":stale", stale)),
        )
        .await
    }

    async fn clear(&self, campaign: &CampaignId) -> Result<(), PortError> {
        let tick = key(format!("TICK#{campaign}"), "TICK");
        let sent = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(tick))
            .send()
            .await;
        sent.map(drop)
            .map_err(|error| port_error("clear the stock tick", error))
    }
}

impl DynamoCampaigns {
    async fn put_mark(
        &self,
        operation: &'static str,
        item: Item,
        condition: &str,
        value: Option<(&str, AttributeValue)>,
    ) -> Result<Mark, PortError> {
        let mut request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(condition);
        if let Some((name, value)) = value {
            request = request.expression_attribute_values(name, value);
        }
        match request.send().await {
            Ok(_) => Ok(Mark::Set),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_conditional_check_failed_exception()) =>
            {
                Ok(Mark::Stood)
            }
            Err(error) => Err(port_error(operation, error)),
        }
    }
}
