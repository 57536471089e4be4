//! Who acts in a run: workers, doors and posters as Lambda runs them, the refresher, and the clients. Each of them lives
//! in an execution environment that can die in the middle of a call and is replaced by one that remembers nothing.

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use firstcome_core::{
    BroadcastJob, CLOSING_PATIENCE, Caller, CampaignDirectory, CampaignId, CampaignRecords,
    ClaimId, Clock, DIRECTORY_FRESHNESS, DeliveryJob, FrameBody, Gate, Issuer, JobError, PortError,
    PostEngine, Poster, ServerFrame, StockNews, announce, close_campaign, deliver_answers,
    deliver_snapshot, post_page, post_stock, refresh,
};
use issue::handler::Worker;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};

use crate::book::{Answer, ClaimKey, Place};
use crate::fault::{happens, millis};
use crate::ports::{Ports, receipt};
use crate::queue::Message;
use crate::tables::Offer;
use crate::world::{BASE, Body, RECEIVES_IN_A_STORM, State, World};

/// What Lambda gives `issue` (template.yaml), and what its handler keeps of it for the end.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);
const ISSUE_DEADLINE: Duration = Duration::from_millis(7500);
/// What Lambda gives `broadcast`, less the handler's reserve.
const BROADCAST_TIMEOUT: Duration = Duration::from_secs(30);
const BROADCAST_DEADLINE: Duration = Duration::from_secs(27);
/// What Lambda gives `claim` and `refresh`.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Posts per second of one poster.
const POSTS_PER_SECOND: u32 = 1000;
/// How far the clocks of those who close campaigns are off; the product's assumption is half a second (`SETTLING`).
const CLOSER_SKEW_MILLIS: i64 = 240;
/// How often the refresher runs. More often than in production, so that a run sees several rounds.
const REFRESH_EVERY: Duration = Duration::from_secs(20);

/// Runs an invocation to its end, its time-out or its environment's death; `None` if it did not end by itself.
async fn invoke<T>(ports: &Ports, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    ports.begin();
    let ended = tokio::select! {
        biased;
        () = ports.environment.died.notified() => None,
        ended = timeout(limit, work) => ended.ok(),
    };
    if ended.is_none() {
        ports.note(|| "dies".into());
        ports.world.with(|state| state.stats.crashes += 1);
    }
    ended
}

/// An environment's name and clock, until the next one.
fn environment(world: &Arc<World>, role: &str, generation: u32) -> Ports {
    skewed_environment(world, role, generation, 3000)
}

/// An environment whose clock is off by at most this many milliseconds.
fn skewed_environment(world: &Arc<World>, role: &str, generation: u32, most: i64) -> Ports {
    let skew = world.with(|state| state.rng.i64(-most..=most));
    Ports::new(world, format!("{role}.{generation}"), skew)
}

/// Waits until one of the queues may have something; `false` once all is over.
async fn wait(world: &World, next_visible: impl FnOnce(&State) -> Option<u64>) -> bool {
    let changed = world.changed.notified();
    let (over, next) = world.with(|state| (state.over, next_visible(state)));
    if over {
        return false;
    }
    let now = world.millis();
    let pause = next.map_or(60_000, |next| next.saturating_sub(now).max(1));
    tokio::select! {
        biased;
        () = changed => {}
        () = sleep(Duration::from_millis(pause)) => {}
    }
    true
}

/// Receives from ClaimsQueue, at most `batch` messages gathered over the batching window, and decides, environment after
/// environment.
pub(crate) async fn work(world: Arc<World>, index: usize, batch: usize, window_millis: u64) {
    for generation in 0.. {
        let ports = environment(&world, &format!("worker-{index}"), generation);
        let worker = Worker {
            issuer: Issuer::new(ports.clone(), ports.clone(), ports.clone(), ports.clone()),
            news: StockNews::new(ports.clone(), ports.clone(), ports.clone()),
            deliveries: ports.clone(),
            returns: ports.clone(),
        };
        loop {
            let window = world.with(|state| millis(&mut state.rng, 0..=window_millis));
            sleep(window).await;
            let messages = world.with(|state| receive_claims(state, world.millis(), batch));
            if messages.is_empty() {
                if wait(&world, |state| state.claims.next_visible()).await {
                    continue;
                }
                return;
            }
            ports.note(|| format!("receives {}", names(&messages)));
            let deadline = Instant::now() + ISSUE_DEADLINE;
            let handled = worker.handle(event(&messages), deadline);
            let Some(response) = invoke(&ports, ISSUE_TIMEOUT, handled).await else {
                break;
            };
            world.with(|state| acknowledge(state, &messages, &response));
            ports.note(|| format!("gives back {:?}", given_back(&response)));
            // Environments are replaced for no reason, too.
            if world.with(|state| state.rates.crash > 0 && happens(&mut state.rng, 100)) {
                break;
            }
        }
        let cold_start = world.with(|state| millis(&mut state.rng, 20..=300));
        sleep(cold_start).await;
    }
}

