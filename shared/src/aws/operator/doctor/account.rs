//! The account and Region: whether its quotas carry this stack, and a planned sale.

use super::event_sources::Source;
use super::functions::Asked;
use super::{Finding, LOCAL, Operator, OperatorError};

const QUOTAS: &str = "quotas";
const CONCURRENCY: &str = "executions at once";

/// A quota in Service Quotas: its service and its code.
type Code = (&'static str, &'static str);

/// "Throttle rate": requests per second of all APIs, HTTP, WebSocket and `@connections` together.
const REQUESTS: Code = ("apigateway", "L-8A5B8E43");
/// "Throttle burst rate".
const BURST: Code = ("apigateway", "L-CDF5615A");
/// "WebSocket new connections rate", per second.
const CONNECTIONS: Code = ("apigateway", "L-9ED1E49A");
/// "Table-level write throughput limit", write units per second.
const TABLE_WRITES: Code = ("dynamodb", "L-AB614373");

/// What a planned sale asks of a stack and its account; `firstcome plan` computes it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Needs {
    /// Write units per second that the tables of coupons and connections take at once.
    pub table_writes: f64,
    /// API Gateway requests per second.
    pub requests: f64,
    /// New sockets per second.
    pub connections: f64,
    /// Lambda executions at once.
    pub executions: f64,
    /// Provisioned pollers of ClaimsQueue; 0 for none.
    pub pollers: u32,
}

/// What the account may do in its Region; `None` is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AccountQuotas {
    /// API Gateway requests per second.
    pub requests: Option<f64>,
    /// And their burst.
    pub burst: Option<f64>,
    /// New sockets per second.
    pub connections: Option<f64>,
    /// Lambda executions at once.
    pub concurrency: Option<f64>,
    /// Write units per second of one table.
    pub table_writes: Option<f64>,
}

/// The quotas, and why some are not known.
pub(super) struct AskedQuotas {
    pub(super) known: AccountQuotas,
    errors: Vec<(&'static str, OperatorError)>,
}

pub(super) fn judge(
    quotas: &AskedQuotas,
    needs: Option<&Needs>,
    functions: &[Asked],
    sources: &[Source],
    is_local: bool,
) -> Vec<Finding> {
    let unasked = quotas
        .errors
        .iter()
        .map(|(what, error)| Finding::unasked(QUOTAS, what, error, is_local));
    let mut findings: Vec<_> = unasked.collect();
    findings.extend(quotas_of(&quotas.known, needs));
    let functions: Vec<_> = functions
        .iter()
        .filter_map(|asked| asked.function.as_ref().ok())
        .collect();
    let sources: Vec<_> = sources
        .iter()
        .filter_map(|source| source.found.as_ref().ok())
        .collect();
    let unreserved = sources.iter().filter(|source| {
        let reserves = |name: &str| source.invokes(name);
        !functions
            .iter()
            .any(|one| one.reserved.is_some() && reserves(&one.name))
    });
    let taken = Taken {
        reserved: functions.iter().filter_map(|one| one.reserved).sum(),
        workers: unreserved.filter_map(|one| one.most_executions()).sum(),
    };
    if let Some(limit) = quotas.known.concurrency {
        findings.push(concurrency(limit, &taken, needs));
    }
    findings
}

/// Executions that the doors cannot have.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    /// Reserved for functions.
    reserved: i64,
    /// Started by event sources of functions without a reservation.
    workers: i64,
}

fn quotas_of(known: &AccountQuotas, needs: Option<&Needs>) -> Vec<Finding> {
    let need = |of: fn(&Needs) -> f64| needs.map(of);
    let rows = [
        (
            "API Gateway requests/s",
            known.requests,
            need(|n| n.requests),
        ),
        (
            "WebSocket connections/s",
            known.connections,
            need(|n| n.connections),
        ),
        (
            "table write units/s",
            known.table_writes,
            need(|n| n.table_writes),
        ),
    ];
    let findings = rows.into_iter().filter_map(|(what, have, need)| {
        let have = have?;
        Some(match need {
            Some(need) if need > have => Finding::bad(
                QUOTAS,
                what,
                format!("{have:.0}, the sale needs {need:.0}"),
                "ask for more in Service Quotas, days ahead",
            ),
            Some(_) => Finding::good(QUOTAS, what, format!("{have:.0}, enough for the sale")),
            None => Finding::good(QUOTAS, what, format!("{have:.0}")),
        })
    });
    findings.collect()
}

