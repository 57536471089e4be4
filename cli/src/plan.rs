//! `firstcome plan`: what a sale needs, takes and costs on AWS, and where it breaks first. Computed from the figures in
//! `limits` and `prices` and from a simulation; neither a stack nor an account is asked. docs/capacity.md has the formulas.

mod cost;
mod limits;
mod page;
pub(crate) mod prices;
mod simulation;
mod sizing;

use firstcome_core::aws::operator::Needs;

use std::time::Duration;

use firstcome_core::{DIRECTORY_FRESHNESS, shards_for};

use self::cost::{Line, Taken, bill};
use self::limits as l;
use self::simulation::{Outcome, Rates, simulate};
use self::sizing::{Load, Quotas, Settings};
use crate::CommandError;
use crate::arguments::CapacityPlan;
use crate::terminal::Terminal;

/// The same sale under one set of quotas.
pub(crate) struct Scenario {
    quotas: Quotas,
    settings: Settings,
    rates: Rates,
    outcome: Outcome,
    gathering_seconds: f64,
    announcing_seconds: f64,
    gauge_posts: f64,
    bill: Vec<Line>,
    strains: Vec<Strain>,
}

/// How much of what there is a part needs: above 1 it makes people wait, or breaks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Strain {
    what: &'static str,
    needed: f64,
    there_is: f64,
    unit: &'static str,
    /// What happens above 1.
    then: &'static str,
}

impl Strain {
    fn share(&self) -> f64 {
        self.needed / self.there_is
    }
}

/// All that the page tells.
pub(crate) struct Plan {
    load: Load,
    shards: u16,
    today: Scenario,
    /// With the quotas that would answer everybody in time; `None` if today's do.
    granted: Option<Scenario>,
    measured: bool,
}

pub(crate) fn run(wanted: &CapacityPlan, terminal: &Terminal) -> Result<(), CommandError> {
    let plan = Plan::of(wanted).map_err(CommandError::Usage)?;
    if terminal.speaks_json() {
        terminal.print_json(&page::json(&plan));
    } else {
        terminal.say_lines(&page::text(&plan));
    }
    Ok(())
}

/// What the planned sale asks of a stack and its account: under the quotas that it was given if they suffice, else under
/// those to ask for.
///
/// # Errors
/// A sentence, if the plan names a quota that nobody knows.
pub(crate) fn needs(wanted: &CapacityPlan) -> Result<Needs, String> {
    let plan = Plan::of(wanted)?;
    let Scenario {
        settings, quotas, ..
    } = plan.granted.as_ref().unwrap_or(&plan.today);
    Ok(Needs {
        table_writes: settings.warm_writes,
        requests: quotas.requests,
        connections: quotas.connections,
        executions: sizing::executions(settings, quotas),
        pollers: settings.pollers.ceil() as u32,
    })
}

/// What a sale's users wait on AWS from claim to answer, in seconds: p50, p95 and p99; `None` where that many are never
/// answered. With the stack's and the account's defaults, if the users claim within `window`.
pub(crate) fn expected_waits(users: u32, stock: u32, window: Duration) -> Option<[Option<f64>; 3]> {
    let load = Load {
        users,
        stock,
        window_seconds: window.as_secs_f64().max(simulation::STEP),
    };
    let scenario = Scenario::of(&load, Quotas::default(), &[], 1).ok()?;
    Some([50, 95, 99].map(|percent| scenario.outcome.percentile(percent)))
}

impl Plan {
    fn of(wanted: &CapacityPlan) -> Result<Self, String> {
        let load = Load {
            users: wanted.users,
            stock: wanted.stock,
            window_seconds: wanted.window_seconds.into(),
        };
        let have = quotas(&wanted.region_quota)?;
        let scenario = |quotas| Scenario::of(&load, quotas, &wanted.measured, wanted.seed);
        let today = scenario(have)?;
        let asked = sizing::quotas_for(&load, &have);
        let granted = (asked != have).then(|| scenario(asked)).transpose()?;
        Ok(Self {
            load,
            shards: shards_for(load.stock),
            today,
            granted,
            measured: !wanted.measured.is_empty(),
        })
    }
}

