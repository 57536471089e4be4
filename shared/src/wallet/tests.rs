//! Points on the memory book: operations and their keys, many at once, the sweep; then random sequences against an
//! oracle that knows nothing of items, versions or postings.

mod oracle;

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use tokio::time::Instant;

use super::*;
use crate::memory::{MemoryClock, MemoryEntropy, MemoryWallets, PostFault};
use crate::{Entropy, Fate, PortError};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

#[derive(Default)]
struct Bank {
    book: MemoryWallets,
    entropy: MemoryEntropy,
}

fn holder(user: &str) -> Holder {
    Holder {
        partner_id: PartnerId::new("acme").unwrap(),
        user_id: UserId::new(user).unwrap(),
    }
}

fn amount(points: u64) -> Amount {
    Amount::new(points).unwrap()
}

fn reason() -> EntryReason {
    EntryReason::new("test").unwrap()
}

fn earn(user: &str, points: u64, expires_at: Option<Timestamp>) -> Order {
    Order::Earn {
        holder: holder(user),
        amount: amount(points),
        expires_at,
        reason: reason(),
    }
}

fn spend(user: &str, points: u64) -> Order {
    Order::Use {
        holder: holder(user),
        amount: amount(points),
        reason: reason(),
    }
}

fn transfer(from: &str, to: &str, points: u64) -> Order {
    Order::Transfer {
        partner_id: holder(from).partner_id,
        from: holder(from).user_id,
        to: holder(to).user_id,
        amount: amount(points),
    }
}

impl Bank {
    fn teller(&self, now: Timestamp) -> Teller<'_, MemoryWallets> {
        Teller {
            book: &self.book,
            entropy: &self.entropy,
            now,
        }
    }

    fn operation(&self, key: &str, request: &str) -> Operation {
        Operation {
            partner_id: holder("x").partner_id,
            key_sha256: key.into(),
            request_sha256: request.into(),
            attempt: self.entropy.bits(),
        }
    }

    async fn try_at(&self, now: Timestamp, key: &str, order: &Order) -> Result<Carried, PortError> {
        let request = format!("{order:?}");
        let operation = self.operation(key, &request);
        self.teller(now).carry_out(order, &operation).await
    }

    /// Carries the order out. Who is told to try again does so, with the same key, as a client would.
    async fn at(&self, now: Timestamp, key: &str, order: &Order) -> Carried {
        for _ in 0..20 {
            match self.try_at(now, key, order).await {
                Err(error) if error.fate == Fate::Retry => {}
                carried => return carried.unwrap(),
            }
        }
        panic!("{key} was told to try again twenty times")
    }

    async fn entered(&self, key: &str, order: &Order) -> Entry {
        match self.at(NOW, key, order).await {
            Carried::Entered(entry) => entry,
            other => panic!("{order:?}: {other:?}"),
        }
    }

    /// The balance as stored, checked against lots and ledger.
    async fn balance(&self, user: &str) -> u64 {
        let wallet = self.book.wallet(&holder(user)).await.unwrap();
        assert!(wallet.adds_up());
        let mut sum = 0;
        for entry in self.book.ledger(&holder(user)) {
            sum += entry.amount;
            assert_eq!(sum, entry.balance.cast_signed(), "after {entry:?}");
            let moved: u64 = entry.lots.iter().map(|share| share.amount).sum();
            assert_eq!(moved, entry.amount.unsigned_abs(), "{entry:?}");
        }
        assert_eq!(sum, wallet.balance.cast_signed());
        wallet.balance
    }
}

#[tokio::test]
async fn what_is_earned_can_be_used_and_moved_and_every_entry_names_its_lots() {
    let bank = Bank::default();
    let soon = Some(NOW.plus_seconds(60));
    let early = bank.entered("1", &earn("ann", 100, soon)).await;
    let late = bank.entered("2", &earn("ann", 50, None)).await;
    assert_eq!((early.amount, late.balance), (100, 150));
    let used = bank.entered("3", &spend("ann", 70)).await;
    assert_eq!((used.amount, used.balance), (-70, 80));
    assert_eq!(used.lots[0].lot_id, early.entry_id);
    let out = bank.entered("4", &transfer("ann", "bob", 40)).await;
    assert_eq!(out.kind, EntryKind::TransferOut);
    let moved: Vec<_> = out
        .lots
        .iter()
        .map(|share| (share.lot_id.clone(), share.amount, share.expires_at))
        .collect();
    let expected = [(early.entry_id, 30, soon), (late.entry_id, 10, None)];
    assert_eq!(moved, expected, "lots move with their expiry");
    let given = bank.book.ledger(&holder("bob")).remove(0);
    assert_eq!((given.kind, given.amount), (EntryKind::TransferIn, 40));
    assert_eq!(given.counterpart, Some(holder("ann").user_id));
    assert_eq!(given.lots, out.lots);
    assert_eq!(
        (bank.balance("ann").await, bank.balance("bob").await),
        (40, 40)
    );
}

