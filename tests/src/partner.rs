//! A partner at the HTTP API.

use std::time::Duration;

use firstcome_core::PartnerId;
use firstcome_core::aws::operator::RawMessage;
use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::{Socket, Stack, eventually};

/// Handshakes at the same time, where many are opened.
const HANDSHAKES_AT_ONCE: usize = 16;
/// How often a handshake is tried. The local AWS answers 500 or 403 to one whose functions it may not start.
const HANDSHAKES: u32 = 8;
/// How often a call is made that the gateway does not start.
const CALLS: u32 = 30;

/// What a producer puts on a queue of claims, in its campaign's group.
pub fn raw(campaign: &str, body: impl ToString) -> RawMessage {
    RawMessage {
        group: campaign.to_owned(),
        body: body.to_string(),
    }
}

/// A partner and its key. Every test makes its own, so that all can run at once.
#[derive(Clone, Debug)]
pub struct Partner {
    stack: Stack,
    id: PartnerId,
    key: Option<String>,
}

/// An answer of the API.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: String,
    /// The body; `Null` if it is not JSON.
    pub body: Value,
}

impl Reply {
    /// The body, if the status is as expected.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The problem's `code`, if this is a problem document with this status.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn problem(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(
            self.content_type.starts_with("application/problem+json"),
            "{}",
            self.content_type
        );
        let code = self.body["code"]
            .as_str()
            .unwrap_or_else(|| panic!("a problem without code: {}", self.body));
        code.to_owned()
    }
}

impl Partner {
    pub(crate) fn new(stack: Stack, id: PartnerId, key: Option<String>) -> Self {
        Self { stack, id, key }
    }

    /// Who it is.
    pub fn id(&self) -> &PartnerId {
        &self.id
    }

    /// A claim as its producer writes it.
    pub fn claim_message(&self, campaign: &str, user: &str, claim_id: &str) -> Value {
        json!({
            "version": 1, "claimId": claim_id, "partnerId": self.id.as_str(), "campaignId": campaign, "userId": user,
        })
    }

