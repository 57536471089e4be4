//! A user's WebSocket, with time-outs, and the good manners that the interface asks of a client.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long an answer may take. A batch of answers that failed comes back after the queue's visibility timeout of 180 s.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long to wait in silence before asking again.
const SILENCE: Duration = Duration::from_secs(12);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// An open socket. Frames that nobody has asked for yet are kept in their order.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    unread: VecDeque<Value>,
}

impl Socket {
    /// Opens it.
    ///
    /// # Errors
    /// The gateway's HTTP status.
    ///
    /// # Panics
    /// If there is no gateway.
    pub async fn open(address: &str) -> Result<Self, u16> {
        Self::open_from(address, None).await
    }

    /// Opens it from a page of this origin, as a browser does.
    ///
    /// # Errors
    /// The gateway's HTTP status.
    ///
    /// # Panics
    /// If there is no gateway, or the origin can be no header.
    pub async fn open_from(address: &str, origin: Option<&str>) -> Result<Self, u16> {
        let mut request = address
            .into_client_request()
            .unwrap_or_else(|error| panic!("no address of a socket: {error}"));
        if let Some(origin) = origin {
            let origin = origin.parse().expect("an origin is a header's value");
            request.headers_mut().insert("origin", origin);
        }
        match timeout(HANDSHAKE, connect_async(request)).await {
            Ok(Ok((stream, _))) => Ok(Self {
                stream,
                unread: VecDeque::new(),
            }),
            Ok(Err(Error::Http(response))) => Err(response.status().as_u16()),
            Ok(Err(error)) => panic!("the gateway does not answer: {error}"),
            Err(_) => panic!("the handshake took more than {} s", HANDSHAKE.as_secs()),
        }
    }

    /// Sends a text as it is.
    ///
    /// # Panics
    /// If the socket is closed.
    pub async fn send(&mut self, text: impl Into<String>) {
        let sent = self.stream.send(Message::text(text.into())).await;
        sent.unwrap_or_else(|error| panic!("the socket is closed: {error}"));
    }

    /// Sends a frame and waits for the answer to it; sends it again if the gateway has answered and not the service, or
    /// if nothing came for a while. So the frame must bear repetition: a claim needs its claimId.
    ///
    /// # Panics
    /// If no such frame comes in time.
    pub async fn ask(
        &mut self,
        frame: Value,
        what: &str,
        is_answer: impl Fn(&Value) -> bool,
    ) -> Value {
        // Answers to earlier questions are none to this one.
        self.unread.retain(|frame| !is_answer(frame));
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        self.send(frame.to_string()).await;
        let mut patience = Instant::now() + SILENCE;
        while Instant::now() < deadline {
            match self.read(patience).await {
                Some(heard) if is_gateways(&heard) => {
                    sleep(Duration::from_millis(fastrand::u64(200..2000))).await;
                    self.send(frame.to_string()).await;
                }
                Some(heard) if is_answer(&heard) => return heard,
                Some(heard) if heard["code"] == "malformed" => panic!("{what}: {frame}: {heard}"),
                Some(heard) => {
                    seen.push(heard.to_string());
                    self.unread.push_back(heard);
                }
                None => {
                    self.send(frame.to_string()).await;
                    patience = Instant::now() + SILENCE;
                }
            }
        }
        panic!("{what}: no answer to {frame}; heard {seen:?}")
    }

    /// Waits for a frame, unread ones first.
    ///
    /// # Panics
    /// If no such frame comes in time.
    pub async fn wait(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = self.wait_for(PATIENCE, wanted).await;
        found.unwrap_or_else(|| {
            panic!(
                "{what}: not within {} s; unread: {:?}",
                PATIENCE.as_secs(),
                self.unread
            )
        })
    }

    /// Waits so long for a frame, unread ones first.
    pub async fn wait_for(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Option<Value> {
        if let Some(position) = self.unread.iter().position(&wanted) {
            return self.unread.remove(position);
        }
        let deadline = Instant::now() + limit;
        while let Some(heard) = self.read(deadline).await {
            if is_gateways(&heard) {
                continue;
            }
            if wanted(&heard) {
                return Some(heard);
            }
            self.unread.push_back(heard);
        }
        None
    }

    /// The next frame of any kind within so long, the gateway's own as well.
    pub async fn next(&mut self, limit: Duration) -> Option<Value> {
        match self.unread.pop_front() {
            Some(frame) => Some(frame),
            None => self.read(Instant::now() + limit).await,
        }
    }

    /// Claims and waits for the answer: the `claim.result`.
    pub async fn claim(&mut self, campaign: &str, claim_id: &str) -> Value {
        let frame = json!({"action": "claim", "campaignId": campaign, "claimId": claim_id});
        self.ask(frame, "claim.result", |frame| {
            frame["type"] == "claim.result" && frame["claimId"] == claim_id
        })
        .await
    }

    /// Asks for the answer again: `claim.result` or `claim.undecided`.
    pub async fn result(&mut self, campaign: &str) -> Value {
        let frame = json!({"action": "result", "campaignId": campaign});
        self.ask(frame, "result", |frame| {
            frame["type"] == "claim.result" || frame["type"] == "claim.undecided"
        })
        .await
    }

    /// Subscribes and waits until that is confirmed.
    pub async fn subscribe(&mut self, campaign: &str) {
        let frame = json!({"action": "subscribe", "campaignId": campaign});
        self.ask(frame, "subscribed", |frame| {
            frame["type"] == "subscribed" && frame["campaignId"] == campaign
        })
        .await;
    }

    /// Whether the socket still answers.
    pub async fn ping(&mut self) {
        self.ask(json!({"action": "ping"}), "pong", |frame| {
            frame["type"] == "pong"
        })
        .await;
    }

    /// Cuts the connection without a close frame.
    pub fn cut(self) {
        // Without the option the peer sees an end of stream instead: as abrupt, only later noticed.
        drop(self.stream.get_ref().get_ref().set_zero_linger());
    }

    /// Closes it politely.
    pub async fn close(mut self) {
        // A peer that has gone already needs no farewell.
        drop(timeout(Duration::from_secs(5), self.stream.close(None)).await);
    }

    /// The next frame; `None` when the time is over. What is not JSON is an object without `type`, too.
    async fn read(&mut self, deadline: Instant) -> Option<Value> {
        loop {
            let message = timeout_at(deadline, self.stream.next()).await.ok()?;
            match message {
                Some(Ok(Message::Text(text))) => {
                    return Some(
                        serde_json::from_str(&text)
                            .unwrap_or_else(|_| json!({"raw": text.as_str()})),
                    );
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    panic!("the gateway has closed the socket")
                }
                Some(Ok(_)) => {}
            }
        }
    }
}

/// Whether a frame is the gateway's own: the service's all have a `type`.
fn is_gateways(frame: &Value) -> bool {
    frame["type"].is_null()
}
