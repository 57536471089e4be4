//! Tables: whether old items leave them, whether they can be restored, and how much they take at once.

use aws_sdk_dynamodb::types::{PointInTimeRecoveryStatus, TimeToLiveStatus};
use futures_util::future::join_all;

use super::account::Needs;
use super::{Deployment, Finding, LOCAL, Operator, OperatorError, Resource};
use crate::aws::operator::Warmth;

const TTL: &str = "time to live";
const BACKUPS: &str = "point-in-time recovery";
const PROTECTION: &str = "deletion protection";
const WARMTH: &str = "warm throughput";
/// The tables that a sale writes to at its pace: a coupon each, a connection each.
const HOT: [&str; 2] = ["CouponsTable", "ConnectionsTable"];

/// A table as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    name: String,
    expires: bool,
    /// The attribute that items expire by. AWS names it while expiry is on; the local AWS from the first time on that it
    /// was set by API, because it does not apply the template's.
    ttl_attribute: Option<String>,
    recoverable: bool,
    protected: bool,
    warmth: Warmth,
}

/// As the template asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    ttl_attribute: Option<String>,
    recoverable: bool,
    protected: bool,
}

impl Wanted {
    fn of(resource: &Resource) -> Self {
        let expires = resource.is_on(&["TimeToLiveSpecification", "Enabled"]);
        let attribute = resource.text(&["TimeToLiveSpecification", "AttributeName"]);
        Self {
            ttl_attribute: attribute.filter(|_| expires),
            recoverable: resource.is_on(&[
                "PointInTimeRecoverySpecification",
                "PointInTimeRecoveryEnabled",
            ]),
            protected: resource.is_on(&["DeletionProtectionEnabled"]),
        }
    }
}

fn judge(
    id: &str,
    table: &Table,
    wanted: &Wanted,
    needs: Option<&Needs>,
    is_local: bool,
) -> Vec<Finding> {
    let findings = [
        time_to_live(id, table, wanted, is_local),
        recovery(id, table, wanted, is_local),
        protection(id, table, wanted),
        Some(warmth(id, table, needs, is_local)),
    ];
    findings.into_iter().flatten().collect()
}

fn time_to_live(id: &str, table: &Table, wanted: &Wanted, is_local: bool) -> Option<Finding> {
    let attribute = wanted.ttl_attribute.as_deref()?;
    let was_set = table.ttl_attribute.is_some();
    Some(
        if table.expires && table.ttl_attribute.as_deref() == Some(attribute) {
            Finding::good(TTL, id, format!("on, by attribute {attribute}"))
        } else if is_local && !was_set {
            Finding::unknown(TTL, id, "the local AWS does not apply the template's")
        } else {
            let name = &table.name;
            Finding::bad(
                TTL,
                id,
                "off: the table grows for ever",
                format!(
                    "aws dynamodb update-time-to-live --table-name {name} \
                 --time-to-live-specification Enabled=true,AttributeName={attribute}"
                ),
            )
        },
    )
}

fn recovery(id: &str, table: &Table, wanted: &Wanted, is_local: bool) -> Option<Finding> {
    if !wanted.recoverable {
        return None;
    }
    Some(if table.recoverable {
        Finding::good(BACKUPS, id, "on")
    } else if is_local {
        Finding::unknown(BACKUPS, id, "the local AWS does not apply the template's")
    } else {
        let name = &table.name;
        Finding::bad(
            BACKUPS,
            id,
            "off: nothing can be looked at as it was, or restored",
            format!(
                "aws dynamodb update-continuous-backups --table-name {name} \
                 --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true"
            ),
        )
    })
}

fn protection(id: &str, table: &Table, wanted: &Wanted) -> Option<Finding> {
    if !wanted.protected {
        return None;
    }
    let name = &table.name;
    Some(if table.protected {
        Finding::good(PROTECTION, id, "on")
    } else {
        Finding::bad(
            PROTECTION,
            id,
            "off",
            format!("aws dynamodb update-table --table-name {name} --deletion-protection-enabled"),
        )
    })
}

fn warmth(id: &str, table: &Table, needs: Option<&Needs>, is_local: bool) -> Finding {
    let Warmth { reads, writes, .. } = table.warmth;
    if is_local {
        return Finding::unknown(WARMTH, id, LOCAL);
    }
    let words = format!("{writes} writes/s, {reads} reads/s at once");
    let needed = needs
        .filter(|_| HOT.contains(&id))
        .map(|needs| needs.table_writes.ceil() as u64);
    match needed {
        Some(needed) if needed > writes && !table.warmth.is_settled => Finding::unknown(
            WARMTH,
            id,
            format!("{words}; it is being raised, the sale needs {needed} writes/s"),
        ),
        Some(needed) if needed > writes => Finding::bad(
            WARMTH,
            id,
            format!("{words}; the sale needs {needed} writes/s"),
            format!("firstcome warm --table {id} --writes {needed}"),
        ),
        Some(needed) => Finding::good(
            WARMTH,
            id,
            format!("{words}; the sale needs {needed} writes/s"),
        ),
        None => Finding::good(WARMTH, id, words),
    }
}