fn receive_claims(state: &mut State, now: u64, batch: usize) -> Vec<Message<Body>> {
    let State {
        claims,
        rng,
        rates,
        stats,
        ..
    } = state;
    let most = rng.usize(1..=batch);
    let received = claims.receive(now, most, rng, rates, stats);
    let is_worn = |m: &Message<Body>| m.body.queued.is_some() && m.receives >= RECEIVES_IN_A_STORM;
    if received.iter().any(is_worn) {
        state.calm_down();
    }
    received
}

fn names(messages: &[Message<Body>]) -> String {
    let name = |message: &Message<Body>| {
        let claim = message.body.queued.as_ref();
        let claim = claim.map_or("poison".into(), |queued| queued.key.3.to_string());
        format!("{}={claim}", receipt(message.id, message.receives))
    };
    messages.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn event(messages: &[Message<Body>]) -> SqsEvent {
    let record = |message: &Message<Body>| {
        let sent_at = BASE.millis().unsigned_abs() + message.sent_at;
        let mut record = SqsMessage::default();
        record.message_id = Some(message.id.to_string());
        record.receipt_handle = Some(receipt(message.id, message.receives));
        record.body = Some(message.body.text.clone());
        let attributes = [
            ("SentTimestamp", sent_at.to_string()),
            ("ApproximateReceiveCount", message.receives.to_string()),
        ];
        record.attributes = attributes
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        record
    };
    let mut event = SqsEvent::default();
    event.records = messages.iter().map(record).collect();
    event
}

fn given_back(response: &SqsBatchResponse) -> Vec<&str> {
    let failures = response.batch_item_failures.iter();
    failures
        .map(|failure| failure.item_identifier.as_str())
        .collect()
}

/// What the event source does with the handler's answer: deletes all but the failures.
fn acknowledge(state: &mut State, messages: &[Message<Body>], response: &SqsBatchResponse) {
    let failed = given_back(response);
    for message in messages {
        if failed.contains(&message.id.to_string().as_str()) {
            continue;
        }
        if let Some(queued) = &message.body.queued {
            state.book.acknowledged(&state.tables, queued);
        }
        let chance = state.rates.lost_acknowledgement;
        if !state.happens(chance) {
            state
                .claims
                .delete(message.id, message.receives, &mut state.rng);
        }
    }
}

/// Receives from DeliveriesQueue and BroadcastQueue and posts, environment after environment.
pub(crate) async fn post(world: Arc<World>, index: usize) {
    for generation in 0.. {
        let ports = environment(&world, &format!("poster-{index}"), generation);
        let engine = PostEngine::new(ports.clone(), POSTS_PER_SECOND);
        loop {
            let job = world.with(|state| receive_job(state, world.millis()));
            let Some(job) = job else {
                let next = |state: &State| {
                    let both = [
                        state.deliveries.next_visible(),
                        state.broadcasts.next_visible(),
                    ];
                    both.into_iter().flatten().min()
                };
                if wait(&world, next).await {
                    continue;
                }
                return;
            };
            let deadline = Instant::now() + BROADCAST_DEADLINE;
            let poster = Poster::new(&engine, &ports, &ports, deadline);
            let done = invoke(&ports, BROADCAST_TIMEOUT, carry_out(&ports, &poster, &job)).await;
            match done {
                None => break,
                Some(Ok(())) => world.with(|state| delete_job(state, &job)),
                Some(Err(error)) => ports.note(|| format!("job comes again: {error}")),
            }
        }
    }
}

enum Job {
    Delivery(Message<DeliveryJob>),
    Broadcast(Message<BroadcastJob>),
}

fn receive_job(state: &mut State, now: u64) -> Option<Job> {
    let State {
        deliveries,
        broadcasts,
        rng,
        rates,
        stats,
        ..
    } = state;
    let delivery = deliveries.receive(now, 1, rng, rates, stats).into_iter();
    if let Some(message) = delivery.map(Job::Delivery).next() {
        return Some(message);
    }
    let broadcast = broadcasts.receive(now, 1, rng, rates, stats).into_iter();
    broadcast.map(Job::Broadcast).next()
}

fn delete_job(state: &mut State, job: &Job) {
    let rng = &mut state.rng;
    match job {
        Job::Delivery(message) => state.deliveries.delete(message.id, message.receives, rng),
        Job::Broadcast(message) => state.broadcasts.delete(message.id, message.receives, rng),
    };
}

async fn carry_out(
    ports: &Ports,
    poster: &Poster<'_, Ports, Ports, Ports>,
    job: &Job,
) -> Result<(), JobError> {
    let posted = match job {
        Job::Delivery(message) => match message.body.clone() {
            DeliveryJob::Deliver {
                answers,
                generation,
            } => deliver_answers(poster, ports, answers, generation).await,
            DeliveryJob::Snapshot {
                connection_id,
                campaign,
                generation,
            } => {
                let of = (connection_id, campaign);
                deliver_snapshot(poster, ports, ports, of, generation).await
            }
        },
        Job::Broadcast(message) => match message.body.clone() {
            BroadcastJob::Announce(announcement) => {
                let now = ports.now();
                return announce(ports, ports, ports, announcement, now)
                    .await
                    .map(drop);
            }
            BroadcastJob::Page(page) => post_page(poster, ports, ports, page).await,
            BroadcastJob::Stock(stock) => post_stock(poster, ports, ports, stock).await,
        },
    };
    posted.map(drop)
}

/// Runs the minute's round again and again.
pub(crate) async fn keep_fresh(world: Arc<World>) {
    for generation in 0.. {
        let pause = world.with(|state| millis(&mut state.rng, 0..=5000));
        sleep(pause).await;
        let ports = skewed_environment(&world, "refresher", generation, CLOSER_SKEW_MILLIS);
        let round = invoke(&ports, CALL_TIMEOUT, refresh(&ports, &ports, &ports)).await;
        if let Some(Ok(round)) = round {
            world.with(|state| {
                state.rounds += 1;
                state.stats.finished += round.finished as u64;
                state.book.drifted(round.drifted);
            });
        }
        sleep(REFRESH_EVERY).await;
    }
}

/// Closes a campaign as the API does, and again, up to so many times, for as long as no answer comes. With `within`, a closing
/// must be answered in so many milliseconds at the first try.
pub(crate) async fn close(world: Arc<World>, id: CampaignId, tries: u32, within: Option<u64>) {
    for generation in 0..tries {
        let ports = skewed_environment(&world, "closer", generation, CLOSER_SKEW_MILLIS);
        let began = world.millis();
        let closing = async {
            let found = ports.find(&id).await?;
            let campaign = found.ok_or_else(|| PortError::reject("close", "no campaign"))?;
            close_campaign(&ports, &campaign, &ports, CLOSING_PATIENCE).await
        };
        let closed = invoke(&ports, CALL_TIMEOUT, closing).await;
        ports.note(|| format!("closing of {id}: {closed:?}"));
        let took = world.millis() - began;
        let answered = world.with(|state| {
            let answered = closed.and_then(Result::ok);
            match (answered, within) {
                (Some(at), _) => {
                    state.stats.closings += 1;
                    state.stats.in_the_rush += u64::from(is_in_a_rush(state, &id));
                    let record = state
                        .tables
                        .offers
                        .get(&id)
                        .and_then(|o| o.record.truth.as_ref());
                    let unopened = record.is_some_and(|record| at < record.opens_at);
                    state.stats.unopened += u64::from(unopened);
                    state.book.closing_answered(&state.tables, &id, at);
                    let most = within.unwrap_or(u64::MAX);
                    state.book.closing_took(&id, took, most);
                }
                (None, Some(_)) => state.book.stuck(format!("{id} could not be closed")),
                (None, None) => {
                    let half_closed = state.tables.offers.get(&id);
                    let half_closed = half_closed.is_some_and(Offer::is_half_closed);
                    state.stats.broken_off += u64::from(half_closed);
                }
            }
            answered.is_some()
        });
        if answered {
            break;
        }
        let pause = world.with(|state| millis(&mut state.rng, 0..=3000));
        sleep(pause).await;
    }
    world.with(|state| state.closers -= 1);
}

/// Whether claims are waiting, some coupons of the campaign have gone and some are left.
fn is_in_a_rush(state: &State, id: &CampaignId) -> bool {
    let offer = state.tables.offers.get(id);
    let left = offer.is_some_and(|offer| offer.counters().any(|counter| counter.remaining > 0));
    let gone = offer.is_some_and(|offer| offer.counters().any(|counter| counter.issued > 0));
    left && gone && !state.claims.is_empty()
}

/// What a client sends through a door.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) caller: Caller,
    pub(crate) ask: Ask,
}

