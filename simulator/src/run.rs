//! One run from its seed to its end: the script, the storm, the calm, and the last questions.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use firstcome_core::{Caller, Claim, ClaimMessage, FanOut, Timestamp, sold_out};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use crate::actors::{Ask, Question, ask_again, close, keep_fresh, open_door, post, work};
use crate::fault::Stats;
use crate::ports::queue_claim;
use crate::scenario::{Event, Scenario};
use crate::world::{BASE, Body, State, World};
use crate::{Broken, Known};

/// Once faults have stopped, everything must come to rest within this virtual time: a few visibility time-outs.
const REST_WITHIN: Duration = Duration::from_secs(3600);

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep the trace.
    pub trace: bool,
    /// Check this, too, though it is known.
    pub strict: Option<Known>,
    /// Break the store.
    pub broken: Option<Broken>,
    /// Close a campaign in the middle of its rush, with conflicts on every second write of a shard and no other fault.
    pub rush: bool,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first violation, if there was one.
    pub violation: Option<String>,
    /// What the faults did.
    pub stats: Stats,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
}

/// Runs one seed.
///
/// # Errors
/// Only if the runtime cannot be started.
pub fn run(seed: u64, options: &Options) -> std::io::Result<Run> {
    // The handler draws from the thread's own generator.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let local = LocalSet::new();
    Ok(local.block_on(&runtime, play(seed, options)))
}

async fn play(seed: u64, options: &Options) -> Run {
    let mut rng = Rng::with_seed(seed);
    let drawn = if options.rush {
        Scenario::rush(&mut rng)
    } else {
        Scenario::draw(&mut rng)
    };
    let Ok(scenario) = drawn else {
        return Run {
            violation: Some("the script holds an invalid id".into()),
            stats: Stats::default(),
            trace: Vec::new(),
        };
    };
    let world = World::new(rng.fork(), scenario.rates, options.trace);
    set_up(&world, &scenario, options);
    world.note("script", || format!("{scenario:#?}"));
    let violated = world.violated.notified();
    tokio::select! {
        biased;
        () = violated => {}
        () = direct(&world, scenario) => {}
    }
    let trace = world.take_trace();
    world.with(|state| {
        state.stats.coupons = state.tables.coupons.len() as u64;
        state.stats.dead_letters = state.claims.dead.len() as u64;
        Run {
            violation: state.book.violation.clone(),
            stats: state.stats,
            trace,
        }
    })
}

fn set_up(world: &Arc<World>, scenario: &Scenario, options: &Options) {
    world.with(|state| {
        state.book.looked_for = options.strict;
        state.tables.broken = options.broken;
        state.tables.unstorable = scenario.unstorable.clone();
        for campaign in &scenario.campaigns {
            state.tables.add(campaign.clone());
        }
        for (socket, partner_id, user_id) in &scenario.sockets {
            state
                .book
                .opened(socket.clone(), partner_id.clone(), user_id.clone());
            let connection = firstcome_core::Connection {
                connection_id: socket.clone(),
                partner_id: partner_id.clone(),
                user_id: user_id.clone(),
                connected_at: BASE.plus_seconds(-60),
                topics: Vec::new(),
            };
            state.connections.insert(socket.clone(), connection);
        }
    });
}

async fn direct(world: &Arc<World>, scenario: Scenario) {
    let doors: Vec<_> = (0..scenario.doors)
        .map(|index| {
            let (frames, inbox) = mpsc::unbounded_channel();
            spawn_local(open_door(Arc::clone(world), index, inbox));
            frames
        })
        .collect();
    for index in 0..scenario.workers {
        let (batch, window) = (scenario.batch, scenario.window_millis);
        spawn_local(work(Arc::clone(world), index, batch, window));
    }
    for index in 0..2 {
        spawn_local(post(Arc::clone(world), index));
    }
    spawn_local(keep_fresh(Arc::clone(world)));
    let storm = Arc::clone(world);
    spawn_local(async move {
        sleep(Duration::from_millis(scenario.storm_millis)).await;
        storm.with(|state| state.calm_down());
        storm.note("script", || "calm".into());
    });

    let start = Instant::now();
    for (at, event) in scenario.events {
        sleep_until(start + Duration::from_millis(at)).await;
        happen(world, &doors, event, scenario.closes_within);
    }
    sleep_until(start + Duration::from_millis(scenario.storm_millis)).await;
    drop(doors);
    rest(world).await;
    let questions = world.with(|state| {
        let sockets = state.connections_of();
        let ask = |key: &crate::book::ClaimKey| {
            let (partner_id, campaign, user_id, claim) = key.clone();
            let connection_id = sockets.get(&(partner_id.clone(), user_id.clone()))?.clone();
            Some(Question {
                caller: Caller {
                    partner_id,
                    user_id,
                    connection_id,
                    trace: None,
                },
                ask: Ask::Result(campaign, claim),
            })
        };
        state.book.claims().filter_map(ask).collect()
    });
    ask_again(world, questions).await;
    world.with(|state| {
        state.book.at_rest(&state.tables);
        check_announcements(state, world.now());
        state.over = true;
    });
}

