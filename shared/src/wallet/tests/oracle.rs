//! Random sequences of earn, use, transfer, redemption, rollback, expiry and repeats, with faults on the way, against an
//! oracle: a list of (user, expiry, lot, points), spent from the front.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::memory::{MemoryLedger, sample_campaign};
use crate::{
    Campaign, Chunk, Claim, ClaimId, Coupon, CouponDesk, CouponLedger, CouponOf, CouponUse,
    OrderId, coupon_code,
};

const USERS: [&str; 3] = ["ann", "bob", "cy"];
/// What the coupon of each user is worth.
const WORTH: u64 = 30;

#[derive(Clone, Copy, Debug)]
enum Step {
    Earn(usize, u64, Option<i64>),
    Use(usize, u64),
    Transfer(usize, usize, u64),
    /// Time passes, in seconds.
    Wait(i64),
    Sweep,
    Redeem(usize),
    RollBack(usize),
    /// The last order once more, with the same key.
    Again,
    /// What the next posting meets.
    Fault(PostFault),
}

fn step() -> impl Strategy<Value = Step> {
    let user = 0..USERS.len();
    let ttl = proptest::option::weighted(0.7, 1..40_i64);
    let faults = [
        PostFault::Busy,
        PostFault::LostAfterWrite,
        PostFault::LostBeforeWrite,
    ];
    prop_oneof![
        4 => (user.clone(), 1..60_u64, ttl).prop_map(|(who, points, ttl)| Step::Earn(who, points, ttl)),
        4 => (user.clone(), 1..80_u64).prop_map(|(who, points)| Step::Use(who, points)),
        4 => (user.clone(), 1..USERS.len(), 1..80_u64)
            .prop_map(|(from, step, points)| Step::Transfer(from, (from + step) % USERS.len(), points)),
        3 => (1..20_i64).prop_map(Step::Wait),
        2 => Just(Step::Sweep),
        2 => user.clone().prop_map(Step::Redeem),
        2 => user.prop_map(Step::RollBack),
        1 => Just(Step::Again),
        2 => proptest::sample::select(faults.to_vec()).prop_map(Step::Fault),
    ]
}

/// (expiry, lot) → points: in the order of the map they are spent.
type Purse = BTreeMap<(i64, EntryId), u64>;

#[derive(Default)]
struct Oracle {
    purses: [Purse; 3],
    /// Per user: the lot that the redeemed coupon credited.
    redeemed: [Option<EntryId>; 3],
}

impl Oracle {
    fn balance(&self, who: usize) -> u64 {
        self.purses[who].values().sum()
    }

    fn expire(&mut self, who: usize, now: Timestamp) {
        self.purses[who].retain(|(expiry, _), _| *expiry > now.millis());
    }

    /// Takes points from the front, of `first` before all others; `None` if there are too few.
    fn take(&mut self, who: usize, points: u64, first: Option<&EntryId>) -> Option<Purse> {
        if self.balance(who) < points {
            return None;
        }
        let mut order: Vec<_> = self.purses[who].keys().cloned().collect();
        order.sort_by_key(|key| (first != Some(&key.1), key.clone()));
        let (mut missing, mut taken) = (points, Purse::new());
        for key in order {
            let held = self.purses[who].get_mut(&key).unwrap();
            let part = missing.min(*held);
            *held -= part;
            missing -= part;
            if part > 0 {
                taken.insert(key.clone(), part);
            }
            if *held == 0 {
                self.purses[who].remove(&key);
            }
        }
        Some(taken)
    }

    fn put(&mut self, who: usize, purse: Purse) {
        for (key, points) in purse {
            *self.purses[who].entry(key).or_default() += points;
        }
    }
}

fn purse_of(shares: &[LotShare]) -> Purse {
    let mut purse = Purse::new();
    for share in shares {
        *purse
            .entry((due_millis(share.expires_at), share.lot_id.clone()))
            .or_default() += share.amount;
    }
    purse
}

struct Run {
    bank: Bank,
    ledger: MemoryLedger,
    campaign: Campaign,
    oracle: Oracle,
    now: Timestamp,
    orders: usize,
    last: Option<(String, Order, Carried)>,
}

