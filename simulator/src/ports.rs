//! The product's ports over the world, as one execution environment sees them: each call can be slow, refused, lost on
//! either way, and the last one its caller ever makes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use firstcome_core::{
    Announcement, AnnouncementRecords, Audience, BroadcastId, BroadcastJob, BroadcastOutbox,
    Campaign, CampaignClosing, CampaignId, CampaignIndex, CampaignRecords, Chunk, ChunkOutcome,
    Claim, ClaimMessage, ClaimOutbox, ClaimReturns, Clock, Confirmation, Connection, ConnectionId,
    Coupon, CouponLedger, DeliveryJob, DeliveryOutbox, DeliveryRetries, Entropy,
    FIRST_PACE_SECONDS, FanOut, FanOutRecords, Forgetting, FrameBody, Freeze, LiveCampaigns, Mark,
    Member, MemberPage, PageProgress, PageStep, PartnerId, PortError, Publication, PushOutcome,
    Pusher, ServerFrame, Snapshot, SnapshotStore, Snapshots, SoldMarks, StandingCoupons,
    StepOutcome, StockCounters, StockShard, StockTicks, Subscription, Subscriptions, Timestamp,
    Topic, UserId, membership_shard,
};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use crate::Broken;
use crate::book::{Answer, ClaimKey, Place, Queued};
use crate::fault::{ATTEMPT_TIMEOUT, millis};
use crate::tables::{Begun, Item, Target};
use crate::world::{Body, State, World};

/// Calls left to an environment that will not die.
const IMMORTAL: u32 = u32::MAX;

/// One execution environment: whose clock it has, and when it dies.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) name: String,
    skew_millis: i64,
    calls_left: AtomicU32,
    /// It has died: its future is to be dropped.
    pub(crate) died: Notify,
    /// When its present invocation began, in virtual milliseconds.
    began: AtomicU64,
}

/// The ports of one environment; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    pub(crate) world: Arc<World>,
    pub(crate) environment: Arc<Environment>,
}

impl Ports {
    pub(crate) fn new(world: &Arc<World>, name: String, skew_millis: i64) -> Self {
        let environment = Environment {
            name,
            skew_millis,
            calls_left: AtomicU32::new(IMMORTAL),
            died: Notify::new(),
            began: AtomicU64::new(0),
        };
        Self {
            world: Arc::clone(world),
            environment: Arc::new(environment),
        }
    }

    /// An invocation begins; perhaps its last.
    pub(crate) fn begin(&self) {
        let now = self.world.millis();
        self.environment.began.store(now, Ordering::Relaxed);
        let left = self.world.with(|state| {
            let chance = state.rates.crash;
            if state.happens(chance) {
                state.rng.u32(1..=14)
            } else {
                IMMORTAL
            }
        });
        self.environment.calls_left.store(left, Ordering::Relaxed);
    }

