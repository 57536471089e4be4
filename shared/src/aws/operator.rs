//! What the operator's CLI and the end-to-end tests need of AWS: the stack's outputs, table reads, queue depths,
//! partners' keys, dead letters, the audit's scan. For people at a terminal: no function uses this, and every error is
//! one line that says what to do.

mod alarms;
mod audit;
mod breakage;
mod dead_letters;
mod deployment;
mod doctor;
mod event_sources;
mod logs;
mod pace;
mod partners;
mod pollers;
mod queues;
mod tables;
mod warmth;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_cloudformation::config::ProvideCredentials;
use aws_sdk_cloudformation::types::StackStatus;
use aws_sdk_dynamodb::{
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    types::AttributeValue,
};
use thiserror::Error;

pub use alarms::*;
pub use audit::*;
pub use dead_letters::*;
pub use doctor::{AccountQuotas, Finding, Health, Needs};
pub use logs::*;
pub use partners::*;
pub use pollers::{ClaimsReaders, Pollers, PollersUndo};
pub use queues::*;
pub use tables::*;
pub use warmth::Warmth;

use self::dead_letters::HeldReceipts;
use super::{Aws, DynamoCampaigns};
use crate::{InvalidValue, PortError, Timestamp};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one attempt of a call may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call may take with all its attempts.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a call is tried.
const MAX_ATTEMPTS: u32 = 3;

type Item = HashMap<String, AttributeValue>;

/// Why an operator's call failed, as one line that says what to do.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// The environment names no Region.
    #[error(
        "no AWS Region is set: run eval \"$(make -s env)\" for the local stack, or export AWS_REGION"
    )]
    MissingRegion,
    /// The environment holds no credentials.
    #[error(
        "no AWS credentials were found: run eval \"$(make -s env)\" for the local stack, or log in to AWS"
    )]
    MissingCredentials,
    /// The credentials cannot be read, or are of a kind that this program does not know.
    #[error(
        "the AWS credentials cannot be loaded ({0}): log in, then eval \"$(aws configure export-credentials --format env)\""
    )]
    UnreadableCredentials(String),
    /// AWS does not take the credentials.
    #[error(
        "AWS does not take these credentials ({0}): they have expired, or are not for this account or Region; log in again"
    )]
    RefusedCredentials(String),
    /// Nothing listens where AWS should.
    #[error(
        "nothing answers at {0}: for the local stack run `make up`; on AWS, see AWS_REGION and the network"
    )]
    EndpointDown(String),
    /// CloudFormation knows no such stack.
    #[error(
        "stack {0} is not deployed in this account and Region: for the local stack run `make up`; on AWS, see AWS_REGION and --stack"
    )]
    MissingStack(String),
    /// The stack is being created or deleted, or that has failed.
    #[error("stack {stack} is in state {status}: wait until it is deployed, or deploy it again")]
    UnfinishedStack {
        /// The stack.
        stack: String,
        /// Its state, in CloudFormation's words.
        status: String,
    },
    /// The stack is older than this program, or its deployment was cut short.
    #[error("stack {stack} has no output {output}: run `make up` to deploy it again")]
    MissingOutput {
        /// The stack.
        stack: String,
        /// The output's name.
        output: &'static str,
    },
    /// A queue without a dead-letter queue.
    #[error("queue {0} has no dead-letter queue: run `make up` to deploy the stack again")]
    MissingDeadLetterQueue(String),
    /// An item that should stand, and does not.
    #[error("there is no {0}")]
    MissingItem(String),
    /// An item that is not of the shape the stack's functions write.
    #[error(
        "{item} has no readable attribute {attribute}: the tables and this program are of different versions"
    )]
    MalformedItem {
        /// The item.
        item: String,
        /// The attribute.
        attribute: &'static str,
    },
    /// The caller's own value is out of bounds.
    #[error(transparent)]
    InvalidValue(#[from] InvalidValue),
    /// Something is not in a state in which this can be done, or did not get there in time.
    #[error("{0}")]
    NotReady(String),
    /// A dead letter that was looked at too long ago.
    #[error(
        "its hold of a minute had ended before its turn, and somebody else may have it by now: do it once more"
    )]
    LapsedHold,
    /// A log group with more lines than can be read at once.
    #[error("log group {0} holds too many lines for one look: choose a shorter time")]
    TooManyLines(String),
    /// The operating system gave no randomness for a key.
    #[error("failed to read random bytes")]
    Randomness(#[source] getrandom::Error),
    /// Anything else a service answered.
    #[error("failed to {operation}: {message}")]
    Call {
        /// What was tried.
        operation: &'static str,
        /// The service's own words.
        message: String,
    },
}

