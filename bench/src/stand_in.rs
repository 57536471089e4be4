//! A stand-in for API Gateway's `@connections`: answers posts late, gone, throttled or broken, as told, and counts them.
//! It keeps nothing that is posted.

use std::{
    convert::Infallible,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::AUTHORIZATION,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep},
};

/// The largest message API Gateway takes.
const LARGEST_MESSAGE: usize = 128 * 1024;
/// Connections open at once; more wait in the listener's queue.
const CONNECTIONS: usize = 4096;
/// The grain of [`Counts::timeline`].
pub const TICK: Duration = Duration::from_millis(100);
/// How many ticks are counted: ten minutes.
const TICKS: usize = 6000;
/// How long a connection may send nothing of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// How the stand-in answers.
#[derive(Args, Clone, Debug)]
pub struct Behaviour {
    /// Milliseconds from a request to its answer.
    #[arg(long, default_value_t = 10.0)]
    pub latency_ms: f64,
    /// Milliseconds more, at most: each answer takes a random part of it.
    #[arg(long, default_value_t = 0.0)]
    pub jitter_ms: f64,
    /// Percent of answers that are slow.
    #[arg(long, default_value_t = 0.0)]
    pub slow_percent: f64,
    /// Milliseconds that a slow answer takes.
    #[arg(long, default_value_t = 1000.0)]
    pub slow_ms: f64,
    /// Percent of connections that are gone: always the same ones.
    #[arg(long, default_value_t = 0.0)]
    pub gone_percent: f64,
    /// Percent of requests that are answered 500.
    #[arg(long, default_value_t = 0.0)]
    pub error_percent: f64,
    /// Requests per second that are let through; the rest is answered 429. 0: all.
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Requests that may come at once within that rate.
    #[arg(long, default_value_t = 100.0)]
    pub burst: f64,
}

/// What the stand-in has seen.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Answered 200.
    pub delivered: u64,
    /// Answered 410.
    pub gone: u64,
    /// Answered 429.
    pub throttled: u64,
    /// Answered 500.
    pub failed: u64,
    /// No signed post to a connection.
    pub malformed: u64,
    /// TCP connections taken.
    pub connections: u64,
    /// The most requests in work at once.
    pub most_in_flight: u64,
    /// Let through and throttled in each [`TICK`] since the first request.
    pub timeline: Vec<(u32, u32)>,
}

/// Answers on `listener` until the future is dropped.
///
/// # Errors
/// If no connection can be taken any more.
pub async fn serve(listener: TcpListener, desk: Arc<Desk>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let (stream, _) = listener.accept().await?;
        let desk = Arc::clone(&desk);
        tokio::spawn(async move {
            let _place = place;
            desk.attend(stream).await;
        });
    }
}

/// Decides the answers and keeps the counts.
#[derive(Debug)]
pub struct Desk {
    behaviour: Behaviour,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    counts: Counts,
    in_flight: u64,
    started: Option<Instant>,
    tokens: f64,
    filled_at: Instant,
}

impl Desk {
    /// Answers so.
    pub fn new(behaviour: Behaviour) -> Self {
        let state = State {
            counts: Counts::default(),
            in_flight: 0,
            started: None,
            tokens: behaviour.burst,
            filled_at: Instant::now(),
        };
        Self {
            behaviour,
            state: Mutex::new(state),
        }
    }