#[tokio::test]
async fn a_repeat_gets_the_same_answer_and_another_request_none() {
    let bank = Bank::default();
    let first = bank.at(NOW, "k", &earn("ann", 10, None)).await;
    let later = NOW.plus_seconds(OPERATION_SECONDS - 1);
    assert_eq!(bank.at(later, "k", &earn("ann", 10, None)).await, first);
    for other in [
        earn("ann", 11, None),
        earn("bob", 10, None),
        spend("ann", 10),
    ] {
        assert_eq!(bank.at(NOW, "k", &other).await, Carried::Mismatch);
    }
    assert_eq!(bank.balance("ann").await, 10);
    let forgotten = NOW.plus_seconds(OPERATION_SECONDS);
    let again = bank.at(forgotten, "k", &earn("ann", 10, None)).await;
    assert_ne!(again, first, "a day later the key is free");
    assert_eq!(bank.balance("ann").await, 20);
}

#[tokio::test]
async fn a_refusal_is_an_answer_too() {
    let bank = Bank::default();
    let refused = Carried::Refused(Refusal::InsufficientPoints);
    assert_eq!(bank.at(NOW, "k", &spend("ann", 1)).await, refused);
    bank.entered("e", &earn("ann", 5, None)).await;
    assert_eq!(bank.at(NOW, "k", &spend("ann", 1)).await, refused);
    assert_eq!(bank.balance("ann").await, 5);
}

#[tokio::test]
async fn points_that_have_expired_cannot_be_earned_and_a_repeat_of_good_ones_is_answered_for_good()
{
    let bank = Bank::default();
    let end = NOW.plus_seconds(60);
    let order = earn("ann", 10, Some(end));
    assert_eq!(bank.at(end, "k", &order).await, Carried::PastExpiry);
    let first = bank
        .at(Timestamp::from_millis(end.millis() - 1), "k", &order)
        .await;
    assert!(matches!(first, Carried::Entered(_)), "the key was free");
    assert_eq!(bank.at(end, "k", &order).await, first);
}

#[tokio::test]
async fn an_attempt_that_died_before_the_expiry_says_nothing_once_its_lease_has_ended() {
    let bank = Bank::default();
    let order = earn("ann", 10, Some(NOW.plus_seconds(6)));
    let crashed = bank.operation("k", &format!("{order:?}"));
    assert_eq!(bank.book.begin(&crashed, NOW).await.unwrap(), Begin::Begun);
    let lease_end = NOW.plus_seconds(LEASE_SECONDS);
    let just_before = Timestamp::from_millis(lease_end.millis() - 1);
    assert_eq!(bank.at(just_before, "k", &order).await, Carried::InProgress);
    assert_eq!(bank.at(lease_end, "k", &order).await, Carried::PastExpiry);
    let other = earn("ann", 11, Some(NOW.plus_seconds(6)));
    assert_eq!(bank.at(lease_end, "k", &other).await, Carried::Mismatch);

    // An attempt that failed has given its lease back.
    bank.book.fail_next([PostFault::Error]);
    assert!(bank.try_at(NOW, "failed", &order).await.is_err());
    let late = NOW.plus_seconds(7);
    assert_eq!(bank.at(late, "failed", &order).await, Carried::PastExpiry);
    assert_eq!(bank.balance("ann").await, 0);
}

#[tokio::test]
async fn a_crashed_attempt_is_taken_over_when_its_lease_ends_and_never_carried_out_twice() {
    let bank = Bank::default();
    bank.entered("e", &earn("ann", 5, None)).await;
    let order = spend("ann", 2);
    let crashed = bank.operation("k", &format!("{order:?}"));
    assert_eq!(bank.book.begin(&crashed, NOW).await.unwrap(), Begin::Begun);
    // Its posting is on the way when the function dies.
    let wallet = bank.book.wallet(&holder("ann")).await.unwrap();
    let cause = Cause::of(EntryKind::Use);
    let change = wallet.withdrawal(2, None, cause, NOW, 9).unwrap();
    let answer = OperationAnswer::Entered {
        entry_user: holder("ann").user_id,
        entry_id: change.last_entry.clone().unwrap(),
    };
    let on_the_way = Posting {
        guard: Guard::Operation(crashed, answer),
        changes: vec![change],
    };

    let just_before = NOW.plus_seconds(LEASE_SECONDS - 1);
    assert_eq!(bank.at(just_before, "k", &order).await, Carried::InProgress);
    assert_eq!(
        bank.at(just_before, "k", &spend("ann", 3)).await,
        Carried::Mismatch
    );
    let after = NOW.plus_seconds(LEASE_SECONDS);
    assert_eq!(
        bank.at(after, "k", &spend("ann", 3)).await,
        Carried::Mismatch,
        "another request takes nothing over"
    );
    let taken_over = bank.at(after, "k", &order).await;
    assert!(matches!(taken_over, Carried::Entered(_)));
    let late = bank.book.post(&on_the_way).await.unwrap();
    assert_eq!(late, PostOutcome::Refused);
    assert_eq!(bank.at(after, "k", &order).await, taken_over);
    assert_eq!(bank.balance("ann").await, 3);
}