impl From<PortError> for OperatorError {
    fn from(error: PortError) -> Self {
        Self::Call {
            operation: error.operation,
            message: DisplayErrorContext(error.source.as_ref()).to_string(),
        }
    }
}

/// Where a deployed stack is: its CloudFormation outputs (template.yaml, `Outputs`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the output of that name")]
pub struct Stack {
    pub web_socket_url: String,
    pub http_api_url: String,
    pub claims_queue_url: String,
    pub claims_dead_letter_queue_url: String,
    pub deliveries_queue_url: String,
    pub broadcast_queue_url: String,
    pub campaigns_table: String,
    pub coupons_table: String,
    pub connections_table: String,
    pub wallets_table: String,
    pub partners_table: String,
    pub alert_webhook_secret: String,
    pub ticket_secret: String,
}

impl Stack {
    /// From the outputs of stack `name`.
    fn from_outputs(name: &str, outputs: &HashMap<String, String>) -> Result<Self, OperatorError> {
        let output = |output: &'static str| {
            let missing = || OperatorError::MissingOutput {
                stack: name.to_owned(),
                output,
            };
            outputs.get(output).cloned().ok_or_else(missing)
        };
        Ok(Self {
            web_socket_url: output("WebSocketUrl")?,
            http_api_url: output("HttpApiUrl")?.trim_end_matches('/').to_owned(),
            claims_queue_url: output("ClaimsQueueUrl")?,
            claims_dead_letter_queue_url: output("ClaimsDeadLetterQueueUrl")?,
            deliveries_queue_url: output("DeliveriesQueueUrl")?,
            broadcast_queue_url: output("BroadcastQueueUrl")?,
            campaigns_table: output("CampaignsTable")?,
            coupons_table: output("CouponsTable")?,
            connections_table: output("ConnectionsTable")?,
            wallets_table: output("WalletsTable")?,
            partners_table: output("PartnersTable")?,
            alert_webhook_secret: output("AlertWebhookSecret")?,
            ticket_secret: output("TicketSecret")?,
        })
    }
}

/// A deployed stack, and the right to look into it.
#[derive(Clone)]
pub struct Operator {
    name: String,
    stack: Stack,
    /// The stack's parameters, with their defaults.
    parameters: HashMap<String, String>,
    endpoint: String,
    cloudformation: aws_sdk_cloudformation::Client,
    lambda: aws_sdk_lambda::Client,
    gateway: aws_sdk_apigatewayv2::Client,
    scheduler: aws_sdk_scheduler::Client,
    quotas: aws_sdk_servicequotas::Client,
    dynamo: aws_sdk_dynamodb::Client,
    sqs: aws_sdk_sqs::Client,
    logs: aws_sdk_cloudwatchlogs::Client,
    cloudwatch: aws_sdk_cloudwatch::Client,
    secrets: aws_sdk_secretsmanager::Client,
    campaigns: DynamoCampaigns,
    /// Dead letters that a look holds (dead_letters.rs).
    held: Arc<Mutex<HeldReceipts>>,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator")
            .field("stack", &self.stack)
            .finish_non_exhaustive()
    }
}

impl Operator {
    /// Finds stack `name` with the AWS environment (`AWS_ENDPOINT_URL` included).
    ///
    /// # Errors
    /// [`OperatorError`] if the environment is incomplete, AWS does not answer or the stack is not there.
    pub async fn find(name: &str) -> Result<Self, OperatorError> {
        let config = load_config().await?;
        let endpoint = config
            .endpoint_url()
            .unwrap_or("AWS (AWS_ENDPOINT_URL is not set)")
            .to_owned();
        let described = describe_stack(&config, &endpoint, name).await?;
        let stack = Stack::from_outputs(name, &described.outputs)?;
        let operator = Self::new(name, stack, endpoint, &config);
        Ok(Self {
            parameters: described.parameters,
            ..operator
        })
    }

    /// Of a stack whose parameters are not known.
    fn new(name: &str, stack: Stack, endpoint: String, config: &SdkConfig) -> Self {
        let campaigns_table = stack.campaigns_table.clone();
        Self {
            name: name.to_owned(),
            stack,
            parameters: HashMap::new(),
            endpoint,
            cloudformation: aws_sdk_cloudformation::Client::new(config),
            lambda: aws_sdk_lambda::Client::new(config),
            gateway: aws_sdk_apigatewayv2::Client::new(config),
            scheduler: aws_sdk_scheduler::Client::new(config),
            quotas: aws_sdk_servicequotas::Client::new(config),
            dynamo: aws_sdk_dynamodb::Client::new(config),
            sqs: aws_sdk_sqs::Client::new(config),
            logs: aws_sdk_cloudwatchlogs::Client::new(config),
            cloudwatch: aws_sdk_cloudwatch::Client::new(config),
            secrets: aws_sdk_secretsmanager::Client::new(config),
            campaigns: DynamoCampaigns::new(&Aws::from_config(config.clone()), campaigns_table),
            held: Arc::default(),
        }
    }

