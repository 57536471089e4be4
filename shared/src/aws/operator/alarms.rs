//! The stack's alarms: how they stand, a drill that wakes those on call, and where they are told.

use aws_sdk_cloudwatch::types::{MetricAlarm, StateValue};

use super::{Operator, OperatorError};

/// An alarm of the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Its name in CloudWatch.
    pub name: String,
    /// `OK`, `ALARM` or `INSUFFICIENT_DATA`.
    pub state: String,
    /// What it means, from template.yaml.
    pub meaning: String,
    /// Whether it tells anybody.
    pub wakes: bool,
}

impl Operator {
    /// All alarms of the stack.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails.
    pub async fn alarms(&self) -> Result<Vec<Alarm>, OperatorError> {
        let prefix = format!("{}-", self.name);
        let pages = self.cloudwatch.describe_alarms().alarm_name_prefix(prefix);
        let mut pages = pages.into_paginator().send();
        let mut alarms = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed("list the alarms", error))?;
            let found = page
                .metric_alarms
                .unwrap_or_default()
                .into_iter()
                .map(alarm);
            alarms.extend(found.filter(|alarm| is_of(&self.name, alarm)));
        }
        Ok(alarms)
    }

    /// Sets an alarm's state by hand, as if it had gone off. CloudWatch sets it back at its next look.
    ///
    /// # Errors
    /// [`OperatorError`] if there is no such alarm or the call fails.
    pub async fn set_off(&self, alarm: &str, reason: &str) -> Result<(), OperatorError> {
        self.set_state(alarm, StateValue::Alarm, reason).await
    }

    /// Sets an alarm's state back by hand.
    ///
    /// # Errors
    /// As [`Self::set_off`].
    pub async fn calm(&self, alarm: &str, reason: &str) -> Result<(), OperatorError> {
        self.set_state(alarm, StateValue::Ok, reason).await
    }

    async fn set_state(
        &self,
        alarm: &str,
        state: StateValue,
        reason: &str,
    ) -> Result<(), OperatorError> {
        let call = self.cloudwatch.set_alarm_state().alarm_name(alarm);
        let sent = call.state_value(state).state_reason(reason).send().await;
        sent.map(drop)
            .map_err(|error| self.failed("set the alarm's state", error))
    }

    /// Stores where alarms are told: a Discord or Slack webhook. The next alarm goes there.
    ///
    /// # Errors
    /// [`OperatorError`] if the call fails.
    pub async fn set_webhook(&self, url: &str) -> Result<(), OperatorError> {
        let call = self.secrets.put_secret_value();
        let sent = call
            .secret_id(&self.stack.alert_webhook_secret)
            .secret_string(url)
            .send()
            .await;
        sent.map(drop)
            .map_err(|error| self.failed("store the webhook", error))
    }
}

/// Whether an alarm is this stack's, and not that of another whose name begins in the same way: `shop-claims-age` is of
/// stack `shop`, `shop-test-claims-age` is not. Every alarm's meaning ends with its name in the runbook (template.yaml).
fn is_of(stack: &str, alarm: &Alarm) -> bool {
    let name = alarm
        .name
        .strip_prefix(stack)
        .and_then(|rest| rest.strip_prefix('-'));
    name.is_some() && alarm.meaning.rsplit_once('#').map(|(_, anchor)| anchor) == name
}

fn alarm(alarm: MetricAlarm) -> Alarm {
    let wakes = !alarm.alarm_actions().is_empty();
    Alarm {
        name: alarm.alarm_name.unwrap_or_default(),
        state: alarm
            .state_value
            .map_or_else(String::new, |state| state.as_str().to_owned()),
        meaning: alarm.alarm_description.unwrap_or_default(),
        wakes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_whose_name_begins_in_the_same_way_has_its_own_alarms() {
        let alarm = |name: &str| Alarm {
            name: name.into(),
            state: "OK".into(),
            meaning: "It waits. Do: docs/runbook.md#claims-age".into(),
            wakes: true,
        };
        assert!(is_of("shop", &alarm("shop-claims-age")));
        assert!(is_of("shop-test", &alarm("shop-test-claims-age")));
        assert!(!is_of("shop", &alarm("shop-test-claims-age")));
        assert!(!is_of("shop", &alarm("shopclaims-age")));
    }
}
