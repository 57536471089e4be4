//! `firstcome pollers`: provisioned pollers of ClaimsQueue, on before a large sale and off after it.

use std::time::Duration;

use firstcome_core::aws::operator::{ClaimsReaders, Operator, Pollers, PollersUndo};
use serde_json::{Value, json};

use crate::arguments::PollersCommand;
use crate::plan::prices::{POLLER_HOUR, TAKEN};
use crate::terminal::Terminal;
use crate::undo::Undo;
use crate::{CommandError, Verdict};

/// How long setting back may take: three changes, each of which is waited for up to ten minutes.
const PATIENCE: Duration = Duration::from_secs(1800);

pub(crate) async fn run(
    command: &PollersCommand,
    stack: &str,
    terminal: &Terminal,
    undo: &Undo,
) -> Result<Verdict, CommandError> {
    if let PollersCommand::On { min, max } = command
        && min > max
    {
        let message = format!("--min {min} is more than --max {max}");
        return Err(CommandError::Usage(message));
    }
    let operator = Operator::find(stack).await?;
    let announce = |way: &str| {
        if !operator.is_local() {
            terminal.say(&format!(
                "  Switching the pollers {way}; AWS takes some minutes …"
            ));
        }
    };
    let begin = |before: PollersUndo| {
        let terminal = terminal.clone();
        let done = "ClaimsQueue has its pollers or its bound again";
        undo.push_slow(done, PATIENCE, async move {
            let advice = "should this be cut short, run `firstcome pollers off`";
            terminal.say(&format!(
                "  Setting back what was begun; AWS takes some minutes … {advice}"
            ));
            Ok(before.run().await?)
        });
    };
    let readers = match command {
        PollersCommand::Show => operator.claims_readers().await?,
        PollersCommand::On { min, max } => {
            let pollers = Pollers {
                minimum: *min,
                maximum: *max,
            };
            announce("on");
            operator.switch_pollers_on(pollers, begin).await?
        }
        PollersCommand::Off => {
            announce("off");
            operator.switch_pollers_off(begin).await?
        }
    };
    undo.forget();
    if terminal.speaks_json() {
        terminal.print_json(&as_json(&readers));
    }
    for line in lines(&readers) {
        terminal.say(&format!("  {line}"));
    }
    Ok(Verdict::Held)
}

/// What so many pollers cost an hour, in USD.
fn per_hour(pollers: u32) -> f64 {
    f64::from(pollers) * POLLER_HOUR.usd
}

fn lines(readers: &ClaimsReaders) -> Vec<String> {
    let state = &readers.state;
    let bound = |most: Option<i64>| {
        most.map_or("without a bound".to_owned(), |n| {
            format!("{n} batches at once")
        })
    };
    match readers.pollers {
        Some(Pollers { minimum, maximum }) => vec![
            format!(
                "ClaimsQueue: {state}, {minimum} provisioned pollers, up to {maximum} under load"
            ),
            format!(
                "They cost USD {:.2} an hour, up to {:.2} under load, until `firstcome pollers off` (list price of us-east-1, {TAKEN}; \
                 see {})",
                per_hour(minimum),
                per_hour(maximum),
                POLLER_HOUR.page
            ),
        ],
        None => {
            let mut lines = vec![format!(
                "ClaimsQueue: {state}, no provisioned pollers, {}; nothing is paid for by the hour",
                bound(readers.maximum_concurrency)
            )];
            if readers.maximum_concurrency != readers.usual_concurrency {
                let usual = bound(readers.usual_concurrency);
                lines.push(format!(
                    "The template asks for {usual}: `firstcome pollers off` sets it"
                ));
            }
            lines
        }
    }
}

fn as_json(readers: &ClaimsReaders) -> Value {
    let pollers = readers.pollers.map(|pollers| {
        json!({
            "minimum": pollers.minimum,
            "maximum": pollers.maximum,
            "usdPerHour": per_hour(pollers.minimum),
            "usdPerHourUnderLoad": per_hour(pollers.maximum),
        })
    });
    json!({
        "state": readers.state,
        "pollers": pollers,
        "maximumConcurrency": readers.maximum_concurrency,
        "usualConcurrency": readers.usual_concurrency,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readers(pollers: Option<Pollers>, maximum_concurrency: Option<i64>) -> ClaimsReaders {
        ClaimsReaders {
            state: "Enabled".into(),
            pollers,
            maximum_concurrency,
            usual_concurrency: Some(20),
        }
    }

    #[test]
    fn pollers_are_shown_with_their_price() {
        let pollers = Pollers {
            minimum: 200,
            maximum: 400,
        };
        let lines = lines(&readers(Some(pollers), None)).join("\n");
        assert!(
            lines.contains("200 provisioned pollers, up to 400"),
            "{lines}"
        );
        // 200 at 0.00925 USD.
        assert!(lines.contains("USD 1.85 an hour, up to 3.70"), "{lines}");
    }

    #[test]
    fn the_usual_mode_is_shown_and_a_lost_bound_as_well() {
        let usual = lines(&readers(None, Some(20)));
        assert_eq!(usual.len(), 1);
        assert!(usual[0].contains("20 batches at once"), "{usual:?}");
        let lost = lines(&readers(None, None));
        assert!(lost[1].contains("asks for 20 batches at once"), "{lost:?}");
    }
}
