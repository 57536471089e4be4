//! `authorize`: lets a ticket's holder open a socket. Composition only; see `handler`.

mod handler;

use firstcome_core::aws::{Aws, secret_text, variable};
use firstcome_core::{Clock, SystemClock, TicketKey, lambda, metric};
use handler::{Doorman, Origins};
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    metric::install()?;
    lambda::log_panics();
    let secret = variable("TICKET_SECRET")?;
    // Empty is a choice: then only apps, which send no Origin, may connect.
    let origins = Origins::parse(&std::env::var("ALLOWED_ORIGINS").unwrap_or_default());
    let aws = Aws::load().await;
    let doorman = Doorman {
        key: TicketKey::new(&secret_text(&aws, &secret).await?)?,
        origins,
    };
    run(service_fn(async |event: LambdaEvent<lambda::RawEvent>| {
        let answer = async { doorman.answer(event.payload.text(), SystemClock.now()) };
        let instead = || Err(handler::panicked());
        lambda::invocation(&event.context.request_id, answer, instead).await
    }))
    .await
}
