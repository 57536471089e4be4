//! Announcements' progress in the Campaigns table: `BROADCAST#<id>`/`REPORT` and `BROADCAST#<id>`/`PAGE#<n>`.

use aws_sdk_dynamodb::{Client, types::AttributeValue};

use crate::{
    Announcement, BroadcastId, ConnectionId, FanOut, FanOutRecords, PageProgress, PageStep,
    PortError, REPORT_SECONDS, ReportRecord, StepOutcome, Timestamp,
    aws::{
        Aws,
        error::port_error,
        item::{Item, key, number, record, text, ttl},
    },
};

/// [`FanOutRecords`] on DynamoDB.
#[derive(Clone, Debug)]
pub struct DynamoFanOut {
    client: Client,
    table: String,
}

impl DynamoFanOut {
    /// On the Campaigns table.
    pub fn new(aws: &Aws, table: String) -> Self {
        Self {
            client: aws.dynamo(),
            table,
        }
    }

    async fn read(&self, operation: &'static str, key: Item) -> Result<Option<Item>, PortError> {
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .consistent_read(true);
        Ok(request
            .send()
            .await
            .map_err(|error| port_error(operation, error))?
            .item)
    }
}

impl FanOutRecords for DynamoFanOut {
    async fn begin(
        &self,
        announcement: &Announcement,
        now: Timestamp,
    ) -> Result<FanOut, PortError> {
        const OPERATION: &str = "begin the announcement";
        let report = ReportRecord {
            partner_id: announcement.partner_id.clone(),
            topic: announcement.topic.clone(),
            kind: Some(announcement.kind),
            created_at: now,
            fanned_out: false,
        };
        let mut item = record(OPERATION, report_key(&announcement.broadcast_id), &report)?;
        item.insert("ttl".into(), lifetime(now));
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item));
        match request
            .condition_expression("attribute_not_exists(pk)")
            .send()
            .await
        {
            Ok(_) => return Ok(FanOut::Pending),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_conditional_check_failed_exception()) => {}
            Err(error) => return Err(port_error(OPERATION, error)),
        }
        let standing = self
            .read(OPERATION, report_key(&announcement.broadcast_id))
            .await?;
        let is_complete = standing.is_some_and(|item| flag(&item, "fannedOut"));
        Ok(if is_complete {
            FanOut::Complete
        } else {
            FanOut::Pending
        })
    }

    async fn complete(&self, id: &BroadcastId) -> Result<(), PortError> {
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(report_key(id)));
        let request = request
            .update_expression("SET fannedOut = :yes")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":yes", AttributeValue::Bool(true));
        request
            .send()
            .await
            .map(|_| ())
            .map_err(|error| port_error("complete the announcement", error))
    }

    async fn progress(&self, id: &BroadcastId, shard: u16) -> Result<PageProgress, PortError> {
        const OPERATION: &str = "read the page's progress";
        let Some(item) = self.read(OPERATION, page_key(id, shard)).await? else {
            return Ok(PageProgress::default());
        };
        let cursor = attribute(&item, "cursor")
            .map(ConnectionId::new)
            .transpose();
        let cursor = cursor.map_err(|error| PortError::reject(OPERATION, error))?;
        Ok(PageProgress {
            cursor,
            done: flag(&item, "done"),
        })
    }

    async fn step(&self, step: &PageStep) -> Result<StepOutcome, PortError> {
        const OPERATION: &str = "commit the page's step";
        let mut set =
            "SET #done = :done, #run = :run, #startedAt = if_not_exists(#startedAt, :startedAt), \
                       #ttl = if_not_exists(#ttl, :ttl)"
                .to_owned();
        let mut request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(page_key(&step.broadcast_id, step.shard)))
            .expression_attribute_values(":done", AttributeValue::Bool(step.done))
            .expression_attribute_values(":run", text(step.run.to_string()))
            .expression_attribute_values(":startedAt", text(step.started_at.to_string()))
            .expression_attribute_values(":ttl", lifetime(step.started_at))
            .expression_attribute_values(":seen", number(step.sent + step.gone + step.failed))
            .expression_attribute_values(":sent", number(step.sent))
            .expression_attribute_values(":gone", number(step.gone))
            .expression_attribute_values(":failed", number(step.failed));
        // Several of the names are reserved words.
        for name in [
            "cursor",
            "done",
            "run",
            "startedAt",
            "ttl",
            "seen",
            "sent",
            "gone",
            "failed",
        ] {
            request = request.expression_attribute_names(format!("#{name}"), name);
        }
        if let Some(to) = &step.to {
            set += ", #cursor = :to";
            request = request.expression_attribute_values(":to", text(to.as_str()));
        }
        if step.done {
            set += ", #finishedAt = :at";
            request = request
                .expression_attribute_names("#finishedAt", "finishedAt")
                .expression_attribute_values(":at", text(step.at.to_string()));
        }
        request = match &step.from {
            Some(from) => request
                .condition_expression("#cursor = :from")
                .expression_attribute_values(":from", text(from.as_str())),
            None => request.condition_expression("attribute_not_exists(#cursor)"),
        };
        let add = " ADD #seen :seen, #sent :sent, #gone :gone, #failed :failed";
        match request.update_expression(set + add).send().await {
            Ok(_) => return Ok(StepOutcome::Committed),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_conditional_check_failed_exception()) => {}
            Err(error) => return Err(port_error(OPERATION, error)),
        }
        // Our own step whose answer was lost, repeated by the SDK, is refused as well.
        let standing = self
            .read(OPERATION, page_key(&step.broadcast_id, step.shard))
            .await?
            .unwrap_or_default();
        let is_ours = attribute(&standing, "run") == Some(&step.run.to_string());
        let stands_at_end =
            attribute(&standing, "cursor") == step.to.as_ref().map(ConnectionId::as_str);
        Ok(if is_ours && stands_at_end {
            StepOutcome::Committed
        } else {
            StepOutcome::Overtaken
        })
    }
}

