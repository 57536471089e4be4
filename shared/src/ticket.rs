//! Tickets: short-lived signed permits for one socket (JWT, HS256).

use std::collections::HashSet;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{InvalidValue, PartnerId, Timestamp, UserId};

/// A ticket's audience, so that no other token signed with the secret is one.
const AUDIENCE: &str = "firstcome:websocket";

/// How long a ticket lasts if the partner does not say, in seconds.
pub const DEFAULT_TICKET_SECONDS: u32 = 60;

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The partner.
    #[serde(rename = "iss")]
    pub partner_id: PartnerId,
    /// The user.
    #[serde(rename = "sub")]
    pub user_id: UserId,
    /// The ticket's own id, 32 hex characters.
    #[serde(rename = "jti")]
    pub ticket_id: String,
    /// The first second at which it is no longer good, since the epoch.
    #[serde(rename = "exp")]
    pub expires_at: i64,
    aud: String,
}

/// Why a ticket opens nothing. Never tells the ticket.
#[derive(Debug, Error)]
pub enum TicketError {
    /// Not a ticket, wrongly signed, or for something else.
    #[error("ticket is not valid")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// Once good, no longer.
    #[error("ticket has expired")]
    Expired,
}

impl Ticket {
    /// A ticket for `ttl_seconds` from `now`.
    ///
    /// # Errors
    /// [`InvalidValue`] if `ttl_seconds` is not 10 to 300.
    pub fn new(
        partner_id: PartnerId,
        user_id: UserId,
        ttl_seconds: u32,
        now: Timestamp,
        random: u128,
    ) -> Result<Self, InvalidValue> {
        if !(10..=300).contains(&ttl_seconds) {
            return Err(InvalidValue {
                field: "ttlSeconds",
                expected: "10 to 300",
            });
        }
        Ok(Self {
            partner_id,
            user_id,
            ticket_id: format!("{random:032x}"),
            expires_at: now.epoch_seconds() + i64::from(ttl_seconds),
            aud: AUDIENCE.into(),
        })
    }
}

/// Signs and verifies tickets. Not `Debug`: it holds the secret.
#[derive(Clone)]
pub struct TicketKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl TicketKey {
    /// From the stack's secret.
    ///
    /// # Errors
    /// [`InvalidValue`] if the secret is shorter than 32 bytes, HS256's own strength.
    pub fn new(secret: &str) -> Result<Self, InvalidValue> {
        if secret.len() < 32 {
            return Err(InvalidValue {
                field: "TICKET_SECRET",
                expected: "at least 32 bytes",
            });
        }
        let bytes = secret.as_bytes();
        Ok(Self {
            encoding: EncodingKey::from_secret(bytes),
            decoding: DecodingKey::from_secret(bytes),
        })
    }

    /// The ticket as text for the client.
    ///
    /// # Errors
    /// [`TicketError::Invalid`] if it cannot be encoded.
    pub fn sign(&self, ticket: &Ticket) -> Result<String, TicketError> {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), ticket, &self.encoding)
            .map_err(TicketError::Invalid)
    }

    /// Reads a ticket that is good at `now`.
    ///
    /// # Errors
    /// [`TicketError`]: wrongly signed, for something else, or expired.
    pub fn verify(&self, text: &str, now: Timestamp) -> Result<Ticket, TicketError> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[AUDIENCE]);
        validation.required_spec_claims =
            HashSet::from(["exp", "aud", "iss", "sub"].map(String::from));
        // Judged below, against the caller's clock and without leeway.
        validation.validate_exp = false;
        let ticket: Ticket = jsonwebtoken::decode(text, &self.decoding, &validation)
            .map_err(TicketError::Invalid)?
            .claims;
        (now.epoch_seconds() < ticket.expires_at)
            .then_some(ticket)
            .ok_or(TicketError::Expired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn ticket(ttl: u32) -> Result<Ticket, InvalidValue> {
        Ticket::new(
            PartnerId::new("p").unwrap(),
            UserId::new("u").unwrap(),
            ttl,
            NOW,
            9,
        )
    }

    #[test]
    fn a_ticket_is_good_until_its_end() {
        let key = TicketKey::new(&"s".repeat(32)).unwrap();
        let text = key.sign(&ticket(60).unwrap()).unwrap();
        assert_eq!(
            key.verify(&text, NOW.plus_seconds(59)).unwrap(),
            ticket(60).unwrap()
        );
        assert!(matches!(
            key.verify(&text, NOW.plus_seconds(60)),
            Err(TicketError::Expired)
        ));
    }

    #[test]
    fn a_ticket_of_another_key_or_algorithm_is_refused() {
        let key = TicketKey::new(&"s".repeat(32)).unwrap();
        let other = TicketKey::new(&"t".repeat(32)).unwrap();
        let text = other.sign(&ticket(60).unwrap()).unwrap();
        assert!(matches!(
            key.verify(&text, NOW),
            Err(TicketError::Invalid(_))
        ));
        let claims = text.split('.').nth(1).unwrap();
        let unsigned = format!("eyJhbGciOiJub25lIn0.{claims}.");
        assert!(matches!(
            key.verify(&unsigned, NOW),
            Err(TicketError::Invalid(_))
        ));
        assert!(TicketKey::new("short").is_err());
    }

    #[test]
    fn a_ticket_lasts_ten_seconds_to_five_minutes() {
        assert!(ticket(9).is_err());
        assert!(ticket(10).is_ok());
        assert!(ticket(300).is_ok());
        assert!(ticket(301).is_err());
    }
}