impl Scenario {
    fn of(
        load: &Load,
        quotas: Quotas,
        measured: &[(String, f64)],
        seed: u64,
    ) -> Result<Self, String> {
        let settings = sizing::settings_for(load, &quotas);
        let rates = with_measured(rates(load, &settings), measured)?;
        let outcome = simulate(load.users, load.stock, load.window_seconds, &rates, seed);
        let users = f64::from(load.users);
        let selling = outcome.sold_at.unwrap_or(outcome.ended_at);
        let mut scenario = Self {
            gathering_seconds: users / quotas.connections,
            announcing_seconds: sizing::announcing_seconds(users, &settings),
            gauge_posts: gauge_posts(users, selling, outcome.ended_at, &settings),
            bill: Vec::new(),
            strains: Vec::new(),
            quotas,
            settings,
            rates,
            outcome,
        };
        scenario.bill = bill(&Taken {
            load,
            settings: &scenario.settings,
            outcome: &scenario.outcome,
            gathering_seconds: scenario.gathering_seconds,
            announcing_seconds: scenario.announcing_seconds,
            gauge_posts: scenario.gauge_posts,
        });
        scenario.strains = scenario.strains(load);
        Ok(scenario)
    }

    fn strains(&self, load: &Load) -> Vec<Strain> {
        let users = f64::from(load.users);
        let (settings, quotas) = (&self.settings, &self.quotas);
        let coupons = sizing::peak(load)
            .min(self.rates.door)
            .min(f64::from(load.stock));
        let strain = |what, needed, there_is, unit, then| Strain {
            what,
            needed,
            there_is,
            unit,
            then,
        };
        let mut strains = vec![
            strain(
                "claims in the first second",
                sizing::peak(load),
                self.rates.door + self.rates.door_burst,
                "frames",
                "refused by the gateway, and sent again after 0.2–5 s",
            ),
            strain(
                "coupons, by the stock's counters",
                coupons,
                sizing::counters_per_second(load, settings),
                "coupons/s",
                "transactions collide and are tried again",
            ),
            strain(
                "coupons, by the tables' warm throughput",
                coupons,
                sizing::tables_per_second(settings),
                "coupons/s",
                "DynamoDB throttles; claims come back after 1–5 s",
            ),
            strain(
                "sockets, by the connections table",
                quotas.connections.min(users) * sizing::WRITES_PER_CONNECTION,
                settings.warm_writes,
                "write units/s",
                "handshakes fail and are repeated",
            ),
            strain(
                "the crowd's arrival",
                self.gathering_seconds,
                l::SOCKET_LIFE.value - load.window_seconds,
                "s",
                "the first sockets end before the last open",
            ),
            strain(
                "Lambda executions at once",
                sizing::executions(settings, quotas),
                quotas.concurrency,
                "executions",
                "the gateway answers with an error; clients come again",
            ),
            strain(
                "claims in flight in the queue",
                self.rates.workers.2 * self.rates.batch as f64,
                l::IN_FLIGHT.value,
                "messages",
                "SQS gives out no more until some are decided",
            ),
            strain(
                "one page of an announcement",
                users / f64::from(firstcome_core::MEMBERSHIP_SHARDS),
                sizing::reach(settings),
                "sockets",
                "the page fails for now and goes on after the queue's visibility timeout of 180 s",
            ),
            strain(
                "one telling of the stock",
                users,
                sizing::reach(settings),
                "sockets",
                "the rest is told by a later one, or by the snapshot",
            ),
            strain(
                "workers that tell the stock while it sells",
                self.gauges_at_once(load),
                settings.broadcast_workers,
                "workers",
                "announcements wait for them, `sold_out` among them",
            ),
        ];
        strains.sort_by(|one, other| other.share().total_cmp(&one.share()));
        strains
    }

