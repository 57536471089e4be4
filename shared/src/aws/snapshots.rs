//! The campaign snapshot in table Campaigns: several replicas, parts of at most 64 KB, a manifest written last.

use std::collections::HashSet;

use aws_sdk_dynamodb::Client;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::error::port_error;
use super::item::{Item, key, number, read, record, text, ttl};
use super::{Aws, DynamoCampaigns, batch};
use crate::{
    AnnouncementRecords, BroadcastId, Campaign, CampaignClosing, CampaignId, CampaignIndex,
    CampaignRecords, Freeze, LiveCampaigns, Mark, PortError, Publication, Snapshot, SnapshotStore,
    Snapshots, SoldMarks, StockCounters, StockShard, Timestamp,
};

/// Copies of the snapshot, so that a thousand environments that expire together do not meet one partition's
/// 3,000 RCU/s.
pub(super) const REPLICAS: u16 = 4;
/// The most bytes of campaigns in one part; an item may have 400 KB.
const PART_BYTES: usize = 64 * 1024;
/// Parts of an outdated version stay for readers that are on their way, in seconds.
const PART_TTL_SECONDS: i64 = 3600;

/// Which parts make up the snapshot.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    version: i64,
    built_at: Timestamp,
    parts: usize,
}

/// Which items of a partition are read.
#[derive(Clone, Copy)]
enum SortKeys<'a> {
    All,
    /// Those that begin with this.
    Under(&'a str),
    /// This one and those after it.
    From(&'a str),
}

/// Snapshots in DynamoDB: read by the doors, written by `refresh`.
#[derive(Clone, Debug)]
pub struct DynamoSnapshots {
    client: Client,
    table: String,
    campaigns: DynamoCampaigns,
}

impl DynamoSnapshots {
    /// On this table.
    pub fn new(aws: &Aws, table: String) -> Self {
        Self {
            client: aws.dynamo(),
            campaigns: DynamoCampaigns::new(aws, table.clone()),
            table,
        }
    }

    /// All items under `pk` whose sort key starts with `prefix`.
    async fn query(
        &self,
        operation: &'static str,
        pk: String,
        keys: SortKeys<'_>,
        consistent: bool,
    ) -> Result<Vec<Item>, PortError> {
        let mut request = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(consistent);
        request = request.expression_attribute_values(":pk", text(pk));
        request = match keys {
            SortKeys::All => request.key_condition_expression("pk = :pk"),
            SortKeys::Under(prefix) => request
                .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
                .expression_attribute_values(":sk", text(prefix)),
            SortKeys::From(first) => request
                .key_condition_expression("pk = :pk AND sk >= :sk")
                .expression_attribute_values(":sk", text(first)),
        };
        let pages = request.into_paginator().items().send();
        pages
            .collect::<Result<Vec<Item>, _>>()
            .await
            .map_err(|error| port_error(operation, error))
    }

    async fn snapshot(&self, replica: u16) -> Result<Option<Snapshot>, PortError> {
        const OPERATION: &str = "read the campaign snapshot";
        let pk = format!("SNAPSHOT#{replica}");
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(&pk, "MANIFEST")));
        let sent = request.consistent_read(true).send().await;
        let Some(item) = sent.map_err(|error| port_error(OPERATION, error))?.item else {
            return Ok(None);
        };
        let manifest: Manifest = read(OPERATION, item)?;
        let parts = self
            .query(
                OPERATION,
                pk,
                SortKeys::Under(&part_prefix(manifest.version)),
                true,
            )
            .await?;
        if parts.len() != manifest.parts {
            return Err(PortError::retry(OPERATION, "a part is missing"));
        }
        let mut campaigns = Vec::new();
        for part in &parts {
            let body = part
                .get("campaigns")
                .and_then(|body| body.as_s().ok())
                .map_or("[]", String::as_str);
            let part: Vec<Campaign> =
                serde_json::from_str(body).map_err(|error| PortError::reject(OPERATION, error))?;
            campaigns.extend(part);
        }
        Ok(Some(Snapshot {
            version: manifest.version,
            built_at: manifest.built_at,
            campaigns,
        }))
    }

    async fn publish_replica(
        &self,
        snapshot: &Snapshot,
        parts: &[String],
        replica: u16,
    ) -> Result<Publication, PortError> {
        const OPERATION: &str = "write the campaign snapshot";
        let pk = format!("SNAPSHOT#{replica}");
        for (number, part) in parts.iter().enumerate() {
            let mut item = key(&pk, format!("{}{number:04}", part_prefix(snapshot.version)));
            item.insert("campaigns".into(), text(part));
            item.insert(
                "ttl".into(),
                ttl(snapshot.built_at.plus_seconds(PART_TTL_SECONDS)),
            );
            let put = self
                .client
                .put_item()
                .table_name(&self.table)
                .set_item(Some(item));
            put.send()
                .await
                .map_err(|error| port_error(OPERATION, error))?;
        }
        let manifest = Manifest {
            version: snapshot.version,
            built_at: snapshot.built_at,
            parts: parts.len(),
        };
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(record(OPERATION, key(&pk, "MANIFEST"), &manifest)?))
            .condition_expression("attribute_not_exists(pk) OR version < :version")
            .expression_attribute_values(":version", number(snapshot.version));
        match put.send().await {
            Ok(_) => Ok(Publication::Published),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_conditional_check_failed_exception()) =>
            {
                Ok(Publication::Late)
            }
            Err(error) => Err(port_error(OPERATION, error)),
        }
    }
}

