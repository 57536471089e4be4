//! The invariants, as statements about single states, and what every useful exploration must come across.

use stateright::{Model, Property};

use crate::config::{Sale, Time, has};
use crate::state::{Progress, Refusal, STOCK_ITEM, Said, State, Step};
use crate::step::{Action, users};

/// I1: at every instant, at most as many coupons as the stock was.
pub const NEVER_TOO_MANY: &str = "I1 never a coupon too many";
/// I2: no user is ever given a second coupon.
pub const ONE_PER_USER: &str = "I2 one coupon per user";
/// I3: when the queue is empty and nothing is under way, every message was answered.
pub const EVERYBODY_ANSWERED: &str = "I3 every claim is answered in the end";
/// I3: no coupon stands, or comes to stand, for a user who was refused.
pub const REFUSALS_HOLD: &str = "I3 whoever is refused holds no coupon";
/// I4: once `sold_out` was said, every shard is empty and stays so.
pub const SOLD_OUT_IS_TRUE: &str = "I4 sold_out only when every shard is empty";
/// I4: what a shard holds and what it paid for add up to its quota, transactions under way included.
pub const STOCK_IS_CONSERVED: &str = "I4 stock is conserved";
/// I5: no claim is told two binding things, nor a refusal after its coupon.
pub const ANSWERS_AGREE: &str = "I5 a claim is told one thing";
/// I6: an answered coupon stands, and is the one in the table.
pub const ANSWERS_ARE_DURABLE: &str = "I6 an answered coupon stands";

/// I3: a coupon is won inside the window, whatever time its claim states.
pub const NOT_BEFORE_THE_OPENING: &str = "I3 nobody wins before the opening";
/// I3: a claim that was sent in the window, and states no earlier time, is not refused by its time.
pub const IN_TIME_IS_IN_TIME: &str = "I3 no claim in time is refused by its time";
/// An early close: once it is answered, nothing is issued.
pub const CLOSED_IS_CLOSED: &str = "closing: nothing is issued after it";

/// Every invariant.
pub const INVARIANTS: [&str; 11] = [
    NEVER_TOO_MANY,
    ONE_PER_USER,
    EVERYBODY_ANSWERED,
    REFUSALS_HOLD,
    SOLD_OUT_IS_TRUE,
    STOCK_IS_CONSERVED,
    ANSWERS_AGREE,
    ANSWERS_ARE_DURABLE,
    NOT_BEFORE_THE_OPENING,
    IN_TIME_IS_IN_TIME,
    CLOSED_IS_CLOSED,
];

/// Reached by some path: a claim was told `issued`.
pub const ISSUED: &str = "issued is answered";
/// Reached: a claim was told `already_issued`.
pub const ALREADY_ISSUED: &str = "already_issued is answered";
/// Reached: a claim was told `sold_out`.
pub const SOLD_OUT: &str = "sold_out is answered";
/// Reached: a claim was told `closed` because of the early close.
pub const CLOSED: &str = "closed is answered";
/// Reached: a claim was refused by its own time.
pub const OUT_OF_TIME: &str = "a claim out of time is refused";
/// Reached: two messages with one claimId were answered, and the claim holds its coupon.
pub const REPLAYED: &str = "a replay is answered";
/// Reached: after all crashes, everything is answered.
pub const RECOVERED: &str = "all is answered after a crash";
/// Reached: a plain read would see half a transaction, while a worker is about to refuse its user.
pub const HALF_SEEN: &str = "a refusal meets half a transaction";
/// Reached: a request that nobody waits for is being applied.
pub const ZOMBIE: &str = "a zombie is applied";
/// Reached: two workers hold one message.
pub const HELD_TWICE: &str = "two workers hold one message";
/// Reached: one batch pays from two shards at once.
pub const TWO_SHARDS: &str = "a batch draws on two shards";
/// Reached: a shard is frozen while a transaction holds another one.
pub const FROZEN_BESIDE: &str = "a shard is frozen beside one that sells";
/// Reached: a closing waits because a transaction holds the shard that is to be frozen.
pub const FREEZE_WAITS: &str = "a freeze meets a transaction";
/// Reached: a transaction issues two coupons.
pub const TWO_BUYERS: &str = "a transaction issues two coupons";

impl Model for Sale {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.after(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(NEVER_TOO_MANY, |sale: &Sale, state: &State| {
                coupons(state) <= usize::from(sale.total())
            }),
            Property::always(ONE_PER_USER, |_, state: &State| {
                state.puts.iter().all(|puts| *puts <= 1)
            }),
            Property::always(EVERYBODY_ANSWERED, |sale: &Sale, state: &State| {
                !state.at_rest(sale) || everybody_answered(sale, state)
            }),
            Property::always(REFUSALS_HOLD, refusals_hold),
            Property::always(SOLD_OUT_IS_TRUE, |_, state: &State| {
                !told(state, |said| said == Said::Refused(Refusal::SoldOut))
                    || state.remaining.iter().all(|left| *left <= 0)
            }),
            Property::always(STOCK_IS_CONSERVED, stock_is_conserved),
            Property::always(ANSWERS_AGREE, |_, state: &State| !state.contradicted),
            Property::always(ANSWERS_ARE_DURABLE, |sale: &Sale, state: &State| {
                state.answers().all(|(claim, said)| match said {
                    Said::Holds(coupon) => sale
                        .user_of(claim)
                        .is_some_and(|user| state.coupons[user] == Some(coupon)),
                    _ => true,
                })
            }),
            Property::always(NOT_BEFORE_THE_OPENING, |_, state: &State| {
                !state.issued_early
            }),
            Property::always(IN_TIME_IS_IN_TIME, |sale: &Sale, state: &State| {
                state.answers().all(|(claim, said)| {
                    let mut messages = sale.messages.iter();
                    said != Said::OutOfTime
                        || messages.any(|message| {
                            usize::from(message.claim) == claim && message.own_time() != Time::Open
                        })
                })
            }),
            Property::always(CLOSED_IS_CLOSED, |_, state: &State| !state.issued_late),
        ];
        all.extend(
            reachable()
                .into_iter()
                .filter(|property| self.reaches.contains(&property.name)),
        );
        all
    }
}

