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
    BroadcastJob, BroadcastOutbox, Campaign, Claim, ClaimMessage, ClaimOutbox, ClaimReturns,
    DeliveryJob, DeliveryOutbox, DeliveryRetries, MAX_JOB_BYTES, PortError, TraceHeader,
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

/// ClaimsQueue and PriorityClaimsQueue, for those who send to them.
#[derive(Clone, Debug)]
pub struct SqsClaims {
    regular: Queue,
    priority: Queue,
}

impl SqsClaims {
    /// On these queues.
    pub fn new(aws: &Aws, regular_url: String, priority_url: String) -> Self {
        Self {
            regular: Queue::new(aws, regular_url),
            priority: Queue::new(aws, priority_url),
        }
    }
}

impl ClaimOutbox for SqsClaims {
    async fn enqueue(&self, claim: &Claim, campaign: &Campaign) -> Result<(), PortError> {
        const OPERATION: &str = "send the claim";
        let queue = if campaign.priority {
            &self.priority
        } else {
            &self.regular
        };
        // The group makes the queue fair: one hot campaign does not hold up the others.
        let request = queue
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
        self.deliver_later(job, 0).await
    }
}

impl DeliveryRetries for SqsDeliveries {
    async fn deliver_later(&self, job: &DeliveryJob, delay_seconds: u16) -> Result<(), PortError> {
        const OPERATION: &str = "send the answers";
        let bytes = encode(OPERATION, job)?.len();
        if bytes > MAX_JOB_BYTES {
            return Err(PortError::reject(
                OPERATION,
                format!("{bytes} bytes are more than {MAX_JOB_BYTES}"),
            ));
        }
        let message = self.0.message(OPERATION, job)?;
        let delay = (delay_seconds > 0).then(|| i32::from(delay_seconds));
        send(OPERATION, message.set_delay_seconds(delay)).await
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

/// The queues of claims, for the worker: sets when a message that was not decided comes back.
#[derive(Clone, Debug)]
pub struct SqsReturns(Vec<Queue>);

impl SqsReturns {
    /// On these queues.
    pub fn new(aws: &Aws, urls: impl IntoIterator<Item = String>) -> Self {
        Self(urls.into_iter().map(|url| Queue::new(aws, url)).collect())
    }

    /// The queue that an event names: its ARN ends with the queue's name, as its URL does.
    fn queue(&self, arn: &str) -> Option<&Queue> {
        let name = arn.rsplit(':').next();
        self.0
            .iter()
            .find(|queue| queue.url.rsplit('/').next() == name)
    }
}

impl ClaimReturns for SqsReturns {
    async fn come_back(&self, queue_arn: &str, returns: &[(String, u16)]) -> Result<(), PortError> {
        const OPERATION: &str = "set when claims come back";
        let queue = self.queue(queue_arn).ok_or_else(|| {
            PortError::reject(OPERATION, format!("{queue_arn:?} is no queue of claims"))
        })?;
        let calls: Vec<_> = returns
            .iter()
            .map(|(receipt, seconds)| async move {
                let request = queue
                    .client
                    .change_message_visibility()
                    .queue_url(&queue.url);
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
    use crate::aws::replay::{replay, requests};
    use crate::memory::sample_campaign;
    use crate::{ClaimId, Timestamp, UserId};

    /// The request that sends a claim of such a campaign.
    async fn sent(trace: Option<TraceHeader>, priority: bool) -> Value {
        let (aws, http) = replay(&[(200, json!({"MessageId": "m", "MD5OfMessageBody": ""}))]);
        let now = Timestamp::from_millis(1_790_000_000_000);
        let campaign = Campaign {
            priority,
            ..sample_campaign(1, now)
        };
        let claim = Claim {
            claim_id: ClaimId::new("c1").unwrap(),
            partner_id: campaign.partner_id.clone(),
            campaign_id: campaign.campaign_id.clone(),
            user_id: UserId::new("ann").unwrap(),
            requested_at: now,
            sent_at: now,
            connection_id: None,
            trace,
        };
        let [regular, lane] = ["claims", "priority"].map(|name| format!("http://queues/{name}"));
        // The checksum of the answer is not this test's business.
        drop(
            SqsClaims::new(&aws, regular, lane)
                .enqueue(&claim, &campaign)
                .await,
        );
        requests(&http).remove(0).1
    }

    #[tokio::test]
    async fn a_claim_goes_to_the_queue_of_its_campaign_in_the_campaigns_group() {
        for (priority, url) in [
            (false, "http://queues/claims"),
            (true, "http://queues/priority"),
        ] {
            let request = sent(None, priority).await;
            assert_eq!(request["QueueUrl"], url);
            let body: Value =
                serde_json::from_str(request["MessageBody"].as_str().unwrap()).unwrap();
            assert_eq!(request["MessageGroupId"], body["campaignId"]);
        }
    }

    #[tokio::test]
    async fn a_claim_comes_back_to_the_queue_it_is_from() {
        let (aws, http) = replay(&[(200, json!({})), (200, json!({}))]);
        let urls = ["http://queues/1/claims", "http://queues/1/priority"];
        let returns = SqsReturns::new(&aws, urls.map(str::to_owned));
        let receipts = [("receipt".to_owned(), 5)];
        for name in ["priority", "claims"] {
            let arn = format!("arn:aws:sqs:us-east-1:1:{name}");
            returns.come_back(&arn, &receipts).await.unwrap();
        }
        let asked: Vec<Value> = requests(&http)
            .into_iter()
            .map(|(_, body)| body["QueueUrl"].clone())
            .collect();
        assert_eq!(asked, [urls[1], urls[0]]);
        assert!(
            returns
                .come_back("arn:aws:sqs:us-east-1:1:other", &receipts)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_claims_trace_header_travels_as_the_queues_own_attribute() {
        let header = "Root=1-67891233-abcdef012345678912345678;Parent=463ac35c9f6413ad;Sampled=1";
        let request = sent(TraceHeader::read(header), false).await;
        let expected = json!({"AWSTraceHeader": {"DataType": "String", "StringValue": header}});
        assert_eq!(request["MessageSystemAttributes"], expected);
        let body = request["MessageBody"].as_str().unwrap();
        assert!(!body.contains("1-67891233"), "{body}");
        assert_eq!(
            sent(None, false).await["MessageSystemAttributes"],
            Value::Null
        );
    }
}
