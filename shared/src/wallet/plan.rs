//! What a change to a wallet is, and which one an operation makes. Pure: the wallet, the time and random bits come in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Entry, EntryId, EntryKind, EntryReason, Holder, Lot, LotKey, LotShare, MAX_BALANCE, MAX_BUNDLE,
    MAX_DRAWN, MAX_LOTS, MAX_SHARES, Wallet,
};
use crate::{CampaignId, OrderId, Timestamp, UserId};

/// Why an operation cannot be carried out, whoever tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The wallet holds fewer points than it would take.
    InsufficientPoints,
    /// The wallet would hold more than [`MAX_BALANCE`].
    BalanceLimit,
    /// It would take, or leave in the wallet, more single lots than can be handled at once.
    TooManyLots,
}

impl Refusal {
    /// The public name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InsufficientPoints => "insufficient_points",
            Self::BalanceLimit => "balance_limit",
            Self::TooManyLots => "too_many_lots",
        }
    }
}

/// Why an operation makes no change to the wallet as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Obstacle {
    /// It cannot be carried out.
    Refused(Refusal),
    /// The lots are too many items for one transaction; this change bundles them first.
    Crowded(Box<WalletChange>),
}

/// What a lot's item becomes. `seen` is what it was read to hold; the change MUST fail if it holds anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LotChange {
    /// A new item.
    Add(Lot),
    /// Less of it is left, under the same key.
    Reduce {
        /// What it was read to hold.
        seen: u64,
        /// What is left.
        to: Lot,
    },
    /// Nothing is left of it.
    Remove {
        /// Which.
        key: LotKey,
        /// What it was read to hold.
        seen: u64,
    },
}

/// Where the sweep finds the wallet from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueMove {
    /// The pointer to take away.
    pub from: Option<Timestamp>,
    /// The pointer to set; another than `from`.
    pub to: Option<Timestamp>,
}

/// One wallet's part of a [`Posting`](super::Posting).
#[derive(Clone, Debug, PartialEq)]
pub struct WalletChange {
    /// Whose wallet.
    pub holder: Holder,
    /// The version it was read at; it becomes the next one.
    pub seen: u64,
    /// The balance after it.
    pub balance: u64,
    /// The latest entry after it.
    pub last_entry: Option<EntryId>,
    /// How the sweep's pointer moves, if it does.
    pub due: Option<DueMove>,
    /// What becomes of lots; those left out stay.
    pub lots: Vec<LotChange>,
    /// What the ledger says of it: one entry, or none if no point moves.
    pub entries: Vec<Entry>,
}

/// What an entry says besides numbers.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of Entry")]
pub struct Cause {
    pub kind: EntryKind,
    pub reason: Option<EntryReason>,
    pub counterpart: Option<UserId>,
    pub campaign_id: Option<CampaignId>,
    pub order_id: Option<OrderId>,
}

impl Cause {
    /// Only the kind.
    pub fn of(kind: EntryKind) -> Self {
        Self {
            kind,
            reason: None,
            counterpart: None,
            campaign_id: None,
            order_id: None,
        }
    }
}

/// So many points of one share of one lot, by their positions in the wallet.
#[derive(Clone, Copy)]
struct Draw {
    lot: usize,
    share: usize,
    amount: u64,
}

impl Wallet {
    /// Takes out what has expired at `now`, or as much of it as one transaction can, and moves the sweep's pointer to
    /// what expires next. `None`: there is nothing to do.
    pub fn settlement(&self, now: Timestamp, random: u128) -> Option<WalletChange> {
        let expired =
            |share: &LotShare| share.expires_at.is_some_and(|expires_at| expires_at <= now);
        let mut draws = Vec::new();
        for (position, draw) in self.in_turn(None).into_iter().enumerate() {
            if position == MAX_DRAWN || !expired(self.share(draw)) {
                break;
            }
            draws.push(draw);
        }
        self.within_one_transaction(&mut draws);
        if draws.is_empty() && self.due_at.is_none_or(|due_at| now < due_at) {
            return None;
        }
        let amount: u64 = draws.iter().map(|draw| draw.amount).sum();
        let mut change = self.change();
        change.lots = self.lots_after(&draws);
        if amount > 0 {
            let cause = Cause::of(EntryKind::Expire);
            change.take(amount, self.shares_of(&draws), cause, now, random);
        }
        let left = earliest(self, &change);
        change.due = (left != self.due_at).then_some(DueMove {
            from: self.due_at,
            to: left,
        });
        Some(change)
    }

