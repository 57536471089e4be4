//! Identifiers as types: an id that exists is within its bounds. No behaviour beyond parsing and printing.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use ulid::Ulid;

use crate::Timestamp;

/// A value that is out of its bounds, with the public name of the field it came in.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{field} must be {expected}")]
pub struct InvalidValue {
    /// The field's public name, as clients write it.
    pub field: &'static str,
    /// What the field may hold.
    pub expected: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $field:literal, $max:literal, $extra:literal, $expected:literal $(, not $reserved:expr)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        #[cfg_attr(
            feature = "schema",
            derive(schemars::JsonSchema),
            schemars(extend(
                "pattern" = concat!("^[A-Za-z0-9", $extra, "]{1,", $max, "}$")
                $(, "not" = serde_json::json!({"enum": $reserved}))?
            ))
        )]
        pub struct $name(String);

        impl $name {
            /// Takes the text if it is within its bounds.
            ///
            /// # Errors
            /// [`InvalidValue`] that names the field and its bounds.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidValue> {
                let text = text.into();
                let fits = (1..=$max).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || $extra.as_bytes().contains(&b))
                    $(&& !$reserved.contains(&text.as_str()))?;
                fits.then_some(Self(text)).ok_or(InvalidValue { field: $field, expected: $expected })
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidValue;
            fn try_from(text: String) -> Result<Self, InvalidValue> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// The names of a folder and of the one above it. A user's id is a segment of paths, and whatever reads a path as RFC 3986
/// (section 5.2.4) takes such a segment away, with the one before it.
const DOT_SEGMENTS: [&str; 2] = [".", ".."];

text_id!(
    /// Who claims, in the partner's own naming.
    UserId, "userId", 128, "._:@~-", "1 to 128 characters of A-Z a-z 0-9 . _ : @ ~ -, and neither . nor ..",
    not DOT_SEGMENTS
);
text_id!(
    /// One wish for a coupon. A repeat carries the same id and gets the same answer.
    ClaimId, "claimId", 64, "._:-", "1 to 64 characters of A-Z a-z 0-9 . _ : -"
);
text_id!(
    /// A campaign, as clients name it. Ids the service mints are ULIDs; any other text names no campaign.
    CampaignId, "campaignId", 64, "._:-", "1 to 64 characters of A-Z a-z 0-9 . _ : -"
);
text_id!(
    /// Whose campaigns, users and coupons these are. Never contains `#`, which separates key parts.
    PartnerId, "partnerId", 64, "._:-", "1 to 64 characters of A-Z a-z 0-9 . _ : -"
);
text_id!(
    /// API Gateway's name for an open socket (base64 text such as `L0SM9cOFvHcCIhw=`).
    ConnectionId, "connectionId", 128, "._:+/=-", "1 to 128 characters of A-Z a-z 0-9 . _ : + / = -"
);
text_id!(
    /// The partner's own name for the order a coupon is used in.
    OrderId, "orderId", 64, "._:-", "1 to 64 characters of A-Z a-z 0-9 . _ : -"
);
text_id!(
    /// One announcement to many sockets.
    BroadcastId, "broadcastId", 64, "-", "1 to 64 characters of A-Z a-z 0-9 -"
);

impl CampaignId {
    /// A new id: a ULID of this instant and these 80 random bits.
    pub fn mint(now: Timestamp, random: u128) -> Self {
        Self(Ulid::from_parts(now.millis().unsigned_abs(), random).to_string())
    }

    /// When the id was minted; `None` if it is no canonical ULID and therefore names no campaign.
    pub fn minted_at(&self) -> Option<Timestamp> {
        let ulid = Ulid::from_string(&self.0).ok()?;
        // Lower case parses too, but only the canonical text is a key.
        let millis = i64::try_from(ulid.timestamp_ms()).ok()?;
        (ulid.to_string() == self.0).then(|| Timestamp::from_millis(millis))
    }
}

impl BroadcastId {
    /// The id made of `parts`: the same parts, the same id.
    pub fn derived(parts: &[&str]) -> Self {
        Self(crate::stable_id(parts))
    }
}

impl ClaimId {
    /// An id for a claim that came without one.
    pub fn mint(now: Timestamp, random: u128) -> Self {
        Self(Ulid::from_parts(now.millis().unsigned_abs(), random).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_out_of_bounds_names_its_field() {
        let error = UserId::new("a b").unwrap_err();
        assert_eq!(error.field, "userId");
        assert!(UserId::new("").is_err());
        assert!(UserId::new("x".repeat(129)).is_err());
        assert!(UserId::new("x".repeat(128)).is_ok());
        assert!(PartnerId::new("a#b").is_err());
    }

    #[test]
    fn a_user_is_never_named_like_a_folder() {
        for dots in [".", ".."] {
            assert_eq!(UserId::new(dots).unwrap_err().field, "userId");
            assert!(serde_json::from_value::<UserId>(dots.into()).is_err());
        }
        for id in ["...", ".a", "a.", "..a", "a..b", "~", "-", ":"] {
            assert!(UserId::new(id).is_ok(), "{id}");
        }
    }

    #[test]
    fn a_minted_campaign_id_tells_its_birth() {
        let born = Timestamp::from_millis(1_790_000_000_123);
        assert_eq!(CampaignId::mint(born, 7).minted_at(), Some(born));
        assert_eq!(CampaignId::new("nope").unwrap().minted_at(), None);
        let lower = CampaignId::mint(born, u128::MAX).as_str().to_lowercase();
        assert_eq!(CampaignId::new(lower).unwrap().minted_at(), None);
    }
}
