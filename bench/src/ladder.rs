//! The SDK's settings that make a post cheaper, one after the other, from the client as it comes to `GatewayPusher`'s,
//! which signs its posts itself besides.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_runtime::{
    invocation_id::InvocationIdInterceptor, request_info::RequestInfoInterceptor,
    user_agent::UserAgentInterceptor,
};
use aws_sdk_apigatewaymanagement::{
    Config,
    config::{
        Builder, ConfigBag, Intercept, StalledStreamProtectionConfig,
        endpoint::{Endpoint, EndpointFuture, Params, ResolveEndpoint},
        interceptors::BeforeSerializationInterceptorContextRef,
        retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::BoxError,
};
use aws_smithy_runtime_api::client::interceptors::{disable_interceptor, dyn_dispatch_hint};

/// What each step adds to those before it.
pub const STEPS: [&str; 6] = [
    "the SDK call as it comes",
    "+ no retries, time-outs",
    "+ streams unguarded",
    "+ clock trusted",
    "+ few headers",
    "+ one endpoint",
];

/// The client's configuration after so many steps.
pub async fn config(endpoint: &str, steps: usize) -> Config {
    let shared = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let mut config = Builder::from(&shared).endpoint_url(endpoint);
    if steps >= 1 {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(1))
            .operation_attempt_timeout(Duration::from_secs(3))
            .build();
        config = config
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
    }
    if steps >= 2 {
        config = config.stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    }
    if steps >= 3 {
        config = config.disable_clock_skew_correction(true);
    }
    if steps >= 4 {
        config = config.interceptor(FewHeaders);
    }
    if steps >= 5 {
        let endpoint = Endpoint::builder().url(endpoint.to_owned()).build();
        config = config.endpoint_resolver(OneEndpoint(endpoint));
        config.set_endpoint_url(None);
    }
    config.build()
}

/// As in `GatewayPusher`.
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

/// As in `GatewayPusher`.
#[derive(Debug)]
struct OneEndpoint(Endpoint);

impl ResolveEndpoint for OneEndpoint {
    fn resolve_endpoint<'a>(&'a self, _: &'a Params) -> EndpointFuture<'a> {
        EndpointFuture::ready(Ok(self.0.clone()))
    }
}