    /// Adds points as one lot; `shares` is told the new entry's id.
    ///
    /// # Errors
    /// [`Obstacle`]: the wallet would hold too much, or must be bundled first.
    pub fn addition(
        &self,
        shares: impl FnOnce(&EntryId) -> Vec<LotShare>,
        cause: Cause,
        now: Timestamp,
        random: u128,
    ) -> Result<WalletChange, Obstacle> {
        let id = EntryId::behind(self.last_entry.as_ref(), now, random);
        let lot = Lot::new(id.clone(), shares(&id));
        let amount = lot.remaining();
        if self
            .balance
            .checked_add(amount)
            .is_none_or(|sum| sum > MAX_BALANCE)
        {
            return Err(Obstacle::Refused(Refusal::BalanceLimit));
        }
        let held: usize = self.lots.iter().map(|lot| lot.shares.len()).sum();
        if held + lot.shares.len() > MAX_SHARES {
            return Err(Obstacle::Refused(Refusal::TooManyLots));
        }
        if self.lots.len() >= MAX_LOTS {
            return Err(self.crowded(now, random));
        }
        let mut change = self.change();
        let due = lot.shares.iter().filter_map(|share| share.expires_at).min();
        let is_earlier = due.is_some_and(|due| self.due_at.is_none_or(|stands| due < stands));
        change.due = is_earlier.then_some(DueMove {
            from: self.due_at,
            to: due,
        });
        change.balance += amount;
        change.enter(id, amount.cast_signed(), lot.shares.clone(), cause, now);
        change.lots.push(LotChange::Add(lot));
        Ok(change)
    }

    /// Takes points: of the lot `first` if it is named, then earliest expiry first. What has expired MUST have been
    /// settled before.
    ///
    /// # Errors
    /// [`Obstacle`]: the wallet holds too little, or must be bundled first.
    pub fn withdrawal(
        &self,
        amount: u64,
        first: Option<&EntryId>,
        cause: Cause,
        now: Timestamp,
        random: u128,
    ) -> Result<WalletChange, Obstacle> {
        if self.balance < amount {
            return Err(Obstacle::Refused(Refusal::InsufficientPoints));
        }
        let mut draws = Vec::new();
        let mut missing = amount;
        for draw in self.in_turn(first) {
            if missing == 0 {
                break;
            }
            let amount = draw.amount.min(missing);
            missing -= amount;
            draws.push(Draw { amount, ..draw });
        }
        if draws.len() > MAX_DRAWN {
            return Err(Obstacle::Refused(Refusal::TooManyLots));
        }
        let mut change = self.change();
        change.lots = self.lots_after(&draws);
        if change.lots.len() > MAX_LOTS {
            return Err(self.crowded(now, random));
        }
        change.take(amount, self.shares_of(&draws), cause, now, random);
        Ok(change)
    }

