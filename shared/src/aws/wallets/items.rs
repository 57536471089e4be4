//! Items of table Wallets: how a posting is written and how its parts are read back.

use aws_sdk_dynamodb::types::{
    AttributeValue, Delete, Put, TransactWriteItem, Update, builders::UpdateBuilder,
};
use serde::{Deserialize, Serialize};

use super::{POST, READ, operations, pk};
use crate::aws::item::{Item, key, number, read, record, text};
use crate::aws::redemptions::{CouponUpdate, coupon_update};
use crate::{
    DuePointer, Entry, EntryId, Guard, Holder, Lot, LotChange, LotKey, LotShare, PartnerId,
    PortError, Posting, Timestamp, UserId, Wallet, WalletChange,
};

/// A new wallet has no item; a known one is at the version that was seen.
const UNKNOWN: &str = "attribute_not_exists(pk)";
const AT_VERSION: &str = "#version = :seen";
/// A lot holds what was seen: a read of half a transaction is noticed here at the latest.
const HOLDS: &str = "remaining = :seen";

/// An instant as text that sorts, wide enough for [`crate::NEVER_MILLIS`].
pub(super) fn due_prefix(millis: i64) -> String {
    format!("{millis:015}")
}

fn lot_key(holder: &Holder, lot: &LotKey) -> Item {
    let sk = format!("LOT#{}#{}", due_prefix(lot.due_millis), lot.id);
    key(pk(holder), sk)
}

pub(super) fn entry_key(holder: &Holder, id: &EntryId) -> Item {
    key(pk(holder), format!("ENTRY#{id}"))
}

pub(super) fn entry_of(key: &Item) -> Option<EntryId> {
    EntryId::new(key.get("sk")?.as_s().ok()?.strip_prefix("ENTRY#")?).ok()
}

pub(super) fn pointer_key(pointer: &DuePointer) -> Item {
    let holder = &pointer.holder;
    let sk = format!(
        "{}#{}#{}",
        due_prefix(pointer.due_at.millis()),
        holder.partner_id,
        holder.user_id
    );
    key(format!("EXPIRY#{}", DuePointer::shard(holder)), sk)
}

