//! What the contract suite needs of a DynamoDB: a table of its own. Not for functions.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::config::Credentials;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};

use super::Aws;
use super::error::port_error;
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