    /// A telling starts every second while stock changes, and lasts as long as its posts.
    fn gauges_at_once(&self, load: &Load) -> f64 {
        let sold = self.outcome.sold_at.unwrap_or(self.outcome.ended_at);
        let reached = f64::from(load.users).min(sizing::reach(&self.settings));
        let lasts = reached / self.settings.posts_per_worker;
        lasts.min(sold).max(1.0)
    }

    fn total_usd(&self) -> f64 {
        self.bill.iter().map(|line| line.usd).sum()
    }
}

/// Posts of the stock gauge: one telling a second while it sells, each to all or as many as it reaches, by as many workers
/// as there are until the sale has ended.
fn gauge_posts(users: f64, selling: f64, ended: f64, settings: &Settings) -> f64 {
    let wanted = selling.ceil().max(1.0) * users.min(sizing::reach(settings));
    let workers = settings.broadcast_workers * settings.posts_per_worker;
    wanted.min(workers * (ended + sizing::POSTING_SECONDS))
}

/// What the stack does at these settings.
fn rates(load: &Load, settings: &Settings) -> Rates {
    let workers = if settings.pollers > 0.0 {
        let ready = settings.pollers * l::POLLER_BATCHES.value;
        (ready, 0.0, ready)
    } else {
        let growth = l::MORE_WORKERS.value / 60.0;
        (l::FIRST_WORKERS.value, growth, settings.issue_workers)
    };
    let news = (DIRECTORY_FRESHNESS.ttl_millis as f64) / 1000.0;
    Rates {
        door: settings.claims,
        door_burst: settings.claims,
        door_seconds: l::DOOR_SECONDS.value,
        workers,
        batch: settings.batch,
        window_seconds: settings.window_seconds,
        batch_seconds: settings.batch_seconds(),
        coupons: sizing::tables_per_second(settings)
            .min(sizing::counters_per_second(load, settings)),
        posts: sizing::answers_per_second(settings),
        post_seconds: l::POST_SECONDS.value,
        news_seconds: news,
    }
}

fn with_measured(mut rates: Rates, measured: &[(String, f64)]) -> Result<Rates, String> {
    for (name, value) in measured {
        match name.as_str() {
            "door" => (rates.door, rates.door_burst) = (*value, *value),
            "door-seconds" => rates.door_seconds = *value,
            "workers" => rates.workers = (*value, 0.0, *value),
            "window-seconds" => rates.window_seconds = *value,
            "batch" => rates.batch = (*value as usize).max(1),
            "batch-seconds" => rates.batch_seconds = *value,
            "coupons" => rates.coupons = *value,
            "posts" => rates.posts = *value,
            "post-seconds" => rates.post_seconds = *value,
            "news-seconds" => rates.news_seconds = *value,
            _ => {
                return Err(format!(
                    "--measured knows door, door-seconds, workers, batch, window-seconds, batch-seconds, coupons, posts, \
                     post-seconds, news-seconds; not {name}"
                ));
            }
        }
    }
    Ok(rates)
}

