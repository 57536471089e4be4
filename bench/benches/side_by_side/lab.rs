//! Runs one client against a fresh stand-in, each on a core of its own.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::ValueEnum;
use firstcome_bench::{
    clients::{FRAME, Variant},
    process,
    report::Run,
    stand_in::Counts,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// What a Lambda environment has.
const CLIENT_FILES: u64 = 1024;
/// More than the stand-in's connections.
const STAND_IN_FILES: u64 = 8192;
/// Longer than any run.
const PATIENCE: Duration = Duration::from_secs(180);

/// The client with the system's allocator, and with function `broadcast`'s.
const SYSTEM: &str = env!("CARGO_BIN_EXE_client");
const MIMALLOC: &str = env!("CARGO_BIN_EXE_client-mimalloc");

/// A way to post, in a language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Rust(Variant),
    /// The engine over the SDK call after so many steps of the ladder.
    Ladder(usize),
    /// The engine over `GatewayPusher`, with the system's allocator.
    Pusher,
    /// The same with the allocator of function `broadcast`: all that it does.
    Broadcast,
    Node(&'static str),
}

/// What all variants of a table have to do.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    /// Arguments of the stand-in.
    pub(crate) behaviour: String,
    /// Posts at once.
    pub(crate) in_flight: u32,
    /// Posts a second, for the engine.
    pub(crate) rate: u32,
}

/// One run, as the client and as the stand-in saw it.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) run: Run,
    pub(crate) seen: Counts,
}

/// Where the processes run.
#[derive(Debug)]
pub(crate) struct Lab {
    cores: Vec<usize>,
    node: PathBuf,
}

impl Lab {
    /// # Errors
    /// If there is no core to run on.
    pub(crate) fn new() -> io::Result<Self> {
        let cores = process::cores()?;
        let node = Path::new(env!("CARGO_MANIFEST_DIR")).join("node");
        Ok(Self { cores, node })
    }

    /// The cores of the stand-in and of the client.
    pub(crate) fn places(&self) -> (usize, usize) {
        let first = self.cores.first().copied().unwrap_or_default();
        (first, self.cores.get(1).copied().unwrap_or(first))
    }

    /// Installs the Node client's packages if they are not there.
    ///
    /// # Errors
    /// If there is no Node, or no packages.
    pub(crate) async fn prepare_node(&self) -> io::Result<()> {
        if self.node.join("node_modules").exists() {
            return Ok(());
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--silent"])
            .current_dir(&self.node)
            .kill_on_drop(true);
        match timeout(PATIENCE, npm.status()).await?? {
            status if status.success() => Ok(()),
            status => Err(io::Error::other(format!("npm ci: {status}"))),
        }
    }

    /// Runs a client once, from start to end.
    ///
    /// # Errors
    /// If a process fails, or takes too long.
    pub(crate) async fn run(
        &self,
        program: Program,
        posts: u32,
        scene: &Scene,
    ) -> io::Result<Trial> {
        let (stand_in_core, client_core) = self.places();
        place(stand_in_core, STAND_IN_FILES)?;
        let mut stand_in = StandIn::start(&scene.behaviour).await?;
        place(client_core, CLIENT_FILES)?;
        let mut client = self.client(program, posts, scene, stand_in.port);
        let output = timeout(PATIENCE, client.output()).await??;
        process::pin(&self.cores)?;
        if !output.status.success() {
            return Err(io::Error::other(format!("{program:?}: {}", output.status)));
        }
        let run = serde_json::from_slice(&output.stdout)?;
        let seen = stand_in.stop().await?;
        if seen.malformed > 0 {
            return Err(io::Error::other(format!("{program:?}: unsigned posts")));
        }
        Ok(Trial { run, seen })
    }

    fn client(&self, program: Program, posts: u32, scene: &Scene, port: u16) -> Command {
        let mut command = match program {
            Program::Rust(variant) => rust(SYSTEM, variant, 0, scene),
            Program::Ladder(steps) => rust(SYSTEM, Variant::PlainEngine, steps, scene),
            Program::Pusher => rust(SYSTEM, Variant::Engine, 0, scene),
            Program::Broadcast => rust(MIMALLOC, Variant::Engine, 0, scene),
            Program::Node(variant) => {
                let mut command = Command::new("node");
                command.arg(self.node.join("client.js"));
                command.args(["--frame", FRAME, "--variant", variant]);
                command
            }
        };
        command
            .args(["--endpoint", &format!("http://127.0.0.1:{port}/stage")])
            .args(["--posts", &posts.to_string()])
            .args(["--in-flight", &scene.in_flight.to_string()])
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
            .env(
                "AWS_SECRET_ACCESS_KEY",
                "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            )
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_ENDPOINT_URL")
            .env_remove("AWS_PROFILE")
            .env("NODE_NO_WARNINGS", "1")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        command
    }
}

fn rust(binary: &str, variant: Variant, steps: usize, scene: &Scene) -> Command {
    let mut command = Command::new(binary);
    let name = variant.to_possible_value();
    command.args(["--rate", &scene.rate.to_string()]);
    command.args(["--steps", &steps.to_string(), "--variant"]);
    command.args(name.iter().map(|name| name.get_name()));
    command
}

/// What this process is given now, its children inherit.
fn place(core: usize, files: u64) -> io::Result<()> {
    process::pin(&[core])?;
    process::limit_open_files(files)
}

/// A running stand-in.
struct StandIn {
    child: Child,
    output: BufReader<ChildStdout>,
    port: u16,
}

impl StandIn {
    async fn start(behaviour: &str) -> io::Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_stand-in"))
            .args(behaviour.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (mut output, mut port) = (BufReader::new(output), String::new());
        timeout(PATIENCE, output.read_line(&mut port)).await??;
        let port = port.trim().parse().map_err(io::Error::other)?;
        Ok(Self {
            child,
            output,
            port,
        })
    }

    /// Ends it, and returns what it has seen.
    async fn stop(&mut self) -> io::Result<Counts> {
        drop(self.child.stdin.take());
        let mut counts = String::new();
        timeout(PATIENCE, self.output.read_to_string(&mut counts)).await??;
        timeout(PATIENCE, self.child.wait()).await??;
        Ok(serde_json::from_str(&counts)?)
    }
}