    pub(crate) fn began(&self) -> u64 {
        self.environment.began.load(Ordering::Relaxed)
    }

    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        self.world.note(&self.environment.name, what);
    }

    /// A point between two calls, or within one, at which the environment may die.
    async fn step(&self) {
        self.world.with(|state| state.stats.steps += 1);
        let left = self.environment.calls_left.load(Ordering::Relaxed);
        if left == IMMORTAL {
            return;
        }
        self.environment
            .calls_left
            .store(left.saturating_sub(1), Ordering::Relaxed);
        if left <= 1 {
            self.environment.died.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// The way there.
    async fn request(&self, operation: &'static str) -> Result<(), PortError> {
        self.step().await;
        let (latency, throttled, lost) = self.world.with(|state| {
            let rates = state.rates;
            let throttled = state.happens(rates.throttle / 4);
            state.stats.throttles += u64::from(throttled);
            (
                state.latency(),
                throttled,
                state.happens(rates.lost_request / 4),
            )
        });
        sleep(latency).await;
        if throttled {
            self.note(|| format!("{operation}: throttled"));
            return Err(PortError::retry(operation, "throttled"));
        }
        if lost {
            self.note(|| format!("{operation}: lost on the way"));
            sleep(ATTEMPT_TIMEOUT).await;
            return Err(PortError::retry(operation, "timed out"));
        }
        Ok(())
    }

    /// The way back.
    async fn respond<T>(&self, operation: &'static str, value: T) -> Result<T, PortError> {
        let (latency, lost) = self.world.with(|state| {
            let chance = state.rates.lost_response / 4;
            let lost = state.happens(chance);
            state.stats.lost_responses += u64::from(lost);
            (state.latency(), lost)
        });
        sleep(latency).await;
        self.step().await;
        if lost {
            self.note(|| format!("{operation}: response lost"));
            return Err(PortError::retry(operation, "response lost"));
        }
        Ok(value)
    }

    /// A call that happens at one instant.
    async fn call<T>(
        &self,
        operation: &'static str,
        act: impl FnOnce(&mut State) -> T,
    ) -> Result<T, PortError> {
        self.request(operation).await?;
        let value = self.world.with(act);
        self.respond(operation, value).await
    }
}

impl Ports {
    /// A write of one item. It may arrive long after its caller gave up, or died.
    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        act: impl FnOnce(&mut State, u64) -> T + Send + 'static,
    ) -> Result<T, PortError> {
        let late = self.world.with(|state| {
            let chance = state.rates.late / 4;
            let late = state.happens(chance).then(|| {
                let latest = [1000, 3000, 8000, 20_000][state.rng.usize(0..4)];
                millis(&mut state.rng, 300..=latest)
            });
            state.in_flight += u32::from(late.is_some());
            late
        });
        let Some(late) = late else {
            let now = || self.world.millis();
            return self.call(operation, |state| act(state, now())).await;
        };
        let world = Arc::clone(&self.world);
        tokio::spawn(async move {
            sleep(late).await;
            let at = world.millis();
            world.note("tables", || format!("{operation}: late"));
            world.with(|state| {
                state.in_flight -= 1;
                act(state, at);
            });
        });
        self.step().await;
        sleep(ATTEMPT_TIMEOUT).await;
        self.step().await;
        Err(PortError::retry(operation, "timed out"))
    }
}

impl Clock for Ports {
    fn now(&self) -> Timestamp {
        let true_time = self.world.now().millis();
        Timestamp::from_millis(true_time + self.environment.skew_millis)
    }
}

impl Entropy for Ports {
    fn bits(&self) -> u128 {
        self.world.with(|state| state.rng.u128(..))
    }
}

impl CampaignRecords for Ports {
    async fn find(&self, id: &CampaignId) -> Result<Option<Campaign>, PortError> {
        self.call("read the campaign", |state| {
            state.tables.offers.get(id)?.record.seen.clone()
        })
        .await
    }
}

impl StockCounters for Ports {
    async fn stock(
        &self,
        campaign: &CampaignId,
        shards: &[u16],
    ) -> Result<Vec<StockShard>, PortError> {
        const OPERATION: &str = "read the stock";
        self.request(OPERATION).await?;
        let mut found = Vec::with_capacity(shards.len());
        // What a batch leaves unprocessed is read later: each part at its own instant.
        for part in halves(shards) {
            let pause = self.world.with(|state| {
                let one = |shard: &u16| state.tables.stock(campaign, *shard);
                found.extend(part.iter().filter_map(one));
                state.latency()
            });
            sleep(pause).await;
        }
        self.note(|| format!("{OPERATION}: {found:?}"));
        self.respond(OPERATION, found).await
    }
}

fn halves<T>(all: &[T]) -> impl Iterator<Item = &[T]> {
    let (first, second) = all.split_at(all.len() / 2);
    [first, second].into_iter().filter(|part| !part.is_empty())
}

