//! `alert`: tells alarms to a webhook. Composition only; see `handler`.

mod handler;
mod webhook;

use firstcome_core::aws::{Aws, variable};
use firstcome_core::{lambda, metric};
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};
use webhook::{HttpWebhook, SecretAddress};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    metric::install()?;
    lambda::log_panics();
    let address = SecretAddress::new(Aws::load().await, variable("WEBHOOK_SECRET")?);
    let webhook = HttpWebhook::new()?;
    run(service_fn(async |event: LambdaEvent<lambda::RawEvent>| {
        let done = handler::answer(&address, &webhook, event.payload.text());
        let instead = || Err(handler::panicked());
        lambda::invocation(&event.context.request_id, done, instead).await
    }))
    .await
}
