//! `doctor`: asks a deployed stack, by API, whether it is as its template, its parameters and its operator want it.
//!
//! Each check reads facts in its own file and judges them by a pure rule beside it. The expected side is the processed
//! template with the stack's parameters put in (`deployment`), so that a parameter needs no second home here.

mod account;
mod event_sources;
mod functions;
mod running;
mod sockets;
mod tables;

pub use account::{AccountQuotas, Needs};

use super::deployment::{Deployment, Resource};
use super::{Operator, OperatorError};

/// What is said where the local AWS gives no answer that means anything.
const LOCAL: &str = "the local AWS does not answer this";

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    Good,
    /// Not as it should be; something is to be done.
    Bad,
    /// It cannot be known by API, or not yet. Does not fail.
    Unknown,
}

impl Health {
    /// The word for it: `ok`, `BAD` or `unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Bad => "BAD",
            Self::Unknown => "unknown",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check's name.
    pub check: &'static str,
    /// The resources it is about, by their logical ids where they have one.
    pub subjects: Vec<String>,
    /// How they are.
    pub health: Health,
    /// What was found, without any secret.
    pub detail: String,
    /// What to do, where something is to be done.
    pub remedy: Option<String>,
}

impl Finding {
    fn new(check: &'static str, subject: &str, health: Health, detail: impl Into<String>) -> Self {
        Self {
            check,
            subjects: vec![subject.to_owned()],
            health,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn good(check: &'static str, subject: &str, detail: impl Into<String>) -> Self {
        Self::new(check, subject, Health::Good, detail)
    }

    fn unknown(check: &'static str, subject: &str, detail: impl Into<String>) -> Self {
        Self::new(check, subject, Health::Unknown, detail)
    }

    fn bad(
        check: &'static str,
        subject: &str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..Self::new(check, subject, Health::Bad, detail)
        }
    }

    /// A check that could not be made. The local AWS refuses services that it does not have without an error's name; any
    /// other refusal is something to be put right, or `doctor` would call a stack healthy that it was not let look at.
    fn unasked(check: &'static str, subject: &str, error: &OperatorError, is_local: bool) -> Self {
        match error {
            OperatorError::Call { message, .. } if is_local && message.is_empty() => {
                Self::unknown(check, subject, LOCAL)
            }
            _ => Self::bad(
                check,
                subject,
                format!("could not be asked: {error}"),
                "see that it exists and that these credentials may read it",
            ),
        }
    }
}

/// Findings of one check that say the same, as one.
fn merged(findings: Vec<Finding>) -> Vec<Finding> {
    let mut merged: Vec<Finding> = Vec::new();
    for finding in findings {
        let same = |other: &&mut Finding| {
            (other.check, other.health) == (finding.check, finding.health)
                && (&other.detail, &other.remedy) == (&finding.detail, &finding.remedy)
        };
        match merged.iter_mut().find(same) {
            Some(other) => other.subjects.extend(finding.subjects),
            None => merged.push(finding),
        }
    }
    merged
}

impl Operator {
    /// Every check, the findings of each together. `needs` is what a planned sale asks for; without it the stack is held
    /// to its own template alone.
    ///
    /// # Errors
    /// [`OperatorError`] if the stack's template or resources cannot be read. A check that cannot be made is a finding.
    pub async fn examine(&self, needs: Option<&Needs>) -> Result<Vec<Finding>, OperatorError> {
        let deployment = self.deployment().await?;
        let quotas = self.account_quotas().await;
        let (functions, sources) =
            tokio::join!(self.functions(&deployment), self.event_sources(&deployment));
        let (sockets, tables, running) = tokio::join!(
            self.check_stages(&deployment, &functions, &sources, &quotas),
            self.check_tables(&deployment, needs),
            self.check_running(&deployment)
        );
        let mut findings = sockets;
        findings.extend(functions::judge(&functions, &sources, deployment.is_local));
        findings.extend(event_sources::judge(&sources, needs, deployment.is_local));
        findings.extend(account::judge(
            &quotas,
            needs,
            &functions,
            &sources,
            deployment.is_local,
        ));
        findings.extend(tables);
        findings.extend(running);
        Ok(merged(findings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_that_say_the_same_are_one_line() {
        let findings = vec![
            Finding::good("ttl", "A", "on"),
            Finding::bad("ttl", "B", "off", "set it"),
            Finding::good("ttl", "C", "on"),
            Finding::good("backups", "A", "on"),
        ];
        let merged = merged(findings);
        let lines: Vec<_> = merged
            .iter()
            .map(|one| (one.check, one.subjects.join(","), one.health))
            .collect();
        let line = |check, subjects: &str, health| (check, subjects.to_owned(), health);
        assert_eq!(
            lines,
            [
                line("ttl", "A,C", Health::Good),
                line("ttl", "B", Health::Bad),
                line("backups", "A", Health::Good),
            ]
        );
    }

    #[test]
    fn a_refusal_is_excused_only_where_the_local_aws_has_no_such_service() {
        let refused = |message: &str| OperatorError::Call {
            operation: "look",
            message: message.to_owned(),
        };
        let health =
            |error: &OperatorError, is_local| Finding::unasked("c", "s", error, is_local).health;
        assert_eq!(health(&refused(""), true), Health::Unknown);
        assert_eq!(health(&refused(""), false), Health::Bad);
        let denied = refused("AccessDeniedException: no");
        assert_eq!(health(&denied, true), Health::Bad);
        assert_eq!(health(&denied, false), Health::Bad);
    }
}