impl StandingCoupons for Ports {
    async fn coupon(
        &self,
        partner: &PartnerId,
        user: &UserId,
        campaign: &CampaignId,
    ) -> Result<Option<Coupon>, PortError> {
        const OPERATION: &str = "read the coupon";
        let key = (partner.clone(), user.clone(), campaign.clone());
        self.request(OPERATION).await?;
        let (item, plainly) = self.world.with(|state| {
            let item = state.tables.coupons.get(&key).cloned().unwrap_or_default();
            let plainly = state.tables.broken == Some(Broken::PlainReadAtTheDoor);
            if plainly {
                count_half(&item, state);
            }
            state.stats.conflicts += u64::from(item.locked);
            state.stats.real_conflicts += u64::from(item.locked);
            (item, plainly)
        });
        self.note(|| format!("{OPERATION}: {:?}", item.seen));
        if item.locked && !plainly {
            return Err(PortError::retry(OPERATION, "it is being written"));
        }
        self.respond(OPERATION, item.seen).await
    }
}

fn count_half(item: &Item<Coupon>, state: &mut State) {
    state.stats.half_reads += u64::from(item.locked && item.seen.is_none());
}

impl CouponLedger for Ports {
    async fn standing(
        &self,
        campaign: &Campaign,
        users: &[UserId],
    ) -> Result<HashMap<UserId, Coupon>, PortError> {
        const OPERATION: &str = "read the coupons";
        self.request(OPERATION).await?;
        let mut found = HashMap::new();
        for part in halves(users) {
            let pause = self.world.with(|state| {
                for user in part {
                    let key = coupon_key(campaign, user);
                    let Some(item) = state.tables.coupons.get(&key).cloned() else {
                        continue;
                    };
                    count_half(&item, state);
                    found.extend(item.seen.map(|coupon| (user.clone(), coupon)));
                }
                state.latency()
            });
            sleep(pause).await;
        }
        self.note(|| format!("{OPERATION}: {} of {}", found.len(), users.len()));
        self.respond(OPERATION, found).await
    }

    async fn issue(&self, chunk: &Chunk) -> Result<ChunkOutcome, PortError> {
        self.step().await;
        let (answer, response) = oneshot::channel();
        let way = self.world.with(Way::draw);
        let (world, name) = (Arc::clone(&self.world), self.environment.name.clone());
        tokio::spawn(serve(world, name, chunk.clone(), way, answer));
        // Here the environment may die with its request on the way.
        self.step().await;
        let outcome = match timeout(ATTEMPT_TIMEOUT, response).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_lost)) => ChunkOutcome::Unknown,
            Err(_elapsed) => ChunkOutcome::Unknown,
        };
        self.note(|| format!("issue from shard {}: {}", chunk.shard, short(&outcome)));
        self.step().await;
        Ok(outcome)
    }

    async fn confirm(
        &self,
        campaign: &Campaign,
        users: &[UserId],
    ) -> Result<Confirmation, PortError> {
        self.call("confirm the coupons", |state| {
            let chance = state.rates.conflict;
            let storm = state.happens(chance);
            let keys = users.iter().map(|user| (user, coupon_key(campaign, user)));
            let items: Vec<_> = keys
                .filter_map(|(user, key)| Some((user, state.tables.coupons.get(&key)?)))
                .collect();
            let locked = items.iter().any(|(_, item)| item.locked);
            if locked || storm {
                state.stats.conflicts += 1;
                state.stats.real_conflicts += u64::from(locked);
                return Confirmation::Busy;
            }
            let standing =
                |(user, item): (&UserId, &Item<Coupon>)| Some((user.clone(), item.truth.clone()?));
            Confirmation::Standing(items.into_iter().filter_map(standing).collect())
        })
        .await
    }
}

fn coupon_key(campaign: &Campaign, user: &UserId) -> crate::tables::CouponKey {
    (
        campaign.partner_id.clone(),
        user.clone(),
        campaign.campaign_id.clone(),
    )
}

fn short(outcome: &ChunkOutcome) -> String {
    match outcome {
        ChunkOutcome::Cancelled { stock, coupons } => {
            let named = |reason: &firstcome_core::CouponReason| match reason {
                firstcome_core::CouponReason::Stands(coupon) => {
                    format!("stands {}", coupon.user_id)
                }
                other => format!("{other:?}"),
            };
            let coupons: Vec<String> = coupons.iter().map(named).collect();
            format!("cancelled, stock {stock:?}, coupons {coupons:?}")
        }
        other => format!("{other:?}"),
    }
}

