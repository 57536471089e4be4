//! Table Coupons and the transaction that issues: one Update of a stock counter and up to 99 Puts, all or nothing.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpRequest;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_get_items::TransactGetItemsError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    CancellationReason, Get, Put, ReturnValuesOnConditionCheckFailure, TransactGetItem,
    TransactWriteItem, Update,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::campaigns::stock_key;
use super::error::{asks_for_patience, port_error};
use super::item::{Item, key, number, read, record, ttl};
use super::{Aws, batch};
use crate::{
    Campaign, CampaignId, Chunk, ChunkOutcome, Confirmation, Coupon, CouponLedger, CouponReason,
    PartnerId, PortError, StandingCoupons, StockReason, UserId,
};

/// The shard pays only if it exists, is not frozen by a closing and holds enough: never a coupon too many.
const STOCK_CONDITION: &str =
    "attribute_exists(pk) AND attribute_not_exists(closedAt) AND remaining >= :n";
/// The key is (partner, user, campaign): never two for one user.
const COUPON_CONDITION: &str = "attribute_not_exists(pk)";

/// The key of a user's coupon. The order makes one Query list a user's coupons.
pub(crate) fn coupon_key(partner: &PartnerId, user: &UserId, campaign: &CampaignId) -> Item {
    key(format!("{partner}#{user}"), campaign.as_str())
}

/// Reads single coupons.
#[derive(Clone, Debug)]
pub struct DynamoCoupons {
    client: Client,
    table: String,
}

impl DynamoCoupons {
    /// On this table.
    pub fn new(aws: &Aws, table: String) -> Self {
        Self {
            client: aws.dynamo(),
            table,
        }
    }
}

impl StandingCoupons for DynamoCoupons {
    async fn coupon(
        &self,
        partner: &PartnerId,
        user: &UserId,
        campaign: &CampaignId,
    ) -> Result<Option<Coupon>, PortError> {
        const OPERATION: &str = "read the coupon";
        let keys = vec![coupon_key(partner, user, campaign)];
        for tries in 0..TRIES_OF_A_READ {
            if let Some(mut items) =
                read_at_once(&self.client, &self.table, OPERATION, keys.clone()).await?
            {
                return items.pop().map(|item| read(OPERATION, item)).transpose();
            }
            pause(tries).await;
        }
        Err(PortError::retry(OPERATION, "it is being written"))
    }
}

/// How often a single coupon that is being written is read.
const TRIES_OF_A_READ: u32 = 3;

/// A random time of at most 20 ms times 2 to the power of `tries`: a transaction takes less than 100 ms.
async fn pause(tries: u32) {
    let most = 20_000_u64 << tries.min(5);
    tokio::time::sleep(std::time::Duration::from_micros(fastrand::u64(..most))).await;
}

/// The items under these keys (at most 100) as of one instant, those that do not exist left out; `None` if one of them
/// is being written. A plain read may see the stock counter of a transaction and not yet its coupon.
async fn read_at_once(
    client: &Client,
    table: &str,
    operation: &'static str,
    keys: Vec<Item>,
) -> Result<Option<Vec<Item>>, PortError> {
    let get = |key| {
        let get = Get::builder().table_name(table).set_key(Some(key)).build();
        get.map(|get| TransactGetItem::builder().get(get).build())
            .map_err(|error| PortError::reject(operation, error))
    };
    let gets = keys.into_iter().map(get).collect::<Result<_, _>>()?;
    let sent = client.transact_get_items().set_transact_items(Some(gets));
    match sent.send().await {
        Ok(output) => {
            let responses = output.responses.unwrap_or_default().into_iter();
            let items = responses.filter_map(|response| response.item);
            Ok(Some(items.filter(|item| !item.is_empty()).collect()))
        }
        Err(error) => match error.as_service_error() {
            Some(TransactGetItemsError::TransactionCanceledException(_)) => Ok(None),
            _ => Err(port_error(operation, error)),
        },
    }
}

/// The book of coupons in DynamoDB.
#[derive(Clone, Debug)]
pub struct DynamoLedger {
    client: Client,
    /// Never repeats by itself: whether and what to send again is the issuer's decision.
    once: Client,
    coupons: String,
    campaigns: String,
}

