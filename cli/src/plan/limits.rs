//! What AWS documents and what is assumed where it documents nothing: the table that everything else here is computed from.

/// A figure, and where it is from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    pub(super) what: &'static str,
    pub(super) value: f64,
    pub(super) source: &'static str,
}

const API_GATEWAY: &str = "API Gateway developer guide, limits.html";
const WEB_SOCKET: &str =
    "API Gateway developer guide, apigateway-execution-service-websocket-limits-table.html";
const LAMBDA: &str = "Lambda developer guide, gettingstarted-limits.html";
const SCALING: &str = "Lambda developer guide, services-sqs-scaling.html";
const POLLERS: &str = "Lambda developer guide, services-sqs-parameters.html";
const SQS: &str = "SQS developer guide, quotas-messages.html";
const DYNAMODB: &str = "DynamoDB developer guide, ServiceQuotas.html";
const WARM: &str = "DynamoDB developer guide, warm-throughput.html";
const PARTITIONS: &str = "DynamoDB developer guide, bp-partition-key-design.html";
const ASSUMED: &str = "assumed; measure yours";

macro_rules! figures {
    ($($name:ident = $value:expr, $what:expr, $source:expr;)*) => {
        $(pub(super) const $name: Figure = Figure { what: $what, value: $value, source: $source };)*
        /// All of them, in this order.
        pub(super) const ALL: &[Figure] = &[$($name),*];
    };
}

figures! {
    API_REQUESTS = 10_000.0, "API Gateway requests/s of an account and Region: HTTP, frames and posts together", API_GATEWAY;
    API_BURST = 5_000.0, "of them at once", API_GATEWAY;
    CONNECTIONS = 500.0, "new sockets/s of an account and Region", WEB_SOCKET;
    SOCKET_LIFE = 7_200.0, "seconds until a socket is ended", WEB_SOCKET;
    SOCKET_IDLE = 600.0, "seconds until an idle socket is ended", WEB_SOCKET;
    CONCURRENCY = 1_000.0, "Lambda executions at once, account and Region", LAMBDA;
    UNRESERVED = 100.0, "executions that AWS keeps unreserved", "Lambda developer guide, configuration-concurrency.html";
    FIRST_WORKERS = 5.0, "batches at once when a queue wakes up", SCALING;
    MORE_WORKERS = 300.0, "batches at once, more each minute", SCALING;
    POLLER_BATCHES = 10.0, "batches at once of a provisioned poller", POLLERS;
    POLLER_BYTES = 1_000_000.0, "bytes/s of a provisioned poller", POLLERS;
    IN_FLIGHT = 120_000.0, "messages of a queue received and not deleted", SQS;
    TABLE_WRITES = 40_000.0, "write units/s of a table", DYNAMODB;
    NEW_TABLE_WRITES = 4_000.0, "write units/s of a new on-demand table", WARM;
    PARTITION_WRITES = 1_000.0, "write units/s of a partition, and so of an item", PARTITIONS;
    TRANSACTION_SECONDS = 0.098, "seconds of a transaction of 100 items: p99 of 25 items, A. DeBrie's measurements on Lambda", ASSUMED;
    DOOR_SECONDS = 0.040, "seconds from a frame to the door's answer, warm", ASSUMED;
    BATCH_SECONDS = 0.300, "seconds of a batch of hundreds of claims beside its wait for table capacity", ASSUMED;
    SMALL_BATCH_SECONDS = 0.150, "seconds of a batch of ten claims, likewise", ASSUMED;
    POST_SECONDS = 0.050, "seconds from an answer in the queue to the socket, beside its wait for a turn", ASSUMED;
    CLAIM_BYTES = 400.0, "bytes of a claim message", ASSUMED;
}
