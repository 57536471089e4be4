//! The audit's reads: the counters, and every coupon by a parallel, strongly consistent scan that keeps to a rate.
//!
//! There is no index from a campaign to its coupons, so the scan reads the whole Coupons table. A strongly consistent read
//! costs one unit per 4 KB of what was read, filtered or not (DynamoDB `Scan`): about 8 coupons of 500 bytes.

use std::sync::{Mutex, PoisonError};

use aws_sdk_dynamodb::types::{AttributeValue, ReturnConsumedCapacity};
use futures_util::future::try_join_all;

use super::pace::Pace;
use super::{Item, Operator, OperatorError};
use crate::aws::item::read;
use crate::{
    Audit, AuditEvidence, Campaign, CampaignId, CampaignRecords, Coupon, CouponBooks, CouponEntry,
    MAX_SHARDS, Mark, SoldMarks, StockCounters, StockShard, Timestamp, audit_books,
};

/// Parts of the table that are read at the same time. A page of 1 MB takes some 50 ms: together some 40,000 units a second, as
/// much as a table reads by default.
const SEGMENTS: u32 = 8;
/// A coupon takes at most a quarter of a read unit (1 KB of 4).
const COUPONS_PER_UNIT: u32 = 4;

/// An audit with what it cost.
#[derive(Clone, Debug)]
pub struct AuditReport {
    /// What was found.
    pub audit: Audit,
    /// Items that were read, of all campaigns.
    pub items: u64,
    /// Read units that the scan consumed; an upper bound where the store does not say.
    pub read_units: f64,
}

/// What a segment's scan has read.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    items: u64,
    units: f64,
}

impl Operator {
    /// A campaign's record.
    ///
    /// # Errors
    /// [`OperatorError`] if there is none or the call fails.
    pub async fn campaign(&self, id: &CampaignId) -> Result<Campaign, OperatorError> {
        let found = self.campaigns.find(id).await?;
        found.ok_or_else(|| OperatorError::MissingItem(format!("campaign {id}")))
    }

    /// Compares a campaign's counters with its coupons, at `rate` read units per second; `progress` hears how many coupons
    /// were found so far.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails.
    pub async fn audit(
        &self,
        campaign: &Campaign,
        rate: u32,
        progress: impl Fn(u64),
    ) -> Result<AuditReport, OperatorError> {
        let before = self.counters(campaign).await?;
        let (books, cost) = self.coupon_books(campaign, rate, progress).await?;
        // The mark before the counters: it says that they are empty, and from then on they are.
        let sold = self.campaigns.is_sold(&campaign.campaign_id).await?;
        let after = self.counters(campaign).await?;
        Ok(AuditReport {
            audit: audit_books(AuditEvidence {
                campaign,
                before: &before,
                books,
                sold,
                after: &after,
            }),
            items: cost.items,
            read_units: cost.units,
        })
    }

    /// Sets the sold mark. Only after an audit that says it is missing.
    ///
    /// # Errors
    /// [`OperatorError`] if the call fails.
    pub async fn mark_sold(&self, campaign: &Campaign) -> Result<Mark, OperatorError> {
        Ok(self.campaigns.mark_sold(campaign).await?)
    }

    /// Every counter that a campaign could have, so that one too many shows.
    async fn counters(&self, campaign: &Campaign) -> Result<Vec<StockShard>, OperatorError> {
        let shards: Vec<u16> = (0..MAX_SHARDS.max(campaign.shards)).collect();
        Ok(self.campaigns.stock(&campaign.campaign_id, &shards).await?)
    }

    async fn coupon_books(
        &self,
        campaign: &Campaign,
        rate: u32,
        progress: impl Fn(u64),
    ) -> Result<(CouponBooks, Cost), OperatorError> {
        let (pace, books) = (Pace::per_second(rate), Mutex::new(CouponBooks::default()));
        let enter = |items: Vec<Item>| {
            let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
            items
                .into_iter()
                .for_each(|item| enter(&mut books, campaign, item));
            progress(books.coupons());
        };
        let segments =
            (0..SEGMENTS).map(|segment| self.scan_segment(campaign, segment, rate, &pace, &enter));
        let costs = try_join_all(segments).await?;
        let total = costs.iter().fold(Cost::default(), |total, cost| Cost {
            items: total.items + cost.items,
            units: total.units + cost.units,
        });
        let books = books.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((books, total))
    }