impl DynamoLedger {
    /// On these tables.
    pub fn new(aws: &Aws, coupons: String, campaigns: String) -> Self {
        let no_retries = aws_config::retry::RetryConfig::disabled();
        let config = aws_sdk_dynamodb::config::Builder::from(aws.config())
            .retry_config(no_retries)
            .build();
        Self {
            client: aws.dynamo(),
            once: Client::from_conf(config),
            coupons,
            campaigns,
        }
    }

    fn items(&self, chunk: &Chunk) -> Result<Vec<TransactWriteItem>, PortError> {
        const OPERATION: &str = "encode the coupons";
        let all_old = ReturnValuesOnConditionCheckFailure::AllOld;
        let stock = Update::builder()
            .table_name(&self.campaigns)
            .set_key(Some(stock_key(&chunk.campaign.campaign_id, chunk.shard)))
            .update_expression("SET remaining = remaining - :n, issued = issued + :n")
            .condition_expression(STOCK_CONDITION)
            .expression_attribute_values(":n", number(chunk.coupons.len()))
            .return_values_on_condition_check_failure(all_old.clone())
            .build()
            .map_err(|error| PortError::reject(OPERATION, error))?;
        let mut items = vec![TransactWriteItem::builder().update(stock).build()];
        for coupon in &chunk.coupons {
            let at = coupon_key(&coupon.partner_id, &coupon.user_id, &coupon.campaign_id);
            let mut item = record(OPERATION, at, coupon)?;
            item.insert("ttl".into(), ttl(coupon.forgotten_at(&chunk.campaign)));
            let put = Put::builder()
                .table_name(&self.coupons)
                .set_item(Some(item))
                .condition_expression(COUPON_CONDITION)
                .return_values_on_condition_check_failure(all_old.clone())
                .build()
                .map_err(|error| PortError::reject(OPERATION, error))?;
            items.push(TransactWriteItem::builder().put(put).build());
        }
        Ok(items)
    }
}

/// The idempotency token: a hash of everything the request holds, and of the attempt. 32 characters of the 36 that
/// `ClientRequestToken` takes; DynamoDB remembers it for 10 minutes.
fn token(chunk: &Chunk) -> Result<String, PortError> {
    let content = serde_json::to_vec(&(
        chunk.shard,
        chunk.attempt.to_string(),
        &chunk.campaign,
        &chunk.coupons,
    ))
    .map_err(|error| PortError::reject("encode the coupons", error))?;
    Ok(Sha256::digest(&content)
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

impl CouponLedger for DynamoLedger {
    async fn standing(
        &self,
        campaign: &Campaign,
        users: &[UserId],
    ) -> Result<HashMap<UserId, Coupon>, PortError> {
        const OPERATION: &str = "read the coupons";
        let at = |user: &UserId| coupon_key(&campaign.partner_id, user, &campaign.campaign_id);
        let items = batch::get(
            &self.client,
            &self.coupons,
            OPERATION,
            users.iter().map(at).collect(),
        )
        .await?;
        by_user(OPERATION, items)
    }

    async fn issue(&self, chunk: &Chunk) -> Result<ChunkOutcome, PortError> {
        let request = self
            .once
            .transact_write_items()
            .client_request_token(token(chunk)?)
            .set_transact_items(Some(self.items(chunk)?))
            .customize()
            .mutate_request(in_fixed_order);
        match request.send().await {
            Ok(_) => Ok(ChunkOutcome::Issued),
            Err(error) => outcome_of(error),
        }
    }

    async fn confirm(
        &self,
        campaign: &Campaign,
        users: &[UserId],
    ) -> Result<Confirmation, PortError> {
        const OPERATION: &str = "confirm the coupons";
        let at = |user: &UserId| coupon_key(&campaign.partner_id, user, &campaign.campaign_id);
        let keys = users.iter().map(at).collect();
        match read_at_once(&self.client, &self.coupons, OPERATION, keys).await? {
            Some(items) => Ok(Confirmation::Standing(by_user(OPERATION, items)?)),
            None => Ok(Confirmation::Busy),
        }
    }
}

/// JSON whose objects have their members in the order of their names.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Ordered {
    Object(BTreeMap<String, Ordered>),
    Array(Vec<Ordered>),
    Other(serde_json::Value),
}

/// Puts the members of every object of the request's body in order, so that the same chunk is the same request byte by byte. The
/// SDK takes items as hash maps, whose order changes from one to the next. DynamoDB answers `IdempotentParameterMismatch` to a
/// token that comes again with another request, and does not say whether the order of attributes makes it another one
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html>, `ClientRequestToken`).
fn in_fixed_order(request: &mut HttpRequest) {
    let body = request.body().bytes().unwrap_or_default();
    let ordered = serde_json::from_slice::<Ordered>(body);
    // What is no JSON is left as it is; the SDK sends none.
    let Some(ordered) = ordered.and_then(|body| serde_json::to_vec(&body)).ok() else {
        return;
    };
    let length = ordered.len().to_string();
    request.headers_mut().insert("content-length", length);
    *request.body_mut() = ordered.into();
}

