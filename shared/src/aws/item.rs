//! Building and reading items: keys, the TTL attribute, records as maps.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Serialize, de::DeserializeOwned};

use crate::{PortError, Timestamp};

/// A DynamoDB item or key.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// A text attribute.
pub(crate) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// A number attribute.
pub(crate) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// The key of every table: `pk` and `sk`.
pub(crate) fn key(pk: impl Into<String>, sk: impl Into<String>) -> Item {
    HashMap::from([("pk".to_owned(), text(pk)), ("sk".to_owned(), text(sk))])
}

/// When DynamoDB may remove the item, in epoch seconds.
pub(crate) fn ttl(at: Timestamp) -> AttributeValue {
    number(at.epoch_seconds())
}

/// The record as an item under this key.
pub(crate) fn record<T: Serialize>(
    operation: &'static str,
    key: Item,
    record: &T,
) -> Result<Item, PortError> {
    let mut item: Item =
        serde_dynamo::to_item(record).map_err(|error| PortError::reject(operation, error))?;
    item.extend(key);
    Ok(item)
}

/// The record in an item.
pub(crate) fn read<T: DeserializeOwned>(
    operation: &'static str,
    item: Item,
) -> Result<T, PortError> {
    serde_dynamo::from_item(item).map_err(|error| PortError::reject(operation, error))
}
