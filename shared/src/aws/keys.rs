//! API keys in the Partners table: pk `KEY#<keyId>`, sk `KEY`.

use aws_sdk_dynamodb::Client;

use crate::{
    KeyRecord, KeyStore, PortError,
    aws::{
        Aws,
        error::port_error,
        item::{key, read},
    },
};

/// [`KeyStore`] on DynamoDB.
#[derive(Clone, Debug)]
pub struct DynamoKeys {
    client: Client,
    table: String,
}

impl DynamoKeys {
    /// On the Partners table.
    pub fn new(aws: &Aws, table: String) -> Self {
        Self {
            client: aws.dynamo(),
            table,
        }
    }
}

impl KeyStore for DynamoKeys {
    async fn key(&self, key_id: &str) -> Result<Option<KeyRecord>, PortError> {
        const OPERATION: &str = "read the API key";
        let output = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(format!("KEY#{key_id}"), "KEY")))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| port_error(OPERATION, error))?;
        output.item.map(|item| read(OPERATION, item)).transpose()
    }
}
