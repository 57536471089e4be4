//! Posts to sockets through API Gateway's management API, with the SDK's client at its cheapest: bench/README.md has what
//! each setting buys.

mod signing;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_runtime::{
    invocation_id::InvocationIdInterceptor, request_info::RequestInfoInterceptor,
    user_agent::UserAgentInterceptor,
};
use aws_sdk_apigatewaymanagement::{
    Client,
    config::{
        Builder, ConfigBag, Intercept, StalledStreamProtectionConfig,
        endpoint::{Endpoint, EndpointFuture, Params, ResolveEndpoint},
        interceptors::BeforeSerializationInterceptorContextRef,
        retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{BoxError, DisplayErrorContext, ProvideErrorMetadata, SdkError},
    operation::post_to_connection::PostToConnectionError,
    primitives::Blob,
};
use aws_smithy_runtime_api::client::interceptors::{disable_interceptor, dyn_dispatch_hint};

use crate::{ConnectionId, PushOutcome, Pusher, aws::Aws};
use signing::PostSigning;

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
    /// before it repeats a 429, inside the engine's slot. What guards streams is off: a post is a few hundred bytes with
    /// an attempt's time-out. So is the correction of a wrong clock: Lambda's is right.
    pub fn new(aws: &Aws, endpoint: String) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let mut config = Builder::from(aws.config())
            .endpoint_resolver(OneEndpoint(Endpoint::builder().url(endpoint).build()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .disable_clock_skew_correction(true)
            .interceptor(FewHeaders);
        // The resolver above is asked for nothing; a URL set besides it would be copied for each post.
        config.set_endpoint_url(None);
        if let Some(region) = aws.config().region() {
            config = config.push_auth_scheme(PostSigning::new(region.to_string()));
        }
        Self {
            client: Client::from_conf(config.build()),
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

/// The one endpoint there is.
#[derive(Debug)]
struct OneEndpoint(Endpoint);

impl ResolveEndpoint for OneEndpoint {
    fn resolve_endpoint<'a>(&'a self, _: &'a Params) -> EndpointFuture<'a> {
        EndpointFuture::ready(Ok(self.0.clone()))
    }
}

/// Leaves out the headers that tell AWS about the SDK and its attempts. They would be made, and signed, for each post.
#[derive(Debug)]
struct FewHeaders;

#[dyn_dispatch_hint]
impl Intercept for FewHeaders {
    fn name(&self) -> &'static str {
        "FewHeaders"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let state = config.interceptor_state();
        state.store_put(disable_interceptor::<UserAgentInterceptor>("few headers"));
        state.store_put(disable_interceptor::<InvocationIdInterceptor>(
            "few headers",
        ));
        state.store_put(disable_interceptor::<RequestInfoInterceptor>("few headers"));
        Ok(())
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

    #[tokio::test(start_paused = true)]
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
            let (aws, client) = replay(&[(status, json!({})), (200, json!({}))]);
            let retrying = aws.config().to_builder();
            let retrying = retrying.retry_config(RetryConfig::standard()).build();
            let aws = Aws::from_config(retrying);
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
            let request = client.actual_requests().next().unwrap();
            assert_eq!(request.body().bytes(), Some(b"{}".as_slice()));
            let mut headers: Vec<_> = request.headers().iter().map(|(name, _)| name).collect();
            headers.sort_unstable();
            let own = [
                "authorization",
                "content-length",
                "content-type",
                "x-amz-date",
            ];
            assert_eq!(headers, own);
            let signed = request.headers().get("authorization").unwrap();
            let scope = "/us-east-1/execute-api/aws4_request, SignedHeaders=host;x-amz-date, ";
            assert!(signed.contains(scope), "{signed}");
        }
    }
}
