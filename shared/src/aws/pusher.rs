//! Posts to sockets through API Gateway's management API.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_sdk_apigatewaymanagement::{
    Client,
    config::{Builder, retry::RetryConfig, timeout::TimeoutConfig},
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    operation::post_to_connection::PostToConnectionError,
    primitives::Blob,
};

use crate::{ConnectionId, PushOutcome, Pusher, aws::Aws};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one post may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// [`Pusher`] on PostToConnection.
#[derive(Debug)]
pub struct GatewayPusher {
    client: Client,
    failures: AtomicU64,
}

impl GatewayPusher {
    /// Posts through this endpoint (template.yaml, `MANAGEMENT_ENDPOINT`). Retries are off: the SDK sleeps about a second
    /// before it repeats a 429, inside the engine's slot.
    pub fn new(aws: &Aws, endpoint: String) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let config = Builder::from(aws.config())
            .endpoint_url(endpoint)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .build();
        Self {
            client: Client::from_conf(config),
            failures: AtomicU64::new(0),
        }
    }

    /// Logs the 1st, 2nd, 4th, 8th … failure: enough to see why, not one line for each of thousands.
    fn log(&self, error: &SdkError<PostToConnectionError>) {
        let count = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(error = %DisplayErrorContext(error), failures.so_far = count, "post failed");
        }
    }
}

impl Pusher for GatewayPusher {
    async fn push(&self, connection: &ConnectionId, payload: Arc<[u8]>) -> PushOutcome {
        let request = self
            .client
            .post_to_connection()
            .connection_id(connection.as_str());
        let Err(error) = request.data(Blob::new(payload.to_vec())).send().await else {
            return PushOutcome::Delivered;
        };
        let outcome = outcome_of(&error);
        if outcome == PushOutcome::Failed {
            self.log(&error);
        }
        outcome
    }
}

fn outcome_of(error: &SdkError<PostToConnectionError>) -> PushOutcome {
    let code = error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code);
    match (
        error
            .raw_response()
            .map(|response| response.status().as_u16()),
        code,
    ) {
        (Some(410), _) | (_, Some("GoneException")) => PushOutcome::Gone,
        (Some(429), _) | (_, Some("LimitExceededException" | "TooManyRequestsException")) => {
            PushOutcome::Throttled
        }
        _ => PushOutcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::aws::replay::replay;

    #[tokio::test]
    async fn every_status_has_its_outcome_and_is_asked_for_once() {
        for (status, outcome) in [
            (200, PushOutcome::Delivered),
            (410, PushOutcome::Gone),
            (429, PushOutcome::Throttled),
            (400, PushOutcome::Failed),
            (403, PushOutcome::Failed),
            (413, PushOutcome::Failed),
            (500, PushOutcome::Failed),
        ] {
            let (aws, client) = replay(&[(status, json!({}))]);
            let pusher =
                GatewayPusher::new(&aws, "http://127.0.0.1:1/_aws/execute-api/abc/v1".into());
            let connection = ConnectionId::new("L0SM9cOFvHcCIhw=").unwrap();
            assert_eq!(
                pusher.push(&connection, Arc::from(b"{}".as_slice())).await,
                outcome,
                "{status}"
            );
            let uris: Vec<_> = client
                .actual_requests()
                .map(|request| request.uri().to_owned())
                .collect();
            assert_eq!(
                uris,
                ["http://127.0.0.1:1/_aws/execute-api/abc/v1/@connections/L0SM9cOFvHcCIhw%3D"]
            );
            assert_eq!(
                client.actual_requests().next().unwrap().body().bytes(),
                Some(b"{}".as_slice())
            );
        }
    }
}
