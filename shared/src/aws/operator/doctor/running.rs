//! What a deployed stack does by itself: alarms, the minute's schedule, the snapshot; and what lies where nothing should.

use futures_util::future::join_all;

use super::{Deployment, Finding, LOCAL, Operator, OperatorError, Resource};
use crate::aws::operator::{Alarm, QueueDepth, now, number};
use crate::aws::snapshots::REPLICAS;
use crate::{Timestamp, WebhookUrl};

const ALARMS: &str = "alarm";
const WEBHOOK: &str = "webhook";
const SCHEDULE: &str = "schedule";
const SNAPSHOT: &str = "snapshot";
const LETTERS: &str = "dead letters";
/// What the secret may hold until somebody stores a webhook (template.yaml, `AlertWebhookSecret`), beside nothing at all.
const UNSET: &str = "unset";
/// A snapshot is written every minute; so old, in seconds, it was missed twice.
const SNAPSHOT_SECONDS: i64 = 180;

fn alarms(wanted: &[&Resource], found: &[Alarm], is_local: bool) -> Vec<Finding> {
    let findings = wanted.iter().map(|resource| {
        let id = &resource.logical_id;
        let alarm = found.iter().find(|alarm| alarm.name == resource.physical_id);
        match alarm.map(|alarm| (alarm.state.as_str(), alarm)) {
            None => Finding::bad(ALARMS, id, "does not exist", "deploy again"),
            Some(("OK", _)) => Finding::good(ALARMS, id, "quiet"),
            Some(("ALARM", alarm)) => {
                let meaning = alarm.meaning.split(" Do: ").next().unwrap_or_default();
                let anchor = alarm.meaning.split("Do: ").nth(1);
                let remedy = anchor.unwrap_or("docs/runbook.md");
                Finding::bad(ALARMS, id, format!("is on: {meaning}"), remedy)
            }
            // The local AWS evaluates an alarm only when a metric is put by hand.
            Some(_) if is_local => Finding::unknown(ALARMS, id, LOCAL),
            Some((state, _)) => Finding::bad(
                ALARMS,
                id,
                format!("is {state}: it looks at nothing, so it cannot ring"),
                "wait for five minutes after a deployment; then compare its metric and dimensions with the dashboard's",
            ),
        }
    });
    findings.collect()
}

fn webhook(stored: Option<&str>) -> Finding {
    const SUBJECT: &str = "AlertWebhookSecret";
    let remedy = "firstcome alarms webhook < url.txt, then firstcome alarms drill";
    match stored {
        None | Some("" | UNSET) => {
            Finding::bad(WEBHOOK, SUBJECT, "unset: alarms wake nobody", remedy)
        }
        Some(stored) if WebhookUrl::new(stored).is_ok() => Finding::good(WEBHOOK, SUBJECT, "set"),
        Some(_) => Finding::bad(
            WEBHOOK,
            SUBJECT,
            "is no webhook's URL: alarms wake nobody",
            remedy,
        ),
    }
}

fn schedule(id: &str, state: &str, name: &str) -> Finding {
    if state == "ENABLED" {
        return Finding::good(SCHEDULE, id, "enabled");
    }
    Finding::bad(
        SCHEDULE,
        id,
        format!("is {state}: no snapshot, no due announcements, no audit"),
        format!("enable schedule {name} in EventBridge Scheduler, or deploy again"),
    )
}

/// `built_at` is when each replica's snapshot was built; the oldest counts, because doors read any of them.
fn snapshot(built_at: &[Option<Timestamp>], now: Timestamp) -> Finding {
    const SUBJECT: &str = "CampaignsTable";
    let remedy = "docs/runbook.md#snapshot-late; a stack younger than two minutes has none yet";
    let Some(built_at) = built_at.iter().copied().collect::<Option<Vec<_>>>() else {
        return Finding::bad(SNAPSHOT, SUBJECT, "a replica has none", remedy);
    };
    let oldest = built_at.into_iter().min().unwrap_or(now);
    let age = now.millis_since(oldest) / 1000;
    if age < SNAPSHOT_SECONDS {
        Finding::good(
            SNAPSHOT,
            SUBJECT,
            format!("less than {SNAPSHOT_SECONDS} s old"),
        )
    } else {
        Finding::bad(
            SNAPSHOT,
            SUBJECT,
            format!("{age} s old, is written every minute"),
            remedy,
        )
    }
}