fn report_key(id: &BroadcastId) -> Item {
    key(format!("BROADCAST#{id}"), "REPORT")
}

fn page_key(id: &BroadcastId, shard: u16) -> Item {
    key(format!("BROADCAST#{id}"), format!("PAGE#{shard}"))
}

fn lifetime(from: Timestamp) -> AttributeValue {
    ttl(from.plus_seconds(REPORT_SECONDS))
}

fn attribute<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)
        .and_then(|value| value.as_s().ok())
        .map(String::as_str)
}

fn flag(item: &Item, name: &str) -> bool {
    item.get(name)
        .and_then(|value| value.as_bool().ok())
        .copied()
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        AnnouncementKind, FrameBody, PartnerId, ServerFrame, Topic,
        aws::replay::{replay, requests},
    };

    fn table(responses: Vec<(u16, Value)>) -> (DynamoFanOut, impl Fn() -> Vec<(String, Value)>) {
        let (aws, client) = replay(&responses);
        (DynamoFanOut::new(&aws, "T".into()), move || {
            requests(&client)
        })
    }

    fn refused() -> (u16, Value) {
        (
            400,
            json!({"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"}),
        )
    }

    fn announcement() -> Announcement {
        let partner_id = PartnerId::new("acme").unwrap();
        Announcement {
            broadcast_id: BroadcastId::new("b").unwrap(),
            topic: Topic::Partner(partner_id.clone()),
            partner_id,
            kind: AnnouncementKind::Message,
            frame: ServerFrame {
                id: "b".into(),
                body: FrameBody::Pong,
            },
            due_at: None,
            void_at: None,
        }
    }

    fn step(from: Option<&str>, to: Option<&str>) -> PageStep {
        let id = |text: &str| ConnectionId::new(text).unwrap();
        PageStep {
            broadcast_id: BroadcastId::new("b").unwrap(),
            shard: 3,
            run: 7,
            from: from.map(id),
            to: to.map(id),
            sent: 5,
            gone: 2,
            failed: 1,
            done: true,
            started_at: Timestamp::EPOCH,
            at: Timestamp::EPOCH.plus_seconds(1),
        }
    }

    #[tokio::test]
    async fn an_announcement_is_opened_once_and_fanned_out_until_the_record_says_so() {
        let (fresh, sent) = table(vec![(200, json!({}))]);
        assert_eq!(
            fresh
                .begin(&announcement(), Timestamp::EPOCH)
                .await
                .unwrap(),
            FanOut::Pending
        );
        let body = sent().remove(0).1;
        assert_eq!(body["ConditionExpression"], "attribute_not_exists(pk)");
        let item = json!({
            "pk": {"S": "BROADCAST#b"}, "sk": {"S": "REPORT"}, "partnerId": {"S": "acme"},
            "topic": {"S": "partner:acme"}, "kind": {"S": "message"}, "createdAt": {"S": "1970-01-01T00:00:00.000Z"},
            "fannedOut": {"BOOL": false}, "ttl": {"N": "604800"},
        });
        assert_eq!(body["Item"], item);
        for (fanned_out, state) in [(false, FanOut::Pending), (true, FanOut::Complete)] {
            let standing = json!({"Item": {"fannedOut": {"BOOL": fanned_out}}});
            let (standing, _) = table(vec![refused(), (200, standing)]);
            assert_eq!(
                standing
                    .begin(&announcement(), Timestamp::EPOCH)
                    .await
                    .unwrap(),
                state
            );
        }
    }

    #[tokio::test]
    async fn a_step_moves_the_cursor_and_adds_its_counts_in_one_write() {
        let (table, sent) = table(vec![(200, json!({}))]);
        assert_eq!(
            table.step(&step(Some("a"), Some("z"))).await.unwrap(),
            StepOutcome::Committed
        );
        let (operation, body) = sent().remove(0);
        assert_eq!(operation, "UpdateItem");
        assert_eq!(
            body["Key"],
            json!({"pk": {"S": "BROADCAST#b"}, "sk": {"S": "PAGE#3"}})
        );
        assert_eq!(body["ConditionExpression"], "#cursor = :from");
        let update = "SET #done = :done, #run = :run, #startedAt = if_not_exists(#startedAt, :startedAt), \
                      #ttl = if_not_exists(#ttl, :ttl), #cursor = :to, #finishedAt = :at \
                      ADD #seen :seen, #sent :sent, #gone :gone, #failed :failed";
        assert_eq!(body["UpdateExpression"], update);
        let values = &body["ExpressionAttributeValues"];
        assert_eq!(
            (&values[":from"]["S"], &values[":to"]["S"]),
            (&json!("a"), &json!("z"))
        );
        assert_eq!(values[":seen"]["N"], "8");
    }

    #[tokio::test]
    async fn every_name_and_value_of_a_step_is_used() {
        // DynamoDB refuses an expression with one too many.
        for (from, to) in [(None, None), (None, Some("z")), (Some("a"), Some("a"))] {
            let (table, sent) = table(vec![(200, json!({}))]);
            table.step(&step(from, to)).await.unwrap();
            let body = sent().remove(0).1;
            let text = |name: &str| body[name].as_str().unwrap().to_owned();
            let expressions = text("UpdateExpression") + " " + &text("ConditionExpression");
            let is_word = |c: char| c.is_alphanumeric() || c == '#' || c == ':';
            let used: std::collections::BTreeSet<&str> = expressions
                .split(|c| !is_word(c))
                .filter(|word| word.starts_with(['#', ':']))
                .collect();
            let keys = |name: &str| {
                body[name]
                    .as_object()
                    .unwrap()
                    .keys()
                    .cloned()
                    .collect::<Vec<_>>()
            };
            let named = [
                keys("ExpressionAttributeNames"),
                keys("ExpressionAttributeValues"),
            ]
            .concat();
            assert_eq!(
                named
                    .iter()
                    .map(String::as_str)
                    .collect::<std::collections::BTreeSet<_>>(),
                used
            );
        }
    }

    #[tokio::test]
    async fn a_first_step_needs_an_untouched_page_and_a_lost_answer_is_recognized() {
        let standing = |run: &str, cursor: &str| {
            (
                200,
                json!({"Item": {"run": {"S": run}, "cursor": {"S": cursor}}}),
            )
        };
        for (run, cursor, outcome) in [
            ("7", "z", StepOutcome::Committed),
            ("8", "z", StepOutcome::Overtaken),
            ("7", "y", StepOutcome::Overtaken),
        ] {
            let (table, sent) = table(vec![refused(), standing(run, cursor)]);
            assert_eq!(
                table.step(&step(None, Some("z"))).await.unwrap(),
                outcome,
                "{run} {cursor}"
            );
            assert_eq!(
                sent()[0].1["ConditionExpression"],
                "attribute_not_exists(#cursor)"
            );
        }
    }
}
