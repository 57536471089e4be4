//! What a sale costs, line by line: how often each thing happens, times its price. Pure.

use firstcome_core::MAX_ANSWERS_PER_JOB;

use super::limits as l;
use super::prices::{self as p, Price};
use super::simulation::Outcome;
use super::sizing::{Load, Settings, WRITES_PER_CONNECTION};

/// GB of memory of the doors and of the workers (template.yaml).
const DOOR_GB: f64 = 0.5;
const WORKER_GB: f64 = 1.0;
/// Bytes of a frame to a socket, and of an invocation's log lines with Lambda's own: assumed.
const FRAME_BYTES: f64 = 400.0;
const LOG_BYTES: f64 = 1200.0;
/// Seconds of a worker's CPU for a post, at one vCPU (bench/README.md), and its share of the wait, 300 posts at once.
const POST_SECONDS: f64 = 0.000_1;
/// Bytes of a membership, read for each post.
const MEMBER_BYTES: f64 = 200.0;
/// Announcements of a sale: opened, sold out, closed.
const ANNOUNCEMENTS: f64 = 3.0;

/// One line of the bill.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) what: &'static str,
    pub(super) number: f64,
    pub(super) usd: f64,
    pub(super) page: &'static str,
}

/// What a sale took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken<'a> {
    pub(super) load: &'a Load,
    pub(super) settings: &'a Settings,
    pub(super) outcome: &'a Outcome,
    /// From the first socket to the last.
    pub(super) gathering_seconds: f64,
    /// One announcement.
    pub(super) announcing_seconds: f64,
    /// Posts of the stock gauge, all together.
    pub(super) gauge_posts: f64,
}

/// The bill, largest first.
pub(super) fn bill(taken: &Taken<'_>) -> Vec<Line> {
    let Taken { load, outcome, .. } = taken;
    let users = f64::from(load.users);
    let coupons = f64::from(load.stock.min(load.users));
    let (queued, door) = (outcome.queued as f64, outcome.at_the_door as f64);
    let claims = queued + door;
    let announced = ANNOUNCEMENTS * users + taken.gauge_posts;
    // To the door, its answer, and for a queued claim the result.
    let messages = 2.0 * claims + queued + announced;
    let minutes = users
        * (taken.gathering_seconds / 2.0 + outcome.ended_at + taken.announcing_seconds)
        / 60.0;
    let jobs = queued / MAX_ANSWERS_PER_JOB as f64 + outcome.batches as f64;
    // Ticket by api, authorizer, $connect, $disconnect; the claim; a batch; a job of answers.
    let doors = 4.0 * users + claims;
    let invocations = doors + outcome.batches as f64 + jobs;
    let posts = queued + announced;
    let seconds = doors * l::DOOR_SECONDS.value * DOOR_GB
        + outcome.batches as f64 * taken.settings.batch_seconds() * WORKER_GB
        + posts * POST_SECONDS * WORKER_GB;
    let writes =
        users * (WRITES_PER_CONNECTION + 3.0) + coupons * taken.settings.writes_per_coupon();
    // A coupon key per queued claim, two more where nothing was left, two for the door's look; memberships per post.
    let losers = (queued - coupons).max(0.0);
    let reads = 3.0 * users + queued + 2.0 * (losers + door) + (announced * MEMBER_BYTES / 4096.0);
    // Sent alone; received and deleted ten at a time.
    let queue = queued * 1.2 + jobs * 3.0;
    let mut lines = vec![
        line("frames and posts", messages, p::MESSAGE),
        line("minutes of open sockets", minutes, p::SOCKET_MINUTE),
        line("tickets by HTTP", users, p::HTTP_CALL),
        line("invocations", invocations, p::INVOCATION),
        line("GB-seconds, arm64", seconds, p::GB_SECOND),
        line("write units", writes, p::WRITE),
        line("read units", reads, p::READ),
        line("queue requests", queue, p::QUEUE_REQUEST),
        line("bytes of logs", invocations * LOG_BYTES, p::LOG_BYTE),
        line("bytes out", messages / 2.0 * FRAME_BYTES, p::BYTE_OUT),
    ];
    lines.sort_by(|one, other| other.usd.total_cmp(&one.usd));
    lines
}

fn line(what: &'static str, number: f64, price: Price) -> Line {
    Line {
        what,
        number,
        usd: number * price.usd,
        page: price.page,
    }
}

/// Transactions that issue so many coupons in full batches.
pub(super) fn transactions(coupons: u32, settings: &Settings) -> u32 {
    coupons.div_ceil(u32::try_from(settings.chunk()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::sizing::TEMPLATE;

    fn bill_of(users: u32, queued: u64, at_the_door: u64, gauge_posts: f64) -> Vec<Line> {
        let load = Load {
            users,
            stock: 100,
            window_seconds: 10.0,
        };
        let outcome = Outcome {
            queued,
            at_the_door,
            batches: queued.div_ceil(495),
            ended_at: 10.0,
            ..Outcome::default()
        };
        bill(&Taken {
            load: &load,
            settings: &TEMPLATE,
            outcome: &outcome,
            gathering_seconds: 60.0,
            announcing_seconds: 2.0,
            gauge_posts,
        })
    }

    fn usd(lines: &[Line], what: &str) -> f64 {
        lines.iter().find(|line| line.what == what).unwrap().usd
    }

    #[test]
    fn a_message_costs_a_millionth_of_a_dollar() {
        // 2 × 1,000 claims, 1,000 results, 3 announcements to 1,000.
        let lines = bill_of(1000, 1000, 0, 0.0);
        assert!((usd(&lines, "frames and posts") - 0.006).abs() < 1e-9);
        // A user's socket is open for half the gathering, the sale and an announcement.
        let minutes = 1000.0 * (30.0 + 10.0 + 2.0) / 60.0;
        assert!((usd(&lines, "minutes of open sockets") - minutes * 0.25e-6).abs() < 1e-12);
    }

    #[test]
    fn an_answer_at_the_door_is_cheaper_than_one_through_the_queue() {
        let total = |lines: Vec<Line>| lines.iter().map(|line| line.usd).sum::<f64>();
        let (queued, door) = (bill_of(1000, 1000, 0, 0.0), bill_of(1000, 0, 1000, 0.0));
        assert!(total(door) < total(queued));
    }

    #[test]
    fn lines_come_largest_first() {
        assert!(bill_of(1000, 900, 100, 5e6).is_sorted_by(|one, other| one.usd >= other.usd));
    }

    #[test]
    fn coupons_go_ten_or_ninety_nine_at_a_time() {
        let rush = Settings {
            batch: 495,
            ..TEMPLATE
        };
        let of = |settings| [1, 10, 100, 1000].map(|coupons| transactions(coupons, settings));
        assert_eq!(of(&TEMPLATE), [1, 1, 10, 100]);
        assert_eq!(of(&rush), [1, 1, 2, 11]);
    }
}
