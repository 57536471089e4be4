//! The use of coupons in table Coupons: one conditional update of the coupon's item, which issuing never overwrites.

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::update_item::UpdateItemError,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure as OnFailure},
};

use super::Aws;
use super::error::port_error;
use super::item::{Item, read, text};
use super::ledger::coupon_key;
use crate::{CouponChange, PortError, Recorded, Redemptions};

const OPERATION: &str = "record the coupon's use";

/// A coupon's change as DynamoDB takes it, alone or in a transaction.
pub(crate) struct CouponUpdate {
    pub(crate) key: Item,
    pub(crate) update: String,
    pub(crate) condition: String,
    pub(crate) values: Item,
}

/// The coupon must stand as it was judged: its code and expiry, and whether and for what it was redeemed.
pub(crate) fn coupon_update(change: &CouponChange) -> CouponUpdate {
    let coupon = &change.judged;
    let mut values: Vec<(&str, AttributeValue)> = vec![
        (":code", text(&coupon.code)),
        (":expiresAt", text(coupon.expires_at.to_string())),
    ];
    let mut condition = "code = :code AND expiresAt = :expiresAt AND ".to_owned();
    match &coupon.redemption {
        None => condition.push_str("attribute_not_exists(orderId)"),
        Some(seen) => {
            condition.push_str("orderId = :seenOrder AND redeemedAt = :seenAt");
            values.push((":seenOrder", text(seen.order_id.as_str())));
            values.push((":seenAt", text(seen.redeemed_at.to_string())));
        }
    }
    let mut update = "REMOVE redeemedAt, orderId, entryId".to_owned();
    if let Some(redemption) = &change.to {
        update = "SET redeemedAt = :at, orderId = :order".to_owned();
        values.push((":at", text(redemption.redeemed_at.to_string())));
        values.push((":order", text(redemption.order_id.as_str())));
        if let Some(entry) = &redemption.entry_id {
            update.push_str(", entryId = :entry");
            values.push((":entry", text(entry.as_str())));
        }
    }
    let key = coupon_key(&coupon.partner_id, &coupon.user_id, &coupon.campaign_id);
    CouponUpdate {
        key,
        update,
        condition,
        values: values
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

/// [`Redemptions`] on the Coupons table.
#[derive(Clone, Debug)]
pub struct DynamoRedemptions {
    client: Client,
    table: String,
}

impl DynamoRedemptions {
    /// On the Coupons table.
    pub fn new(aws: &Aws, table: String) -> Self {
        Self {
            client: aws.dynamo(),
            table,
        }
    }
}

impl Redemptions for DynamoRedemptions {
    async fn record(&self, change: &CouponChange) -> Result<Recorded, PortError> {
        let CouponUpdate {
            key,
            update,
            condition,
            values,
        } = coupon_update(change);
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .update_expression(update)
            .condition_expression(condition)
            .set_expression_attribute_values(Some(values))
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        match request.send().await {
            Ok(_) => Ok(Recorded::Recorded),
            Err(error) => refused(error),
        }
    }
}

fn refused(error: SdkError<UpdateItemError>) -> Result<Recorded, PortError> {
    match error.as_service_error() {
        Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
            let standing = failed.item().filter(|item| !item.is_empty()).cloned();
            let coupon = standing.map(|item| read(OPERATION, item)).transpose()?;
            Ok(Recorded::Refused(coupon.map(Box::new)))
        }
        Some(UpdateItemError::TransactionConflictException(_)) => Ok(Recorded::Busy),
        _ => Err(port_error(OPERATION, error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::aws::replay::{replay, requests};
    use crate::{Coupon, EntryId, OrderId, Redemption, Timestamp};

    fn redemption(entry: bool) -> Redemption {
        let at = Timestamp::from_millis(1_790_000_001_000);
        Redemption {
            redeemed_at: at,
            order_id: OrderId::new("o1").unwrap(),
            entry_id: entry.then(|| EntryId::behind(None, at, 1)),
        }
    }

    async fn record(
        change: &CouponChange,
        response: (u16, Value),
    ) -> (Result<Recorded, PortError>, Value) {
        let (aws, client) = replay(&[response]);
        let outcome = DynamoRedemptions::new(&aws, "Coupons".into())
            .record(change)
            .await;
        let (operation, body) = requests(&client).remove(0);
        assert_eq!(operation, "UpdateItem");
        (outcome, body)
    }

    fn failed(kind: &str, item: Value) -> (u16, Value) {
        let kind = format!("com.amazonaws.dynamodb.v20120810#{kind}");
        (400, json!({"__type": kind, "Item": item}))
    }

    #[tokio::test]
    async fn a_redemption_pins_the_coupon_as_judged_and_that_nobody_redeemed_it() {
        let judged = Coupon::sample();
        let change = CouponChange {
            judged: judged.clone(),
            to: Some(redemption(false)),
        };
        let (outcome, body) = record(&change, (200, json!({}))).await;
        assert_eq!(outcome.unwrap(), Recorded::Recorded);
        assert_eq!(
            body["Key"],
            json!({"pk": {"S": "acme#user-1"}, "sk": {"S": judged.campaign_id}})
        );
        assert_eq!(
            body["ConditionExpression"],
            "code = :code AND expiresAt = :expiresAt AND attribute_not_exists(orderId)"
        );
        assert_eq!(
            body["UpdateExpression"],
            "SET redeemedAt = :at, orderId = :order"
        );
        let values = json!({
            ":code": {"S": judged.code}, ":expiresAt": {"S": judged.expires_at},
            ":at": {"S": redemption(false).redeemed_at}, ":order": {"S": "o1"},
        });
        assert_eq!(body["ExpressionAttributeValues"], values);
        assert_eq!(body["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
    }

    #[tokio::test]
    async fn a_rollback_pins_the_very_redemption() {
        let judged = Coupon {
            redemption: Some(redemption(true)),
            ..Coupon::sample()
        };
        let change = CouponChange { judged, to: None };
        let (_, body) = record(&change, (200, json!({}))).await;
        assert_eq!(
            body["ConditionExpression"],
            "code = :code AND expiresAt = :expiresAt AND orderId = :seenOrder AND redeemedAt = :seenAt"
        );
        assert_eq!(
            body["UpdateExpression"],
            "REMOVE redeemedAt, orderId, entryId"
        );
        assert_eq!(body["ExpressionAttributeValues"][":seenOrder"]["S"], "o1");
    }

    #[tokio::test]
    async fn a_refusal_tells_what_stands_and_a_conflict_is_no_refusal() {
        let change = CouponChange {
            judged: Coupon::sample(),
            to: Some(redemption(false)),
        };
        let standing = Coupon {
            redemption: Some(redemption(true)),
            ..Coupon::sample()
        };
        let item = serde_json::to_value(&standing).unwrap();
        let wire = item.as_object().unwrap().iter().map(|(name, value)| {
            let typed = value.as_str().map(|text| json!({"S": text}));
            (
                name.clone(),
                typed.unwrap_or(json!({"N": value.to_string()})),
            )
        });
        let item: Value = wire.collect::<serde_json::Map<_, _>>().into();
        let condition = "ConditionalCheckFailedException";
        let (outcome, _) = record(&change, failed(condition, item)).await;
        assert_eq!(
            outcome.unwrap(),
            Recorded::Refused(Some(Box::new(standing)))
        );
        let (outcome, _) = record(&change, failed(condition, Value::Null)).await;
        assert_eq!(outcome.unwrap(), Recorded::Refused(None));
        let conflict = failed("TransactionConflictException", Value::Null);
        assert_eq!(record(&change, conflict).await.0.unwrap(), Recorded::Busy);
    }
}
