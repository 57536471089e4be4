//! `firstcome alarms`: how the alarms stand, a drill, and where they are told.

use std::io::Read;
use std::time::Duration;

use firstcome_core::WebhookUrl;
use firstcome_core::aws::operator::{Alarm, Operator};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::arguments::AlarmsCommand;
use crate::terminal::Terminal;
use crate::undo::Undo;
use crate::{CommandError, Verdict};

/// How long a drill lasts.
const DRILL: Duration = Duration::from_secs(10);
/// The longest URL that is read.
const MAX_URL: u64 = 4096;

pub(crate) async fn run(
    command: &AlarmsCommand,
    stack: &str,
    terminal: &Terminal,
    undo: &Undo,
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
            refuse_if_real(&operator.alarms().await?, alarm)?;
            let (holder, name) = (operator.clone(), alarm.clone());
            // Before it is set off: a call that was cut short may have done it.
            undo.push("the alarm was set back", async move {
                Ok(holder.calm(&name, "the drill is over").await?)
            });
            operator.set_off(alarm, "a drill: nothing is wrong").await?;
            // Two notifications at once may arrive in either order.
            tokio::time::sleep(DRILL).await;
            undo.run().await?;
            terminal.say(&format!(
                "  {alarm} was set off and set back; those on call have two messages"
            ));
            Ok(Verdict::Held)
        }
        AlarmsCommand::Webhook => {
            // Who typed the command and nothing more would not know that it waits.
            terminal.say("  Reading the webhook's URL from stdin, to its end …");
            let text = read_stdin().await?;
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

/// Reads on a thread of its own, which an interrupt need not wait for.
async fn read_stdin() -> Result<String, CommandError> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = std::io::stdin().take(MAX_URL).read_to_string(&mut text);
        // Whoever was interrupted does not listen any more.
        drop(sender.send(read.map(|_| text)));
    });
    let unread = |error: &dyn std::error::Error| {
        CommandError::Usage(format!("stdin cannot be read: {error}"))
    };
    let read = receiver.await.map_err(|error| unread(&error))?;
    read.map_err(|error| unread(&error))
}

/// A drill ends with the alarm set back; one that is on for a reason must stay on.
fn refuse_if_real(alarms: &[Alarm], name: &str) -> Result<(), CommandError> {
    let found = alarms.iter().find(|alarm| alarm.name == name);
    let message = match found.map(|alarm| (alarm.state.as_str(), alarm.wakes)) {
        None => format!("there is no alarm {name}: see `firstcome alarms list`"),
        Some(("ALARM", _)) => format!("{name} is on already, and not for a drill"),
        Some((_, false)) => format!("{name} tells nobody"),
        Some(_) => return Ok(()),
    };
    Err(CommandError::Usage(message))
}

fn as_json(alarm: &Alarm) -> Value {
    json!({"name": alarm.name, "state": alarm.state, "meaning": alarm.meaning, "wakes": alarm.wakes})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_never_ends_a_real_alarm() {
        let alarm = |name: &str, state: &str, wakes| Alarm {
            name: name.into(),
            state: state.into(),
            meaning: String::new(),
            wakes,
        };
        let alarms = [
            alarm("calm", "OK", true),
            alarm("new", "INSUFFICIENT_DATA", true),
            alarm("real", "ALARM", true),
            alarm("quiet", "OK", false),
        ];
        for (name, good) in [
            ("calm", true),
            ("new", true),
            ("real", false),
            ("quiet", false),
            ("none", false),
        ] {
            assert_eq!(refuse_if_real(&alarms, name).is_ok(), good, "{name}");
        }
    }
}
