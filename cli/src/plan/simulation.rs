//! The way of every claim through door, queue, workers and posts, in steps of a hundredth of a second. Deterministic: one
//! seed, one result. No AWS and no clock.

use std::collections::VecDeque;
use std::mem;

use fastrand::Rng;

/// Seconds of a step.
pub(super) const STEP: f64 = 0.01;
/// After so many hours nobody waits any more.
const END: f64 = 6.0 * 3600.0;
/// The mean time until a refused client comes again: between 0.2 s and 5 s at random (sale/backoff.rs, at its bound).
const RETURN_SECONDS: f64 = 2.6;

/// Tokens that a bucket holds at least, so that fractions of a step add up to whole ones.
const LEAST_BURST: f64 = 2.0;

/// What the stack does in a second, and how long it takes for one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    /// Frames the door lets in, a second.
    pub(super) door: f64,
    /// And at once.
    pub(super) door_burst: f64,
    /// From frame to answer of the door.
    pub(super) door_seconds: f64,
    /// Batches at once: at the start, more each second, at most.
    pub(super) workers: (f64, f64, f64),
    /// The most claims of a batch.
    pub(super) batch: usize,
    /// How long a batch is waited for.
    pub(super) window_seconds: f64,
    /// What a batch takes.
    pub(super) batch_seconds: f64,
    /// Coupons a second that counters and tables allow.
    pub(super) coupons: f64,
    /// Answers posted a second.
    pub(super) posts: f64,
    /// What a post takes.
    pub(super) post_seconds: f64,
    /// Until every door knows that all is sold.
    pub(super) news_seconds: f64,
}

/// What became of a crowd. Times in seconds after the opening, waits after the user's first try.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Sorted waits of those who were answered.
    pub(super) waits: Vec<f32>,
    /// Claims decided by the queue's workers.
    pub(super) queued: u64,
    /// Claims answered by the door.
    pub(super) at_the_door: u64,
    /// Frames the gateway refused; their clients came again.
    pub(super) refused: u64,
    /// The most claims in the queue.
    pub(super) deepest: usize,
    /// Batches.
    pub(super) batches: u64,
    /// When the last coupon was taken, if it was.
    pub(super) sold_at: Option<f64>,
    /// When the last user was answered.
    pub(super) ended_at: f64,
    /// Users who were never answered.
    pub(super) unanswered: u64,
    /// (second, arrived, answered), at growing intervals.
    pub(super) curve: Vec<(f64, u64, u64)>,
}

impl Outcome {
    /// The wait that so many per cent of all users do not exceed (nearest rank); `None` if fewer were ever answered.
    pub(super) fn percentile(&self, percent: usize) -> Option<f64> {
        let users = self.waits.len() + self.unanswered as usize;
        let rank = (users * percent).div_ceil(100);
        let wait = self.waits.get(rank.saturating_sub(1));
        wait.map(|wait| f64::from(*wait))
    }
}

/// Runs a sale of `stock` for `users` who first try within `window` seconds.
pub(super) fn simulate(users: u32, stock: u32, window: f64, rates: &Rates, seed: u64) -> Outcome {
    let mut sale = Sale::new(users, stock, window, rates, seed);
    let mut next_point = 0.5;
    while sale.open() && sale.now < END {
        sale.step();
        if sale.now >= next_point {
            sale.mark();
            next_point *= 2.0;
        }
    }
    sale.finish()
}

struct Sale<'rates> {
    rates: &'rates Rates,
    rng: Rng,
    now: f64,
    /// When each user first tries, sorted.
    firsts: Vec<f32>,
    arrived: usize,
    /// Users whom the gateway has refused.
    away: Vec<u32>,
    /// The part of a returning user that is carried to the next step.
    returning: f64,
    tokens: f64,
    /// In the queue, with the time they came.
    queue: VecDeque<(f64, u32)>,
    /// When each worker is free again.
    workers: Vec<f64>,
    stock: u64,
    coupons: f64,
    /// Decided batches: when, who. Not sorted; there are as many as workers.
    decided: Vec<(f64, Vec<u32>)>,
    to_post: VecDeque<u32>,
    posts: f64,
    outcome: Outcome,
}

