//! `simulate`: many seeds on several threads, or one seed with its trace.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use firstcome_simulator::{Broken, Known, Options, Run, Stats, run};

/// Lines of the trace that are printed when a seed fails.
const LAST_LINES: usize = 60;

/// Runs sales at their worst and checks that no coupon is one too many and no claim lost.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed only, with its whole trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads; each runs whole seeds.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Look for what is known to break the letter of an invariant, too.
    #[arg(long)]
    strict: Option<Known>,
    /// Break the store: the run must fail.
    #[arg(long)]
    broken: Option<Broken>,
    /// Rushes that are closed in the middle, with conflicts on every second write of a stock shard.
    #[arg(long)]
    rush: bool,
}

/// What all threads share.
struct Progress {
    next: AtomicU64,
    failed: AtomicBool,
    sum: Mutex<(u64, Stats)>,
    failure: Mutex<Option<u64>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        trace: false,
        strict: arguments.strict,
        broken: arguments.broken,
        rush: arguments.rush,
    };
    let ended = match arguments.seed {
        Some(seed) => replay(seed, &options, usize::MAX),
        None => many(&arguments, &options),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            // Nowhere left to say it if stderr is closed.
            let _ = writeln!(std::io::stderr(), "simulate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a seed again with its trace and prints the last lines of it.
fn replay(seed: u64, options: &Options, lines: usize) -> std::io::Result<ExitCode> {
    let traced = Options {
        trace: true,
        ..*options
    };
    let Run {
        violation,
        stats,
        trace,
    } = run(seed, &traced)?;
    let mut out = std::io::stdout().lock();
    for line in &trace[trace.len().saturating_sub(lines)..] {
        writeln!(out, "{line}")?;
    }
    match violation {
        Some(violation) => {
            writeln!(out, "seed {seed}: VIOLATION of {violation}")?;
            Ok(ExitCode::FAILURE)
        }
        None => {
            writeln!(out, "seed {seed}: every invariant held")?;
            print_stats(&mut out, 1, &stats)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn many(arguments: &Arguments, options: &Options) -> std::io::Result<ExitCode> {
    let started = Instant::now();
    let progress = Progress {
        next: AtomicU64::new(arguments.from),
        failed: AtomicBool::new(false),
        sum: Mutex::default(),
        failure: Mutex::default(),
    };
    let end = arguments.from.saturating_add(arguments.seeds);
    std::thread::scope(|scope| -> std::io::Result<()> {
        let threads: Vec<_> = (0..arguments.threads.max(1))
            .map(|_| scope.spawn(|| run_seeds(&progress, end, options)))
            .collect();
        for thread in threads {
            thread
                .join()
                .map_err(|_| std::io::Error::other("a run panicked"))??;
        }
        Ok(())
    })?;
    let failure = *progress
        .failure
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(seed) = failure {
        let again = replay(seed, options, LAST_LINES)?;
        writeln!(
            std::io::stdout(),
            "simulate --seed {seed} shows the whole trace"
        )?;
        return Ok(if again == ExitCode::SUCCESS {
            ExitCode::FAILURE
        } else {
            again
        });
    }
    let (runs, sum) = *progress.sum.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = std::io::stdout().lock();
    let seconds = started.elapsed().as_secs_f64();
    writeln!(
        out,
        "{runs} runs in {seconds:.1} s, no violation; per run on average:"
    )?;
    print_stats(&mut out, runs, &sum)?;
    let required = if arguments.rush {
        sum.required_of_a_rush().to_vec()
    } else {
        sum.required().to_vec()
    };
    let missing: Vec<_> = required.into_iter().filter(|(_, n)| *n == 0).collect();
    if missing.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "never happened, so that nothing is shown: {missing:?}")?;
    Ok(ExitCode::FAILURE)
}

/// Takes seed after seed until all are run or one has failed. The lowest failing seed of those run is reported.
fn run_seeds(progress: &Progress, end: u64, options: &Options) -> std::io::Result<()> {
    loop {
        let seed = progress.next.fetch_add(1, Ordering::Relaxed);
        if seed >= end || progress.failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let ended = run(seed, options)?;
        if ended.violation.is_some() {
            progress.failed.store(true, Ordering::Relaxed);
            let mut failure = progress
                .failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *failure = Some(failure.map_or(seed, |other| other.min(seed)));
        }
        let mut sum = progress.sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.0 += 1;
        sum.1.add(&ended.stats);
        if sum.0.is_multiple_of(10_000) {
            writeln!(std::io::stderr(), "{} runs", sum.0)?;
        }
    }
}

fn print_stats(out: &mut impl Write, runs: u64, sum: &Stats) -> std::io::Result<()> {
    for (name, value) in sum.table() {
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let average = value as f64 / runs.max(1) as f64;
        writeln!(out, "  {name:<36}{average:>12.3}")?;
    }
    Ok(())
}
