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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::item::key;
    use super::*;
    use crate::aws::replay::{replay, requests};

    /// The answer that holds these items and leaves these unprocessed.
    fn answer(found: &[&str], left: &[&str]) -> (u16, Value) {
        let items = |names: &[&str]| -> Vec<Value> {
            let item = |name: &&str| json!({"pk": {"S": name}, "sk": {"S": "K"}});
            names.iter().map(item).collect()
        };
        let mut answer = json!({"Responses": {"table": items(found)}});
        if !left.is_empty() {
            answer["UnprocessedKeys"] = json!({"table": {"Keys": items(left)}});
        }
        (200, answer)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_unprocessed_is_asked_for_again_and_nothing_else() {
        let (aws, http) = replay(&[answer(&["a"], &["b", "c"]), answer(&["b"], &[])]);
        let keys = ["a", "b", "c"].map(|name| key(name, "K"));
        let found = get(&aws.dynamo(), "table", "read", keys.to_vec()).await;
        assert_eq!(found.unwrap(), [key("a", "K"), key("b", "K")], "c is none");
        let asked = |request: &(String, Value)| {
            let keys = request.1["RequestItems"]["table"]["Keys"].as_array();
            keys.unwrap().len()
        };
        let asked: Vec<_> = requests(&http).iter().map(asked).collect();
        assert_eq!(asked, [3, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_never_taken_for_the_whole() {
        let (aws, http) = replay(&vec![answer(&["a"], &["b"]); TRIES as usize]);
        let keys = ["a", "b"].map(|name| key(name, "K"));
        let found = get(&aws.dynamo(), "table", "read", keys.to_vec()).await;
        assert_eq!(found.unwrap_err().fate, crate::Fate::Retry);
        assert_eq!(requests(&http).len(), TRIES as usize);
    }
}
