//! Points: what a wallet holds, the ledger that explains it, and the ports that keep both. Rules are in `plan`, the
//! retries around them in `teller`, the sweep in `expiry`; nothing here knows a store.
//!
//! At every instant a wallet's balance is the sum of its entries and the sum of its lots: one write changes all three.

mod amount;
mod entry;
mod expiry;
mod plan;
mod port;
mod teller;
#[cfg(test)]
mod tests;

pub use amount::*;
pub use entry::*;
pub use expiry::*;
pub use plan::*;
pub use port::*;
pub use teller::*;

use crate::{PartnerId, Timestamp, UserId};

/// Items of lots that a wallet has at most: a change that draws from all of them, with both wallets of a transfer,
/// their entries and the guard, stays below the 100 items of DynamoDB's `TransactWriteItems`.
pub const MAX_LOTS: usize = 88;

/// Shares that one bundle of lots holds at most: about 80 bytes each, so 120 KB of an item's 400 KB.
pub const MAX_BUNDLE: usize = 1500;

/// Shares that a wallet holds at most: about 0.8 MB, which a read of the whole wallet and a transaction (4 MB) take.
pub const MAX_SHARES: usize = 10_000;

/// Shares that one entry names at most: about 240 KB of an item's 400 KB.
pub const MAX_DRAWN: usize = 3000;

/// Whose wallet it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder {
    /// The partner who runs the wallet.
    pub partner_id: PartnerId,
    /// The user who owns the points.
    pub user_id: UserId,
}

/// Points earned together, or several such lots bundled into one item. Every share keeps its own lot and expiry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lot {
    /// Its name among the wallet's lots.
    pub key: LotKey,
    /// What is left, earliest expiry first; never empty, never zero.
    pub shares: Vec<LotShare>,
}

/// A lot's name. Sorted by it, lots come by the earliest expiry they ever held.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LotKey {
    /// The earliest expiry at its creation, in milliseconds since the epoch; [`NEVER_MILLIS`] if none.
    pub due_millis: i64,
    /// Sets it apart.
    pub id: EntryId,
}

/// Stands for "no expiry" where expiries are sorted: later than every [`Timestamp`].
pub const NEVER_MILLIS: i64 = 999_999_999_999_999;

/// An expiry as a number to sort by.
pub fn due_millis(expires_at: Option<Timestamp>) -> i64 {
    expires_at.map_or(NEVER_MILLIS, Timestamp::millis)
}

impl Lot {
    /// A new lot of these shares.
    pub fn new(id: EntryId, mut shares: Vec<LotShare>) -> Self {
        shares.sort_by_key(LotShare::turn);
        let due_millis = due_millis(shares.first().and_then(|share| share.expires_at));
        Self {
            key: LotKey { due_millis, id },
            shares,
        }
    }

    /// What is left in it.
    pub fn remaining(&self) -> u64 {
        self.shares.iter().map(|share| share.amount).sum()
    }
}

/// A wallet as of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    /// Whose it is.
    pub holder: Holder,
    /// Counts its changes; 0 if it was never written.
    pub version: u64,
    /// What it holds: the sum of its entries, and of its lots.
    pub balance: u64,
    /// Where the sweep finds it: never later than the earliest expiry in it. `None`: nothing in it expires.
    pub due_at: Option<Timestamp>,
    /// Its latest entry; the next one's id sorts behind it.
    pub last_entry: Option<EntryId>,
    /// Its lots, sorted by key.
    pub lots: Vec<Lot>,
}

impl Wallet {
    /// The wallet of somebody who never had a point.
    pub fn empty(holder: Holder) -> Self {
        Self {
            holder,
            version: 0,
            balance: 0,
            due_at: None,
            last_entry: None,
            lots: Vec::new(),
        }
    }

    /// Whether its parts add up. Parts are read one by one, so that a change under way can be seen in half.
    pub fn adds_up(&self) -> bool {
        self.lots.iter().map(Lot::remaining).sum::<u64>() == self.balance
    }

    /// How many points expire next, and when.
    pub fn expiring_next(&self) -> Option<(Timestamp, u64)> {
        let expiring = || self.lots.iter().flat_map(|lot| &lot.shares);
        let next = expiring().filter_map(|share| share.expires_at).min()?;
        let due = expiring().filter(|share| share.expires_at == Some(next));
        Some((next, due.map(|share| share.amount).sum()))
    }
}
