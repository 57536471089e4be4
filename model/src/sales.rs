//! The sales that are explored, and for every broken rule the sale in which it shows.

use crate::config::{Broken, Faults, Message, Sale, Time};
use crate::property::{
    ALREADY_ISSUED, ANSWERS_AGREE, ANSWERS_ARE_DURABLE, CLOSED, CLOSED_IS_CLOSED,
    EVERYBODY_ANSWERED, FREEZE_WAITS, FROZEN_BESIDE, HALF_SEEN, HELD_TWICE, IN_TIME_IS_IN_TIME,
    ISSUED, NEVER_TOO_MANY, NOT_BEFORE_THE_OPENING, ONE_PER_USER, OUT_OF_TIME, RECOVERED,
    REFUSALS_HOLD, REPLAYED, SOLD_OUT, SOLD_OUT_IS_TRUE, STOCK_IS_CONSERVED, TWO_BUYERS,
    TWO_SHARDS, ZOMBIE,
};

const fn claim(claim: u8, user: u8) -> Message {
    stated(claim, user, Time::Open, Time::Open)
}

const fn out_of_time(claim: u8, user: u8) -> Message {
    stated(claim, user, Time::Early, Time::Open)
}

/// A claim that states one time and that the queue took at another.
const fn stated(claim: u8, user: u8, stated: Time, sent: Time) -> Message {
    Message {
        claim,
        user,
        stated,
        sent,
    }
}

/// Crashes, lost responses, redeliveries and deadlines.
const fn faults(crashes: u8, losses: u8, redeliveries: u8, deadlines: u8) -> Faults {
    Faults {
        crashes,
        losses,
        redeliveries,
        deadlines,
    }
}

fn sale(name: &'static str, messages: &[Message], quotas: &[u8], faults: Faults) -> Sale {
    Sale {
        name,
        messages: messages.to_vec(),
        quotas: quotas.to_vec(),
        batch: 2,
        faults,
        closes: false,
        door: false,
        patient: false,
        broken: Vec::new(),
        reaches: vec![ISSUED],
    }
}

/// Two users want the only coupon.
pub fn last_coupon() -> Sale {
    Sale {
        reaches: vec![ISSUED, SOLD_OUT, RECOVERED, HALF_SEEN, ZOMBIE, HELD_TWICE],
        ..sale(
            "the last coupon",
            &[claim(0, 0), claim(1, 1)],
            &[1],
            faults(2, 1, 1, 1),
        )
    }
}

/// One shard serves both users in one transaction, which others may see half of.
pub fn chunk_of_two() -> Sale {
    Sale {
        reaches: vec![ISSUED, RECOVERED, ZOMBIE, TWO_BUYERS],
        ..sale(
            "a chunk of two",
            &[claim(0, 0), claim(1, 1)],
            &[2],
            faults(1, 1, 1, 1),
        )
    }
}

/// One user claims twice, another once, and one coupon is there.
pub fn two_claims() -> Sale {
    Sale {
        reaches: vec![ISSUED, ALREADY_ISSUED, SOLD_OUT, RECOVERED, HALF_SEEN],
        ..sale(
            "two claims of one user",
            &[claim(0, 0), claim(1, 0), claim(2, 1)],
            &[1],
            faults(1, 1, 1, 0),
        )
    }
}

/// A claim comes twice under one claimId, beside another user's.
pub fn replay() -> Sale {
    Sale {
        reaches: vec![ISSUED, SOLD_OUT, REPLAYED, RECOVERED],
        ..sale(
            "a replay",
            &[claim(0, 0), claim(0, 0), claim(1, 1)],
            &[1],
            faults(1, 1, 1, 0),
        )
    }
}

/// A claim is repeated after the end of the window, while its first message is still on its way.
pub fn replay_after_the_end() -> Sale {
    Sale {
        reaches: vec![ISSUED, OUT_OF_TIME, REPLAYED, RECOVERED, TWO_BUYERS],
        ..sale(
            "a replay after the end",
            &[claim(0, 0), claim(1, 1), out_of_time(0, 0)],
            &[2],
            faults(1, 1, 1, 0),
        )
    }
}

/// A user claims too early and again in time; another wants the same coupon.
pub fn too_early() -> Sale {
    Sale {
        reaches: vec![ISSUED, ALREADY_ISSUED, OUT_OF_TIME, SOLD_OUT],
        ..sale(
            "too early, then in time",
            &[out_of_time(0, 0), claim(1, 0), claim(2, 1)],
            &[1],
            faults(1, 1, 1, 0),
        )
    }
}

/// Two shards with one coupon each, for two users of whom one claims twice.
pub fn two_shards() -> Sale {
    Sale {
        reaches: vec![ISSUED, ALREADY_ISSUED, RECOVERED, ZOMBIE, TWO_SHARDS],
        ..sale(
            "two shards, two claims of one user",
            &[claim(0, 0), claim(1, 0), claim(2, 1)],
            &[1, 1],
            faults(1, 0, 1, 0),
        )
    }
}

