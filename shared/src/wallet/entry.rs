//! The ledger's entries: written once, never changed. Each names the lots it drew from or added to.

use std::fmt;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::{CampaignId, InvalidValue, OrderId, Timestamp, UserId};

/// An entry's id, a ULID. Within one wallet ids sort in the order of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("pattern" = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$")))]
pub struct EntryId(String);

impl EntryId {
    /// Takes the text if it is a canonical ULID.
    ///
    /// # Errors
    /// [`InvalidValue`] if it is not.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidValue> {
        let text = text.into();
        let canonical = Ulid::from_string(&text).is_ok_and(|ulid| ulid.to_string() == text);
        canonical.then_some(Self(text)).ok_or(InvalidValue {
            field: "entryId",
            expected: "a ULID",
        })
    }

    /// A new id that sorts behind `last`, whatever the clocks of the machines say.
    pub fn behind(last: Option<&Self>, now: Timestamp, random: u128) -> Self {
        let after = last.map_or(0, |last| last.minted_millis() + 1);
        let millis = now.millis().unsigned_abs().max(after);
        Self(Ulid::from_parts(millis, random).to_string())
    }

    fn minted_millis(&self) -> u64 {
        Ulid::from_string(&self.0).map_or(0, |ulid| ulid.timestamp_ms())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for EntryId {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::new(text)
    }
}

impl From<EntryId> for String {
    fn from(id: EntryId) -> Self {
        id.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why an entry was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum EntryKind {
    /// The partner gave points.
    Earn,
    /// The user spent points.
    Use,
    /// Points reached their expiry.
    Expire,
    /// Points came from another wallet.
    TransferIn,
    /// Points went to another wallet.
    TransferOut,
    /// A coupon worth points was redeemed.
    Redemption,
    /// A redemption was rolled back.
    Rollback,
}

/// A part of a lot: what an entry moved of it, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LotShare {
    /// The entry that brought these points into being; they keep it wherever they go.
    pub lot_id: EntryId,
    /// How many points.
    pub amount: u64,
    /// The first instant at which they are no longer there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl LotShare {
    /// When its turn to be spent comes: earliest expiry first, then the order of earning.
    pub fn turn(&self) -> (i64, EntryId) {
        (super::due_millis(self.expires_at), self.lot_id.clone())
    }
}

/// Why points are given or taken, in the partner's words: 1 to 128 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("minLength" = 1, "maxLength" = 128)))]
pub struct EntryReason(String);

impl EntryReason {
    /// Takes the text if it is within its bounds.
    ///
    /// # Errors
    /// [`InvalidValue`] that names the field and its bounds.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidValue> {
        let text = text.into();
        let fits = (1..=128).contains(&text.chars().count());
        fits.then_some(Self(text)).ok_or(InvalidValue {
            field: "reason",
            expected: "1 to 128 characters",
        })
    }
}

impl TryFrom<String> for EntryReason {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::new(text)
    }
}

impl From<EntryReason> for String {
    fn from(reason: EntryReason) -> Self {
        reason.0
    }
}

/// One line of a wallet's ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Entry {
    /// Its id.
    pub entry_id: EntryId,
    /// Why it was made.
    #[serde(rename = "type")]
    pub kind: EntryKind,
    /// What it added; negative if it took.
    pub amount: i64,
    /// What the wallet held after it.
    pub balance: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// The partner's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EntryReason>,
    /// The other side of a transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counterpart: Option<UserId>,
    /// The campaign whose coupon was redeemed or rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign_id: Option<CampaignId>,
    /// The order it was redeemed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// Where the points came from or went to; the amounts add up to this entry's, whatever its sign.
    pub lots: Vec<LotShare>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_sorts_behind_the_last_even_if_the_clock_went_back() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let first = EntryId::behind(None, now, u128::MAX);
        let same_instant = EntryId::behind(Some(&first), now, 0);
        let earlier_clock = EntryId::behind(Some(&same_instant), now.plus_seconds(-60), 0);
        assert!(first < same_instant && same_instant < earlier_clock);
        assert_eq!(EntryId::new(first.as_str()), Ok(first));
        assert!(EntryId::new("not a ulid").is_err());
    }

    #[test]
    fn points_are_spent_by_expiry_then_by_age_and_those_without_expiry_last() {
        let share = |expires: Option<i64>, age| LotShare {
            lot_id: EntryId::behind(None, Timestamp::from_millis(age), 0),
            amount: 1,
            expires_at: expires.map(Timestamp::from_millis),
        };
        let sorted = [
            share(Some(5), 9),
            share(Some(7), 1),
            share(Some(7), 2),
            share(None, 0),
        ];
        let mut turns: Vec<_> = sorted.iter().rev().map(LotShare::turn).collect();
        turns.sort();
        assert_eq!(turns, sorted.iter().map(LotShare::turn).collect::<Vec<_>>());
    }
}
