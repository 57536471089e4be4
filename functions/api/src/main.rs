//! Entry point of `api`: reads the environment, builds the adapters, serves the routes.
//! The variables and rights are those of `ApiFunction` in template.yaml.

mod auth;
mod budget;
mod gateway;
mod handler;
#[cfg(test)]
mod openapi;
mod path;
mod problem;
mod request;
mod routes;

use std::sync::Arc;

use firstcome_core::{SystemClock, SystemEntropy, TicketKey, aws, lambda, metric};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};

use crate::gateway::{Answer, Door};
use crate::handler::{Api, Ports};

struct OnAws;

impl Ports for OnAws {
    type Campaigns = aws::DynamoCampaigns;
    type Catalog = aws::DynamoCatalog;
    type Coupons = aws::DynamoCoupons;
    type UserCoupons = aws::DynamoUserCoupons;
    type Redemptions = aws::DynamoRedemptions;
    type Wallets = aws::DynamoWallets;
    type Keys = aws::DynamoKeys;
    type Claims = aws::SqsClaims;
    type Broadcasts = aws::SqsBroadcasts;
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber();
    metric::install()?;
    lambda::log_panics();
    let sdk = aws::Aws::load().await;
    let (campaigns, coupons) = (
        aws::variable("CAMPAIGNS_TABLE")?,
        aws::variable("COUPONS_TABLE")?,
    );
    let secret = aws::secret_text(&sdk, &aws::variable("TICKET_SECRET")?).await?;
    let api = Api::<OnAws> {
        campaigns: aws::DynamoCampaigns::new(&sdk, campaigns.clone()),
        catalog: aws::DynamoCatalog::new(&sdk, campaigns),
        coupons: aws::DynamoCoupons::new(&sdk, coupons.clone()),
        user_coupons: aws::DynamoUserCoupons::new(&sdk, coupons.clone()),
        redemptions: aws::DynamoRedemptions::new(&sdk, coupons.clone()),
        wallets: aws::DynamoWallets::new(&sdk, aws::variable("WALLETS_TABLE")?)
            .with_coupons(coupons),
        budgets: budget::Budgets::new(aws::variable("PARTNER_REQUESTS_PER_SECOND")?.parse()?),
        gate: auth::Gate::new(aws::DynamoKeys::new(&sdk, aws::variable("PARTNERS_TABLE")?)),
        claims: aws::SqsClaims::new(
            &sdk,
            aws::variable("CLAIMS_QUEUE_URL")?,
            aws::variable("PRIORITY_CLAIMS_QUEUE_URL")?,
        ),
        broadcasts: aws::SqsBroadcasts::new(&sdk, aws::variable("BROADCAST_QUEUE_URL")?),
        tickets: TicketKey::new(&secret)?,
        cursors: request::CursorSeal::derived_from(&secret),
        websocket_url: aws::variable("WEBSOCKET_URL")?,
        clock: Box::new(SystemClock),
        entropy: Box::new(SystemEntropy),
    };
    let door = Door::new(Arc::new(api));
    run(service_fn(async |event: LambdaEvent<lambda::RawEvent>| {
        let answer = door.answer(event.payload.text());
        let id = &event.context.request_id;
        Ok::<_, Error>(lambda::invocation(id, answer, Answer::after_panic).await)
    }))
    .await
}
