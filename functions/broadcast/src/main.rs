//! `broadcast`: posts answers and announcements to open sockets. Composition only; see `handler`.

mod handler;

use firstcome_core::aws::{
    Aws, DynamoCampaigns, DynamoConnections, DynamoFanOut, GatewayPusher, SqsBroadcasts,
    SqsDeliveries, variable,
};
use firstcome_core::{PostEngine, SystemClock, lambda, metric};
use handler::Worker;
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

/// A post makes two hundred allocations; with this one it costs a tenth less CPU (bench/README.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    metric::install()?;
    lambda::log_panics();
    let campaigns_table = variable("CAMPAIGNS_TABLE")?;
    let requests_per_second = variable("BROADCAST_REQUESTS_PER_SECOND")?.parse()?;
    let aws = Aws::load().await;
    let pusher = GatewayPusher::new(&aws, variable("MANAGEMENT_ENDPOINT")?);
    let worker = Worker {
        engine: PostEngine::new(pusher, requests_per_second),
        connections: DynamoConnections::new(&aws, variable("CONNECTIONS_TABLE")?),
        records: DynamoFanOut::new(&aws, campaigns_table.clone()),
        campaigns: DynamoCampaigns::new(&aws, campaigns_table),
        outbox: SqsBroadcasts::new(&aws, variable("BROADCAST_QUEUE_URL")?),
        retries: SqsDeliveries::new(&aws, variable("DELIVERIES_QUEUE_URL")?),
        clock: SystemClock,
    };
    run(service_fn(async |event: LambdaEvent<lambda::RawEvent>| {
        let deadline = handler::deadline(&event.context);
        let answer = worker.answer(event.payload.text(), deadline);
        let instead = || handler::all_again(&event.payload);
        lambda::invocation(&event.context.request_id, answer, instead).await
    }))
    .await
}
