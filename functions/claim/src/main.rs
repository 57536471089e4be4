//! `claim`: every frame a client sends. Composition only; see `handler`.

mod handler;

use firstcome_core::aws::{
    Aws, DynamoCampaigns, DynamoConnections, DynamoCoupons, DynamoSnapshots, SqsClaims,
    SqsDeliveries, variable,
};
use firstcome_core::{
    CampaignDirectory, DIRECTORY_FRESHNESS, Gate, SystemClock, SystemEntropy, lambda, metric,
};
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    metric::install()?;
    lambda::log_panics();
    let campaigns_table = variable("CAMPAIGNS_TABLE")?;
    let aws = Aws::load().await;
    let snapshots = DynamoSnapshots::new(&aws, campaigns_table.clone());
    let gate = Gate {
        directory: CampaignDirectory::new(snapshots, SystemClock, DIRECTORY_FRESHNESS),
        records: DynamoCampaigns::new(&aws, campaigns_table),
        coupons: DynamoCoupons::new(&aws, variable("COUPONS_TABLE")?),
        claims: SqsClaims::new(
            &aws,
            variable("CLAIMS_QUEUE_URL")?,
            variable("PRIORITY_CLAIMS_QUEUE_URL")?,
        ),
        subscriptions: DynamoConnections::new(&aws, variable("CONNECTIONS_TABLE")?),
        deliveries: SqsDeliveries::new(&aws, variable("DELIVERIES_QUEUE_URL")?),
        clock: SystemClock,
        entropy: SystemEntropy,
    };
    // In init, where time costs users nothing: the snapshot, and with it a TLS connection to DynamoDB. If it fails or takes too
    // long, the first frame that needs the snapshot loads it.
    handler::warm(&gate.directory).await;
    run(service_fn(async |event: LambdaEvent<lambda::RawEvent>| {
        let trace = event.context.xray_trace_id.as_deref();
        let answer = handler::answer(&gate, event.payload.text(), trace);
        let instead = || handler::after_panic(&SystemEntropy);
        lambda::invocation(&event.context.request_id, answer, instead).await
    }))
    .await
}