fn letters(id: &str, depth: QueueDepth) -> Finding {
    match depth.total() {
        0 => Finding::good(LETTERS, id, "none"),
        count => Finding::bad(
            LETTERS,
            id,
            format!("{count} in the queue"),
            letters_remedy(id),
        ),
    }
}

fn letters_remedy(id: &str) -> &'static str {
    match id {
        "ClaimsDeadLetterQueue" => "firstcome dlq list; docs/runbook.md#claims-dead-letters",
        "DeliveriesDeadLetterQueue" => {
            "firstcome dlq list --queue deliveries; docs/runbook.md#deliveries-dead-letters"
        }
        "BroadcastDeadLetterQueue" => {
            "firstcome dlq list --queue broadcast; docs/runbook.md#broadcast-dead-letters"
        }
        "AlertDeadLetterQueue" => "docs/runbook.md#alert-dead-letters",
        _ => "docs/runbook.md",
    }
}

impl Operator {
    pub(super) async fn check_running(&self, deployment: &Deployment) -> Vec<Finding> {
        let is_local = deployment.is_local;
        let or_unasked = |check, subject, asked: Result<Vec<Finding>, OperatorError>| {
            asked.unwrap_or_else(|error| vec![Finding::unasked(check, subject, &error, is_local)])
        };
        let (alarms, webhook, schedules, snapshot, letters) = tokio::join!(
            self.check_alarms(deployment),
            self.check_webhook(),
            self.check_schedules(deployment),
            self.check_snapshot(),
            self.check_dead_letters(deployment)
        );
        [
            or_unasked(ALARMS, "alarms", alarms),
            or_unasked(WEBHOOK, "AlertWebhookSecret", webhook),
            schedules,
            or_unasked(SNAPSHOT, "CampaignsTable", snapshot),
            letters,
        ]
        .concat()
    }

    async fn check_alarms(&self, deployment: &Deployment) -> Result<Vec<Finding>, OperatorError> {
        let wanted: Vec<_> = deployment.of_type("AWS::CloudWatch::Alarm").collect();
        let found = self.alarms().await?;
        Ok(alarms(&wanted, &found, deployment.is_local))
    }

