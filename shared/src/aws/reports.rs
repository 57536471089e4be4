//! Announcements' progress in the Campaigns table: `BROADCAST#<id>`/`REPORT` and `BROADCAST#<id>`/`PAGE#<n>`.

use aws_sdk_dynamodb::{Client, types::AttributeValue};

use crate::{
    Announcement, BroadcastId, ConnectionId, FanOut, FanOutRecords, PageProgress, PageStep, PortError, REPORT_SECONDS,
    ReportRecord, StepOutcome, Timestamp,
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
        Self { client: aws.dynamo(), table }
    }

    async fn read(&self, operation: &'static str, key: Item) -> Result<Option<Item>, PortError> {
        let request = self.client.get_item().table_name(&self.table).set_key(Some(key)).consistent_read(true);
        Ok(request.send().await.map_err(|error| port_error(operation, error))?.item)
    }
}

impl FanOutRecords for DynamoFanOut {
    async fn begin(&self, announcement: &Announcement, now: Timestamp) -> Result<FanOut, PortError> {
        const OPERATION: &str = "begin the announcement";
        let report = ReportRecord {
            partner_id: announcement.partner_id.clone(),
            topic: announcement.topic.clone(),
            kind: Some(announcement.kind),
            body_sha256: None,
            created_at: now,
            fanned_out: false,
        };
        let mut item = record(OPERATION, report_key(&announcement.broadcast_id), &report)?;
        item.insert("ttl".into(), lifetime(now));
        let request = self.client.put_item().table_name(&self.table).set_item(Some(item));
        match request.condition_expression("attribute_not_exists(pk)").send().await {
            Ok(_) => return Ok(FanOut::Pending),
            Err(error) if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => {}
            Err(error) => return Err(port_error(OPERATION, error)),
        }
        let standing = self.read(OPERATION, report_key(&announcement.broadcast_id)).await?;
        let is_complete = standing.is_some_and(|item| flag(&item, "fannedOut"));
        Ok(if is_complete { FanOut::Complete } else { FanOut::Pending })
    }

    async fn complete(&self, id: &BroadcastId) -> Result<(), PortError> {
        let request = self.client.update_item().table_name(&self.table).set_key(Some(report_key(id)));
        let request = request
            .update_expression("SET fannedOut = :yes")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":yes", AttributeValue::Bool(true));
        request.send().await.map(|_| ()).map_err(|error| port_error("complete the announcement", error))
    }

    async fn progress(&self, id: &BroadcastId, shard: u16) -> Result<PageProgress, PortError> {
        const OPERATION: &str = "read the page's progress";
        let Some(item) = self.read(OPERATION, page_key(id, shard)).await? else { return Ok(PageProgress::default()) };
        let cursor = attribute(&item, "cursor").map(ConnectionId::new).transpose();
        let cursor = cursor.map_err(|error| PortError::reject(OPERATION, error))?;
        Ok(PageProgress { cursor, done: flag(&item, "done") })
    }

    async fn step(&self, step: &PageStep) -> Result<StepOutcome, PortError> {
        const OPERATION: &str = "commit the page's step";
        let mut set = "SET #done = :done, #run = :run, #startedAt = if_not_exists(#startedAt, :startedAt), \
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
        for name in ["cursor", "done", "run", "startedAt", "ttl", "seen", "sent", "gone", "failed"] {
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
            Err(error) if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => {}
            Err(error) => return Err(port_error(OPERATION, error)),
        }
        // Our own step whose answer was lost, repeated by the SDK, is refused as well.
        let standing = self.read(OPERATION, page_key(&step.broadcast_id, step.shard)).await?.unwrap_or_default();
        let is_ours = attribute(&standing, "run") == Some(&step.run.to_string());
        let stands_at_end = attribute(&standing, "cursor") == step.to.as_ref().map(ConnectionId::as_str);
        Ok(if is_ours && stands_at_end { StepOutcome::Committed } else { StepOutcome::Overtaken })
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
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str)
}

fn flag(item: &Item, name: &str) -> bool {
    item.get(name).and_then(|value| value.as_bool().ok()).copied().unwrap_or(false)
}
