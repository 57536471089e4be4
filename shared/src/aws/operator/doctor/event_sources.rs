//! Event sources: whether each queue is read, and in the mode that was asked for.

use futures_util::future::join_all;

use super::account::Needs;
use super::{Deployment, Finding, LOCAL, Operator, OperatorError};
use crate::aws::operator::event_sources::{CLAIMS_SOURCE, EventSource};

const CHECK: &str = "event source";

/// An event source of the template and what the stack answered.
pub(super) struct Source {
    pub(super) logical_id: String,
    wanted: EventSource,
    pub(super) found: Result<EventSource, OperatorError>,
}

pub(super) fn judge(sources: &[Source], needs: Option<&Needs>, is_local: bool) -> Vec<Finding> {
    let pollers_needed = needs.map_or(0, |needs| needs.pollers);
    let needed = |id: &str| {
        if id == CLAIMS_SOURCE && !is_local {
            pollers_needed
        } else {
            0
        }
    };
    let findings = sources.iter().map(|source| {
        let id = &source.logical_id;
        match &source.found {
            Ok(found) => event_source(id, &source.wanted, found, needed(id)),
            Err(error) => Finding::unasked(CHECK, id, error, is_local),
        }
    });
    let pollers = (is_local && pollers_needed > 0)
        .then(|| Finding::unknown("provisioned pollers", CLAIMS_SOURCE, LOCAL));
    findings.chain(pollers).collect()
}

fn event_source(id: &str, wanted: &EventSource, found: &EventSource, needed: u32) -> Finding {
    state(id, wanted, found)
        .or_else(|| batching(id, wanted, found))
        .or_else(|| target(id, wanted, found))
        .or_else(|| scaling(id, wanted, found, needed))
        .unwrap_or_else(|| Finding::good(CHECK, id, as_it_is(found)))
}

fn as_it_is(found: &EventSource) -> String {
    let scaling = match (&found.pollers, found.maximum_concurrency) {
        (Some(pollers), _) => format!("{} to {} pollers", pollers.minimum, pollers.maximum),
        (None, Some(most)) => format!("{most} at once"),
        (None, None) => "no bound".to_owned(),
    };
    let size = found.batch_size.unwrap_or_default();
    match found.window_seconds.unwrap_or_default() {
        0 => format!("enabled, batches of {size}, {scaling}"),
        window => format!("enabled, batches of {size} within {window} s, {scaling}"),
    }
}

/// The command that changes an event source.
fn update(found: &EventSource, options: &str) -> String {
    format!(
        "aws lambda update-event-source-mapping --uuid {} {options}",
        found.uuid
    )
}

fn state(id: &str, wanted: &EventSource, found: &EventSource) -> Option<Finding> {
    if found.state == wanted.state {
        return None;
    }
    Some(match found.state.as_str() {
        "Disabled" => Finding::bad(
            CHECK,
            id,
            "is disabled: nothing reads its queue",
            update(found, "--enabled"),
        ),
        "Enabled" => Finding::bad(
            CHECK,
            id,
            "is enabled, the template asks for the contrary",
            update(found, "--no-enabled"),
        ),
        state => Finding::unknown(
            CHECK,
            id,
            format!("is {state} just now: ask again in a minute"),
        ),
    })
}

fn batching(id: &str, wanted: &EventSource, found: &EventSource) -> Option<Finding> {
    let differs = |wanted: Option<i64>, found: Option<i64>| wanted.is_some() && wanted != found;
    let words = |source: &EventSource| {
        let size = source.batch_size.unwrap_or_default();
        format!(
            "{size} within {} s",
            source.window_seconds.unwrap_or_default()
        )
    };
    let is_other = differs(wanted.batch_size, found.batch_size)
        || differs(wanted.window_seconds, found.window_seconds);
    is_other.then(|| {
        let options = format!(
            "--batch-size {} --maximum-batching-window-in-seconds {}",
            wanted.batch_size.or(found.batch_size).unwrap_or_default(),
            wanted.window_seconds.unwrap_or_default()
        );
        Finding::bad(
            CHECK,
            id,
            format!(
                "batches of {}, the template asks for {}",
                words(found),
                words(wanted)
            ),
            update(found, &options),
        )
    })
}

