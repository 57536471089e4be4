//! Provisioned pollers of ClaimsQueue, switched on before a large sale and off after it. By API and not by the template:
//! an event source whose template leaves them out keeps them, and keeps being billed for them.

use std::time::Duration;

use aws_sdk_lambda::operation::update_event_source_mapping::builders::UpdateEventSourceMappingFluentBuilder;
use aws_sdk_lambda::types::{ProvisionedPollerConfig, ScalingConfig};
use tokio::time::sleep;

use super::event_sources::{CLAIMS_SOURCE, EventSource};
use super::{Operator, OperatorError};

/// How often an event source that changes is looked at.
const PAUSE: Duration = Duration::from_secs(3);
/// How often in all: ten minutes.
const LOOKS: u32 = 200;
/// How often one that says it is settled, but has not what was asked for: a minute.
const SETTLED_LOOKS: u32 = 20;

/// How many pollers are kept, and how many there may be under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pollers {
    /// Kept and paid for all the time.
    pub minimum: u32,
    /// Under load.
    pub maximum: u32,
}

/// How ClaimsQueue is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimsReaders {
    /// The event source's state: `Enabled` when it is settled.
    pub state: String,
    /// Provisioned pollers; `None` in the usual mode.
    pub pollers: Option<Pollers>,
    /// The bound of the usual mode on batches at once.
    pub maximum_concurrency: Option<i64>,
    /// That bound as the stack's template and parameters ask for it.
    pub usual_concurrency: Option<i64>,
}

/// Sets back a change of how ClaimsQueue is read that failed or was cut short, so that it is left with pollers or with a bound
/// on batches at once, and not with neither: without either, Lambda starts as many batches as the account allows.
#[derive(Clone, Debug)]
pub struct PollersUndo {
    operator: Operator,
    uuid: String,
    /// The pollers there were before; `None` to leave what is there.
    pollers: Option<Option<Pollers>>,
    /// The bound that belongs to no pollers.
    bound: Option<i64>,
}

impl PollersUndo {
    /// Waits until the event source is settled and sets back what is left of the change. Pollers that were being ended are
    /// kept if they are still there; if they are gone, the usual bound is set.
    ///
    /// # Errors
    /// [`OperatorError`] as for the change itself.
    pub async fn run(self) -> Result<(), OperatorError> {
        let (operator, uuid) = (&self.operator, self.uuid.as_str());
        let source = operator.settled(uuid, |_| true).await?;
        // What is as it should be is asked for all the same: the call that was cut short may still be on its way.
        if let Some(pollers) = self.pollers.unwrap_or(source.pollers) {
            operator.ask_for(uuid, pollers).await?;
            return Ok(());
        }
        if source.pollers.is_some() {
            operator.end_pollers(uuid).await?;
        }
        if self.bound.is_some() {
            operator.bound(uuid, self.bound).await?;
        }
        Ok(())
    }
}

/// The event source of ClaimsQueue, and its usual mode.
struct Claims {
    uuid: String,
    usual: Option<i64>,
}

impl Claims {
    fn readers(&self, source: EventSource) -> ClaimsReaders {
        ClaimsReaders {
            state: source.state,
            pollers: source.pollers,
            maximum_concurrency: source.maximum_concurrency,
            usual_concurrency: self.usual,
        }
    }
}

impl Operator {
    /// How ClaimsQueue is read now.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or the stack has no such event source.
    pub async fn claims_readers(&self) -> Result<ClaimsReaders, OperatorError> {
        let claims = self.claims().await?;
        Ok(claims.readers(self.event_source(&claims.uuid).await?))
    }

    /// Gives ClaimsQueue provisioned pollers, or other numbers of them, and waits until they are there. They take the
    /// place of the bound on batches at once: the two are "mutually exclusive"
    /// (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html>), so that for a while there is neither.
    /// `begin` gets what sets that back, before anything is changed; it is to be run unless this returns `Ok`.
    ///
    /// # Errors
    /// [`OperatorError`] if the stack is local, the event source is disabled or busy, AWS refuses, or it takes longer
    /// than ten minutes.
    pub async fn switch_pollers_on(
        &self,
        pollers: Pollers,
        begin: impl FnOnce(PollersUndo),
    ) -> Result<ClaimsReaders, OperatorError> {
        if self.is_local() {
            return Err(OperatorError::NotReady(
                "the local AWS has no provisioned pollers: this works on AWS only".to_owned(),
            ));
        }
        let claims = self.claims().await?;
        self.provision(&claims.uuid, pollers, begin)
            .await
            .map(|source| claims.readers(source))
    }

