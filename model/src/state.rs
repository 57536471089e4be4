//! Everything that is true at one instant: the store, the queue, the workers' memories and the requests on their way.

use crate::config::{Faults, MESSAGES, SHARDS, Set, Time, USERS, WORKERS};

/// A coupon, as it stands in the table or in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coupon {
    /// The claim that won it.
    pub claim: u8,
    /// The shard that paid.
    pub shard: u8,
}

/// Why a claim that was in time got nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Every shard was seen empty.
    SoldOut,
    /// The campaign was closed early.
    Closed,
    /// The claim can never be stored.
    Rejected,
}

/// What a claim was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Said {
    /// `issued` if the coupon is this claim's, else `already_issued`; the coupon goes with it.
    Holds(Coupon),
    /// A refusal that binds the claim.
    Refused(Refusal),
    /// `not_open` or `closed`, by the message's own time. It binds that message's time only.
    OutOfTime,
}

/// A transaction's chunk: per user, the claim its coupon is for.
pub(crate) type Buyers = [Option<u8>; USERS];

/// The items of a transaction: the stock counter is 0, the coupon of user u is 1 + u.
pub(crate) const STOCK_ITEM: usize = 0;

/// What the stock counter said against a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum StockReason {
    None,
    Short(u8),
    /// It is frozen, and holds this much for good.
    Closed(u8),
    Busy,
}

/// What a coupon's key said against a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum CouponReason {
    None,
    Stands(Coupon),
    Busy,
}

/// How the store answers a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Response {
    Issued,
    InProgress,
    Cancelled(StockReason, [CouponReason; USERS]),
}

/// How far a transaction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Progress {
    /// On its way to the store.
    Sent,
    /// Its conditions held; these items are visible already, the rest are locked.
    Committed { visible: Set },
    /// The response is on its way back.
    Settled(Response),
}

/// A `TransactWriteItems` request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Transaction {
    /// Who waits for the response; `None` for a request that outlived its sender's patience.
    pub(crate) owner: Option<u8>,
    pub(crate) shard: u8,
    pub(crate) buyers: Buyers,
    pub(crate) progress: Progress,
    pub(crate) token: u8,
}

impl Transaction {
    pub(crate) fn items(&self) -> impl Iterator<Item = usize> + use<> {
        let buyers = self.buyers;
        (0..=USERS).filter(move |item| *item == STOCK_ITEM || buyers[item - 1].is_some())
    }

    /// Whether the store holds this item for the transaction.
    pub(crate) fn locks(&self, item: usize) -> bool {
        match self.progress {
            Progress::Committed { visible } => {
                !crate::config::has(visible, item) && self.items().any(|own| own == item)
            }
            _ => false,
        }
    }
}

/// How far an early close has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Closing {
    /// It is noted on the record that somebody closes.
    pub(crate) begun: bool,
    /// Shards that issue nothing more.
    pub(crate) frozen: Set,
    /// The record is closed: the partner is answered, and the doors refuse.
    pub(crate) ended: bool,
}

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    ReadRecord,
    ReadCoupon { user: u8 },
    ReadShard { shard: u8 },
    Sell,
    Confirm(Refusal),
    Answer,
    Acknowledge,
}

/// What a batch found out about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Verdict {
    Holds(Coupon),
    Refused(Refusal),
}

/// A chunk a worker has sent and not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Chunk {
    pub(crate) buyers: Buyers,
    /// The worker no longer waits for a response.
    pub(crate) unknown: bool,
    pub(crate) token: u8,
}

/// A batch in a worker's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Batch {
    pub(crate) messages: Set,
    pub(crate) step: Step,
    pub(crate) verdicts: [Option<Verdict>; USERS],
    /// The closed mark of the record was seen. Only a broken rule looks at it.
    pub(crate) closed: bool,
    /// Shards known to be frozen: what is known of them, they hold for good.
    pub(crate) frozen: Set,
    /// Users whose leader still wants a coupon.
    pub(crate) waiting: Set,
    /// Of them, those who sit out a round because another worker writes their coupon.
    pub(crate) resting: Set,
    /// Upper bounds of what each shard holds.
    pub(crate) bounds: [u8; SHARDS],
    /// By shard.
    pub(crate) chunks: [Option<Chunk>; SHARDS],
    /// Messages that were answered and may be acknowledged.
    pub(crate) decided: Set,
    /// Claims out of time that had been told of their coupon before this batch was received. No worker knows this;
    /// it is here for the invariant that such a claim is not refused afterwards.
    pub(crate) told: Set,
}

/// A worker. What it remembers beyond a batch dies with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Worker {
    /// Shards it has seen empty.
    pub(crate) empty: Set,
    pub(crate) batch: Option<Batch>,
}

/// The whole system at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Table Coupons, as a plain read sees it.
    pub(crate) coupons: [Option<Coupon>; USERS],
    /// How many coupons were ever put for each user.
    pub(crate) puts: [u8; USERS],
    /// The shards' counters, as a plain read sees them.
    pub(crate) remaining: [i8; SHARDS],
    pub(crate) closing: Closing,
    /// The mark that tells the claim door that the campaign has sold out.
    pub(crate) sold: bool,
    pub(crate) acknowledged: Set,
    pub(crate) answered: Set,
    pub(crate) said: [Option<Said>; MESSAGES],
    /// A claim was told two things that do not go together.
    pub(crate) contradicted: bool,
    /// What time it is.
    pub(crate) time: Time,
    /// Something was issued before the opening.
    pub(crate) issued_early: bool,
    /// Something was issued after the record was closed.
    pub(crate) issued_late: bool,
    pub(crate) workers: [Worker; WORKERS],
    pub(crate) transactions: Vec<Transaction>,
    /// Tokens of transactions that were applied and may be met again.
    pub(crate) applied: Set,
    pub(crate) faults_left: Faults,
}

impl State {
    /// Whether nothing is under way and nothing is left in the queue.
    pub(crate) fn at_rest(&self, sale: &crate::Sale) -> bool {
        let all = sale
            .messages_in(Set::MAX)
            .fold(0, |set, (index, _)| set | crate::config::bit(index));
        self.acknowledged == all
            && self.transactions.is_empty()
            && self.workers.iter().all(|worker| worker.batch.is_none())
            && self.closing.begun == self.closing.ended
    }

    /// Every claim's binding answer.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (usize, Said)> + '_ {
        self.said
            .iter()
            .enumerate()
            .filter_map(|(claim, said)| Some((claim, (*said)?)))
    }
}