fn target(id: &str, wanted: &EventSource, found: &EventSource) -> Option<Finding> {
    if wanted.reports_failures && !found.reports_failures {
        return Some(Finding::bad(
            CHECK,
            id,
            "does not report single failures: one bad message brings its whole batch back",
            update(found, "--function-response-types ReportBatchItemFailures"),
        ));
    }
    (!found.function_arn.ends_with(":live")).then(|| {
        Finding::bad(
            CHECK,
            id,
            "invokes the function past its alias live",
            update(found, "--function-name with the alias's ARN"),
        )
    })
}

/// What is wrong with how it scales. Pollers stay on, and are paid for, until somebody switches them off: so they are a
/// fault unless the template or the planned sale asks for them.
fn scaling(id: &str, wanted: &EventSource, found: &EventSource, needed: u32) -> Option<Finding> {
    let asked_for = wanted
        .pollers
        .map_or(0, |pollers| pollers.minimum)
        .max(needed);
    let switch_on = || format!("firstcome pollers on --min {asked_for} --max {asked_for}");
    match found.pollers {
        Some(pollers) if asked_for == 0 => {
            let minimum = pollers.minimum;
            return Some(Finding::bad(
                CHECK,
                id,
                format!("at least {minimum} provisioned pollers are on, and paid for by the hour"),
                "after the sale: firstcome pollers off; before it: name it by --users, --stock and --window-seconds",
            ));
        }
        Some(pollers) => {
            let minimum = pollers.minimum;
            return (minimum < asked_for).then(|| {
                let detail =
                    format!("{minimum} provisioned pollers of {asked_for} that are needed");
                Finding::bad(CHECK, id, detail, switch_on())
            });
        }
        None if asked_for > 0 => {
            let detail = format!("no provisioned pollers of {asked_for} that are needed");
            return Some(Finding::bad(CHECK, id, detail, switch_on()));
        }
        None => {}
    }
    let words = |most: Option<i64>| most.map_or("no bound".to_owned(), |n| format!("{n} at once"));
    let (is, should_be) = (found.maximum_concurrency, wanted.maximum_concurrency);
    (is != should_be).then(|| {
        let remedy = match should_be {
            _ if id == CLAIMS_SOURCE => "firstcome pollers off".to_owned(),
            Some(most) => update(
                found,
                &format!("--scaling-config MaximumConcurrency={most}"),
            ),
            None => update(found, "--scaling-config {}"),
        };
        let detail = format!("{}, the template asks for {}", words(is), words(should_be));
        Finding::bad(CHECK, id, detail, remedy)
    })
}