    /// Where everything is.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Whether the stack runs in the local AWS (template.yaml, parameter `Target`).
    pub fn is_local(&self) -> bool {
        self.parameters.get("Target").map(String::as_str) == Some("local")
    }

    async fn item(&self, table: &str, pk: &str, sk: &str) -> Result<Item, OperatorError> {
        self.find_item(table, pk, sk)
            .await?
            .ok_or_else(|| OperatorError::MissingItem(format!("item {pk} in {table}")))
    }

    async fn find_item(
        &self,
        table: &str,
        pk: &str,
        sk: &str,
    ) -> Result<Option<Item>, OperatorError> {
        let call = self
            .dynamo
            .get_item()
            .table_name(table)
            .key("pk", AttributeValue::S(pk.to_owned()))
            .key("sk", AttributeValue::S(sk.to_owned()))
            .consistent_read(true);
        call.send()
            .await
            .map(|answer| answer.item)
            .map_err(|error| self.failed("read an item", error))
    }

    fn failed<E, R>(&self, operation: &'static str, error: SdkError<E, R>) -> OperatorError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: fmt::Debug + 'static,
    {
        failed(&self.endpoint, operation, error)
    }
}

/// The AWS environment with pinned time-outs and retries.
async fn load_config() -> Result<SdkConfig, OperatorError> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    let config = aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
        .load()
        .await;
    if config.region().is_none() {
        return Err(OperatorError::MissingRegion);
    }
    let provider = config
        .credentials_provider()
        .ok_or(OperatorError::MissingCredentials)?;
    provider
        .provide_credentials()
        .await
        .map_err(|error| unloaded(&error))?;
    Ok(config)
}

/// What CloudFormation knows of a stack.
struct Described {
    outputs: HashMap<String, String>,
    parameters: HashMap<String, String>,
}

async fn describe_stack(
    config: &SdkConfig,
    endpoint: &str,
    name: &str,
) -> Result<Described, OperatorError> {
    let cloudformation = aws_sdk_cloudformation::Client::new(config);
    let answer = match cloudformation
        .describe_stacks()
        .stack_name(name)
        .send()
        .await
    {
        Ok(answer) => answer,
        Err(error)
            if error.code() == Some("ValidationError")
                && error
                    .message()
                    .is_some_and(|message| message.contains("does not exist")) =>
        {
            return Err(OperatorError::MissingStack(name.to_owned()));
        }
        Err(error) => return Err(failed(endpoint, "describe the stack", error)),
    };
    let stack = answer.stacks.unwrap_or_default().into_iter().next();
    let stack = stack.ok_or_else(|| OperatorError::MissingStack(name.to_owned()))?;
    refuse_unfinished(name, stack.stack_status.as_ref())?;
    let outputs = stack.outputs.unwrap_or_default().into_iter();
    let parameters = stack.parameters.unwrap_or_default().into_iter();
    Ok(Described {
        outputs: outputs
            .filter_map(|output| Some((output.output_key?, output.output_value?)))
            .collect(),
        parameters: parameters
            .filter_map(|one| Some((one.parameter_key?, one.parameter_value?)))
            .collect(),
    })
}

