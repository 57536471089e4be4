//! `firstcome follow`: one claim's way through the logs.

use firstcome_core::aws::operator::Operator;
use firstcome_core::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::arguments::FollowPlan;
use crate::terminal::Terminal;
use crate::{CommandError, Verdict};

/// Where a claim is on its way: the lists of a batch's line (functions issue and broadcast).
const LISTS: &str = "claims.";

pub(crate) async fn run(
    plan: &FollowPlan,
    stack: &str,
    terminal: &Terminal,
) -> Result<Verdict, CommandError> {
    let operator = Operator::find(stack).await?;
    let since = SystemClock
        .now()
        .plus_seconds(-60 * i64::from(plan.since_minutes));
    let lines = operator.follow(&plan.claim, since).await?;
    if terminal.speaks_json() {
        let told = lines.iter().map(
            |line| json!({"at": line.at.to_string(), "function": line.function, "line": line.text}),
        );
        terminal.print_json(
            &json!({"claimId": plan.claim.as_str(), "lines": told.collect::<Vec<_>>()}),
        );
    }
    for line in &lines {
        let what = summary(&line.text, plan.claim.as_str());
        terminal.say(&format!("  {}  {:<11} {what}", line.at, line.function));
    }
    if lines.is_empty() {
        terminal
            .say("  no line names this claim: it did not come in that time, or its logs are gone");
    }
    Ok(if lines.is_empty() {
        Verdict::Broken
    } else {
        Verdict::Held
    })
}

/// What a line says of this claim alone; a batch's lists name the others as well.
fn summary(text: &str, claim: &str) -> String {
    let Ok(line) = serde_json::from_str::<Value>(text) else {
        return text.to_owned();
    };
    let fields = line.get("fields").unwrap_or(&line);
    let message = fields["message"].as_str().unwrap_or_default();
    let mut parts = vec![message.to_owned()];
    for (name, value) in fields.as_object().into_iter().flatten() {
        let Some(text) = value.as_str() else { continue };
        match name.strip_prefix(LISTS) {
            _ if name == "job.subject" => parts.extend(in_lists(text, claim)),
            Some(list) => parts.extend(in_list(list, text, claim)),
            None if ["answer", "trace.id", "connection.id", "campaign.id"]
                .contains(&name.as_str()) =>
            {
                parts.push(format!("{name}={text}"));
            }
            None => {}
        }
    }
    parts.join("  ")
}

/// `sent: a b; gone: c`: the list that names the claim.
fn in_lists(text: &str, claim: &str) -> Option<String> {
    text.split("; ").find_map(|list| {
        let (name, claims) = list.split_once(": ")?;
        in_list(name, claims, claim)
    })
}

fn in_list(name: &str, claims: &str, claim: &str) -> Option<String> {
    let id = |entry: &&str| entry.split('@').next() == Some(claim);
    claims
        .split(' ')
        .find(id)
        .map(|entry| format!("{name}: {entry}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_batchs_lists_only_the_claim_is_shown() {
        let issue = json!({"fields": {"message": "batch decided", "claims.issued": "c1 c2@1-a", "claims.sold_out": "c3"}});
        assert_eq!(
            summary(&issue.to_string(), "c2"),
            "batch decided  issued: c2@1-a"
        );
        let broadcast =
            json!({"fields": {"message": "posted", "job.subject": "sent: c1 c2@1-a; gone: c3"}});
        assert_eq!(summary(&broadcast.to_string(), "c3"), "posted  gone: c3");
        assert_eq!(summary("no JSON", "c3"), "no JSON");
    }
}
