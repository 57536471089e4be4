//! Connections and memberships in the Connections table: `CONN#<id>`/`META`, `<topic>#<shard>`/`<id>`, `TICKET#<jti>`/`TICKET`.
//!
//! A membership stands only while its connection's record names the topic: both change in one transaction, and a record
//! is deleted only if its topics are those whose memberships were deleted.

use std::time::Duration;

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::transact_write_items::TransactWriteItemsError,
    types::{AttributeValue, Delete, DeleteRequest, Put, TransactWriteItem, Update, WriteRequest},
};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    Audience, CONNECTION_TTL_SECONDS, Connection, ConnectionId, Forgetting, InvalidValue, Member,
    MemberPage, PartnerId, PortError, Registration, Registry, Subscription, Subscriptions,
    Timestamp, Topic, UserId,
    aws::{
        Aws,
        error::port_error,
        item::{Item, key, text, ttl},
    },
    membership_shard,
};

/// Items in one BatchWriteItem (DynamoDB's limit).
const BATCH: usize = 25;
/// How often a batch's unprocessed rest, a transaction in conflict or an overtaken deletion is tried.
const MAX_TRIES: u32 = 6;
/// The longest first pause between tries; it doubles, and a random part of it is taken.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Connection records deleted at once.
const DELETIONS: usize = 16;

/// [`Registry`], [`Subscriptions`], [`Forgetting`] and [`Audience`] on DynamoDB.
#[derive(Clone, Debug)]
pub struct DynamoConnections {
    client: Client,
    table: String,
}

impl DynamoConnections {
    /// On the Connections table.
    pub fn new(aws: &Aws, table: String) -> Self {
        Self {
            client: aws.dynamo(),
            table,
        }
    }

    /// Writes all or nothing. A conflict with another transaction is tried again: only a refused condition is an answer.
    async fn transact(
        &self,
        operation: &'static str,
        items: Vec<TransactWriteItem>,
    ) -> Result<Written, PortError> {
        let mut tries = 0;
        loop {
            let request = self
                .client
                .transact_write_items()
                .set_transact_items(Some(items.clone()));
            let Err(error) = request.send().await else {
                return Ok(Written::All);
            };
            let reasons = cancellation_codes(&error);
            if reasons.contains(&"ConditionalCheckFailed") {
                return Ok(Written::Refused);
            }
            let may_pass = [
                "TransactionConflict",
                "ThrottlingError",
                "ProvisionedThroughputExceeded",
            ];
            if !reasons.iter().any(|reason| may_pass.contains(reason)) {
                return Err(port_error(operation, error));
            }
            tries += 1;
            if tries >= MAX_TRIES {
                return Err(PortError::retry(operation, error));
            }
            pause(tries).await;
        }
    }

    /// Deletes keys of the table, in any number.
    async fn delete_all(&self, keys: Vec<Item>) -> Result<(), PortError> {
        for batch in keys.chunks(BATCH) {
            self.delete_batch(batch).await?;
        }
        Ok(())
    }

    async fn delete_batch(&self, keys: &[Item]) -> Result<(), PortError> {
        const OPERATION: &str = "delete the memberships";
        let mut open = keys
            .iter()
            .map(delete_request)
            .collect::<Result<Vec<_>, _>>()?;
        for tries in 1..=MAX_TRIES {
            let request = self
                .client
                .batch_write_item()
                .request_items(&self.table, open);
            let output = request
                .send()
                .await
                .map_err(|error| port_error(OPERATION, error))?;
            open = output
                .unprocessed_items
                .unwrap_or_default()
                .remove(&self.table)
                .unwrap_or_default();
            if open.is_empty() {
                return Ok(());
            }
            pause(tries).await;
        }
        Err(PortError::retry(OPERATION, "items stay unprocessed"))
    }

