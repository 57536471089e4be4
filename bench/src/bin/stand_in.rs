//! Runs the stand-in on a free port of this machine: prints the port, answers until its input ends, prints its counts.

#![expect(clippy::print_stdout, reason = "how it tells its parent")]

use std::{error::Error, sync::Arc};

use clap::Parser;
use firstcome_bench::stand_in::{Behaviour, Desk, serve};
use tokio::{
    io::{AsyncReadExt, stdin},
    net::TcpListener,
};

/// A stand-in for API Gateway's `@connections`.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    behaviour: Behaviour,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let desk = Arc::new(Desk::new(Arguments::parse().behaviour));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    let mut input = Vec::new();
    let mut parent = stdin();
    tokio::select! {
        result = serve(listener, Arc::clone(&desk)) => result?,
        read = parent.read_to_end(&mut input) => drop(read?),
    }
    println!("{}", serde_json::to_string(&desk.counts())?);
    // Reading the input holds a thread that would be waited for.
    std::process::exit(0)
}