    /// Its API key, if it has one.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, None, None).await
    }

    /// `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.call(Method::POST, path, Some(body.to_string()), None)
            .await
    }

    /// `POST` with a JSON body under an `Idempotency-Key`.
    pub async fn post_once(&self, path: &str, body: Value, key: &str) -> Reply {
        self.call(Method::POST, path, Some(body.to_string()), Some(key))
            .await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Reply {
        self.call(Method::DELETE, path, None, None).await
    }

    /// `POST` of a text as it is.
    pub async fn post_text(&self, path: &str, body: &str) -> Reply {
        self.call(Method::POST, path, Some(body.to_owned()), None)
            .await
    }

    /// A campaign of `total` that is open now; its id.
    pub async fn campaign(&self, total: u32) -> String {
        self.campaign_of(json!({"title": "end-to-end test", "total": total}))
            .await
    }

    /// A campaign as described; its id.
    ///
    /// # Panics
    /// If the API does not create it.
    pub async fn campaign_of(&self, body: Value) -> String {
        text_of(
            &self.post("/v1/campaigns", body).await.expect(201),
            "campaignId",
        )
    }

    /// Closes a campaign.
    ///
    /// # Panics
    /// If the API does not.
    pub async fn close(&self, campaign: &str) {
        self.post(&format!("/v1/campaigns/{campaign}/close"), json!({}))
            .await
            .expect(200);
    }

    /// A ticket as an address to connect to.
    ///
    /// # Panics
    /// If the API issues none.
    pub async fn address(&self, user: &str, ttl_seconds: u32) -> String {
        let body = json!({"userId": user, "ttlSeconds": ttl_seconds});
        let answer = self.post("/v1/tickets", body).await.expect(201);
        format!(
            "{}?ticket={}",
            text_of(&answer, "webSocketUrl"),
            text_of(&answer, "ticket")
        )
    }

    /// A user's open socket. A busy gateway is asked again, each time with a new ticket.
    ///
    /// # Panics
    /// If it does not open.
    pub async fn socket(&self, user: &str) -> Socket {
        let mut statuses = Vec::new();
        for _ in 0..HANDSHAKES {
            match Socket::open(&self.address(user, 60).await).await {
                Ok(socket) => return socket,
                Err(status) => statuses.push(status),
            }
            sleep(Duration::from_millis(fastrand::u64(200..3000))).await;
        }
        panic!("the socket did not open: {statuses:?}")
    }

    /// Open sockets of so many users, some handshakes at a time.
    pub async fn sockets(&self, users: usize) -> Vec<(String, Socket)> {
        let open = async |number: usize| {
            let user = format!("user-{number}");
            let socket = self.socket(&user).await;
            (user, socket)
        };
        stream::iter(0..users)
            .map(open)
            .buffered(HANDSHAKES_AT_ONCE)
            .collect()
            .await
    }

    /// A user's open socket that hears the campaign.
    pub async fn subscribed(&self, user: &str, campaign: &str) -> Socket {
        let mut socket = self.socket(user).await;
        socket.subscribe(campaign).await;
        socket
    }

    /// Tells everybody of the campaign, or of the partner; the broadcast's id.
    ///
    /// # Panics
    /// If the API refuses.
    pub async fn broadcast(&self, campaign: Option<&str>, message: &str) -> String {
        let path = campaign.map_or("/v1/broadcasts".to_owned(), |id| {
            format!("/v1/campaigns/{id}/broadcasts")
        });
        text_of(
            &self
                .post(&path, json!({"message": message}))
                .await
                .expect(202),
            "broadcastId",
        )
    }

    /// A broadcast's report once it is finished.
    pub async fn finished_report(&self, broadcast: &str) -> Value {
        let path = format!("/v1/broadcasts/{broadcast}");
        eventually(
            "the broadcast finishes",
            Duration::from_secs(240),
            async || {
                let report = self.get(&path).await.expect(200);
                report["finishedAt"].is_string().then_some(report)
            },
        )
        .await
    }

    /// A call whose path goes out as it is written: whoever parses a URL takes `%2e%2e` for a step up and drops tabs. Its
    /// status. Over TLS, on AWS, it goes through such a parser all the same.
    ///
    /// # Panics
    /// If the API does not answer, or stays too busy.
    pub async fn call_as_written(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> u16 {
        let api = self.stack.operator().stack().http_api_url.clone();
        for _ in 0..CALLS {
            let status = match api.strip_prefix("http://") {
                Some(rest) => {
                    let (host, base) = rest.split_once('/').unwrap_or((rest, ""));
                    let target = format!("/{base}{path}");
                    self.write_request(host, method.as_str(), &target, headers, body)
                        .await
                }
                None => {
                    let url = format!("{api}{path}");
                    let mut request = self.stack.http().request(method.clone(), &url);
                    for (name, value) in self.key_header().iter().chain(headers) {
                        request = request.header(*name, *value);
                    }
                    let sent = request.body(body.to_owned()).send().await;
                    let response =
                        sent.unwrap_or_else(|error| panic!("the API does not answer: {error}"));
                    response.status().as_u16()
                }
            };
            if status != 429 {
                return status;
            }
            sleep(Duration::from_millis(fastrand::u64(200..2000))).await;
        }
        panic!("{method} {path}: the gateway stays too busy")
    }

    fn key_header(&self) -> Vec<(&str, &str)> {
        self.key()
            .map(|key| ("X-API-Key", key))
            .into_iter()
            .collect()
    }

    async fn write_request(
        &self,
        host: &str,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> u16 {
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        for (name, value) in self.key_header().iter().chain(headers) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        let answer = async {
            let mut socket = TcpStream::connect(host).await?;
            socket.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = answer
            .await
            .unwrap_or_else(|error| panic!("the API does not answer: {error}"));
        let answer = String::from_utf8_lossy(&answer);
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("no answer of HTTP: {answer}"))
    }

    /// A call that the service answers: where the gateway is too busy to start it, nothing has run, and it is made again.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        once: Option<&str>,
    ) -> Reply {
        for _ in 0..CALLS {
            let reply = self
                .call_once(method.clone(), path, body.clone(), once)
                .await;
            if reply.status != 429 || reply.content_type.starts_with("application/problem+json") {
                return reply;
            }
            sleep(Duration::from_millis(fastrand::u64(200..2000))).await;
        }
        panic!("{method} {path}: the gateway stays too busy")
    }

    async fn call_once(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        once: Option<&str>,
    ) -> Reply {
        let url = format!("{}{path}", self.stack.operator().stack().http_api_url);
        let mut request = self.stack.http().request(method, &url);
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        if let Some(key) = once {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = body {
            request = request
                .header("Content-Type", "application/json")
                .body(body);
        }
        let response = request
            .send()
            .await
            .unwrap_or_else(|error| panic!("the API does not answer: {error}"));
        let content_type = response
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok());
        Reply {
            status: response.status().as_u16(),
            content_type: content_type.unwrap_or_default().to_owned(),
            body: response.json().await.unwrap_or_default(),
        }
    }
}

fn text_of(body: &Value, field: &str) -> String {
    body[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {body}"))
        .to_owned()
}
