//! What the contract suite needs of a DynamoDB beyond the ports: a table of its own, and the store's own word on
//! idempotency tokens. Not for functions.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::config::Credentials;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, Put, ScalarAttributeType,
    TransactWriteItem,
};

use super::Aws;
use super::error::port_error;
use super::item::key;
use crate::PortError;

/// A configuration for this endpoint, with credentials that open nothing.
pub async fn config(endpoint: &str) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "contract"))
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(Duration::from_secs(20))
                .build(),
        )
        .load()
        .await
}

/// Creates a table with the keys that every table has.
///
/// # Errors
/// [`PortError`] if it cannot be created.
pub async fn create_table(aws: &Aws, name: &str) -> Result<(), PortError> {
    const OPERATION: &str = "create a table";
    let mut request = aws
        .dynamo()
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest);
    for (attribute, key) in [("pk", KeyType::Hash), ("sk", KeyType::Range)] {
        let definition = AttributeDefinition::builder()
            .attribute_name(attribute)
            .attribute_type(ScalarAttributeType::S)
            .build()
            .map_err(|error| PortError::reject(OPERATION, error))?;
        let element = KeySchemaElement::builder()
            .attribute_name(attribute)
            .key_type(key)
            .build()
            .map_err(|error| PortError::reject(OPERATION, error))?;
        request = request
            .attribute_definitions(definition)
            .key_schema(element);
    }
    request
        .send()
        .await
        .map(drop)
        .map_err(|error| port_error(OPERATION, error))
}

/// What became of a request that carries the token of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondRequest {
    /// `IdempotentParameterMismatchException`: nothing was written.
    RefusedAsMismatch,
    /// It was answered as the first was, or written.
    Accepted,
}

/// Writes an item in a transaction, then sends another item's transaction with the same `ClientRequestToken`, which
/// must be new to the store.
///
/// # Errors
/// [`PortError`] if a call fails otherwise.
pub async fn send_two_requests_with_one_token(
    aws: &Aws,
    table: &str,
    token: &str,
) -> Result<SecondRequest, PortError> {
    const OPERATION: &str = "send a token twice";
    let send = async |name: &str| {
        let put = Put::builder()
            .table_name(table)
            .set_item(Some(key(name.to_owned(), name)))
            .build()
            .map_err(|error| PortError::reject(OPERATION, error))?;
        let item = TransactWriteItem::builder().put(put).build();
        let sent = aws
            .dynamo()
            .transact_write_items()
            .client_request_token(token)
            .transact_items(item)
            .send()
            .await;
        match sent {
            Ok(_) => Ok(SecondRequest::Accepted),
            Err(error) => match error.as_service_error() {
                Some(TransactWriteItemsError::IdempotentParameterMismatchException(_)) => {
                    Ok(SecondRequest::RefusedAsMismatch)
                }
                _ => Err(port_error(OPERATION, error)),
            },
        }
    };
    if send("first").await? == SecondRequest::RefusedAsMismatch {
        return Err(PortError::reject(OPERATION, "the token is not new"));
    }
    send("second").await
}
