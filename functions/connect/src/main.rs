//! `connect`: consumes the ticket and registers the socket. Composition only; see `handler`.

mod handler;

use firstcome_core::aws::{Aws, DynamoCampaigns, DynamoConnections, variable};
use firstcome_core::{SystemClock, lambda, metric};
use handler::Reception;
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    metric::install()?;
    lambda::log_panics();
    let (connections_table, campaigns_table) =
        (variable("CONNECTIONS_TABLE")?, variable("CAMPAIGNS_TABLE")?);
    let aws = Aws::load().await;
    let reception = Reception {
        connections: DynamoConnections::new(&aws, connections_table),
        campaigns: DynamoCampaigns::new(&aws, campaigns_table),
        clock: SystemClock,
    };
    run(service_fn(async |event: LambdaEvent<lambda::RawEvent>| {
        let answer = reception.answer(event.payload.text());
        let instead = || Ok(handler::after_panic());
        lambda::invocation(&event.context.request_id, answer, instead).await
    }))
    .await
}
