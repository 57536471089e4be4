//! The tables as they are: coupons, stock, and what is kept of sockets.

use aws_sdk_dynamodb::types::AttributeValue;

use super::{Item, Operator, OperatorError, number, text};
use crate::{CampaignId, ConnectionId, MEMBERSHIP_SHARDS, Topic};

/// A coupon as it stands in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCoupon {
    /// Whose campaign it is of.
    pub partner_id: String,
    /// Who holds it.
    pub user_id: String,
    /// The claim that won it.
    pub claim_id: String,
    /// What the user shows.
    pub code: String,
    /// The stock shard that paid for it.
    pub shard: u64,
}

/// A stock shard as it stands in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredStock {
    /// Which one.
    pub shard: u64,
    /// Coupons it can still issue.
    pub remaining: u64,
    /// Coupons it has issued.
    pub issued: u64,
    /// What it started with.
    pub quota: u64,
}

/// Everything the Connections table holds of one socket, as it is. For putting it back: the table of a gateway whose
/// `$disconnect` was lost looks exactly like that.
pub struct ConnectionItems(Vec<Item>);

impl ConnectionItems {
    /// How many items there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the table has forgotten the socket.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Operator {
    /// Every coupon of a campaign, whatever partner it is stored under. Scans the table: for looking, not for serving.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or an item is malformed.
    pub async fn coupons(&self, campaign: &CampaignId) -> Result<Vec<StoredCoupon>, OperatorError> {
        let mut pages = self
            .dynamo
            .scan()
            .table_name(&self.stack.coupons_table)
            .consistent_read(true)
            .filter_expression("sk = :campaign")
            .expression_attribute_values(":campaign", AttributeValue::S(campaign.to_string()))
            .into_paginator()
            .items()
            .send();
        let mut coupons = Vec::new();
        while let Some(item) = pages.next().await {
            coupons.push(stored_coupon(
                &item.map_err(|error| self.failed("scan the coupons", error))?,
            )?);
        }
        Ok(coupons)
    }

    /// A campaign's stock shards, all of them.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails, or the campaign or one of its shards is missing or malformed.
    pub async fn stock(&self, campaign: &CampaignId) -> Result<Vec<StoredStock>, OperatorError> {
        let record = format!("CAMPAIGN#{campaign}");
        let item = self
            .item(&self.stack.campaigns_table, &record, "CAMPAIGN")
            .await?;
        let shards = number(&item, &record, "shards")?;
        let mut stock = Vec::new();
        for shard in 0..shards {
            let key = format!("STOCK#{campaign}#{shard}");
            let item = self
                .item(&self.stack.campaigns_table, &key, "STOCK")
                .await?;
            stock.push(StoredStock {
                shard,
                remaining: number(&item, &key, "remaining")?,
                issued: number(&item, &key, "issued")?,
                quota: number(&item, &key, "quota")?,
            });
        }
        Ok(stock)
    }

    /// The sockets that hear a topic, as the table has them.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails or an item is malformed.
    pub async fn members(&self, topic: &Topic) -> Result<Vec<ConnectionId>, OperatorError> {
        let mut members = Vec::new();
        for shard in 0..MEMBERSHIP_SHARDS {
            let mut pages = self
                .dynamo
                .query()
                .table_name(&self.stack.connections_table)
                .consistent_read(true)
                .key_condition_expression("pk = :pk")
                .expression_attribute_values(":pk", AttributeValue::S(format!("{topic}#{shard}")))
                .into_paginator()
                .items()
                .send();
            while let Some(item) = pages.next().await {
                let item = item.map_err(|error| self.failed("query the connections", error))?;
                members.push(ConnectionId::new(text(&item, "membership", "sk")?)?);
            }
        }
        Ok(members)
    }

    /// Everything stored of a socket: its record and its memberships of `topics`.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails.
    pub async fn connection_items(
        &self,
        connection: &ConnectionId,
        topics: &[Topic],
    ) -> Result<ConnectionItems, OperatorError> {
        let memberships = topics.iter().flat_map(|topic| {
            (0..MEMBERSHIP_SHARDS)
                .map(move |shard| (format!("{topic}#{shard}"), connection.to_string()))
        });
        let keys =
            std::iter::once((format!("CONN#{connection}"), "META".to_owned())).chain(memberships);
        let mut items = Vec::new();
        for (pk, sk) in keys {
            items.extend(
                self.find_item(&self.stack.connections_table, &pk, &sk)
                    .await?,
            );
        }
        Ok(ConnectionItems(items))
    }

    /// Puts a socket's items back, as if `$disconnect` had never come.
    ///
    /// # Errors
    /// [`OperatorError`] if a call fails.
    pub async fn restore(&self, connection: &ConnectionItems) -> Result<(), OperatorError> {
        for item in &connection.0 {
            let put = self
                .dynamo
                .put_item()
                .table_name(&self.stack.connections_table)
                .set_item(Some(item.clone()));
            put.send()
                .await
                .map_err(|error| self.failed("restore a connection", error))?;
        }
        Ok(())
    }
}

fn stored_coupon(item: &Item) -> Result<StoredCoupon, OperatorError> {
    let key = text(item, "a coupon", "pk")?;
    let (partner, user) = key.split_once('#').ok_or(OperatorError::MalformedItem {
        item: key.to_owned(),
        attribute: "pk",
    })?;
    Ok(StoredCoupon {
        partner_id: partner.to_owned(),
        user_id: user.to_owned(),
        claim_id: text(item, key, "claimId")?.to_owned(),
        code: text(item, key, "code")?.to_owned(),
        shard: number(item, key, "shard")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coupon_is_read_by_its_key() {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let item = Item::from([
            ("pk".to_owned(), text("acme#user-1")),
            ("sk".to_owned(), text("c")),
            ("claimId".to_owned(), text("claim-1")),
            ("code".to_owned(), text("CODE")),
            ("shard".to_owned(), AttributeValue::N("3".to_owned())),
        ]);
        let coupon = stored_coupon(&item).unwrap();
        assert_eq!(
            (
                coupon.partner_id.as_str(),
                coupon.user_id.as_str(),
                coupon.shard
            ),
            ("acme", "user-1", 3)
        );
    }
}