fn part_prefix(version: i64) -> String {
    format!("{version:016}#")
}

/// The campaigns as JSON arrays of at most [`PART_BYTES`] each; none has no campaigns but the only one.
fn parts(campaigns: &[Campaign]) -> Result<Vec<String>, PortError> {
    let mut parts: Vec<String> = Vec::new();
    for campaign in campaigns {
        let json = serde_json::to_string(campaign)
            .map_err(|error| PortError::reject("encode a campaign", error))?;
        match parts.last_mut() {
            Some(part) if part.len() + json.len() < PART_BYTES - 2 => {
                part.push(',');
                part.push_str(&json);
            }
            _ => parts.push(format!("[{json}")),
        }
    }
    parts.iter_mut().for_each(|part| part.push(']'));
    Ok(parts)
}

impl Snapshots for DynamoSnapshots {
    async fn index(&self) -> Result<CampaignIndex, PortError> {
        let snapshot = self.snapshot(fastrand::u16(0..REPLICAS)).await?;
        let campaigns = snapshot.iter().flat_map(|snapshot| &snapshot.campaigns);
        let oldest = campaigns
            .map(|campaign| campaign.campaign_id.as_str())
            .min();
        // Ids are in the order of their birth: what the snapshot does not hold has ended, or is so young that its claims may
        // as well be queued.
        let sold = self
            .sold_marks(oldest.map_or(SortKeys::All, SortKeys::From), false)
            .await?;
        Ok(CampaignIndex::new(snapshot, sold))
    }
}

impl DynamoSnapshots {
    async fn sold_marks(
        &self,
        campaigns: SortKeys<'_>,
        consistent: bool,
    ) -> Result<HashSet<CampaignId>, PortError> {
        let items = self
            .query("read the sold marks", "SOLD".into(), campaigns, consistent)
            .await?;
        Ok(items.iter().filter_map(sort_key).collect())
    }
}

fn sort_key(item: &Item) -> Option<CampaignId> {
    CampaignId::new(item.get("sk")?.as_s().ok()?).ok()
}

impl CampaignRecords for DynamoSnapshots {
    async fn find(&self, id: &CampaignId) -> Result<Option<Campaign>, PortError> {
        self.campaigns.find(id).await
    }
}

impl StockCounters for DynamoSnapshots {
    async fn stock(
        &self,
        campaign: &CampaignId,
        shards: &[u16],
    ) -> Result<Vec<StockShard>, PortError> {
        self.campaigns.stock(campaign, shards).await
    }
}

/// What a closing that stopped half-way needs to be finished by `refresh`.
impl CampaignClosing for DynamoSnapshots {
    async fn begin_closing(&self, campaign: &CampaignId, now: Timestamp) -> Result<(), PortError> {
        self.campaigns.begin_closing(campaign, now).await
    }

    async fn freeze(
        &self,
        campaign: &CampaignId,
        shard: u16,
        now: Timestamp,
    ) -> Result<Freeze, PortError> {
        self.campaigns.freeze(campaign, shard, now).await
    }

    async fn end_closing(
        &self,
        campaign: &CampaignId,
        now: Timestamp,
    ) -> Result<Timestamp, PortError> {
        self.campaigns.end_closing(campaign, now).await
    }
}

impl SoldMarks for DynamoSnapshots {
    async fn mark_sold(&self, campaign: &Campaign) -> Result<Mark, PortError> {
        self.campaigns.mark_sold(campaign).await
    }

    async fn is_sold(&self, campaign: &CampaignId) -> Result<bool, PortError> {
        self.campaigns.is_sold(campaign).await
    }
}

