//! Room for one open file per socket: many systems start a process with 1,024.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Files that are open beside the sockets: connections to AWS and to the API, the standard streams, the runtime's own.
const BESIDE_SOCKETS: u64 = 200;

/// Set in the environment of the process that replaced this one, so that it does not try again.
const RAISED: &str = "FIRSTCOME_OPEN_FILES_RAISED";

/// The system does not let this process open a file per socket.
#[derive(Debug, thiserror::Error)]
#[error(
    "{sockets} sockets need {needed} open files, the limit is {limit}: raise it with `ulimit -n {needed}`"
)]
pub(crate) struct TooFewOpenFiles {
    sockets: u32,
    needed: u64,
    limit: u64,
}

/// Makes room for `sockets`. Where the limit is too low but may be raised, this process is replaced by itself under a
/// higher one: only a shell can raise it without unsafe code.
pub(crate) fn ensure(sockets: u32) -> Result<(), TooFewOpenFiles> {
    let needed = u64::from(sockets) + BESIDE_SOCKETS;
    let Some(limit) = limit().filter(|limit| *limit < needed) else {
        return Ok(());
    };
    if std::env::var_os(RAISED).is_none() {
        // It returns only if it failed; then the error below says what to do.
        drop(run_again_with(needed));
    }
    Err(TooFewOpenFiles {
        sockets,
        needed,
        limit,
    })
}

/// How many files this process may open; `None` if unlimited or unknown.
fn limit() -> Option<u64> {
    let output = Command::new("sh").args(["-c", "ulimit -n"]).output().ok()?;
    parse_limit(&String::from_utf8_lossy(&output.stdout))
}

fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn run_again_with(limit: u64) -> io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let script = format!("ulimit -n {limit} 2>/dev/null; exec \"$0\" \"$@\"");
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(script)
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(RAISED, "1");
    shell.exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlimited_system_sets_no_limit() {
        assert_eq!(parse_limit("1024\n"), Some(1024));
        assert_eq!(parse_limit("unlimited\n"), None);
    }
}
