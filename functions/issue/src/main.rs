//! `issue`: takes claims from ClaimsQueue and decides every one of them. Composition only; see `handler`.

use firstcome_core::aws::{
    Aws, DynamoCampaigns, DynamoLedger, SqsBroadcasts, SqsDeliveries, SqsReturns, variable,
};
use firstcome_core::{Issuer, StockNews, SystemClock, SystemEntropy, lambda, metric};
use issue::handler::{self, Worker};
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    metric::install()?;
    lambda::log_panics();
    let campaigns_table = variable("CAMPAIGNS_TABLE")?;
    let aws = Aws::load().await;
    let campaigns = DynamoCampaigns::new(&aws, campaigns_table.clone());
    let ledger = DynamoLedger::new(&aws, variable("COUPONS_TABLE")?, campaigns_table);
    let broadcasts = SqsBroadcasts::new(&aws, variable("BROADCAST_QUEUE_URL")?);
    let worker = Worker {
        issuer: Issuer::new(campaigns.clone(), ledger, SystemClock, SystemEntropy),
        news: StockNews::new(campaigns, broadcasts, SystemClock),
        deliveries: SqsDeliveries::new(&aws, variable("DELIVERIES_QUEUE_URL")?),
        returns: SqsReturns::new(
            &aws,
            [
                variable("CLAIMS_QUEUE_URL")?,
                variable("PRIORITY_CLAIMS_QUEUE_URL")?,
            ],
        ),
    };
    run(service_fn(async |event: LambdaEvent<lambda::RawEvent>| {
        let deadline = handler::deadline(&event.context);
        let answer = worker.handle_event(event.payload.text(), deadline);
        let instead = || handler::all_again(&event.payload);
        lambda::invocation(&event.context.request_id, answer, instead).await
    }))
    .await
}