#[tokio::test(start_paused = true)]
async fn whatever_is_lost_on_the_way_an_order_is_carried_out_once() {
    let faults = [
        PostFault::Busy,
        PostFault::LostBeforeWrite,
        PostFault::LostAfterWrite,
    ];
    for fault in faults {
        let bank = Bank::default();
        bank.entered("e", &earn("ann", 3, None)).await;
        bank.book.fail_next([fault]);
        let used = bank.entered("u", &spend("ann", 3)).await;
        assert_eq!(used.amount, -3, "{fault:?}");
        bank.entered("e2", &earn("ann", 3, None)).await;
        bank.book.fail_next([fault]);
        bank.entered("t", &transfer("ann", "bob", 3)).await;
        assert_eq!(
            (bank.balance("ann").await, bank.balance("bob").await),
            (0, 3),
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn a_failed_attempt_gives_its_lease_back() {
    let bank = Bank::default();
    bank.book.fail_next([PostFault::Error]);
    let order = earn("ann", 1, None);
    assert!(bank.try_at(NOW, "k", &order).await.is_err());
    assert!(matches!(
        bank.at(NOW, "k", &order).await,
        Carried::Entered(_)
    ));
    assert_eq!(bank.balance("ann").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_spenders_of_one_point_on_fifty_points_spend_fifty() {
    let bank = Bank::default();
    bank.entered("e", &earn("ann", 50, None)).await;
    let keys: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    let order = spend("ann", 1);
    let answers = join_all(keys.iter().map(|key| bank.at(NOW, key, &order))).await;
    let spent = answers
        .iter()
        .filter(|answer| matches!(answer, Carried::Entered(_)))
        .count();
    let refused = answers
        .iter()
        .filter(|answer| **answer == Carried::Refused(Refusal::InsufficientPoints))
        .count();
    assert_eq!((spent, refused), (50, 50));
    assert_eq!(bank.balance("ann").await, 0);
    assert_eq!(bank.book.ledger(&holder("ann")).len(), 51);
}

#[tokio::test(start_paused = true)]
async fn a_contended_wallet_is_given_up_in_three_seconds_and_the_same_key_works_later() {
    let bank = Bank::default();
    bank.book.fail_next(vec![PostFault::Busy; 1000]);
    let order = earn("ann", 5, None);
    let started = Instant::now();
    let error = bank.try_at(NOW, "k", &order).await.unwrap_err();
    assert_eq!(error.fate, Fate::Retry);
    assert!(started.elapsed() <= WALLET_PATIENCE);
    assert!(started.elapsed() > WALLET_PATIENCE / 2, "not before it");
    let tries = bank.book.posts();
    assert!((6..=100).contains(&tries), "{tries}");
    bank.book.forget_faults();
    let again = bank.try_at(NOW, "k", &order).await.unwrap();
    assert!(
        matches!(again, Carried::Entered(_)),
        "the lease was given back"
    );
}

#[tokio::test(start_paused = true)]
async fn two_hundred_crossing_transfers_among_ten_wallets_all_arrive() {
    let bank = Bank::default();
    let users: Vec<String> = (0..10).map(|n| format!("user-{n}")).collect();
    for user in &users {
        bank.entered(user, &earn(user, 1000, None)).await;
    }
    let crossing = (0..200).map(|n: usize| {
        let (from, step) = (n % 10, 1 + n % 9);
        let order = transfer(&users[from], &users[(from + step) % 10], 1 + n as u64 % 5);
        let bank = &bank;
        async move { bank.at(NOW, &format!("t{n}"), &order).await }
    });
    let answers = join_all(crossing).await;
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Carried::Entered(_)))
    );
    let mut sum = 0;
    for user in &users {
        sum += bank.balance(user).await;
    }
    assert_eq!(sum, 10_000);
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_repeats_at_once_one_is_carried_out() {
    let bank = Bank::default();
    bank.entered("e", &earn("ann", 50, None)).await;
    let order = spend("ann", 1);
    let answers = join_all((0..100).map(|_| bank.at(NOW, "k", &order))).await;
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Carried::Entered(_) | Carried::InProgress))
    );
    assert_eq!(bank.balance("ann").await, 49);
}

// Expiry.