    /// Deletes a connection's record, with memberships it has joined since `connection` was read.
    async fn delete_record(&self, mut connection: Connection) -> Result<(), PortError> {
        const OPERATION: &str = "delete the connection";
        for _ in 0..MAX_TRIES {
            let mut request = self.client.delete_item().table_name(&self.table);
            request = request.set_key(Some(record_key(&connection.connection_id)));
            request = match topic_set(&connection.topics) {
                Some(topics) => request
                    .condition_expression("attribute_not_exists(pk) OR topics = :topics")
                    .expression_attribute_values(":topics", topics),
                None => request.condition_expression("attribute_not_exists(topics)"),
            };
            let Err(error) = request.send().await else {
                return Ok(());
            };
            if !error
                .as_service_error()
                .is_some_and(|error| error.is_conditional_check_failed_exception())
            {
                return Err(port_error(OPERATION, error));
            }
            let Some(current) = self.connection(&connection.connection_id).await? else {
                return Ok(());
            };
            self.delete_all(membership_keys(&current)).await?;
            connection = current;
        }
        Err(PortError::retry(OPERATION, "its topics keep changing"))
    }

    fn put(&self, item: Item) -> Result<TransactWriteItem, PortError> {
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item))
            .build()
            .map_err(malformed)?;
        Ok(TransactWriteItem::builder().put(put).build())
    }
}

/// What became of a conditional transaction.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    All,
    Refused,
}

impl Registry for DynamoConnections {
    async fn register(
        &self,
        connection: &Connection,
        ticket_id: &str,
    ) -> Result<Registration, PortError> {
        let id = connection.connection_id.as_str();
        let lifetime = lifetime(connection.connected_at);
        let ticket = Put::builder()
            .table_name(&self.table)
            .set_item(Some(key(format!("TICKET#{ticket_id}"), "TICKET")))
            .item("connectionId", text(id))
            .item("ttl", lifetime.clone())
            // The same connection again is API Gateway's or our own retry.
            .condition_expression("attribute_not_exists(pk) OR connectionId = :c")
            .expression_attribute_values(":c", text(id))
            .build()
            .map_err(malformed)?;
        let mut record = record_key(&connection.connection_id);
        record.extend([
            ("partnerId".into(), text(connection.partner_id.as_str())),
            ("userId".into(), text(connection.user_id.as_str())),
            (
                "connectedAt".into(),
                text(connection.connected_at.to_string()),
            ),
            ("ttl".into(), lifetime),
        ]);
        record.extend(topic_set(&connection.topics).map(|topics| ("topics".into(), topics)));
        let mut items = vec![
            TransactWriteItem::builder().put(ticket).build(),
            self.put(record)?,
        ];
        for topic in &connection.topics {
            items.push(self.put(membership(
                topic,
                &connection.connection_id,
                connection.connected_at,
            ))?);
        }
        Ok(
            match self.transact("register the connection", items).await? {
                Written::All => Registration::Registered,
                Written::Refused => Registration::TicketUsed,
            },
        )
    }
}

impl Subscriptions for DynamoConnections {
    async fn subscribe(
        &self,
        connection: &ConnectionId,
        topic: &Topic,
    ) -> Result<Subscription, PortError> {
        let Some(record) = self.connection(connection).await? else {
            return Ok(Subscription::Gone);
        };
        if record.topics.contains(topic) {
            return Ok(Subscription::Subscribed);
        }
        let update = Update::builder()
            .table_name(&self.table)
            .set_key(Some(record_key(connection)))
            .update_expression("ADD topics :topic")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":topic", AttributeValue::Ss(vec![topic.to_string()]))
            .build()
            .map_err(malformed)?;
        let join = self.put(membership(topic, connection, record.connected_at))?;
        let items = vec![TransactWriteItem::builder().update(update).build(), join];
        Ok(
            match self.transact("subscribe the connection", items).await? {
                Written::All => Subscription::Subscribed,
                Written::Refused => Subscription::Gone,
            },
        )
    }

    async fn unsubscribe(&self, connection: &ConnectionId, topic: &Topic) -> Result<(), PortError> {
        let update = Update::builder()
            .table_name(&self.table)
            .set_key(Some(record_key(connection)))
            .update_expression("DELETE topics :topic")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":topic", AttributeValue::Ss(vec![topic.to_string()]))
            .build()
            .map_err(malformed)?;
        let leave = Delete::builder()
            .table_name(&self.table)
            .set_key(Some(membership_key(topic, connection)))
            .build()
            .map_err(malformed)?;
        let items = vec![
            TransactWriteItem::builder().update(update).build(),
            TransactWriteItem::builder().delete(leave).build(),
        ];
        // Refused: the connection is gone, and whoever removed its record has removed its memberships.
        self.transact("unsubscribe the connection", items)
            .await
            .map(|_| ())
    }
}

