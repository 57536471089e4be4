//! Warm throughput of the tables: how much each takes at once, and raising it before a sale. By API and not by the
//! template: a table grows by itself, and DynamoDB refuses a number below what it has grown to (warm-throughput.html).

use std::time::Duration;

use aws_sdk_dynamodb::types::{TableDescription, TableStatus, WarmThroughput};
use tokio::time::sleep;

use super::{Operator, OperatorError};

/// How often a table that warms up is looked at.
const PAUSE: Duration = Duration::from_secs(5);
/// How often in all: half an hour. DynamoDB promises no time.
const LOOKS: u32 = 360;

/// What a table takes at once, in units per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warmth {
    /// Read units.
    pub reads: u64,
    /// Write units.
    pub writes: u64,
    /// Whether that is in force, and not on its way.
    pub is_settled: bool,
}

impl Warmth {
    pub(super) fn of(table: &TableDescription) -> Self {
        let warm = table.warm_throughput.as_ref();
        let units = |units: Option<i64>| units.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        Self {
            reads: units(warm.and_then(|warm| warm.read_units_per_second)),
            writes: units(warm.and_then(|warm| warm.write_units_per_second)),
            is_settled: warm.and_then(|warm| warm.status.as_ref()) == Some(&TableStatus::Active),
        }
    }

    /// This, raised to at least so many units; never lowered, because DynamoDB refuses that.
    #[must_use]
    pub fn raised_to(self, reads: u64, writes: u64) -> Self {
        Self {
            reads: self.reads.max(reads),
            writes: self.writes.max(writes),
            ..self
        }
    }

    fn covers(&self, other: &Self) -> bool {
        self.is_settled && self.reads >= other.reads && self.writes >= other.writes
    }
}

impl Operator {
    /// The physical name of a table: `name` is its output (`CouponsTable`) or that name itself.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or the stack has no such table.
    pub async fn table_name(&self, name: &str) -> Result<String, OperatorError> {
        let deployment = self.deployment().await?;
        let tables = || {
            deployment
                .resources
                .iter()
                .filter(|resource| resource.kind == "AWS::DynamoDB::Table")
        };
        let found = tables().find(|table| table.logical_id == name || table.physical_id == name);
        let known = || {
            let names: Vec<_> = tables().map(|table| table.logical_id.as_str()).collect();
            OperatorError::NotReady(format!(
                "the stack has no table {name}; it has {}",
                names.join(", ")
            ))
        };
        found
            .map(|table| table.physical_id.clone())
            .ok_or_else(known)
    }

    /// What a table takes at once.
    ///
    /// # Errors
    /// [`OperatorError`] if the call fails.
    pub async fn warmth(&self, table: &str) -> Result<Warmth, OperatorError> {
        let described = self.describe_table(table).await?;
        Ok(Warmth::of(&described))
    }

    /// Raises it to this, which must come from [`Warmth::raised_to`], and waits until it is in force; on the local AWS,
    /// which keeps nothing of it, not at all. Returns what the table then has.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or it takes longer than half an hour.
    pub async fn warm(&self, table: &str, wanted: Warmth) -> Result<Warmth, OperatorError> {
        let units = |units: u64| i64::try_from(units).unwrap_or(i64::MAX);
        let throughput = WarmThroughput::builder()
            .read_units_per_second(units(wanted.reads))
            .write_units_per_second(units(wanted.writes))
            .build();
        let call = self.dynamo.update_table().table_name(table);
        let sent = call.warm_throughput(throughput).send().await;
        sent.map_err(|error| self.failed("raise the warm throughput", error))?;
        for _ in 0..LOOKS {
            let warmth = self.warmth(table).await?;
            if self.is_local() || warmth.covers(&wanted) {
                return Ok(warmth);
            }
            sleep(PAUSE).await;
        }
        Err(OperatorError::NotReady(format!(
            "{table} still warms up after half an hour; DynamoDB goes on by itself: see firstcome doctor"
        )))
    }

    pub(super) async fn describe_table(
        &self,
        table: &str,
    ) -> Result<TableDescription, OperatorError> {
        let call = self.dynamo.describe_table().table_name(table);
        let answer = call.send().await;
        let described = answer
            .map_err(|error| self.failed("describe a table", error))?
            .table;
        described.ok_or_else(|| OperatorError::MissingItem(format!("table {table}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing;
    use super::*;
    use crate::aws::replay::requests;

    fn warmth(reads: u64, writes: u64) -> Warmth {
        Warmth {
            reads,
            writes,
            is_settled: true,
        }
    }

    fn described(reads: u64, writes: u64, status: &str) -> (u16, Value) {
        let warm =
            json!({"ReadUnitsPerSecond": reads, "WriteUnitsPerSecond": writes, "Status": status});
        (200, json!({"Table": {"WarmThroughput": warm}}))
    }

    #[test]
    fn warmth_is_raised_in_each_direction_and_lowered_in_none() {
        let grown = warmth(12_000, 9_000);
        assert_eq!(grown.raised_to(0, 8_000), grown);
        assert_eq!(grown.raised_to(0, 10_000), warmth(12_000, 10_000));
        assert_eq!(grown.raised_to(20_000, 8_000), warmth(20_000, 9_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_is_asked_for_both_numbers_and_waited_for() {
        let (operator, http) = testing::operator(&[
            (200, json!({"TableDescription": {}})),
            described(12_000, 4_000, "UPDATING"),
            described(12_000, 8_000, "UPDATING"),
            described(12_000, 8_000, "ACTIVE"),
        ]);
        let wanted = warmth(12_000, 4_000).raised_to(0, 8_000);
        let after = operator.warm("coupons", wanted).await.unwrap();
        assert_eq!(after, warmth(12_000, 8_000));
        let asked = &requests(&http)[0];
        assert_eq!(asked.0, "UpdateTable");
        let throughput = json!({"ReadUnitsPerSecond": 12_000, "WriteUnitsPerSecond": 8_000});
        assert_eq!(
            asked.1,
            json!({"TableName": "coupons", "WarmThroughput": throughput})
        );
        assert_eq!(requests(&http).len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_that_never_warms_is_given_up_after_half_an_hour() {
        let mut answers = vec![described(12_000, 4_000, "UPDATING"); 1 + LOOKS as usize];
        answers[0] = (200, json!({"TableDescription": {}}));
        let (operator, _) = testing::operator(&answers);
        let started = tokio::time::Instant::now();
        let error = operator
            .warm("coupons", warmth(1, 8_000))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("goes on by itself"), "{error}");
        assert_eq!(started.elapsed(), Duration::from_secs(1800));
    }
}
