//! One contract of points and of coupons in use, every store: run on memory and on the DynamoDB that
//! `FIRSTCOME_CONTRACT_ENDPOINT` names. A store that loses a point, spends one twice or resets a redeemed coupon fails
//! here, whatever its expressions look like.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use firstcome_core::aws::{
    Aws, DynamoCatalog, DynamoCoupons, DynamoLedger, DynamoRedemptions, DynamoWallets, contract,
};
use firstcome_core::memory::{MemoryClock, MemoryLedger, MemoryWallets, sample_campaign};
use firstcome_core::{
    Amount, Begin, Campaign, CampaignCatalog, CampaignId, Carried, Cause, Chunk, ChunkOutcome,
    Claim, ClaimId, Coupon, CouponDesk, CouponLedger, CouponOf, CouponReason, CouponUse,
    DueWallets, Entropy, Entry, EntryKind, EntryReason, Fate, Guard, Holder, LEASE_SECONDS,
    Operation, OperationAnswer, Operations, Order, OrderId, PartnerId, PostOutcome, Posting,
    Redemptions, Refusal, StandingCoupons, SystemEntropy, Teller, Timestamp, UserId, Wallet,
    WalletBook, coupon_code, expire_points,
};
use futures_util::future::join_all;
use tokio::time::Instant;

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// The parts of a store, and how a test fills it.
trait Store: Sync {
    type Ledger: CouponLedger;
    type Coupons: StandingCoupons + Sync;
    type Redemptions: Redemptions + Sync;
    type Wallets: WalletBook + Operations + DueWallets + Sync;
    fn ledger(&self) -> &Self::Ledger;
    fn coupons(&self) -> &Self::Coupons;
    fn redemptions(&self) -> &Self::Redemptions;
    fn wallets(&self) -> &Self::Wallets;
    async fn add(&self, campaign: &Campaign);
}

struct Memory {
    ledger: MemoryLedger,
    wallets: MemoryWallets,
}

impl Store for Memory {
    type Ledger = MemoryLedger;
    type Coupons = MemoryLedger;
    type Redemptions = MemoryLedger;
    type Wallets = MemoryWallets;
    fn ledger(&self) -> &MemoryLedger {
        &self.ledger
    }
    fn coupons(&self) -> &MemoryLedger {
        &self.ledger
    }
    fn redemptions(&self) -> &MemoryLedger {
        &self.ledger
    }
    fn wallets(&self) -> &MemoryWallets {
        &self.wallets
    }
    async fn add(&self, campaign: &Campaign) {
        self.ledger.add(campaign);
    }
}

fn memory() -> Memory {
    let ledger = MemoryLedger::default();
    Memory {
        wallets: MemoryWallets::over(&ledger),
        ledger,
    }
}

struct Dynamo {
    ledger: DynamoLedger,
    coupons: DynamoCoupons,
    redemptions: DynamoRedemptions,
    wallets: DynamoWallets,
    catalog: DynamoCatalog,
}

impl Store for Dynamo {
    type Ledger = DynamoLedger;
    type Coupons = DynamoCoupons;
    type Redemptions = DynamoRedemptions;
    type Wallets = DynamoWallets;
    fn ledger(&self) -> &DynamoLedger {
        &self.ledger
    }
    fn coupons(&self) -> &DynamoCoupons {
        &self.coupons
    }
    fn redemptions(&self) -> &DynamoRedemptions {
        &self.redemptions
    }
    fn wallets(&self) -> &DynamoWallets {
        &self.wallets
    }
    async fn add(&self, campaign: &Campaign) {
        self.catalog.create(campaign, None).await.unwrap();
    }
}

