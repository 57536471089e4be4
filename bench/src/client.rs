//! One run of one variant in a process of its own: prints what it measured as one line of JSON.

#![expect(clippy::print_stdout, reason = "how it tells its parent")]

use std::error::Error;

use clap::Parser;

use crate::clients::{Task, Variant, run};

/// Posts to many connections in one of the ways that are compared.
#[derive(Parser)]
struct Arguments {
    /// The way.
    #[arg(long)]
    variant: Variant,
    /// Where to.
    #[arg(long)]
    endpoint: String,
    /// To how many connections.
    #[arg(long)]
    posts: u32,
    /// How many posts at once.
    #[arg(long, default_value_t = 300)]
    in_flight: usize,
    /// How many posts a second, for the engine.
    #[arg(long, default_value_t = 1_000_000)]
    rate: u32,
    /// How many steps of the ladder the plain SDK call has taken.
    #[arg(long, default_value_t = 0)]
    steps: usize,
}

/// What the binaries do. They differ in their allocators.
///
/// # Errors
/// If the process cannot be measured.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let task = Task {
        endpoint: arguments.endpoint,
        posts: arguments.posts,
        in_flight: arguments.in_flight,
        rate: arguments.rate,
        steps: arguments.steps,
    };
    let run = run(arguments.variant, &task).await?;
    println!("{}", serde_json::to_string(&run)?);
    Ok(())
}