impl Forgetting for DynamoConnections {
    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>, PortError> {
        const OPERATION: &str = "read the connection";
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(record_key(id)));
        let output = request
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| port_error(OPERATION, error))?;
        let record = output
            .item
            .map(|item| parse_connection(id, &item))
            .transpose();
        record.map_err(|error| PortError::reject(OPERATION, error))
    }

    async fn forget(&self, connections: &[Connection]) -> Result<(), PortError> {
        self.delete_all(connections.iter().flat_map(membership_keys).collect())
            .await?;
        let deletions: Vec<_> = connections
            .iter()
            .cloned()
            .map(|connection| self.delete_record(connection))
            .collect();
        stream::iter(deletions)
            .buffer_unordered(DELETIONS)
            .try_collect()
            .await
    }

    async fn forget_members(
        &self,
        topic: &Topic,
        members: &[ConnectionId],
    ) -> Result<(), PortError> {
        self.delete_all(
            members
                .iter()
                .map(|member| membership_key(topic, member))
                .collect(),
        )
        .await
    }
}

impl Audience for DynamoConnections {
    async fn members(
        &self,
        topic: &Topic,
        shard: u16,
        after: Option<&ConnectionId>,
        limit: u16,
    ) -> Result<MemberPage, PortError> {
        const OPERATION: &str = "read the members";
        let pk = text(format!("{topic}#{shard}"));
        let mut request = self
            .client
            .query()
            .table_name(&self.table)
            .limit(i32::from(limit));
        request = match after {
            Some(after) => request
                .key_condition_expression("pk = :pk AND sk > :after")
                .expression_attribute_values(":after", text(after.as_str())),
            None => request.key_condition_expression("pk = :pk"),
        };
        // Consistent: whoever was told "subscribed" hears what is announced from then on.
        let request = request
            .expression_attribute_values(":pk", pk)
            .consistent_read(true);
        let output = request
            .send()
            .await
            .map_err(|error| port_error(OPERATION, error))?;
        let members = output
            .items
            .unwrap_or_default()
            .iter()
            .map(parse_member)
            .collect::<Result<Vec<_>, _>>();
        let next = output
            .last_evaluated_key
            .map(|key| attribute(&key, "sk").and_then(ConnectionId::new))
            .transpose();
        let page = members.and_then(|members| {
            Ok(MemberPage {
                members,
                next: next?,
            })
        });
        page.map_err(|error| PortError::reject(OPERATION, error))
    }
}

fn cancellation_codes<R>(error: &SdkError<TransactWriteItemsError, R>) -> Vec<&str> {
    match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled
            .cancellation_reasons()
            .iter()
            .filter_map(|reason| reason.code())
            .collect(),
        _ => Vec::new(),
    }
}

async fn pause(tries: u32) {
    tokio::time::sleep(
        FIRST_PAUSE
            .saturating_mul(1 << tries.min(6))
            .mul_f64(fastrand::f64()),
    )
    .await;
}

fn delete_request(key: &Item) -> Result<WriteRequest, PortError> {
    let delete = DeleteRequest::builder()
        .set_key(Some(key.clone()))
        .build()
        .map_err(malformed)?;
    Ok(WriteRequest::builder().delete_request(delete).build())
}

fn malformed(error: aws_sdk_dynamodb::error::BuildError) -> PortError {
    PortError::reject("build the request", error)
}

fn record_key(connection: &ConnectionId) -> Item {
    key(format!("CONN#{connection}"), "META")
}

fn membership_key(topic: &Topic, connection: &ConnectionId) -> Item {
    key(
        format!("{topic}#{}", membership_shard(connection)),
        connection.as_str(),
    )
}

