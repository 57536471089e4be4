//! Adapters: the ports on the AWS SDK. The only place that names it.
//!
//! Every client has pinned time-outs and retries: the SDK's defaults have no attempt time-out and may change.

mod batch;
mod campaigns;
mod catalog;
mod connections;
#[cfg(feature = "contract")]
pub mod contract;
mod error;
mod item;
mod keys;
mod ledger;
#[cfg(feature = "operator")]
pub mod operator;
mod page;
mod pusher;
mod queues;
mod redemptions;
#[cfg(test)]
mod replay;
mod reports;
mod secret;
mod snapshots;
mod wallets;

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use thiserror::Error;

pub use campaigns::DynamoCampaigns;
pub use catalog::*;
pub use connections::*;
pub use keys::*;
pub use ledger::{DynamoCoupons, DynamoLedger};
pub use pusher::*;
pub use queues::{SqsBroadcasts, SqsClaims, SqsDeliveries, SqsReturns};
pub use redemptions::DynamoRedemptions;
pub use reports::*;
pub use secret::*;
pub use snapshots::DynamoSnapshots;
pub use wallets::DynamoWallets;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one attempt of a call may take. DynamoDB's transactions stay below 100 ms at p99, SQS below 200 ms.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a call may take with all its attempts.
const OPERATION_TIMEOUT: Duration = Duration::from_millis(4500);
/// How often a call is tried, with exponential back-off and full jitter between (the SDK's standard mode).
const MAX_ATTEMPTS: u32 = 3;
/// The base of that back-off.
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);

/// An environment variable that the function needs.
#[derive(Error)]
#[error(
    "environment variable {name} is {complaint}: template.yaml sets it; locally, `make watch` does"
)]
pub struct EnvironmentError {
    name: &'static str,
    complaint: &'static str,
}

/// A function that cannot start ends with its error in this form; the operator reads a sentence there, not a structure.
impl std::fmt::Debug for EnvironmentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Reads a variable that must be set and not empty.
///
/// # Errors
/// [`EnvironmentError`] that names it.
pub fn variable(name: &'static str) -> Result<String, EnvironmentError> {
    let text = std::env::var(name).map_err(|_| EnvironmentError {
        name,
        complaint: "missing",
    })?;
    (!text.is_empty()).then_some(text).ok_or(EnvironmentError {
        name,
        complaint: "empty",
    })
}

/// Credentials, Region, endpoint, time-outs and retries, read once per cold start.
#[derive(Clone, Debug)]
pub struct Aws {
    config: SdkConfig,
}

impl Aws {
    /// From the environment (`AWS_ENDPOINT_URL` included).
    pub async fn load() -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(MAX_ATTEMPTS)
            .with_initial_backoff(INITIAL_BACKOFF);
        let config = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts)
            .retry_config(retries)
            .load()
            .await;
        Self { config }
    }

    /// From a ready configuration: tests bring their own HTTP client or endpoint.
    pub fn from_config(config: SdkConfig) -> Self {
        Self { config }
    }

    /// A DynamoDB client.
    pub(crate) fn dynamo(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.config)
    }

    /// An SQS client.
    pub(crate) fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.config)
    }

    /// A Secrets Manager client.
    pub(crate) fn secrets(&self) -> aws_sdk_secretsmanager::Client {
        aws_sdk_secretsmanager::Client::new(&self.config)
    }

    /// The configuration, for clients with settings of their own.
    pub(crate) fn config(&self) -> &SdkConfig {
        &self.config
    }
}
