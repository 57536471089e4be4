//! How the stack is to be set for a load, and what to ask AWS for. Pure formulas; docs/capacity.md explains them.

use firstcome_core::{MAX_CHUNK, MAX_GENERATION, MEMBERSHIP_SHARDS, shards_for};

use super::limits as l;

/// ClaimBatchSize and ClaimBatchWindowSeconds for a rush: five full transactions, which AWS gathers for a second at least.
const RUSH_BATCH: (usize, f64) = (5 * MAX_CHUNK, 1.0);
/// How long a run of `broadcast` posts: its timeout less its reserve (functions/broadcast/src/handler.rs).
pub(super) const POSTING_SECONDS: f64 = 27.0;
/// Until a failed message of BroadcastQueue comes again (template.yaml).
const VISIBILITY_SECONDS: f64 = 180.0;
/// Everybody is to be answered this long after the window at the latest: what quotas are asked for.
pub(super) const PATIENCE_SECONDS: f64 = 10.0;
/// The crowd is to be in within a quarter of an hour: beyond it, more new sockets a second are asked for.
pub(super) const GATHERING_SECONDS: f64 = 900.0;
/// Write units of a connection: ticket, record and two memberships in one transaction.
pub(super) const WRITES_PER_CONNECTION: f64 = 8.0;

/// A sale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    pub(super) users: u32,
    pub(super) stock: u32,
    /// Within which all users claim for the first time.
    pub(super) window_seconds: f64,
}

/// What an account may do in its Region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quotas {
    pub(super) requests: f64,
    pub(super) burst: f64,
    pub(super) connections: f64,
    pub(super) concurrency: f64,
    pub(super) table_writes: f64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            requests: l::API_REQUESTS.value,
            burst: l::API_BURST.value,
            connections: l::CONNECTIONS.value,
            concurrency: l::CONCURRENCY.value,
            table_writes: l::TABLE_WRITES.value,
        }
    }
}

/// Parameters of template.yaml.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Settings {
    /// ClaimRequestsPerSecond.
    pub(super) claims: f64,
    /// BroadcastRequestsPerSecond.
    pub(super) posts_per_worker: f64,
    /// DeliveriesMaxConcurrency.
    pub(super) delivery_workers: f64,
    /// BroadcastMaxConcurrency.
    pub(super) broadcast_workers: f64,
    /// IssueMaxConcurrency.
    pub(super) issue_workers: f64,
    /// ClaimBatchSize.
    pub(super) batch: usize,
    /// ClaimBatchWindowSeconds.
    pub(super) window_seconds: f64,
    /// Pollers to switch on (`firstcome pollers on`); 0 for none.
    pub(super) pollers: f64,
    /// Write units a second that the tables are to take at once (`firstcome warm`); those of a new table need no call.
    pub(super) warm_writes: f64,
}

impl Settings {
    /// Coupons of one transaction, at most.
    pub(super) fn chunk(&self) -> usize {
        self.batch.min(MAX_CHUNK)
    }

    /// Write units of a coupon, with its part of the counter's: 2.02 in full transactions, 2.2 in those of ten.
    pub(super) fn writes_per_coupon(&self) -> f64 {
        2.0 + 2.0 / self.chunk() as f64
    }

    /// What a batch takes beside its wait for table capacity.
    pub(super) fn batch_seconds(&self) -> f64 {
        if self.batch > MAX_CHUNK {
            l::BATCH_SECONDS.value
        } else {
            l::SMALL_BATCH_SECONDS.value
        }
    }
}

/// Executions to reserve, so that the door cannot take those that decide and answer (template.yaml).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reservations {
    /// DoorReservedConcurrency.
    pub(super) door: f64,
    /// ApiReservedConcurrency.
    pub(super) api: f64,
    /// IssueReservedConcurrency.
    pub(super) issue: f64,
    /// BroadcastReservedConcurrency.
    pub(super) broadcast: f64,
}