/// What happens to a transaction on its way.
struct Way {
    there: std::time::Duration,
    arrives: bool,
    throttled: bool,
    answered: bool,
    slow: bool,
}

impl Way {
    fn draw(state: &mut State) -> Self {
        let rates = state.rates;
        let late = state.happens(rates.late);
        let way = Self {
            there: if late {
                let latest = [1000, 3000, 8000, 20_000][state.rng.usize(0..4)];
                millis(&mut state.rng, 300..=latest)
            } else {
                state.latency()
            },
            arrives: !state.happens(rates.lost_request),
            throttled: state.happens(rates.throttle),
            answered: !state.happens(rates.lost_response),
            slow: state.happens(rates.slow_apply),
        };
        state.in_flight += 1;
        way
    }
}

/// The far side of `TransactWriteItems`: goes on whatever becomes of the caller.
async fn serve(
    world: Arc<World>,
    name: String,
    chunk: Chunk,
    way: Way,
    answer: oneshot::Sender<ChunkOutcome>,
) {
    sleep(way.there).await;
    let outcome = transact(&world, &name, &chunk, &way, &answer).await;
    world.with(|state| state.in_flight -= 1);
    let Some(outcome) = outcome else {
        return;
    };
    if way.answered {
        let latency = world.with(State::latency);
        sleep(latency).await;
        // A caller that has gone needs no answer.
        let _gone = answer.send(outcome);
    } else {
        world.with(|state| state.stats.lost_responses += 1);
    }
}

async fn transact(
    world: &World,
    name: &str,
    chunk: &Chunk,
    way: &Way,
    answer: &oneshot::Sender<ChunkOutcome>,
) -> Option<ChunkOutcome> {
    if !way.arrives {
        return None;
    }
    if way.throttled {
        world.with(|state| state.stats.throttles += 1);
        return Some(ChunkOutcome::Throttled);
    }
    let mut targets = match world.with(|state| begin(state, chunk, answer.is_closed())) {
        Begun::Answered(outcome) => return Some(outcome),
        Begun::Decided(targets) => targets,
    };
    world.note("tables", || {
        let users: Vec<_> = chunk.coupons.iter().map(|c| c.user_id.as_str()).collect();
        format!("{name}'s chunk decided: shard {}, {users:?}", chunk.shard)
    });
    world.with(|state| state.rng.shuffle(&mut targets));
    show(world, &targets, way.slow).await;
    world.with(|state| state.tables.finish(chunk.attempt));
    Some(ChunkOutcome::Issued)
}

fn begin(state: &mut State, chunk: &Chunk, is_orphan: bool) -> Begun {
    let State {
        rng,
        rates,
        stats,
        tables,
        book,
        ..
    } = state;
    let keys = chunk.coupons.iter().map(crate::tables::key);
    let overwritten: Vec<Coupon> = keys
        .filter_map(|key| tables.coupons.get(&key)?.truth.clone())
        .collect();
    let counter = tables
        .offers
        .get(&chunk.campaign.campaign_id)
        .and_then(|offer| offer.shards.get(usize::from(chunk.shard)))
        .and_then(|item| item.truth);
    let begun = tables.begin(chunk, rng, rates, stats);
    if let Begun::Decided(_) = &begun {
        stats.zombies += u64::from(is_orphan);
        let offer = tables.offers.get(&chunk.campaign.campaign_id);
        let is_frozen = |counter: &crate::tables::Counter| counter.closed_at.is_some();
        if offer.is_some_and(|offer| offer.counters().any(is_frozen)) {
            stats.beside_frozen += chunk.coupons.len() as u64;
        }
        book.decided(tables, &chunk.coupons, &overwritten, counter, chunk.shard);
    }
    begun
}

/// Makes a decided transaction visible, item by item.
async fn show(world: &World, targets: &[Target], slow: bool) {
    for target in targets {
        let pause = world.with(|state| {
            let range = if slow { 0..=2500 } else { 0..=4 };
            millis(&mut state.rng, range)
        });
        sleep(pause).await;
        let now = world.millis();
        world.with(|state| state.tables.show(target, now));
        world.note("tables", || format!("visible: {target:?}"));
    }
}