    /// Bundles the smallest lots into one item; no point moves and no expiry changes.
    fn crowded(&self, now: Timestamp, random: u128) -> Obstacle {
        let mut by_size: Vec<&Lot> = self.lots.iter().collect();
        by_size.sort_by_key(|lot| lot.shares.len());
        let mut shares = 0;
        let fits = |lot: &&Lot| {
            shares += lot.shares.len();
            shares <= MAX_BUNDLE
        };
        let chosen: Vec<&Lot> = by_size
            .into_iter()
            .take(MAX_LOTS)
            .take_while(fits)
            .collect();
        if chosen.len() < 2 {
            return Obstacle::Refused(Refusal::TooManyLots);
        }
        let all = chosen.iter().flat_map(|lot| lot.shares.clone()).collect();
        let bundle = Lot::new(EntryId::behind(None, now, random), all);
        let mut change = self.change();
        change
            .lots
            .extend(chosen.into_iter().map(|lot| LotChange::Remove {
                key: lot.key.clone(),
                seen: lot.remaining(),
            }));
        change.lots.push(LotChange::Add(bundle));
        Obstacle::Crowded(Box::new(change))
    }

    /// A change that changes nothing yet.
    fn change(&self) -> WalletChange {
        WalletChange {
            holder: self.holder.clone(),
            seen: self.version,
            balance: self.balance,
            last_entry: self.last_entry.clone(),
            due: None,
            lots: Vec::new(),
            entries: Vec::new(),
        }
    }

    fn share(&self, draw: Draw) -> &LotShare {
        &self.lots[draw.lot].shares[draw.share]
    }

    /// Every share whole, in the order in which it is spent.
    fn in_turn(&self, first: Option<&EntryId>) -> Vec<Draw> {
        let mut all = Vec::new();
        for (lot, item) in self.lots.iter().enumerate() {
            for (share, held) in item.shares.iter().enumerate() {
                let amount = held.amount;
                all.push(Draw { lot, share, amount });
            }
        }
        all.sort_by_cached_key(|draw| {
            let share = self.share(*draw);
            (first != Some(&share.lot_id), share.turn())
        });
        all
    }

    /// Drops the draws from items beyond [`MAX_LOTS`].
    fn within_one_transaction(&self, draws: &mut Vec<Draw>) {
        let mut touched = std::collections::BTreeSet::new();
        draws.retain(|draw| {
            let fits = touched.len() < MAX_LOTS || touched.contains(&draw.lot);
            if fits {
                touched.insert(draw.lot);
            }
            fits
        });
    }

    /// What the draws took, for the ledger; two shares of one lot with one expiry are told as one.
    fn shares_of(&self, draws: &[Draw]) -> Vec<LotShare> {
        let mut shares: Vec<LotShare> = Vec::with_capacity(draws.len());
        for draw in draws {
            let of = self.share(*draw);
            match shares.last_mut() {
                Some(last) if last.turn() == of.turn() => last.amount += draw.amount,
                _ => shares.push(LotShare {
                    amount: draw.amount,
                    ..of.clone()
                }),
            }
        }
        shares
    }

    fn lots_after(&self, draws: &[Draw]) -> Vec<LotChange> {
        let mut by_lot: BTreeMap<usize, Vec<&Draw>> = BTreeMap::new();
        for draw in draws {
            by_lot.entry(draw.lot).or_default().push(draw);
        }
        let change = |(lot, draws): (usize, Vec<&Draw>)| {
            let mut to = self.lots[lot].clone();
            let seen = to.remaining();
            for draw in draws {
                to.shares[draw.share].amount -= draw.amount;
            }
            to.shares.retain(|share| share.amount > 0);
            if to.shares.is_empty() {
                LotChange::Remove { key: to.key, seen }
            } else {
                LotChange::Reduce { seen, to }
            }
        };
        by_lot.into_iter().map(change).collect()
    }
}

/// When the first share expires that `change` leaves in the wallet.
fn earliest(wallet: &Wallet, change: &WalletChange) -> Option<Timestamp> {
    let changed = |lot: &&Lot| {
        change.lots.iter().find_map(|change| match change {
            LotChange::Reduce { to, .. } if to.key == lot.key => Some(to.shares.as_slice()),
            LotChange::Remove { key, .. } if *key == lot.key => Some(&[][..]),
            _ => None,
        })
    };
    let left = wallet
        .lots
        .iter()
        .flat_map(|lot| changed(&lot).unwrap_or(&lot.shares));
    left.filter_map(|share| share.expires_at).min()
}

