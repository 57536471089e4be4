//! `disconnect`: forgets a closed socket. Composition only; see `handler`.

mod handler;

use firstcome_core::aws::{Aws, DynamoConnections, variable};
use firstcome_core::{lambda, metric};
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    metric::install()?;
    lambda::log_panics();
    let connections_table = variable("CONNECTIONS_TABLE")?;
    let connections = DynamoConnections::new(&Aws::load().await, connections_table);
    run(service_fn(async |event: LambdaEvent<lambda::RawEvent>| {
        let answer = handler::answer(&connections, event.payload.text());
        let instead = || Ok(handler::after_panic());
        lambda::invocation(&event.context.request_id, answer, instead).await
    }))
    .await
}