fn membership_keys(connection: &Connection) -> Vec<Item> {
    connection
        .topics
        .iter()
        .map(|topic| membership_key(topic, &connection.connection_id))
        .collect()
}

fn membership(topic: &Topic, connection: &ConnectionId, connected_at: Timestamp) -> Item {
    let mut item = membership_key(topic, connection);
    item.insert("connectedAt".into(), text(connected_at.to_string()));
    item.insert("ttl".into(), lifetime(connected_at));
    item
}

fn lifetime(connected_at: Timestamp) -> AttributeValue {
    ttl(connected_at.plus_seconds(CONNECTION_TTL_SECONDS))
}

/// `None` without topics: DynamoDB has no empty sets.
fn topic_set(topics: &[Topic]) -> Option<AttributeValue> {
    (!topics.is_empty()).then(|| AttributeValue::Ss(topics.iter().map(Topic::to_string).collect()))
}

fn attribute(item: &Item, name: &'static str) -> Result<String, InvalidValue> {
    let value = item.get(name).and_then(|value| value.as_s().ok());
    value.cloned().ok_or(InvalidValue {
        field: name,
        expected: "a string attribute",
    })
}

fn parse_connection(id: &ConnectionId, item: &Item) -> Result<Connection, InvalidValue> {
    let topics = item
        .get("topics")
        .and_then(|value| value.as_ss().ok())
        .cloned()
        .unwrap_or_default();
    Ok(Connection {
        connection_id: id.clone(),
        partner_id: PartnerId::new(attribute(item, "partnerId")?)?,
        user_id: UserId::new(attribute(item, "userId")?)?,
        connected_at: Timestamp::parse(&attribute(item, "connectedAt")?)?,
        topics: topics
            .into_iter()
            .map(Topic::try_from)
            .collect::<Result<_, _>>()?,
    })
}