    async fn check_webhook(&self) -> Result<Vec<Finding>, OperatorError> {
        let call = self.secrets.get_secret_value();
        let answer = call
            .secret_id(&self.stack.alert_webhook_secret)
            .send()
            .await;
        let stored = match answer {
            Ok(answer) => answer.secret_string,
            // A secret that never had a value.
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_resource_not_found_exception()) =>
            {
                None
            }
            Err(error) => return Err(self.failed("read the webhook's secret", error)),
        };
        Ok(vec![webhook(stored.as_deref())])
    }

    async fn check_schedules(&self, deployment: &Deployment) -> Vec<Finding> {
        let asked = deployment
            .of_type("AWS::Scheduler::Schedule")
            .map(async |resource| {
                let (id, name) = (&resource.logical_id, &resource.physical_id);
                let answer = self.scheduler.get_schedule().name(name).send().await;
                match answer {
                    Ok(found) => {
                        let state = found.state.map(|state| state.as_str().to_owned());
                        schedule(id, &state.unwrap_or_default(), name)
                    }
                    Err(error) => {
                        let error = self.failed("read the schedule", error);
                        Finding::unasked(SCHEDULE, id, &error, deployment.is_local)
                    }
                }
            });
        join_all(asked).await
    }

    async fn check_snapshot(&self) -> Result<Vec<Finding>, OperatorError> {
        let mut built_at = Vec::new();
        for replica in 0..REPLICAS {
            let key = format!("SNAPSHOT#{replica}");
            let table = &self.stack.campaigns_table;
            let manifest = self.find_item(table, &key, "MANIFEST").await?;
            // The version is the time that it was built at, in milliseconds.
            let version = manifest.map(|item| number(&item, &key, "version"));
            let millis = version.transpose()?.and_then(|at| i64::try_from(at).ok());
            built_at.push(millis.map(Timestamp::from_millis));
        }
        Ok(vec![snapshot(&built_at, now())])
    }

    async fn check_dead_letters(&self, deployment: &Deployment) -> Vec<Finding> {
        let queues = deployment
            .of_type("AWS::SQS::Queue")
            .filter(|queue| queue.logical_id.ends_with("DeadLetterQueue"));
        let asked = queues.map(async |queue| {
            let id = &queue.logical_id;
            match self.depth_at(&queue.physical_id).await {
                Ok(depth) => letters(id, depth),
                Err(error) => Finding::unasked(LETTERS, id, &error, deployment.is_local),
            }
        });
        join_all(asked).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Health;
    use super::*;
    use crate::aws::operator::testing;

    #[test]
    fn an_alarm_that_is_on_or_blind_or_missing_is_bad() {
        let resource = Resource {
            logical_id: "ClaimsAgeAlarm".into(),
            kind: String::new(),
            physical_id: "firstcome-claims-age".into(),
            properties: Value::Null,
        };
        let health = |name: &str, state: &str, is_local| {
            let alarm = Alarm {
                name: name.into(),
                state: state.into(),
                meaning: "Claims wait. Do: docs/runbook.md#claims-age".into(),
                wakes: true,
            };
            alarms(&[&resource], &[alarm], is_local).remove(0)
        };
        let name = "firstcome-claims-age";
        assert_eq!(health(name, "OK", false).health, Health::Good);
        let on = health(name, "ALARM", true);
        assert_eq!(on.health, Health::Bad);
        assert_eq!(on.detail, "is on: Claims wait.");
        assert_eq!(on.remedy.as_deref(), Some("docs/runbook.md#claims-age"));
        assert_eq!(health(name, "INSUFFICIENT_DATA", false).health, Health::Bad);
        assert_eq!(
            health(name, "INSUFFICIENT_DATA", true).health,
            Health::Unknown
        );
        assert_eq!(health("another", "OK", false).health, Health::Bad);
    }

    #[test]
    fn only_a_webhook_is_a_webhook_and_none_is_told() {
        let good = webhook(Some("https://hooks.slack.com/services/x"));
        assert_eq!(good.health, Health::Good);
        assert_eq!(webhook(None).health, Health::Bad);
        for bad in ["unset", "", "http://s3cret.example/x"] {
            let finding = webhook(Some(bad));
            assert_eq!(finding.health, Health::Bad, "{bad}");
            assert!(!format!("{finding:?}").contains("s3cret"));
        }
    }

    #[test]
    fn a_schedule_runs_or_is_bad() {
        assert_eq!(schedule("S", "ENABLED", "n").health, Health::Good);
        assert_eq!(schedule("S", "DISABLED", "n").health, Health::Bad);
    }

    #[test]
    fn the_oldest_replica_of_the_snapshot_counts() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let at = |seconds: i64| Some(now.plus_seconds(-seconds));
        let health = |built_at: &[Option<Timestamp>]| snapshot(built_at, now).health;
        assert_eq!(health(&[at(0), at(179)]), Health::Good);
        assert_eq!(health(&[at(0), at(180)]), Health::Bad);
        assert_eq!(health(&[at(0), None]), Health::Bad);
    }

    #[test]
    fn every_dead_letter_counts_and_says_where_to_look() {
        let depth = |visible, in_flight| QueueDepth {
            visible,
            in_flight,
            delayed: 0,
        };
        assert_eq!(
            letters("ClaimsDeadLetterQueue", depth(0, 0)).health,
            Health::Good
        );
        for depth in [depth(1, 0), depth(0, 1)] {
            let finding = letters("ClaimsDeadLetterQueue", depth);
            assert_eq!(finding.health, Health::Bad);
            assert!(finding.remedy.unwrap().contains("firstcome dlq list;"));
        }
    }

    #[tokio::test]
    async fn a_secret_without_a_value_is_an_unset_webhook_and_a_refusal_is_told() {
        let refused = |code: &str| (400, json!({"__type": code, "Message": "no"}));
        let (operator, _) = testing::operator(&[
            refused("ResourceNotFoundException"),
            refused("AccessDeniedException"),
        ]);
        let finding = operator.check_webhook().await.unwrap().remove(0);
        assert_eq!(finding.health, Health::Bad);
        assert!(finding.detail.starts_with("unset"));
        assert!(operator.check_webhook().await.is_err());
    }
}
