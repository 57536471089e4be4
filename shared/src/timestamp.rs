//! Instants as the interface writes them: RFC 3339 UTC outside, whole milliseconds inside.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::InvalidValue;

/// A point in time, from 1970 to 9999, in milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(description = "RFC 3339, from 1970 to 9999.", extend("format" = "date-time")))]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// The last instant with a four-digit year, 9999-12-31T23:59:59Z: what RFC 3339 can write.
    const LAST: i64 = 253_402_300_799_000;

    /// From milliseconds since the epoch; outside of the years 1970–9999 it is brought to the nearest end.
    pub const fn from_millis(millis: i64) -> Self {
        if millis < 0 {
            Self(0)
        } else if millis > Self::LAST {
            Self(Self::LAST)
        } else {
            Self(millis)
        }
    }

    /// Reads an RFC 3339 text of any offset.
    ///
    /// # Errors
    /// [`InvalidValue`] if the text is no such time or lies before 1970.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let invalid = InvalidValue {
            field: "time",
            expected: "an RFC 3339 time such as 2026-01-31T09:00:00Z",
        };
        let parsed = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| invalid.clone())?;
        let millis = i64::try_from(parsed.unix_timestamp_nanos() / 1_000_000)
            .map_err(|_| invalid.clone())?;
        (0..=Self::LAST)
            .contains(&millis)
            .then_some(Self(millis))
            .ok_or(invalid)
    }

    /// Milliseconds since the epoch.
    pub fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down: the unit of DynamoDB's TTL attribute.
    pub fn epoch_seconds(self) -> i64 {
        self.0 / 1000
    }

    /// This instant and `seconds` more (or, negative, less).
    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self::from_millis(self.0.saturating_add(seconds.saturating_mul(1000)))
    }

    /// Milliseconds from `earlier` to this instant; negative if `earlier` is later.
    pub fn millis_since(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|t| t.format(&Rfc3339).ok())
            .ok_or(fmt::Error)?;
        f.write_str(&text)
    }
}

impl From<Timestamp> for String {
    fn from(t: Timestamp) -> Self {
        t.to_string()
    }
}

impl TryFrom<String> for Timestamp {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::parse(&text)
    }
}

/// Tells the time of day. Domain rules take a [`Timestamp`]; only use cases hold a clock.
pub trait Clock: Send + Sync {
    /// Now, by the wall clock: a frozen execution environment's monotonic clock stands still.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_as_written() {
        let t = Timestamp::from_millis(1_790_000_000_123);
        assert_eq!(Timestamp::parse(&t.to_string()), Ok(t));
        assert_eq!(
            Timestamp::parse("2026-01-31T18:00:00+09:00"),
            Timestamp::parse("2026-01-31T09:00:00Z")
        );
        assert!(Timestamp::parse("tomorrow").is_err());
        assert_eq!(
            Timestamp::from_millis(i64::MAX).to_string(),
            "9999-12-31T23:59:59Z"
        );
    }
}