/// Two shards with one coupon each, and chunks of which nobody knows what became.
pub fn two_shards_lost() -> Sale {
    Sale {
        reaches: vec![ISSUED, RECOVERED, ZOMBIE, TWO_SHARDS],
        ..sale(
            "two shards, lost responses",
            &[claim(0, 0), claim(1, 1)],
            &[1, 1],
            faults(1, 1, 0, 1),
        )
    }
}

/// Two shards with one coupon each, for three users.
pub fn three_users() -> Sale {
    Sale {
        reaches: vec![ISSUED, SOLD_OUT, RECOVERED, HALF_SEEN, TWO_SHARDS],
        ..sale(
            "three users, two shards",
            &[claim(0, 0), claim(1, 1), claim(2, 2)],
            &[1, 1],
            faults(1, 0, 0, 1),
        )
    }
}

/// The partner closes the campaign while the last coupon goes.
pub fn closing() -> Sale {
    Sale {
        closes: true,
        reaches: vec![ISSUED, SOLD_OUT, CLOSED, RECOVERED, FREEZE_WAITS],
        ..sale(
            "closed early",
            &[claim(0, 0), claim(1, 1)],
            &[1],
            faults(1, 1, 1, 0),
        )
    }
}

/// The partner closes the campaign while coupons go from two shards.
pub fn closing_two_shards() -> Sale {
    Sale {
        closes: true,
        reaches: vec![
            ISSUED,
            CLOSED,
            RECOVERED,
            TWO_SHARDS,
            FROZEN_BESIDE,
            FREEZE_WAITS,
        ],
        ..sale(
            "closed early, two shards",
            &[claim(0, 0), claim(1, 1)],
            &[1, 1],
            faults(1, 0, 1, 0),
        )
    }
}

/// Once it has sold out, the claim door answers; the last winner asks again while the coupon is being written.
pub fn door() -> Sale {
    Sale {
        door: true,
        reaches: vec![ISSUED, SOLD_OUT, RECOVERED],
        ..sale(
            "asked again at the door",
            &[claim(0, 0), claim(1, 1)],
            &[1],
            faults(1, 1, 1, 1),
        )
    }
}

/// The campaign is closed early, and users ask again at the claim door.
pub fn door_after_closing() -> Sale {
    Sale {
        closes: true,
        door: true,
        reaches: vec![ISSUED, SOLD_OUT, CLOSED, RECOVERED],
        ..sale(
            "asked at the door after the close",
            &[claim(0, 0), claim(1, 1)],
            &[1],
            faults(1, 0, 1, 0),
        )
    }
}

/// The same at the door, with a shard that another closer has yet to freeze and three who want two coupons.
pub fn door_after_closing_two_shards() -> Sale {
    Sale {
        closes: true,
        door: true,
        reaches: vec![ISSUED, CLOSED, RECOVERED, TWO_SHARDS, FROZEN_BESIDE],
        ..sale(
            "at the door, two shards closed",
            &[claim(0, 0), claim(1, 1)],
            &[1, 1],
            faults(1, 0, 1, 0),
        )
    }
}

/// A producer's clock is fast: it claims before the opening and states a time after it. Another user claims in time.
pub fn fast_clock() -> Sale {
    Sale {
        reaches: vec![ISSUED, OUT_OF_TIME, RECOVERED],
        ..sale(
            "a fast clock before the opening",
            &[stated(0, 0, Time::Open, Time::Early), claim(1, 1)],
            &[1],
            faults(1, 0, 1, 0),
        )
    }
}

/// A producer's clock is fast: it claims in time and states a time after the end.
pub fn fast_clock_at_the_end() -> Sale {
    Sale {
        reaches: vec![ISSUED, SOLD_OUT, RECOVERED],
        ..sale(
            "a fast clock before the end",
            &[stated(0, 0, Time::Late, Time::Open), claim(1, 1)],
            &[1],
            faults(1, 0, 1, 0),
        )
    }
}

/// A producer's clock is slow, or its claims were held up: they reach the queue after the opening, and after the end, and state
/// an earlier time.
pub fn slow_clock() -> Sale {
    Sale {
        reaches: vec![ISSUED, OUT_OF_TIME, RECOVERED],
        ..sale(
            "slow clocks",
            &[
                stated(0, 0, Time::Early, Time::Open),
                stated(1, 1, Time::Open, Time::Late),
            ],
            &[2],
            faults(1, 0, 1, 0),
        )
    }
}

/// One user, one message, and a worker that repeats a lost chunk until it knows: here, and only here, the token has to
/// do alone what the coupon condition does otherwise.
pub fn patient_worker() -> Sale {
    Sale {
        patient: true,
        ..sale("a patient worker", &[claim(0, 0)], &[2], faults(0, 2, 0, 0))
    }
}

