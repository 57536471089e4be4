//! Runs the checker, and answers in few words what it found.

use std::collections::{BTreeSet, HashMap, VecDeque};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path, Property};

use crate::config::Sale;
use crate::property::everybody_answered;
use crate::state::State;
use crate::step::Action;

/// An invariant that does not hold, and how to get there.
#[derive(Debug)]
pub struct Failure {
    /// The property.
    pub property: &'static str,
    /// What happens, from the start to the first state that breaks it.
    pub trace: Vec<String>,
}

/// What the exhaustive exploration of a sale found.
#[derive(Debug)]
pub struct Exploration {
    /// States met, each as often as a step leads to it.
    pub steps: usize,
    /// Different states.
    pub states: usize,
    /// Steps of the longest way along which a state was first met; more than one thread makes it vary a little.
    pub depth: usize,
    /// The invariants that hold.
    pub holding: usize,
    /// The invariants that do not.
    pub failures: Vec<Failure>,
    /// What should have been reached, and was.
    pub reached: BTreeSet<&'static str>,
    /// What should have been reached, and was not.
    pub unreached: BTreeSet<&'static str>,
}

/// Visits every state a sale can get into.
pub fn explore(sale: Sale, threads: usize) -> Exploration {
    let checker = sale.checker().threads(threads).spawn_bfs().join();
    let mut found = Exploration {
        steps: checker.state_count(),
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        holding: 0,
        failures: Vec::new(),
        reached: BTreeSet::new(),
        unreached: BTreeSet::new(),
    };
    for property in checker.model().properties() {
        match (checker.discovery(property.name), &property.expectation) {
            (Some(_), Expectation::Sometimes) => {
                found.reached.insert(property.name);
            }
            (None, Expectation::Sometimes) => {
                found.unreached.insert(property.name);
            }
            (Some(path), _) => {
                let failure = failure(checker.model(), &property, path);
                found.failures.push(failure);
            }
            (None, _) => found.holding += 1,
        }
    }
    found
}

/// A short way to break this invariant, if there is one.
pub fn counterexample(sale: Sale, property: &'static str) -> Option<Failure> {
    let until = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = sale.checker().finish_when(until).spawn_bfs().join();
    let path = checker.discovery(property)?;
    let model = checker.model();
    Some(failure(model, &model.property(property), path))
}

fn failure(sale: &Sale, property: &Property<Sale>, path: Path<State, Action>) -> Failure {
    let mut trace = Vec::new();
    for (state, action) in path.into_vec() {
        match action {
            Some(action) if (property.condition)(sale, &state) => {
                trace.push(state.describe(action));
            }
            _ => break,
        }
    }
    Failure {
        property: property.name,
        trace,
    }
}

/// Whether a sale can get stuck.
#[derive(Debug)]
pub struct Liveness {
    /// Different states.
    pub states: usize,
    /// Those from which, if no fault strikes any more, no path leads to everybody answered and nothing left to do.
    pub stuck: usize,
}

/// Looks for states from which the sale cannot end well. Kept apart from [`explore`] because it needs the whole graph:
/// from every state, however many faults led there, steps that are no faults must lead to the end.
pub fn liveness(sale: &Sale) -> Liveness {
    let start = sale.start();
    let mut numbers = HashMap::from([(start.clone(), 0)]);
    let mut unvisited = VecDeque::from([start]);
    let mut number = 0;
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    let mut good = Vec::new();
    let mut actions = Vec::new();
    while let Some(state) = unvisited.pop_front() {
        if state.at_rest(sale) && everybody_answered(sale, &state) {
            good.push(number);
        }
        sale.possible(&state, &mut actions);
        for action in actions.drain(..) {
            let Some(next) = sale.after(&state, action) else {
                continue;
            };
            let certain = next.faults_left == state.faults_left && !sale.is_optional(action);
            let next_number = *numbers.entry(next).or_insert_with_key(|next| {
                unvisited.push_back(next.clone());
                before.push(Vec::new());
                before.len() - 1
            });
            if certain {
                before[next_number].push(number);
            }
        }
        number += 1;
    }
    Liveness {
        states: before.len(),
        stuck: before.len() - reaching(&before, good),
    }
}

/// How many states have a path to one of these.
fn reaching(before: &[Vec<usize>], goals: Vec<usize>) -> usize {
    let mut reaches = vec![false; before.len()];
    let mut open = goals;
    let mut count = 0;
    while let Some(state) = open.pop() {
        if !std::mem::replace(&mut reaches[state], true) {
            count += 1;
            open.extend(&before[state]);
        }
    }
    count
}
