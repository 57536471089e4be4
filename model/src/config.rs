//! What is explored: a small sale, the faults that may strike it, and rules that may be broken on purpose.

/// A set of small numbers, one bit each.
pub type Set = u16;

/// The most users a sale of the model has.
pub const USERS: usize = 3;
/// The most stock shards a sale of the model has.
pub const SHARDS: usize = 2;
/// The workers that share the queue.
pub const WORKERS: usize = 2;
/// The most claims and messages a sale of the model has.
pub const MESSAGES: usize = 4;

/// A claim as it lies in the queue. Two messages with one `claim` are a replay of its claimId.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which claim, from 0. A claim belongs to one user.
    pub claim: u8,
    /// Whose, from 0.
    pub user: u8,
    /// Whether its own time lies inside the window. It never changes.
    pub in_time: bool,
}

/// How often each fault may strike, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A worker dies between any two steps and comes back without memory; its requests go on without it.
    pub crashes: u8,
    /// A worker stops waiting for a transaction, which may have been applied, be applied later, or never.
    pub losses: u8,
    /// The queue delivers a message that another worker still holds, or that was acknowledged.
    pub redeliveries: u8,
    /// A worker runs out of time and gives back what it has not decided.
    pub deadlines: u8,
}

/// A rule of the protocol, broken to see that the model would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A coupon is put without `attribute_not_exists`.
    CouponCondition,
    /// The shard pays without `remaining >= n`.
    StockCondition,
    /// A message is acknowledged when it is received.
    AcknowledgedBeforeWrite,
    /// `sold_out` is answered as soon as one shard is empty.
    SoldOutAfterOneEmptyShard,
    /// A conflict on the stock counter is taken for emptiness.
    ConflictMeansEmpty,
    /// The users of a chunk of unknown outcome are refused.
    UnknownMeansRefused,
    /// The claim's own time is judged before a standing coupon.
    TimeBeforeCoupon,
    /// The closed mark is judged before a standing coupon.
    ClosedBeforeCoupon,
    /// The closed mark is judged before the stock: whoever was told `sold_out` is told `closed` after an early close.
    ClosedBeforeStock,
    /// After an early close, `closed` is answered by what was known of the stock before it.
    ClosedByStaleStock,
    /// Before a refusal the coupons are read plainly, not in a transaction.
    PlainConfirmation,
    /// Before a refusal the coupons are not read again.
    NoConfirmation,
    /// A chunk is sent again under a new token. It does no harm by itself: where the first try was applied, the coupon
    /// condition cancels the second, and its reasons carry the user's own coupon. The token saves that round and stands
    /// behind the condition.
    NewTokenOnRepeat,
    /// `issued` is answered when the transaction is sent.
    AnsweredBeforeDurable,
    /// An early close writes the record and the shards one after the other. It does no harm to what is answered: a
    /// worker says `closed` only after it has read the mark on every shard that still holds something.
    ClosedInSteps,
    /// The claim door reads the coupon plainly once the campaign is marked sold out.
    PlainReadAtTheDoor,
    /// The claim door answers `closed` by the record alone, without a look at the stock.
    ClosedByTheRecordAtTheDoor,
}

impl Broken {
    /// Every one of them.
    pub const ALL: [Self; 17] = [
        Self::CouponCondition,
        Self::StockCondition,
        Self::AcknowledgedBeforeWrite,
        Self::SoldOutAfterOneEmptyShard,
        Self::ConflictMeansEmpty,
        Self::UnknownMeansRefused,
        Self::TimeBeforeCoupon,
        Self::ClosedBeforeCoupon,
        Self::ClosedBeforeStock,
        Self::ClosedByStaleStock,
        Self::PlainConfirmation,
        Self::NoConfirmation,
        Self::NewTokenOnRepeat,
        Self::AnsweredBeforeDurable,
        Self::ClosedInSteps,
        Self::PlainReadAtTheDoor,
        Self::ClosedByTheRecordAtTheDoor,
    ];
}

/// A sale to explore.
#[derive(Clone, Debug)]
pub struct Sale {
    /// Names the sale in reports.
    pub name: &'static str,
    /// What is in the queue, earliest claim first.
    pub messages: Vec<Message>,
    /// What each shard starts with.
    pub quotas: Vec<u8>,
    /// The most messages a worker receives at once.
    pub batch: u32,
    /// Which faults may strike.
    pub faults: Faults,
    /// Whether the partner closes the campaign early, at any moment.
    pub closes: bool,
    /// Whether users ask again at the claim door once it may refuse: after the sold mark or the early close.
    pub door: bool,
    /// Whether a worker repeats a chunk of unknown outcome until it knows, and never gives it up.
    pub patient: bool,
    /// Which rules are broken.
    pub broken: Vec<Broken>,
    /// The names of the `sometimes` properties that this sale reaches.
    pub reaches: Vec<&'static str>,
}

impl Sale {
    /// The same sale by other rules.
    #[must_use]
    pub fn broken(mut self, rule: Broken) -> Self {
        self.broken.push(rule);
        self
    }

    /// The same sale with these faults.
    #[must_use]
    pub fn with(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    pub(crate) fn breaks(&self, rule: Broken) -> bool {
        self.broken.contains(&rule)
    }

    /// The coupons there are.
    pub(crate) fn total(&self) -> u8 {
        self.quotas.iter().sum()
    }

    /// Who made a claim.
    pub(crate) fn user_of(&self, claim: usize) -> Option<usize> {
        self.messages
            .iter()
            .find(|message| usize::from(message.claim) == claim)
            .map(|message| usize::from(message.user))
    }

    /// The messages of a set, earliest first.
    pub(crate) fn messages_in(&self, set: Set) -> impl Iterator<Item = (usize, Message)> + '_ {
        (0..self.messages.len())
            .filter(move |index| has(set, *index))
            .map(|index| (index, self.messages[index]))
    }

    /// The claim that asks for a coupon on behalf of this user: the earliest one in time among these messages.
    pub(crate) fn leader(&self, messages: Set, user: usize) -> Option<u8> {
        self.messages_in(messages)
            .find(|(_, message)| usize::from(message.user) == user && message.in_time)
            .map(|(_, message)| message.claim)
    }
}

/// Whether `member` is in `set`.
pub(crate) fn has(set: Set, member: usize) -> bool {
    set & bit(member) != 0
}

/// The set of only this.
pub(crate) fn bit(member: usize) -> Set {
    1 << member
}
