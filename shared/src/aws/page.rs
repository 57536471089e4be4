//! Pages of lists that partners read.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;

use super::error::port_error;
use super::item::Item;
use crate::PortError;

/// The first `limit` items of the query behind `start`, and whether there are more. DynamoDB names a last evaluated key
/// whenever it stops at a limit, also behind the last item
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Query.Pagination.html>), so one item more is asked for.
/// It also stops at 1 MB; then the query goes on.
pub(crate) async fn page(
    operation: &'static str,
    query: QueryFluentBuilder,
    start: Option<Item>,
    limit: u16,
) -> Result<(Vec<Item>, bool), PortError> {
    let limit = usize::from(limit);
    let (mut items, mut start) = (Vec::new(), start);
    loop {
        // At most 101: it fits any integer.
        let wanted = i32::try_from(limit + 1 - items.len()).unwrap_or(i32::MAX);
        let query = query.clone().set_exclusive_start_key(start).limit(wanted);
        let output = query
            .send()
            .await
            .map_err(|error| port_error(operation, error))?;
        items.extend(output.items.unwrap_or_default());
        start = output.last_evaluated_key;
        let more = items.len() > limit;
        if more || start.is_none() {
            items.truncate(limit);
            return Ok((items, more));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::aws::replay::{replay, requests};

    /// What a page of two shows where the query gives so many items at a time, and how many each query asked for.
    async fn page_of_two(parts: &[(usize, bool)]) -> (usize, bool, Vec<Value>) {
        let responses: Vec<(u16, Value)> = parts
            .iter()
            .map(|(items, goes_on)| {
                let mut response = json!({"Items": vec![json!({"sk": {"S": "x"}}); *items]});
                if *goes_on {
                    response["LastEvaluatedKey"] = json!({"pk": {"S": "p"}, "sk": {"S": "x"}});
                }
                (200, response)
            })
            .collect();
        let (aws, client) = replay(&responses);
        let query = aws.dynamo().query().table_name("T");
        let (items, more) = page("list", query, None, 2).await.unwrap();
        let asked = requests(&client);
        assert_eq!(asked.len(), parts.len());
        let asked = asked.into_iter().map(|(_, body)| body["Limit"].clone());
        (items.len(), more, asked.collect())
    }

    #[tokio::test]
    async fn there_is_a_next_page_only_if_there_is_something_on_it() {
        for (parts, shown, more, limits) in [
            (&[(0, false)][..], 0, false, json!([3])),
            (&[(2, false)], 2, false, json!([3])),
            (&[(3, true)], 2, true, json!([3])),
            (&[(3, false)], 2, true, json!([3])),
            // Cut at 1 MB.
            (&[(1, true), (1, false)], 2, false, json!([3, 2])),
            (&[(2, true), (0, false)], 2, false, json!([3, 1])),
            (
                &[(1, true), (1, true), (1, true)],
                2,
                true,
                json!([3, 2, 1]),
            ),
        ] {
            let page = page_of_two(parts).await;
            assert_eq!(
                (page.0, page.1, json!(page.2)),
                (shown, more, limits),
                "{parts:?}"
            );
        }
    }
}
