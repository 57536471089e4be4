//! One notification of the alarms' topic, told to the webhook. An error has Lambda try again, twice, and then put it into
//! the dead-letter queue (template.yaml); no alarm that comes here looks at this function or that queue, so that nothing
//! goes in a circle.

use std::time::Duration;

use aws_lambda_events::sns::SnsEvent;
use firstcome_core::lambda::{UnreadableEvent, read};
use firstcome_core::metric::{self, Metric};
use firstcome_core::{Notice, PortError, Telling, Webhook, WebhookAddress, tell};
use lambda_runtime::{Diagnostic, tracing};
use tokio::time::Instant;

/// How long one invocation goes on trying: well below the function's 30 s (template.yaml).
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells every record of an event as it came.
pub(crate) async fn answer(
    address: &impl WebhookAddress,
    webhook: &impl Webhook,
    event: &str,
) -> Result<(), Diagnostic> {
    handle(address, webhook, read(event).map_err(unreadable)?).await
}

/// What the platform is told after a panic.
pub(crate) fn panicked() -> Diagnostic {
    Diagnostic {
        error_type: "Panic".into(),
        error_message: "the handler panicked; the log says where".into(),
    }
}

fn unreadable(error: UnreadableEvent) -> Diagnostic {
    tracing::error!(%error, "event not read");
    Diagnostic {
        error_type: "Event".into(),
        error_message: error.to_string(),
    }
}

/// Tells every record.
async fn handle(
    address: &impl WebhookAddress,
    webhook: &impl Webhook,
    event: SnsEvent,
) -> Result<(), Diagnostic> {
    let started = Instant::now();
    for record in event.records {
        let notice = Notice::read(record.sns.subject.as_deref(), &record.sns.message);
        let told = match address.url().await {
            Ok(Some(url)) => tell(webhook, &url, &notice, started + PATIENCE).await,
            Ok(None) => Ok(Telling::Nowhere),
            Err(error) => Err(error),
        };
        let telling = told.map_err(|error| failed(&notice, &error))?;
        metric::count(Metric::AlertsPosted, telling.is_told().into());
        tracing::info!(
            alarm.name = notice.name(),
            alarm.state = notice.state(),
            outcome = telling.as_str(),
            tries = telling.tries(),
            duration_ms = started.elapsed().as_millis() as u64,
            "alarm told"
        );
    }
    Ok(())
}

fn failed(notice: &Notice, error: &PortError) -> Diagnostic {
    tracing::error!(alarm.name = notice.name(), alarm.state = notice.state(), %error, cause = %error.source, "alarm not told");
    Diagnostic {
        error_type: "Alert.NotTold".into(),
        error_message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use firstcome_core::{Delivery, WebhookUrl};
    use serde_json::Value;

    use super::*;

    const ALARM: &str = include_str!("../../../events/alert-alarm.json");

    struct Address(Option<&'static str>);

    impl WebhookAddress for Address {
        async fn url(&self) -> Result<Option<WebhookUrl>, PortError> {
            Ok(self.0.map(|url| WebhookUrl::new(url).unwrap()))
        }
    }

    /// Gives these answers in turn, the last one for good, and keeps what it was sent.
    struct Receiver(Vec<Delivery>, Mutex<Vec<Value>>);

    impl Webhook for Receiver {
        async fn post(&self, _: &WebhookUrl, body: &Value) -> Delivery {
            let mut heard = self.1.lock().unwrap();
            heard.push(body.clone());
            self.0[(heard.len() - 1).min(self.0.len() - 1)].clone()
        }
    }

    async fn tell_alarm(address: &Address, answers: &[Delivery]) -> (bool, Vec<Value>) {
        let receiver = Receiver(answers.to_vec(), Mutex::default());
        let event: SnsEvent = serde_json::from_str(ALARM).unwrap();
        let done = handle(address, &receiver, event).await.is_ok();
        (done, receiver.1.into_inner().unwrap())
    }

    const SLACK: Address = Address(Some("https://hooks.slack.com/services/T/B/x"));

    #[tokio::test(start_paused = true)]
    async fn an_alarm_is_told_in_words() {
        let (done, heard) = tell_alarm(&SLACK, &[Delivery::Told]).await;
        assert!(done);
        let text = heard[0]["text"].as_str().unwrap();
        assert!(
            text.starts_with("🔴 ALARM firstcome-claims-dead-letters"),
            "{text}"
        );
        assert!(
            text.contains("docs/runbook.md#claims-dead-letters"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_webhook_is_given_the_time_it_asks_for() {
        let started = Instant::now();
        let again = Delivery::Again("429".into(), Some(Duration::from_secs(3)));
        let (done, heard) = tell_alarm(&SLACK, &[again, Delivery::Told]).await;
        assert!(done);
        assert_eq!(heard.len(), 2);
        assert!(started.elapsed() >= Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_webhook_that_stays_down_is_given_up_in_time_for_the_platform_to_try_again() {
        let started = Instant::now();
        let (done, heard) = tell_alarm(&SLACK, &[Delivery::Again("503".into(), None)]).await;
        assert!(!done);
        assert!((2..=4).contains(&heard.len()), "{}", heard.len());
        assert!(started.elapsed() <= PATIENCE);
        let long = Delivery::Again("429".into(), Some(Duration::from_secs(3600)));
        let (done, heard) = tell_alarm(&SLACK, &[long]).await;
        assert!(!done);
        assert_eq!(
            heard.len(),
            1,
            "an hour is the platform's to wait, not ours"
        );
        for forever in [
            Duration::from_secs(10_000_000_000_000_000_000),
            Duration::MAX,
        ] {
            let long = Delivery::Again("429".into(), Some(forever));
            let (done, heard) = tell_alarm(&SLACK, &[long]).await;
            assert_eq!((done, heard.len()), (false, 1), "{forever:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_repeated_here() {
        let (done, heard) = tell_alarm(&SLACK, &[Delivery::Refused("404".into())]).await;
        assert!(!done);
        assert_eq!(heard.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_webhook_nothing_fails() {
        let (done, heard) = tell_alarm(&Address(None), &[Delivery::Told]).await;
        assert!(done);
        assert!(heard.is_empty());
    }

    proptest::proptest! {
        #![proptest_config(firstcome_core::hostile::cases(1000))]

        #[test]
        fn whatever_the_event_is_nothing_panics(event in firstcome_core::hostile::events(&[
            ALARM,
            include_str!("../../../events/alert-recovered.json"),
        ])) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let receiver = Receiver(vec![Delivery::Told], Mutex::default());
            if runtime.block_on(answer(&SLACK, &receiver, &event)).is_ok() {
                for told in receiver.1.into_inner().unwrap() {
                    proptest::prop_assert!(!told["text"].as_str().unwrap().trim().is_empty());
                }
            }
        }
    }
}
