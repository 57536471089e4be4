//! `firstcome alarms`: how the alarms stand, a drill, and where they are told.

use std::io::Read;

use firstcome_core::WebhookUrl;
use firstcome_core::aws::operator::{Alarm, Operator};
use serde_json::{Value, json};

use crate::arguments::AlarmsCommand;
use crate::terminal::Terminal;
use crate::{CommandError, Verdict};

/// The longest URL that is read.
const MAX_URL: u64 = 4096;

pub(crate) async fn run(
    command: &AlarmsCommand,
    stack: &str,
    terminal: &Terminal,
) -> Result<Verdict, CommandError> {
    match command {
        AlarmsCommand::List => {
            let alarms = Operator::find(stack).await?.alarms().await?;
            if terminal.speaks_json() {
                terminal
                    .print_json(&json!({"alarms": alarms.iter().map(as_json).collect::<Vec<_>>()}));
            }
            for alarm in &alarms {
                terminal.say(&format!(
                    "  {:<18} {:<40} {}",
                    alarm.state, alarm.name, alarm.meaning
                ));
            }
            let calm = alarms.iter().all(|alarm| alarm.state != "ALARM");
            Ok(if calm { Verdict::Held } else { Verdict::Broken })
        }
        AlarmsCommand::Drill { alarm } => {
            let operator = Operator::find(stack).await?;
            operator.set_off(alarm, "a drill: nothing is wrong").await?;
            operator.calm(alarm, "the drill is over").await?;
            terminal.say(&format!(
                "  {alarm} was set off and set back; those on call have two messages"
            ));
            Ok(Verdict::Held)
        }
        AlarmsCommand::Webhook => {
            let mut text = String::new();
            let read = std::io::stdin().take(MAX_URL).read_to_string(&mut text);
            read.map_err(|error| CommandError::Usage(format!("stdin cannot be read: {error}")))?;
            let url = WebhookUrl::new(text.trim())
                .map_err(|error| CommandError::Usage(error.to_string()))?;
            Operator::find(stack)
                .await?
                .set_webhook(url.as_str())
                .await?;
            terminal.say("  stored; the next alarm goes there. Try it: firstcome alarms drill");
            Ok(Verdict::Held)
        }
    }
}

fn as_json(alarm: &Alarm) -> Value {
    json!({"name": alarm.name, "state": alarm.state, "meaning": alarm.meaning, "wakes": alarm.wakes})
}