fn by_user(
    operation: &'static str,
    items: Vec<Item>,
) -> Result<HashMap<UserId, Coupon>, PortError> {
    let coupon =
        |item| read(operation, item).map(|coupon: Coupon| (coupon.user_id.clone(), coupon));
    items
        .into_iter()
        .filter(|item| !item.is_empty())
        .map(coupon)
        .collect()
}

/// Sorts a failed transaction: cancelled for reasons, refused unwritten, or of unknown outcome.
fn outcome_of(error: SdkError<TransactWriteItemsError>) -> Result<ChunkOutcome, PortError> {
    const OPERATION: &str = "issue the coupons";
    let SdkError::ServiceError(service) = &error else {
        return match error {
            SdkError::ConstructionFailure(_) => Err(PortError::reject(OPERATION, error)),
            // A time-out, a lost connection, a response cut short: it may have been written.
            _ => Ok(ChunkOutcome::Unknown),
        };
    };
    match service.err() {
        TransactWriteItemsError::TransactionCanceledException(cancelled) => {
            cancellation(cancelled.cancellation_reasons())
        }
        TransactWriteItemsError::TransactionInProgressException(_) => Ok(ChunkOutcome::Unknown),
        _ if service.raw().status().as_u16() >= 500 => Ok(ChunkOutcome::Unknown),
        other if asks_for_patience(other.code()) => Ok(ChunkOutcome::Throttled),
        _ => Err(port_error(OPERATION, error)),
    }
}

/// Reads the reasons: the first is the stock counter's, the rest the coupons' in their order.
fn cancellation(reasons: &[CancellationReason]) -> Result<ChunkOutcome, PortError> {
    let Some((stock, coupons)) = reasons.split_first() else {
        // A cancellation is certain, only its reasons are missing: nothing was written.
        return Ok(ChunkOutcome::Throttled);
    };
    Ok(ChunkOutcome::Cancelled {
        stock: stock_reason(stock)?,
        coupons: coupons
            .iter()
            .map(coupon_reason)
            .collect::<Result<_, _>>()?,
    })
}

fn stock_reason(reason: &CancellationReason) -> Result<StockReason, PortError> {
    const OPERATION: &str = "read why the stock refused";
    match reason.code().unwrap_or("None") {
        "None" => Ok(StockReason::None),
        "ConditionalCheckFailed" => {
            let Some(item) = reason.item.as_ref().filter(|item| !item.is_empty()) else {
                return Ok(StockReason::Missing);
            };
            let remaining = item
                .get("remaining")
                .and_then(|left| left.as_n().ok())
                .and_then(|left| left.parse().ok())
                .ok_or_else(|| PortError::reject(OPERATION, "shard without `remaining`"))?;
            Ok(if item.contains_key("closedAt") {
                StockReason::Closed(remaining)
            } else {
                StockReason::Short(remaining)
            })
        }
        "ValidationError" => Err(PortError::reject(
            OPERATION,
            "the store finds the stock update invalid",
        )),
        _ => Ok(StockReason::Busy),
    }
}

fn coupon_reason(reason: &CancellationReason) -> Result<CouponReason, PortError> {
    match reason.code().unwrap_or("None") {
        "None" => Ok(CouponReason::None),
        "ConditionalCheckFailed" => match reason.item.clone().filter(|item| !item.is_empty()) {
            Some(item) => Ok(CouponReason::Stands(read(
                "read the standing coupon",
                item,
            )?)),
            None => Ok(CouponReason::Busy),
        },
        "ValidationError" | "ItemCollectionSizeLimitExceeded" => Ok(CouponReason::Invalid),
        _ => Ok(CouponReason::Busy),
    }
}

#[cfg(test)]
mod accounting;
#[cfg(test)]
mod tests;
