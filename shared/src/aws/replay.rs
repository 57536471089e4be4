//! Replayed HTTP for adapter tests: responses by hand, requests as they were really sent.

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use aws_sdk_dynamodb::config::{
    Credentials, SharedCredentialsProvider,
    http::{HttpRequest, HttpResponse},
};
use aws_smithy_http_client::test_util::{ReplayEvent, StaticReplayClient};
use serde_json::Value;

use crate::aws::Aws;

/// A configuration whose calls get these responses (status and body), in order.
pub(crate) fn replay(responses: &[(u16, Value)]) -> (Aws, StaticReplayClient) {
    let event = |(status, body): &(u16, Value)| {
        let response = HttpResponse::new((*status).try_into().unwrap(), body.to_string().into());
        ReplayEvent::new(HttpRequest::empty(), response)
    };
    let client = StaticReplayClient::new(responses.iter().map(event).collect());
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            "key", "secret", None, None, "test",
        )))
        .retry_config(RetryConfig::disabled())
        .http_client(client.clone())
        .build();
    (Aws::from_config(config), client)
}

/// The bodies that were sent, byte by byte.
pub(crate) fn bodies(client: &StaticReplayClient) -> Vec<Vec<u8>> {
    let sent = client.actual_requests();
    sent.map(|request| request.body().bytes().unwrap_or_default().to_vec())
        .collect()
}

/// What was sent: the operation's name and its body.
pub(crate) fn requests(client: &StaticReplayClient) -> Vec<(String, Value)> {
    let read = |request: &HttpRequest| {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let body =
            serde_json::from_slice(request.body().bytes().unwrap_or_default()).unwrap_or_default();
        (
            target.rsplit('.').next().unwrap_or_default().to_owned(),
            body,
        )
    };
    client.actual_requests().map(read).collect()
}
