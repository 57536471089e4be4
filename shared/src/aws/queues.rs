//! The queues: claims in, answers and broadcast jobs out, and claims put back for later.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::operation::send_message::builders::SendMessageFluentBuilder;
use aws_sdk_sqs::types::{
    MessageSystemAttributeNameForSends as TraceHeaderAttribute, MessageSystemAttributeValue,
};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::Aws;
use super::error::port_error;
use crate::{
    BroadcastJob, BroadcastOutbox, Claim, ClaimMessage, ClaimOutbox, ClaimReturns, DeliveryJob,
    DeliveryOutbox, MAX_JOB_BYTES, PortError, TraceHeader,
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

    fn message<T: Serialize>(
        &self,
        operation: &'static str,
        message: &T,
    ) -> Result<SendMessageFluentBuilder, PortError> {
        let body = encode(operation, message)?;
        let request = self.client.send_message().queue_url(&self.url);
        Ok(request.message_body(body))
    }
}

async fn send(operation: &'static str, request: SendMessageFluentBuilder) -> Result<(), PortError> {
    let sent = request.send().await;
    sent.map(drop).map_err(|error| port_error(operation, error))
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
        const OPERATION: &str = "send the claim";
        // The group makes the queue fair: one hot campaign does not hold up the others.
        let request = self
            .0
            .message(OPERATION, &ClaimMessage::from(claim))?
            .message_group_id(claim.campaign_id.as_str());
        let request = match &claim.trace {
            Some(trace) => request.message_system_attributes(
                TraceHeaderAttribute::AwsTraceHeader,
                attribute(OPERATION, trace)?,
            ),
            None => request,
        };
        send(OPERATION, request).await
    }
}

/// The one system attribute that a sender may set; function `issue` finds it as `AWSTraceHeader`.
fn attribute(
    operation: &'static str,
    trace: &TraceHeader,
) -> Result<MessageSystemAttributeValue, PortError> {
    let attribute = MessageSystemAttributeValue::builder().data_type("String");
    let built = attribute.string_value(trace.as_str()).build();
    built.map_err(|error| PortError::reject(operation, error))
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
        send(OPERATION, self.0.message(OPERATION, job)?).await
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::aws::replay::replay;
    use crate::{CampaignId, ClaimId, PartnerId, Timestamp, UserId};

    async fn sent(trace: Option<TraceHeader>) -> Value {
        let (aws, http) = replay(&[(200, json!({"MessageId": "m", "MD5OfMessageBody": ""}))]);
        let now = Timestamp::from_millis(1_790_000_000_000);
        let claim = Claim {
            claim_id: ClaimId::new("c1").unwrap(),
            partner_id: PartnerId::new("acme").unwrap(),
            campaign_id: CampaignId::mint(now, 1),
            user_id: UserId::new("ann").unwrap(),
            requested_at: now,
            sent_at: now,
            connection_id: None,
            trace,
        };
        // The checksum of the answer is not this test's business.
        drop(
            SqsClaims::new(&aws, "http://queues/claims".into())
                .enqueue(&claim)
                .await,
        );
        let requests: Vec<_> = http.actual_requests().collect();
        serde_json::from_slice(requests[0].body().bytes().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_claims_trace_header_travels_as_the_queues_own_attribute() {
        let header = "Root=1-67891233-abcdef012345678912345678;Parent=463ac35c9f6413ad;Sampled=1";
        let request = sent(TraceHeader::read(header)).await;
        let expected = json!({"AWSTraceHeader": {"DataType": "String", "StringValue": header}});
        assert_eq!(request["MessageSystemAttributes"], expected);
        let body = request["MessageBody"].as_str().unwrap();
        assert!(!body.contains("1-67891233"), "{body}");
        assert_eq!(sent(None).await["MessageSystemAttributes"], Value::Null);
    }
}
