//! The stack under test, found through the AWS environment.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use firstcome_core::aws::operator::{Operator, StoredCoupon, StoredStock};
use firstcome_core::{CampaignId, ConnectionId, PartnerId, Scope, Timestamp, Topic};
use tokio::time::{Instant, sleep};

use crate::Partner;

/// A deployed stack: `STACK`, or `firstcome`, in the AWS environment.
#[derive(Clone, Debug)]
pub struct Stack {
    operator: Operator,
    http: reqwest::Client,
}

impl Stack {
    /// Finds the stack.
    ///
    /// # Panics
    /// If there is none: end-to-end tests without a stack have failed, not passed.
    pub async fn find() -> Self {
        let name = std::env::var("STACK").unwrap_or_else(|_| "firstcome".to_owned());
        let operator = match Operator::find(&name).await {
            Ok(operator) => operator,
            Err(error) => panic!("the end-to-end tests need a deployed stack: {error}"),
        };
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .no_proxy()
            .build();
        Self {
            operator,
            http: http.expect("an HTTP client can be set up"),
        }
    }

    /// The operator's view of it.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// A new partner whose key may do everything.
    pub async fn partner(&self) -> Partner {
        self.partner_with(&Scope::ALL, None).await
    }

    /// A new partner with a key of these scopes that ends then.
    ///
    /// # Panics
    /// If it cannot be stored.
    pub async fn partner_with(&self, scopes: &[Scope], expires_at: Option<Timestamp>) -> Partner {
        let created = self
            .operator
            .create_partner("end-to-end test", scopes, expires_at)
            .await;
        let created = created.unwrap_or_else(|error| panic!("no partner: {error}"));
        Partner::new(self.clone(), created.partner_id, Some(created.api_key))
    }

    /// Somebody at the API with this key, or none.
    pub fn stranger(&self, key: Option<&str>) -> Partner {
        let id = PartnerId::new("stranger").expect("a valid id");
        Partner::new(self.clone(), id, key.map(str::to_owned))
    }

    /// The campaign's coupons in the table.
    ///
    /// # Panics
    /// If they cannot be read.
    pub async fn coupons(&self, campaign: &str) -> Vec<StoredCoupon> {
        let found = self.operator.coupons(&campaign_id(campaign)).await;
        found.unwrap_or_else(|error| panic!("no coupons: {error}"))
    }

    /// The campaign's stock in the table: remaining, issued, quota, summed over its shards.
    ///
    /// # Panics
    /// If it cannot be read.
    pub async fn stock(&self, campaign: &str) -> (u64, u64, u64) {
        let found = self.operator.stock(&campaign_id(campaign)).await;
        let shards = found.unwrap_or_else(|error| panic!("no stock: {error}"));
        let sum = |part: fn(&StoredStock) -> u64| shards.iter().map(part).sum();
        (
            sum(|shard| shard.remaining),
            sum(|shard| shard.issued),
            sum(|shard| shard.quota),
        )
    }

    /// The partner's sockets in the table.
    ///
    /// # Panics
    /// If they cannot be read.
    pub async fn sockets_of(&self, partner: &Partner) -> Vec<ConnectionId> {
        let found = self
            .operator
            .members(&Topic::Partner(partner.id().clone()))
            .await;
        found.unwrap_or_else(|error| panic!("no memberships: {error}"))
    }

    /// Whether it runs on this machine.
    pub fn is_local(&self) -> bool {
        self.operator.stack().http_api_url.starts_with("http://")
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }
}

/// Asks again and again until the answer is `Some`.
///
/// # Panics
/// If it is still `None` after `limit`.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: not within {} s",
            limit.as_secs()
        );
        sleep(Duration::from_millis(300)).await;
    }
}

/// The time in so many seconds, as the interface writes it.
pub fn in_seconds(seconds: i64) -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(millis)
        .plus_seconds(seconds)
        .to_string()
}

fn campaign_id(text: &str) -> CampaignId {
    CampaignId::new(text).expect("the API returns valid ids")
}
