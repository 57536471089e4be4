//! Functions: whether what runs is what was deployed, and whether each keeps the executions reserved for it.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use super::event_sources::Source;
use super::{Deployment, Finding, Operator, OperatorError};

/// The alias that everything is invoked through (template.yaml, `AutoPublishAlias`).
const ALIAS: &str = "live";
const ALIASES: &str = "alias live";
const RESERVED: &str = "reserved concurrency";

/// What a version runs with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Configuration {
    pub(super) version: String,
    code_sha256: String,
    pub(super) variables: BTreeMap<String, String>,
    memory_mb: i32,
    timeout_seconds: i32,
}

/// A function as it is, and what it should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    latest: Configuration,
    pub(super) live: Configuration,
    /// Another version that gets a part of the invocations, while a gradual deployment runs.
    shifting: Option<String>,
    pub(super) reserved: Option<i64>,
    wanted_reserved: Option<i64>,
}

/// A function of the template and what the stack answered.
pub(super) struct Asked {
    pub(super) logical_id: String,
    pub(super) function: Result<Function, OperatorError>,
}

pub(super) fn judge(asked: &[Asked], sources: &[Source], is_local: bool) -> Vec<Finding> {
    let aliases = asked.iter().map(|asked| match &asked.function {
        Ok(function) => alias(&asked.logical_id, function),
        Err(error) => Finding::unasked(ALIASES, &asked.logical_id, error, is_local),
    });
    let reserved = asked.iter().filter_map(|asked| {
        let function = asked.function.as_ref().ok()?;
        let workers = sources
            .iter()
            .filter_map(|source| source.found.as_ref().ok())
            .filter(|source| source.invokes(&function.name))
            .filter_map(|source| source.most_executions());
        Some(reservation(&asked.logical_id, function, workers.sum()))
    });
    aliases.chain(reserved).collect()
}

/// A change of a parameter reaches $LATEST at once, and the alias only if a version was published.
fn alias(id: &str, function: &Function) -> Finding {
    let (live, latest) = (&function.live, &function.latest);
    if let Some(version) = &function.shifting {
        let detail = format!("a gradual deployment runs: version {version} gets a part");
        return Finding::unknown(ALIASES, id, detail);
    }
    let differences = differences(live, latest);
    if differences.is_empty() {
        return Finding::good(ALIASES, id, "runs what was deployed last");
    }
    let name = &function.name;
    Finding::bad(
        ALIASES,
        id,
        format!(
            "version {} differs from $LATEST in {}",
            live.version,
            differences.join(", ")
        ),
        format!(
            "aws lambda publish-version --function-name {name}, then aws lambda update-alias --function-name {name} \
             --name {ALIAS} --function-version with its number"
        ),
    )
}

/// What differs, by name: a variable's value may be a secret.
fn differences(live: &Configuration, latest: &Configuration) -> Vec<String> {
    let mut all = Vec::new();
    let mut note = |differs: bool, what: &str| all.extend(differs.then(|| what.to_owned()));
    note(live.code_sha256 != latest.code_sha256, "code");
    note(live.memory_mb != latest.memory_mb, "memory");
    note(live.timeout_seconds != latest.timeout_seconds, "time-out");
    let names: BTreeSet<&String> = live
        .variables
        .keys()
        .chain(latest.variables.keys())
        .collect();
    for name in names {
        note(
            live.variables.get(name) != latest.variables.get(name),
            &format!("variable {name}"),
        );
    }
    all
}

