//! The queues: claims in, answers and broadcast jobs out, and claims put back for later.

use aws_sdk_sqs::Client;
use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::Aws;
use super::error::port_error;
use crate::{
    BroadcastJob, BroadcastOutbox, Claim, ClaimMessage, ClaimOutbox, ClaimReturns, DeliveryJob,
    DeliveryOutbox, MAX_JOB_BYTES, PortError,
};

/// Calls in flight at once where there are many.
const CALLS_AT_ONCE: usize = 10;

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
}

impl BroadcastOutbox for SqsBroadcasts {
    async fn send(&self, jobs: &[(BroadcastJob, u16)]) -> Result<(), PortError> {
        const OPERATION: &str = "send the broadcast jobs";
        let calls: Vec<_> = jobs
            .iter()
            .map(|(job, delay)| async move {
                let body = encode(OPERATION, job)?;
                let request = self.0.client.send_message().queue_url(&self.0.url);
                let request = request.message_body(body).delay_seconds(i32::from(*delay));
                request
                    .send()
                    .await
                    .map(drop)
                    .map_err(|error| port_error(OPERATION, error))
            })
            .collect();
        at_once(calls).await
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

impl ClaimReturns for SqsReturns {
    async fn come_back(&self, returns: &[(String, u16)]) -> Result<(), PortError> {
        const OPERATION: &str = "set when claims come back";
        let calls: Vec<_> = returns
            .iter()
            .map(|(receipt, seconds)| async move {
                let request = self
                    .0
                    .client
                    .change_message_visibility()
                    .queue_url(&self.0.url);
                let request = request
                    .receipt_handle(receipt)
                    .visibility_timeout(i32::from(*seconds));
                request
                    .send()
                    .await
                    .map(drop)
                    .map_err(|error| port_error(OPERATION, error))
            })
            .collect();
        at_once(calls).await
    }
}

/// Carries out all of these calls, [`CALLS_AT_ONCE`] at a time, and tells the first failure once all have ended. Single
/// calls, not batches: on AWS both need the same right, but the local AWS wants one that AWS does not know.
async fn at_once(calls: Vec<impl Future<Output = Result<(), PortError>>>) -> Result<(), PortError> {
    let ended: Vec<_> = stream::iter(calls)
        .buffer_unordered(CALLS_AT_ONCE)
        .collect()
        .await;
    ended.into_iter().collect()
}
