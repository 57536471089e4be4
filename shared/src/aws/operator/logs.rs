//! The stack's logs: its functions' metric lines, the way of one claim, and a search through everything.

use std::time::Duration;

use aws_sdk_cloudwatchlogs::types::QueryStatus;
use tokio::time::sleep;

use super::{Operator, OperatorError};
use crate::{ClaimId, Timestamp};

/// The most events that one FilterLogEvents gives, and rows of one Insights query (CloudWatch Logs quota).
const MOST: i32 = 10_000;
/// How often a running query is asked for, every [`QUERY_PAUSE`].
const QUERY_LOOKS: u32 = 60;
const QUERY_PAUSE: Duration = Duration::from_millis(500);

/// An event of a log group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The last part of the group's name: the function.
    pub function: String,
    /// When the platform took it.
    pub at: Timestamp,
    /// The line.
    pub text: String,
}

impl Operator {
    /// The stack's log groups: of its functions and of the HTTP API.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails.
    pub async fn log_groups(&self) -> Result<Vec<String>, OperatorError> {
        let mut names = Vec::new();
        for prefix in ["/aws/lambda/", "/aws/apigateway/"] {
            let prefix = format!("{prefix}{}/", self.name);
            let pages = self
                .logs
                .describe_log_groups()
                .log_group_name_prefix(prefix);
            let mut pages = pages.into_paginator().items().send();
            while let Some(group) = pages.next().await {
                let group = group.map_err(|error| self.failed("list the log groups", error))?;
                names.extend(group.log_group_name);
            }
        }
        Ok(names)
    }

    /// Every line since then that holds `text` (without quotation marks), or every line at all, group by group.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails.
    pub async fn log_lines(
        &self,
        text: Option<&str>,
        since: Timestamp,
    ) -> Result<Vec<LogLine>, OperatorError> {
        let mut lines = Vec::new();
        for group in self.log_groups().await? {
            let query = self
                .logs
                .filter_log_events()
                .log_group_name(&group)
                .set_filter_pattern(text.map(|text| format!("\"{text}\"")))
                .start_time(since.millis())
                .limit(MOST);
            let mut pages = query.into_paginator().send();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| self.failed("read the logs", error))?;
                let events = page.events.unwrap_or_default();
                // AWS goes on with a token; the local AWS has none, and what it leaves out must not go unseen.
                if page.next_token.is_none() && events.len() >= MOST as usize {
                    return Err(OperatorError::TooManyLines(group));
                }
                lines.extend(events.into_iter().map(|event| LogLine {
                    function: function_of(&group),
                    at: Timestamp::from_millis(event.timestamp.unwrap_or_default()),
                    text: event.message.unwrap_or_default(),
                }));
            }
        }
        Ok(lines)
    }

    /// Every line since then about this claim, from its frame to its answer: one CloudWatch Logs Insights query.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or the query does not end.
    pub async fn follow(
        &self,
        claim: &ClaimId,
        since: Timestamp,
    ) -> Result<Vec<LogLine>, OperatorError> {
        const OPERATION: &str = "query the logs";
        let groups = self.log_groups().await?;
        // A query over no log group is refused, and nothing was logged that it could find.
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let started = self
            .logs
            .start_query()
            .set_log_group_names(Some(groups))
            .start_time(since.epoch_seconds())
            .end_time(super::now().epoch_seconds() + 60)
            .query_string(follow_query(claim))
            .send()
            .await
            .map_err(|error| self.failed(OPERATION, error))?;
        for _ in 0..QUERY_LOOKS {
            let look = self.logs.get_query_results();
            let found = look
                .set_query_id(started.query_id.clone())
                .send()
                .await
                .map_err(|error| self.failed(OPERATION, error))?;
            match found.status {
                Some(QueryStatus::Running | QueryStatus::Scheduled) => sleep(QUERY_PAUSE).await,
                Some(QueryStatus::Complete) => {
                    let rows = found.results.unwrap_or_default();
                    let lines = rows.into_iter().map(|row| line(&row));
                    return Ok(lines.filter(|line| names(&line.text, claim)).collect());
                }
                status => {
                    return Err(OperatorError::Call {
                        operation: OPERATION,
                        message: format!("it ended as {status:?}"),
                    });
                }
            }
        }
        Err(OperatorError::Call {
            operation: OPERATION,
            message: "it takes too long; choose a shorter time".into(),
        })
    }
}