impl CampaignClosing for Ports {
    async fn begin_closing(&self, id: &CampaignId, now: Timestamp) -> Result<(), PortError> {
        const OPERATION: &str = "note that the campaign is being closed";
        let of = id.clone();
        let noted = self.write(OPERATION, move |state, at| {
            state.tables.begin_closing(&of, now, at)
        });
        noted.await?.ok_or_else(|| missing(OPERATION))
    }

    async fn freeze(
        &self,
        id: &CampaignId,
        shard: u16,
        now: Timestamp,
    ) -> Result<Freeze, PortError> {
        const OPERATION: &str = "freeze a stock shard";
        let of = id.clone();
        let froze = self.write(OPERATION, move |state, at| {
            let State {
                tables,
                rng,
                rates,
                stats,
                ..
            } = state;
            tables.freeze(&of, shard, (now, at), (rng, rates, stats))
        });
        let froze = froze.await?.ok_or_else(|| missing(OPERATION))?;
        self.note(|| format!("{OPERATION} {shard}: {froze:?}"));
        Ok(froze)
    }

    async fn end_closing(&self, id: &CampaignId, now: Timestamp) -> Result<Timestamp, PortError> {
        const OPERATION: &str = "close the campaign's record";
        let of = id.clone();
        let closed = self.write(OPERATION, move |state, at| {
            let closed_at = state.tables.end_closing(&of, now, at);
            state.book.record_closed(&state.tables, &of);
            closed_at
        });
        closed.await?.ok_or_else(|| missing(OPERATION))
    }
}

fn missing(operation: &'static str) -> PortError {
    PortError::reject(operation, "there is no such item")
}

impl SoldMarks for Ports {
    async fn mark_sold(&self, campaign: &Campaign) -> Result<Mark, PortError> {
        let id = &campaign.campaign_id;
        self.note(|| format!("mark {id} sold out"));
        self.call("mark the campaign sold out", |state| {
            state.book.marked_sold(&state.tables, id);
            state.tables.mark_sold(id)
        })
        .await
    }

    async fn is_sold(&self, campaign: &CampaignId) -> Result<bool, PortError> {
        self.call("read the sold mark", |state| {
            state.tables.offers.get(campaign).is_some_and(|o| o.sold)
        })
        .await
    }
}

impl StockTicks for Ports {
    async fn mark(
        &self,
        campaign: &CampaignId,
        now: Timestamp,
        stale_after_seconds: i64,
    ) -> Result<Option<u16>, PortError> {
        self.call("mark the stock tick", |state| {
            let offer = state.tables.offers.get_mut(campaign)?;
            if offer.tick.is_some_and(|until| now <= until) {
                return None;
            }
            let stale = stale_after_seconds + i64::from(offer.pace);
            offer.tick = Some(now.plus_seconds(stale));
            Some(offer.pace)
        })
        .await
    }

    async fn clear(&self, campaign: &CampaignId) -> Result<u16, PortError> {
        self.call("clear the stock tick", |state| {
            let offer = state.tables.offers.get_mut(campaign);
            offer.map_or(FIRST_PACE_SECONDS, |offer| {
                offer.tick = None;
                offer.pace
            })
        })
        .await
    }

    async fn set_pace(
        &self,
        campaign: &CampaignId,
        seconds: u16,
        _now: Timestamp,
    ) -> Result<(), PortError> {
        self.call("set the stock's pace", |state| {
            if let Some(offer) = state.tables.offers.get_mut(campaign) {
                offer.pace = seconds;
            }
        })
        .await
    }
}

impl ClaimOutbox for Ports {
    async fn enqueue(&self, claim: &Claim, _: &Campaign) -> Result<(), PortError> {
        const OPERATION: &str = "send the claim";
        let text = serde_json::to_string(&ClaimMessage::from(claim))
            .map_err(|error| PortError::reject(OPERATION, error))?;
        self.request(OPERATION).await?;
        queue_claim(&self.world, text, claim);
        self.respond(OPERATION, ()).await
    }
}

/// How far ahead of the queue's a claim's time may be, in milliseconds.
const AHEAD_MILLIS: i64 = 60_000;

