//! A bounded number of seeds, the same seed twice, and stores without their conditions.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use firstcome_simulator::{Broken, Options, Stats, run};

/// As many as take some seconds unoptimized; `simulate` runs the rest.
const SEEDS: u64 = 400;
/// Rushes that are closed; each is as long as dozens of other runs.
const RUSHES: u64 = 12;

#[test]
fn every_invariant_holds_whatever_the_seed() {
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Stats::default()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let seed @ ..SEEDS = next.fetch_add(1, Ordering::Relaxed) {
                    let ended = run(seed, &Options::default()).unwrap();
                    assert_eq!(ended.violation, None, "simulate --seed {seed}");
                    sum.lock().unwrap().add(&ended.stats);
                }
            });
        }
    });
    for (fault, times) in sum.into_inner().unwrap().table() {
        assert_ne!(times, 0, "{fault}: never happened, so nothing is shown");
    }
}

#[test]
fn a_rush_is_closed_within_five_seconds_and_nothing_is_issued_after_the_answer() {
    let rush = Options {
        rush: true,
        ..Options::default()
    };
    let mut sum = Stats::default();
    for seed in 0..RUSHES {
        let ended = run(seed, &rush).unwrap();
        assert_eq!(ended.violation, None, "simulate --rush --seed {seed}");
        sum.add(&ended.stats);
    }
    assert_eq!(sum.closings, RUSHES, "each at its first try");
    assert!(sum.in_the_rush > RUSHES / 2, "{sum:?}");
    assert!(sum.busy_freezes > RUSHES, "{sum:?}");
}

#[test]
fn the_same_seed_does_the_same_step_by_step() {
    let traced = Options {
        trace: true,
        ..Options::default()
    };
    let traces: Vec<_> = (0..20)
        .map(|seed| {
            let (first, again) = (run(seed, &traced).unwrap(), run(seed, &traced).unwrap());
            assert_eq!(first, again, "seed {seed}");
            let untraced = run(seed, &Options::default()).unwrap();
            assert_eq!(untraced.stats, first.stats, "seed {seed} without its trace");
            first.trace
        })
        .collect();
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn a_store_without_one_of_its_conditions_is_found_out() {
    for (broken, invariant) in [
        (Broken::StockCondition, "I1"),
        (Broken::ClosedCondition, "closing"),
        (Broken::CouponCondition, "I2"),
    ] {
        let options = Options {
            broken: Some(broken),
            ..Options::default()
        };
        let mut found = (0..SEEDS).filter_map(|seed| run(seed, &options).unwrap().violation);
        let first = found.next().unwrap_or_default();
        assert!(first.starts_with(invariant), "{broken:?}: {first}");
    }
}
