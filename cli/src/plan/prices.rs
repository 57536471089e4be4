//! What AWS asks: on-demand list prices of us-east-1 in USD, without free tier, discounts and taxes.

/// When they were written down. Prices move: check them before a decision hangs on one.
pub(crate) const TAKEN: &str = "2026-11";

/// A price for one unit, and the page to check it on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Price {
    pub(crate) usd: f64,
    pub(crate) page: &'static str,
}

const fn per_million(usd: f64, page: &'static str) -> Price {
    Price {
        usd: usd / 1e6,
        page,
    }
}

const API_GATEWAY: &str = "aws.amazon.com/api-gateway/pricing";
const LAMBDA: &str = "aws.amazon.com/lambda/pricing";
const DYNAMODB: &str = "aws.amazon.com/dynamodb/pricing/on-demand";

/// A message to or from a socket, up to 32 KB.
pub(super) const MESSAGE: Price = per_million(1.00, API_GATEWAY);
/// A minute of an open socket.
pub(super) const SOCKET_MINUTE: Price = per_million(0.25, API_GATEWAY);
/// A call of the HTTP API.
pub(super) const HTTP_CALL: Price = per_million(1.00, API_GATEWAY);
/// An invocation.
pub(super) const INVOCATION: Price = per_million(0.20, LAMBDA);
/// A second of one GB of memory, arm64.
pub(super) const GB_SECOND: Price = per_million(13.333_4, LAMBDA);
/// A write request unit.
pub(super) const WRITE: Price = per_million(0.625, DYNAMODB);
/// A read request unit.
pub(super) const READ: Price = per_million(0.125, DYNAMODB);
/// A request to a standard queue, up to 64 KB.
pub(super) const QUEUE_REQUEST: Price = per_million(0.40, "aws.amazon.com/sqs/pricing");
/// A byte of logs taken in.
pub(super) const LOG_BYTE: Price = per_million(0.000_50, "aws.amazon.com/cloudwatch/pricing");
/// A byte sent to the internet.
pub(super) const BYTE_OUT: Price = per_million(
    0.000_09,
    "aws.amazon.com/ec2/pricing/on-demand, data transfer",
);

/// An hour of a provisioned poller of a queue: one event poller unit (1 MB/s) each.
pub(crate) const POLLER_HOUR: Price = Price {
    usd: 0.009_25,
    page: LAMBDA,
};
/// A write unit per second more of warm throughput, once. AWS prices it after provisioned units; that it is an hour of one is
/// assumed.
pub(crate) const WARM_WRITE: Price = Price {
    usd: 0.000_65,
    page: DYNAMODB,
};
/// A read unit per second more, likewise.
pub(crate) const WARM_READ: Price = Price {
    usd: 0.000_13,
    page: DYNAMODB,
};

/// What is charged and not computed here, with the page that says how much.
pub(super) const NOT_INCLUDED: [(&str, &str); 3] = [
    ("provisioned pollers, by the hour", LAMBDA),
    ("warm throughput above a new table's, once", DYNAMODB),
    (
        "tables' storage and backups; alarms and metrics",
        "their pages",
    ),
];