/// The query that finds a claim's way (docs/runbook.md). An id is letters, digits and `._:-`: only the dot means something
/// to an expression. What stands on either side must not go on with it, or `x-1` would find `x-10`; a line is a JSON object,
/// so that there is always something on either side.
pub fn follow_query(claim: &ClaimId) -> String {
    let id = claim.as_str().replace('.', "\\.");
    let end = "[^A-Za-z0-9._:-]";
    format!(
        "fields @timestamp, @log, @message | filter @message like /{end}{id}{end}/ | sort @timestamp asc | limit 1000"
    )
}

/// Whether the line holds exactly this id, and not only a longer one that contains it.
fn names(text: &str, claim: &ClaimId) -> bool {
    let goes_on = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    text.split(|c| !goes_on(c))
        .any(|word| word == claim.as_str())
}

fn line(row: &[aws_sdk_cloudwatchlogs::types::ResultField]) -> LogLine {
    let field = |name: &str| {
        let found = row.iter().find(|field| field.field() == Some(name));
        found.and_then(|field| field.value()).unwrap_or_default()
    };
    LogLine {
        function: function_of(field("@log")),
        at: query_time(field("@timestamp")),
        text: field("@message").to_owned(),
    }
}

/// Insights writes `2026-11-01 09:00:00.123`, in UTC.
fn query_time(text: &str) -> Timestamp {
    Timestamp::parse(&format!("{}Z", text.replace(' ', "T"))).unwrap_or_default()
}

fn function_of(group: &str) -> String {
    group.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::operator;
    use super::*;
    use crate::aws::replay::requests;

    #[test]
    fn a_claims_id_is_no_expression() {
        let query = follow_query(&ClaimId::new("a.b:c-1").unwrap());
        let expression = r"like /[^A-Za-z0-9._:-]a\.b:c-1[^A-Za-z0-9._:-]/ |";
        assert!(query.contains(expression), "{query}");
    }

    fn found(id: &str, text: &str) -> bool {
        names(text, &ClaimId::new(id).unwrap())
    }

    #[test]
    fn a_line_about_a_longer_id_is_not_about_this_claim() {
        for text in [
            r#"{"fields":{"claim.id":"x-1"}}"#,
            r#"{"fields":{"claims.issued":"x-10 x-1@1-ab"}}"#,
            r#"{"fields":{"job.subject":"sent: y x-1; gone: z"}}"#,
        ] {
            assert!(found("x-1", text), "{text}");
        }
        for longer in ["x-10", "ax-1", "x-1.5", "x-1:2", "x-1-", "_x-1"] {
            let text = format!(r#"{{"fields":{{"claims.issued":"{longer}@1-ab"}}}}"#);
            assert!(!found("x-1", &text), "{longer}");
        }
    }

    #[tokio::test]
    async fn only_lines_about_exactly_the_claim_are_told() {
        let row = |text: &str| {
            json!([
                {"field": "@timestamp", "value": "2026-11-01 09:00:00.123"},
                {"field": "@log", "value": "0:/aws/lambda/firstcome/claim"},
                {"field": "@message", "value": text},
            ])
        };
        let groups = |names: &[&str]| {
            let groups: Vec<_> = names
                .iter()
                .map(|name| json!({"logGroupName": name}))
                .collect();
            (200, json!({"logGroups": groups}))
        };
        let (operator, _) = operator(&[
            groups(&["/aws/lambda/firstcome/claim"]),
            groups(&[]),
            (200, json!({"queryId": "q"})),
            (
                200,
                json!({"status": "Complete", "results": [row(r#"{"claim.id":"x-10"}"#), row(r#"{"claim.id":"x-1"}"#)]}),
            ),
        ]);
        let claim = ClaimId::new("x-1").unwrap();
        let lines = operator.follow(&claim, Timestamp::EPOCH).await.unwrap();
        let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, [r#"{"claim.id":"x-1"}"#]);
    }

    #[tokio::test]
    async fn without_a_log_group_no_query_is_asked() {
        let nothing = || (200, json!({"logGroups": []}));
        let (operator, http) = operator(&[nothing(), nothing()]);
        let claim = ClaimId::new("x-1").unwrap();
        assert_eq!(operator.follow(&claim, Timestamp::EPOCH).await.unwrap(), []);
        assert_eq!(requests(&http).len(), 2);
    }

    #[test]
    fn a_querys_time_is_read() {
        let expected = Timestamp::parse("2026-11-01T09:00:00.123Z").unwrap();
        assert_eq!(query_time("2026-11-01 09:00:00.123"), expected);
    }
}
