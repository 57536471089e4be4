//! Instants as the interface writes them: RFC 3339 UTC outside, always with three digits of a second's fraction, so that
//! their order as texts is their order in time; whole milliseconds inside.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::InvalidValue;

/// A point in time, from 1970 to 9999, in milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(description = "RFC 3339, from 1970 to 9999; written in UTC with three digits of a second's fraction.", extend("format" = "date-time")))]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// The last instant with a four-digit year, 9999-12-31T23:59:59.999Z: what RFC 3339 can write.
    const LAST: i64 = 253_402_300_799_999;

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

    /// Reads an RFC 3339 text of any offset. What is finer than a millisecond is cut off.
    ///
    /// # Errors
    /// [`InvalidValue`] if the text is no such time or lies before 1970.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let invalid = InvalidValue {
            field: "time",
            expected: "an RFC 3339 time such as 2026-01-31T09:00:00Z",
        };
        // The parser takes other separators, too, such as a space; RFC 3339's own grammar does not (section 5.6).
        if !matches!(text.as_bytes().get(10), Some(b'T' | b't')) {
            return Err(invalid);
        }
        let parsed = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| invalid.clone())?;
        // Towards the past: what lies a nanosecond before 1970 is not of it.
        let millis = i64::try_from(parsed.unix_timestamp_nanos().div_euclid(1_000_000))
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
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .map_err(|_| fmt::Error)?;
        let (year, month, day) = at.to_calendar_date();
        let (hour, minute, second, milli) = at.to_hms_milli();
        let month = u8::from(month);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"
        )
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
    }

    #[test]
    fn times_are_written_so_that_their_texts_sort() {
        for (millis, text) in [
            (i64::MIN, "1970-01-01T00:00:00.000Z"),
            (1_790_000_000_000, "2026-09-21T14:13:20.000Z"),
            (1_790_000_000_007, "2026-09-21T14:13:20.007Z"),
            (1_790_000_000_070, "2026-09-21T14:13:20.070Z"),
            (1_790_000_000_100, "2026-09-21T14:13:20.100Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (i64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).to_string(), text);
            assert_eq!(Timestamp::parse(text), Ok(Timestamp::from_millis(millis)));
        }
        let mut random = fastrand::Rng::with_seed(15);
        for _ in 0..10_000 {
            let [a, b] = [0; 2].map(|_| random.i64(0..Timestamp::LAST));
            // A second and its fractions, too.
            for (a, b) in [(a, b), (a, a / 1000 * 1000), (a, a / 100 * 100)] {
                let (a, b) = (Timestamp(a), Timestamp(b));
                assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()), "{a} {b}");
            }
        }
    }

    #[test]
    fn a_time_before_1970_or_after_9999_is_none() {
        let last = Timestamp::parse("9999-12-31T23:59:59.9999Z");
        assert_eq!(last, Ok(Timestamp::from_millis(i64::MAX)));
        assert_eq!(
            Timestamp::parse("1970-01-01T00:00:00Z"),
            Ok(Timestamp::EPOCH)
        );
        for none in [
            "1969-12-31T23:59:59Z",
            "1969-12-31T23:59:59.9999999Z",
            "1970-01-01T00:59:59+01:00",
            "9999-12-31T23:59:59-00:01",
            "10000-01-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-31",
            "2026-01-31T09:00:00",
            "2026-01-31 09:00:00Z",
            "2026-01-31_09:00:00Z",
            "2026-01-31T24:00:00Z",
            " 2026-01-31T09:00:00Z",
            "2026-01-31T09:00:00Z\n",
            "",
        ] {
            assert!(Timestamp::parse(none).is_err(), "{none:?}");
        }
    }
}