impl Operator {
    pub(super) async fn check_tables(
        &self,
        deployment: &Deployment,
        needs: Option<&Needs>,
    ) -> Vec<Finding> {
        let is_local = deployment.is_local;
        let asked = deployment
            .of_type("AWS::DynamoDB::Table")
            .map(async |resource| {
                let id = &resource.logical_id;
                match self.table(&resource.physical_id).await {
                    Ok(table) => judge(id, &table, &Wanted::of(resource), needs, is_local),
                    Err(error) => vec![Finding::unasked("table", id, &error, is_local)],
                }
            });
        let mut findings = join_all(asked).await.concat();
        // Check by check, not table by table.
        findings.sort_by_key(|finding| {
            [TTL, BACKUPS, PROTECTION, WARMTH]
                .iter()
                .position(|check| *check == finding.check)
        });
        findings
    }

    async fn table(&self, name: &str) -> Result<Table, OperatorError> {
        let described = self.describe_table(name).await?;
        let ttl = self.dynamo.describe_time_to_live().table_name(name);
        let ttl = ttl.send().await;
        let ttl = ttl
            .map_err(|error| self.failed("read a table's time to live", error))?
            .time_to_live_description;
        let backups = self.dynamo.describe_continuous_backups().table_name(name);
        let backups = backups.send().await;
        let backups = backups
            .map_err(|error| self.failed("read a table's backups", error))?
            .continuous_backups_description;
        let recovery = backups
            .and_then(|backups| backups.point_in_time_recovery_description)
            .and_then(|recovery| recovery.point_in_time_recovery_status);
        let status = ttl
            .as_ref()
            .and_then(|ttl| ttl.time_to_live_status.as_ref());
        Ok(Table {
            name: name.to_owned(),
            expires: matches!(
                status,
                Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
            ),
            ttl_attribute: ttl.and_then(|ttl| ttl.attribute_name),
            recoverable: recovery == Some(PointInTimeRecoveryStatus::Enabled),
            protected: described.deletion_protection_enabled.unwrap_or_default(),
            warmth: Warmth::of(&described),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::super::Health;
    use super::*;
    use crate::aws::operator::deployment;

    fn table() -> Table {
        Table {
            name: "stack-Coupons".into(),
            expires: true,
            ttl_attribute: Some("ttl".into()),
            recoverable: true,
            protected: true,
            warmth: Warmth {
                reads: 12_000,
                writes: 4_000,
                is_settled: true,
            },
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            ttl_attribute: Some("ttl".into()),
            recoverable: true,
            protected: true,
        }
    }

    fn health(table: &Table, wanted: &Wanted, is_local: bool) -> Vec<(&'static str, Health)> {
        let findings = judge("CouponsTable", table, wanted, None, is_local);
        findings.iter().map(|one| (one.check, one.health)).collect()
    }

    #[test]
    fn what_the_template_asks_for_is_looked_for() {
        let template = json!({"Resources": {"T": {"Type": "AWS::DynamoDB::Table", "Properties": {
            "TimeToLiveSpecification": {"AttributeName": "ttl", "Enabled": true},
            "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": true},
            "DeletionProtectionEnabled": true,
        }}}});
        let resources = deployment::resources(&template, &HashMap::new(), &HashMap::new());
        assert_eq!(Wanted::of(&resources[0]), wanted());
        let good = [TTL, BACKUPS, PROTECTION, WARMTH].map(|check| (check, Health::Good));
        assert_eq!(health(&table(), &wanted(), false), good);
        let nothing = health(&Table::default(), &Wanted::default(), false);
        assert_eq!(nothing, [(WARMTH, Health::Good)]);
    }

    #[test]
    fn what_is_off_is_bad() {
        let off = Table {
            name: "stack-Coupons".into(),
            ..Table::default()
        };
        let bad = [TTL, BACKUPS, PROTECTION].map(|check| (check, Health::Bad));
        assert_eq!(health(&off, &wanted(), false)[..3], bad);
        let other = Table {
            ttl_attribute: Some("other".into()),
            ..table()
        };
        assert_eq!(health(&other, &wanted(), false)[0].1, Health::Bad);
    }

    #[test]
    fn locally_only_what_somebody_switched_off_is_bad() {
        let mut never_applied = table();
        (never_applied.expires, never_applied.ttl_attribute) = (false, None);
        assert_eq!(
            health(&never_applied, &wanted(), true)[0].1,
            Health::Unknown
        );
        let mut switched_off = table();
        switched_off.expires = false;
        assert_eq!(health(&switched_off, &wanted(), true)[0].1, Health::Bad);
        assert_eq!(health(&table(), &wanted(), true)[0].1, Health::Good);
    }

    #[test]
    fn warm_throughput_is_held_to_the_sale_on_the_tables_it_writes_to() {
        let needs = Needs {
            table_writes: 4_000.5,
            ..Needs::default()
        };
        let needs = Some(&needs);
        let cold = warmth("CouponsTable", &table(), needs, false);
        assert_eq!(cold.health, Health::Bad);
        let remedy = "firstcome warm --table CouponsTable --writes 4001";
        assert_eq!(cold.remedy.as_deref(), Some(remedy));
        assert_eq!(
            warmth("WalletsTable", &table(), needs, false).health,
            Health::Good
        );
        assert_eq!(
            warmth("CouponsTable", &table(), None, false).health,
            Health::Good
        );
        let mut warm = table();
        warm.warmth.writes = 4_001;
        assert_eq!(
            warmth("CouponsTable", &warm, needs, false).health,
            Health::Good
        );
        let mut warming = table();
        warming.warmth.is_settled = false;
        assert_eq!(
            warmth("CouponsTable", &warming, needs, false).health,
            Health::Unknown
        );
        assert_eq!(
            warmth("CouponsTable", &table(), needs, true).health,
            Health::Unknown
        );
    }
}