impl Run {
    async fn start() -> Self {
        let ledger = MemoryLedger::default();
        let campaign = sample_campaign(3, NOW);
        ledger.add(&campaign);
        let coupon = |user: &&str| {
            let claim = Claim {
                claim_id: ClaimId::new("c").unwrap(),
                partner_id: campaign.partner_id.clone(),
                campaign_id: campaign.campaign_id.clone(),
                user_id: UserId::new(*user).unwrap(),
                requested_at: NOW,
                sent_at: NOW,
                connection_id: None,
                trace: None,
            };
            Coupon::for_claim(&campaign, &claim, 0, coupon_code([1; 10]), NOW)
        };
        let chunk = Chunk {
            campaign: campaign.clone(),
            shard: 0,
            coupons: USERS.iter().map(coupon).collect(),
            attempt: 1,
        };
        ledger.issue(&chunk).await.unwrap();
        Self {
            bank: Bank {
                book: MemoryWallets::over(&ledger),
                entropy: MemoryEntropy::seeded(3),
            },
            ledger,
            campaign,
            oracle: Oracle::default(),
            now: NOW,
            orders: 0,
            last: None,
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Earn(who, points, ttl) => {
                let expires_at = ttl.map(|ttl| self.now.plus_seconds(ttl));
                let order = earn(USERS[who], points, expires_at);
                let entry = self.entered(order).await.unwrap();
                let key = (due_millis(expires_at), entry.entry_id);
                self.oracle.expire(who, self.now);
                self.oracle.put(who, Purse::from([(key, points)]));
            }
            Step::Use(who, points) => {
                let entry = self.entered(spend(USERS[who], points)).await;
                self.oracle.expire(who, self.now);
                let taken = self.oracle.take(who, points, None);
                assert_eq!(entry.map(|entry| purse_of(&entry.lots)), taken);
            }
            Step::Transfer(from, to, points) => {
                let order = transfer(USERS[from], USERS[to], points);
                let entry = self.entered(order).await;
                self.oracle.expire(from, self.now);
                self.oracle.expire(to, self.now);
                let taken = self.oracle.take(from, points, None);
                assert_eq!(entry.map(|entry| purse_of(&entry.lots)), taken);
                self.oracle.put(to, taken.unwrap_or_default());
            }
            Step::Wait(seconds) => self.now = self.now.plus_seconds(seconds),
            Step::Sweep => {
                let swept = sweep(&self.bank, self.now, 60).await;
                assert_eq!((swept.failed, swept.cut_short), (0, false));
                for (who, user) in USERS.into_iter().enumerate() {
                    self.oracle.expire(who, self.now);
                    assert_eq!(
                        self.bank.balance(user).await,
                        self.oracle.balance(who),
                        "a sweep leaves nothing expired"
                    );
                }
                let due = self.bank.book.pointers();
                assert!(due.iter().all(|pointer| pointer.due_at > self.now));
            }
            Step::Redeem(who) => self.redeem(who).await,
            Step::RollBack(who) => self.roll_back(who).await,
            Step::Again => {
                if let Some((key, order, answer)) = &self.last {
                    assert_eq!(self.bank.at(self.now, key, order).await, *answer);
                }
            }
            Step::Fault(fault) => self.bank.book.fail_next([fault]),
        }
        self.check().await;
    }

    async fn entered(&mut self, order: Order) -> Option<Entry> {
        self.orders += 1;
        let key = format!("k{}", self.orders);
        let answer = self.bank.at(self.now, &key, &order).await;
        self.last = Some((key, order, answer.clone()));
        match answer {
            Carried::Entered(entry) => Some(entry),
            Carried::Refused(Refusal::InsufficientPoints) => None,
            other => panic!("{other:?}"),
        }
    }

    fn desk(&self) -> CouponDesk<'_, MemoryLedger, MemoryLedger, MemoryWallets> {
        CouponDesk {
            coupons: &self.ledger,
            redemptions: &self.ledger,
            teller: self.bank.teller(self.now),
        }
    }

    fn coupon_of(&self, who: usize) -> CouponOf {
        CouponOf {
            holder: holder(USERS[who]),
            campaign_id: self.campaign.campaign_id.clone(),
        }
    }

    async fn redeem(&mut self, who: usize) {
        let order = OrderId::new("order").unwrap();
        let points = Some(amount(WORTH));
        let desk = self.desk();
        let of = self.coupon_of(who);
        let answer = desk.redeem(&of, &order, None, points).await.unwrap();
        let CouponUse::Done(coupon) = answer else {
            panic!("{answer:?}")
        };
        let lot = coupon.redemption.unwrap().entry_id.unwrap();
        match &self.oracle.redeemed[who] {
            Some(standing) => assert_eq!(*standing, lot, "a repeat credits nothing"),
            None => {
                self.oracle.expire(who, self.now);
                let key = (NEVER_MILLIS, lot.clone());
                self.oracle.put(who, Purse::from([(key, WORTH)]));
                self.oracle.redeemed[who] = Some(lot);
            }
        }
    }

    async fn roll_back(&mut self, who: usize) {
        let order = OrderId::new("order").unwrap();
        let of = self.coupon_of(who);
        let answer = self.desk().roll_back(&of, &order).await.unwrap();
        let Some(lot) = self.oracle.redeemed[who].clone() else {
            assert!(matches!(answer, CouponUse::Done(_)));
            return;
        };
        self.oracle.expire(who, self.now);
        if self.oracle.take(who, WORTH, Some(&lot)).is_some() {
            assert!(matches!(answer, CouponUse::Done(_)), "{answer:?}");
            self.oracle.redeemed[who] = None;
        } else {
            let refused = CouponUse::Refused(Refusal::InsufficientPoints);
            assert_eq!(answer, refused);
        }
    }

    /// What must hold after every step, whatever came before.
    async fn check(&mut self) {
        for (who, user) in USERS.into_iter().enumerate() {
            // Checks lots and ledger against the balance.
            self.bank.balance(user).await;
            let wallet = self.bank.book.wallet(&holder(user)).await.unwrap();
            let held: Vec<LotShare> = wallet
                .lots
                .iter()
                .flat_map(|lot| lot.shares.clone())
                .filter(|share| share.expires_at.is_none_or(|at| at > self.now))
                .collect();
            let mut expected = self.oracle.purses[who].clone();
            expected.retain(|(expiry, _), _| *expiry > self.now.millis());
            assert_eq!(purse_of(&held), expected, "{user}");
            let pointers = self.bank.book.pointers();
            let mine: Vec<_> = pointers
                .iter()
                .filter(|pointer| pointer.holder == wallet.holder)
                .map(|pointer| pointer.due_at)
                .collect();
            assert_eq!(mine, Vec::from_iter(wallet.due_at), "one pointer at most");
            let first = wallet.expiring_next().map(|(at, _)| at);
            assert!(first.is_none_or(|first| wallet.due_at.is_some_and(|due| due <= first)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_sequence_of_steps_does_what_the_oracle_says(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut run = Run::start().await;
            for step in steps {
                run.take(step).await;
            }
        });
    }
}
