//! Amounts of points as a type: whole, positive, bounded, so that no sum overflows.

use serde::{Deserialize, Serialize};

use crate::{InvalidValue, whole::Whole};

/// The most points one operation moves.
pub const MAX_AMOUNT: u64 = 1_000_000_000_000;

/// The most points a wallet holds: 2^53 - 1, the largest integer that every JSON reader keeps exact.
pub const MAX_BALANCE: u64 = 9_007_199_254_740_991;

/// What one operation moves: 1 to 1,000,000,000,000 points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Whole", into = "u64")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("minimum" = 1, "maximum" = MAX_AMOUNT)))]
pub struct Amount(u64);

impl Amount {
    /// Takes the number if it is within its bounds.
    ///
    /// # Errors
    /// [`InvalidValue`] that names the field and its bounds.
    pub fn new(points: u64) -> Result<Self, InvalidValue> {
        (1..=MAX_AMOUNT)
            .contains(&points)
            .then_some(Self(points))
            .ok_or(InvalidValue {
                field: "amount",
                expected: "a whole number from 1 to 1000000000000",
            })
    }

    /// As a number.
    pub fn points(self) -> u64 {
        self.0
    }
}

impl TryFrom<Whole> for Amount {
    type Error = InvalidValue;
    fn try_from(Whole(points): Whole) -> Result<Self, InvalidValue> {
        Self::new(points)
    }
}

impl From<Amount> for u64 {
    fn from(amount: Amount) -> Self {
        amount.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_whole_positive_and_bounded() {
        for bad in [
            "0",
            "-1",
            "1.5",
            "1000000000001",
            "18446744073709551616",
            "\"1\"",
        ] {
            assert!(serde_json::from_str::<Amount>(bad).is_err(), "{bad}");
        }
        assert_eq!(
            serde_json::from_str::<Amount>("1").ok(),
            Amount::new(1).ok()
        );
        assert!(Amount::new(MAX_AMOUNT).is_ok());
    }
}