/// The frame's content.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Without a claim's id, the door mints one.
    Claim(CampaignId, Option<ClaimId>),
    Result(CampaignId, ClaimId),
    Subscribe(CampaignId),
}

impl Ask {
    fn text(&self) -> String {
        let (action, campaign, claim) = match self {
            Self::Claim(campaign, claim) => ("claim", campaign, claim.as_ref()),
            Self::Result(campaign, claim) => ("result", campaign, Some(claim)),
            Self::Subscribe(campaign) => ("subscribe", campaign, None),
        };
        serde_json::json!({
            "action": action,
            "campaignId": campaign.as_str(),
            "claimId": claim.map(ClaimId::as_str),
        })
        .to_string()
    }
}

type Door = Gate<Ports, Ports, Ports, Ports, Ports, Ports, Ports, Ports>;

fn door(ports: &Ports) -> Door {
    Gate {
        directory: CampaignDirectory::new(ports.clone(), ports.clone(), DIRECTORY_FRESHNESS),
        records: ports.clone(),
        coupons: ports.clone(),
        claims: ports.clone(),
        subscriptions: ports.clone(),
        deliveries: ports.clone(),
        clock: ports.clone(),
        entropy: ports.clone(),
    }
}

/// Answers frames one after the other, environment after environment. Whoever's frame dies with one hears nothing.
pub(crate) async fn open_door(
    world: Arc<World>,
    index: usize,
    mut frames: UnboundedReceiver<Question>,
) {
    for generation in 0.. {
        let ports = environment(&world, &format!("door-{index}"), generation);
        let door = door(&ports);
        loop {
            let Some(question) = frames.recv().await else {
                return;
            };
            if answer(&ports, &door, &question).await.is_none() {
                break;
            }
        }
    }
}