/// Puts a claim into ClaimsQueue. The checker judges it by the earlier one of the time it states and the queue's.
pub(crate) fn queue_claim(world: &World, text: String, claim: &Claim) {
    let sent_at = world.now();
    let queued = Queued {
        key: (
            claim.partner_id.clone(),
            claim.campaign_id.clone(),
            claim.user_id.clone(),
            claim.claim_id.clone(),
        ),
        own_time: claim.requested_at.min(sent_at),
        is_from_the_future: claim.requested_at.millis_since(sent_at) > AHEAD_MILLIS,
        connection_id: claim.connection_id.clone(),
    };
    let now = world.millis();
    world.with(|state| {
        state.stats.claims += 1;
        state.stats.ahead += u64::from(claim.requested_at > sent_at);
        state.book.queued(&queued);
        let body = Body {
            text,
            queued: Some(queued),
        };
        state.claims.send(body, now, 0)
    });
    world.changed.notify_waiters();
}

impl DeliveryOutbox for Ports {
    async fn deliver(&self, job: &DeliveryJob) -> Result<(), PortError> {
        const OPERATION: &str = "send the answers";
        self.request(OPERATION).await?;
        let (now, began) = (self.world.millis(), self.began());
        self.world.with(|state| {
            if let DeliveryJob::Deliver { answers, .. } = job {
                let frames = answers
                    .iter()
                    .map(|answer| (&answer.connection_id, &answer.frame));
                frames.for_each(|(socket, frame)| self.write_down(state, socket, frame, began));
            }
            state.deliveries.send(job.clone(), now, 0)
        });
        self.world.changed.notify_waiters();
        self.respond(OPERATION, ()).await
    }
}

impl DeliveryRetries for Ports {
    async fn deliver_later(&self, job: &DeliveryJob, delay_seconds: u16) -> Result<(), PortError> {
        const OPERATION: &str = "send the rest of the answers";
        self.request(OPERATION).await?;
        let (now, delay) = (self.world.millis(), u64::from(delay_seconds) * 1000);
        self.world.with(|state| {
            state.stats.sent_on += 1;
            state.deliveries.send(job.clone(), now, delay)
        });
        self.world.changed.notify_waiters();
        self.respond(OPERATION, ()).await
    }
}

impl Ports {
    /// Shows the checker an answer that is durable from now on.
    fn write_down(
        &self,
        state: &mut State,
        socket: &ConnectionId,
        frame: &ServerFrame,
        began: u64,
    ) {
        let Some((key, outcome, code)) = claim_result(state, socket, frame) else {
            return;
        };
        let answer = Answer {
            key,
            outcome,
            code,
            place: Place::Worker,
            began,
            is_frame: false,
        };
        state.book.answered(&state.tables, &answer);
        state.book.addressed(&answer.key, socket);
    }
}

type Said = (ClaimKey, firstcome_core::Outcome, Option<String>);

/// What a frame for this socket says of a claim, if it does.
pub(crate) fn claim_result(
    state: &State,
    socket: &ConnectionId,
    frame: &ServerFrame,
) -> Option<Said> {
    let (partner, user) = state.book.owner(socket)?.clone();
    match &frame.body {
        FrameBody::ClaimResult {
            claim_id: Some(claim_id),
            campaign_id,
            outcome,
            coupon,
        } => Some((
            (partner, campaign_id.clone(), user, claim_id.clone()),
            *outcome,
            coupon.as_ref().map(|coupon| coupon.code.clone()),
        )),
        _ => None,
    }
}

impl BroadcastOutbox for Ports {
    async fn send(&self, jobs: &[(BroadcastJob, u16)]) -> Result<(), PortError> {
        const OPERATION: &str = "send the broadcast jobs";
        self.request(OPERATION).await?;
        let now = self.world.millis();
        self.world.with(|state| {
            for (job, delay) in jobs {
                state
                    .broadcasts
                    .send(job.clone(), now, u64::from(*delay) * 1000);
            }
        });
        self.world.changed.notify_waiters();
        self.respond(OPERATION, ()).await
    }
}