/// What to reserve for these settings; `None` where the account's quota does not hold it: AWS keeps a hundred executions
/// unreserved, and handshakes need theirs.
pub(super) fn reservations(settings: &Settings, quotas: &Quotas) -> Option<Reservations> {
    let issue = if settings.pollers > 0.0 {
        settings.pollers * l::POLLER_BATCHES.value
    } else {
        settings.issue_workers
    };
    let wanted = Reservations {
        door: (settings.claims * l::DOOR_SECONDS.value).ceil(),
        api: (HTTP_REQUESTS * l::DOOR_SECONDS.value).ceil(),
        issue: issue + PRIORITY_WORKERS,
        broadcast: settings.delivery_workers + settings.broadcast_workers,
    };
    let reserved = wanted.door + wanted.api + wanted.issue + wanted.broadcast;
    let handshakes = (2.0 * quotas.connections * l::DOOR_SECONDS.value).ceil();
    let left = quotas.concurrency - reserved;
    (left >= handshakes.max(l::UNRESERVED.value)).then_some(wanted)
}

/// Their defaults; a test holds them to the file.
pub(super) const TEMPLATE: Settings = Settings {
    claims: 2500.0,
    posts_per_worker: 280.0,
    delivery_workers: 5.0,
    broadcast_workers: 10.0,
    issue_workers: 20.0,
    batch: 10,
    window_seconds: 0.0,
    pollers: 0.0,
    warm_writes: l::NEW_TABLE_WRITES.value,
};
/// HttpRequestsPerSecond.
const HTTP_REQUESTS: f64 = 500.0;
/// PriorityIssueMaxConcurrency.
const PRIORITY_WORKERS: f64 = 5.0;

/// The quotas that let everybody be answered [`PATIENCE_SECONDS`] after the window; never less than what there is.
pub(super) fn quotas_for(load: &Load, have: &Quotas) -> Quotas {
    let claims = f64::from(load.users) / (load.window_seconds + PATIENCE_SECONDS);
    let requests = have
        .requests
        .max(up(claims / TEMPLATE.claims * l::API_REQUESTS.value, 1000.0));
    let connections = have
        .connections
        .max(up(f64::from(load.users) / GATHERING_SECONDS, 100.0));
    let mut wanted = Quotas {
        requests,
        // AWS sets the burst with the rate; the default ratio is assumed.
        burst: have
            .burst
            .max(requests * l::API_BURST.value / l::API_REQUESTS.value),
        connections,
        ..*have
    };
    let settings = settings_for(load, &wanted);
    wanted.concurrency = have
        .concurrency
        .max(up(executions(&settings, &wanted), 500.0));
    wanted.table_writes = have
        .table_writes
        .max(up(writes_wanted(load, &settings, &wanted), 1000.0));
    wanted
}

/// Parameters within these quotas. The template's shares of the requests are kept: they grow with the quota.
pub(super) fn settings_for(load: &Load, quotas: &Quotas) -> Settings {
    let scale = quotas.requests / l::API_REQUESTS.value;
    let claims = (TEMPLATE.claims * scale).floor();
    let mut settings = Settings {
        claims,
        posts_per_worker: (TEMPLATE.posts_per_worker * scale).floor().max(1.0),
        ..TEMPLATE
    };
    let rush = peak(load).min(claims);
    let decided = |settings: &Settings, workers: f64| {
        workers * settings.batch as f64 / settings.batch_seconds()
    };
    // Batches of ten are decided without a wait; they no longer suffice where all workers together are half busy.
    if rush > decided(&settings, settings.issue_workers) / 2.0 {
        (settings.batch, settings.window_seconds) = RUSH_BATCH;
    }
    if settings.batch > MAX_CHUNK && rush > decided(&settings, l::FIRST_WORKERS.value) / 2.0 {
        let by_batches =
            rush * settings.batch_seconds() / settings.batch as f64 / l::POLLER_BATCHES.value;
        let by_bytes = rush * l::CLAIM_BYTES.value / l::POLLER_BYTES.value;
        // Twice what is needed: a poller that is always busy is a queue.
        settings.pollers = (2.0 * by_batches.max(by_bytes)).ceil().max(2.0);
    }
    settings.warm_writes = up(writes_wanted(load, &settings, quotas), 1000.0)
        .clamp(l::NEW_TABLE_WRITES.value, quotas.table_writes);
    settings
}

