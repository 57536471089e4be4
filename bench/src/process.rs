//! What a process is given and what it has used: cores, file descriptors, CPU time, memory. Linux only.

use std::{
    fs::File,
    io::{self, Read},
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit},
        time::TimeVal,
    },
    unistd::Pid,
};

/// The cores this process may run on.
///
/// # Errors
/// If the kernel does not say.
pub fn cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .collect())
}

/// Keeps this thread, and the processes it starts from now on, to these cores.
///
/// # Errors
/// If there is no such core.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Limits the open files of this process, and of those it starts from now on.
///
/// # Errors
/// If more is asked for than the hard limit.
pub fn limit_open_files(count: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, count, hard)?)
}

/// CPU time this process has used, in user and system mode together.
///
/// # Errors
/// If the kernel does not say.
pub fn cpu_time() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

fn duration(time: TimeVal) -> Duration {
    let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
    Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or_default())
        + Duration::from_micros(micros)
}

/// Reads what memory this process has used. Opened before the work, for afterwards no file may be left to open.
#[derive(Debug)]
pub struct MemoryGauge(File);

impl MemoryGauge {
    /// # Errors
    /// If there is no `/proc`.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/status").map(Self)
    }

    /// The most memory this process has had resident, in KiB (`VmHWM`).
    ///
    /// # Errors
    /// If `/proc` does not say.
    pub fn peak_kib(mut self) -> io::Result<u64> {
        let mut status = String::new();
        self.0.read_to_string(&mut status)?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next())
            .and_then(|kib| kib.parse().ok())
            .ok_or_else(|| io::Error::other("no VmHWM in /proc/self/status"))
    }
}