    async fn scan_segment(
        &self,
        campaign: &Campaign,
        segment: u32,
        rate: u32,
        pace: &Pace,
        enter: &impl Fn(Vec<Item>),
    ) -> Result<Cost, OperatorError> {
        // All segments' pages under way together cost a second's units at most.
        let page = (rate / SEGMENTS).max(1).saturating_mul(COUPONS_PER_UNIT);
        let whole = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        let (mut cost, mut start) = (Cost::default(), None);
        loop {
            pace.wait().await;
            let scan = self
                .dynamo
                .scan()
                .table_name(&self.stack.coupons_table)
                .consistent_read(true)
                .segment(whole(segment))
                .total_segments(whole(SEGMENTS))
                .limit(whole(page))
                .set_exclusive_start_key(start)
                .filter_expression("sk = :campaign")
                .expression_attribute_values(
                    ":campaign",
                    AttributeValue::S(campaign.campaign_id.to_string()),
                )
                .return_consumed_capacity(ReturnConsumedCapacity::Total);
            let output = scan
                .send()
                .await
                .map_err(|error| self.failed("scan the coupons", error))?;
            let items = u64::try_from(output.scanned_count).unwrap_or_default();
            let told = output
                .consumed_capacity
                .and_then(|consumed| consumed.capacity_units);
            let units = told.unwrap_or((items as f64 / f64::from(COUPONS_PER_UNIT)).ceil());
            pace.spend(units);
            cost.items += items;
            cost.units += units;
            enter(output.items.unwrap_or_default());
            start = output.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                return Ok(cost);
            }
        }
    }
}

