//! The webhook over HTTP, and its address in the stack's secret. The address is a secret: it is never logged, and an error
//! does not quote it.

use std::time::Duration;

use firstcome_core::aws::{Aws, stored_text};
use firstcome_core::{Delivery, PortError, Webhook, WebhookAddress, WebhookUrl};
use lambda_runtime::Error;
use reqwest::{Client, Response, StatusCode, header::RETRY_AFTER, redirect::Policy};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What an operator stores to have alarms told to nobody: a secret cannot be emptied again.
const UNSET: &str = "unset";

/// The address in Secrets Manager; read for each alarm, so that a new one holds at once.
pub(crate) struct SecretAddress {
    aws: Aws,
    secret: String,
}

impl SecretAddress {
    pub(crate) fn new(aws: Aws, secret: String) -> Self {
        Self { aws, secret }
    }
}

impl WebhookAddress for SecretAddress {
    async fn url(&self) -> Result<Option<WebhookUrl>, PortError> {
        address(stored_text(&self.aws, &self.secret).await?.as_deref())
    }
}

/// The stack creates the secret without a value (template.yaml), which the local AWS reads as an empty one.
fn address(stored: Option<&str>) -> Result<Option<WebhookUrl>, PortError> {
    match stored.map_or("", str::trim) {
        "" | UNSET => Ok(None),
        url => WebhookUrl::new(url)
            .map(Some)
            .map_err(|error| PortError::reject("read the webhook's address", error)),
    }
}

/// Posts JSON.
pub(crate) struct HttpWebhook(Client);

impl HttpWebhook {
    pub(crate) fn new() -> Result<Self, Error> {
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self(client))
    }
}

impl Webhook for HttpWebhook {
    async fn post(&self, url: &WebhookUrl, body: &serde_json::Value) -> Delivery {
        match self.0.post(url.as_str()).json(body).send().await {
            Ok(response) => judge(&response),
            Err(error) => Delivery::Again(error.without_url().to_string(), None),
        }
    }
}

fn judge(response: &Response) -> Delivery {
    let status = response.status();
    if status.is_success() {
        return Delivery::Told;
    }
    let said = status.to_string();
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        Delivery::Again(said, retry_after(response))
    } else {
        Delivery::Refused(said)
    }
}

/// Seconds, as Slack and Discord send them; a date is left aside.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let seconds: f64 = seconds.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_secret_without_an_address_names_nobody() {
        for stored in [None, Some(""), Some(" \n"), Some("unset"), Some("unset\n")] {
            assert!(address(stored).unwrap().is_none(), "{stored:?}");
        }
        address(Some("https://example.com/hook\n"))
            .unwrap()
            .unwrap();
        address(Some("not an address")).unwrap_err();
    }

    /// One HTTP answer, and the request it was for.
    async fn post_to(answer: &str) -> (Delivery, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = socket.read(&mut request).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        };
        let webhook = HttpWebhook::new().unwrap();
        let url = WebhookUrl::new(&url).unwrap();
        let body = serde_json::json!({"text": "hello"});
        tokio::join!(webhook.post(&url, &body), serve)
    }

    #[tokio::test]
    async fn what_a_webhook_answers_is_told_apart() {
        let end = "content-length: 0\r\nconnection: close\r\n\r\n";
        let (told, request) = post_to(&format!("HTTP/1.1 204 No Content\r\n{end}")).await;
        assert_eq!(told, Delivery::Told);
        assert!(request.starts_with("POST /hook HTTP/1.1"), "{request}");
        assert!(
            request.contains("content-type: application/json"),
            "{request}"
        );

        let (again, _) = post_to(&format!("HTTP/1.1 429 Slow\r\nretry-after: 1.5\r\n{end}")).await;
        let Delivery::Again(_, Some(after)) = again else {
            panic!("{again:?}")
        };
        assert_eq!(after, Duration::from_millis(1500));
        for odd in [
            "1e19",
            "1e300",
            "inf",
            "nan",
            "-1",
            "",
            "Sat, 28 Nov 2026 09:00:00 GMT",
        ] {
            let answer = format!("HTTP/1.1 429 Slow\r\nretry-after: {odd}\r\n{end}");
            let (again, _) = post_to(&answer).await;
            let Delivery::Again(_, after) = again else {
                panic!("{again:?}")
            };
            // A time that a duration can say is handed on, however long; how long is waited is not decided here.
            assert_eq!(after.is_some(), odd == "1e19", "{odd}: {after:?}");
        }
        let (again, _) = post_to(&format!("HTTP/1.1 503 Down\r\n{end}")).await;
        assert!(matches!(again, Delivery::Again(_, None)), "{again:?}");
        for status in [
            "404 Not Found",
            "301 Moved\r\nlocation: http://127.0.0.1:1/",
        ] {
            let (refused, _) = post_to(&format!("HTTP/1.1 {status}\r\n{end}")).await;
            assert!(
                matches!(refused, Delivery::Refused(_)),
                "{status}: {refused:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_dead_webhook_is_tried_again_and_its_address_is_not_quoted() {
        let url = WebhookUrl::new("http://127.0.0.1:1/secret-token").unwrap();
        let answer = HttpWebhook::new()
            .unwrap()
            .post(&url, &serde_json::json!({}))
            .await;
        let Delivery::Again(words, None) = answer else {
            panic!("{answer:?}")
        };
        assert!(!words.contains("secret-token"), "{words}");
    }
}
