//! Ports of points: the book of wallets, the memory of operations, the wallets in which something expires.

use serde::{Deserialize, Serialize};

use super::{Entry, EntryId, Holder, Refusal, Wallet, WalletChange};
use crate::{CouponChange, PartnerId, PortError, Timestamp, UserId};

/// How long an operation's key is remembered, in seconds: as any key.
pub const OPERATION_SECONDS: i64 = crate::IDEMPOTENCY_SECONDS;

/// How long an attempt may be silent before another may take its operation over, in seconds: longer than the function
/// that carries it out may run (25 s, template.yaml).
pub const LEASE_SECONDS: i64 = 30;

/// One attempt to carry out what a caller named with an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Whose key it is; another partner's is another key.
    pub partner_id: PartnerId,
    /// SHA-256 of the caller's key, in hex.
    pub key_sha256: String,
    /// SHA-256 of what is asked for: the route, the ids in its path, the body; in hex.
    pub request_sha256: String,
    /// Sets this attempt apart from every other.
    pub attempt: u128,
}

/// How an operation ended; kept for [`OPERATION_SECONDS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OperationAnswer {
    /// With this entry.
    #[serde(rename_all = "camelCase")]
    Entered {
        /// In whose wallet.
        entry_user: UserId,
        /// Which.
        entry_id: EntryId,
    },
    /// It was refused.
    Refused {
        /// Why.
        refusal: Refusal,
    },
}

/// What stands under an operation's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing did: this attempt holds the lease now.
    Begun,
    /// The same request ended with this answer.
    Answered(OperationAnswer),
    /// Another attempt at the same request holds the lease.
    InProgress,
    /// The key came with another request.
    Mismatch,
}

/// Remembers operations, so that each is carried out once.
pub trait Operations {
    /// Marks the operation as in progress for [`LEASE_SECONDS`], unless something stands under its key. An attempt whose
    /// lease has run out is taken over, by the same request only; then it can no longer end the operation.
    fn begin(
        &self,
        operation: &Operation,
        now: Timestamp,
    ) -> impl Future<Output = Result<Begin, PortError>> + Send;

    /// What stands under the operation's key for this request; `None`: nothing, or nothing but an attempt at this very
    /// request whose lease has ended, which [`Self::begin`] would take over.
    fn standing(
        &self,
        operation: &Operation,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Begin>, PortError>> + Send;

    /// Ends the operation with a refusal, if this attempt holds it; what stands under the key then.
    fn refuse(
        &self,
        operation: &Operation,
        refusal: Refusal,
    ) -> impl Future<Output = Result<Begin, PortError>> + Send;

    /// Gives the lease back, so that a repeat need not wait for its end. No harm if this attempt holds it no more.
    fn release(&self, operation: &Operation) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// What must hold, and changes, beside the wallets of a posting.
#[derive(Clone, Debug, PartialEq)]
pub enum Guard {
    /// Nothing: the versions alone make a repeat harmless.
    None,
    /// The attempt MUST still hold its operation, which ends with this answer.
    Operation(Operation, OperationAnswer),
    /// The coupon MUST stand as it was judged.
    Coupon(Box<CouponChange>),
}

/// Changes of up to two different wallets, made together with their guard or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Posting {
    /// What must hold beside the wallets.
    pub guard: Guard,
    /// The changes, sorted by holder.
    pub changes: Vec<WalletChange>,
}

/// What became of a posting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostOutcome {
    /// All of it stands.
    Posted,
    /// Nothing was written: the guard does not hold.
    Refused,
    /// Nothing was written: a wallet is no longer what the change was made for.
    Stale,
    /// Nothing was written: somebody else is writing, or the store asks for patience.
    Busy,
    /// It may or may not have been written. Read again: guard and versions tell.
    Unknown,
}

/// One page of a wallet's ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryPage {
    /// The entries, newest first.
    pub entries: Vec<Entry>,
    /// Behind which entry the next page starts; `None` after the last.
    pub next: Option<EntryId>,
}

/// The book of wallets.
pub trait WalletBook {
    /// The wallet. MUST see every write that was answered before the call; of a write under way it may see any part,
    /// and [`Wallet::adds_up`] tells most such reads.
    fn wallet(&self, holder: &Holder) -> impl Future<Output = Result<Wallet, PortError>> + Send;

    /// Makes the changes, or none. MUST refuse unless the guard holds, every wallet is at the version and every lot
    /// holds what was seen; MUST NOT overwrite an entry.
    fn post(
        &self,
        posting: &Posting,
    ) -> impl Future<Output = Result<PostOutcome, PortError>> + Send;

    /// One entry. MUST see every write that was answered before the call.
    fn entry(
        &self,
        holder: &Holder,
        id: &EntryId,
    ) -> impl Future<Output = Result<Option<Entry>, PortError>> + Send;

    /// The wallet's entries older than `before`, newest first, at most `limit`.
    /// MUST see every write that was answered before the call.
    fn entries(
        &self,
        holder: &Holder,
        before: Option<&EntryId>,
        limit: u16,
    ) -> impl Future<Output = Result<EntryPage, PortError>> + Send;
}

/// Over how many partitions the pointers of the sweep are spread: each takes 1,000 writes a second (DynamoDB).
pub const DUE_SHARDS: u16 = 16;

/// A wallet in which something expires at `due_at`, or was to: spending moves no pointer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DuePointer {
    /// When to look.
    pub due_at: Timestamp,
    /// At whose wallet.
    pub holder: Holder,
}

impl DuePointer {
    /// The shard it is kept in: a stable hash of the holder, below [`DUE_SHARDS`].
    pub fn shard(holder: &Holder) -> u16 {
        let hash =
            crate::sha256_hex(format!("{}#{}", holder.partner_id, holder.user_id).as_bytes());
        let byte = hash
            .get(..2)
            .and_then(|hex| u16::from_str_radix(hex, 16).ok());
        byte.unwrap_or_default() % DUE_SHARDS
    }
}

/// Finds the wallets in which something expires. A pointer moves in the same posting as its wallet changes, so that every
/// wallet with an expiring lot has exactly one, never later than its earliest expiry.
pub trait DueWallets {
    /// The shard's pointers due at or before `now` and behind `after`, earliest first, at most `limit`.
    fn due(
        &self,
        shard: u16,
        now: Timestamp,
        after: Option<&DuePointer>,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<DuePointer>, PortError>> + Send;
}
