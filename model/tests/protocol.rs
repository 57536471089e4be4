//! The protocol holds, ends well, and would not without any of its rules. Sales with one kind of fault at a time; the
//! binary `model` explores the larger ones.

use std::collections::{BTreeMap, BTreeSet};

use firstcome_model::{Broken, Faults, INVARIANTS, counterexample, explore, liveness, sales};

#[test]
fn every_invariant_holds_in_every_state_and_nothing_is_vacuous() {
    let mut reached: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for sale in sales::small() {
        let (name, faults) = (sale.name, sale.faults);
        let found = explore(sale, 2);
        assert_eq!(
            found.holding,
            INVARIANTS.len(),
            "{name}, {faults:?}: {:?}",
            found.failures
        );
        reached.entry(name).or_default().extend(found.reached);
    }
    for sale in sales::all() {
        let expected: BTreeSet<&str> = sale.reaches.iter().copied().collect();
        assert_eq!(reached[sale.name], expected, "{}", sale.name);
    }
}

#[test]
fn once_faults_stop_every_sale_can_end_with_everybody_answered() {
    for sale in sales::small() {
        let found = liveness(&sale);
        assert!(found.states > 1);
        assert_eq!(found.stuck, 0, "{}, {:?}", sale.name, sale.faults);
    }
}

#[test]
fn a_sale_that_loses_a_message_is_stuck() {
    let crash = Faults {
        crashes: 1,
        ..Faults::default()
    };
    let sale = sales::last_coupon()
        .with(crash)
        .broken(Broken::AcknowledgedBeforeWrite);
    assert!(liveness(&sale).stuck > 0);
}

#[test]
fn a_closing_that_nobody_finishes_is_stuck() {
    let sale = sales::closing_two_shards()
        .with(Faults::default())
        .broken(Broken::NobodyFinishes);
    assert!(liveness(&sale).stuck > 0);
}

#[test]
fn every_broken_rule_is_noticed() {
    for (sale, property) in sales::broken() {
        let rules = sale.broken.clone();
        assert!(
            counterexample(sale, property).is_some(),
            "{rules:?}: {property}"
        );
    }
}

#[test]
fn every_invariant_fails_where_its_rule_is_broken() {
    let failing: Vec<&str> = sales::broken()
        .into_iter()
        .map(|(_, property)| property)
        .collect();
    for invariant in INVARIANTS {
        assert!(failing.contains(&invariant), "{invariant}");
    }
}

#[test]
fn every_rule_is_broken_somewhere() {
    let tried = sales::broken().into_iter().map(|(sale, _)| sale);
    let tried: Vec<Broken> = tried
        .chain(sales::unharmed())
        .flat_map(|sale| sale.broken)
        .collect();
    for rule in Broken::ALL {
        assert!(tried.contains(&rule), "{rule:?}");
    }
}

#[test]
fn what_something_else_stands_behind_holds_all_the_same() {
    for sale in sales::unharmed() {
        let rules = sale.broken.clone();
        let found = explore(sale, 2);
        assert!(found.failures.is_empty(), "{rules:?}: {:?}", found.failures);
    }
}
