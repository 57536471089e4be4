//! Explores every sale, breaks every rule, and prints what it found. Ends with 1 if an invariant does not hold, if
//! something is not reached, or if a broken rule goes unnoticed.
#![expect(clippy::print_stdout, reason = "its purpose")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use firstcome_model::{counterexample, explore, liveness, sales};

fn main() -> ExitCode {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let traces = std::env::args().any(|argument| argument == "--traces");
    let holds = explore_all(threads);
    let lives = check_liveness();
    let unharmed = explore_unharmed(threads);
    let noticed = break_all(traces);
    if holds && lives && unharmed && noticed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn explore_all(threads: usize) -> bool {
    println!("Explored to the end, {threads} threads:");
    println!(
        "{:36} {:>10} {:>10} {:>6} {:>8} {:>6} {:>8}",
        "sale", "steps", "states", "depth", "seconds", "hold", "reached"
    );
    let mut good = true;
    let (mut steps, mut states, mut time) = (0, 0, Duration::ZERO);
    for sale in sales::all() {
        let (name, started) = (sale.name, Instant::now());
        let found = explore(sale, threads);
        let took = started.elapsed();
        println!(
            "{name:36} {:>10} {:>10} {:>6} {:>8.1} {:>6} {:>8}",
            found.steps,
            found.states,
            found.depth,
            took.as_secs_f64(),
            format!("{}/{}", found.holding, found.holding + found.failures.len()),
            format!(
                "{}/{}",
                found.reached.len(),
                found.reached.len() + found.unreached.len()
            ),
        );
        for failure in &found.failures {
            println!("  does not hold: {}", failure.property);
            print_trace(&failure.trace);
        }
        for property in &found.unreached {
            println!("  not reached: {property}");
        }
        good &= found.failures.is_empty() && found.unreached.is_empty();
        steps += found.steps;
        states += found.states;
        time += took;
    }
    println!(
        "{:36} {steps:>10} {states:>10} {:>6} {:>8.1}",
        "together",
        "",
        time.as_secs_f64()
    );
    good
}

fn check_liveness() -> bool {
    println!("\nFrom every state, steps that are no faults lead to the end:");
    let (mut states, mut stuck) = (0, 0);
    for sale in sales::small() {
        let found = liveness(&sale);
        if found.stuck > 0 {
            println!("  stuck: {}, {:?}", sale.name, sale.faults);
        }
        states += found.states;
        stuck += found.stuck;
    }
    println!("{states} states, {stuck} stuck");
    stuck == 0
}

fn explore_unharmed(threads: usize) -> bool {
    println!("\nBroken on purpose, and something else stands behind it:");
    let mut good = true;
    for sale in sales::unharmed() {
        let rules = format!("{:?}", sale.broken);
        let name = sale.name;
        let found = explore(sale, threads);
        println!(
            "{rules:40} {name}, {} states, {} failures",
            found.states,
            found.failures.len()
        );
        good &= found.failures.is_empty();
    }
    good
}

fn break_all(traces: bool) -> bool {
    println!("\nBroken on purpose:");
    let mut good = true;
    for (sale, property) in sales::broken() {
        let rules = format!("{:?}", sale.broken);
        match counterexample(sale, property) {
            Some(failure) => {
                println!(
                    "{rules:40} fails in {:>2} steps: {property}",
                    failure.trace.len()
                );
                if traces {
                    print_trace(&failure.trace);
                }
            }
            None => {
                println!("{rules:40} NOT NOTICED by {property}");
                good = false;
            }
        }
    }
    good
}

fn print_trace(trace: &[String]) {
    for step in trace {
        println!("    {step}");
    }
}
