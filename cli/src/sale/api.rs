//! The partner's side of the public HTTP interface: what a sale needs of it, with retries.

use std::time::Duration;

use firstcome_core::Timestamp;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::backoff;

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a call is tried while the API says 429 or 5xx, or does not answer.
const ATTEMPTS: u32 = 20;

/// Why the API did not do what was asked, as one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the API at {url} does not answer ({cause}): run `make up`")]
    Unreachable { url: String, cause: String },
    #[error("the API answered {status} to {call}: {problem}")]
    Refused {
        call: String,
        status: u16,
        problem: String,
    },
    #[error("the API's answer to {call} is not what the interface says: {cause}")]
    Unreadable { call: String, cause: String },
    #[error("failed to set up the HTTP client: {0}")]
    Client(reqwest::Error),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CampaignState {
    pub(crate) campaign_id: String,
    pub(crate) phase: String,
    pub(crate) issued: u64,
    pub(crate) remaining: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ticket {
    pub(crate) ticket: String,
    pub(crate) web_socket_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BroadcastReceipt {
    broadcast_id: String,
}

/// How far a broadcast has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BroadcastReport {
    pub(crate) seen: u64,
    pub(crate) sent: u64,
    pub(crate) gone: u64,
    pub(crate) failed: u64,
    pub(crate) finished_at: Option<String>,
}

/// What the API says of one user's claim.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ClaimState {
    pub(crate) status: String,
    pub(crate) coupon: Option<ClaimCoupon>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ClaimCoupon {
    pub(crate) code: String,
}

/// A partner, at the HTTP API. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PartnerApi {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl PartnerApi {
    pub(crate) fn new(base: &str, key: &str) -> Result<Self, ApiError> {
        // No proxy: the SDK and the sockets use none either.
        let http = reqwest::Client::builder()
            .timeout(CALL_TIMEOUT)
            .no_proxy()
            .build()
            .map_err(ApiError::Client)?;
        Ok(Self {
            http,
            base: base.to_owned(),
            key: key.to_owned(),
        })
    }

    pub(crate) async fn create_campaign(
        &self,
        title: &str,
        total: u32,
        opens_at: Timestamp,
    ) -> Result<CampaignState, ApiError> {
        let body = json!({"title": title, "total": total, "opensAt": opens_at.to_string()});
        self.call(Method::POST, "/v1/campaigns", Some(body)).await
    }

    pub(crate) async fn campaign(&self, campaign: &str) -> Result<CampaignState, ApiError> {
        self.call(Method::GET, &format!("/v1/campaigns/{campaign}"), None)
            .await
    }

    /// Closes a campaign for good.
    pub(crate) async fn close(&self, campaign: &str) -> Result<CampaignState, ApiError> {
        let path = format!("/v1/campaigns/{campaign}/close");
        self.call(Method::POST, &path, None).await
    }

    pub(crate) async fn ticket(&self, user: &str) -> Result<Ticket, ApiError> {
        self.call(
            Method::POST,
            "/v1/tickets",
            Some(json!({"userId": user, "ttlSeconds": 120})),
        )
        .await
    }

    pub(crate) async fn claim_state(
        &self,
        campaign: &str,
        user: &str,
    ) -> Result<ClaimState, ApiError> {
        self.call(
            Method::GET,
            &format!("/v1/campaigns/{campaign}/claims/{user}"),
            None,
        )
        .await
    }

    /// To everybody of the campaign, or of the partner if none is named. Returns the broadcast's id.
    pub(crate) async fn broadcast(
        &self,
        campaign: Option<&str>,
        message: &str,
    ) -> Result<String, ApiError> {
        let path = match campaign {
            Some(campaign) => format!("/v1/campaigns/{campaign}/broadcasts"),
            None => "/v1/broadcasts".to_owned(),
        };
        let receipt: BroadcastReceipt = self
            .call(Method::POST, &path, Some(json!({"message": message})))
            .await?;
        Ok(receipt.broadcast_id)
    }

    pub(crate) async fn report(&self, broadcast: &str) -> Result<BroadcastReport, ApiError> {
        self.call(Method::GET, &format!("/v1/broadcasts/{broadcast}"), None)
            .await
    }

    /// One call, tried again while that makes sense. Every POST carries one Idempotency-Key for all its attempts; calls
    /// that know none ignore it.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, ApiError> {
        let name = format!("{method} {path}");
        let idempotency_key = format!("{:032x}", fastrand::u128(..));
        let mut attempt = 0;
        loop {
            let mut request = self
                .http
                .request(method.clone(), format!("{}{path}", self.base));
            request = request.header("X-API-Key", &self.key);
            if let Some(body) = &body {
                request = request
                    .header("Idempotency-Key", &idempotency_key)
                    .json(body);
            }
            let failure = match request.send().await {
                Ok(response) if response.status().is_success() => {
                    let unreadable = |cause: reqwest::Error| ApiError::Unreadable {
                        call: name,
                        cause: cause.to_string(),
                    };
                    return response.json().await.map_err(unreadable);
                }
                Ok(response) => {
                    let status = response.status();
                    let problem = problem_text(&response.text().await.unwrap_or_default());
                    let refused = ApiError::Refused {
                        call: name.clone(),
                        status: status.as_u16(),
                        problem,
                    };
                    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
                        return Err(refused);
                    }
                    refused
                }
                Err(error) => ApiError::Unreachable {
                    url: self.base.clone(),
                    cause: innermost(&error),
                },
            };
            attempt += 1;
            if attempt == ATTEMPTS {
                return Err(failure);
            }
            tokio::time::sleep(backoff::wait(attempt, fastrand::f64())).await;
        }
    }
}

/// A problem document's code and detail; of anything else, the beginning.
fn problem_text(body: &str) -> String {
    let document: Value = serde_json::from_str(body).unwrap_or_default();
    let words = ["code", "title", "detail"].map(|name| document.get(name).and_then(Value::as_str));
    let text = words.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        body.chars().take(120).collect()
    } else {
        text
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_in_its_own_words() {
        let body = r#"{"type":"about:blank","code":"invalid_field","title":"Bad Request","detail":"total must be 1 to 10000000"}"#;
        assert_eq!(
            problem_text(body),
            "invalid_field, Bad Request, total must be 1 to 10000000"
        );
        assert_eq!(problem_text("<html>"), "<html>");
    }
}