fn parse_member(item: &Item) -> Result<Member, InvalidValue> {
    Ok(Member {
        connection_id: ConnectionId::new(attribute(item, "sk")?)?,
        connected_at: Timestamp::parse(&attribute(item, "connectedAt")?)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        CampaignId,
        aws::replay::{replay, requests},
    };

    /// 2026-11-01T09:00:00Z, and that much later when the items may go.
    const CONNECTED: &str = "2026-11-01T09:00:00.000Z";
    const TTL: &str = "1793531400";

    fn connection() -> Connection {
        let partner_id = PartnerId::new("acme").unwrap();
        Connection {
            connection_id: ConnectionId::new("c=").unwrap(),
            topics: vec![Topic::Partner(partner_id.clone()), campaign_topic()],
            partner_id,
            user_id: UserId::new("u").unwrap(),
            connected_at: Timestamp::parse(CONNECTED).unwrap(),
        }
    }

    fn campaign_topic() -> Topic {
        Topic::Campaign(CampaignId::new("k").unwrap())
    }

    fn table(
        responses: Vec<(u16, Value)>,
    ) -> (DynamoConnections, impl Fn() -> Vec<(String, Value)>) {
        let (aws, client) = replay(&responses);
        (DynamoConnections::new(&aws, "T".into()), move || {
            requests(&client)
        })
    }

    fn cancelled(codes: &[&str]) -> (u16, Value) {
        let reasons: Vec<_> = codes.iter().map(|code| json!({"Code": code})).collect();
        let kind = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
        (400, json!({"__type": kind, "CancellationReasons": reasons}))
    }

    fn refused() -> (u16, Value) {
        (
            400,
            json!({"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"}),
        )
    }

    fn member_pk(topic: &str) -> String {
        format!("{topic}#{}", membership_shard(&connection().connection_id))
    }

    fn record(topics: &[&str]) -> Value {
        json!({"Item": {
            "pk": {"S": "CONN#c="}, "sk": {"S": "META"}, "partnerId": {"S": "acme"}, "userId": {"S": "u"},
            "connectedAt": {"S": CONNECTED}, "topics": {"SS": topics}, "ttl": {"N": TTL},
        }})
    }

    #[tokio::test]
    async fn registering_consumes_the_ticket_with_the_record_and_its_memberships_in_one_transaction()
     {
        let (table, sent) = table(vec![(200, json!({}))]);
        let registration = table.register(&connection(), "jti").await.unwrap();
        assert_eq!(registration, Registration::Registered);
        let member = |topic| {
            json!({"Put": {"TableName": "T", "Item": {
                "pk": {"S": member_pk(topic)}, "sk": {"S": "c="}, "connectedAt": {"S": CONNECTED}, "ttl": {"N": TTL},
            }}})
        };
        let (operation, body) = sent().remove(0);
        assert_eq!(operation, "TransactWriteItems");
        let record = record(&["partner:acme", "campaign:k"])["Item"].clone();
        let expected = json!([
            {"Put": {
                "TableName": "T",
                "Item": {
                    "pk": {"S": "TICKET#jti"}, "sk": {"S": "TICKET"}, "connectionId": {"S": "c="}, "ttl": {"N": TTL},
                },
                "ConditionExpression": "attribute_not_exists(pk) OR connectionId = :c",
                "ExpressionAttributeValues": {":c": {"S": "c="}},
            }},
            {"Put": {"TableName": "T", "Item": record}},
            member("partner:acme"),
            member("campaign:k"),
        ]);
        assert_eq!(body["TransactItems"], expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_used_ticket_is_an_answer_and_a_conflict_is_tried_again() {
        let (used, _) = table(vec![cancelled(&[
            "ConditionalCheckFailed",
            "None",
            "None",
            "None",
        ])]);
        assert_eq!(
            used.register(&connection(), "jti").await.unwrap(),
            Registration::TicketUsed
        );
        let conflict = || cancelled(&["TransactionConflict", "None", "None", "None"]);
        let (busy, sent) = table(vec![conflict(), conflict(), (200, json!({}))]);
        assert_eq!(
            busy.register(&connection(), "jti").await.unwrap(),
            Registration::Registered
        );
        assert_eq!(sent().len(), 3);
        let (broken, _) = table(vec![cancelled(&[
            "ValidationError",
            "None",
            "None",
            "None",
        ])]);
        assert_eq!(
            broken
                .register(&connection(), "jti")
                .await
                .unwrap_err()
                .fate,
            crate::Fate::Reject
        );
    }

    #[tokio::test]
    async fn a_topic_is_joined_only_with_a_record_that_names_it() {
        let (joining, sent) = table(vec![(200, record(&["partner:acme"])), (200, json!({}))]);
        let joined = joining
            .subscribe(&connection().connection_id, &campaign_topic())
            .await
            .unwrap();
        assert_eq!(joined, Subscription::Subscribed);
        let items = sent()[1].1["TransactItems"].clone();
        assert_eq!(items[0]["Update"]["UpdateExpression"], "ADD topics :topic");
        assert_eq!(
            items[0]["Update"]["ConditionExpression"],
            "attribute_exists(pk)"
        );
        assert_eq!(items[1]["Put"]["Item"]["pk"]["S"], member_pk("campaign:k"));
        assert_eq!(items[1]["Put"]["Item"]["connectedAt"]["S"], CONNECTED);

        let (gone, _) = table(vec![(200, json!({}))]);
        let subscription = gone
            .subscribe(&connection().connection_id, &campaign_topic())
            .await
            .unwrap();
        assert_eq!(subscription, Subscription::Gone);
        let (racing, _) = table(vec![
            (200, record(&["partner:acme"])),
            cancelled(&["ConditionalCheckFailed", "None"]),
        ]);
        let subscription = racing
            .subscribe(&connection().connection_id, &campaign_topic())
            .await
            .unwrap();
        assert_eq!(subscription, Subscription::Gone);
    }

    #[tokio::test]
    async fn leaving_takes_the_membership_and_its_name_away_together() {
        let (table, sent) = table(vec![(200, json!({}))]);
        table
            .unsubscribe(&connection().connection_id, &campaign_topic())
            .await
            .unwrap();
        let items = sent()[0].1["TransactItems"].clone();
        assert_eq!(
            items[0]["Update"]["UpdateExpression"],
            "DELETE topics :topic"
        );
        assert_eq!(
            items[0]["Update"]["ConditionExpression"],
            "attribute_exists(pk)"
        );
        assert_eq!(
            items[1]["Delete"]["Key"]["pk"]["S"],
            member_pk("campaign:k")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn forgetting_deletes_what_was_unprocessed_and_the_record_last() {
        let left = json!({"DeleteRequest": {"Key": {"pk": {"S": "x"}, "sk": {"S": "c="}}}});
        let unprocessed = json!({"UnprocessedItems": {"T": [left.clone()]}});
        let (table, sent) = table(vec![(200, unprocessed), (200, json!({})), (200, json!({}))]);
        table.forget(&[connection()]).await.unwrap();
        let sent = sent();
        let operations: Vec<_> = sent
            .iter()
            .map(|(operation, _)| operation.as_str())
            .collect();
        assert_eq!(
            operations,
            ["BatchWriteItem", "BatchWriteItem", "DeleteItem"]
        );
        assert_eq!(sent[0].1["RequestItems"]["T"].as_array().unwrap().len(), 2);
        assert_eq!(sent[1].1["RequestItems"]["T"], json!([left]));
        assert_eq!(
            sent[2].1["Key"],
            json!({"pk": {"S": "CONN#c="}, "sk": {"S": "META"}})
        );
        assert_eq!(
            sent[2].1["ConditionExpression"],
            "attribute_not_exists(pk) OR topics = :topics"
        );
    }

    #[tokio::test]
    async fn a_topic_joined_while_forgetting_is_forgotten_too() {
        let grown = record(&["partner:acme", "campaign:k", "campaign:new"]);
        let ok = || (200, json!({}));
        let (table, sent) = table(vec![ok(), refused(), (200, grown), ok(), ok()]);
        table.forget(&[connection()]).await.unwrap();
        let sent = sent();
        let operations: Vec<_> = sent
            .iter()
            .map(|(operation, _)| operation.as_str())
            .collect();
        assert_eq!(
            operations,
            [
                "BatchWriteItem",
                "DeleteItem",
                "GetItem",
                "BatchWriteItem",
                "DeleteItem"
            ]
        );
        assert!(sent[3].1.to_string().contains(&member_pk("campaign:new")));
    }

    #[tokio::test]
    async fn many_memberships_go_in_batches_of_twenty_five() {
        let (table, sent) = table(vec![(200, json!({})), (200, json!({})), (200, json!({}))]);
        let members: Vec<_> = (0..60)
            .map(|i| ConnectionId::new(format!("c{i}")).unwrap())
            .collect();
        table
            .forget_members(&campaign_topic(), &members)
            .await
            .unwrap();
        let sizes: Vec<_> = sent()
            .iter()
            .map(|(_, body)| body["RequestItems"]["T"].as_array().unwrap().len())
            .collect();
        assert_eq!(sizes, [25, 25, 10]);
    }

    #[tokio::test]
    async fn members_are_read_consistently_behind_the_cursor() {
        let member = json!({"pk": {"S": "p"}, "sk": {"S": "d="}, "connectedAt": {"S": CONNECTED}});
        let page =
            json!({"Items": [member], "LastEvaluatedKey": {"pk": {"S": "p"}, "sk": {"S": "d="}}});
        let (table, sent) = table(vec![(200, page)]);
        let after = ConnectionId::new("c=").unwrap();
        let found = table
            .members(&campaign_topic(), 3, Some(&after), 500)
            .await
            .unwrap();
        assert_eq!(found.members[0].connected_at, connection().connected_at);
        assert_eq!(found.next, Some(ConnectionId::new("d=").unwrap()));
        let body = sent().remove(0).1;
        assert_eq!(body["KeyConditionExpression"], "pk = :pk AND sk > :after");
        assert_eq!(
            body["ExpressionAttributeValues"],
            json!({":pk": {"S": "campaign:k#3"}, ":after": {"S": "c="}})
        );
        assert_eq!(
            (&body["ConsistentRead"], &body["Limit"]),
            (&json!(true), &json!(500))
        );
    }
}