impl<'rates> Sale<'rates> {
    fn new(users: u32, stock: u32, window: f64, rates: &'rates Rates, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self {
            rates,
            now: 0.0,
            firsts: first_tries(users, window, &mut rng),
            arrived: 0,
            away: Vec::new(),
            returning: 0.0,
            tokens: rates.door_burst,
            queue: VecDeque::new(),
            workers: Vec::new(),
            stock: stock.into(),
            coupons: 0.0,
            decided: Vec::new(),
            to_post: VecDeque::new(),
            posts: 0.0,
            outcome: Outcome::default(),
            rng,
        }
    }

    fn open(&self) -> bool {
        self.outcome.waits.len() < self.firsts.len()
    }

    fn step(&mut self) {
        self.now += STEP;
        self.tokens =
            (self.tokens + self.rates.door * STEP).min(self.rates.door_burst.max(LEAST_BURST));
        self.coupons =
            (self.coupons + self.rates.coupons * STEP).min(self.rates.coupons.max(LEAST_BURST));
        self.knock();
        self.work();
        self.post();
    }

    /// First tries and returns compete for the door's tokens on equal terms.
    fn knock(&mut self) {
        let begun = self.arrived;
        while self
            .firsts
            .get(self.arrived)
            .is_some_and(|first| f64::from(*first) <= self.now)
        {
            self.arrived += 1;
        }
        let fresh = self.arrived - begun;
        self.returning += self.away.len() as f64 * STEP / RETURN_SECONDS;
        let back = (self.returning as usize).min(self.away.len());
        self.returning -= back as f64;
        let admitted = (self.tokens as usize).min(fresh + back);
        self.tokens -= admitted as f64;
        self.outcome.refused += (fresh + back - admitted) as u64;
        let of_fresh = (admitted * fresh).checked_div(fresh + back).unwrap_or(0);
        let of_back = admitted - of_fresh;
        for _ in 0..of_back {
            let position = self.rng.usize(..self.away.len());
            let user = self.away.swap_remove(position);
            self.enter(user);
        }
        for user in begun..self.arrived {
            let user = u32::try_from(user).unwrap_or(u32::MAX);
            if (user as usize - begun) < of_fresh {
                self.enter(user);
            } else {
                self.away.push(user);
            }
        }
    }

    /// The door answers by itself once it knows that all is sold; else it queues.
    fn enter(&mut self, user: u32) {
        let known = self
            .outcome
            .sold_at
            .map_or(0.0, |sold| (self.now - sold) / self.rates.news_seconds);
        if self.rng.f64() < known {
            self.outcome.at_the_door += 1;
            self.answer(user, self.now + self.rates.door_seconds);
        } else {
            self.outcome.queued += 1;
            let entered = self.now + self.rates.door_seconds;
            self.queue.push_back((entered, user));
            self.outcome.deepest = self.outcome.deepest.max(self.queue.len());
        }
    }

    fn work(&mut self) {
        let (first, more, most) = self.rates.workers;
        let staffed = (first + more * self.now).min(most).max(1.0) as usize;
        self.workers.resize(staffed.max(self.workers.len()), 0.0);
        for worker in 0..self.workers.len() {
            let waited = self.queue.front().map(|(entered, _)| self.now - entered);
            let Some(waited) = waited.filter(|waited| *waited >= 0.0) else {
                break;
            };
            if self.workers[worker] > self.now {
                continue;
            }
            if self.queue.len() < self.rates.batch && waited < self.rates.window_seconds {
                break;
            }
            self.workers[worker] = self.decide();
        }
        let (due, later): (Vec<_>, Vec<_>) = mem::take(&mut self.decided)
            .into_iter()
            .partition(|(at, _)| *at <= self.now);
        self.decided = later;
        self.to_post
            .extend(due.into_iter().flat_map(|(_, users)| users));
    }

    /// Takes a batch and the coupons it gets; when the worker is free again.
    fn decide(&mut self) -> f64 {
        let ready = self
            .queue
            .iter()
            .take(self.rates.batch)
            .take_while(|(entered, _)| *entered <= self.now);
        let size = ready.count();
        let users: Vec<u32> = self.queue.drain(..size).map(|(_, user)| user).collect();
        let won = (users.len() as u64).min(self.stock);
        self.stock -= won;
        self.coupons -= won as f64;
        let owed = (-self.coupons).max(0.0) / self.rates.coupons;
        let done = self.now + self.rates.batch_seconds + owed;
        if won > 0 && self.stock == 0 {
            self.outcome.sold_at = Some(done);
        }
        self.outcome.batches += 1;
        self.decided.push((done, users));
        done
    }

    fn post(&mut self) {
        self.posts =
            (self.posts + self.rates.posts * STEP).min((self.rates.posts * 0.1).max(LEAST_BURST));
        let number = (self.posts as usize).min(self.to_post.len());
        self.posts -= number as f64;
        for _ in 0..number {
            if let Some(user) = self.to_post.pop_front() {
                self.answer(user, self.now + self.rates.post_seconds);
            }
        }
    }

    fn answer(&mut self, user: u32, at: f64) {
        let first = self.firsts[user as usize];
        self.outcome.waits.push((at as f32 - first).max(0.0));
        self.outcome.ended_at = self.outcome.ended_at.max(at);
    }

    fn mark(&mut self) {
        let answered = self.outcome.waits.len() as u64;
        self.outcome
            .curve
            .push((self.now, self.arrived as u64, answered));
    }

    fn finish(mut self) -> Outcome {
        self.mark();
        self.outcome.waits.sort_unstable_by(f32::total_cmp);
        self.outcome.unanswered = (self.firsts.len() - self.outcome.waits.len()) as u64;
        self.outcome
    }
}

