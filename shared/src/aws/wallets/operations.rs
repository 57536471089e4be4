//! The memory of operations: `<partnerId>#<key's hash>` / `OP#<key's hash>`, in progress under a lease or ended with an
//! answer. An attempt ends its operation in the transaction that does its work, only while it holds the lease.

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::{put_item::PutItemError, update_item::UpdateItemError},
    types::{ReturnValuesOnConditionCheckFailure as OnFailure, Update, builders::UpdateBuilder},
};
use serde::Deserialize;

use super::DynamoWallets;
use crate::aws::error::port_error;
use crate::aws::item::{Item, key, number, read, text, ttl};
use crate::{
    Begin, LEASE_SECONDS, OPERATION_SECONDS, Operation, OperationAnswer, Operations, PortError,
    Refusal, Timestamp,
};

const BEGIN: &str = "begin the operation";
const END: &str = "end the operation";
const IN_PROGRESS: &str = "in_progress";
/// Nothing stands under the key, or nothing that still counts, or an attempt at the same request that died.
const FREE: &str = "attribute_not_exists(pk) OR #ttl <= :now OR \
     (requestSha256 = :request AND #status = :inProgress AND leaseUntil <= :nowMillis)";
/// The attempt has not been taken over, and has not ended.
const HELD: &str = "#status = :inProgress AND attempt = :attempt";

fn operation_key(operation: &Operation) -> Item {
    let Operation {
        partner_id,
        key_sha256,
        ..
    } = operation;
    key(
        format!("{partner_id}#{key_sha256}"),
        format!("OP#{key_sha256}"),
    )
}

/// The end of an operation, as an update on its own or in a transaction.
pub(super) struct Ending {
    key: Item,
    update: String,
    names: Vec<(String, String)>,
    values: Item,
}

/// Ends the operation with this answer, if the attempt still holds it.
pub(super) fn ending(operation: &Operation, answer: &OperationAnswer) -> Result<Ending, PortError> {
    let said: Item =
        serde_dynamo::to_item(answer).map_err(|error| PortError::reject(END, error))?;
    let mut said: Vec<_> = said.into_iter().collect();
    said.sort_by(|a, b| a.0.cmp(&b.0));
    let mut update = "SET #status = :finished".to_owned();
    let mut values = held(operation);
    values.insert(":finished".to_owned(), text("finished"));
    for (name, value) in said {
        update.push_str(&format!(", {name} = :{name}"));
        values.insert(format!(":{name}"), value);
    }
    update.push_str(" REMOVE leaseUntil");
    Ok(Ending {
        key: operation_key(operation),
        update,
        names: vec![("#status".to_owned(), "status".to_owned())],
        values,
    })
}

fn held(operation: &Operation) -> Item {
    Item::from([
        (":inProgress".to_owned(), text(IN_PROGRESS)),
        (":attempt".to_owned(), text(attempt_text(operation))),
    ])
}

fn attempt_text(operation: &Operation) -> String {
    format!("{:032x}", operation.attempt)
}