/// Write units a second of the busiest table: coupons while they go, or connections while they come.
fn writes_wanted(load: &Load, settings: &Settings, quotas: &Quotas) -> f64 {
    let coupons = settings
        .claims
        .min(peak(load))
        .min(f64::from(load.stock))
        .min(counters_per_second(load, settings));
    (coupons * settings.writes_per_coupon())
        .max(quotas.connections.min(f64::from(load.users)) * WRITES_PER_CONNECTION)
}

/// First claims in the busiest second, the first one, by the arrival curve.
pub(super) fn peak(load: &Load) -> f64 {
    f64::from(load.users) * arrived(1.0 / load.window_seconds)
}

/// The share of the crowd that has claimed after this share of the window: its cube root. Half come in the first eighth.
pub(super) fn arrived(share: f64) -> f64 {
    share.clamp(0.0, 1.0).cbrt()
}

/// Coupons a second that the stock's counters allow: a counter is written by one transaction at a time.
pub(super) fn counters_per_second(load: &Load, settings: &Settings) -> f64 {
    let transactions = (1.0 / l::TRANSACTION_SECONDS.value).min(l::PARTITION_WRITES.value / 2.0);
    f64::from(shards_for(load.stock)) * transactions * settings.chunk() as f64
}

/// Coupons a second that the tables allow.
pub(super) fn tables_per_second(settings: &Settings) -> f64 {
    settings.warm_writes / settings.writes_per_coupon()
}

/// Lambda executions at once: the door's, those of the handshake at the same time, and the workers.
pub(super) fn executions(settings: &Settings, quotas: &Quotas) -> f64 {
    let workers = if settings.pollers > 0.0 {
        settings.pollers * l::POLLER_BATCHES.value
    } else {
        settings.issue_workers
    };
    // Handshakes and claims are both at the door's pace; authorizer and $connect are two of them.
    let doors = (settings.claims + 2.0 * quotas.connections) * l::DOOR_SECONDS.value;
    doors + workers + settings.delivery_workers + settings.broadcast_workers
}

/// Posts of answers a second.
pub(super) fn answers_per_second(settings: &Settings) -> f64 {
    settings.delivery_workers * settings.posts_per_worker
}

/// How long an announcement takes to reach so many sockets. Its pages are as many as membership shards; one that has
/// carried itself on too often goes on after the queue's visibility timeout.
pub(super) fn announcing_seconds(users: f64, settings: &Settings) -> f64 {
    let pages = f64::from(MEMBERSHIP_SHARDS);
    let at_once = settings.broadcast_workers.min(pages) * settings.posts_per_worker;
    let pauses = (users / pages / reach(settings)).ceil() - 1.0;
    users / at_once + pauses.max(0.0) * VISIBILITY_SECONDS
}

/// How many sockets one page, or one telling of the stock, reaches before it has carried itself on as often as it may.
pub(super) fn reach(settings: &Settings) -> f64 {
    f64::from(MAX_GENERATION + 1) * POSTING_SECONDS * settings.posts_per_worker
}