/// Sorted times of first tries by the arrival curve, drawn without sorting: uniform order statistics by their gaps.
fn first_tries(users: u32, window: f64, rng: &mut Rng) -> Vec<f32> {
    let mut sum = 0.0;
    let mut sums: Vec<f64> = (0..=users)
        .map(|_| {
            sum -= (1.0 - rng.f64()).ln();
            sum
        })
        .collect();
    sums.truncate(users as usize);
    sums.into_iter()
        .map(|at| (window * (at / sum).powi(3)) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::sizing::arrived;

    const RATES: Rates = Rates {
        door: 1000.0,
        door_burst: 1000.0,
        door_seconds: 0.0,
        workers: (5.0, 5.0, 20.0),
        batch: 495,
        window_seconds: 0.0,
        batch_seconds: 0.1,
        coupons: 1e9,
        posts: 1e9,
        post_seconds: 0.0,
        news_seconds: 10.0,
    };

    #[test]
    fn everybody_is_answered_once() {
        let outcome = simulate(5000, 300, 2.0, &RATES, 1);
        assert_eq!((outcome.waits.len(), outcome.unanswered), (5000, 0));
        assert_eq!(outcome.queued + outcome.at_the_door, 5000);
        assert!(outcome.sold_at.is_some());
    }

    #[test]
    fn who_was_never_answered_has_waited_longer_than_anybody() {
        let outcome = Outcome {
            waits: vec![1.0, 2.0],
            unanswered: 2,
            ..Outcome::default()
        };
        assert_eq!(
            [25, 50, 51, 99].map(|percent| outcome.percentile(percent)),
            [Some(1.0), Some(2.0), None, None]
        );
    }

    #[test]
    fn one_seed_gives_one_result_and_another_seed_another() {
        let run = |seed| simulate(3000, 100, 2.0, &RATES, seed);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7).waits, run(8).waits);
    }

    #[test]
    fn half_the_crowd_has_tried_after_an_eighth_of_the_window() {
        let tries = first_tries(100_000, 80.0, &mut Rng::with_seed(3));
        assert!(tries.is_sorted());
        let early = tries.iter().filter(|at| **at <= 10.0).count();
        assert!((49_000..51_000).contains(&early), "{early}");
        assert!((arrived(0.125) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn without_a_queue_the_wait_is_the_work() {
        let wide = Rates {
            door: 1e9,
            door_burst: 1e9,
            workers: (1000.0, 0.0, 1000.0),
            ..RATES
        };
        let outcome = simulate(1000, 1000, 100.0, &wide, 1);
        // A step to enter, a tenth of a second to decide, and the steps that both are rounded up to.
        assert!(
            (0.09..=0.14).contains(&outcome.percentile(99).unwrap()),
            "{outcome:?}"
        );
        assert_eq!(outcome.refused, 0);
    }

    #[test]
    fn a_door_that_is_too_narrow_lets_the_crowd_in_at_its_own_pace() {
        // 6,000 at 100 a second, and the last ones' way back.
        let narrow = Rates {
            door: 100.0,
            door_burst: 1.0,
            ..RATES
        };
        let outcome = simulate(6000, 1, 1.0, &narrow, 1);
        assert!(
            (60.0..80.0).contains(&outcome.ended_at),
            "{}",
            outcome.ended_at
        );
        assert!(outcome.refused > 6000);
    }

    #[test]
    fn slow_posts_hold_up_queued_answers() {
        let slow = Rates {
            posts: 10.0,
            ..RATES
        };
        let outcome = simulate(300, 300, 0.1, &slow, 1);
        assert!(
            (29.0..32.0).contains(&outcome.ended_at),
            "{}",
            outcome.ended_at
        );
    }

    #[test]
    fn table_capacity_bounds_the_coupons_of_a_second() {
        let tight = Rates {
            coupons: 100.0,
            ..RATES
        };
        let outcome = simulate(2000, 1000, 0.1, &tight, 1);
        let sold = outcome.sold_at.unwrap();
        assert!((9.0..11.5).contains(&sold), "{sold}");
    }

    #[test]
    fn a_million_is_done_within_the_hour_of_simulated_time_and_waits_are_ordered() {
        let outcome = simulate(
            1_000_000,
            100_000,
            60.0,
            &Rates {
                door: 14_000.0,
                ..RATES
            },
            1,
        );
        assert_eq!(outcome.unanswered, 0);
        let waits = [50, 95, 99, 100].map(|percent| outcome.percentile(percent));
        assert!(waits.is_sorted() && waits[0].is_some(), "{waits:?}");
    }
}