    /// Ends provisioned mode, sets the usual bound on batches at once again, and waits until both are done. Harmless if
    /// there is nothing to end. `begin` as for [`Self::switch_pollers_on`].
    ///
    /// # Errors
    /// [`OperatorError`] if the event source is disabled or busy, AWS refuses, or it takes longer than ten minutes.
    pub async fn switch_pollers_off(
        &self,
        begin: impl FnOnce(PollersUndo),
    ) -> Result<ClaimsReaders, OperatorError> {
        let claims = self.claims().await?;
        self.unprovision(&claims.uuid, claims.usual, begin)
            .await
            .map(|source| claims.readers(source))
    }

    async fn claims(&self) -> Result<Claims, OperatorError> {
        let deployment = self.deployment().await?;
        let resource = deployment
            .named(CLAIMS_SOURCE)
            .filter(|resource| !resource.physical_id.is_empty())
            .ok_or_else(|| OperatorError::MissingItem(format!("{CLAIMS_SOURCE} in the stack")))?;
        Ok(Claims {
            uuid: resource.physical_id.clone(),
            usual: EventSource::wanted(resource).maximum_concurrency,
        })
    }

    async fn provision(
        &self,
        uuid: &str,
        pollers: Pollers,
        begin: impl FnOnce(PollersUndo),
    ) -> Result<EventSource, OperatorError> {
        let before = self.settled(uuid, |_| true).await?;
        begin(PollersUndo {
            operator: self.clone(),
            uuid: uuid.to_owned(),
            pollers: Some(before.pollers),
            bound: before.maximum_concurrency,
        });
        if before.maximum_concurrency.is_some() {
            self.bound(uuid, None).await?;
        }
        self.ask_for(uuid, pollers).await
    }

    async fn ask_for(&self, uuid: &str, pollers: Pollers) -> Result<EventSource, OperatorError> {
        let wanted = ProvisionedPollerConfig::builder()
            .minimum_pollers(count(pollers.minimum))
            .maximum_pollers(count(pollers.maximum))
            .build();
        self.update(uuid, |call| call.provisioned_poller_config(wanted))
            .await?;
        self.settled(uuid, |source| source.pollers == Some(pollers))
            .await
    }

    async fn unprovision(
        &self,
        uuid: &str,
        usual: Option<i64>,
        begin: impl FnOnce(PollersUndo),
    ) -> Result<EventSource, OperatorError> {
        let mut source = self.settled(uuid, |_| true).await?;
        if source.pollers.is_some() || source.maximum_concurrency != usual {
            begin(PollersUndo {
                operator: self.clone(),
                uuid: uuid.to_owned(),
                pollers: None,
                bound: usual,
            });
        }
        if source.pollers.is_some() {
            source = self.end_pollers(uuid).await?;
        }
        if source.maximum_concurrency != usual {
            source = self.bound(uuid, usual).await?;
        }
        Ok(source)
    }

    /// Leaving the object out keeps what is there, an empty one removes it: so AWS documents it for the pollers of Kafka
    /// (<https://docs.aws.amazon.com/lambda/latest/dg/kafka-scaling-modes.html>), in the same call. The wait shows whether it
    /// is so for those of a queue.
    async fn end_pollers(&self, uuid: &str) -> Result<EventSource, OperatorError> {
        let none = ProvisionedPollerConfig::builder().build();
        self.update(uuid, |call| call.provisioned_poller_config(none))
            .await?;
        self.settled(uuid, |source| source.pollers.is_none()).await
    }

    /// Sets the bound on batches at once, or removes it.
    async fn bound(&self, uuid: &str, most: Option<i64>) -> Result<EventSource, OperatorError> {
        let most_at_once = most.and_then(|most| i32::try_from(most).ok());
        let scaling = ScalingConfig::builder()
            .set_maximum_concurrency(most_at_once)
            .build();
        self.update(uuid, |call| call.scaling_config(scaling))
            .await?;
        self.settled(uuid, |source| source.maximum_concurrency == most)
            .await
    }

    async fn update(
        &self,
        uuid: &str,
        change: impl FnOnce(
            UpdateEventSourceMappingFluentBuilder,
        ) -> UpdateEventSourceMappingFluentBuilder,
    ) -> Result<(), OperatorError> {
        let call = change(self.lambda.update_event_source_mapping().uuid(uuid));
        let sent = call.send().await;
        sent.map(drop)
            .map_err(|error| self.failed("change the event source", error))
    }