/// Whoever is marked sold out and still open has been announced.
fn check_announcements(state: &mut State, now: Timestamp) {
    let unannounced = state.tables.offers.values().find_map(|offer| {
        let campaign = offer.record.truth.as_ref()?;
        let key = State::fan_out_key(&sold_out(campaign).broadcast_id);
        let is_due = offer.sold && now < campaign.ends_at();
        (is_due && state.fan_outs.get(&key) != Some(&FanOut::Complete))
            .then(|| campaign.campaign_id.clone())
    });
    if let Some(id) = unannounced {
        state
            .book
            .stuck(format!("{id} was never announced sold out"));
    }
}

fn happen(
    world: &Arc<World>,
    doors: &[UnboundedSender<Question>],
    event: Event,
    closes_within: Option<u64>,
) {
    match event {
        Event::Ask(door, question) => {
            if let Some(door) = doors.get(door) {
                // A door stands open as long as its sender lives.
                let _open = door.send(question);
            }
        }
        Event::Produce(claim, with_time) => produce(world, claim, with_time),
        Event::Poison(text) => {
            let now = world.millis();
            world.with(|state| state.claims.send(Body { text, queued: None }, now, 0));
            world.changed.notify_waiters();
        }
        Event::HangUp(socket) => {
            world.note("script", || format!("{socket} hangs up"));
            world.with(|state| state.book.closed(socket));
        }
        Event::Close(id, tries) => {
            world.with(|state| state.closers += 1);
            spawn_local(close(Arc::clone(world), id, tries, closes_within));
        }
    }
}

fn produce(world: &Arc<World>, mut claim: Claim, with_time: bool) {
    let message = ClaimMessage {
        requested_at: with_time.then_some(claim.requested_at),
        ..ClaimMessage::from(&claim)
    };
    if !with_time {
        claim.requested_at = world.now();
    }
    let text = serde_json::to_string(&message).unwrap_or_default();
    world.note("producer", || text.clone());
    queue_claim(world, text, &claim);
}

/// Waits until nothing is left to do: queues empty, transactions visible, two rounds of the refresher run since.
async fn rest(world: &Arc<World>) {
    let from = world.with(|state| state.rounds);
    let deadline = Instant::now() + REST_WITHIN;
    loop {
        sleep(Duration::from_secs(5)).await;
        let left = world.with(|state| {
            let rested = state.claims.is_empty()
                && state.deliveries.is_empty()
                && state.broadcasts.is_empty()
                && state.in_flight == 0
                && state.closers == 0
                && !state.tables.is_moving()
                && state.rounds >= from + 2;
            (!rested).then(|| {
                let claims = state.claims.messages();
                let claims: Vec<_> = claims.map(|message| &message.body.text).collect();
                let (deliveries, broadcasts) =
                    (state.deliveries.is_empty(), state.broadcasts.is_empty());
                format!("claims {claims:?}, no answers {deliveries}, no jobs {broadcasts}")
            })
        });
        let Some(left) = left else {
            break;
        };
        if Instant::now() > deadline {
            return world.with(|state| state.book.stuck(format!("never at rest: {left}")));
        }
    }
    world.with(|state| {
        let valid = state
            .claims
            .dead
            .iter()
            .find(|dead| dead.body.queued.is_some());
        if let Some(dead) = valid {
            let text = format!("a valid claim in the dead-letter queue: {}", dead.body.text);
            state.book.stuck(text);
        }
    });
}
