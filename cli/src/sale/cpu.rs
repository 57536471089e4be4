//! Where a sale's time goes on the local stack: CPU seconds of the local AWS, of the functions it runs, and of this process,
//! as Linux accounts them. On AWS there is nothing of it to read, and nothing is told.

use std::time::Duration;

/// The process id of the local AWS: set by `tools/stack env` while it runs.
const LOCAL_PID: &str = "FIRSTCOME_LOCAL_PID";
/// Ticks of a second in /proc: USER_HZ, 100 on every architecture that Rust's Linux targets have (time(7)).
const TICKS_PER_SECOND: u64 = 100;
/// How often a look is repeated because a function's process ended in the middle of it.
const LOOKS: usize = 5;

/// CPU time of all that takes part in a sale on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// The local AWS, without its functions.
    pub(crate) local_aws: Duration,
    /// The functions' processes, those that have ended included.
    pub(crate) functions: Duration,
    /// This process.
    pub(crate) client: Duration,
}

impl Cpu {
    /// The time so far; `None` if there is no local AWS, or not any more.
    pub(crate) fn now() -> Option<Self> {
        let leader = local_pid(&std::env::var(LOCAL_PID).ok()?)?;
        let client = time(read(std::process::id())?.own);
        let mut last = None;
        for _ in 0..LOOKS {
            let of = look(leader)?;
            // A process that ends moves from its own account to the leader's, and might be counted in both or in neither.
            let settled = last == Some(of.ended);
            last = Some(of.ended);
            if settled {
                let (local_aws, functions) = (time(of.own), time(of.ended + of.running));
                return Some(Self {
                    local_aws,
                    functions,
                    client,
                });
            }
        }
        None
    }

    /// What was spent since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            local_aws: self.local_aws.saturating_sub(earlier.local_aws),
            functions: self.functions.saturating_sub(earlier.functions),
            client: self.client.saturating_sub(earlier.client),
        }
    }
}

/// A process id; 0 and 1 lead nothing of ours.
fn local_pid(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|pid| *pid > 1)
}

/// Ticks of the local AWS itself, of its children that were waited for, and of the other processes of its session.
#[derive(Clone, Copy)]
struct Look {
    own: u64,
    ended: u64,
    running: u64,
}

fn look(leader: u32) -> Option<Look> {
    let of_session = |stat: &Stat| stat.session == leader && stat.pid != leader;
    let entries = std::fs::read_dir("/proc").ok()?.flatten();
    let running = entries
        .filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?))
        .filter(of_session)
        .map(|stat| stat.own + stat.waited_for)
        .sum();
    let leader = read(leader)?;
    Some(Look {
        own: leader.own,
        ended: leader.waited_for,
        running,
    })
}

/// What `/proc/PID/stat` says, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    session: u32,
    /// utime + stime.
    own: u64,
    /// cutime + cstime: children that have ended and were waited for, and theirs.
    waited_for: u64,
}

fn read(pid: u32) -> Option<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads a line of proc_pid_stat(5). The second field is the program's name in parentheses, and may hold spaces and
/// parentheses itself.
fn parse(line: &str) -> Option<Stat> {
    let (start, rest) = line.rsplit_once(')')?;
    let (pid, _) = start.split_once(" (")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The manual counts from 1; the third is the first after the name.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        pid: pid.parse().ok()?,
        session: u32::try_from(field(6)?).ok()?,
        own: field(14)? + field(15)?,
        waited_for: field(16)? + field(17)?,
    })
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_program_is_called() {
        let expected = Stat {
            pid: 42,
            session: 40,
            own: 300,
            waited_for: 70,
        };
        for name in ["bootstrap", "a b", "a) S 1 2 (b", ""] {
            let line =
                format!("42 ({name}) S 7 41 40 0 -1 4194304 1 2 3 4 100 200 30 40 20 0 1 0 55 1 2");
            assert_eq!(parse(&line), Some(expected), "{name}");
        }
        for bad in [
            "",
            "42",
            "42 (short) S 7 41 40",
            "x (y) S 7 41 40 0 -1 4 1 2 3 4 100 200 30 40",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_process_is_none() {
        assert_eq!(local_pid(" 4711\n"), Some(4711));
        for bad in ["", "0", "1", "-5", "x"] {
            assert_eq!(local_pid(bad), None, "{bad}");
        }
    }

    #[test]
    fn ticks_are_hundredths_of_a_second() {
        assert_eq!(time(150), Duration::from_millis(1500));
        let cpu = |millis| Cpu {
            client: Duration::from_millis(millis),
            ..Cpu::default()
        };
        assert_eq!(cpu(70).since(cpu(50)), cpu(20));
    }

    /// A session of its own: a leader that waits for one busy child, and then has another beside it.
    #[test]
    fn children_are_counted_while_they_run_and_after_they_have_ended() {
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done";
        let script =
            format!("sh -c '{busy}'; echo ended; sh -c 'while :; do :; done' & read go; kill $!");
        let mut leader = Command::new("setsid")
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let stdout = leader.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut said).unwrap();
        let started = std::time::Instant::now();
        let mut seen = look(leader.id()).unwrap();
        assert!(seen.ended > 0, "the child that has ended");
        while seen.running == 0 && started.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(50));
            seen = look(leader.id()).unwrap();
        }
        // The end of its input ends the leader, which ends its child.
        drop(leader.stdin.take());
        leader.wait().unwrap();
        assert!(seen.running > 0, "the child that runs");
    }
}