/// Has a door answer one question, and shows the checker.
async fn answer(ports: &Ports, door: &Door, question: &Question) -> Option<ServerFrame> {
    let asked_at = ports.now();
    let text = question.ask.text();
    let answered = door.respond(&question.caller, &text);
    let frame = invoke(ports, CALL_TIMEOUT, answered).await?;
    ports.note(|| {
        format!(
            "{:?} of {} reads {:?}",
            question.ask, question.caller.user_id, frame.body
        )
    });
    let place = Place::Door(asked_at, ports.now());
    let key = |campaign: &CampaignId, claim: &ClaimId| -> ClaimKey {
        let Caller {
            partner_id,
            user_id,
            ..
        } = &question.caller;
        (
            partner_id.clone(),
            campaign.clone(),
            user_id.clone(),
            claim.clone(),
        )
    };
    ports
        .world
        .with(|state| match (&frame.body, &question.ask) {
            (
                FrameBody::ClaimAccepted { campaign_id, .. }
                | FrameBody::Subscribed { campaign_id },
                _,
            ) => {
                let partner = &question.caller.partner_id;
                state.book.let_in(&state.tables, partner, campaign_id);
            }
            (
                FrameBody::ClaimResult {
                    claim_id: Some(claim_id),
                    campaign_id,
                    outcome,
                    coupon,
                },
                _,
            ) => {
                let given = Answer {
                    key: key(campaign_id, claim_id),
                    outcome: *outcome,
                    code: coupon.as_ref().map(|coupon| coupon.code.clone()),
                    place,
                    began: ports.began(),
                    is_frame: matches!(question.ask, Ask::Claim(..)),
                };
                state.book.answered(&state.tables, &given);
            }
            (FrameBody::ClaimUndecided { .. }, Ask::Result(campaign, claim)) => {
                let key = key(campaign, claim);
                state.book.let_in(&state.tables, &key.0, campaign);
                state.book.undecided(&state.tables, &key, ports.began());
            }
            _ => {}
        });
    Some(frame)
}

/// At rest, asks every claim's answer again: nothing may have been forgotten.
pub(crate) async fn ask_again(world: &Arc<World>, questions: Vec<Question>) {
    let ports = Ports::new(world, "last door".into(), 0);
    let door = door(&ports);
    for question in questions {
        let Some(frame) = answer(&ports, &door, &question).await else {
            continue;
        };
        if let (FrameBody::ClaimUndecided { .. }, Ask::Result(campaign, claim)) =
            (&frame.body, &question.ask)
        {
            let Caller {
                partner_id,
                user_id,
                ..
            } = &question.caller;
            let key = (
                partner_id.clone(),
                campaign.clone(),
                user_id.clone(),
                claim.clone(),
            );
            world.with(|state| state.book.forgotten(&key));
        }
    }
}