    /// Waits until the event source is enabled and has what was asked for.
    async fn settled(
        &self,
        uuid: &str,
        is_done: impl Fn(&EventSource) -> bool,
    ) -> Result<EventSource, OperatorError> {
        let mut settled_looks = 0;
        for _ in 0..LOOKS {
            let source = self.event_source(uuid).await?;
            match source.state.as_str() {
                "Enabled" if is_done(&source) => return Ok(source),
                "Enabled" => settled_looks += 1,
                "Disabled" => {
                    let why = format!(
                        "{CLAIMS_SOURCE} is disabled: enable it first, see firstcome doctor"
                    );
                    return Err(OperatorError::NotReady(why));
                }
                _ => {}
            }
            if settled_looks >= SETTLED_LOOKS {
                let why = format!(
                    "AWS took the change of {CLAIMS_SOURCE} and did not make it: see firstcome pollers show"
                );
                return Err(OperatorError::NotReady(why));
            }
            sleep(PAUSE).await;
        }
        let why =
            format!("{CLAIMS_SOURCE} is not settled after ten minutes: see firstcome pollers show");
        Err(OperatorError::NotReady(why))
    }
}

/// Of a queue, the minimum is 2 to 200 and the maximum 2 to 10,000
/// (<https://docs.aws.amazon.com/lambda/latest/api/API_ProvisionedPollerConfig.html>); cli/src/arguments.rs refuses others.
fn count(pollers: u32) -> i32 {
    i32::try_from(pollers).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use aws_smithy_http_client::test_util::StaticReplayClient;
    use serde_json::{Value, json};
    use tokio::time::Instant;

    use super::super::testing;
    use super::*;

    const POLLERS: Pollers = Pollers {
        minimum: 4,
        maximum: 8,
    };

    fn answer(state: &str, more: Value) -> (u16, Value) {
        let mut answer = json!({"UUID": "u-1", "State": state, "BatchSize": 10});
        if let (Some(answer), Value::Object(more)) = (answer.as_object_mut(), more) {
            answer.extend(more);
        }
        (200, answer)
    }

    fn bounded(state: &str, most: u32) -> (u16, Value) {
        answer(
            state,
            json!({"ScalingConfig": {"MaximumConcurrency": most}}),
        )
    }

    fn provisioned(state: &str) -> (u16, Value) {
        let config = json!({"MinimumPollers": 4, "MaximumPollers": 8});
        answer(state, json!({"ProvisionedPollerConfig": config}))
    }

    /// The bodies of what was changed; every request is about the event source.
    fn changes(http: &StaticReplayClient) -> Vec<Value> {
        let all: Vec<_> = http.actual_requests().collect();
        for request in &all {
            let uri = request.uri();
            assert!(
                uri.ends_with("/2015-03-31/event-source-mappings/u-1"),
                "{uri}"
            );
        }
        let put = all.into_iter().filter(|request| request.method() == "PUT");
        put.map(|request| serde_json::from_slice(request.body().bytes().unwrap()).unwrap())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn pollers_take_the_place_of_the_bound_and_are_waited_for() {
        let (operator, http) = testing::operator(&[
            bounded("Enabled", 20),
            bounded("Updating", 20), // the answer to the removal of the bound
            answer("Updating", json!({})),
            answer("Enabled", json!({})),
            answer("Updating", json!({})), // the answer to the pollers
            provisioned("Updating"),
            provisioned("Enabled"),
        ]);
        let started = Instant::now();
        let source = operator.provision("u-1", POLLERS, drop).await.unwrap();
        assert_eq!(source.pollers, Some(POLLERS));
        let config = json!({"MinimumPollers": 4, "MaximumPollers": 8});
        let asked = [
            json!({"ScalingConfig": {}}),
            json!({"ProvisionedPollerConfig": config}),
        ];
        assert_eq!(changes(&http), asked);
        assert_eq!(started.elapsed(), 2 * PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_pollers_are_set_back_to_the_bound_there_was() {
        let refusal = json!({"Type": "User", "Message": "no"});
        let (operator, http) = testing::operator(&[
            bounded("Enabled", 20),
            answer("Updating", json!({})),
            answer("Enabled", json!({})),
            (400, refusal),
            answer("Enabled", json!({})),
            bounded("Updating", 20),
            bounded("Enabled", 20),
        ]);
        let mut undo = None;
        let error = operator
            .provision("u-1", POLLERS, |before| undo = Some(before))
            .await
            .unwrap_err();
        undo.unwrap().run().await.unwrap();
        assert!(
            error
                .to_string()
                .starts_with("failed to change the event source")
        );
        let restored = json!({"ScalingConfig": {"MaximumConcurrency": 20}});
        assert_eq!(changes(&http)[2], restored);
    }

    /// What setting back asks for, where the change was cut short with the event source as it is in `found`.
    async fn set_back(
        pollers: Option<Option<Pollers>>,
        found: (u16, Value),
        then: &[(u16, Value)],
    ) -> Vec<Value> {
        let (operator, http) = testing::operator(&[&[found][..], then].concat());
        let undo = PollersUndo {
            operator,
            uuid: "u-1".to_owned(),
            pollers,
            bound: Some(20),
        };
        undo.run().await.unwrap();
        changes(&http)
    }

    #[tokio::test(start_paused = true)]
    async fn wherever_a_change_is_cut_short_pollers_or_a_bound_are_left() {
        let to_bound = json!({"ScalingConfig": {"MaximumConcurrency": 20}});
        let no_pollers = json!({"ProvisionedPollerConfig": {}});
        let config = json!({"MinimumPollers": 4, "MaximumPollers": 8});
        let to_pollers = json!({ "ProvisionedPollerConfig": config });
        let gone = || answer("Enabled", json!({}));
        let bound = [bounded("Updating", 20), bounded("Enabled", 20)];
        let kept = [provisioned("Updating"), provisioned("Enabled")];
        let ended = [&[gone(), gone()], &bound[..]].concat();

        // `on`, with the bound in place, gone, and with the pollers there.
        for found in [bounded("Enabled", 20), gone()] {
            assert_eq!(
                set_back(Some(None), found, &bound).await,
                std::slice::from_ref(&to_bound)
            );
        }
        assert_eq!(
            set_back(Some(None), provisioned("Enabled"), &ended).await,
            [no_pollers, to_bound.clone()]
        );
        // `on` with other numbers of pollers than there were.
        let wanted = set_back(Some(Some(POLLERS)), gone(), &kept).await;
        assert_eq!(wanted, std::slice::from_ref(&to_pollers));
        // `off`, with the pollers still there, and gone.
        let wanted = set_back(None, provisioned("Enabled"), &kept).await;
        assert_eq!(wanted, [to_pollers]);
        assert_eq!(set_back(None, gone(), &bound).await, [to_bound]);
    }

    #[tokio::test(start_paused = true)]
    async fn off_removes_the_pollers_by_an_empty_object_and_sets_the_bound_again() {
        let (operator, http) = testing::operator(&[
            provisioned("Enabled"),
            provisioned("Updating"),
            provisioned("Enabled"), // not yet seen everywhere
            answer("Enabled", json!({})),
            bounded("Updating", 20),
            bounded("Enabled", 20),
        ]);
        let source = operator.unprovision("u-1", Some(20), drop).await.unwrap();
        assert_eq!(
            (source.pollers, source.maximum_concurrency),
            (None, Some(20))
        );
        let asked = [
            json!({"ProvisionedPollerConfig": {}}),
            json!({"ScalingConfig": {"MaximumConcurrency": 20}}),
        ];
        assert_eq!(changes(&http), asked);
    }

    #[tokio::test(start_paused = true)]
    async fn off_changes_nothing_where_nothing_is_on() {
        let (operator, http) = testing::operator(&[bounded("Enabled", 20)]);
        let nothing = |_| panic!("nothing is to be set back");
        operator
            .unprovision("u-1", Some(20), nothing)
            .await
            .unwrap();
        assert_eq!(changes(&http), [json!(null); 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn pollers_that_aws_keeps_are_told_after_a_minute() {
        let mut answers = vec![provisioned("Enabled"); 2 + SETTLED_LOOKS as usize];
        answers[1] = provisioned("Updating");
        let (operator, _) = testing::operator(&answers);
        let error = operator
            .unprovision("u-1", Some(20), drop)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("did not make it"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_never_settles_is_given_up_after_ten_minutes() {
        let (operator, _) = testing::operator(&vec![bounded("Updating", 20); LOOKS as usize]);
        let started = Instant::now();
        let error = operator
            .unprovision("u-1", Some(20), drop)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("not settled"), "{error}");
        assert_eq!(started.elapsed(), Duration::from_secs(600));
    }

    #[tokio::test(start_paused = true)]
    async fn a_disabled_source_is_told_at_once() {
        let (operator, http) = testing::operator(&[bounded("Disabled", 20)]);
        let error = operator.provision("u-1", POLLERS, drop).await.unwrap_err();
        assert!(error.to_string().contains("is disabled"), "{error}");
        assert_eq!(changes(&http).len(), 0);
    }
}
