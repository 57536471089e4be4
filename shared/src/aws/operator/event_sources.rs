//! Event sources of queues: as the template asks for one, and as Lambda says it is.

use aws_sdk_lambda::operation::get_event_source_mapping::GetEventSourceMappingOutput;
use aws_sdk_lambda::types::FunctionResponseType;

use super::deployment::Resource;
use super::{Operator, OperatorError, Pollers};

/// The one of ClaimsQueue (template.yaml); provisioned pollers are meant for it.
pub(super) const CLAIMS_SOURCE: &str = "ClaimsEventSource";
/// Batches that a provisioned poller of a queue runs at once (Lambda developer guide, services-sqs-parameters.html).
const BATCHES_OF_A_POLLER: i64 = 10;

/// An event source mapping of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EventSource {
    pub(super) uuid: String,
    /// `Enabled`, `Disabled`, or on its way: `Creating`, `Enabling`, `Disabling`, `Updating`.
    pub(super) state: String,
    pub(super) function_arn: String,
    /// `None`: the template leaves it to Lambda.
    pub(super) batch_size: Option<i64>,
    pub(super) window_seconds: Option<i64>,
    /// At most so many batches at once; `None` for no bound of its own.
    pub(super) maximum_concurrency: Option<i64>,
    pub(super) pollers: Option<Pollers>,
    pub(super) reports_failures: bool,
}

impl EventSource {
    /// As the template asks for it.
    pub(super) fn wanted(resource: &Resource) -> Self {
        let poller = |which: &str| {
            let number = resource.number(&["ProvisionedPollerConfig", which])?;
            u32::try_from(number).ok()
        };
        let pollers = resource
            .property(&["ProvisionedPollerConfig"])
            .map(|_| Pollers {
                minimum: poller("MinimumPollers").unwrap_or_default(),
                maximum: poller("MaximumPollers").unwrap_or_default(),
            });
        let types = resource.property(&["FunctionResponseTypes"]);
        let is_report = |text: &serde_json::Value| {
            text.as_str() == Some(FunctionResponseType::ReportBatchItemFailures.as_str())
        };
        Self {
            uuid: resource.physical_id.clone(),
            // Absent means enabled.
            state: match resource.text(&["Enabled"]).as_deref() {
                Some("false") => "Disabled".to_owned(),
                _ => "Enabled".to_owned(),
            },
            function_arn: resource.text(&["FunctionName"]).unwrap_or_default(),
            batch_size: resource.number(&["BatchSize"]),
            window_seconds: resource.number(&["MaximumBatchingWindowInSeconds"]),
            maximum_concurrency: resource.number(&["ScalingConfig", "MaximumConcurrency"]),
            pollers,
            reports_failures: types
                .and_then(|types| types.as_array())
                .is_some_and(|types| types.iter().any(is_report)),
        }
    }

    /// As Lambda says it is.
    fn found(answer: GetEventSourceMappingOutput) -> Self {
        let reports_failures = answer
            .function_response_types()
            .contains(&FunctionResponseType::ReportBatchItemFailures);
        let count = |number: Option<i32>| number.and_then(|n| u32::try_from(n).ok());
        let pollers = answer.provisioned_poller_config.and_then(|config| {
            Some(Pollers {
                minimum: count(config.minimum_pollers)?,
                maximum: count(config.maximum_pollers)?,
            })
        });
        Self {
            uuid: answer.uuid.unwrap_or_default(),
            state: answer.state.unwrap_or_default(),
            function_arn: answer.function_arn.unwrap_or_default(),
            batch_size: answer.batch_size.map(Into::into),
            window_seconds: answer.maximum_batching_window_in_seconds.map(Into::into),
            maximum_concurrency: answer
                .scaling_config
                .and_then(|config| config.maximum_concurrency)
                .map(Into::into),
            pollers,
            reports_failures,
        }
    }

    /// Whether it invokes this function, through whatever alias.
    pub(super) fn invokes(&self, function: &str) -> bool {
        self.function_arn
            .split(':')
            .any(|part| !part.is_empty() && part == function)
    }

    /// How many executions it starts at most; `None` without a bound of its own.
    pub(super) fn most_executions(&self) -> Option<i64> {
        match &self.pollers {
            Some(pollers) => Some(i64::from(pollers.maximum) * BATCHES_OF_A_POLLER),
            None => self.maximum_concurrency,
        }
    }
}

impl Operator {
    /// An event source by its UUID.
    pub(super) async fn event_source(&self, uuid: &str) -> Result<EventSource, OperatorError> {
        let call = self.lambda.get_event_source_mapping().uuid(uuid);
        let answer = call.send().await;
        answer
            .map(EventSource::found)
            .map_err(|error| self.failed("read the event source", error))
    }
}