/// All sales.
pub fn all() -> Vec<Sale> {
    vec![
        last_coupon(),
        chunk_of_two(),
        two_claims(),
        replay(),
        replay_after_the_end(),
        too_early(),
        two_shards(),
        two_shards_lost(),
        three_users(),
        closing(),
        closing_two_shards(),
        door(),
        door_after_closing(),
        door_after_closing_two_shards(),
        fast_clock(),
        fast_clock_at_the_end(),
        slow_clock(),
        patient_worker(),
    ]
}

/// The sales with one kind of fault at a time, small enough for a whole graph or an unoptimised build.
pub fn small() -> Vec<Sale> {
    let kinds = |sale: Sale| {
        let most = sale.faults;
        [
            faults(most.crashes.min(1), 0, 0, 0),
            faults(0, most.losses.min(1), 0, 0),
            faults(0, 0, most.redeliveries, most.deadlines),
        ]
        .map(|faults| sale.clone().with(faults))
    };
    all().into_iter().flat_map(kinds).collect()
}

/// Sales with a broken rule that hold all the same: something else stands behind it. See [`Broken`].
pub fn unharmed() -> Vec<Sale> {
    vec![
        chunk_of_two()
            .with(faults(1, 1, 1, 0))
            .broken(Broken::NewTokenOnRepeat),
        patient_worker().broken(Broken::CouponCondition),
        closing_two_shards()
            .with(faults(0, 0, 1, 0))
            .broken(Broken::NobodyFinishes),
    ]
}

/// The sales with a broken rule, and the property that fails there. The faults are the fewest that show it.
pub fn broken() -> Vec<(Sale, &'static str)> {
    let none = faults(0, 0, 0, 0);
    let redelivery = faults(0, 0, 1, 0);
    let crash = faults(1, 0, 0, 0);
    let loss = faults(0, 1, 0, 0);
    let broken = |sale: Sale, with, rule, property| (sale.with(with).broken(rule), property);
    vec![
        broken(
            chunk_of_two(),
            redelivery,
            Broken::CouponCondition,
            STOCK_IS_CONSERVED,
        ),
        broken(
            door_after_closing(),
            redelivery,
            Broken::ClosedUnmarked,
            ANSWERS_AGREE,
        ),
        broken(
            door_after_closing_two_shards(),
            none,
            Broken::RecordClosedFirst,
            REFUSALS_HOLD,
        ),
        broken(closing(), none, Broken::RecordClosedFirst, CLOSED_IS_CLOSED),
        broken(
            closing_two_shards(),
            none,
            Broken::FrozenCondition,
            CLOSED_IS_CLOSED,
        ),
        broken(
            closing_two_shards(),
            redelivery,
            Broken::ClosedAfterOneFrozenShard,
            REFUSALS_HOLD,
        ),
        broken(
            fast_clock(),
            none,
            Broken::OwnTimeAsStated,
            NOT_BEFORE_THE_OPENING,
        ),
        broken(
            fast_clock_at_the_end(),
            none,
            Broken::OwnTimeAsStated,
            IN_TIME_IS_IN_TIME,
        ),
        broken(
            chunk_of_two(),
            redelivery,
            Broken::CouponCondition,
            ONE_PER_USER,
        ),
        broken(last_coupon(), none, Broken::StockCondition, NEVER_TOO_MANY),
        broken(
            last_coupon(),
            crash,
            Broken::AcknowledgedBeforeWrite,
            EVERYBODY_ANSWERED,
        ),
        broken(
            three_users(),
            none,
            Broken::SoldOutAfterOneEmptyShard,
            SOLD_OUT_IS_TRUE,
        ),
        broken(
            chunk_of_two(),
            none,
            Broken::ConflictMeansEmpty,
            SOLD_OUT_IS_TRUE,
        ),
        broken(
            last_coupon(),
            loss,
            Broken::UnknownMeansRefused,
            REFUSALS_HOLD,
        ),
        broken(
            replay_after_the_end(),
            none,
            Broken::TimeBeforeCoupon,
            ANSWERS_AGREE,
        ),
        broken(
            closing(),
            redelivery,
            Broken::ClosedBeforeCoupon,
            ANSWERS_AGREE,
        ),
        broken(
            closing(),
            redelivery,
            Broken::ClosedBeforeStock,
            ANSWERS_AGREE,
        ),
        broken(
            closing(),
            redelivery,
            Broken::ClosedByStaleStock,
            ANSWERS_AGREE,
        ),
        broken(
            last_coupon(),
            redelivery,
            Broken::PlainConfirmation,
            REFUSALS_HOLD,
        ),
        broken(
            last_coupon(),
            redelivery,
            Broken::NoConfirmation,
            REFUSALS_HOLD,
        ),
        broken(
            last_coupon(),
            none,
            Broken::AnsweredBeforeDurable,
            ANSWERS_ARE_DURABLE,
        ),
        broken(door(), none, Broken::PlainReadAtTheDoor, REFUSALS_HOLD),
        broken(
            patient_worker().broken(Broken::CouponCondition),
            loss,
            Broken::NewTokenOnRepeat,
            ONE_PER_USER,
        ),
    ]
}
