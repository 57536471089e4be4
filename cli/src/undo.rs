//! What a command sets back when it ends, however it ends: an alarm that it set off, letters that it holds, a campaign that
//! it opened. And the signals that end it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::{CommandError, Verdict};

/// How long setting back may take: one call with all its attempts, and a little.
const PATIENCE: Duration = Duration::from_secs(25);

/// Ends with what is to be said, if anything.
type Action = Pin<Box<dyn Future<Output = Result<Option<String>, CommandError>> + Send>>;

/// What to do, how long it may take, and its name if it fails.
struct Step {
    name: &'static str,
    patience: Duration,
    action: Action,
}

/// Steps that are still to be taken, the newest last. Whoever changes something for a while says first how to undo it.
#[derive(Default)]
pub(crate) struct Undo(Mutex<Vec<Step>>);

impl Undo {
    /// Adds a step; `done` says, in the past tense, what it did.
    pub(crate) fn push(
        &self,
        done: &'static str,
        step: impl Future<Output = Result<(), CommandError>> + Send + 'static,
    ) {
        self.push_slow(done, PATIENCE, step);
    }

    /// Adds a step that may take longer than others.
    pub(crate) fn push_slow(
        &self,
        done: &'static str,
        patience: Duration,
        step: impl Future<Output = Result<(), CommandError>> + Send + 'static,
    ) {
        let action = async move { step.await.map(|()| Some(done.to_owned())) };
        self.steps().push(Step {
            name: done,
            patience,
            action: Box::pin(action),
        });
    }

    /// Adds what to say of a command that is cut short: what it has left undone, if anything.
    pub(crate) fn note(&self, left: impl FnOnce() -> Option<String> + Send + 'static) {
        self.steps().push(Step {
            name: "what is left was told",
            patience: PATIENCE,
            action: Box::pin(async move { Ok(left()) }),
        });
    }

    /// There is nothing to undo any more.
    pub(crate) fn forget(&self) {
        self.steps().clear();
    }

    /// Takes every step, the newest first, whether others fail or not; what is to be said, or the first failure.
    pub(crate) async fn run(&self) -> Result<Vec<String>, CommandError> {
        let (mut done, mut failure) = (Vec::new(), None);
        // Taken in two lines: a lock in the loop's head would be held while the step runs.
        let next = || self.steps().pop();
        while let Some(step) = next() {
            let what = step.name;
            match timeout(step.patience, step.action).await {
                Ok(Ok(said)) => done.extend(said),
                Ok(Err(error)) => failure = failure.or(Some(failed(what, error.to_string()))),
                Err(_) => failure = failure.or(Some(failed(what, "it took too long".to_owned()))),
            }
        }
        failure.map_or(Ok(done), Err)
    }

    /// Undoes what is left after a command has ended, and tells of it if the command failed. Another interrupt ends that, too.
    pub(crate) async fn after(
        &self,
        ended: Result<Verdict, CommandError>,
    ) -> Result<Verdict, CommandError> {
        let undone = tokio::select! {
            undone = self.run() => undone,
            () = interrupted() => Err(CommandError::Interrupted),
        };
        let (cause, what) = match (ended, undone) {
            (Ok(verdict), Ok(_)) => return Ok(verdict),
            (Ok(_), Err(error)) => return Err(error),
            (Err(cause), Ok(done)) if done.is_empty() => return Err(cause),
            (Err(cause), Ok(done)) => (cause, done.join(", ")),
            (Err(cause), Err(error)) => (cause, error.to_string()),
        };
        let cause = Box::new(cause);
        Err(CommandError::Ended { cause, what })
    }

    fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(what: &str, why: String) -> CommandError {
    CommandError::Usage(format!("NOT undone ({what}): {why}"))
}

/// Returns when somebody wants the program to end: Ctrl-C, `kill`, or a terminal that closes. What is ignored from outside,
/// as under `nohup`, stays ignored.
pub(crate) async fn interrupted() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let wanted = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let heard = wanted
        .into_iter()
        .filter(|kind| !is_ignored(&status, kind.as_raw_value()))
        .filter_map(|kind| signal(kind).ok())
        .map(|mut signal| Box::pin(async move { signal.recv().await }));
    let heard: Vec<_> = heard.collect();
    if heard.is_empty() {
        return std::future::pending().await;
    }
    futures_util::future::select_all(heard).await;
}

/// Whether the process was started with this signal ignored, by `SigIgn` of proc(5); unknown is no.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn undo(log: &Arc<Mutex<Vec<&'static str>>>, steps: &[(&'static str, bool)]) -> Undo {
        let undo = Undo::default();
        for (what, works) in steps.iter().copied() {
            let log = Arc::clone(log);
            undo.push(what, async move {
                log.lock().unwrap().push(what);
                works.then_some(()).ok_or(CommandError::Usage("no".into()))
            });
        }
        undo
    }

    #[tokio::test]
    async fn what_was_done_last_is_undone_first_and_once() {
        let log = Arc::default();
        let undo = undo(&log, &[("one", true), ("two", false), ("three", true)]);
        let ended = undo.after(Err(CommandError::Interrupted)).await;
        assert_eq!(*log.lock().unwrap(), ["three", "two", "one"]);
        let text = ended.unwrap_err().to_string();
        assert_eq!(text, "interrupted; NOT undone (two): no");
        let again = undo.after(Err(CommandError::Interrupted)).await;
        assert_eq!(again.unwrap_err().to_string(), "interrupted");
    }

    #[tokio::test]
    async fn a_command_that_went_well_fails_if_something_stays() {
        let log = Arc::default();
        assert_eq!(
            undo(&log, &[("one", true)])
                .after(Ok(Verdict::Held))
                .await
                .unwrap(),
            Verdict::Held
        );
        assert!(
            undo(&log, &[("one", false)])
                .after(Ok(Verdict::Held))
                .await
                .is_err()
        );
        let forgotten = undo(&log, &[("two", false)]);
        forgotten.forget();
        assert!(forgotten.after(Ok(Verdict::Broken)).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_left_is_said_if_anything_is() {
        let undo = Undo::default();
        undo.note(|| None);
        undo.note(|| Some("one is left".to_owned()));
        let ended = undo.after(Err(CommandError::Interrupted)).await;
        assert_eq!(ended.unwrap_err().to_string(), "interrupted; one is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_never_ends_is_given_up() {
        let undo = Undo::default();
        undo.push("one", std::future::pending());
        let text = undo.after(Ok(Verdict::Held)).await.unwrap_err().to_string();
        assert!(text.contains("took too long"), "{text}");
        let started = tokio::time::Instant::now();
        let slow = Duration::from_secs(300);
        undo.push_slow("two", slow, std::future::pending());
        assert!(undo.after(Ok(Verdict::Held)).await.is_err());
        assert_eq!(started.elapsed(), slow);
    }

    #[test]
    fn nohup_is_heard() {
        let status = "Name:\tx\nSigIgn:\t0000000000000001\n";
        assert!(is_ignored(status, 1) && !is_ignored(status, 2));
        assert!(!is_ignored("", 1));
    }
}
