//! What the engine is held to. Ratios of medians; absolute times only where the stand-in's latency sets them.

use std::fmt::Display;

use firstcome_bench::{clients::Variant, stand_in::TICK};

use crate::{
    FEW, GRANTED, IN_FLIGHT, MANY,
    lab::{Program, Trial},
    pool::PoolAgainstChunks,
    table::Line,
};

/// The stand-in's latency.
const LATENCY_MS: f64 = 10.0;
/// Until then the limiter may search: two seconds.
const SETTLING_TICKS: usize = 20;

/// What was measured.
pub(crate) struct Bounds<'a> {
    pub(crate) many: &'a [Line],
    pub(crate) lots: &'a [Line],
    pub(crate) ladder: &'a [Line],
    pub(crate) throttled: &'a [Line],
    pub(crate) overhead: f64,
    pub(crate) pool: PoolAgainstChunks,
}

impl Bounds<'_> {
    /// Prints each bound with what was measured; tells whether all held.
    pub(crate) fn hold(&self) -> bool {
        let results = [
            self.against_node(),
            self.in_rust(),
            self.cheap(),
            self.ten_times_as_many(),
            self.under_throttling(),
            self.by_itself(),
        ];
        results.into_iter().all(|held| held)
    }

    fn against_node(&self) -> bool {
        let engine = line(self.many, Program::Broadcast);
        let node = Program::Node("all-settled");
        let Some(node) = self.many.iter().find(|line| line.program == node) else {
            println!("not held  engine against Node: Node was left out");
            return true;
        };
        let wall = at_most(
            "wall, engine / Node allSettled",
            engine.wall_ms() / node.wall_ms(),
            1.0 / 8.0,
        );
        let cpu = at_most(
            "CPU, engine / Node allSettled",
            engine.cpu() / node.cpu(),
            1.0 / 12.0,
        );
        wall && cpu
    }

    fn in_rust(&self) -> bool {
        let engine = line(self.many, Program::Broadcast);
        let sequential =
            line(self.many, Program::Rust(Variant::Sequential)).wall_ms() * f64::from(MANY / FEW);
        let ideal = f64::from(MANY) * LATENCY_MS / f64::from(IN_FLIGHT);
        let faster = at_least(
            "wall, one by one / engine",
            sequential / engine.wall_ms(),
            50.0,
        );
        let near = at_most("wall ms, against 2·N·L/C", engine.wall_ms(), 2.0 * ideal);
        let whole = all("every post settled, none failed", engine, |trial| {
            trial.run.failed == 0 && trial.run.delivered + trial.run.gone == trial.run.posts
        });
        faster && near && whole
    }

    fn cheap(&self) -> bool {
        let plain = line(self.ladder, Program::Ladder(0)).cpu();
        let pusher = line(self.ladder, Program::Pusher).cpu();
        let broadcast = line(self.ladder, Program::Broadcast).cpu();
        println!(
            "        the same without mimalloc           measured {:.3}",
            pusher / plain
        );
        at_most("CPU, engine / plain SDK call", broadcast / plain, 0.8)
    }

    fn ten_times_as_many(&self) -> bool {
        let (few, lots) = (
            line(self.many, Program::Broadcast),
            line(self.lots, Program::Broadcast),
        );
        let memory = at_most("peak MB at 30,000", lots.peak_mib(), 64.0);
        let linear = at_most(
            "wall, 30,000 / 3,000 posts",
            lots.wall_ms() / few.wall_ms(),
            12.5,
        );
        memory && linear
    }

    fn under_throttling(&self) -> bool {
        let throttled = line(self.throttled, Program::Broadcast);
        let rate = at_least(
            "posts/s let through after 2 s",
            throttled.median(|trial| settled(trial).0),
            0.9 * f64::from(GRANTED),
        );
        let refused = at_most(
            "share refused after 2 s",
            throttled.median(|trial| settled(trial).1),
            0.05,
        );
        let whole = all("every post settled in the end", throttled, |trial| {
            trial.run.failed == 0 && trial.run.delivered + trial.run.gone == trial.run.posts
        });
        rate && refused && whole
    }

    fn by_itself(&self) -> bool {
        let overhead = at_most("engine's own CPU µs per post", self.overhead, 1.0);
        let pool = at_most(
            "pool ms, 100/300/200 by two",
            self.pool.pool.as_secs_f64() * 1000.0,
            310.0,
        );
        overhead && pool
    }
}

/// Posts a second let through, and the share refused, from two seconds after the first request to the last.
fn settled(trial: &Trial) -> (f64, f64) {
    let rest = trial
        .seen
        .timeline
        .get(SETTLING_TICKS..)
        .unwrap_or_default();
    let (granted, refused) = rest.iter().fold((0.0, 0.0), |(granted, refused), tick| {
        (granted + f64::from(tick.0), refused + f64::from(tick.1))
    });
    let seconds = TICK.as_secs_f64() * rest.len() as f64;
    (granted / seconds, refused / (granted + refused))
}

/// The line of a program that the table has.
fn line(lines: &[Line], program: Program) -> &Line {
    let is_it = |line: &&Line| line.program == program;
    lines.iter().find(is_it).expect("a line of the table")
}

fn at_most(what: &str, measured: f64, bound: f64) -> bool {
    verdict(
        what,
        measured <= bound,
        format!("{measured:.3}"),
        format!("≤ {bound:.3}"),
    )
}

fn at_least(what: &str, measured: f64, bound: f64) -> bool {
    verdict(
        what,
        measured >= bound,
        format!("{measured:.3}"),
        format!("≥ {bound:.3}"),
    )
}

fn all(what: &str, line: &Line, holds: impl Fn(&Trial) -> bool) -> bool {
    let held = line.trials.iter().filter(|trial| holds(trial)).count();
    let rounds = line.trials.len();
    verdict(
        what,
        held == rounds,
        format!("{held} rounds"),
        format!("= {rounds} rounds"),
    )
}

fn verdict(what: &str, held: bool, measured: impl Display, bound: impl Display) -> bool {
    let word = if held { "ok" } else { "FAILED" };
    println!("{word:<8}{what:<36}measured {measured:<12}bound {bound}");
    held
}
