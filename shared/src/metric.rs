//! What the functions measure, and the line that tells CloudWatch (embedded metric format, EMF). Handlers note facts that
//! the domain has returned; nothing of the domain calls this. Without [`install`] every call does nothing.
//!
//! Each invocation writes one line on stdout, as it is: `LogFormat: JSON` passes on what is JSON already
//! (<https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-logformat.html>). The only
//! dimension is the function's name. What has no bound, such as a campaign's id, goes beside the metrics as a plain field.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use metrics_cloudwatch_embedded::{Builder, Collector};
use thiserror::Error;

use crate::{CampaignId, Outcome};

/// The CloudWatch namespace of every metric here (template.yaml names it in its alarms).
pub const METRICS_NAMESPACE: &str = "firstcome";

/// The only dimension.
pub const METRICS_DIMENSION: &str = "function";

/// The field beside the metrics that counts by campaign.
pub const CAMPAIGNS_FIELD: &str = "campaigns";

/// The most values of one metric in a line
/// (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).
pub const MAX_VALUES: usize = 100;

/// How a metric's values are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// How often; values add up.
    Count,
    /// A state; the last value holds.
    Gauge,
    /// Durations in milliseconds, several in a line.
    Millis,
    /// Sizes, several in a line.
    Size,
}

macro_rules! metrics {
    ($($name:ident $kind:ident $meaning:literal)*) => {
        /// Everything that is measured. The variant's name is the metric's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Metric { $(#[doc = $meaning] $name,)* }

        impl Metric {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in CloudWatch.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// How its values are to be read.
            pub fn kind(self) -> MetricKind {
                match self { $(Self::$name => MetricKind::$kind,)* }
            }

            /// What it says, in a line.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

metrics! {
    ClaimsAccepted Count "claims put into ClaimsQueue"
    ClaimsStanding Count "claims answered with a coupon that stood already"
    RefusedNotOpen Count "claims refused: before the opening"
    RefusedClosed Count "claims refused: after the end"
    RefusedSoldOut Count "claims refused: every shard was empty"
    RefusedUnknownCampaign Count "claims refused: no such campaign for this partner"
    RefusedInvalid Count "claims refused: can never be stored"
    FramesRefused Count "frames answered with an error"
    CacheHits Count "looks at the campaign snapshot that memory answered"
    CacheLoads Count "loads of the campaign snapshot"
    CacheFailures Count "loads of it that failed"
    CacheStale Count "looks answered by an old snapshot while it was loaded, or could not be"
    SnapshotAgeSeconds Gauge "age of the campaign snapshot that the door holds"
    BatchSize Size "messages in a batch"
    Issued Count "coupons issued"
    Replays Count "claims answered with a coupon that another message of theirs had won"
    CampaignsSoldOut Count "batches that saw a campaign sold out"
    Undecided Count "claims sent back undecided"
    Unanswered Count "claims sent back because their answer could not be sent"
    Poison Count "messages that are none of ours"
    Transactions Count "transactions sent, repeats included"
    Conflicts Count "transactions refused for others' writes or for a throttle, and tried again"
    LastTries Count "messages that failed on their last receive: they go to the dead-letter queue"
    ClaimToDecidedMillis Millis "from the claim's own time until it was decided"
    ClaimToDeliveredMillis Millis "from the claim's own time until its answer was posted"
    PostsSent Count "posts that reached their socket"
    PostsGone Count "posts to sockets that are gone"
    PostsThrottled Count "tries of a post that were answered: too many"
    PostsFailed Count "posts that failed; of an answer's last try they count as gone"
    PostsOpen Count "posts that the deadline left open"
    PostRate Gauge "posts a second that the limiter lets go"
    JobsFailed Count "jobs that come again"
    SnapshotsPublished Count "campaign snapshots written"
    CampaignsLive Gauge "campaigns in the snapshot"
    StockDrift Gauge "campaigns whose stock counters do not add up"
    Announced Count "announcements sent by the minute's round"
    WalletsSettled Count "wallets whose expired points were taken out"
    WalletsFailed Count "wallets that could not be settled"
    SocketsAdmitted Count "handshakes with a good ticket"
    SocketsDenied Count "handshakes without one, or from a page that is not listed"
    SocketsOpened Count "sockets registered"
    SocketsRefused Count "sockets refused: ticket used before, or unknown campaign"
    SocketsClosed Count "sockets closed"
    ApiRequests Count "requests of partners"
    ApiRefused Count "requests answered 4xx"
    ApiFailed Count "requests answered 5xx"
    AlertsPosted Count "alarms told to the webhook"
    Panics Count "handlers that panicked: a fault of the code"
}

impl Metric {
    /// What counts claims with this answer; `None` where a coupon stands.
    pub fn of_refusal(outcome: Outcome) -> Option<Self> {
        match outcome {
            Outcome::Issued | Outcome::AlreadyIssued => None,
            Outcome::SoldOut => Some(Self::RefusedSoldOut),
            Outcome::NotOpen => Some(Self::RefusedNotOpen),
            Outcome::Closed => Some(Self::RefusedClosed),
            Outcome::UnknownCampaign => Some(Self::RefusedUnknownCampaign),
            Outcome::Rejected => Some(Self::RefusedInvalid),
        }
    }
}

/// Why nothing is measured.
#[derive(Debug, Error)]
#[error("failed to install the metrics: {0}")]
pub struct InstallError(String);

type Campaigns = BTreeMap<CampaignId, BTreeMap<&'static str, u64>>;

struct Installed {
    collector: &'static Collector,
    campaigns: Mutex<Campaigns>,
}

impl Installed {
    fn campaigns(&self) -> MutexGuard<'_, Campaigns> {
        self.campaigns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

static INSTALLED: OnceLock<Installed> = OnceLock::new();

/// Starts measuring for this function: once, before its first invocation. Reads `AWS_LAMBDA_FUNCTION_NAME`.
///
/// # Errors
/// [`InstallError`] if it was called before.
pub fn install() -> Result<(), InstallError> {
    // `cargo lambda watch` and AWS both set it.
    let function = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
    let collector = Builder::new()
        .cloudwatch_namespace(METRICS_NAMESPACE)
        .with_dimension(METRICS_DIMENSION, function)
        .init()
        .map_err(|error| InstallError(error.to_string()))?;
    for metric in Metric::ALL {
        match metric.kind() {
            MetricKind::Count => {
                metrics::describe_counter!(metric.name(), metrics::Unit::Count, "");
            }
            MetricKind::Gauge => metrics::describe_gauge!(metric.name(), ""),
            MetricKind::Millis => {
                metrics::describe_histogram!(metric.name(), metrics::Unit::Milliseconds, "");
            }
            MetricKind::Size => {
                metrics::describe_histogram!(metric.name(), metrics::Unit::Count, "");
            }
        }
    }
    let campaigns = Mutex::default();
    INSTALLED
        .set(Installed {
            collector,
            campaigns,
        })
        .map_err(|_| InstallError("it was done before".into()))
}

/// Counts so many more. Zero writes nothing.
pub fn count(metric: Metric, more: usize) {
    metrics::counter!(metric.name()).increment(more as u64);
}

/// Counts so many more, and as many for this campaign in the field beside the metrics. Only campaigns that exist: their
/// number in one invocation is bounded by its batch.
pub fn count_of(metric: Metric, campaign: &CampaignId, more: usize) {
    count(metric, more);
    note_of(metric, campaign, more);
}

/// Counts so many for this campaign in the field beside the metrics only.
pub fn note_of(metric: Metric, campaign: &CampaignId, more: usize) {
    if let Some(installed) = INSTALLED.get() {
        let mut campaigns = installed.campaigns();
        let of_campaign = campaigns.entry(campaign.clone()).or_default();
        *of_campaign.entry(metric.name()).or_default() += more as u64;
    }
}

/// Notes a state; it is told again with every line until another is noted.
pub fn gauge(metric: Metric, value: f64) {
    metrics::gauge!(metric.name()).set(value);
}

/// Notes values, once an invocation. Of more than [`MAX_VALUES`] an even selection by rank is kept, the lowest and the
/// highest in it: percentiles of the line stay what they are, its number of values does not.
pub fn values(metric: Metric, mut values: Vec<f64>) {
    let histogram = metrics::histogram!(metric.name());
    values.sort_by(f64::total_cmp);
    let kept = values.len().min(MAX_VALUES);
    for rank in 0..kept {
        histogram.record(values[rank * (values.len() - 1) / (kept - 1).max(1)]);
    }
}

/// Ends an invocation: writes its line, if there is anything to tell. A line that cannot be written is lost; nothing else
/// depends on it.
pub fn flush(request_id: &str) {
    let Some(installed) = INSTALLED.get() else {
        return;
    };
    let campaigns = std::mem::take(&mut *installed.campaigns());
    installed.collector.set_property("requestId", request_id);
    if campaigns.is_empty() {
        installed.collector.remove_property(CAMPAIGNS_FIELD);
    } else if let Ok(campaigns) = serde_json::to_value(campaigns) {
        installed.collector.set_property(CAMPAIGNS_FIELD, campaigns);
    }
    // One write, so that the line stays whole beside the log's.
    let mut line = Vec::with_capacity(1024);
    if installed.collector.flush(&mut line).is_ok() {
        drop(std::io::stdout().lock().write_all(&line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_collector_noting_does_nothing() {
        count(Metric::Issued, 3);
        gauge(Metric::StockDrift, 0.0);
        values(Metric::ClaimToDecidedMillis, vec![]);
        flush("request");
    }
}
