//! Posts to many connections in several ways, side by side, on the stand-in, and holds the engine to its bounds. Each run
//! is a process of its own on a core of its own; the variants take turns. Fails if a bound is missed.

#![expect(clippy::print_stdout, reason = "tables are its purpose")]
#![expect(clippy::expect_used, reason = "a benchmark may stop")]

mod bounds;
mod lab;
mod pool;
mod table;

use std::{error::Error, fs, process::ExitCode};

use bounds::Bounds;
use clap::Parser;
use firstcome_bench::{clients::Variant, ladder::STEPS};
use lab::{Lab, Program, Scene};
use table::{Line, table};

/// Posts in flight, as `POOL` in the engine.
const IN_FLIGHT: u32 = 300;
/// Enough connections for a table.
const MANY: u32 = 3000;
/// Ten times as many.
const LOTS: u32 = 30_000;
/// For one by one: it takes as long for each, so the rest is a multiplication.
const FEW: u32 = 300;
/// Posts a second that the stand-in grants where it throttles, and that the engine is told.
const GRANTED: u32 = 1000;
const ASKED: u32 = 10_000;
/// Twelve seconds' posts at the granted rate.
const THROTTLED: u32 = 12_000;
/// No limit: the pool is what is measured.
const UNLIMITED: u32 = 1_000_000;

/// Side-by-side benchmarks of broadcasting.
#[derive(Parser)]
struct Arguments {
    /// Runs of each variant.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Leave the Node variants out; the bounds against them are then not held.
    #[arg(long)]
    without_node: bool,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
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
    let lab = Lab::new()?;
    if !arguments.without_node {
        lab.prepare_node().await.map_err(|error| {
            format!("Node 20 and npm are needed for the comparison ({error}); --without-node leaves it out")
        })?;
    }
    let (stand_in, client) = lab.places();
    println!(
        "The stand-in on core {stand_in}, the clients on core {client}; medians of {} rounds; load {}.",
        arguments.rounds,
        load()
    );
    let open = Scene {
        behaviour: "--latency-ms 10 --gone-percent 10".into(),
        in_flight: IN_FLIGHT,
        rate: UNLIMITED,
    };
    let throttling = Scene {
        behaviour: format!("--latency-ms 10 --gone-percent 10 --rate {GRANTED} --burst 100"),
        in_flight: IN_FLIGHT,
        rate: ASKED,
    };
    let many = run(&lab, arguments, &open, many()).await?;
    println!("{}", table("10 ms, 10 % gone, 300 in flight", &many));
    let lots = run(&lab, arguments, &open, lots()).await?;
    println!("{}", table("The same, ten times as many", &lots));
    let ladder = run(&lab, arguments, &open, ladder()).await?;
    println!(
        "{}",
        table("The SDK call at its cheapest, step by step", &ladder)
    );
    let throttled = run(
        &lab,
        arguments,
        &throttling,
        vec![Line::new("engine", Program::Broadcast, THROTTLED)],
    )
    .await?;
    println!(
        "{}",
        table(
            "429 above 1,000 posts a second, 10,000 asked for",
            &throttled
        )
    );
    let pool = pool::compare().await;
    println!("{pool}");
    let overhead = pool::overhead().await?;
    let bounds = Bounds {
        many: &many,
        lots: &lots,
        ladder: &ladder,
        throttled: &throttled,
        overhead,
        pool,
    };
    println!("Load {} at the end.\n", load());
    Ok(bounds.hold())
}

/// Every line once a round: what disturbs, disturbs all.
async fn run(
    lab: &Lab,
    arguments: &Arguments,
    scene: &Scene,
    mut lines: Vec<Line>,
) -> Result<Vec<Line>, Box<dyn Error>> {
    lines.retain(|line| !arguments.without_node || !matches!(line.program, Program::Node(_)));
    for _ in 0..arguments.rounds {
        for line in &mut lines {
            let trial = lab.run(line.program, line.posts, scene).await?;
            line.trials.push(trial);
        }
    }
    Ok(lines)
}

fn many() -> Vec<Line> {
    vec![
        Line::new("Rust, one by one", Program::Rust(Variant::Sequential), FEW),
        Line::new(
            "Rust, chunks, join_all",
            Program::Rust(Variant::Chunked),
            MANY,
        ),
        Line::new("Rust, unbounded", Program::Rust(Variant::Unbounded), MANY),
        Line::new(
            "engine, plain SDK call",
            Program::Rust(Variant::PlainEngine),
            MANY,
        ),
        Line::new("engine", Program::Broadcast, MANY),
        Line::new("Node, for await", Program::Node("for-await"), FEW),
        Line::new(
            "Node, Promise.allSettled",
            Program::Node("all-settled"),
            MANY,
        ),
        Line::new("Node, promise-pool", Program::Node("promise-pool"), MANY),
    ]
}

fn lots() -> Vec<Line> {
    vec![
        Line::new(
            "Rust, chunks, join_all",
            Program::Rust(Variant::Chunked),
            LOTS,
        ),
        Line::new(
            "engine, plain SDK call",
            Program::Rust(Variant::PlainEngine),
            LOTS,
        ),
        Line::new("engine", Program::Broadcast, LOTS),
        Line::new(
            "Node, Promise.allSettled",
            Program::Node("all-settled"),
            LOTS,
        ),
        Line::new("Node, promise-pool", Program::Node("promise-pool"), LOTS),
    ]
}

/// With many posts, for what the steps differ by is small.
fn ladder() -> Vec<Line> {
    let step =
        |(steps, name): (usize, &&'static str)| Line::new(name, Program::Ladder(steps), LOTS);
    let mut lines: Vec<Line> = STEPS.iter().enumerate().map(step).collect();
    let pusher = Line::new("+ own signing", Program::Pusher, LOTS);
    let broadcast = Line::new("+ mimalloc: the engine", Program::Broadcast, LOTS);
    lines.extend([pusher, broadcast]);
    lines
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("?").to_owned()
}
