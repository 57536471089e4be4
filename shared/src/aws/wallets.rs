//! Table Wallets. A wallet's partition `<partnerId>#<userId>` holds `WALLET` (balance, version), `LOT#<expiry>#<id>` and
//! `ENTRY#<id>`; an operation is `<partnerId>#<key's hash>` / `OP#<key's hash>`, so that a key means one request of the
//! partner, whichever wallet it is about; the sweep finds wallets by `EXPIRY#<shard>` / `<due>#<partnerId>#<userId>`.

mod items;
mod operations;
#[cfg(test)]
mod tests;

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::transact_write_items::TransactWriteItemsError,
    types::CancellationReason,
};

use self::items::{
    Writer, due_of, due_prefix, entry_key, entry_of, lot_of, pointer_key, wallet_of,
};
use super::Aws;
use super::error::{asks_for_patience, port_error};
use super::item::{Item, read, text};
use super::page::page;
use crate::{
    DuePointer, DueWallets, Entry, EntryId, EntryPage, Guard, Holder, PortError, PostOutcome,
    Posting, Timestamp, Wallet, WalletBook,
};

/// [`WalletBook`], [`Operations`](crate::Operations) and [`DueWallets`] on the Wallets table.
#[derive(Clone, Debug)]
pub struct DynamoWallets {
    client: Client,
    table: String,
    coupons: Option<String>,
}

impl DynamoWallets {
    /// On the Wallets table.
    pub fn new(aws: &Aws, table: String) -> Self {
        Self {
            client: aws.dynamo(),
            table,
            coupons: None,
        }
    }

    /// And on the Coupons table: coupons that are worth points change in the transaction of their wallet.
    #[must_use]
    pub fn with_coupons(self, table: String) -> Self {
        Self {
            coupons: Some(table),
            ..self
        }
    }
}

fn pk(holder: &Holder) -> String {
    format!("{}#{}", holder.partner_id, holder.user_id)
}

const READ: &str = "read the wallet";
const POST: &str = "post to the wallet";

impl WalletBook for DynamoWallets {
    async fn wallet(&self, holder: &Holder) -> Result<Wallet, PortError> {
        let mut wallet = Wallet::empty(holder.clone());
        let mut start: Option<Item> = None;
        loop {
            // Between them lies nothing else that a wallet's partition holds.
            let query = self
                .client
                .query()
                .table_name(&self.table)
                .consistent_read(true)
                .key_condition_expression("pk = :pk AND sk BETWEEN :lots AND :wallet")
                .expression_attribute_values(":pk", text(pk(holder)))
                .expression_attribute_values(":lots", text("LOT#"))
                .expression_attribute_values(":wallet", text("WALLET"))
                .set_exclusive_start_key(start);
            let output = query
                .send()
                .await
                .map_err(|error| port_error(READ, error))?;
            for item in output.items.unwrap_or_default() {
                match item.get("sk").and_then(|sk| sk.as_s().ok()) {
                    Some(sk) if sk == "WALLET" => wallet_of(&mut wallet, item)?,
                    Some(sk) if sk.starts_with("LOT#") => wallet.lots.push(lot_of(item)?),
                    _ => {}
                }
            }
            start = output.last_evaluated_key;
            if start.is_none() {
                return Ok(wallet);
            }
        }
    }