/// The receipt of a message received for the n-th time.
pub(crate) fn receipt(id: u32, receives: u32) -> String {
    format!("{id}#{receives}")
}

impl ClaimReturns for Ports {
    async fn come_back(&self, _: &str, returns: &[(String, u16)]) -> Result<(), PortError> {
        const OPERATION: &str = "set when claims come back";
        self.request(OPERATION).await?;
        let now = self.world.millis();
        self.world.with(|state| {
            for (receipt, seconds) in returns {
                let id = receipt.split('#').next().and_then(|id| id.parse().ok());
                if let Some(id) = id {
                    state.claims.come_back(id, now, u64::from(*seconds) * 1000);
                }
            }
        });
        self.world.changed.notify_waiters();
        self.respond(OPERATION, ()).await
    }
}

impl Snapshots for Ports {
    async fn index(&self) -> Result<CampaignIndex, PortError> {
        self.call("read the snapshot", |state| {
            let sold = state.tables.offers.iter().filter(|(_, offer)| offer.sold);
            let sold = sold.map(|(id, _)| id.clone()).collect();
            CampaignIndex::new(state.snapshot.clone(), sold)
        })
        .await
    }
}

impl LiveCampaigns for Ports {
    async fn live(&self) -> Result<Vec<Campaign>, PortError> {
        self.call("read the live campaigns", |state| {
            let offers = state.tables.offers.values();
            offers
                .filter_map(|offer| offer.record.seen.clone())
                .collect()
        })
        .await
    }

    async fn sold(&self) -> Result<HashSet<CampaignId>, PortError> {
        self.call("read the sold marks", |state| {
            let sold = state.tables.offers.iter().filter(|(_, offer)| offer.sold);
            sold.map(|(id, _)| id.clone()).collect()
        })
        .await
    }

    async fn retire(&self, _id: &CampaignId) -> Result<(), PortError> {
        // No run lasts a day.
        Ok(())
    }
}

impl SnapshotStore for Ports {
    async fn publish(&self, snapshot: &Snapshot) -> Result<Publication, PortError> {
        self.call("publish the snapshot", |state| {
            let standing = state.snapshot.as_ref();
            if standing.is_some_and(|standing| standing.version >= snapshot.version) {
                return Publication::Late;
            }
            state.snapshot = Some(snapshot.clone());
            Publication::Published
        })
        .await
    }
}

impl AnnouncementRecords for Ports {
    async fn fanned_out(&self, ids: &[BroadcastId]) -> Result<HashSet<BroadcastId>, PortError> {
        self.call("read the announcements", |state| {
            let is_out = |id: &&BroadcastId| {
                state.fan_outs.get(&State::fan_out_key(id)) == Some(&FanOut::Complete)
            };
            ids.iter().filter(is_out).cloned().collect()
        })
        .await
    }
}

impl FanOutRecords for Ports {
    async fn begin(
        &self,
        announcement: &Announcement,
        _now: Timestamp,
    ) -> Result<FanOut, PortError> {
        let key = State::fan_out_key(&announcement.broadcast_id);
        self.call("begin the announcement", |state| {
            *state.fan_outs.entry(key).or_insert(FanOut::Pending)
        })
        .await
    }

    async fn complete(&self, id: &BroadcastId) -> Result<(), PortError> {
        self.call("complete the announcement", |state| {
            state
                .fan_outs
                .insert(State::fan_out_key(id), FanOut::Complete);
        })
        .await
    }

    async fn progress(&self, id: &BroadcastId, shard: u16) -> Result<PageProgress, PortError> {
        let key = (State::fan_out_key(id), shard);
        self.call("read the page's progress", |state| {
            let page = state.pages.get(&key);
            page.map(|(progress, _)| progress.clone())
                .unwrap_or_default()
        })
        .await
    }

    async fn step(&self, step: &PageStep) -> Result<StepOutcome, PortError> {
        let key = (State::fan_out_key(&step.broadcast_id), step.shard);
        self.call("step the page", |state| {
            let (progress, run) = state.pages.entry(key).or_default();
            if progress.cursor == step.from {
                progress.cursor = step.to.clone();
                progress.done = step.done;
                *run = step.run;
                StepOutcome::Committed
            } else if progress.cursor == step.to && *run == step.run {
                StepOutcome::Committed
            } else {
                StepOutcome::Overtaken
            }
        })
        .await
    }
}

