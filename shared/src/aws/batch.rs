//! BatchGetItem to the end: pages of 100 keys, several at once, what was left unprocessed asked for again.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::KeysAndAttributes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::error::port_error;
use super::item::Item;
use crate::PortError;

/// Keys in one call (DynamoDB `BatchGetItem`).
const KEYS_PER_CALL: usize = 100;
/// Calls in flight at once.
const CALLS_AT_ONCE: usize = 5;
/// How often what was left unprocessed is asked for again.
const TRIES: u32 = 6;

/// The items under these distinct keys, in any order, read consistently; what does not exist is left out.
pub(crate) async fn get(
    client: &Client,
    table: &str,
    operation: &'static str,
    keys: Vec<Item>,
) -> Result<Vec<Item>, PortError> {
    let pages: Vec<Vec<Item>> = keys.chunks(KEYS_PER_CALL).map(<[Item]>::to_vec).collect();
    let calls = stream::iter(pages).map(|page| get_page(client, table, operation, page));
    let found: Vec<Vec<Item>> = calls.buffer_unordered(CALLS_AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

async fn get_page(
    client: &Client,
    table: &str,
    operation: &'static str,
    mut keys: Vec<Item>,
) -> Result<Vec<Item>, PortError> {
    let mut found = Vec::with_capacity(keys.len());
    for tries in 0..TRIES {
        let asked = KeysAndAttributes::builder()
            .set_keys(Some(keys))
            .consistent_read(true)
            .build();
        let asked = asked.map_err(|error| PortError::reject(operation, error))?;
        let sent = client
            .batch_get_item()
            .request_items(table, asked)
            .send()
            .await;
        let output = sent.map_err(|error| port_error(operation, error))?;
        found.extend(output.responses.unwrap_or_default().into_values().flatten());
        let left: HashMap<String, KeysAndAttributes> = output.unprocessed_keys.unwrap_or_default();
        keys = left.into_values().flat_map(|left| left.keys).collect();
        if keys.is_empty() {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=25 << tries))).await;
    }
    Err(PortError::retry(operation, "keys left unprocessed"))
}