/// The doors must have executions of their own, or nobody can claim while workers decide.
fn concurrency(limit: f64, taken: &Taken, needs: Option<&Needs>) -> Finding {
    const SUBJECT: &str = "account";
    let Taken { reserved, workers } = *taken;
    let left = limit - (reserved + workers) as f64;
    let words =
        format!("{limit:.0}, of them {reserved} reserved and up to {workers} for other workers");
    match needs.map(|needs| needs.executions) {
        Some(needed) if needed > limit => Finding::bad(
            CONCURRENCY,
            SUBJECT,
            format!("{words}; the sale needs {needed:.0}"),
            "ask for more concurrent executions in Service Quotas, days ahead",
        ),
        _ if left < 1.0 && reserved == 0 => Finding::bad(
            CONCURRENCY,
            SUBJECT,
            format!("{words}: none is left for the doors"),
            "lower the event sources' concurrency in the stack's parameters, or ask for a higher quota",
        ),
        Some(needed) => Finding::good(
            CONCURRENCY,
            SUBJECT,
            format!("{words}; the sale needs {needed:.0}"),
        ),
        None => Finding::good(CONCURRENCY, SUBJECT, words),
    }
}

/// The requests per second that a stack lets through at most, against the account's.
pub(super) fn throttles(allowed: f64, posts: f64, quotas: &AskedQuotas, is_local: bool) -> Finding {
    const CHECK: &str = "throttles";
    const SUBJECT: &str = "requests/s";
    let words = format!("routes let {allowed:.0} through, workers post {posts:.0}");
    match quotas.known.requests {
        Some(quota) if allowed + posts > quota => Finding::bad(
            CHECK,
            SUBJECT,
            format!(
                "{words}: more than the account's {quota:.0}, so that one part can starve the others"
            ),
            "lower ClaimRequestsPerSecond and BroadcastRequestsPerSecond, or ask for a higher quota",
        ),
        Some(quota) => Finding::good(
            CHECK,
            SUBJECT,
            format!("{words}, of the account's {quota:.0}"),
        ),
        None if is_local => Finding::unknown(CHECK, SUBJECT, LOCAL),
        None => Finding::unknown(
            CHECK,
            SUBJECT,
            format!("{words}; the account's quota is not known"),
        ),
    }
}

impl Operator {
    /// What the account may do, as far as it can be known.
    pub async fn quotas(&self) -> AccountQuotas {
        self.account_quotas().await.known
    }

    pub(super) async fn account_quotas(&self) -> AskedQuotas {
        let (requests, burst, connections, table_writes, concurrency) = tokio::join!(
            self.quota(REQUESTS),
            self.quota(BURST),
            self.quota(CONNECTIONS),
            self.quota(TABLE_WRITES),
            self.concurrency_quota()
        );
        let mut errors = Vec::new();
        let mut known = |what, answer: Result<f64, OperatorError>| match answer {
            Ok(value) => Some(value),
            Err(error) => {
                errors.push((what, error));
                None
            }
        };
        let known = AccountQuotas {
            requests: known("API Gateway requests/s", requests),
            burst: known("API Gateway burst", burst),
            connections: known("WebSocket connections/s", connections),
            table_writes: known("table write units/s", table_writes),
            concurrency: known("executions at once", concurrency),
        };
        AskedQuotas { known, errors }
    }

