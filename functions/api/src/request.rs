//! Reads requests: bodies, ids in paths, cursors and idempotency keys. Complaints name the field and never echo it.

use std::collections::HashMap;

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, StatusCode, request::Parts},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use firstcome_core::{BroadcastId, CampaignId, IdempotencyKey, InvalidValue, UserId, sha256_hex};
use serde::{Deserialize, de::DeserializeOwned};

use crate::problem::Problem;

/// The largest body, in bytes.
const MAX_BODY_BYTES: usize = 8 * 1024;

/// A JSON body and the hash by which a repeat is recognized.
pub(crate) struct Body<T> {
    pub(crate) value: T,
    pub(crate) sha256: String,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        // The whole body is in memory already; reading it fails only for its length.
        let bytes = to_bytes(request.into_body(), MAX_BODY_BYTES)
            .await
            .map_err(|_| {
                let detail = format!("body must be at most {MAX_BODY_BYTES} bytes");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
            })?;
        Ok(Self {
            value: parse(&bytes)?,
            sha256: sha256_hex(&bytes),
        })
    }
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Problem> {
    // Serde would take an array for a struct.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(not_an_object());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| complaint(error.path().to_string(), error.inner()))?;
    deserializer.end().map_err(|_| not_an_object())?;
    Ok(value)
}

fn not_an_object() -> Problem {
    Problem::malformed("body", "body must be a JSON object")
}

/// Serde's complaint, cut down to the field and what it may hold: the rest quotes the offending value.
fn complaint(path: String, error: &serde_json::Error) -> Problem {
    if !error.is_data() {
        return not_an_object();
    }
    let text = error.to_string();
    let text = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(text, _)| text);
    let named = |prefix: &str| {
        text.strip_prefix(prefix)?
            .strip_suffix('`')
            .map(str::to_owned)
    };
    if let Some(field) = named("missing field `") {
        let detail = format!("{field} is missing");
        return Problem::malformed(field, detail);
    }
    if let Some(field) = named("duplicate field `") {
        let detail = format!("{field} must be given once");
        return Problem::malformed(field, detail);
    }
    let expected = match text.strip_prefix("invalid ") {
        Some(quoting) => quoting
            .rsplit_once(", expected ")
            .map(|(_, expected)| expected),
        None => text.split_once(" must be ").map(|(_, expected)| expected),
    };
    let expected = match expected {
        Some("u32") => "a whole number from 0 to 4294967295",
        Some(expected) => expected,
        None => "a value of the documented type",
    };
    let detail = format!("{path} must be {expected}");
    Problem::malformed(path, detail)
}

/// The ids in a path.
pub(crate) struct PathIds(HashMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for PathIds {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let ids = Path::from_request_parts(parts, state).await;
        ids.map(|Path(ids)| Self(ids))
            .map_err(|_| Problem::not_found("there is no such route"))
    }
}

impl PathIds {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A text that can be no campaign's id names none: 404, not 400.
    pub(crate) fn campaign(&self) -> Result<CampaignId, Problem> {
        let id = CampaignId::new(self.text("campaignId"))
            .ok()
            .filter(|id| id.minted_at().is_some());
        id.ok_or_else(|| Problem::not_found("there is no such campaign"))
    }

    pub(crate) fn user(&self) -> Result<UserId, Problem> {
        Ok(UserId::new(self.text("userId"))?)
    }

    pub(crate) fn broadcast(&self) -> Result<BroadcastId, Problem> {
        BroadcastId::new(self.text("broadcastId"))
            .map_err(|_| Problem::not_found("there is no such broadcast"))
    }
}

/// Where a page starts: behind this campaign, or at the first.
pub(crate) struct Cursor(pub(crate) Option<CampaignId>);

#[derive(Deserialize)]
struct CursorQuery {
    cursor: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Cursor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let invalid = || InvalidValue {
            field: "cursor",
            expected: "the `next` of an earlier page",
        };
        let query = Query::<CursorQuery>::from_request_parts(parts, state)
            .await
            .map_err(|_| invalid())?;
        let Some(text) = &query.cursor else {
            return Ok(Self(None));
        };
        let id = URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| CampaignId::new(String::from_utf8(bytes).ok()?).ok());
        let id = id
            .filter(|id| id.minted_at().is_some())
            .ok_or_else(invalid)?;
        Ok(Self(Some(id)))
    }
}

impl Cursor {
    /// The cursor as clients carry it.
    pub(crate) fn text(next: &CampaignId) -> String {
        URL_SAFE_NO_PAD.encode(next.as_str())
    }
}

/// The request's `Idempotency-Key`, if it has one.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, InvalidValue> {
    // A value that is no text fails like an empty one.
    let text = headers
        .get("idempotency-key")
        .map(|value| value.to_str().unwrap_or_default());
    text.map(IdempotencyKey::new).transpose()
}
