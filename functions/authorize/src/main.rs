//! `authorize`: lets a ticket's holder open a socket. Composition only; see `handler`.

mod handler;

use aws_lambda_events::apigw::ApiGatewayCustomAuthorizerRequestTypeRequest;
use firstcome_core::aws::{Aws, secret_text, variable};
use firstcome_core::{Clock, SystemClock, TicketKey, metric};
use handler::{Doorman, Origins};
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    metric::install()?;
    let secret = variable("TICKET_SECRET")?;
    // Empty is a choice: then only apps, which send no Origin, may connect.
    let origins = Origins::parse(&std::env::var("ALLOWED_ORIGINS").unwrap_or_default());
    let aws = Aws::load().await;
    let doorman = Doorman {
        key: TicketKey::new(&secret_text(&aws, &secret).await?)?,
        origins,
    };
    run(service_fn(
        async |event: LambdaEvent<ApiGatewayCustomAuthorizerRequestTypeRequest>| {
            let answer = doorman.judge(&event.payload, SystemClock.now());
            metric::flush(&event.context.request_id);
            Ok::<_, Error>(answer)
        },
    ))
    .await
}