#[tokio::test]
async fn what_has_expired_can_be_neither_used_nor_seen_and_expires_once() {
    let bank = Bank::default();
    bank.entered("1", &earn("ann", 100, Some(NOW.plus_seconds(60))))
        .await;
    bank.entered("2", &earn("ann", 10, None)).await;
    let later = NOW.plus_seconds(60);
    assert_eq!(
        bank.at(later, "u", &spend("ann", 11)).await,
        Carried::Refused(Refusal::InsufficientPoints)
    );
    assert_eq!(bank.balance("ann").await, 10);
    let seen = bank.teller(later).settled(&holder("ann")).await.unwrap();
    assert_eq!((seen.balance, seen.expiring_next()), (10, None));
    let expired = bank
        .book
        .ledger(&holder("ann"))
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::Expire);
    assert_eq!(
        expired.map(|entry| entry.amount).collect::<Vec<_>>(),
        [-100]
    );
}

async fn sweep(bank: &Bank, now: Timestamp, patience: u64) -> Sweep {
    let deadline = Instant::now() + Duration::from_secs(patience);
    expire_points(
        &bank.book,
        &MemoryClock::at(now),
        &MemoryEntropy::seeded(5),
        deadline,
    )
    .await
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_is_doubled_killed_or_repeated_expires_each_lot_once() {
    let bank = Bank::default();
    for n in 0..300 {
        let expires_at = Some(NOW.plus_seconds(1 + n % 3));
        let user = format!("user-{n}");
        bank.entered(&format!("a{n}"), &earn(&user, 5, expires_at))
            .await;
        bank.entered(&format!("b{n}"), &earn(&user, 2, None)).await;
    }
    let nothing_due = Sweep::default();
    assert_eq!(sweep(&bank, NOW, 9).await, nothing_due);
    let cut = sweep(&bank, NOW.plus_seconds(9), 0).await;
    assert_eq!((cut.settled, cut.cut_short), (0, true));

    let later = NOW.plus_seconds(9);
    // Killed half-way: whatever it had in hand is simply dropped.
    let killer = async {
        for _ in 0..40 {
            tokio::task::yield_now().await;
        }
    };
    {
        let (first, killer) = (pin!(sweep(&bank, later, 9)), pin!(killer));
        assert!(matches!(select(first, killer).await, Either::Right(_)));
    }
    let left = bank.book.pointers().len();
    assert!((1..300).contains(&left), "{left} are left of 300");
    let doubled = join_all([sweep(&bank, later, 9), sweep(&bank, later, 9)]).await;
    assert!(doubled.iter().all(|sweep| sweep.failed == 0));
    assert_eq!(sweep(&bank, later, 9).await, nothing_due);
    for n in 0..300 {
        let user = format!("user-{n}");
        assert_eq!(bank.balance(&user).await, 2);
        let entries = bank.book.ledger(&holder(&user));
        let expired = entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Expire);
        assert_eq!(expired.count(), 1, "{user}");
    }
    assert!(bank.book.pointers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wallet_that_cannot_be_settled_stops_no_other() {
    let bank = Bank::default();
    for n in 0..5 {
        let order = earn(&format!("user-{n}"), 5, Some(NOW.plus_seconds(1)));
        bank.entered(&format!("k{n}"), &order).await;
    }
    bank.book.fail_next([PostFault::Error]);
    let first = sweep(&bank, NOW.plus_seconds(2), 9).await;
    assert_eq!((first.settled, first.failed), (4, 1));
    let second = sweep(&bank, NOW.plus_seconds(2), 9).await;
    assert_eq!((second.settled, second.failed), (1, 0));
}

#[tokio::test]
async fn many_small_lots_are_spent_in_one_operation() {
    let bank = Bank::default();
    for n in 0..300 {
        let order = earn("ann", 1, Some(NOW.plus_seconds(1000 + n)));
        bank.entered(&format!("k{n}"), &order).await;
    }
    let used = bank.entered("u", &spend("ann", 290)).await;
    assert_eq!((used.lots.len(), used.balance), (290, 10));
    let moved = bank.entered("t", &transfer("ann", "bob", 10)).await;
    assert_eq!(moved.lots.len(), 10);
    assert_eq!(bank.balance("bob").await, 10);
    let expired = bank.teller(NOW.plus_seconds(1294));
    let left = expired.settled(&holder("bob")).await.unwrap();
    assert_eq!(left.balance, 5, "each share kept its own expiry");
}

#[test]
fn pointers_are_spread_and_stay_where_they_are() {
    let shards: std::collections::BTreeSet<u16> = (0..200)
        .map(|n| DuePointer::shard(&holder(&format!("user-{n}"))))
        .collect();
    assert_eq!(shards.len(), usize::from(DUE_SHARDS));
    assert!(shards.iter().all(|shard| *shard < DUE_SHARDS));
    assert_eq!(
        DuePointer::shard(&holder("ann")),
        DuePointer::shard(&holder("ann"))
    );
}