    /// What was seen so far.
    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    async fn attend(&self, stream: TcpStream) {
        self.state().counts.connections += 1;
        // Without it answers wait for acknowledgements; a socket that is gone already needs neither.
        let _ = stream.set_nodelay(true);
        let service = service_fn(async |request| Ok::<_, Infallible>(self.answer(request).await));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        // A client that goes away in the middle is its own business.
        let _ = connection.await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Empty<Bytes>> {
        let _presence = Presence::new(self);
        let status = self.admit(&request);
        let body = Limited::new(request.into_body(), LARGEST_MESSAGE)
            .collect()
            .await;
        sleep(self.latency()).await;
        let mut response = Response::new(Empty::new());
        *response.status_mut() = match body {
            Ok(_) => status,
            Err(_) => StatusCode::PAYLOAD_TOO_LARGE,
        };
        response
    }

    /// Judges a request when it arrives, and counts it.
    fn admit(&self, request: &Request<Incoming>) -> StatusCode {
        let connection = connection_of(request);
        let mut state = self.state();
        let Some(connection) = connection else {
            state.counts.malformed += 1;
            return StatusCode::FORBIDDEN;
        };
        let granted = self.behaviour.rate == 0.0 || state.take_token(&self.behaviour);
        state.note(granted);
        if !granted {
            state.counts.throttled += 1;
            StatusCode::TOO_MANY_REQUESTS
        } else if chance(self.behaviour.error_percent) {
            state.counts.failed += 1;
            StatusCode::INTERNAL_SERVER_ERROR
        } else if is_gone(connection, self.behaviour.gone_percent) {
            state.counts.gone += 1;
            StatusCode::GONE
        } else {
            state.counts.delivered += 1;
            StatusCode::OK
        }
    }

    fn latency(&self) -> Duration {
        let behaviour = &self.behaviour;
        let millis = if chance(behaviour.slow_percent) {
            behaviour.slow_ms
        } else {
            behaviour.latency_ms + behaviour.jitter_ms * fastrand::f64()
        };
        Duration::from_secs_f64(millis.max(0.0) / 1000.0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request in work, until it is dropped: a client may go away before its answer.
struct Presence<'a>(&'a Desk);

impl<'a> Presence<'a> {
    fn new(desk: &'a Desk) -> Self {
        let mut state = desk.state();
        state.in_flight += 1;
        state.counts.most_in_flight = state.counts.most_in_flight.max(state.in_flight);
        Self(desk)
    }
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
    }
}

impl State {
    /// A token bucket, as API Gateway's throttling is.
    fn take_token(&mut self, behaviour: &Behaviour) -> bool {
        let now = Instant::now();
        let earned = now.duration_since(self.filled_at).as_secs_f64() * behaviour.rate;
        self.filled_at = now;
        self.tokens = (self.tokens + earned).min(behaviour.burst);
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }

    fn note(&mut self, granted: bool) {
        let started = *self.started.get_or_insert_with(Instant::now);
        let tick = started.elapsed().div_duration_f64(TICK) as usize;
        if tick >= TICKS {
            return;
        }
        let timeline = &mut self.counts.timeline;
        if timeline.len() <= tick {
            timeline.resize(tick + 1, (0, 0));
        }
        let (let_through, throttled) = &mut timeline[tick];
        *if granted { let_through } else { throttled } += 1;
    }
}

/// The connection a signed post is for.
fn connection_of(request: &Request<Incoming>) -> Option<&str> {
    let signed = request
        .headers()
        .get(AUTHORIZATION)?
        .as_bytes()
        .starts_with(b"AWS4-HMAC-SHA256 ");
    let (_, connection) = request.uri().path().rsplit_once("/@connections/")?;
    (signed && request.method() == Method::POST && !connection.is_empty()).then_some(connection)
}

fn chance(percent: f64) -> bool {
    percent > 0.0 && fastrand::f64() * 100.0 < percent
}

/// Whether a connection is among the gone. The same in every process.
fn is_gone(connection: &str, percent: f64) -> bool {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(connection);
    ((hash % 10_000) as f64) < percent * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaviour() -> Behaviour {
        Behaviour {
            latency_ms: 0.0,
            jitter_ms: 0.0,
            slow_percent: 0.0,
            slow_ms: 0.0,
            gone_percent: 10.0,
            error_percent: 0.0,
            rate: 1000.0,
            burst: 100.0,
        }
    }

    #[test]
    fn a_tenth_of_the_connections_is_gone_and_stays_so() {
        let gone = |index: u32| is_gone(&format!("C{index:014}%3D"), 10.0);
        let count = (0..30_000).filter(|index| gone(*index)).count();
        assert!((2800..3200).contains(&count), "{count}");
        assert!((0..1000).all(|index| gone(index) == gone(index)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_bucket_grants_its_burst_and_then_its_rate() {
        let desk = Desk::new(behaviour());
        let take = |_: &u32| desk.state().take_token(&desk.behaviour);
        assert_eq!((0..1000).filter(take).count(), 100);
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!((0..1000).filter(take).count(), 50);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((0..1000).filter(take).count(), 100, "no more is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeline_starts_with_the_first_request() {
        let desk = Desk::new(behaviour());
        tokio::time::advance(Duration::from_secs(5)).await;
        desk.state().note(true);
        tokio::time::advance(TICK).await;
        desk.state().note(false);
        assert_eq!(desk.counts().timeline, [(1, 0), (0, 1)]);
    }
}