/// Rounded up to a multiple.
pub(super) fn up(value: f64, step: f64) -> f64 {
    (value / step).ceil() * step
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_yaml_ng::Value;

    fn load(users: u32, stock: u32, window_seconds: f64) -> Load {
        Load {
            users,
            stock,
            window_seconds,
        }
    }

    #[test]
    fn the_settings_are_the_templates() {
        let text = include_str!("../../../template.yaml");
        let template: Value = serde_yaml_ng::from_str(text).unwrap();
        let default = |name: &str| template["Parameters"][name]["Default"].as_f64().unwrap();
        let read = Settings {
            claims: default("ClaimRequestsPerSecond"),
            posts_per_worker: default("BroadcastRequestsPerSecond"),
            delivery_workers: default("DeliveriesMaxConcurrency"),
            broadcast_workers: default("BroadcastMaxConcurrency"),
            issue_workers: default("IssueMaxConcurrency"),
            batch: default("ClaimBatchSize") as usize,
            window_seconds: default("ClaimBatchWindowSeconds"),
            pollers: 0.0,
            warm_writes: l::NEW_TABLE_WRITES.value,
        };
        assert_eq!(read, TEMPLATE);
        assert_eq!(default("HttpRequestsPerSecond"), HTTP_REQUESTS);
        assert_eq!(default("PriorityIssueMaxConcurrency"), PRIORITY_WORKERS);
        let visibility =
            &template["Resources"]["BroadcastQueue"]["Properties"]["VisibilityTimeout"];
        assert_eq!(visibility.as_f64(), Some(VISIBILITY_SECONDS));
    }

    #[test]
    fn small_sales_are_decided_without_a_wait_and_rushes_in_full_transactions() {
        let settings = |users, stock| settings_for(&load(users, stock, 10.0), &Quotas::default());
        let (small, rush) = (settings(1000, 300), settings(30_000, 3000));
        assert_eq!((small.batch, small.window_seconds), (10, 0.0));
        assert_eq!((rush.batch, rush.window_seconds), RUSH_BATCH);
        assert_eq!(small.writes_per_coupon(), 2.2);
        assert!((rush.writes_per_coupon() - 2.02).abs() < 0.001);
    }

    #[test]
    fn executions_are_reserved_where_the_quota_holds_them() {
        let reserved = reservations(&TEMPLATE, &Quotas::default()).unwrap();
        assert_eq!(
            (
                reserved.door,
                reserved.api,
                reserved.issue,
                reserved.broadcast
            ),
            (100.0, 20.0, 25.0, 15.0)
        );
        let young = Quotas {
            concurrency: 10.0,
            ..Quotas::default()
        };
        assert_eq!(reservations(&TEMPLATE, &young), None);
    }

    #[test]
    fn a_small_sale_needs_nothing_beyond_the_defaults() {
        let sale = load(1000, 300, 10.0);
        assert_eq!(quotas_for(&sale, &Quotas::default()), Quotas::default());
        assert_eq!(settings_for(&sale, &Quotas::default()), TEMPLATE);
    }

    #[test]
    fn a_large_sale_asks_for_the_requests_that_answer_it_in_time() {
        let sale = load(1_000_000, 100_000, 60.0);
        let wanted = quotas_for(&sale, &Quotas::default());
        let settings = settings_for(&sale, &wanted);
        assert_eq!(wanted.requests, 58_000.0);
        assert!(settings.claims * (60.0 + PATIENCE_SECONDS) >= 1_000_000.0);
        assert!(settings.pollers >= 2.0);
        assert!(settings.warm_writes > l::NEW_TABLE_WRITES.value);
        assert!(settings.warm_writes <= wanted.table_writes);
    }

    #[test]
    fn what_an_account_has_is_never_asked_to_shrink() {
        let rich = Quotas {
            requests: 90_000.0,
            burst: 45_000.0,
            connections: 2000.0,
            concurrency: 10_000.0,
            table_writes: 100_000.0,
        };
        assert_eq!(quotas_for(&load(1000, 10, 1.0), &rich), rich);
    }

    #[test]
    fn half_the_crowd_comes_in_the_first_eighth() {
        assert_eq!(arrived(0.125), 0.5);
        assert_eq!((arrived(0.0), arrived(1.0), arrived(7.0)), (0.0, 1.0, 1.0));
        assert_eq!(peak(&load(8000, 1, 8.0)), 4000.0);
    }

    #[test]
    fn an_announcement_waits_where_a_page_is_longer_than_its_runs() {
        let reached = reach(&TEMPLATE) * f64::from(MEMBERSHIP_SHARDS);
        let (within, beyond) = (
            announcing_seconds(reached, &TEMPLATE),
            announcing_seconds(reached * 1.01, &TEMPLATE),
        );
        assert!((within - 9.0 * POSTING_SECONDS).abs() < 1e-6, "{within}");
        assert!(beyond > within + VISIBILITY_SECONDS);
    }

    #[test]
    fn the_requests_of_all_parts_stay_within_the_quota() {
        for requests in [2500.0, 10_000.0, 58_000.0] {
            let quotas = Quotas {
                requests,
                ..Quotas::default()
            };
            let settings = settings_for(&load(1_000_000, 1, 1.0), &quotas);
            let posts = answers_per_second(&settings)
                + settings.broadcast_workers * settings.posts_per_worker;
            assert!(settings.claims + posts <= 0.67 * requests + 1.0);
        }
    }
}