/// Everything an exploration may be asked to come across.
fn reachable() -> Vec<Property<Sale>> {
    vec![
        Property::sometimes(ISSUED, |_, state: &State| {
            state.answers().any(|(claim, said)| {
                matches!(said, Said::Holds(coupon) if usize::from(coupon.claim) == claim)
            })
        }),
        Property::sometimes(ALREADY_ISSUED, |_, state: &State| {
            state.answers().any(|(claim, said)| {
                matches!(said, Said::Holds(coupon) if usize::from(coupon.claim) != claim)
            })
        }),
        Property::sometimes(SOLD_OUT, |_, state: &State| {
            told(state, |said| said == Said::Refused(Refusal::SoldOut))
        }),
        Property::sometimes(CLOSED, |_, state: &State| {
            told(state, |said| said == Said::Refused(Refusal::Closed))
        }),
        Property::sometimes(OUT_OF_TIME, |_, state: &State| {
            told(state, |said| said == Said::OutOfTime)
        }),
        Property::sometimes(REPLAYED, |sale: &Sale, state: &State| {
            state.answers().any(|(claim, said)| {
                let answered = sale
                    .messages_in(state.answered)
                    .filter(|(_, message)| usize::from(message.claim) == claim);
                matches!(said, Said::Holds(_)) && answered.count() > 1
            })
        }),
        Property::sometimes(RECOVERED, |sale: &Sale, state: &State| {
            state.faults_left.crashes < sale.faults.crashes
                && state.at_rest(sale)
                && everybody_answered(sale, state)
        }),
        Property::sometimes(HALF_SEEN, |_, state: &State| {
            state.transactions.iter().any(|one| {
                matches!(one.progress, Progress::Committed { visible } if has(visible, STOCK_ITEM))
                    && confirming(state, users(&one.buyers))
            })
        }),
        Property::sometimes(ZOMBIE, |_, state: &State| {
            state.transactions.iter().any(|one| {
                one.owner.is_none() && matches!(one.progress, Progress::Committed { .. })
            })
        }),
        Property::sometimes(HELD_TWICE, |_, state: &State| {
            let held = |worker: &crate::state::Worker| {
                worker.batch.as_ref().map_or(0, |batch| batch.messages)
            };
            held(&state.workers[0]) & held(&state.workers[1]) != 0
        }),
        Property::sometimes(TWO_SHARDS, |_, state: &State| {
            let batches = state.workers.iter().filter_map(|one| one.batch.as_ref());
            batches
                .into_iter()
                .any(|batch| batch.chunks.iter().all(Option::is_some))
        }),
        Property::sometimes(FROZEN_BESIDE, |_, state: &State| {
            let holds = |one: &crate::state::Transaction| one.locks(STOCK_ITEM);
            state.closing.frozen != 0 && state.transactions.iter().any(holds)
        }),
        Property::sometimes(FREEZE_WAITS, |_, state: &State| {
            let holds = |one: &crate::state::Transaction| {
                one.locks(STOCK_ITEM) && !has(state.closing.frozen, usize::from(one.shard))
            };
            state.closing.begun && state.transactions.iter().any(holds)
        }),
        Property::sometimes(TWO_BUYERS, |_, state: &State| {
            state
                .transactions
                .iter()
                .any(|one| users(&one.buyers).count_ones() > 1)
        }),
    ]
}

fn coupons(state: &State) -> usize {
    state.coupons.iter().flatten().count()
}

fn told(state: &State, what: impl Fn(Said) -> bool) -> bool {
    state.answers().any(|(_, said)| what(said))
}

pub(crate) fn everybody_answered(sale: &Sale, state: &State) -> bool {
    (0..sale.messages.len()).all(|message| has(state.answered, message))
}

fn refusals_hold(sale: &Sale, state: &State) -> bool {
    state.answers().all(|(claim, said)| match said {
        Said::Refused(_) => sale
            .user_of(claim)
            .is_none_or(|user| state.coupons[user].is_none()),
        _ => true,
    })
}

fn stock_is_conserved(sale: &Sale, state: &State) -> bool {
    (0..sale.quotas.len()).all(|shard| {
        let stand = state
            .coupons
            .iter()
            .flatten()
            .filter(|coupon| usize::from(coupon.shard) == shard)
            .count();
        let under_way: i32 = state
            .transactions
            .iter()
            .filter(|one| usize::from(one.shard) == shard)
            .map(|one| match one.progress {
                Progress::Committed { visible } => {
                    let hidden = one.items().filter(|item| one.locks(*item));
                    let coupons = hidden.filter(|item| *item != STOCK_ITEM).count();
                    let paid = if has(visible, STOCK_ITEM) {
                        0
                    } else {
                        users(&one.buyers).count_ones()
                    };
                    number(coupons) - number(paid as usize)
                }
                _ => 0,
            })
            .sum();
        i32::from(state.remaining[shard]) + number(stand) + under_way
            == i32::from(sale.quotas[shard])
            && state.remaining[shard] >= 0
    })
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn confirming(state: &State, users: crate::config::Set) -> bool {
    let batches = state.workers.iter().filter_map(|one| one.batch.as_ref());
    batches
        .into_iter()
        .any(|batch| matches!(batch.step, Step::Confirm(_)) && batch.waiting & users != 0)
}
