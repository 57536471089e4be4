//! One life of a function's process, from its start to its last warm invocation, on a core of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::PoisonError,
    time::{Duration, Instant},
};

use firstcome_bench::process;
use hyper::body::Bytes;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::service::{Seen, Service};

/// Longer than any step.
const PATIENCE: Duration = Duration::from_secs(30);
/// `USER_HZ`, in which Linux counts CPU time in /proc.
const TICKS_PER_SECOND: f64 = 100.0;

/// A function's program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) command: PathBuf,
    pub(crate) arguments: Vec<PathBuf>,
    /// What is uploaded: a file or a folder.
    pub(crate) package: PathBuf,
}

/// What one life took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    /// From the start of the process to its first request for work.
    pub(crate) init: Duration,
    /// From the first event to its answer; none if the function was only started.
    pub(crate) first: Option<Duration>,
    /// The median of the warm ones.
    pub(crate) warm: Option<Duration>,
    /// CPU seconds of a warm one, user and system.
    pub(crate) cpu_seconds: Option<f64>,
    /// The most memory resident, in MB of 1,024² bytes.
    pub(crate) peak_mib: f64,
}

/// Lives once: `warm` warm invocations of `event` after the first; without an event, until it asks for work.
///
/// # Errors
/// If the function does not start, fails an invocation, or takes too long.
pub(crate) async fn live(
    program: &Program,
    event: Option<&Bytes>,
    warm: u32,
    posts: u64,
    cores: (usize, usize),
) -> io::Result<Life> {
    let mut service = Service::start().await?;
    process::pin(&[cores.1])?;
    let started = Instant::now();
    let child = start(program, service.port);
    process::pin(&[cores.0])?;
    let mut child = child?;
    let asked = tokio::select! {
        asked = service.asked() => asked?,
        ended = child.wait() => {
            let how = format!("it ended before it asked for work: {}", ended?);
            return Err(io::Error::other(how));
        }
    };
    let init = asked.duration_since(started);
    let mut life = Life {
        init,
        first: None,
        warm: None,
        cpu_seconds: None,
        peak_mib: peak_mib(&child)?,
    };
    let Some(event) = event else { return Ok(life) };
    life.first = Some(service.invoke(event).await?);
    let before = cpu_seconds(&child)?;
    let mut times = Vec::new();
    for _ in 0..warm {
        times.push(service.invoke(event).await?);
    }
    life.cpu_seconds = Some((cpu_seconds(&child)? - before) / f64::from(warm.max(1)));
    times.sort_unstable();
    life.warm = times.get(times.len() / 2).copied();
    life.peak_mib = peak_mib(&child)?;
    let posted = *service.posts.lock().unwrap_or_else(PoisonError::into_inner);
    if posted != posts * u64::from(warm + 1) {
        return Err(io::Error::other(format!(
            "{}: {posted} posts",
            program.name
        )));
    }
    Ok(life)
}

impl Service {
    async fn asked(&mut self) -> io::Result<Instant> {
        match timeout(PATIENCE, self.seen.recv()).await? {
            Some(Seen::Asked(at)) => Ok(at),
            other => Err(io::Error::other(format!("not asked for work: {other:?}"))),
        }
    }

    /// Hands out an event to a function that has asked; how long the answer took. Then the function has asked again.
    async fn invoke(&mut self, event: &Bytes) -> io::Result<Duration> {
        let sent = Instant::now();
        self.events
            .send(event.clone())
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        let answered = match timeout(PATIENCE, self.seen.recv()).await? {
            Some(Seen::Answered(at, Ok(body))) if body.contains(r#""batchItemFailures":[]"#) => at,
            other => return Err(io::Error::other(format!("not answered well: {other:?}"))),
        };
        self.asked().await?;
        Ok(answered.duration_since(sent))
    }
}

fn start(program: &Program, port: u16) -> io::Result<Child> {
    let address = format!("http://127.0.0.1:{port}");
    Command::new(&program.command)
        .args(&program.arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("AWS_LAMBDA_RUNTIME_API", format!("127.0.0.1:{port}"))
        .envs([
            ("AWS_LAMBDA_FUNCTION_NAME", "bench"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024"),
            ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "bench"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "bench"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            (
                "AWS_SECRET_ACCESS_KEY",
                "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            ),
            // As Globals of template.yaml.
            ("RUST_LOG", "info"),
            ("MIMALLOC_ALLOW_THP", "0"),
            ("NODE_NO_WARNINGS", "1"),
        ])
        // What the functions of template.yaml read, each its own part.
        .envs(
            ["CAMPAIGNS", "COUPONS", "CONNECTIONS", "WALLETS", "PARTNERS"]
                .map(|table| (format!("{table}_TABLE"), table.to_owned())),
        )
        .envs(
            ["CLAIMS", "PRIORITY_CLAIMS", "DELIVERIES", "BROADCAST"]
                .map(|queue| (format!("{queue}_QUEUE_URL"), format!("{address}/{queue}"))),
        )
        .envs([("TICKET_SECRET", "ticket"), ("WEBHOOK_SECRET", "webhook")])
        .env("ALLOWED_ORIGINS", "https://example.com")
        .env("WEBSOCKET_URL", "wss://example.com/live")
        .env("BROADCAST_REQUESTS_PER_SECOND", "10000")
        .env("PARTNER_REQUESTS_PER_SECOND", "100")
        .env("MANAGEMENT_ENDPOINT", format!("{address}/live"))
        .env("AWS_ENDPOINT_URL", &address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}

fn of_proc(child: &Child, file: &str) -> io::Result<String> {
    let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
    fs::read_to_string(format!("/proc/{pid}/{file}"))
}

/// User and system time so far (proc(5): fields 14 and 15, the second field in brackets).
fn cpu_seconds(child: &Child) -> io::Result<f64> {
    let stat = of_proc(child, "stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum();
    Ok(ticks / TICKS_PER_SECOND)
}

fn peak_mib(child: &Child) -> io::Result<f64> {
    let status = of_proc(child, "status")?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next())
        .and_then(|kib| kib.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| io::Error::other("no VmHWM in /proc/<pid>/status"))
}

/// The size of what is uploaded, packed as tightly as zip would (both deflate), in MB of 1,024² bytes.
///
/// # Errors
/// If it cannot be packed.
pub(crate) async fn package_mib(package: &Path) -> io::Result<f64> {
    let (folder, name) = (package.parent(), package.file_name());
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder.unwrap_or(Path::new("/")));
    tar.args(["--use-compress-program=gzip -9", "-cf", "-"])
        .arg(name.unwrap_or_default())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, tar.output()).await??;
    if !output.status.success() {
        return Err(io::Error::other(format!("tar: {}", output.status)));
    }
    Ok(output.stdout.len() as f64 / (1024.0 * 1024.0))
}