    async fn post(&self, posting: &Posting) -> Result<PostOutcome, PortError> {
        let writer = Writer {
            wallets: &self.table,
            coupons: self.coupons.as_deref(),
        };
        let sent = self
            .client
            .transact_write_items()
            .set_transact_items(Some(writer.items(posting)?))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(PostOutcome::Posted),
            Err(error) => outcome_of(error, posting.guard != Guard::None),
        }
    }

    async fn entry(&self, holder: &Holder, id: &EntryId) -> Result<Option<Entry>, PortError> {
        const OPERATION: &str = "read the entry";
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(entry_key(holder, id)));
        let output = request
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| port_error(OPERATION, error))?;
        output.item.map(|item| read(OPERATION, item)).transpose()
    }

    async fn entries(
        &self,
        holder: &Holder,
        before: Option<&EntryId>,
        limit: u16,
    ) -> Result<EntryPage, PortError> {
        const OPERATION: &str = "list the entries";
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("pk = :pk AND begins_with(sk, :entries)")
            .expression_attribute_values(":pk", text(pk(holder)))
            .expression_attribute_values(":entries", text("ENTRY#"))
            .scan_index_forward(false);
        let start = before.map(|id| entry_key(holder, id));
        let (items, more) = page(OPERATION, query, start, limit).await?;
        let next = items.last().filter(|_| more).and_then(entry_of);
        let entries: Result<Vec<Entry>, _> = items
            .into_iter()
            .map(|item| read(OPERATION, item))
            .collect();
        Ok(EntryPage {
            entries: entries?,
            next,
        })
    }
}

impl DueWallets for DynamoWallets {
    async fn due(
        &self,
        shard: u16,
        now: Timestamp,
        after: Option<&DuePointer>,
        limit: u16,
    ) -> Result<Vec<DuePointer>, PortError> {
        const OPERATION: &str = "find the wallets that are due";
        let behind_now = due_prefix(now.millis() + 1);
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("pk = :pk AND sk < :behindNow")
            .expression_attribute_values(":pk", text(format!("EXPIRY#{shard}")))
            .expression_attribute_values(":behindNow", text(behind_now))
            .set_exclusive_start_key(after.map(pointer_key))
            .limit(i32::from(limit));
        let output = query
            .send()
            .await
            .map_err(|error| port_error(OPERATION, error))?;
        let pointer = |item: Item| {
            due_of(&item).ok_or_else(|| PortError::reject(OPERATION, "a pointer cannot be read"))
        };
        output
            .items
            .unwrap_or_default()
            .into_iter()
            .map(pointer)
            .collect()
    }
}

/// Sorts a failed transaction. With a guard, its reason is the first, and final.
fn outcome_of(
    error: SdkError<TransactWriteItemsError>,
    guarded: bool,
) -> Result<PostOutcome, PortError> {
    let SdkError::ServiceError(service) = &error else {
        return match error {
            SdkError::ConstructionFailure(_) => Err(PortError::reject(POST, error)),
            // A time-out, a lost connection, a response cut short: it may have been written.
            _ => Ok(PostOutcome::Unknown),
        };
    };
    match service.err() {
        TransactWriteItemsError::TransactionCanceledException(cancelled) => {
            match cancellation(cancelled.cancellation_reasons(), guarded) {
                Some(outcome) => Ok(outcome),
                None => Err(port_error(POST, error)),
            }
        }
        TransactWriteItemsError::TransactionInProgressException(_) => Ok(PostOutcome::Unknown),
        _ if service.raw().status().as_u16() >= 500 => Ok(PostOutcome::Unknown),
        other if asks_for_patience(other.code()) => Ok(PostOutcome::Busy),
        _ => Err(port_error(POST, error)),
    }
}

/// `None`: an item can never be stored.
fn cancellation(reasons: &[CancellationReason], guarded: bool) -> Option<PostOutcome> {
    let code = |reason: &CancellationReason| reason.code().unwrap_or("None").to_owned();
    let codes: Vec<String> = reasons.iter().map(code).collect();
    let failed = |code: &String| code == "ConditionalCheckFailed";
    if guarded && codes.first().is_some_and(failed) {
        Some(PostOutcome::Refused)
    } else if codes.iter().any(failed) {
        Some(PostOutcome::Stale)
    } else if codes
        .iter()
        .any(|code| code == "ValidationError" || code == "ItemCollectionSizeLimitExceeded")
    {
        None
    } else {
        Some(PostOutcome::Busy)
    }
}
