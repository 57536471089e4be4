//! Classifies SDK errors, once, into what a caller can do about them.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use crate::{Fate, PortError};

/// Codes by which a service asks for patience, whatever the HTTP status.
const PATIENCE: [&str; 14] = [
    "ThrottlingException",
    "Throttling",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "LimitExceededException",
    "TooManyRequestsException",
    "TransactionInProgressException",
    "InternalServerError",
    "InternalServiceError",
    "ServiceUnavailable",
    "RequestTimeout",
];

/// Whether the service's error code asks for patience; SQS may name it with its namespace.
pub(crate) fn asks_for_patience(code: Option<&str>) -> bool {
    code.is_some_and(|code| PATIENCE.contains(&code.trim_start_matches("AWS.SimpleQueueService.")))
}

/// The port's error for a failed call.
pub(crate) fn port_error<E, R>(operation: &'static str, error: SdkError<E, R>) -> PortError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + HasStatus + Send + Sync + 'static,
{
    let fate = match &error {
        SdkError::ServiceError(service) => {
            if asks_for_patience(service.err().code()) || service.raw().status_code() >= 500 {
                Fate::Retry
            } else {
                Fate::Reject
            }
        }
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => {
            Fate::Retry
        }
        _ => Fate::Reject,
    };
    PortError {
        operation,
        fate,
        source: Box::new(error),
    }
}

/// The HTTP status of a raw response.
pub(crate) trait HasStatus {
    /// As a number.
    fn status_code(&self) -> u16;
}

impl HasStatus for aws_sdk_dynamodb::config::http::HttpResponse {
    fn status_code(&self) -> u16 {
        self.status().as_u16()
    }
}
