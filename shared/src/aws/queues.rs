//! The queues: claims in, answers and broadcast jobs out, and claims put back for later.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, SendMessageBatchRequestEntry};
use futures_util::future::join_all;
use serde::Serialize;

use super::Aws;
use super::error::port_error;
use crate::{
    BroadcastJob, BroadcastOutbox, Claim, ClaimMessage, ClaimOutbox, DeliveryJob, DeliveryOutbox,
    MAX_JOB_BYTES, PortError,
};

/// Messages in one batch call (SQS).
const BATCH: usize = 10;
/// How often the failed entries of a batch are sent again.
const TRIES: u32 = 4;

#[derive(Clone, Debug)]
struct Queue {
    client: Client,
    url: String,
}

impl Queue {
    fn new(aws: &Aws, url: String) -> Self {
        Self {
            client: aws.sqs(),
            url,
        }
    }

    async fn send<T: Serialize>(
        &self,
        operation: &'static str,
        message: &T,
        group: Option<&str>,
    ) -> Result<(), PortError> {
        let body = encode(operation, message)?;
        let request = self
            .client
            .send_message()
            .queue_url(&self.url)
            .message_body(body);
        let sent = request
            .set_message_group_id(group.map(str::to_owned))
            .send()
            .await;
        sent.map(drop).map_err(|error| port_error(operation, error))
    }
}

fn encode<T: Serialize>(operation: &'static str, message: &T) -> Result<String, PortError> {
    serde_json::to_string(message).map_err(|error| PortError::reject(operation, error))
}

/// ClaimsQueue, for those who send to it.
#[derive(Clone, Debug)]
pub struct SqsClaims(Queue);

impl SqsClaims {
    /// On this queue.
    pub fn new(aws: &Aws, url: String) -> Self {
        Self(Queue::new(aws, url))
    }
}

impl ClaimOutbox for SqsClaims {
    async fn enqueue(&self, claim: &Claim) -> Result<(), PortError> {
        // The group makes the queue fair: one hot campaign does not hold up the others.
        self.0
            .send(
                "send the claim",
                &ClaimMessage::from(claim),
                Some(claim.campaign_id.as_str()),
            )
            .await
    }
}

/// DeliveriesQueue.
#[derive(Clone, Debug)]
pub struct SqsDeliveries(Queue);

impl SqsDeliveries {
    /// On this queue.
    pub fn new(aws: &Aws, url: String) -> Self {
        Self(Queue::new(aws, url))
    }
}

impl DeliveryOutbox for SqsDeliveries {
    async fn deliver(&self, job: &DeliveryJob) -> Result<(), PortError> {
        const OPERATION: &str = "send the answers";
        let bytes = encode(OPERATION, job)?.len();
        if bytes > MAX_JOB_BYTES {
            return Err(PortError::reject(
                OPERATION,
                format!("{bytes} bytes are more than {MAX_JOB_BYTES}"),
            ));
        }
        self.0.send(OPERATION, job, None).await
    }
}

/// BroadcastQueue.
#[derive(Clone, Debug)]
pub struct SqsBroadcasts(Queue);

impl SqsBroadcasts {
    /// On this queue.
    pub fn new(aws: &Aws, url: String) -> Self {
        Self(Queue::new(aws, url))
    }

    async fn send_batch(&self, jobs: &[(BroadcastJob, u16)]) -> Result<(), PortError> {
        const OPERATION: &str = "send the broadcast jobs";
        let mut entries = Vec::with_capacity(jobs.len());
        for (index, (job, delay)) in jobs.iter().enumerate() {
            let entry = SendMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .message_body(encode(OPERATION, job)?)
                .delay_seconds(i32::from(*delay))
                .build()
                .map_err(|error| PortError::reject(OPERATION, error))?;
            entries.push(entry);
        }
        for tries in 0..TRIES {
            let request = self.0.client.send_message_batch().queue_url(&self.0.url);
            let output = request
                .set_entries(Some(entries.clone()))
                .send()
                .await
                .map_err(|error| port_error(OPERATION, error))?;
            entries.retain(|entry| {
                output
                    .failed()
                    .iter()
                    .any(|failed| failed.id() == entry.id())
            });
            if entries.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=50 << tries))).await;
        }
        Err(PortError::retry(OPERATION, "entries of the batch failed"))
    }
}

impl BroadcastOutbox for SqsBroadcasts {
    async fn send(&self, jobs: &[(BroadcastJob, u16)]) -> Result<(), PortError> {
        for batch in jobs.chunks(BATCH) {
            self.send_batch(batch).await?;
        }
        Ok(())
    }
}

/// ClaimsQueue, for the worker: sets when a message that was not decided comes back.
#[derive(Clone, Debug)]
pub struct SqsReturns(Queue);

impl SqsReturns {
    /// On this queue.
    pub fn new(aws: &Aws, url: String) -> Self {
        Self(Queue::new(aws, url))
    }
}

impl crate::ClaimReturns for SqsReturns {
    async fn come_back(&self, returns: &[(String, u16)]) -> Result<(), PortError> {
        const OPERATION: &str = "set when claims come back";
        let calls = returns.chunks(BATCH).map(|batch| async move {
            let mut request = self
                .0
                .client
                .change_message_visibility_batch()
                .queue_url(&self.0.url);
            for (index, (receipt, seconds)) in batch.iter().enumerate() {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(receipt)
                    .visibility_timeout(i32::from(*seconds))
                    .build()
                    .map_err(|error| PortError::reject(OPERATION, error))?;
                request = request.entries(entry);
            }
            request
                .send()
                .await
                .map(drop)
                .map_err(|error| port_error(OPERATION, error))
        });
        join_all(calls).await.into_iter().collect()
    }
}
