//! How the functions start, and what an invocation costs, beside an equivalent function on Node 20 with the official SDK:
//! each a process of its own against a stand-in of the Runtime API. Fails if a bound is missed.

#![expect(clippy::print_stdout, reason = "a table is its purpose")]

mod service;
mod trial;

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use clap::Parser;
use firstcome_bench::process;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};
use trial::{Life, Program, live, package_mib};

/// Answers in the event: posts of an invocation.
const POSTS: u64 = 10;
/// Where `sam build` puts the functions that `make up` deploys.
const BUILD: &str = ".aws-sam/local";
const NODE: &str = "Node 20, broadcast";

/// Cold starts and warm invocations, side by side.
#[derive(Parser)]
struct Arguments {
    /// Lives of each function.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Warm invocations of each life.
    #[arg(long, default_value_t = 300)]
    warm: u32,
    /// Leave Node out; the bounds against it are then not held.
    #[arg(long)]
    without_node: bool,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Line {
    program: Program,
    package_mib: f64,
    /// Whether it is invoked, or only started.
    works: bool,
    lives: Vec<Life>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match compare(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn compare(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let all = process::cores()?;
    let first = all.first().copied().unwrap_or_default();
    let cores = (first, all.get(1).copied().unwrap_or(first));
    let mut lines = Vec::new();
    for program in functions(&root)? {
        lines.push(line(program).await?);
    }
    if !arguments.without_node {
        lines.push(line(node(&root).await?).await?);
    }
    let event = event(&root)?;
    // Every line once a round: what disturbs, disturbs all.
    for _ in 0..arguments.rounds {
        for line in &mut lines {
            let event = line.works.then_some(&event);
            let life = live(&line.program, event, arguments.warm, POSTS, cores).await;
            line.lives
                .push(life.map_err(|error| format!("{}: {error}", line.program.name))?);
        }
    }
    process::pin(&all)?;
    println!(
        "Medians of {} lives of {} warm invocations, {POSTS} posts each; load {}.\n",
        arguments.rounds,
        arguments.warm,
        fs::read_to_string("/proc/loadavg")?
            .split(' ')
            .next()
            .unwrap_or("?")
    );
    println!(
        "  {:<22}{:>10}{:>12}{:>11}{:>13}{:>10}{:>12}",
        "", "init ms", "1st call ms", "warm ms", "CPU ms/call", "peak MB", "package MB"
    );
    for line in &lines {
        println!("{}", line.text());
    }
    Ok(arguments.without_node || bounds(&lines))
}

async fn line(program: Program) -> Result<Line, Box<dyn Error>> {
    Ok(Line {
        package_mib: package_mib(&program.package).await?,
        works: program.name.contains("broadcast"),
        program,
        lives: Vec::new(),
    })
}

impl Line {
    fn median(&self, value: impl Fn(&Life) -> Option<f64>) -> Option<f64> {
        let mut values: Vec<f64> = self.lives.iter().filter_map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    fn init_ms(&self) -> Option<f64> {
        self.median(|life| Some(millis(life.init)))
    }

    fn cpu_ms(&self) -> Option<f64> {
        self.median(|life| life.cpu_seconds.map(|seconds| seconds * 1000.0))
    }

    fn peak_mib(&self) -> Option<f64> {
        self.median(|life| Some(life.peak_mib))
    }

    fn text(&self) -> String {
        let cell = |value: Option<f64>, digits: usize| {
            value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
        };
        format!(
            "  {:<22}{:>10}{:>12}{:>11}{:>13}{:>10}{:>12.1}",
            self.program.name,
            cell(self.init_ms(), 1),
            cell(self.median(|life| life.first.map(millis)), 1),
            cell(self.median(|life| life.warm.map(millis)), 2),
            cell(self.cpu_ms(), 2),
            cell(self.peak_mib(), 1),
            self.package_mib
        )
    }
}

/// The functions as they are deployed locally.
fn functions(root: &Path) -> Result<Vec<Program>, Box<dyn Error>> {
    let mut names: Vec<String> = fs::read_dir(root.join("functions"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let mut id = name.clone();
            id[..1].make_ascii_uppercase();
            let command = root.join(format!("{BUILD}/{id}Function/bootstrap"));
            if !command.exists() {
                return Err(
                    format!("{} is missing: `make bench` builds it", command.display()).into(),
                );
            }
            Ok(Program {
                name,
                package: command.clone(),
                command,
                arguments: Vec::new(),
            })
        })
        .collect()
}

/// The same work on Node, its packages installed if they are not there.
async fn node(root: &Path) -> Result<Program, Box<dyn Error>> {
    let folder = root.join("bench/node/function");
    if !folder.join("node_modules").exists() {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--silent"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let status = timeout(Duration::from_secs(180), npm.status()).await?;
        if !status.is_ok_and(|status| status.success()) {
            return Err(
                "Node 20 and npm are needed for the comparison; --without-node leaves it out"
                    .into(),
            );
        }
    }
    Ok(Program {
        name: NODE.to_owned(),
        command: PathBuf::from("node"),
        arguments: vec![folder.join("runtime.js")],
        package: folder,
    })
}

/// A batch of one job, as events/broadcast-deliver.json, with as many answers as posts are wanted.
fn event(root: &Path) -> Result<Bytes, Box<dyn Error>> {
    let text = fs::read_to_string(root.join("events/broadcast-deliver.json"))?;
    let mut event: Value = serde_json::from_str(&text)?;
    let body = event["Records"][0]["body"].as_str().unwrap_or_default();
    let mut job: Value = serde_json::from_str(body)?;
    let answer = job["answers"][0].clone();
    let answers = (0..POSTS).map(|number| {
        let mut answer = answer.clone();
        answer["connectionId"] = json!(format!("L0SM9cOFvHcC{number:03}="));
        answer["frame"]["id"] = json!(format!("{number:032}"));
        answer
    });
    job["answers"] = answers.collect();
    event["Records"][0]["body"] = json!(job.to_string());
    Ok(Bytes::from(event.to_string()))
}

/// What is promised of Rust beside Node: each as a line with what was measured.
fn bounds(lines: &[Line]) -> bool {
    let find = |name: &str| lines.iter().find(|line| line.program.name == name);
    let (Some(rust), Some(node)) = (find("broadcast"), find(NODE)) else {
        return false;
    };
    println!();
    type Measure = fn(&Line) -> Option<f64>;
    let held = [
        ("init, Rust / Node", Line::init_ms as Measure, 1.0 / 10.0),
        ("CPU per warm call, Rust / Node", Line::cpu_ms, 1.0 / 5.0),
        ("peak memory, Rust / Node", Line::peak_mib, 1.0 / 6.0),
    ]
    .map(|(what, measure, bound)| {
        let ratio = measure(rust)
            .zip(measure(node))
            .map_or(f64::INFINITY, |(rust, node)| rust / node);
        let word = if ratio <= bound { "ok" } else { "FAILED" };
        println!("{word:<8}{what:<36}measured {ratio:<12.3}bound ≤ {bound:.3}");
        ratio <= bound
    });
    held.into_iter().all(|held| held)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