    /// The applied quota; where none was ever applied, AWS's default.
    async fn quota(&self, (service, code): Code) -> Result<f64, OperatorError> {
        let applied = self.quotas.get_service_quota();
        let applied = applied.service_code(service).quota_code(code).send().await;
        let quota = match applied {
            Ok(answer) => answer.quota,
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_no_such_resource_exception()) =>
            {
                let default = self.quotas.get_aws_default_service_quota();
                let default = default.service_code(service).quota_code(code).send().await;
                default
                    .map_err(|error| self.failed("read a quota", error))?
                    .quota
            }
            Err(error) => return Err(self.failed("read a quota", error)),
        };
        let missing = || OperatorError::MissingItem(format!("quota {code} of {service}"));
        quota.and_then(|quota| quota.value).ok_or_else(missing)
    }

    async fn concurrency_quota(&self) -> Result<f64, OperatorError> {
        let answer = self.lambda.get_account_settings().send().await;
        let limit = answer
            .map_err(|error| self.failed("read the account's limits", error))?
            .account_limit
            .map(|limit| f64::from(limit.concurrent_executions));
        limit.ok_or_else(|| OperatorError::MissingItem("limit of concurrent executions".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Health;
    use super::*;
    use crate::aws::operator::testing;
    use crate::aws::replay::requests;

    fn quotas() -> AskedQuotas {
        let known = AccountQuotas {
            requests: Some(10_000.0),
            burst: Some(5_000.0),
            connections: Some(500.0),
            concurrency: Some(1_000.0),
            table_writes: Some(40_000.0),
        };
        AskedQuotas {
            known,
            errors: Vec::new(),
        }
    }

    #[test]
    fn a_quota_below_what_a_sale_needs_is_bad() {
        let needs = Needs {
            requests: 10_000.0,
            connections: 501.0,
            table_writes: 4_000.0,
            ..Needs::default()
        };
        let health = |needs| {
            let findings = quotas_of(&quotas().known, needs);
            findings.iter().map(|one| one.health).collect::<Vec<_>>()
        };
        assert_eq!(
            health(Some(&needs)),
            [Health::Good, Health::Bad, Health::Good]
        );
        assert_eq!(health(None), [Health::Good; 3]);
    }

    #[test]
    fn a_quota_that_is_not_known_is_not_judged() {
        let known = AccountQuotas::default();
        assert_eq!(quotas_of(&known, Some(&Needs::default())), []);
    }

    #[test]
    fn workers_may_not_have_all_executions() {
        let taken = |reserved, workers| Taken { reserved, workers };
        let health = |limit, taken: Taken| concurrency(limit, &taken, None).health;
        assert_eq!(health(1_000.0, taken(0, 40)), Health::Good);
        assert_eq!(health(10.0, taken(0, 10)), Health::Bad);
        assert_eq!(health(11.0, taken(0, 10)), Health::Good);
        // The doors have reserved theirs.
        assert_eq!(health(10.0, taken(10, 0)), Health::Good);
        let needs = Needs {
            executions: 1_001.0,
            ..Needs::default()
        };
        let finding = concurrency(1_000.0, &taken(0, 40), Some(&needs));
        assert_eq!(finding.health, Health::Bad);
    }

    #[test]
    fn what_all_parts_let_through_stays_within_the_quota() {
        let health = |allowed, posts| throttles(allowed, posts, &quotas(), false).health;
        assert_eq!(health(5_600.0, 4_200.0), Health::Good);
        assert_eq!(health(5_600.0, 4_401.0), Health::Bad);
        let unknown = AskedQuotas {
            known: AccountQuotas::default(),
            errors: Vec::new(),
        };
        assert_eq!(throttles(1.0, 1.0, &unknown, true).health, Health::Unknown);
    }

    #[tokio::test]
    async fn a_quota_that_was_never_changed_is_awss_default() {
        let none = json!({"__type": "NoSuchResourceException", "Message": "none applied"});
        let (operator, http) = testing::operator(&[
            (200, json!({"Quota": {"Value": 20_000.0}})),
            (400, none),
            (200, json!({"Quota": {"Value": 10_000.0}})),
            (
                400,
                json!({"__type": "AccessDeniedException", "Message": "no"}),
            ),
        ]);
        assert_eq!(operator.quota(REQUESTS).await.unwrap(), 20_000.0);
        assert_eq!(operator.quota(REQUESTS).await.unwrap(), 10_000.0);
        assert!(operator.quota(REQUESTS).await.is_err());
        let asked = requests(&http);
        let names: Vec<_> = asked.iter().map(|(name, _)| name.as_str()).collect();
        let applied = "GetServiceQuota";
        let expected = [applied, applied, "GetAWSDefaultServiceQuota", applied];
        assert_eq!(names, expected);
        let code = json!({"ServiceCode": "apigateway", "QuotaCode": "L-8A5B8E43"});
        assert!(asked.iter().all(|(_, body)| *body == code), "{asked:?}");
    }
}
