//! Reads requests: bodies, ids in paths, cursors and idempotency keys. Complaints name the field and never echo it.

use std::collections::HashMap;

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, StatusCode, request::Parts},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use firstcome_core::{
    BroadcastId, CampaignId, IdempotencyKey, InvalidValue, OrderId, UserId, read_object, sha256_hex,
};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

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
        // JSON is UTF-8 (RFC 8259, section 8.1).
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Problem::malformed("body", "body must be a JSON object"))?;
        Ok(Self {
            value: read_object(text, "body")?,
            sha256: sha256_hex(&bytes),
        })
    }
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

/// The `cursor` of the query, as it came.
pub(crate) struct Cursor(pub(crate) Option<String>);

#[derive(Deserialize)]
struct CursorQuery {
    cursor: Option<String>,
}

fn invalid_cursor() -> InvalidValue {
    InvalidValue {
        field: "cursor",
        expected: "the `next` of an earlier page",
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Cursor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<CursorQuery>::from_request_parts(parts, state)
            .await
            .map_err(|_| invalid_cursor())?;
        Ok(Self(query.0.cursor))
    }
}

/// Seals cursors, so that only what this service wrote for the same list is read back. Not `Debug`: it holds a key.
pub(crate) struct CursorSeal(Hmac<Sha256>);

/// A seal's length in bytes: 128 bits.
const SEAL_BYTES: usize = 16;

impl CursorSeal {
    /// Its key is derived from the stack's ticket secret, for this use only.
    pub(crate) fn derived_from(secret: &str) -> Self {
        let derived = keyed(secret.as_bytes()).chain_update("firstcome:cursor:1");
        Self(keyed(&derived.finalize().into_bytes()))
    }

    /// The cursor behind `position` in the list `of` (its name, then whose it is).
    pub(crate) fn close(&self, of: &[&str], position: &str) -> String {
        let seal = self.over(of, position).finalize().into_bytes();
        let mut bytes = seal.get(..SEAL_BYTES).unwrap_or_default().to_vec();
        bytes.extend(position.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position in a cursor of the same list.
    pub(crate) fn open<T: TryFrom<String>>(
        &self,
        of: &[&str],
        Cursor(cursor): Cursor,
    ) -> Result<Option<T>, InvalidValue> {
        let Some(text) = cursor else {
            return Ok(None);
        };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid_cursor())?;
        let (seal, position) = bytes
            .split_at_checked(SEAL_BYTES)
            .ok_or_else(invalid_cursor)?;
        let position = String::from_utf8(position.to_vec()).map_err(|_| invalid_cursor())?;
        self.over(of, &position)
            .verify_truncated_left(seal)
            .map_err(|_| invalid_cursor())?;
        T::try_from(position)
            .map(Some)
            .map_err(|_| invalid_cursor())
    }

    fn over(&self, of: &[&str], position: &str) -> Hmac<Sha256> {
        // No id holds a NUL: the parts cannot run into one another.
        let all = of.iter().chain(std::iter::once(&position));
        all.fold(self.0.clone(), |seal, part| {
            seal.chain_update(part).chain_update([0])
        })
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // RFC 2104 takes a key of any length: it hashes a long one and pads a short one. Here every key is hashed, then padded.
    let mut block = [0; 64];
    block[..32].copy_from_slice(&Sha256::digest(key));
    <Hmac<Sha256> as KeyInit>::new(&block.into())
}

/// The `orderId` of the query.
pub(crate) struct OrderQuery(pub(crate) OrderId);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderText {
    order_id: String,
}

impl<S: Send + Sync> FromRequestParts<S> for OrderQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let missing = |_| Problem::malformed("orderId", "orderId must be given once");
        let query = Query::<OrderText>::from_request_parts(parts, state)
            .await
            .map_err(missing)?;
        Ok(Self(OrderId::new(query.0.order_id)?))
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

/// The request's `Idempotency-Key`, which it must have.
pub(crate) fn required_key(headers: &HeaderMap) -> Result<IdempotencyKey, InvalidValue> {
    idempotency_key(headers)?.ok_or(InvalidValue {
        field: "Idempotency-Key",
        expected: "given: 1 to 255 visible ASCII characters",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a secret of at least thirty-two bytes";

    fn open(seal: &CursorSeal, of: &[&str], text: &str) -> Result<Option<String>, InvalidValue> {
        seal.open(of, Cursor(Some(text.into())))
    }

    #[test]
    fn a_cursor_opens_only_as_it_was_closed_and_only_its_own_list() {
        let seal = CursorSeal::derived_from(SECRET);
        let text = seal.close(&["coupons", "acme", "ann"], "position");
        let of = ["coupons", "acme", "ann"];
        assert_eq!(open(&seal, &of, &text), Ok(Some("position".into())));
        assert_eq!(seal.open::<String>(&of, Cursor(None)), Ok(None));
        for other in [
            ["coupons", "acme", "bob"],
            ["coupons", "rival", "ann"],
            ["entries", "acme", "ann"],
            ["coupons", "acmea", "nn"],
        ] {
            assert!(open(&seal, &other, &text).is_err(), "{other:?}");
        }
        let rotated = CursorSeal::derived_from("another secret of thirty-two bytes");
        assert!(open(&rotated, &of, &text).is_err());
    }

    #[test]
    fn whoever_changes_one_character_of_a_cursor_gets_nothing() {
        let seal = CursorSeal::derived_from(SECRET);
        let of = ["entries", "acme", "ann"];
        let text = seal.close(&of, "01KSR4Q5ACF3P2V7WM8X9NYBTD");
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert!(open(&seal, &of, &forged).is_err(), "{at}");
            assert!(open(&seal, &of, &text[..at]).is_err(), "cut at {at}");
        }
        for bad in [
            "",
            "!",
            "AAAA",
            &URL_SAFE_NO_PAD.encode("01KSR4Q5ACF3P2V7WM8X9NYBTD"),
        ] {
            assert!(open(&seal, &of, bad).is_err(), "{bad}");
        }
    }
}
