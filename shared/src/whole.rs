//! Whole numbers as JSON writes them. JSON knows one kind of number: `60.0` is as whole as `60`.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// The largest whole number up to which a fraction cannot have been lost: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A whole number, not negative, also if it is written with a fraction of zero.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Whole(pub(crate) u64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(Digits).map(Self)
    }
}

struct Digits;

impl de::Visitor<'_> for Digits {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
        u64::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<u64, E> {
        let is_whole = number.fract() == 0.0 && (0.0..=EXACT).contains(&number);
        is_whole
            .then_some(number as u64)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
    }
}

/// Reads a member that is a [`Whole`] within the type's range.
///
/// # Errors
/// That it is none.
pub fn whole<'de, D, N>(deserializer: D) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: TryFrom<u64>,
{
    in_range(Whole::deserialize(deserializer)?)
}

/// Reads a member that is a [`Whole`] within the type's range, or `null`.
///
/// # Errors
/// That it is neither.
pub fn optional_whole<'de, D, N>(deserializer: D) -> Result<Option<N>, D::Error>
where
    D: Deserializer<'de>,
    N: TryFrom<u64>,
{
    Option::<Whole>::deserialize(deserializer)?
        .map(in_range)
        .transpose()
}

fn in_range<N: TryFrom<u64>, E: de::Error>(Whole(number): Whole) -> Result<N, E> {
    N::try_from(number)
        .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &"a smaller whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Members {
        #[serde(deserialize_with = "whole")]
        total: u32,
        #[serde(default, deserialize_with = "optional_whole")]
        shards: Option<u16>,
    }

    fn read(total: &str, shards: &str) -> Option<(u32, Option<u16>)> {
        let text = format!(r#"{{"total":{total},"shards":{shards}}}"#);
        let members: Members = serde_json::from_str(&text).ok()?;
        Some((members.total, members.shards))
    }

    #[test]
    fn a_whole_number_is_whole_however_it_is_written() {
        assert_eq!(read("1", "2"), Some((1, Some(2))));
        assert_eq!(read("1.0", "null"), Some((1, None)));
        assert_eq!(read("1e3", "2.0"), Some((1000, Some(2))));
        let without: Members = serde_json::from_str(r#"{"total":0}"#).unwrap();
        assert_eq!((without.total, without.shards), (0, None));
        for bad in [
            "1.5",
            "-1",
            "-1.0",
            "1e300",
            "4294967296",
            "\"1\"",
            "true",
            "null",
            "[]",
        ] {
            assert_eq!(read(bad, "1"), None, "{bad}");
        }
        for bad in ["65536", "0.5", "\"1\""] {
            assert_eq!(read("1", bad), None, "{bad}");
        }
    }
}