impl Ending {
    pub(super) fn into_update(self) -> UpdateBuilder {
        Update::builder()
            .set_key(Some(self.key))
            .update_expression(self.update)
            .condition_expression(HELD)
            .set_expression_attribute_names(Some(self.names.into_iter().collect()))
            .set_expression_attribute_values(Some(self.values))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperationItem {
    status: String,
    request_sha256: String,
    attempt: String,
    #[serde(flatten)]
    answer: Option<OperationAnswer>,
}

/// What the item under the key says to this attempt.
fn standing(operation: &Operation, item: Item) -> Result<Begin, PortError> {
    let item: OperationItem = read(BEGIN, item)?;
    if item.request_sha256 != operation.request_sha256 {
        return Ok(Begin::Mismatch);
    }
    if item.status != IN_PROGRESS {
        let answer = item.answer.map(Begin::Answered);
        return answer
            .ok_or_else(|| PortError::reject(BEGIN, "the operation ended without an answer"));
    }
    // Stored by an earlier try of this very call, whose answer was lost.
    Ok(if item.attempt == attempt_text(operation) {
        Begin::Begun
    } else {
        Begin::InProgress
    })
}

impl Operations for DynamoWallets {
    async fn begin(&self, operation: &Operation, now: Timestamp) -> Result<Begin, PortError> {
        let mut item = operation_key(operation);
        item.insert("status".into(), text(IN_PROGRESS));
        item.insert("requestSha256".into(), text(&operation.request_sha256));
        item.insert("attempt".into(), text(attempt_text(operation)));
        let lease_until = now.plus_seconds(LEASE_SECONDS);
        item.insert("leaseUntil".into(), number(lease_until.millis()));
        item.insert("ttl".into(), ttl(now.plus_seconds(OPERATION_SECONDS)));
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(FREE)
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":now", ttl(now))
            .expression_attribute_values(":request", text(&operation.request_sha256))
            .expression_attribute_values(":inProgress", text(IN_PROGRESS))
            .expression_attribute_values(":nowMillis", number(now.millis()))
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        let Err(error) = request.send().await else {
            return Ok(Begin::Begun);
        };
        let old = match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => failed.item().cloned(),
            _ => None,
        };
        old.map_or_else(
            || Err(port_error(BEGIN, error)),
            |item| standing(operation, item),
        )
    }

    async fn standing(
        &self,
        operation: &Operation,
        now: Timestamp,
    ) -> Result<Option<Begin>, PortError> {
        const OPERATION: &str = "read the operation";
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(operation_key(operation)));
        let output = request
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| port_error(OPERATION, error))?;
        let end = |item: &Item, name: &str| {
            let end = item.get(name).and_then(|end| end.as_n().ok());
            end.and_then(|end| end.parse::<i64>().ok())
        };
        // An item past its TTL may linger for days; it no longer counts.
        let counts = |item: &Item| end(item, "ttl").is_none_or(|end| now.epoch_seconds() < end);
        let Some(item) = output.item.filter(counts) else {
            return Ok(None);
        };
        let is_abandoned = end(&item, "leaseUntil").is_some_and(|end| end <= now.millis());
        let standing = standing(operation, item)?;
        let is_attempt = matches!(standing, Begin::Begun | Begin::InProgress);
        Ok((!is_attempt || !is_abandoned).then_some(standing))
    }

    async fn refuse(&self, operation: &Operation, refusal: Refusal) -> Result<Begin, PortError> {
        let answer = OperationAnswer::Refused { refusal };
        let Ending {
            key,
            update,
            names,
            values,
        } = ending(operation, &answer)?;
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .update_expression(update)
            .condition_expression(HELD)
            .set_expression_attribute_names(Some(names.into_iter().collect()))
            .set_expression_attribute_values(Some(values))
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        match request.send().await {
            Ok(_) => Ok(Begin::Answered(answer)),
            Err(error) => match refused_by(&error) {
                Some(Some(item)) => standing(operation, item),
                _ => Err(port_error(END, error)),
            },
        }
    }

    async fn release(&self, operation: &Operation) -> Result<(), PortError> {
        const OPERATION: &str = "release the operation";
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(operation_key(operation)))
            .update_expression("SET leaseUntil = :ended")
            .condition_expression(HELD)
            .expression_attribute_names("#status", "status")
            .set_expression_attribute_values(Some(held(operation)))
            .expression_attribute_values(":ended", number(0));
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) if refused_by(&error).is_some() => Ok(()),
            Err(error) => Err(port_error(OPERATION, error)),
        }
    }
}

/// Whether the condition did not hold, and the item that stands if it came along.
fn refused_by<R>(error: &SdkError<UpdateItemError, R>) -> Option<Option<Item>> {
    match error.as_service_error()? {
        UpdateItemError::ConditionalCheckFailedException(failed) => Some(failed.item().cloned()),
        _ => None,
    }
}
