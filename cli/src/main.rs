//! `firstcome`: the operator's commands and the load client. Composition only: arguments in, exit code out.

mod alarms;
mod arguments;
mod audit;
mod dlq;
mod doctor;
mod follow;
mod metrics;
mod open_files;
mod partner;
mod plan;
mod pollers;
mod sale;
mod terminal;
mod undo;
mod warm;

use std::process::ExitCode;

use clap::Parser;
use firstcome_core::aws::operator::OperatorError;

use crate::arguments::{Arguments, Command};
use crate::terminal::Terminal;
use crate::undo::{Undo, interrupted};

/// How a command that could be carried out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every promise was kept; everything that was asked for was done. Exit code 0.
    Held,
    /// At least one was not; something was left undone. Exit code 1.
    Broken,
}

/// Why a command could not be carried out, as one line.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error(transparent)]
    Api(#[from] sale::ApiError),
    #[error(transparent)]
    OpenFiles(#[from] open_files::TooFewOpenFiles),
    #[error("{0}")]
    Usage(String),
    #[error("interrupted")]
    Interrupted,
    #[error("{cause}; {what}")]
    Ended { cause: Box<Self>, what: String },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return arguments::refuse(&error),
    };
    let typed = std::env::args_os().map(|typed| typed.to_string_lossy().into_owned());
    let terminal = Terminal::new(arguments.json, typed);
    let undo = Undo::default();
    let done = tokio::select! {
        // In this order: signals are heard before a command has done anything.
        biased;
        () = interrupted() => Err(CommandError::Interrupted),
        done = run(&arguments, &terminal, &undo) => done,
    };
    match undo.after(done).await {
        Ok(Verdict::Held) => ExitCode::SUCCESS,
        Ok(Verdict::Broken) => ExitCode::from(1),
        Err(error) => {
            terminal.complain(&format!("firstcome: {error}"));
            ExitCode::from(2)
        }
    }
}

async fn run(
    arguments: &Arguments,
    terminal: &Terminal,
    undo: &Undo,
) -> Result<Verdict, CommandError> {
    match &arguments.command {
        Command::Partner(command) => partner::run(command, &arguments.stack, terminal, undo)
            .await
            .map(|()| Verdict::Held),
        Command::Sale(plan) => sale::run(plan, &arguments.stack, terminal, undo).await,
        Command::Dlq(command) => dlq::run(command, &arguments.stack, terminal, undo).await,
        Command::Plan(wanted) => plan::run(wanted, terminal).map(|()| Verdict::Held),
        Command::Audit(plan) => audit::run(plan, &arguments.stack, terminal).await,
        Command::Metrics(plan) => metrics::run(plan, &arguments.stack, terminal).await,
        Command::Follow(plan) => follow::run(plan, &arguments.stack, terminal).await,
        Command::Alarms(command) => alarms::run(command, &arguments.stack, terminal, undo).await,
        Command::Doctor(plan) => doctor::run(plan, &arguments.stack, terminal).await,
        Command::Warm(plan) => warm::run(plan, &arguments.stack, terminal).await,
        Command::Pollers(command) => pollers::run(command, &arguments.stack, terminal, undo).await,
    }
}