async fn dynamo() -> Dynamo {
    let endpoint = std::env::var("FIRSTCOME_CONTRACT_ENDPOINT")
        .expect("FIRSTCOME_CONTRACT_ENDPOINT must name a DynamoDB; `make test` sets it");
    let aws = Aws::from_config(contract::config(&endpoint).await);
    let id = SystemEntropy.bits();
    let names =
        ["campaigns", "coupons", "wallets"].map(|kind| format!("contract-{kind}-{id:032x}"));
    for name in &names {
        contract::create_table(&aws, name).await.unwrap();
    }
    let [campaigns, coupons, wallets] = names;
    Dynamo {
        ledger: DynamoLedger::new(&aws, coupons.clone(), campaigns.clone()),
        coupons: DynamoCoupons::new(&aws, coupons.clone()),
        redemptions: DynamoRedemptions::new(&aws, coupons.clone()),
        wallets: DynamoWallets::new(&aws, wallets).with_coupons(coupons),
        catalog: DynamoCatalog::new(&aws, campaigns),
    }
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
    EntryReason::new("contract").unwrap()
}

fn earn(user: &str, points: u64, ttl: Option<i64>) -> Order {
    Order::Earn {
        holder: holder(user),
        amount: amount(points),
        expires_at: ttl.map(|ttl| NOW.plus_seconds(ttl)),
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

fn teller<S: Store>(store: &S, now: Timestamp) -> Teller<'_, S::Wallets> {
    Teller {
        book: store.wallets(),
        entropy: &SystemEntropy,
        now,
    }
}

fn operation(key: &str, order: &Order) -> Operation {
    Operation {
        partner_id: holder("x").partner_id,
        key_sha256: key.into(),
        request_sha256: format!("{order:?}"),
        attempt: SystemEntropy.bits(),
    }
}

/// Carries the order out. Who is told to try again does so, with the same key, as a client would.
async fn carried(store: &impl Store, seconds: i64, key: &str, order: &Order) -> Carried {
    for _ in 0..40 {
        let operation = operation(key, order);
        let teller = teller(store, NOW.plus_seconds(seconds));
        match teller.carry_out(order, &operation).await {
            Err(error) if error.fate == Fate::Retry => {}
            carried => return carried.unwrap(),
        }
    }
    panic!("{key} was told to try again forty times")
}

async fn entered(store: &impl Store, key: &str, order: &Order) -> Entry {
    match carried(store, 0, key, order).await {
        Carried::Entered(entry) => entry,
        other => panic!("{order:?}: {other:?}"),
    }
}

/// The whole ledger, page by page, oldest first.
async fn ledger(store: &impl Store, user: &str) -> Vec<Entry> {
    let (mut all, mut before, holder) = (Vec::new(), None, holder(user));
    loop {
        let page = store.wallets().entries(&holder, before.as_ref(), 7);
        let page = page.await.unwrap();
        all.extend(page.entries);
        before = page.next;
        if before.is_none() {
            all.reverse();
            return all;
        }
    }
}

/// The wallet as stored, if balance, lots and ledger agree.
async fn wallet(store: &impl Store, user: &str) -> Wallet {
    let wallet = store.wallets().wallet(&holder(user)).await.unwrap();
    assert!(wallet.adds_up());
    let mut sum = 0;
    for entry in ledger(store, user).await {
        sum += entry.amount;
        assert_eq!(sum, entry.balance.cast_signed(), "after {entry:?}");
        let moved: u64 = entry.lots.iter().map(|share| share.amount).sum();
        assert_eq!(moved, entry.amount.unsigned_abs(), "{entry:?}");
    }
    assert_eq!(sum, wallet.balance.cast_signed());
    wallet
}

async fn a_wallet_and_its_ledger_read_back_as_posted(store: &impl Store) {
    assert_eq!(
        store.wallets().wallet(&holder("ann")).await.unwrap(),
        Wallet::empty(holder("ann"))
    );
    let early = entered(store, "1", &earn("ann", 100, Some(60))).await;
    let late = entered(store, "2", &earn("ann", 50, None)).await;
    let used = entered(store, "3", &spend("ann", 70)).await;
    let out = entered(store, "4", &transfer("ann", "bob", 40)).await;
    assert_eq!(
        ledger(store, "ann").await,
        [early.clone(), late, used, out.clone()]
    );
    let ann = wallet(store, "ann").await;
    assert_eq!((ann.version, ann.balance), (4, 40));
    assert_eq!(ann.due_at, Some(NOW.plus_seconds(60)));
    let bob = wallet(store, "bob").await;
    assert_eq!((bob.balance, bob.lots[0].shares.clone()), (40, out.lots));
    assert_eq!(bob.expiring_next(), Some((NOW.plus_seconds(60), 30)));
    let found = store.wallets().entry(&holder("ann"), &early.entry_id).await;
    assert_eq!(found.unwrap(), Some(early.clone()));
    let elsewhere = store.wallets().entry(&holder("bob"), &early.entry_id).await;
    assert_eq!(elsewhere.unwrap(), None);
}

async fn pages_of_entries_neither_repeat_nor_skip(store: &impl Store) {
    for n in 0..30 {
        entered(store, &format!("k{n}"), &earn("ann", 1 + n, None)).await;
    }
    let amounts: Vec<i64> = ledger(store, "ann")
        .await
        .iter()
        .map(|entry| entry.amount)
        .collect();
    assert_eq!(amounts, (1..=30).collect::<Vec<i64>>());
    let (mut full_pages, mut before) = (0, None);
    loop {
        let (wallets, ann) = (store.wallets(), holder("ann"));
        let page = wallets.entries(&ann, before.as_ref(), 10).await.unwrap();
        assert_eq!(page.entries.len(), 10, "no page is empty");
        full_pages += 1;
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(full_pages, 3);
}

async fn a_posting_for_an_older_wallet_changes_nothing(store: &impl Store) {
    entered(store, "1", &earn("ann", 10, Some(60))).await;
    let seen = wallet(store, "ann").await;
    let plan = |points| {
        let cause = Cause::of(EntryKind::Use);
        let change = seen.withdrawal(points, None, cause, NOW, SystemEntropy.bits());
        Posting {
            guard: Guard::None,
            changes: vec![change.unwrap()],
        }
    };
    let (first, second) = (plan(3), plan(4));
    assert_eq!(
        store.wallets().post(&first).await.unwrap(),
        PostOutcome::Posted
    );
    for stale in [&first, &second] {
        assert_eq!(
            store.wallets().post(stale).await.unwrap(),
            PostOutcome::Stale
        );
    }
    assert_eq!(wallet(store, "ann").await.balance, 7);
    // Two first earnings at once: a wallet that was never written is a version, too.
    let nobody = Wallet::empty(holder("bob"));
    for expected in [PostOutcome::Posted, PostOutcome::Stale] {
        let shares = firstcome_core::earned(5, None);
        let cause = Cause::of(EntryKind::Earn);
        let change = nobody.addition(shares, cause, NOW, SystemEntropy.bits());
        let posting = Posting {
            guard: Guard::None,
            changes: vec![change.unwrap()],
        };
        assert_eq!(store.wallets().post(&posting).await.unwrap(), expected);
    }
    assert_eq!(wallet(store, "bob").await.balance, 5);
}

async fn a_posting_must_find_in_every_lot_what_was_seen(store: &impl Store) {
    entered(store, "1", &earn("ann", 10, Some(60))).await;
    let mut torn = wallet(store, "ann").await;
    torn.lots[0].shares[0].amount = 9;
    torn.balance = 9;
    for points in [3, 9] {
        let cause = Cause::of(EntryKind::Use);
        let change = torn.withdrawal(points, None, cause, NOW, SystemEntropy.bits());
        let posting = Posting {
            guard: Guard::None,
            changes: vec![change.unwrap()],
        };
        assert_eq!(
            store.wallets().post(&posting).await.unwrap(),
            PostOutcome::Stale
        );
    }
    assert_eq!(wallet(store, "ann").await.balance, 10);
}

async fn a_key_means_one_request_and_one_answer(store: &impl Store) {
    let first = carried(store, 0, "k", &earn("ann", 10, None)).await;
    let again = carried(store, 3600, "k", &earn("ann", 10, None)).await;
    assert_eq!(again, first);
    for other in [
        earn("ann", 11, None),
        earn("bob", 10, None),
        spend("ann", 1),
    ] {
        assert_eq!(carried(store, 0, "k", &other).await, Carried::Mismatch);
    }
    let refused = Carried::Refused(Refusal::InsufficientPoints);
    assert_eq!(carried(store, 0, "u", &spend("ann", 11)).await, refused);
    entered(store, "e", &earn("ann", 90, None)).await;
    assert_eq!(
        carried(store, 0, "u", &spend("ann", 11)).await,
        refused,
        "a refusal is an answer"
    );
    assert_eq!(wallet(store, "ann").await.balance, 100);
    let tomorrow = carried(store, 86_400, "k", &earn("ann", 10, None)).await;
    assert_ne!(tomorrow, first, "a day later the key is free");
}

async fn a_crashed_attempt_is_taken_over_and_can_no_longer_end(store: &impl Store) {
    entered(store, "e", &earn("ann", 5, None)).await;
    let order = spend("ann", 2);
    let crashed = operation("k", &order);
    let book = store.wallets();
    assert_eq!(book.begin(&crashed, NOW).await.unwrap(), Begin::Begun);
    let cause = Cause::of(EntryKind::Use);
    let seen = wallet(store, "ann").await;
    let change = seen.withdrawal(2, None, cause, NOW, 9).unwrap();
    let answer = OperationAnswer::Entered {
        entry_user: holder("ann").user_id,
        entry_id: change.last_entry.clone().unwrap(),
    };
    let on_the_way = Posting {
        guard: Guard::Operation(crashed.clone(), answer),
        changes: vec![change],
    };
    let before = carried(store, LEASE_SECONDS - 1, "k", &order).await;
    assert_eq!(before, Carried::InProgress);
    let other = carried(store, LEASE_SECONDS, "k", &spend("ann", 3)).await;
    assert_eq!(other, Carried::Mismatch);
    let second = operation("k", &order);
    let later = NOW.plus_seconds(LEASE_SECONDS);
    assert_eq!(book.begin(&second, later).await.unwrap(), Begin::Begun);
    // The wallet is still what the dead attempt saw: only its lost lease stops it.
    assert_eq!(book.post(&on_the_way).await.unwrap(), PostOutcome::Refused);
    let ended = book.refuse(&crashed, Refusal::InsufficientPoints).await;
    assert_eq!(ended.unwrap(), Begin::InProgress);
    book.release(&crashed).await.unwrap();
    assert_eq!(
        carried(store, LEASE_SECONDS, "k", &order).await,
        Carried::InProgress,
        "the second attempt's lease stands"
    );
    book.release(&second).await.unwrap();
    let done = carried(store, LEASE_SECONDS, "k", &order).await;
    assert!(matches!(done, Carried::Entered(_)));
    let standing = book.standing(&second, later).await.unwrap();
    assert!(matches!(standing, Some(Begin::Answered(_))));
    assert_eq!(wallet(store, "ann").await.balance, 3);
}

async fn an_attempt_stands_until_its_lease_ends(store: &impl Store) {
    let order = earn("ann", 10, Some(6));
    let (book, crashed) = (store.wallets(), operation("k", &order));
    assert_eq!(book.begin(&crashed, NOW).await.unwrap(), Begin::Begun);
    let standing = async |millis: i64, order: &Order| {
        let now = Timestamp::from_millis(NOW.millis() + millis);
        let standing = book.standing(&operation("k", order), now).await;
        standing.unwrap()
    };
    let lease = LEASE_SECONDS * 1000;
    assert_eq!(standing(lease - 1, &order).await, Some(Begin::InProgress));
    assert_eq!(standing(lease, &order).await, None);
    let other = earn("ann", 11, Some(6));
    assert_eq!(standing(lease, &other).await, Some(Begin::Mismatch));
    let late = carried(store, LEASE_SECONDS - 1, "k", &order).await;
    assert_eq!(late, Carried::InProgress);
    let late = carried(store, LEASE_SECONDS, "k", &order).await;
    assert_eq!(late, Carried::PastExpiry);
    book.release(&crashed).await.unwrap();
    let late = carried(store, 7, "k", &order).await;
    assert_eq!(late, Carried::PastExpiry, "the lease was given back");
}

async fn a_hundred_spenders_of_one_point_on_fifty_points_spend_fifty(store: &impl Store) {
    entered(store, "e", &earn("ann", 50, None)).await;
    let keys: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    let order = spend("ann", 1);
    let answers = join_all(keys.iter().map(|key| carried(store, 0, key, &order))).await;
    let spent = |answer: &&Carried| matches!(answer, Carried::Entered(_));
    let refused = |answer: &&Carried| **answer == Carried::Refused(Refusal::InsufficientPoints);
    assert_eq!(
        (
            answers.iter().filter(spent).count(),
            answers.iter().filter(refused).count()
        ),
        (50, 50)
    );
    assert_eq!(wallet(store, "ann").await.balance, 0);
    assert_eq!(ledger(store, "ann").await.len(), 51);
}

async fn two_hundred_crossing_transfers_among_ten_wallets_all_arrive(store: &impl Store) {
    let users: Vec<String> = (0..10).map(|n| format!("user-{n}")).collect();
    for user in &users {
        entered(store, user, &earn(user, 500, Some(60))).await;
        entered(store, &format!("{user}-2"), &earn(user, 500, None)).await;
    }
    let crossing = (0..200_usize).map(|n| {
        let (from, step) = (n % 10, 1 + n % 9);
        let order = transfer(&users[from], &users[(from + step) % 10], 1 + n as u64 % 5);
        async move { carried(store, 0, &format!("t{n}"), &order).await }
    });
    let answers = join_all(crossing).await;
    let arrived = |answer: &Carried| matches!(answer, Carried::Entered(_));
    assert!(answers.iter().all(arrived));
    let (mut sum, mut expiring) = (0, 0);
    for user in &users {
        let wallet = wallet(store, user).await;
        sum += wallet.balance;
        expiring += wallet.expiring_next().map_or(0, |(_, points)| points);
    }
    assert_eq!((sum, expiring), (10_000, 5000), "points keep their expiry");
}

async fn many_small_lots_are_bundled_and_spent_at_once(store: &impl Store) {
    for n in 0..120 {
        entered(store, &format!("k{n}"), &earn("ann", 1, Some(100 + n))).await;
    }
    let held = wallet(store, "ann").await;
    assert!(held.lots.len() < 100, "{} lots", held.lots.len());
    let moved = entered(store, "t", &transfer("ann", "bob", 110)).await;
    assert_eq!(moved.lots.len(), 110);
    assert_eq!(wallet(store, "ann").await.balance, 10);
    let bob = teller(store, NOW.plus_seconds(150));
    let bob = bob.settled(&holder("bob")).await.unwrap();
    assert_eq!(bob.balance, 59, "each share kept its own expiry");
    wallet(store, "bob").await;
}

async fn sweep(store: &impl Store, seconds: i64, patience: u64) -> usize {
    let clock = MemoryClock::at(NOW.plus_seconds(seconds));
    let deadline = Instant::now() + Duration::from_secs(patience);
    let swept = expire_points(store.wallets(), &clock, &SystemEntropy, deadline).await;
    let swept = swept.unwrap();
    assert_eq!((swept.failed, swept.cut_short), (0, patience == 0));
    swept.settled
}

async fn a_sweep_that_is_doubled_or_repeated_expires_each_lot_once(store: &impl Store) {
    for n in 0..40 {
        let user = format!("user-{n}");
        entered(store, &format!("a{n}"), &earn(&user, 5, Some(1 + n % 3))).await;
        entered(store, &format!("b{n}"), &earn(&user, 3, Some(1000))).await;
        entered(store, &format!("c{n}"), &earn(&user, 2, None)).await;
    }
    assert_eq!(sweep(store, 0, 60).await, 0);
    assert_eq!(sweep(store, 9, 0).await, 0, "no time, nothing done");
    join_all([sweep(store, 9, 60), sweep(store, 9, 60)]).await;
    assert_eq!(sweep(store, 9, 60).await, 0, "nothing is left to find");
    for n in 0..40 {
        let user = format!("user-{n}");
        let left = wallet(store, &user).await;
        assert_eq!(
            (left.balance, left.due_at),
            (5, Some(NOW.plus_seconds(1000)))
        );
        let expired: Vec<i64> = ledger(store, &user)
            .await
            .iter()
            .filter(|entry| entry.kind == EntryKind::Expire)
            .map(|entry| entry.amount)
            .collect();
        assert_eq!(expired, [-5], "{user}");
    }
    assert_eq!(sweep(store, 1000, 60).await, 40);
    assert_eq!(wallet(store, "user-0").await.due_at, None);
}

// Coupons in use.

fn chunk(campaign: &Campaign, claim_id: &str) -> Chunk {
    let claim = Claim {
        claim_id: ClaimId::new(claim_id).unwrap(),
        partner_id: campaign.partner_id.clone(),
        campaign_id: campaign.campaign_id.clone(),
        user_id: holder("ann").user_id,
        requested_at: NOW,
        sent_at: NOW,
        connection_id: None,
        trace: None,
    };
    Chunk {
        campaign: campaign.clone(),
        shard: 0,
        coupons: vec![Coupon::for_claim(
            campaign,
            &claim,
            0,
            coupon_code([3; 10]),
            NOW,
        )],
        attempt: SystemEntropy.bits(),
    }
}

/// A campaign whose user `ann` holds a coupon.
async fn won(store: &impl Store) -> (Campaign, CouponOf) {
    let campaign = Campaign {
        campaign_id: CampaignId::mint(NOW, SystemEntropy.bits()),
        ..sample_campaign(5, NOW)
    };
    store.add(&campaign).await;
    let issued = store.ledger().issue(&chunk(&campaign, "c1")).await;
    assert_eq!(issued.unwrap(), ChunkOutcome::Issued);
    let of = CouponOf {
        holder: holder("ann"),
        campaign_id: campaign.campaign_id.clone(),
    };
    (campaign, of)
}

fn order(text: &str) -> OrderId {
    OrderId::new(text).unwrap()
}

fn desk<S: Store>(store: &S) -> CouponDesk<'_, S::Coupons, S::Redemptions, S::Wallets> {
    CouponDesk {
        coupons: store.coupons(),
        redemptions: store.redemptions(),
        teller: teller(store, NOW),
    }
}

async fn redeem(store: &impl Store, of: &CouponOf, by: &str, points: Option<u64>) -> CouponUse {
    let points = points.map(amount);
    for _ in 0..40 {
        match desk(store).redeem(of, &order(by), None, points).await {
            Err(error) if error.fate == Fate::Retry => {}
            redeemed => return redeemed.unwrap(),
        }
    }
    panic!("{by} was told to try again forty times")
}

async fn standing(store: &impl Store, of: &CouponOf) -> Coupon {
    let Holder {
        partner_id,
        user_id,
    } = &of.holder;
    let found = store.coupons().coupon(partner_id, user_id, &of.campaign_id);
    found.await.unwrap().expect("the coupon stands")
}

async fn a_late_or_repeated_issue_message_never_resets_a_redeemed_coupon(store: &impl Store) {
    let (campaign, of) = won(store).await;
    let CouponUse::Done(redeemed) = redeem(store, &of, "o1", None).await else {
        panic!("it is fresh")
    };
    assert!(redeemed.redemption.is_some());
    for claim in ["c1", "c2"] {
        let late = store
            .ledger()
            .issue(&chunk(&campaign, claim))
            .await
            .unwrap();
        let ChunkOutcome::Cancelled { coupons, .. } = late else {
            panic!("the coupon stands: {late:?}")
        };
        assert_eq!(coupons, [CouponReason::Stands(redeemed.clone())]);
    }
    assert_eq!(standing(store, &of).await, redeemed);
}

async fn of_two_hundred_redemptions_at_once_one_wins(store: &impl Store) {
    for points in [None, Some(10)] {
        let (_, of) = won(store).await;
        let orders: Vec<String> = (0..200).map(|n| format!("o{n}")).collect();
        let answers = join_all(orders.iter().map(|by| redeem(store, &of, by, points))).await;
        let winners: Vec<usize> = (0..200)
            .filter(|n| matches!(answers[*n], CouponUse::Done(_)))
            .collect();
        let [winner] = winners[..] else {
            panic!("{winners:?}")
        };
        let others = |answer: &&CouponUse| **answer == CouponUse::OtherOrder;
        assert_eq!(answers.iter().filter(others).count(), 199);
        let again = redeem(store, &of, &orders[winner], points).await;
        assert_eq!(again, answers[winner]);
    }
    assert_eq!(wallet(store, "ann").await.balance, 10);
}

async fn a_redemption_is_rolled_back_for_its_own_order_only(store: &impl Store) {
    let (_, of) = won(store).await;
    let fresh = standing(store, &of).await;
    let back = async |by: &str| desk(store).roll_back(&of, &order(by)).await.unwrap();
    assert_eq!(back("o1").await, CouponUse::Done(fresh.clone()));
    redeem(store, &of, "o1", None).await;
    assert_eq!(back("o2").await, CouponUse::OtherOrder);
    for _ in 0..2 {
        assert_eq!(back("o1").await, CouponUse::Done(fresh.clone()));
    }
    assert_eq!(standing(store, &of).await, fresh);
    let again = redeem(store, &of, "o2", None).await;
    assert!(matches!(again, CouponUse::Done(_)));
    let mut foreign = of.clone();
    foreign.holder.partner_id = PartnerId::new("rival").unwrap();
    assert_eq!(redeem(store, &foreign, "o", None).await, CouponUse::Unknown);
}

async fn points_of_a_coupon_come_and_go_with_its_redemption(store: &impl Store) {
    let (_, of) = won(store).await;
    let back = async || desk(store).roll_back(&of, &order("o1")).await.unwrap();
    for _ in 0..2 {
        let CouponUse::Done(coupon) = redeem(store, &of, "o1", Some(100)).await else {
            panic!("it is fresh")
        };
        assert_eq!(standing(store, &of).await, coupon);
        let entry = ledger(store, "ann").await.pop().unwrap();
        assert_eq!(Some(entry.entry_id), coupon.redemption.unwrap().entry_id);
        assert_eq!(wallet(store, "ann").await.balance, 100);
        back().await;
        assert_eq!(standing(store, &of).await.redemption, None);
        assert_eq!(wallet(store, "ann").await.balance, 0);
    }
    let redeemed = redeem(store, &of, "o1", Some(100)).await;
    entered(store, "u", &spend("ann", 1)).await;
    let refused = CouponUse::Refused(Refusal::InsufficientPoints);
    assert_eq!(back().await, refused);
    assert_eq!(CouponUse::Done(standing(store, &of).await), redeemed);
    assert_eq!(wallet(store, "ann").await.balance, 99);
}

macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $case() {
                super::$case(&super::memory()).await;
            })*
        }
        mod dynamo {
            $(#[tokio::test]
            async fn $case() {
                super::$case(&super::dynamo().await).await;
            })*
        }
    };
}

contract!(
    a_wallet_and_its_ledger_read_back_as_posted,
    pages_of_entries_neither_repeat_nor_skip,
    a_posting_for_an_older_wallet_changes_nothing,
    a_posting_must_find_in_every_lot_what_was_seen,
    a_key_means_one_request_and_one_answer,
    a_crashed_attempt_is_taken_over_and_can_no_longer_end,
    an_attempt_stands_until_its_lease_ends,
    a_hundred_spenders_of_one_point_on_fifty_points_spend_fifty,
    two_hundred_crossing_transfers_among_ten_wallets_all_arrive,
    many_small_lots_are_bundled_and_spent_at_once,
    a_sweep_that_is_doubled_or_repeated_expires_each_lot_once,
    a_late_or_repeated_issue_message_never_resets_a_redeemed_coupon,
    of_two_hundred_redemptions_at_once_one_wins,
    a_redemption_is_rolled_back_for_its_own_order_only,
    points_of_a_coupon_come_and_go_with_its_redemption,
);