/// Why there are no credentials: none were set, or they are there and cannot be had. The SDK's own type for it is in a crate
/// that nothing else here needs; its name is in what it prints.
fn unloaded(error: &(impl std::error::Error + 'static)) -> OperatorError {
    if format!("{error:?}").starts_with("CredentialsNotLoaded") {
        return OperatorError::MissingCredentials;
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    OperatorError::UnreadableCredentials(innermost.to_string())
}

/// Whether a stack has all of its parts. While one is updated it has; while it is created or deleted, or once that has
/// failed, it has not, whatever outputs it tells.
fn refuse_unfinished(name: &str, status: Option<&StackStatus>) -> Result<(), OperatorError> {
    use StackStatus::{CreateComplete, ImportComplete};
    let whole = |status: &StackStatus| {
        matches!(status, CreateComplete | ImportComplete) || status.as_str().starts_with("UPDATE_")
    };
    match status {
        Some(status) if !whole(status) => Err(OperatorError::UnfinishedStack {
            stack: name.to_owned(),
            status: status.as_str().to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Whether a service's complaint is about who asks: <https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html>, and
/// the names that DynamoDB, SQS and CloudWatch have for the same.
fn is_about_credentials(code: &str) -> bool {
    [
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ]
    .contains(&code)
}

/// One line for a failed call: where nothing answered, which endpoint; else the service's own words.
fn failed<E, R>(endpoint: &str, operation: &'static str, error: SdkError<E, R>) -> OperatorError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: fmt::Debug + 'static,
{
    match &error {
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            OperatorError::EndpointDown(endpoint.to_owned())
        }
        SdkError::ServiceError(service)
            if service.err().code().is_some_and(is_about_credentials) =>
        {
            OperatorError::RefusedCredentials(service.err().code().unwrap_or_default().to_owned())
        }
        SdkError::ServiceError(service) => {
            let metadata = service.err();
            let words = [metadata.code(), metadata.message()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(": ");
            OperatorError::Call {
                operation,
                message: words,
            }
        }
        _ => OperatorError::Call {
            operation,
            message: DisplayErrorContext(&error).to_string(),
        },
    }
}

fn now() -> Timestamp {
    // A clock before 1970 gives the epoch: nothing here depends on it but a name and a date to read.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn text<'item>(
    item: &'item Item,
    name: &str,
    attribute: &'static str,
) -> Result<&'item str, OperatorError> {
    let value = item.get(attribute).and_then(|value| value.as_s().ok());
    value
        .map(String::as_str)
        .ok_or_else(|| OperatorError::MalformedItem {
            item: name.to_owned(),
            attribute,
        })
}

fn number(item: &Item, name: &str, attribute: &'static str) -> Result<u64, OperatorError> {
    let value = item
        .get(attribute)
        .and_then(|value| value.as_n().ok())
        .and_then(|digits| digits.parse().ok());
    value.ok_or_else(|| OperatorError::MalformedItem {
        item: name.to_owned(),
        attribute,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stack_that_is_not_whole_is_refused_and_one_that_is_updated_is_not() {
        for whole in [
            "CREATE_COMPLETE",
            "UPDATE_IN_PROGRESS",
            "UPDATE_ROLLBACK_COMPLETE",
        ] {
            assert!(
                refuse_unfinished("s", Some(&StackStatus::from(whole))).is_ok(),
                "{whole}"
            );
        }
        for part in [
            "CREATE_IN_PROGRESS",
            "ROLLBACK_COMPLETE",
            "DELETE_IN_PROGRESS",
            "REVIEW_IN_PROGRESS",
        ] {
            let error = refuse_unfinished("s", Some(&StackStatus::from(part))).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn credentials_that_have_expired_are_told_as_that() {
        let expired = json!({"__type": "com.amazon.coral.service#ExpiredTokenException", "message": "The security token is expired"});
        let (operator, _) = testing::operator(&[(400, expired)]);
        let error = operator.partners().await.unwrap_err();
        assert!(
            matches!(error, OperatorError::RefusedCredentials(_)),
            "{error}"
        );
    }

    #[test]
    fn a_missing_output_is_named() {
        let error = Stack::from_outputs("firstcome", &HashMap::new())
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "stack firstcome has no output WebSocketUrl: run `make up` to deploy it again"
        );
    }
}

#[cfg(test)]
mod testing {
    //! An operator whose calls get responses by hand.

    use aws_smithy_http_client::test_util::StaticReplayClient;
    use serde_json::Value;

    use super::{Operator, Stack};
    use crate::aws::replay::replay;

    /// Calls get these responses (status and body), in order.
    pub(super) fn operator(responses: &[(u16, Value)]) -> (Operator, StaticReplayClient) {
        let (aws, http) = replay(responses);
        let stack = Stack {
            web_socket_url: "ws://sockets".into(),
            http_api_url: "http://api".into(),
            claims_queue_url: "http://queues/claims".into(),
            claims_dead_letter_queue_url: "http://queues/claims-dead".into(),
            deliveries_queue_url: "http://queues/deliveries".into(),
            broadcast_queue_url: "http://queues/broadcast".into(),
            campaigns_table: "campaigns".into(),
            coupons_table: "coupons".into(),
            connections_table: "connections".into(),
            wallets_table: "wallets".into(),
            partners_table: "partners".into(),
            alert_webhook_secret: "webhook".into(),
            ticket_secret: "ticket".into(),
        };
        (
            Operator::new("firstcome", stack, "http://aws".into(), aws.config()),
            http,
        )
    }
}