fn quotas(given: &[(String, f64)]) -> Result<Quotas, String> {
    let mut quotas = Quotas::default();
    for (name, value) in given {
        match name.as_str() {
            "requests" => quotas.requests = *value,
            "burst" => quotas.burst = *value,
            "connections" => quotas.connections = *value,
            "concurrency" => quotas.concurrency = *value,
            "table-writes" => quotas.table_writes = *value,
            _ => {
                return Err(format!(
                    "--region-quota knows requests, burst, connections, concurrency, table-writes; not {name}"
                ));
            }
        }
    }
    Ok(quotas)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn wanted(users: u32, stock: u32, window_seconds: u32) -> CapacityPlan {
        CapacityPlan {
            users,
            stock,
            window_seconds,
            region_quota: Vec::new(),
            measured: Vec::new(),
            seed: 1,
        }
    }

    #[test]
    fn three_thousand_users_need_no_more_than_the_defaults() {
        let plan = Plan::of(&wanted(3000, 300, 10)).unwrap();
        assert!(plan.granted.is_none());
        assert_eq!(plan.shards, 4);
        assert!(plan.today.outcome.percentile(99).unwrap() < 10.0);
    }

    #[test]
    fn a_small_sale_is_answered_within_a_second() {
        let plan = Plan::of(&wanted(1000, 300, 10)).unwrap();
        assert!(plan.today.outcome.percentile(50).unwrap() < 1.0);
    }

    #[test]
    fn a_million_users_are_answered_in_time_once_the_quotas_are_granted() {
        let started = Instant::now();
        let plan = Plan::of(&wanted(1_000_000, 100_000, 60)).unwrap();
        let granted = plan.granted.unwrap();
        assert!(plan.today.outcome.ended_at > 300.0);
        assert!(
            granted.outcome.ended_at < 100.0,
            "{}",
            granted.outcome.ended_at
        );
        assert!(granted.outcome.percentile(95) < plan.today.outcome.percentile(95));
        assert_eq!(plan.shards, shards_for(100_000));
        // Two seconds in release; the debug build is several times slower.
        assert!(started.elapsed().as_secs() < 60);
    }

    #[test]
    fn claims_that_are_never_answered_have_no_waiting_time() {
        let mut stuck = wanted(3000, 300, 10);
        stuck.measured = vec![("posts".to_owned(), 1e-9), ("news-seconds".to_owned(), 1e9)];
        let plan = Plan::of(&stuck).unwrap();
        assert!(
            plan.today.outcome.unanswered > 2000,
            "{}",
            plan.today.outcome.unanswered
        );
        let page = page::text(&plan);
        let line = page
            .lines()
            .find(|line| line.contains("answer, p50"))
            .unwrap();
        assert!(line.contains("not answered"), "{line}");
        let json = page::json(&plan);
        assert!(json["today"]["answerSeconds"]["p50"].is_null());
        assert!(json["today"]["answeredSeconds"].is_null());
    }

    #[test]
    fn a_sale_expects_what_its_plan_does() {
        let outcome = Plan::of(&wanted(3000, 300, 10)).unwrap().today.outcome;
        let planned = [50, 95, 99].map(|percent| outcome.percentile(percent));
        assert_eq!(
            expected_waits(3000, 300, Duration::from_secs(10)),
            Some(planned)
        );
        // All at once is a window, too.
        let at_once = expected_waits(3000, 300, Duration::ZERO).unwrap();
        assert!(at_once[2] >= planned[2]);
    }

    #[test]
    fn what_breaks_first_comes_first() {
        let plan = Plan::of(&wanted(1_000_000, 100_000, 60)).unwrap();
        assert!(plan.today.strains[0].share() > 1.0);
        let shares: Vec<f64> = plan.today.strains.iter().map(Strain::share).collect();
        assert!(shares.is_sorted_by(|one, other| one >= other));
    }

    #[test]
    fn a_measured_rate_takes_the_place_of_the_computed_one() {
        let mut slow = wanted(300, 50, 1);
        slow.measured = vec![("door".to_owned(), 30.0)];
        let plan = Plan::of(&slow).unwrap();
        assert!((8.0..20.0).contains(&plan.today.outcome.ended_at));
        slow.measured = vec![("doors".to_owned(), 30.0)];
        assert!(Plan::of(&slow).is_err());
    }

    #[test]
    fn a_quota_that_nobody_knows_is_refused() {
        let mut strange = wanted(1, 1, 1);
        strange.region_quota = vec![("api".to_owned(), 1.0)];
        assert!(Plan::of(&strange).is_err());
    }
}
