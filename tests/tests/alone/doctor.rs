//! `doctor` on a stack that is broken on purpose: one thing at a time, found by its own check and no other, and put back.

use std::collections::BTreeSet;
use std::time::Duration;

use firstcome_core::aws::operator::{Health, Operator, OperatorError, Queue, RawMessage};
use firstcome_tests::{Stack, eventually};

/// An URL that could be a webhook; nothing is ever posted to it.
const WEBHOOK: &str = "http://127.0.0.1:9/unused";
/// How long a poison message may take to die.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is broken.
#[derive(Clone, Copy, Debug)]
enum Breakage {
    EventSourceDisabled,
    BoundOfEventSourceLost,
    VariableChangedBehindTheAlias,
    TimeToLiveOff,
    WebhookUnset,
    AlarmOn,
    ReservationChanged,
    DeadLetter,
}

use Breakage::*;

impl Breakage {
    const ALL: [Self; 8] = [
        EventSourceDisabled,
        BoundOfEventSourceLost,
        VariableChangedBehindTheAlias,
        TimeToLiveOff,
        WebhookUnset,
        AlarmOn,
        ReservationChanged,
        DeadLetter,
    ];

    /// The check that finds it, and the resource that it names.
    fn found_by(self) -> (&'static str, &'static str) {
        match self {
            EventSourceDisabled | BoundOfEventSourceLost => ("event source", "ClaimsEventSource"),
            VariableChangedBehindTheAlias => ("alias live", "ClaimFunction"),
            TimeToLiveOff => ("time to live", "WalletsTable"),
            WebhookUnset => ("webhook", "AlertWebhookSecret"),
            AlarmOn => ("alarm", "AlertDeadLettersAlarm"),
            ReservationChanged => ("reserved concurrency", "IssueFunction"),
            DeadLetter => ("dead letters", "ClaimsDeadLetterQueue"),
        }
    }

    async fn do_it(self, world: &World) -> Result<(), OperatorError> {
        let operator = &world.operator;
        match self {
            EventSourceDisabled => {
                operator
                    .enable_event_source("ClaimsEventSource", false)
                    .await
            }
            BoundOfEventSourceLost => operator.bound_event_source("ClaimsEventSource", 2).await,
            VariableChangedBehindTheAlias => {
                let value = Some("changed");
                operator
                    .set_variable("ClaimFunction", "BROKEN", value)
                    .await
            }
            TimeToLiveOff => operator.expire("WalletsTable", false).await,
            WebhookUnset => operator.set_webhook("unset").await,
            AlarmOn => operator.set_off(&world.quiet_alarm, "a test").await,
            ReservationChanged => {
                let other = if world.reservation.is_some() {
                    None
                } else {
                    Some(1)
                };
                operator.reserve("IssueFunction", other).await
            }
            DeadLetter => {
                let message = RawMessage {
                    group: world.poison.clone(),
                    body: world.poison.clone(),
                };
                operator.send(Queue::Claims, &[message]).await
            }
        }
    }

    async fn undo(self, world: &World) -> Result<(), OperatorError> {
        let operator = &world.operator;
        match self {
            EventSourceDisabled => {
                operator
                    .enable_event_source("ClaimsEventSource", true)
                    .await
            }
            BoundOfEventSourceLost => operator.switch_pollers_off(drop).await.map(drop),
            VariableChangedBehindTheAlias => {
                operator.set_variable("ClaimFunction", "BROKEN", None).await
            }
            TimeToLiveOff => operator.expire("WalletsTable", true).await,
            WebhookUnset => operator.set_webhook(WEBHOOK).await,
            AlarmOn => operator.calm(&world.quiet_alarm, "a test").await,
            ReservationChanged => operator.reserve("IssueFunction", world.reservation).await,
            DeadLetter => operator.take_dead_claims(&world.poison).await.map(drop),
        }
    }
}

/// What the breakages need to know of the stack.
struct World {
    operator: Operator,
    /// An alarm that tells nobody.
    quiet_alarm: String,
    reservation: Option<u16>,
    poison: String,
}

/// What `doctor` calls bad, by check and resource.
async fn bad(operator: &Operator) -> Result<BTreeSet<(&'static str, String)>, OperatorError> {
    let findings = operator.examine(None).await?.into_iter();
    let bad = findings.filter(|finding| finding.health == Health::Bad);
    Ok(bad
        .flat_map(|finding| {
            let subjects = finding.subjects.into_iter();
            subjects.map(move |subject| (finding.check, subject))
        })
        .collect())
}

#[tokio::test]
async fn doctor_finds_each_thing_that_is_broken_and_nothing_else() {
    let stack = Stack::find().await;
    let operator = stack.operator().clone();
    operator.set_webhook(WEBHOOK).await.unwrap();
    operator.expire("WalletsTable", true).await.unwrap();
    let alarms = operator.alarms().await.unwrap();
    let quiet = alarms
        .into_iter()
        .find(|alarm| alarm.name.ends_with("-alert-dead-letters"));
    let world = World {
        quiet_alarm: quiet.unwrap().name,
        reservation: operator.reservation("IssueFunction").await.unwrap(),
        poison: format!("poison{:016x}", fastrand::u64(..)),
        operator,
    };
    let operator = &world.operator;
    let before = bad(operator).await.unwrap();
    println!("bad before anything was broken: {before:?}");

    for breakage in Breakage::ALL {
        let (check, subject) = breakage.found_by();
        let expected = (check, subject.to_owned());
        assert!(!before.contains(&expected), "{breakage:?} is there already");
        breakage.do_it(&world).await.unwrap();
        let during = async || {
            let found = bad(operator).await.ok()?;
            found.contains(&expected).then_some(found)
        };
        let found = match breakage {
            // It dies after some receives.
            DeadLetter => eventually("a dead letter is found", PATIENCE, during).await,
            _ => {
                let found = during().await;
                found.unwrap_or_else(BTreeSet::new)
            }
        };
        breakage.undo(&world).await.unwrap();
        let new: Vec<_> = found.difference(&before).collect();
        assert_eq!(new, [&expected], "{breakage:?}");
        let after = bad(operator).await.unwrap();
        assert_eq!(after, before, "{breakage:?} was put back");
    }
    operator.set_webhook("unset").await.unwrap();
}