pub(super) fn due_of(item: &Item) -> Option<DuePointer> {
    let mut parts = item.get("sk")?.as_s().ok()?.splitn(3, '#');
    let due_at = Timestamp::from_millis(parts.next()?.parse().ok()?);
    let holder = Holder {
        partner_id: PartnerId::new(parts.next()?).ok()?,
        user_id: UserId::new(parts.next()?).ok()?,
    };
    Some(DuePointer { due_at, holder })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WalletItem {
    version: u64,
    balance: u64,
    due_at: Option<Timestamp>,
    last_entry: Option<EntryId>,
}

pub(super) fn wallet_of(wallet: &mut Wallet, item: Item) -> Result<(), PortError> {
    let item: WalletItem = read(READ, item)?;
    wallet.version = item.version;
    wallet.balance = item.balance;
    wallet.due_at = item.due_at;
    wallet.last_entry = item.last_entry;
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct LotItem {
    /// The shares' sum, for the conditions.
    remaining: u64,
    shares: Vec<LotShare>,
}

pub(super) fn lot_of(item: Item) -> Result<Lot, PortError> {
    let name = |item: &Item| {
        let (due, id) = item
            .get("sk")?
            .as_s()
            .ok()?
            .strip_prefix("LOT#")?
            .split_once('#')?;
        Some(LotKey {
            due_millis: due.parse().ok()?,
            id: EntryId::new(id).ok()?,
        })
    };
    let key = name(&item).ok_or_else(|| PortError::reject(READ, "a lot's key cannot be read"))?;
    let LotItem { shares, .. } = read(READ, item)?;
    Ok(Lot { key, shares })
}

/// Writes postings as transactions: the guard first, then wallet by wallet.
pub(super) struct Writer<'a> {
    pub(super) wallets: &'a str,
    pub(super) coupons: Option<&'a str>,
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> PortError {
    PortError::reject(POST, error)
}

fn updated(update: UpdateBuilder) -> Result<TransactWriteItem, PortError> {
    let update = update.build().map_err(invalid)?;
    Ok(TransactWriteItem::builder().update(update).build())
}

impl Writer<'_> {
    pub(super) fn items(&self, posting: &Posting) -> Result<Vec<TransactWriteItem>, PortError> {
        let mut items = Vec::new();
        match &posting.guard {
            Guard::None => {}
            Guard::Operation(operation, answer) => items.push(updated(
                operations::ending(operation, answer)?
                    .into_update()
                    .table_name(self.wallets),
            )?),
            Guard::Coupon(change) => items.push(self.coupon(coupon_update(change))?),
        }
        for change in &posting.changes {
            items.push(self.wallet(change)?);
            for lot in &change.lots {
                items.push(self.lot(&change.holder, lot)?);
            }
            for entry in &change.entries {
                items.push(self.entry(&change.holder, entry)?);
            }
            if let Some(due) = change.due {
                let pointer = |due_at| DuePointer {
                    due_at,
                    holder: change.holder.clone(),
                };
                if let Some(from) = due.from {
                    items.push(self.delete(pointer_key(&pointer(from)))?);
                }
                if let Some(to) = due.to {
                    items.push(self.put(pointer_key(&pointer(to)), None)?);
                }
            }
        }
        Ok(items)
    }

    fn coupon(&self, change: CouponUpdate) -> Result<TransactWriteItem, PortError> {
        let missing = || PortError::reject(POST, "this book has no coupons");
        updated(
            Update::builder()
                .table_name(self.coupons.ok_or_else(missing)?)
                .set_key(Some(change.key))
                .update_expression(change.update)
                .condition_expression(change.condition)
                .set_expression_attribute_values(Some(change.values)),
        )
    }

    fn wallet(&self, change: &WalletChange) -> Result<TransactWriteItem, PortError> {
        let mut set = "SET #version = :next, balance = :balance".to_owned();
        let mut remove = "";
        let mut update = Update::builder()
            .table_name(self.wallets)
            .set_key(Some(key(pk(&change.holder), "WALLET")))
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":next", number(change.seen + 1))
            .expression_attribute_values(":balance", number(change.balance));
        if let Some(entry) = &change.last_entry {
            set.push_str(", lastEntry = :entry");
            update = update.expression_attribute_values(":entry", text(entry.as_str()));
        }
        match change.due.map(|due| due.to) {
            Some(Some(at)) => {
                set.push_str(", dueAt = :due");
                update = update.expression_attribute_values(":due", text(at.to_string()));
            }
            Some(None) => remove = " REMOVE dueAt",
            None => {}
        }
        update = update.update_expression(format!("{set}{remove}"));
        updated(if change.seen == 0 {
            update.condition_expression(UNKNOWN)
        } else {
            update
                .condition_expression(AT_VERSION)
                .expression_attribute_values(":seen", number(change.seen))
        })
    }

    fn lot(&self, holder: &Holder, change: &LotChange) -> Result<TransactWriteItem, PortError> {
        match change {
            LotChange::Add(lot) => {
                let held = LotItem {
                    remaining: lot.remaining(),
                    shares: lot.shares.clone(),
                };
                let item = record(POST, lot_key(holder, &lot.key), &held)?;
                self.put(item, Some(UNKNOWN))
            }
            LotChange::Reduce { seen, to } => {
                let shares: AttributeValue = serde_dynamo::to_attribute_value(&to.shares)
                    .map_err(|error| PortError::reject(POST, error))?;
                updated(
                    Update::builder()
                        .table_name(self.wallets)
                        .set_key(Some(lot_key(holder, &to.key)))
                        .update_expression("SET remaining = :left, shares = :shares")
                        .condition_expression(HOLDS)
                        .expression_attribute_values(":left", number(to.remaining()))
                        .expression_attribute_values(":shares", shares)
                        .expression_attribute_values(":seen", number(seen)),
                )
            }
            LotChange::Remove { key, seen } => {
                let delete = Delete::builder()
                    .table_name(self.wallets)
                    .set_key(Some(lot_key(holder, key)))
                    .condition_expression(HOLDS)
                    .expression_attribute_values(":seen", number(seen))
                    .build()
                    .map_err(invalid)?;
                Ok(TransactWriteItem::builder().delete(delete).build())
            }
        }
    }

    fn entry(&self, holder: &Holder, entry: &Entry) -> Result<TransactWriteItem, PortError> {
        let item = record(POST, entry_key(holder, &entry.entry_id), entry)?;
        self.put(item, Some(UNKNOWN))
    }

    fn put(&self, item: Item, condition: Option<&str>) -> Result<TransactWriteItem, PortError> {
        let put = Put::builder()
            .table_name(self.wallets)
            .set_item(Some(item))
            .set_condition_expression(condition.map(str::to_owned))
            .build()
            .map_err(invalid)?;
        Ok(TransactWriteItem::builder().put(put).build())
    }

    fn delete(&self, key: Item) -> Result<TransactWriteItem, PortError> {
        let delete = Delete::builder()
            .table_name(self.wallets)
            .set_key(Some(key))
            .build()
            .map_err(invalid)?;
        Ok(TransactWriteItem::builder().delete(delete).build())
    }
}
