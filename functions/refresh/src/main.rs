//! `refresh`: the minute's round. Composition only; see `handler`.

mod handler;

use firstcome_core::aws::{Aws, DynamoSnapshots, DynamoWallets, SqsBroadcasts, variable};
use firstcome_core::{SystemClock, SystemEntropy, lambda, metric};
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};
use serde::de::IgnoredAny;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    metric::install()?;
    lambda::log_panics();
    let aws = Aws::load().await;
    let store = DynamoSnapshots::new(&aws, variable("CAMPAIGNS_TABLE")?);
    let broadcasts = SqsBroadcasts::new(&aws, variable("BROADCAST_QUEUE_URL")?);
    let wallets = DynamoWallets::new(&aws, variable("WALLETS_TABLE")?);
    run(service_fn(async |event: LambdaEvent<IgnoredAny>| {
        let done = handler::round(&store, &broadcasts, &wallets, &SystemClock, &SystemEntropy);
        let instead = || Err("the round panicked".into());
        lambda::invocation(&event.context.request_id, done, instead).await
    }))
    .await
}