impl Operator {
    /// Every event source of the template, as it is.
    pub(super) async fn event_sources(&self, deployment: &Deployment) -> Vec<Source> {
        let sources = deployment.of_type("AWS::Lambda::EventSourceMapping");
        let asked = sources.map(async |resource| Source {
            logical_id: resource.logical_id.clone(),
            wanted: EventSource::wanted(resource),
            found: self.event_source(&resource.physical_id).await,
        });
        join_all(asked).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::super::Health;
    use super::*;
    use crate::aws::operator::{Pollers, deployment};

    type Change = fn(&mut EventSource);

    fn source() -> EventSource {
        EventSource {
            uuid: "u-1".into(),
            state: "Enabled".into(),
            function_arn: "arn:aws:lambda:us-east-1:1:function:stack-Issue:live".into(),
            batch_size: Some(10),
            window_seconds: Some(0),
            maximum_concurrency: Some(20),
            pollers: None,
            reports_failures: true,
        }
    }

    fn pollers(minimum: u32) -> Option<Pollers> {
        Some(Pollers {
            minimum,
            maximum: 2 * minimum,
        })
    }

    fn found(change: Change) -> EventSource {
        let mut found = source();
        change(&mut found);
        found
    }

    #[test]
    fn a_source_as_the_template_asks_is_good() {
        let finding = event_source(CLAIMS_SOURCE, &source(), &source(), 0);
        assert_eq!(finding.health, Health::Good);
        assert_eq!(finding.detail, "enabled, batches of 10, 20 at once");
    }

    #[test]
    fn every_way_to_differ_is_bad_and_says_the_command() {
        let cases: [(Change, &str); 8] = [
            (|s| s.state = "Disabled".into(), "--uuid u-1 --enabled"),
            (|s| s.batch_size = Some(100), "--batch-size 10 "),
            (
                |s| s.window_seconds = Some(1),
                "--maximum-batching-window-in-seconds 0",
            ),
            (|s| s.reports_failures = false, "ReportBatchItemFailures"),
            (
                |s| s.function_arn = "arn:aws:lambda:x:1:function:stack-Issue".into(),
                "alias",
            ),
            (|s| s.maximum_concurrency = None, "pollers off"),
            (|s| s.maximum_concurrency = Some(2), "pollers off"),
            (
                |s| (s.pollers, s.maximum_concurrency) = (pollers(4), None),
                "pollers off",
            ),
        ];
        for (change, remedy) in cases {
            let finding = event_source(CLAIMS_SOURCE, &source(), &found(change), 0);
            assert_eq!(finding.health, Health::Bad, "{remedy}");
            let said = finding.remedy.unwrap();
            assert!(said.contains(remedy), "{said}");
        }
        let other = event_source(
            "Other",
            &source(),
            &found(|s| s.maximum_concurrency = None),
            0,
        );
        assert!(other.remedy.unwrap().ends_with("MaximumConcurrency=20"));
    }

    #[test]
    fn a_source_that_is_changing_is_neither_good_nor_bad() {
        for state in ["Creating", "Enabling", "Disabling", "Updating"] {
            let mut changing = source();
            changing.state = state.into();
            let finding = event_source(CLAIMS_SOURCE, &source(), &changing, 0);
            assert_eq!(finding.health, Health::Unknown, "{state}");
        }
    }

    #[test]
    fn what_the_template_leaves_to_lambda_is_not_compared() {
        let mut wanted = source();
        (wanted.batch_size, wanted.window_seconds) = (None, None);
        let finding = event_source(
            CLAIMS_SOURCE,
            &wanted,
            &found(|s| s.batch_size = Some(7)),
            0,
        );
        assert_eq!(finding.health, Health::Good);
    }

    #[test]
    fn pollers_are_good_as_far_as_a_sale_or_the_template_needs_them() {
        let with = |minimum| EventSource {
            pollers: pollers(minimum),
            maximum_concurrency: None,
            ..source()
        };
        let health = |wanted: &EventSource, found: &EventSource, needed| {
            event_source(CLAIMS_SOURCE, wanted, found, needed).health
        };
        assert_eq!(health(&source(), &with(4), 4), Health::Good);
        assert_eq!(health(&source(), &with(4), 5), Health::Bad);
        assert_eq!(health(&source(), &source(), 4), Health::Bad);
        assert_eq!(health(&with(2), &with(2), 0), Health::Good);
        assert_eq!(health(&with(3), &with(2), 0), Health::Bad);
        assert_eq!(health(&with(3), &source(), 0), Health::Bad);
    }

    #[test]
    fn pollers_are_asked_for_on_the_claims_source_alone_and_not_locally() {
        let sources = [CLAIMS_SOURCE, "Other"].map(|id| Source {
            logical_id: id.into(),
            wanted: source(),
            found: Ok(source()),
        });
        let needs = Needs {
            pollers: 4,
            ..Needs::default()
        };
        let health = |is_local| {
            let findings = judge(&sources, Some(&needs), is_local);
            findings.iter().map(|one| one.health).collect::<Vec<_>>()
        };
        assert_eq!(health(false), [Health::Bad, Health::Good]);
        assert_eq!(health(true), [Health::Good, Health::Good, Health::Unknown]);
    }

    #[test]
    fn the_template_says_what_is_wanted() {
        let template = json!({"Resources": {"S": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": {
            "FunctionName": {"Ref": "Alias"}, "BatchSize": {"Ref": "Size"},
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ScalingConfig": {"MaximumConcurrency": 20}, "MaximumBatchingWindowInSeconds": 0,
        }}}});
        let map = |pairs: [(&str, &str); 2]| {
            HashMap::from(pairs.map(|(name, text)| (name.to_owned(), text.to_owned())))
        };
        let arn = "arn:aws:lambda:us-east-1:1:function:stack-Issue:live";
        let parameters = map([("Size", "10"), ("Unused", "")]);
        let resources =
            deployment::resources(&template, &parameters, &map([("S", "u-1"), ("Alias", arn)]));
        assert_eq!(EventSource::wanted(&resources[0]), source());
    }

    #[test]
    fn executions_are_bounded_by_pollers_or_by_the_concurrency() {
        assert_eq!(source().most_executions(), Some(20));
        assert_eq!(
            found(|s| s.pollers = pollers(4)).most_executions(),
            Some(80)
        );
        assert_eq!(
            found(|s| s.maximum_concurrency = None).most_executions(),
            None
        );
        assert!(source().invokes("stack-Issue") && !source().invokes("stack-Iss"));
        assert!(!EventSource::default().invokes(""));
    }
}