fn enter(books: &mut CouponBooks, campaign: &Campaign, item: Item) {
    let key = item.get("pk").and_then(|key| key.as_s().ok()).cloned();
    let vanishes_at = item
        .get("ttl")
        .and_then(|ttl| ttl.as_n().ok()?.parse::<i64>().ok())
        .map(|seconds| Timestamp::EPOCH.plus_seconds(seconds));
    let parts = key.as_deref().and_then(|key| key.split_once('#'));
    match (parts, read::<Coupon>("read a coupon", item)) {
        (Some((key_partner, key_user)), Ok(coupon)) => books.enter(
            campaign,
            CouponEntry {
                key_partner,
                key_user,
                coupon: &coupon,
                vanishes_at,
            },
        ),
        _ => books.enter_unreadable(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::{Value, json};
    use tokio::time::Instant;

    use super::super::testing::operator;
    use super::*;
    use crate::aws::replay::requests;
    use crate::memory::sample_campaign;
    use crate::{Damage, coupon_code};

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn campaign() -> Campaign {
        sample_campaign(10, NOW)
    }

    fn stock(shards: &[(u16, u32, u32)]) -> (u16, Value) {
        let item = |(shard, remaining, issued): &(u16, u32, u32)| {
            let number = |number: u32| json!({ "N": number.to_string() });
            json!({
                "pk": {"S": format!("STOCK#{}#{shard}", campaign().campaign_id)}, "sk": {"S": "STOCK"},
                "remaining": number(*remaining), "issued": number(*issued), "quota": number(remaining + issued),
            })
        };
        let items: Vec<Value> = shards.iter().map(item).collect();
        (200, json!({"Responses": {"campaigns": items}}))
    }

    fn coupon(user: &str, random: u8) -> Value {
        let campaign = campaign();
        let text = |text: &str| json!({ "S": text });
        let (issued_at, expires_at) = (NOW.to_string(), NOW.plus_seconds(60).to_string());
        let ttl = campaign.closes_at.plus_seconds(crate::RETENTION_SECONDS);
        json!({
            "pk": text(&format!("acme#{user}")), "sk": text(campaign.campaign_id.as_str()),
            "code": text(&coupon_code([random; 10])), "campaignId": text(campaign.campaign_id.as_str()),
            "partnerId": text("acme"), "userId": text(user), "claimId": text("c1"), "shard": {"N": "0"},
            "issuedAt": text(&issued_at), "expiresAt": text(&expires_at), "ttl": {"N": ttl.epoch_seconds().to_string()},
        })
    }

    fn page(items: &[Value], units: f64, more: bool) -> (u16, Value) {
        let mut page = json!({
            "Items": items, "Count": items.len(), "ScannedCount": 40,
            "ConsumedCapacity": {"TableName": "coupons", "CapacityUnits": units},
        });
        if more {
            page["LastEvaluatedKey"] = json!({"pk": {"S": "acme#z"}, "sk": {"S": "x"}});
        }
        (200, page)
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_table_is_read_consistently_in_segments_and_at_the_rate() {
        // The first segment has two pages, the others one each.
        let mut responses = vec![stock(&[(0, 8, 2)]), page(&[coupon("ann", 1)], 100.0, true)];
        responses.extend((1..SEGMENTS).map(|_| page(&[], 100.0, false)));
        responses.push(page(&[coupon("bob", 2)], 100.0, false));
        responses.extend([(200, json!({})), stock(&[(0, 8, 2)])]);
        let (operator, http) = operator(&responses);
        let (started, progress) = (Instant::now(), Cell::new(0));
        let report = operator
            .audit(&campaign(), 800, |coupons| progress.set(coupons))
            .await
            .unwrap();

        assert!(report.audit.balances(), "{:?}", report.audit);
        assert_eq!((report.audit.coupons, progress.get()), (2, 2));
        assert_eq!((report.items, report.read_units), (360, 900.0));
        // The last of nine pages waits until 800 units are paid for.
        assert_eq!(started.elapsed().as_secs(), 1);
        let scans: Vec<Value> = requests(&http)
            .into_iter()
            .filter(|(operation, _)| operation == "Scan")
            .map(|(_, body)| body)
            .collect();
        let mut segments: Vec<u64> = scans
            .iter()
            .map(|scan| scan["Segment"].as_u64().unwrap())
            .collect();
        segments.sort_unstable();
        assert_eq!(segments, [0, 0, 1, 2, 3, 4, 5, 6, 7]);
        for scan in &scans {
            assert_eq!(scan["TotalSegments"], SEGMENTS);
            assert_eq!(scan["ConsistentRead"], true);
            assert_eq!(
                scan["Limit"], 400,
                "an eighth of the rate in coupons of 1 KB"
            );
            assert_eq!(scan["FilterExpression"], "sk = :campaign");
        }
        let next = scans
            .iter()
            .find(|scan| !scan["ExclusiveStartKey"].is_null());
        let next = next.unwrap();
        assert_eq!(next["Segment"], 0);
        assert_eq!(next["ExclusiveStartKey"]["pk"]["S"], "acme#z");
    }

    #[tokio::test(start_paused = true)]
    async fn a_coupon_nobody_paid_for_and_an_item_that_is_none_are_found() {
        let mut nonsense = coupon("cat", 3);
        nonsense["issuedAt"] = json!({"S": "yesterday"});
        let mut responses = vec![stock(&[(0, 9, 1)])];
        responses.push(page(
            &[coupon("ann", 1), coupon("bob", 2), nonsense],
            1.0,
            false,
        ));
        responses.extend((1..SEGMENTS).map(|_| page(&[], 1.0, false)));
        responses.extend([(200, json!({})), stock(&[(0, 9, 1)])]);
        let (operator, _) = operator(&responses);
        let report = operator.audit(&campaign(), 1000, |_| {}).await.unwrap();
        let differ = Damage::CouponsDiffer {
            shard: 0,
            issued: 1,
            coupons: 2,
        };
        assert_eq!(
            report.audit.damage,
            [differ, Damage::Unreadable { coupons: 1 }]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn counters_beyond_the_campaigns_are_asked_for() {
        let mut responses = vec![stock(&[(0, 10, 0), (5, 0, 0)])];
        responses.extend((0..SEGMENTS).map(|_| page(&[], 1.0, false)));
        responses.extend([(200, json!({})), stock(&[(0, 10, 0), (5, 0, 0)])]);
        let (operator, http) = operator(&responses);
        let report = operator.audit(&campaign(), 1000, |_| {}).await.unwrap();
        let expected = Damage::ShardTooMany {
            shard: 5,
            shards: 1,
        };
        assert_eq!(report.audit.damage, [expected]);
        let keys = &requests(&http)[0].1["RequestItems"]["campaigns"]["Keys"];
        assert_eq!(keys.as_array().unwrap().len(), usize::from(MAX_SHARDS));
    }
}
