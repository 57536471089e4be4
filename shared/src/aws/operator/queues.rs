//! The queues: their depths, messages as a producer sends them, and what has died.

use std::collections::HashMap;

use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};

use super::{Operator, OperatorError};
pub use crate::Queue;

/// The most entries of one SendMessageBatch or ReceiveMessage (SQS quota).
pub(super) const QUEUE_BATCH: usize = 10;
/// How long a dead letter that somebody else waits for stays hidden after we have looked at it, in seconds.
const PEEK_SECONDS: i32 = 2;

/// How many messages a queue holds, as SQS counts them (approximately).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Waiting to be received.
    pub visible: u64,
    /// Received, not yet deleted.
    pub in_flight: u64,
    /// Not yet due.
    pub delayed: u64,
}

impl QueueDepth {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}

/// A message to be put on a queue as it is, well-formed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    /// `MessageGroupId`: the campaign, for fairness between campaigns.
    pub group: String,
    /// The body.
    pub body: String,
}

impl Operator {
    /// How much a queue holds.
    ///
    /// # Errors
    /// [`OperatorError`] if the call fails.
    pub async fn depth(&self, queue: Queue) -> Result<QueueDepth, OperatorError> {
        self.depth_at(self.url(queue)).await
    }

    /// How much a queue's dead-letter queue holds.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or the queue has no dead-letter queue.
    pub async fn dead_letters(&self, queue: Queue) -> Result<QueueDepth, OperatorError> {
        self.depth_at(&self.dead_letter_url(queue).await?).await
    }

    /// Takes those messages out of the claims' dead-letter queue whose bodies hold `marker`; the others reappear after
    /// 2 s. Returns the bodies; looks once through what is there now.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails.
    pub async fn take_dead_claims(&self, marker: &str) -> Result<Vec<String>, OperatorError> {
        let url = &self.stack.claims_dead_letter_queue_url;
        let mut taken = Vec::new();
        loop {
            let receive = self
                .sqs
                .receive_message()
                .queue_url(url)
                .max_number_of_messages(QUEUE_BATCH as i32);
            let received = receive.visibility_timeout(PEEK_SECONDS).send().await;
            let messages = received
                .map_err(|error| self.failed("receive dead letters", error))?
                .messages
                .unwrap_or_default();
            if messages.is_empty() {
                return Ok(taken);
            }
            for message in messages {
                if let Some(body) = message.body.filter(|body| body.contains(marker)) {
                    let delete = self
                        .sqs
                        .delete_message()
                        .queue_url(url)
                        .set_receipt_handle(message.receipt_handle);
                    delete
                        .send()
                        .await
                        .map_err(|error| self.failed("delete a dead letter", error))?;
                    taken.push(body);
                }
            }
        }
    }

    /// Puts messages on a queue as a producer would, ten at a time.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or the queue refuses a message; those before it are on the queue.
    pub async fn send(&self, queue: Queue, messages: &[RawMessage]) -> Result<(), OperatorError> {
        self.send_to(self.url(queue), messages).await
    }

    pub(super) async fn send_to(
        &self,
        url: &str,
        messages: &[RawMessage],
    ) -> Result<(), OperatorError> {
        const OPERATION: &str = "send messages";
        for batch in messages.chunks(QUEUE_BATCH) {
            let mut call = self.sqs.send_message_batch().queue_url(url);
            for (position, message) in batch.iter().enumerate() {
                let entry = SendMessageBatchRequestEntry::builder()
                    .id(position.to_string())
                    .message_body(&message.body)
                    .message_group_id(&message.group)
                    .build();
                let unbuilt = |error| OperatorError::Call {
                    operation: OPERATION,
                    message: format!("{error}"),
                };
                call = call.entries(entry.map_err(unbuilt)?);
            }
            let sent = call
                .send()
                .await
                .map_err(|error| self.failed(OPERATION, error))?;
            if let Some(refused) = sent.failed.first() {
                let message = format!(
                    "{} {}",
                    refused.code,
                    refused.message.as_deref().unwrap_or_default()
                );
                return Err(OperatorError::Call {
                    operation: OPERATION,
                    message,
                });
            }
        }
        Ok(())
    }

    pub(super) fn url(&self, queue: Queue) -> &str {
        match queue {
            Queue::Claims => &self.stack.claims_queue_url,
            Queue::Deliveries => &self.stack.deliveries_queue_url,
            Queue::Broadcast => &self.stack.broadcast_queue_url,
        }
    }

    /// The URL of a queue's dead-letter queue.
    pub(super) async fn dead_letter_url(&self, queue: Queue) -> Result<String, OperatorError> {
        match queue {
            Queue::Claims => Ok(self.stack.claims_dead_letter_queue_url.clone()),
            Queue::Deliveries | Queue::Broadcast => self.redrive_target(self.url(queue)).await,
        }
    }

    pub(super) async fn depth_at(&self, url: &str) -> Result<QueueDepth, OperatorError> {
        use QueueAttributeName::{
            ApproximateNumberOfMessages as Visible, ApproximateNumberOfMessagesDelayed as Delayed,
            ApproximateNumberOfMessagesNotVisible as InFlight,
        };
        let names = [Visible, InFlight, Delayed];
        let attributes = self.queue_attributes(url, &names).await?;
        let [visible, in_flight, delayed] = names.map(|name| {
            attributes
                .get(&name)
                .and_then(|text| text.parse().ok())
                .unwrap_or_default()
        });
        Ok(QueueDepth {
            visible,
            in_flight,
            delayed,
        })
    }

    /// The URL of the queue that a queue's redrive policy names.
    async fn redrive_target(&self, url: &str) -> Result<String, OperatorError> {
        let missing = || OperatorError::MissingDeadLetterQueue(url.to_owned());
        let attributes = self
            .queue_attributes(url, &[QueueAttributeName::RedrivePolicy])
            .await?;
        let policy = attributes
            .get(&QueueAttributeName::RedrivePolicy)
            .ok_or_else(missing)?;
        let name = dead_letter_queue_name(policy).ok_or_else(missing)?;
        let found = self.sqs.get_queue_url().queue_name(name).send().await;
        found
            .map_err(|error| self.failed("find a dead-letter queue", error))?
            .queue_url
            .ok_or_else(missing)
    }

    async fn queue_attributes(
        &self,
        url: &str,
        names: &[QueueAttributeName],
    ) -> Result<HashMap<QueueAttributeName, String>, OperatorError> {
        let call = self
            .sqs
            .get_queue_attributes()
            .queue_url(url)
            .set_attribute_names(Some(names.to_vec()));
        let answer = call
            .send()
            .await
            .map_err(|error| self.failed("read a queue's attributes", error))?;
        Ok(answer.attributes.unwrap_or_default())
    }
}

/// The name of the queue that a redrive policy names by ARN.
fn dead_letter_queue_name(redrive_policy: &str) -> Option<String> {
    let policy: serde_json::Value = serde_json::from_str(redrive_policy).ok()?;
    policy
        .get("deadLetterTargetArn")?
        .as_str()?
        .rsplit(':')
        .next()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_letter_queue_is_the_one_of_the_redrive_policy() {
        let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":"10"}"#;
        assert_eq!(dead_letter_queue_name(policy).as_deref(), Some("dead"));
        assert_eq!(dead_letter_queue_name("{}"), None);
    }
}
