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

/// A time, as far as the window tells times apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Time {
    /// The campaign has not opened.
    Early,
    /// Inside the window.
    Open,
    /// The window has ended.
    Late,
}

impl Time {
    /// What follows.
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Early => Self::Open,
            Self::Open | Self::Late => Self::Late,
        }
    }
}

/// A claim as it lies in the queue. Two messages with one `claim` are a replay of its claimId.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which claim, from 0. A claim belongs to one user.
    pub claim: u8,
    /// Whose, from 0.
    pub user: u8,
    /// The time that it states, by its producer's clock. It never changes.
    pub stated: Time,
    /// When the queue took it, by the queue's clock. It never changes.
    pub sent: Time,
}

impl Message {
    /// Its own time: a producer's clock may be fast, and the queue's is not.
    pub(crate) fn own_time(&self) -> Time {
        self.stated.min(self.sent)
    }
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
    /// The record's closed mark is judged before a standing coupon.
    ClosedBeforeCoupon,
    /// Frozen shards are judged before empty ones: whoever was told `sold_out` is told `closed` after an early close.
    ClosedBeforeStock,
    /// Of a shard that refuses because it is frozen, what was known of it before is believed.
    ClosedByStaleStock,
    /// `closed` is answered as soon as one shard is frozen.
    ClosedAfterOneFrozenShard,
    /// A frozen shard pays.
    FrozenCondition,
    /// The record is closed before the shards are frozen.
    RecordClosedFirst,
    /// The record of a campaign that has sold out is closed without the sold mark.
    ClosedUnmarked,
    /// A closing whose closer stopped half-way is finished by nobody. Nothing that is said suffers from it; the closing does
    /// not come to its end.
    NobodyFinishes,
    /// The time that a claim states counts, though the queue took it earlier.
    OwnTimeAsStated,
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
    /// The claim door reads the coupon plainly once the campaign is marked sold out.
    PlainReadAtTheDoor,
}

impl Broken {
    /// Every one of them.
    pub const ALL: [Self; 21] = [
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
        Self::ClosedAfterOneFrozenShard,
        Self::FrozenCondition,
        Self::RecordClosedFirst,
        Self::ClosedUnmarked,
        Self::NobodyFinishes,
        Self::OwnTimeAsStated,
        Self::PlainConfirmation,
        Self::NoConfirmation,
        Self::NewTokenOnRepeat,
        Self::AnsweredBeforeDurable,
        Self::PlainReadAtTheDoor,
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

    /// Whether a message's time is found to lie inside the window.
    pub(crate) fn in_time(&self, message: &Message) -> bool {
        let time = if self.breaks(Broken::OwnTimeAsStated) {
            message.stated
        } else {
            message.own_time()
        };
        time == Time::Open
    }

    /// What time it is when the sale begins: before the opening if anybody claims before it.
    pub(crate) fn begins(&self) -> Time {
        let sent = self.messages.iter().map(|message| message.sent);
        sent.min().map_or(Time::Open, |first| first.min(Time::Open))
    }

    /// When the last message is sent.
    pub(crate) fn last_sent(&self) -> Time {
        let sent = self.messages.iter().map(|message| message.sent);
        sent.max().unwrap_or(Time::Open)
    }

    /// The set of all shards.
    pub(crate) fn all_shards(&self) -> Set {
        (0..self.quotas.len()).map(bit).sum()
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
            .find(|(_, message)| usize::from(message.user) == user && self.in_time(message))
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