impl Subscriptions for Ports {
    async fn subscribe(
        &self,
        connection: &ConnectionId,
        topic: &Topic,
    ) -> Result<Subscription, PortError> {
        self.call("subscribe", |state| {
            let Some(record) = state.connections.get_mut(connection) else {
                return Subscription::Gone;
            };
            if !record.topics.contains(topic) {
                record.topics.push(topic.clone());
            }
            Subscription::Subscribed
        })
        .await
    }

    async fn unsubscribe(&self, connection: &ConnectionId, topic: &Topic) -> Result<(), PortError> {
        self.call("unsubscribe", |state| {
            if let Some(record) = state.connections.get_mut(connection) {
                record.topics.retain(|other| other != topic);
            }
        })
        .await
    }
}

impl Forgetting for Ports {
    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>, PortError> {
        self.call("read the connection", |state| {
            state.connections.get(id).cloned()
        })
        .await
    }

    async fn forget(&self, connections: &[Connection]) -> Result<(), PortError> {
        self.call("forget connections", |state| {
            for connection in connections {
                state.connections.remove(&connection.connection_id);
            }
        })
        .await
    }

    async fn forget_members(
        &self,
        topic: &Topic,
        members: &[ConnectionId],
    ) -> Result<(), PortError> {
        self.call("forget members", |state| {
            for member in members {
                if let Some(record) = state.connections.get_mut(member) {
                    record.topics.retain(|other| other != topic);
                }
            }
        })
        .await
    }
}

impl Audience for Ports {
    async fn members(
        &self,
        topic: &Topic,
        shard: u16,
        after: Option<&ConnectionId>,
        limit: u16,
    ) -> Result<MemberPage, PortError> {
        self.call("read the members", |state| {
            let follows = |id: &ConnectionId| after.is_none_or(|after| id > after);
            let mut members: Vec<Member> = state
                .connections
                .values()
                .filter(|record| record.topics.contains(topic))
                .filter(|record| membership_shard(&record.connection_id) == shard)
                .filter(|record| follows(&record.connection_id))
                .map(|record| Member {
                    connection_id: record.connection_id.clone(),
                    connected_at: record.connected_at,
                })
                .collect();
            let is_last = members.len() <= usize::from(limit);
            members.truncate(usize::from(limit));
            let next = members.last().filter(|_| !is_last);
            let next = next.map(|member| member.connection_id.clone());
            MemberPage { members, next }
        })
        .await
    }
}

impl Pusher for Ports {
    async fn push(&self, connection: &ConnectionId, payload: Arc<[u8]>) -> PushOutcome {
        self.step().await;
        let (latency, fails) = self.world.with(|state| {
            let chance = state.rates.push;
            (state.latency(), state.happens(chance))
        });
        sleep(latency).await;
        self.world.with(|state| {
            if state.book.is_closed(connection) {
                return PushOutcome::Gone;
            }
            let arrives = !fails || state.rng.bool();
            if arrives && let Ok(frame) = serde_json::from_slice(&payload) {
                receive(state, connection, &frame);
            }
            match (fails, state.rng.bool()) {
                (false, _) => PushOutcome::Delivered,
                (true, _) if arrives => PushOutcome::Failed,
                (true, true) => PushOutcome::Throttled,
                (true, false) => PushOutcome::Failed,
            }
        })
    }
}

/// A socket has this frame.
fn receive(state: &mut State, socket: &ConnectionId, frame: &ServerFrame) {
    if let Some((key, ..)) = claim_result(state, socket, frame) {
        state.book.reached(&key, socket);
    }
    match &frame.body {
        FrameBody::CampaignSoldOut { campaign_id } => {
            state.book.told_sold_out(&state.tables, campaign_id);
        }
        FrameBody::CampaignStock {
            campaign_id,
            issued,
            remaining,
        } => state
            .book
            .told_stock(&state.tables, campaign_id, *issued, *remaining),
        _ => {}
    }
}