impl LiveCampaigns for DynamoSnapshots {
    async fn live(&self) -> Result<Vec<Campaign>, PortError> {
        let items = self
            .query(
                "read the live campaigns",
                "LIVE".into(),
                SortKeys::All,
                true,
            )
            .await?;
        let ids: Vec<CampaignId> = items.iter().filter_map(sort_key).collect();
        self.campaigns.find_all(&ids).await
    }

    async fn sold(&self) -> Result<HashSet<CampaignId>, PortError> {
        self.sold_marks(SortKeys::All, true).await
    }

    async fn retire(&self, id: &CampaignId) -> Result<(), PortError> {
        let delete = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key("LIVE", id.as_str())));
        delete
            .send()
            .await
            .map(drop)
            .map_err(|error| port_error("retire the campaign", error))
    }
}

impl SnapshotStore for DynamoSnapshots {
    async fn publish(&self, snapshot: &Snapshot) -> Result<Publication, PortError> {
        let parts = parts(&snapshot.campaigns)?;
        let replicas = (0..REPLICAS).map(|replica| self.publish_replica(snapshot, &parts, replica));
        let late = try_join_all(replicas).await?.contains(&Publication::Late);
        Ok(if late {
            Publication::Late
        } else {
            Publication::Published
        })
    }
}

impl AnnouncementRecords for DynamoSnapshots {
    async fn fanned_out(&self, ids: &[BroadcastId]) -> Result<HashSet<BroadcastId>, PortError> {
        let keys = ids
            .iter()
            .map(|id| key(format!("BROADCAST#{id}"), "REPORT"))
            .collect();
        let items = batch::get(&self.client, &self.table, "read the announcements", keys).await?;
        let fanned_out = |item: &Item| {
            item.get("fannedOut")
                .and_then(|flag| flag.as_bool().ok())
                .copied()
                == Some(true)
        };
        let id = |item: &Item| {
            BroadcastId::new(item.get("pk")?.as_s().ok()?.strip_prefix("BROADCAST#")?).ok()
        };
        Ok(items
            .iter()
            .filter(|item| fanned_out(item))
            .filter_map(id)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::aws::replay::{replay, requests};

    #[tokio::test]
    async fn doors_read_no_marks_of_sales_that_ended_before_the_oldest_they_hold() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let born = |seconds: i64| Campaign {
            campaign_id: CampaignId::mint(now.plus_seconds(seconds), 1),
            ..crate::memory::sample_campaign(10, now)
        };
        let (older, younger) = (born(1), born(2));
        let campaigns = serde_json::to_string(&[&younger, &older]).unwrap();
        let manifest = json!({
            "version": {"N": "1"}, "builtAt": {"S": now.to_string()}, "parts": {"N": "1"},
        });
        let part = json!({"campaigns": {"S": campaigns}});
        let mark = json!({"sk": {"S": younger.campaign_id.as_str()}});
        let (aws, http) = replay(&[
            (200, json!({ "Item": manifest })),
            (200, json!({"Items": [part], "Count": 1})),
            (200, json!({"Items": [mark], "Count": 1})),
        ]);
        let store = DynamoSnapshots::new(&aws, "campaigns".into());
        let index = store.index().await.unwrap();
        assert_eq!(index.sold, HashSet::from([younger.campaign_id]));
        assert_eq!(index.campaigns.len(), 2);
        let (_, marks) = &requests(&http)[2];
        assert_eq!(marks["KeyConditionExpression"], "pk = :pk AND sk >= :sk");
        let values = json!({":pk": {"S": "SOLD"}, ":sk": {"S": older.campaign_id.as_str()}});
        assert_eq!(marks["ExpressionAttributeValues"], values);
    }

    #[test]
    fn parts_hold_every_campaign_once_and_stay_small() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let campaigns: Vec<Campaign> = (0..1000)
            .map(|random| Campaign {
                campaign_id: CampaignId::mint(now, random),
                title: "쿠폰".repeat(30),
                ..crate::memory::sample_campaign(10, now)
            })
            .collect();
        let parts = parts(&campaigns).unwrap();
        assert!(parts.len() > 1);
        assert!(parts.iter().all(|part| part.len() <= PART_BYTES));
        let read: Vec<Campaign> = parts
            .iter()
            .flat_map(|part| serde_json::from_str::<Vec<Campaign>>(part).unwrap())
            .collect();
        assert_eq!(read, campaigns);
        assert!(super::parts(&[]).unwrap().is_empty());
    }
}
