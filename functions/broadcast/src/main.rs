//! `broadcast`: posts answers and announcements to open sockets. Composition only; see `handler`.

mod handler;

use firstcome_core::aws::{
    Aws, DynamoCampaigns, DynamoConnections, DynamoFanOut, GatewayPusher, SqsBroadcasts, variable,
};
use firstcome_core::{PostEngine, SystemClock};
use handler::Worker;
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let campaigns_table = variable("CAMPAIGNS_TABLE")?;
    // All workers share the budget of posts; each keeps to its part, whether it answers or announces.
    let budget: u32 = variable("BROADCAST_REQUESTS_PER_SECOND")?.parse()?;
    let workers = variable("BROADCAST_WORKERS")?.parse::<u32>()?
        + variable("DELIVERY_WORKERS")?.parse::<u32>()?;
    let requests_per_second = (budget / workers.max(1)).max(1);
    let aws = Aws::load().await;
    let pusher = GatewayPusher::new(&aws, variable("MANAGEMENT_ENDPOINT")?);
    let worker = Worker {
        engine: PostEngine::new(pusher, requests_per_second),
        connections: DynamoConnections::new(&aws, variable("CONNECTIONS_TABLE")?),
        records: DynamoFanOut::new(&aws, campaigns_table.clone()),
        campaigns: DynamoCampaigns::new(&aws, campaigns_table),
        outbox: SqsBroadcasts::new(&aws, variable("BROADCAST_QUEUE_URL")?),
        clock: SystemClock,
    };
    run(service_fn(async |event: LambdaEvent<_>| {
        let deadline = handler::deadline(&event.context);
        worker.handle(event.payload, deadline).await
    }))
    .await
}