/// `workers` is how many executions the function's event sources start at most. Where fewer are reserved, batches are
/// throttled and wait out their visibility time-out (Lambda developer guide, services-sqs-scaling.html).
fn reservation(id: &str, function: &Function, workers: i64) -> Finding {
    let words = |reserved: Option<i64>| reserved.map_or("none".to_owned(), |n| n.to_string());
    if function.reserved != function.wanted_reserved {
        let name = &function.name;
        let remedy = match function.wanted_reserved {
            Some(wanted) => format!(
                "aws lambda put-function-concurrency --function-name {name} --reserved-concurrent-executions {wanted}"
            ),
            None => format!("aws lambda delete-function-concurrency --function-name {name}"),
        };
        let detail = format!(
            "{} reserved, the template asks for {}",
            words(function.reserved),
            words(function.wanted_reserved)
        );
        return Finding::bad(RESERVED, id, detail, remedy);
    }
    match function.reserved {
        Some(reserved) if reserved < workers => Finding::bad(
            RESERVED,
            id,
            format!(
                "{reserved} reserved, but its event sources start up to {workers}: batches are throttled"
            ),
            "reserve as many in the stack's parameters, or lower the event sources' concurrency",
        ),
        reserved => Finding::good(
            RESERVED,
            id,
            format!("{} reserved, as the template asks", words(reserved)),
        ),
    }
}

impl Operator {
    /// Every function of the template, as it is.
    pub(super) async fn functions(&self, deployment: &Deployment) -> Vec<Asked> {
        let functions = deployment.of_type("AWS::Lambda::Function");
        let asked = functions.map(async |resource| Asked {
            logical_id: resource.logical_id.clone(),
            function: self
                .function(
                    &resource.physical_id,
                    resource.number(&["ReservedConcurrentExecutions"]),
                )
                .await,
        });
        join_all(asked).await
    }

    async fn function(
        &self,
        name: &str,
        wanted_reserved: Option<i64>,
    ) -> Result<Function, OperatorError> {
        let latest = self.configuration(name, None).await?;
        let live = self.configuration(name, Some(ALIAS)).await?;
        let alias = self.lambda.get_alias().function_name(name).name(ALIAS);
        let alias = alias.send().await;
        let alias = alias.map_err(|error| self.failed("read the alias", error))?;
        let weights = alias
            .routing_config
            .and_then(|routing| routing.additional_version_weights)
            .unwrap_or_default();
        let reserved = self.lambda.get_function_concurrency().function_name(name);
        let reserved = reserved.send().await;
        let reserved = reserved.map_err(|error| self.failed("read the concurrency", error))?;
        Ok(Function {
            name: name.to_owned(),
            latest,
            live,
            shifting: weights.into_keys().next(),
            reserved: reserved.reserved_concurrent_executions.map(Into::into),
            wanted_reserved,
        })
    }

