//! One request as API Gateway hands it over (payload format 2.0), and the answer as it takes it
//! (<https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>).
//! What cannot be a request of these routes is refused here, with a problem like any other.
//!
//! The conversion is our own because nothing of the event is to be guessed or mended: `lambda_http` builds a URL of path,
//! `Host` and `X-Forwarded-Proto`, has it parsed, and panics where that fails.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{MatchedPath, Request},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::HOST,
        uri::{Authority, PathAndQuery},
    },
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use firstcome_core::{
    ClaimId,
    metric::{self, Metric},
};
use serde::{Deserialize, Serialize};
use tower::ServiceExt;

use crate::{
    handler::{Api, Ports, router, routes},
    path::judge,
    problem::{Code, Problem},
};

/// The event, as far as it matters.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Event {
    raw_path: Option<String>,
    raw_query_string: Option<String>,
    headers: Option<HashMap<String, Option<String>>>,
    request_context: Option<Context>,
    body: Option<String>,
    is_base64_encoded: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    http: Option<Http>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Http {
    method: Option<String>,
}

/// What API Gateway takes for an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    status_code: u16,
    headers: BTreeMap<String, String>,
    body: String,
    is_base64_encoded: bool,
}

impl Answer {
    /// 500, after a panic.
    pub(crate) fn after_panic() -> Self {
        count(500);
        Self::of(&Problem::panicked())
    }

    fn of(problem: &Problem) -> Self {
        Self::new(problem.status(), &problem.headers(), problem.text())
    }

    fn new(status: StatusCode, headers: &HeaderMap, body: String) -> Self {
        // Every header that is set here is visible ASCII.
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let headers = headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), text(value)));
        Self {
            status_code: status.as_u16(),
            headers: headers.collect(),
            body,
            is_base64_encoded: false,
        }
    }
}

/// The door to the routes.
pub(crate) struct Door {
    router: Router,
    paths: Vec<&'static str>,
}

impl Door {
    pub(crate) fn new<P: Ports>(api: Arc<Api<P>>) -> Self {
        let paths = routes::<P>().iter().map(|route| route.path).collect();
        Self {
            router: router(api),
            paths,
        }
    }

    /// Answers one event, whatever it holds, and logs and counts it. The path is never logged: it holds user ids.
    pub(crate) async fn answer(&self, event: &str) -> Answer {
        let started = Instant::now();
        let response = match self.request(event) {
            Ok(request) => {
                let method = logged(request.method());
                (method, self.respond(request).await)
            }
            // The method, too, may be the fault.
            Err(problem) => (OTHER_METHOD, problem.into_response()),
        };
        let (method, response) = response;
        summarize(method, &response, started);
        let (parts, body) = response.into_parts();
        // A body of a route is in memory, as a whole; reading it cannot fail.
        let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let text = String::from_utf8(bytes.into()).unwrap_or_default();
        Answer::new(parts.status, &parts.headers, text)
    }

    async fn respond(&self, request: Request) -> Response {
        let Ok(response) = self.router.clone().oneshot(request).await;
        response
    }

    /// The event as the routes read it.
    fn request(&self, event: &str) -> Result<Request, Problem> {
        let event: Event = serde_json::from_str(event)
            .map_err(|_| malformed("event", "an HTTP API's, of payload format 2.0"))?;
        let path = event.raw_path.unwrap_or_default();
        judge(&path, self.paths.iter().copied())?;
        let query = event.raw_query_string.unwrap_or_default();
        let http = event.request_context.unwrap_or_default().http;
        let method = http.unwrap_or_default().method.unwrap_or_default();
        let mut request = Request::new(Body::from(body(event.body, event.is_base64_encoded)?));
        *request.uri_mut() = uri(&path, &query)?;
        *request.method_mut() = Method::from_bytes(method.as_bytes())
            .map_err(|_| malformed("method", "a method of HTTP"))?;
        *request.headers_mut() = headers(event.headers.unwrap_or_default())?;
        Ok(request)
    }
}

fn malformed(field: &str, expected: &str) -> Problem {
    Problem::malformed(field, format!("{field} must be {expected}"))
}

/// A path that was judged, with its query. What no query may hold (RFC 3986, section 3.4) is refused and not mended: a raw
/// `#` would cut it.
fn uri(path: &str, query: &str) -> Result<Uri, Problem> {
    let invalid = || malformed("query", "percent-encoded");
    if !query
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#')
    {
        return Err(invalid());
    }
    let both = if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    };
    PathAndQuery::try_from(both)
        .map(Uri::from)
        .map_err(|_| invalid())
}

/// A method that none of HTTP's own is, in the log.
const OTHER_METHOD: &str = "other";

/// The method as it is logged. A prepared event may call anything a method, and the log holds no text of a caller's.
fn logged(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => OTHER_METHOD,
    }
}

/// Nothing here is built of `Host` or `X-Forwarded-Proto`: the former must have its form (RFC 9112, section 3.2), of the
/// latter proxies make lists. A name comes once: API Gateway writes names in small letters and joins the values of one name,
/// and of two that differ in case it would be chance which one counts.
fn headers(sent: HashMap<String, Option<String>>) -> Result<HeaderMap, Problem> {
    let invalid = || malformed("headers", "names and values as HTTP has them");
    let mut headers = HeaderMap::new();
    for (name, value) in sent {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        let value = HeaderValue::from_bytes(value.unwrap_or_default().as_bytes());
        let value = value.map_err(|_| invalid())?;
        // A map has room for some ten thousand names; beyond them, its other methods panic.
        match headers.try_insert(name, value) {
            Ok(None) => {}
            Ok(Some(_)) => return Err(malformed("headers", "given once each")),
            Err(_) => return Err(malformed("headers", "fewer")),
        }
    }
    let has_its_form = |host: &HeaderValue| Authority::try_from(host.as_bytes()).is_ok();
    if headers.get_all(HOST).iter().all(has_its_form) {
        Ok(headers)
    } else {
        Err(malformed("Host", "a host, and perhaps a port"))
    }
}

fn body(sent: Option<String>, is_base64: Option<bool>) -> Result<Vec<u8>, Problem> {
    let sent = sent.unwrap_or_default().into_bytes();
    if is_base64.unwrap_or_default() {
        return STANDARD
            .decode(sent)
            .map_err(|_| malformed("body", "a JSON object"));
    }
    Ok(sent)
}

fn summarize(method: &'static str, response: &Response, started: Instant) {
    let of_response = response.extensions();
    let code = of_response.get::<Code>().map_or("", |code| code.0);
    let route = of_response
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str);
    let claim_id = of_response.get::<ClaimId>().map(tracing::field::display);
    let status = response.status().as_u16();
    let duration_ms = started.elapsed().as_millis() as u64;
    tracing::info!(
        http.method = method,
        http.route = route,
        http.status = status,
        duration_ms,
        problem.code = code,
        claim.id = claim_id,
        "request answered"
    );
    count(status);
}

fn count(status: u16) {
    metric::count(Metric::ApiRequests, 1);
    metric::count(Metric::ApiRefused, (400..500).contains(&status).into());
    metric::count(Metric::ApiFailed, (status >= 500).into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_logged_only_if_it_is_one_of_https_own() {
        for known in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE",
        ] {
            let method = Method::from_bytes(known.as_bytes()).unwrap();
            assert_eq!(logged(&method), known);
        }
        for other in ["get", "SECRET", "fck_1_2", "!#$"] {
            let method = Method::from_bytes(other.as_bytes()).unwrap();
            assert_eq!(logged(&method), "other", "{other}");
        }
    }
}