impl WalletChange {
    fn take(
        &mut self,
        amount: u64,
        shares: Vec<LotShare>,
        cause: Cause,
        now: Timestamp,
        random: u128,
    ) {
        let id = EntryId::behind(self.last_entry.as_ref(), now, random);
        self.balance -= amount;
        self.enter(id, -amount.cast_signed(), shares, cause, now);
    }

    fn enter(
        &mut self,
        id: EntryId,
        amount: i64,
        lots: Vec<LotShare>,
        cause: Cause,
        now: Timestamp,
    ) {
        self.last_entry = Some(id.clone());
        self.entries.push(Entry {
            entry_id: id,
            kind: cause.kind,
            amount,
            balance: self.balance,
            created_at: now,
            reason: cause.reason,
            counterpart: cause.counterpart,
            campaign_id: cause.campaign_id,
            order_id: cause.order_id,
            lots,
        });
    }

    /// What the wallet becomes, if it is still what the change was made for: the reference that every store is held to.
    pub fn applied_to(&self, wallet: &Wallet) -> Option<Wallet> {
        if (wallet.version, &wallet.holder) != (self.seen, &self.holder) {
            return None;
        }
        let mut lots: BTreeMap<LotKey, Lot> = wallet
            .lots
            .iter()
            .map(|lot| (lot.key.clone(), lot.clone()))
            .collect();
        let holds = |lots: &BTreeMap<LotKey, Lot>, key: &LotKey, seen: u64| {
            lots.get(key).is_some_and(|lot| lot.remaining() == seen)
        };
        for change in &self.lots {
            match change {
                LotChange::Add(lot) if !lots.contains_key(&lot.key) => {
                    lots.insert(lot.key.clone(), lot.clone());
                }
                LotChange::Reduce { seen, to } if holds(&lots, &to.key, *seen) => {
                    lots.insert(to.key.clone(), to.clone());
                }
                LotChange::Remove { key, seen } if holds(&lots, key, *seen) => {
                    lots.remove(key);
                }
                _ => return None,
            }
        }
        Some(Wallet {
            holder: self.holder.clone(),
            version: self.seen + 1,
            balance: self.balance,
            due_at: self.due.map_or(wallet.due_at, |due| due.to),
            last_entry: self.last_entry.clone(),
            lots: lots.into_values().collect(),
        })
    }
}