    async fn configuration(
        &self,
        name: &str,
        qualifier: Option<&str>,
    ) -> Result<Configuration, OperatorError> {
        let call = self
            .lambda
            .get_function_configuration()
            .function_name(name)
            .set_qualifier(qualifier.map(str::to_owned));
        let found = call
            .send()
            .await
            .map_err(|error| self.failed("read the configuration", error))?;
        let variables = found
            .environment
            .and_then(|environment| environment.variables)
            .unwrap_or_default();
        Ok(Configuration {
            version: found.version.unwrap_or_default(),
            code_sha256: found.code_sha256.unwrap_or_default(),
            variables: variables.into_iter().collect(),
            memory_mb: found.memory_size.unwrap_or_default(),
            timeout_seconds: found.timeout.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Health;
    use super::*;
    use crate::aws::operator::testing;

    type Change = fn(&mut Function);

    fn configuration(pairs: &[(&str, &str)]) -> Configuration {
        let owned = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Configuration {
            version: "7".into(),
            code_sha256: "sha".into(),
            variables: owned.collect(),
            memory_mb: 512,
            timeout_seconds: 5,
        }
    }

    fn function() -> Function {
        Function {
            name: "stack-Claim".into(),
            latest: configuration(&[("A", "1")]),
            live: configuration(&[("A", "1")]),
            ..Function::default()
        }
    }

    #[test]
    fn an_alias_that_runs_what_latest_has_is_good() {
        assert_eq!(alias("Claim", &function()).health, Health::Good);
    }

    #[test]
    fn whatever_did_not_reach_the_alias_is_named_without_its_value() {
        let cases: [(Change, &str); 6] = [
            (|f| f.latest.code_sha256 = "other".into(), "in code"),
            (|f| f.latest.memory_mb = 1024, "in memory"),
            (|f| f.latest.timeout_seconds = 6, "in time-out"),
            (
                |f| f.latest.variables = configuration(&[("A", "s3cret")]).variables,
                "in variable A",
            ),
            (
                |f| f.latest.variables = configuration(&[]).variables,
                "in variable A",
            ),
            (
                |f| f.latest.variables = configuration(&[("A", "1"), ("B", "s3cret")]).variables,
                "in variable B",
            ),
        ];
        for (change, named) in cases {
            let mut changed = function();
            change(&mut changed);
            let finding = alias("Claim", &changed);
            assert_eq!(finding.health, Health::Bad, "{named}");
            assert!(finding.detail.ends_with(named), "{}", finding.detail);
            assert!(!format!("{finding:?}").contains("s3cret"));
        }
    }

    #[test]
    fn a_gradual_deployment_under_way_is_no_fault() {
        let mut shifting = function();
        shifting.latest.code_sha256 = "other".into();
        shifting.shifting = Some("8".into());
        assert_eq!(alias("Claim", &shifting).health, Health::Unknown);
    }

    #[test]
    fn what_is_reserved_is_what_the_template_asks_for() {
        let with = |reserved, wanted_reserved| Function {
            reserved,
            wanted_reserved,
            ..function()
        };
        let health = |reserved, wanted, workers| {
            reservation("Claim", &with(reserved, wanted), workers).health
        };
        assert_eq!(health(None, None, 20), Health::Good);
        assert_eq!(health(Some(20), Some(20), 20), Health::Good);
        assert_eq!(health(None, Some(20), 20), Health::Bad);
        assert_eq!(health(Some(5), None, 0), Health::Bad);
        assert_eq!(health(Some(19), Some(19), 20), Health::Bad);
        let remedy = |reserved, wanted| {
            let finding = reservation("Claim", &with(reserved, wanted), 0);
            finding.remedy.unwrap_or_default()
        };
        assert!(remedy(None, Some(20)).ends_with("--reserved-concurrent-executions 20"));
        assert!(remedy(Some(5), None).contains("delete-function-concurrency"));
    }

    #[tokio::test]
    async fn a_function_is_read_at_latest_and_through_its_alias() {
        let configuration = |version: &str, value: &str| {
            let variables = json!({"Variables": {"A": value}});
            let answer = json!({"Version": version, "CodeSha256": "sha", "MemorySize": 512, "Timeout": 5, "Environment": variables});
            (200, answer)
        };
        let (operator, http) = testing::operator(&[
            configuration("$LATEST", "2"),
            configuration("7", "1"),
            (
                200,
                json!({"RoutingConfig": {"AdditionalVersionWeights": {"8": 0.1}}}),
            ),
            (200, json!({"ReservedConcurrentExecutions": 20})),
        ]);
        let found = operator.function("stack-Claim", Some(20)).await.unwrap();
        let expected = Function {
            latest: Configuration {
                version: "$LATEST".into(),
                ..self::configuration(&[("A", "2")])
            },
            shifting: Some("8".into()),
            reserved: Some(20),
            wanted_reserved: Some(20),
            ..function()
        };
        assert_eq!(found, expected);
        let uris: Vec<_> = http
            .actual_requests()
            .map(|request| request.uri())
            .collect();
        let ends = [
            "/configuration",
            "/configuration?Qualifier=live",
            "/aliases/live",
            "/concurrency",
        ];
        for (uri, end) in uris.iter().zip(ends) {
            assert!(uri.ends_with(end), "{uri}");
        }
    }
}
