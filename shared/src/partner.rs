//! Partners' API keys: how one is made, told apart and compared. Only a hash is ever stored.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{PartnerId, PortError, Timestamp};

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Create, read and close campaigns.
    Campaigns,
    /// Issue tickets for sockets.
    Tickets,
    /// Claim for users, read their answers.
    Claims,
    /// Read and redeem coupons.
    Coupons,
    /// Tell all sockets something.
    Broadcasts,
    /// Earn, use and transfer points.
    Points,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 6] = [
        Self::Campaigns,
        Self::Tickets,
        Self::Claims,
        Self::Coupons,
        Self::Broadcasts,
        Self::Points,
    ];

    /// The public name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Campaigns => "campaigns",
            Self::Tickets => "tickets",
            Self::Claims => "claims",
            Self::Coupons => "coupons",
            Self::Broadcasts => "broadcasts",
            Self::Points => "points",
        }
    }
}

/// A key as its partner holds it: `fck_<keyId>_<secret>`. Neither `Debug` nor `Display`: it is shown once, on purpose.
pub struct ApiKey {
    key_id: String,
    secret: String,
}

impl ApiKey {
    /// A new key from 64 random bits of id and 256 of secret.
    pub fn from_random(id: u64, secret: [u128; 2]) -> Self {
        Self {
            key_id: format!("{id:016x}"),
            secret: format!("{:032x}{:032x}", secret[0], secret[1]),
        }
    }

    /// Reads a key; `None` if it has not the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let (key_id, secret) = text.strip_prefix("fck_")?.split_once('_')?;
        let hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        (hex(key_id, 16) && hex(secret, 64)).then(|| Self {
            key_id: key_id.into(),
            secret: secret.into(),
        })
    }

    /// The part that may be stored and logged.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The whole key, to be shown once.
    pub fn reveal(&self) -> String {
        format!("fck_{}_{}", self.key_id, self.secret)
    }

    /// SHA-256 of the secret, in hex: what is stored.
    pub fn secret_sha256(&self) -> String {
        Sha256::digest(self.secret.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// A stored key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRecord {
    /// Whose key it is.
    pub partner_id: PartnerId,
    /// SHA-256 of the secret, in hex.
    pub sha256: String,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// `active`, or anything else if it was revoked.
    pub status: String,
    /// The first instant at which it no longer works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl KeyRecord {
    /// Whether `key` opens the door at `now`. The comparison takes the same time whatever the secret.
    pub fn admits(&self, key: &ApiKey, now: Timestamp) -> bool {
        let same = bool::from(self.sha256.as_bytes().ct_eq(key.secret_sha256().as_bytes()));
        same && self.status == "active" && self.expires_at.is_none_or(|end| now < end)
    }
}

/// Reads stored keys.
pub trait KeyStore {
    /// The key with this id.
    fn key(
        &self,
        key_id: &str,
    ) -> impl Future<Output = Result<Option<KeyRecord>, PortError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &ApiKey) -> KeyRecord {
        KeyRecord {
            partner_id: PartnerId::new("p").unwrap(),
            sha256: key.secret_sha256(),
            scopes: Scope::ALL.to_vec(),
            status: "active".into(),
            expires_at: None,
        }
    }

    #[test]
    fn a_key_reads_back_as_shown() {
        let key = ApiKey::from_random(1, [2, 3]);
        assert_eq!(ApiKey::parse(&key.reveal()).unwrap().reveal(), key.reveal());
        assert!(ApiKey::parse("fck_1_2").is_none());
    }

    #[test]
    fn only_the_right_active_unexpired_key_opens() {
        let key = ApiKey::from_random(1, [2, 3]);
        let now = Timestamp::from_millis(1000);
        assert!(record(&key).admits(&key, now));
        assert!(!record(&key).admits(&ApiKey::from_random(1, [2, 4]), now));
        assert!(
            !KeyRecord {
                status: "revoked".into(),
                ..record(&key)
            }
            .admits(&key, now)
        );
        for (end, opens) in [(1000, false), (1001, true)] {
            let expiring = KeyRecord {
                expires_at: Some(Timestamp::from_millis(end)),
                ..record(&key)
            };
            assert_eq!(expiring.admits(&key, now), opens, "{end}");
        }
    }
}
