//! A stand-in for all that a function speaks to, on one loopback port: the Lambda Runtime API, `@connections`, and Secrets
//! Manager, which two functions ask while they start. It notes when the function asks for work and when it answers.
//! https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::{Mutex as Turn, mpsc},
};

const RUNTIME: &str = "/2018-06-01/runtime";
/// What an invocation has left: longer than any here.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a function did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It asked for an invocation.
    Asked(Instant),
    /// It answered one, well or with an error.
    Answered(Instant, Result<String, String>),
}

/// The stand-in: what it hands out, and what it saw.
pub(crate) struct Service {
    pub(crate) port: u16,
    pub(crate) events: mpsc::UnboundedSender<Bytes>,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    pub(crate) posts: Arc<Mutex<u64>>,
}

struct Desk {
    events: Turn<mpsc::UnboundedReceiver<Bytes>>,
    seen: mpsc::UnboundedSender<Seen>,
    posts: Arc<Mutex<u64>>,
}

impl Service {
    /// # Errors
    /// If there is no free port.
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (events, waiting) = mpsc::unbounded_channel();
        let (noted, seen) = mpsc::unbounded_channel();
        let posts = Arc::new(Mutex::new(0));
        let desk = Arc::new(Desk {
            events: Turn::new(waiting),
            seen: noted,
            posts: Arc::clone(&posts),
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let desk = Arc::clone(&desk);
                // Without it answers wait for acknowledgements.
                let _ = stream.set_nodelay(true);
                tokio::spawn(async move {
                    let answer =
                        service_fn(async |request| Ok::<_, Infallible>(desk.answer(request).await));
                    let connection = http1::Builder::new();
                    // A function is ended in the middle of its next request.
                    let _ = connection
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
        });
        Ok(Self {
            port,
            events,
            seen,
            posts,
        })
    }
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let secrets = request
            .headers()
            .get("x-amz-target")
            .is_some_and(|target| target == "secretsmanager.GetSecretValue");
        let signed = request.headers().contains_key("authorization");
        if path == format!("{RUNTIME}/invocation/next") {
            return self.next().await;
        }
        let body = request.into_body().collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&body).into_owned();
        if path.starts_with(RUNTIME) {
            let outcome = if path.ends_with("/response") {
                Ok(text)
            } else {
                Err(text)
            };
            // Nobody listens any more once the trial is over.
            let _ = self.seen.send(Seen::Answered(Instant::now(), outcome));
            return with(StatusCode::ACCEPTED, r#"{"status":"OK"}"#);
        }
        if secrets {
            return with(
                StatusCode::OK,
                r#"{"ARN":"arn","Name":"ticket","SecretString":"a secret of at least thirty-two bytes, for tickets"}"#,
            );
        }
        if path.contains("@connections") && signed {
            *self.posts.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            return with(StatusCode::OK, "");
        }
        with(StatusCode::BAD_REQUEST, r#"{"message":"not here"}"#)
    }

    /// Waits for work and hands it out.
    async fn next(&self) -> Response<Full<Bytes>> {
        // Nobody listens any more once the trial is over.
        let _ = self.seen.send(Seen::Asked(Instant::now()));
        let Some(event) = self.events.lock().await.recv().await else {
            return with(StatusCode::GONE, "");
        };
        let deadline = SystemTime::now() + DEADLINE;
        let millis = deadline
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let response = Response::builder()
            .header("content-type", "application/json")
            .header(
                "lambda-runtime-aws-request-id",
                "11111111-2222-4333-8444-555555555555",
            )
            .header("lambda-runtime-deadline-ms", millis.to_string())
            .header(
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:us-east-1:000000000000:function:bench",
            )
            .header(
                "lambda-runtime-trace-id",
                "Root=1-00000000-000000000000000000000000;Sampled=0",
            )
            .body(Full::new(event));
        response.unwrap_or_else(|_| with(StatusCode::INTERNAL_SERVER_ERROR, ""))
    }
}

fn with(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response
}