/// An earned lot: all of it expires at once, or never.
pub fn earned(
    amount: u64,
    expires_at: Option<Timestamp>,
) -> impl FnOnce(&EntryId) -> Vec<LotShare> {
    move |id| {
        vec![LotShare {
            lot_id: id.clone(),
            amount,
            expires_at,
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PartnerId, due_millis};

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn holder() -> Holder {
        Holder {
            partner_id: PartnerId::new("acme").unwrap(),
            user_id: UserId::new("ann").unwrap(),
        }
    }

    /// A wallet of these lots (amount, seconds until expiry).
    fn wallet(lots: &[(u64, Option<i64>)]) -> Wallet {
        lots.iter()
            .zip(1..)
            .fold(Wallet::empty(holder()), |wallet, ((amount, ttl), n)| {
                let expires_at = ttl.map(|ttl| NOW.plus_seconds(ttl));
                match wallet.addition(
                    earned(*amount, expires_at),
                    Cause::of(EntryKind::Earn),
                    NOW,
                    n,
                ) {
                    Ok(change) => change.applied_to(&wallet).unwrap(),
                    Err(Obstacle::Crowded(bundling)) => {
                        let bundled = bundling.applied_to(&wallet).unwrap();
                        let change = bundled.addition(
                            earned(*amount, expires_at),
                            Cause::of(EntryKind::Earn),
                            NOW,
                            n,
                        );
                        change.unwrap().applied_to(&bundled).unwrap()
                    }
                    Err(refused) => panic!("{refused:?}"),
                }
            })
    }

    fn spent(wallet: &Wallet, amount: u64) -> (Wallet, Vec<u64>) {
        let change = wallet.withdrawal(amount, None, Cause::of(EntryKind::Use), NOW, 99);
        let change = change.unwrap();
        let amounts = change.entries[0].lots.iter().map(|share| share.amount);
        (change.applied_to(wallet).unwrap(), amounts.collect())
    }

    #[test]
    fn the_earliest_expiry_is_spent_first_and_what_never_expires_last() {
        let wallet = wallet(&[(10, None), (20, Some(90)), (30, Some(60)), (40, Some(90))]);
        let (left, drawn) = spent(&wallet, 95);
        assert_eq!(drawn, [30, 20, 40, 5]);
        assert_eq!((left.balance, left.lots.len()), (5, 1));
        assert!(left.adds_up());
    }

    #[test]
    fn a_rollback_draws_from_its_own_lot_first() {
        let wallet = wallet(&[(10, Some(60)), (10, None)]);
        let own = wallet.lots[1].shares[0].lot_id.clone();
        let cause = Cause::of(EntryKind::Rollback);
        let change = wallet.withdrawal(12, Some(&own), cause, NOW, 9).unwrap();
        let drawn = &change.entries[0].lots;
        assert_eq!((&drawn[0].lot_id, drawn[0].amount), (&own, 10));
        assert_eq!(drawn[1].amount, 2);
    }

    #[test]
    fn more_than_there_is_or_can_be_is_refused() {
        let wallet = wallet(&[(10, None)]);
        let too_much = wallet.withdrawal(11, None, Cause::of(EntryKind::Use), NOW, 9);
        assert_eq!(
            too_much,
            Err(Obstacle::Refused(Refusal::InsufficientPoints))
        );
        let earn =
            |points| wallet.addition(earned(points, None), Cause::of(EntryKind::Earn), NOW, 9);
        assert!(earn(MAX_BALANCE - 10).is_ok());
        for points in [MAX_BALANCE - 9, u64::MAX] {
            assert_eq!(
                earn(points),
                Err(Obstacle::Refused(Refusal::BalanceLimit)),
                "{points}"
            );
        }
    }

    #[test]
    fn expiry_takes_a_lot_at_its_instant_and_moves_the_pointer_to_the_next() {
        let wallet = wallet(&[(10, Some(60)), (20, Some(90)), (5, None)]);
        assert_eq!(wallet.due_at, Some(NOW.plus_seconds(60)));
        let just_before = Timestamp::from_millis(NOW.millis() + 59_999);
        assert_eq!(wallet.settlement(just_before, 1), None);
        let change = wallet.settlement(NOW.plus_seconds(60), 1).unwrap();
        let after = change.applied_to(&wallet).unwrap();
        assert_eq!(
            (after.balance, after.due_at),
            (25, Some(NOW.plus_seconds(90)))
        );
        assert_eq!(
            (change.entries[0].kind, change.entries[0].amount),
            (EntryKind::Expire, -10)
        );
        assert_eq!(after.settlement(NOW.plus_seconds(60), 1), None, "once");
        let last = after.settlement(NOW.plus_seconds(90), 1).unwrap();
        let last = last.applied_to(&after).unwrap();
        assert_eq!((last.balance, last.due_at), (5, None));
    }

    #[test]
    fn a_pointer_that_came_too_early_is_moved_without_an_entry() {
        let wallet = wallet(&[(10, Some(60)), (20, Some(90))]);
        let (left, _) = spent(&wallet, 10);
        assert_eq!(
            left.due_at,
            Some(NOW.plus_seconds(60)),
            "spending leaves it"
        );
        let change = left.settlement(NOW.plus_seconds(60), 1).unwrap();
        assert!(change.entries.is_empty() && change.lots.is_empty());
        let moved = DueMove {
            from: Some(NOW.plus_seconds(60)),
            to: Some(NOW.plus_seconds(90)),
        };
        assert_eq!(change.due, Some(moved));
    }

    #[test]
    fn many_small_lots_are_bundled_without_losing_their_expiries_and_spent_at_once() {
        let lots: Vec<_> = (0..500).map(|n| (1, Some(1000 - n))).collect();
        let wallet = wallet(&lots);
        assert!(wallet.lots.len() <= MAX_LOTS && wallet.adds_up());
        let shares: usize = wallet.lots.iter().map(|lot| lot.shares.len()).sum();
        assert_eq!((shares, wallet.balance), (500, 500));
        let change = wallet
            .withdrawal(499, None, Cause::of(EntryKind::Use), NOW, 99)
            .unwrap();
        assert!(change.lots.len() <= MAX_LOTS);
        let after = change.applied_to(&wallet).unwrap();
        let last = &after.lots[0].shares[0];
        assert_eq!(
            (after.balance, last.expires_at),
            (1, Some(NOW.plus_seconds(1000))),
            "the latest expiry is left"
        );
        let turns: Vec<_> = change.entries[0].lots.iter().map(LotShare::turn).collect();
        assert!(turns.is_sorted() && turns.len() == 499);
    }

    #[test]
    fn what_one_transaction_cannot_expire_is_left_to_the_next() {
        let mut wallet = wallet(&[]);
        for n in 0..200 {
            let id = EntryId::behind(None, NOW, n);
            let shares = earned(1, Some(NOW.plus_seconds(n as i64)))(&id);
            wallet.lots.push(Lot::new(id, shares));
        }
        wallet.balance = 200;
        let later = NOW.plus_seconds(500);
        let mut rounds = 0;
        while let Some(change) = wallet.settlement(later, 1) {
            assert!(change.lots.len() <= MAX_LOTS);
            wallet = change.applied_to(&wallet).unwrap();
            assert!(wallet.adds_up());
            rounds += 1;
        }
        assert_eq!((rounds, wallet.balance, wallet.due_at), (3, 0, None));
    }

    #[test]
    fn a_wallet_takes_so_many_lots_and_no_more() {
        let mut wallet = wallet(&[]);
        let id = EntryId::behind(None, NOW, 0);
        let shares = |count: usize| {
            let share = |n| LotShare {
                lot_id: EntryId::behind(None, NOW, n as u128),
                amount: 1,
                expires_at: None,
            };
            (0..count).map(share).collect::<Vec<_>>()
        };
        wallet.lots = vec![Lot::new(id, shares(MAX_SHARES))];
        wallet.balance = MAX_SHARES as u64;
        let one_more = wallet.addition(earned(1, None), Cause::of(EntryKind::Earn), NOW, 1);
        let refused = Obstacle::Refused(Refusal::TooManyLots);
        assert_eq!(one_more, Err(refused.clone()));
        let many = MAX_DRAWN as u64;
        let take = |amount| wallet.withdrawal(amount, None, Cause::of(EntryKind::Use), NOW, 1);
        assert!(take(many).is_ok());
        assert_eq!(take(many + 1), Err(refused));
    }

    #[test]
    fn a_change_applies_only_to_the_wallet_it_was_made_for() {
        let wallet = wallet(&[(10, None)]);
        let change = wallet
            .withdrawal(4, None, Cause::of(EntryKind::Use), NOW, 1)
            .unwrap();
        let newer = Wallet {
            version: 2,
            ..wallet.clone()
        };
        assert_eq!(change.applied_to(&newer), None);
        let mut torn = wallet.clone();
        torn.lots[0].shares[0].amount = 9;
        assert_eq!(change.applied_to(&torn), None);
        assert!(!torn.adds_up());
        assert_eq!(due_millis(None), crate::NEVER_MILLIS);
    }
}
