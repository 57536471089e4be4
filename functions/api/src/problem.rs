//! Errors as RFC 9457 problems with stable codes. Nothing internal and nothing the caller sent gets in.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use firstcome_core::{Fate, InvalidValue, Malformed, PortError, TicketError};
use serde::Serialize;

/// Why a request was not carried out.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    field: Option<String>,
    /// Whether the same request may work in a second.
    passes: bool,
}

/// The problem's code, left on the response for the summary line.
#[derive(Clone, Copy)]
pub(crate) struct Code(pub(crate) &'static str);

/// Why a request was not carried out (RFC 9457).
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Problem"))]
pub(crate) struct ProblemBody<'a> {
    /// `about:blank`: `status` and `code` say it all.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    #[cfg_attr(test, schemars(range(min = 400, max = 599)))]
    status: u16,
    /// For programs: stable.
    code: &'static str,
    /// For people: may change.
    detail: &'a str,
    /// What of the request is malformed: a member of the body, a parameter, a header, or `body`, `path`, `query`.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            field: None,
            passes: status == StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// 409: another attempt at the same request is under way.
    pub(crate) fn in_progress() -> Self {
        let detail = "the same request is still being carried out";
        Self {
            passes: true,
            ..Self::new(StatusCode::CONFLICT, "in_progress", detail)
        }
    }

    /// 429.
    pub(crate) fn too_many(detail: &str) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail);
        Self {
            passes: true,
            ..problem
        }
    }

    /// 400, with the field's public name.
    pub(crate) fn malformed(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::BAD_REQUEST, "malformed", detail);
        Self {
            field: Some(field.into()),
            ..problem
        }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "X-API-Key must be a valid key",
        )
    }

    pub(crate) fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    pub(crate) fn conflict(code: &'static str, detail: &str) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    pub(crate) fn idempotency_mismatch() -> Self {
        let detail = "Idempotency-Key came before with another request";
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_mismatch",
            detail,
        )
    }

    /// 500; the cause goes to the log and nowhere else.
    pub(crate) fn internal(cause: &dyn std::error::Error) -> Self {
        tracing::error!(error = %chain(cause), "request failed");
        Self::panicked()
    }

    /// 500; the cause is in the log.
    pub(crate) fn panicked() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the request failed on our side",
        )
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// What of the request is malformed.
    #[cfg(test)]
    pub(crate) fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if self.passes {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        headers
    }

    /// The document.
    pub(crate) fn text(&self) -> String {
        let body = ProblemBody {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            field: self.field.as_deref(),
        };
        // Texts and a number: they can be written.
        serde_json::to_string(&body).unwrap_or_default()
    }
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

impl From<InvalidValue> for Problem {
    fn from(error: InvalidValue) -> Self {
        Self::malformed(error.field, error.to_string())
    }
}

impl From<Malformed> for Problem {
    fn from(error: Malformed) -> Self {
        let detail = error.to_string();
        Self::malformed(error.field, detail)
    }
}

impl From<PortError> for Problem {
    fn from(error: PortError) -> Self {
        match error.fate {
            Fate::Reject => Self::internal(&error),
            Fate::Retry => {
                tracing::warn!(error = %chain(&error), "request not carried out for now");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "unavailable",
                    "try again shortly",
                )
            }
        }
    }
}

impl From<TicketError> for Problem {
    fn from(error: TicketError) -> Self {
        Self::internal(&error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.headers(), self.text()).into_response();
        response.extensions_mut().insert(Code(self.code));
        response
    }
}
