//! Coupons in use, on memory ports.

use futures_util::future::join_all;

use super::*;
use crate::memory::{MemoryEntropy, MemoryLedger, MemoryWallets, PostFault, sample_campaign};
use crate::{
    Campaign, Chunk, ChunkOutcome, Claim, ClaimId, CouponLedger, CouponReason, Order, UserId,
    coupon_code,
};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

struct Stage {
    ledger: MemoryLedger,
    wallets: MemoryWallets,
    entropy: MemoryEntropy,
    campaign: Campaign,
    chunk: Chunk,
}

/// A campaign whose user `ann` holds a coupon that is good for a minute.
async fn stage() -> Stage {
    let ledger = MemoryLedger::default();
    let campaign = Campaign {
        coupon_ttl_seconds: 60,
        ..sample_campaign(5, NOW)
    };
    ledger.add(&campaign);
    let chunk = chunk(&campaign, "c1", 1);
    assert_eq!(ledger.issue(&chunk).await.unwrap(), ChunkOutcome::Issued);
    Stage {
        wallets: MemoryWallets::over(&ledger),
        ledger,
        entropy: MemoryEntropy::seeded(7),
        campaign,
        chunk,
    }
}

fn chunk(campaign: &Campaign, claim_id: &str, attempt: u128) -> Chunk {
    let claim = Claim {
        claim_id: ClaimId::new(claim_id).unwrap(),
        partner_id: campaign.partner_id.clone(),
        campaign_id: campaign.campaign_id.clone(),
        user_id: UserId::new("ann").unwrap(),
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
        attempt,
    }
}

fn order(text: &str) -> OrderId {
    OrderId::new(text).unwrap()
}

impl Stage {
    fn of(&self) -> CouponOf {
        CouponOf {
            holder: Holder {
                partner_id: self.campaign.partner_id.clone(),
                user_id: UserId::new("ann").unwrap(),
            },
            campaign_id: self.campaign.campaign_id.clone(),
        }
    }

    fn desk(&self, seconds: i64) -> CouponDesk<'_, MemoryLedger, MemoryLedger, MemoryWallets> {
        CouponDesk {
            coupons: &self.ledger,
            redemptions: &self.ledger,
            teller: Teller {
                book: &self.wallets,
                entropy: &self.entropy,
                now: NOW.plus_seconds(seconds),
            },
        }
    }

    async fn redeem(&self, at: i64, by: &str, points: Option<u64>) -> CouponUse {
        let points = points.map(|points| Amount::new(points).unwrap());
        self.desk(at)
            .redeem(&self.of(), &order(by), None, points)
            .await
            .unwrap()
    }

    async fn roll_back(&self, by: &str) -> CouponUse {
        self.desk(0)
            .roll_back(&self.of(), &order(by))
            .await
            .unwrap()
    }

    async fn balance(&self) -> u64 {
        let wallet = self.wallets.wallet(&self.of().holder).await.unwrap();
        let entries = self.wallets.ledger(&self.of().holder);
        let sum: i64 = entries.iter().map(|entry| entry.amount).sum();
        assert_eq!(sum, wallet.balance.cast_signed());
        assert!(wallet.adds_up());
        wallet.balance
    }
}

#[tokio::test]
async fn a_coupon_is_used_once_and_its_order_may_ask_again() {
    let stage = stage().await;
    let first = stage.redeem(0, "o1", None).await;
    let CouponUse::Done(coupon) = &first else {
        panic!("{first:?}")
    };
    let redemption = coupon.redemption.as_ref().unwrap();
    assert_eq!(
        (redemption.redeemed_at, redemption.order_id.as_str()),
        (NOW, "o1")
    );
    assert_eq!(stage.redeem(30, "o1", None).await, first, "the same 200");
    assert_eq!(
        stage.redeem(90, "o1", None).await,
        first,
        "and after its expiry, too"
    );
    assert_eq!(stage.redeem(0, "o2", None).await, CouponUse::OtherOrder);
}

#[tokio::test]
async fn expiry_counts_to_the_millisecond() {
    for (millis, used) in [(59_999, true), (60_000, false)] {
        let stage = stage().await;
        let mut desk = stage.desk(0);
        desk.teller.now = Timestamp::from_millis(NOW.millis() + millis);
        let answer = desk.redeem(&stage.of(), &order("o"), None, None).await;
        let is_done = matches!(answer.unwrap(), CouponUse::Done(_));
        assert_eq!(is_done, used, "after {millis} ms");
    }
}

#[tokio::test]
async fn a_code_that_is_given_must_be_the_coupons() {
    let stage = stage().await;
    let with = async |code: &str| {
        let desk = stage.desk(0);
        desk.redeem(&stage.of(), &order("o"), Some(code), None)
            .await
            .unwrap()
    };
    let right = stage.chunk.coupons[0].code.clone();
    for wrong in ["", "wrong", &right[1..], &right.to_lowercase()] {
        assert_eq!(with(wrong).await, CouponUse::WrongCode, "{wrong}");
    }
    assert!(matches!(with(&right).await, CouponUse::Done(_)));
    assert_eq!(
        with("wrong").await,
        CouponUse::WrongCode,
        "on a repeat, too"
    );
}

#[tokio::test]
async fn what_is_not_there_is_unknown_whoever_asks() {
    let stage = stage().await;
    let mut foreign = stage.of();
    foreign.holder.partner_id = crate::PartnerId::new("rival").unwrap();
    let mut absent = stage.of();
    absent.holder.user_id = UserId::new("bob").unwrap();
    for of in [foreign, absent] {
        let desk = stage.desk(0);
        let redeemed = desk.redeem(&of, &order("o"), Some("wrong"), None).await;
        assert_eq!(redeemed.unwrap(), CouponUse::Unknown);
        let rolled_back = desk.roll_back(&of, &order("o")).await.unwrap();
        assert_eq!(rolled_back, CouponUse::Unknown);
    }
}

#[tokio::test]
async fn a_rollback_is_its_orders_own_and_makes_the_coupon_usable_again() {
    let stage = stage().await;
    stage.redeem(0, "o1", None).await;
    assert_eq!(stage.roll_back("o2").await, CouponUse::OtherOrder);
    for _ in 0..2 {
        let CouponUse::Done(coupon) = stage.roll_back("o1").await else {
            panic!("it is redeemed for o1")
        };
        assert_eq!(coupon.redemption, None);
    }
    assert!(matches!(
        stage.redeem(59, "o2", None).await,
        CouponUse::Done(_)
    ));
    stage.roll_back("o2").await;
    assert_eq!(stage.redeem(60, "o3", None).await, CouponUse::Expired);
}

#[tokio::test]
async fn a_late_or_repeated_issue_message_never_resets_a_redeemed_coupon() {
    let stage = stage().await;
    let CouponUse::Done(redeemed) = stage.redeem(0, "o1", None).await else {
        panic!("it is fresh")
    };
    for (claim, attempt) in [("c1", 2), ("c2", 3)] {
        let late = chunk(&stage.campaign, claim, attempt);
        let ChunkOutcome::Cancelled { coupons, .. } = stage.ledger.issue(&late).await.unwrap()
        else {
            panic!("the coupon stands")
        };
        assert_eq!(coupons, [CouponReason::Stands(redeemed.clone())]);
    }
    assert_eq!(
        stage.ledger.coupons(&stage.campaign.campaign_id),
        [redeemed]
    );
}

#[tokio::test]
async fn of_two_hundred_redemptions_at_once_one_wins() {
    for points in [None, Some(10)] {
        let stage = stage().await;
        let orders: Vec<String> = (0..200).map(|n| format!("o{n}")).collect();
        let answers = join_all(orders.iter().map(|by| stage.redeem(0, by, points))).await;
        let winners: Vec<usize> = (0..200)
            .filter(|n| matches!(answers[*n], CouponUse::Done(_)))
            .collect();
        let [winner] = winners[..] else {
            panic!("{winners:?}")
        };
        let others = answers
            .iter()
            .filter(|answer| **answer == CouponUse::OtherOrder);
        assert_eq!(others.count(), 199);
        assert_eq!(
            stage.redeem(0, &orders[winner], points).await,
            answers[winner]
        );
        assert_eq!(stage.balance().await, points.unwrap_or_default());
    }
}

#[tokio::test]
async fn a_coupon_worth_points_credits_them_once_and_its_rollback_takes_them_back() {
    let stage = stage().await;
    let CouponUse::Done(coupon) = stage.redeem(0, "o1", Some(100)).await else {
        panic!("it is fresh")
    };
    let entry_id = coupon.redemption.unwrap().entry_id.unwrap();
    let entry = stage.wallets.ledger(&stage.of().holder).remove(0);
    assert_eq!(
        (entry.entry_id, entry.kind, entry.amount),
        (entry_id, EntryKind::Redemption, 100)
    );
    assert_eq!(entry.order_id, Some(order("o1")));
    stage.redeem(0, "o1", Some(100)).await;
    assert_eq!(stage.balance().await, 100);
    stage.roll_back("o1").await;
    stage.roll_back("o1").await;
    assert_eq!(stage.balance().await, 0);
    assert!(matches!(
        stage.redeem(0, "o2", Some(100)).await,
        CouponUse::Done(_)
    ));
    assert_eq!(stage.balance().await, 100);
}

#[tokio::test]
async fn points_that_are_spent_cannot_be_taken_back_and_the_coupon_stays_redeemed() {
    let stage = stage().await;
    let redeemed = stage.redeem(0, "o1", Some(100)).await;
    let spend = Order::Use {
        holder: stage.of().holder,
        amount: Amount::new(1).unwrap(),
        reason: crate::EntryReason::new("tea").unwrap(),
    };
    let operation = crate::Operation {
        partner_id: stage.campaign.partner_id.clone(),
        key_sha256: "k".into(),
        request_sha256: "r".into(),
        attempt: 1,
    };
    let desk = stage.desk(0);
    desk.teller.carry_out(&spend, &operation).await.unwrap();
    assert_eq!(
        stage.roll_back("o1").await,
        CouponUse::Refused(Refusal::InsufficientPoints)
    );
    assert_eq!(stage.redeem(0, "o1", Some(100)).await, redeemed);
    assert_eq!(stage.balance().await, 99);
}

#[tokio::test(start_paused = true)]
async fn a_credit_whose_answer_was_lost_is_made_once() {
    for fault in [
        PostFault::LostAfterWrite,
        PostFault::LostBeforeWrite,
        PostFault::Busy,
    ] {
        let stage = stage().await;
        stage.wallets.fail_next([fault]);
        let answer = stage.redeem(0, "o1", Some(100)).await;
        assert!(matches!(answer, CouponUse::Done(_)), "{fault:?}");
        assert_eq!(stage.balance().await, 100);
        stage.wallets.fail_next([fault]);
        let answer = stage.roll_back("o1").await;
        assert!(matches!(answer, CouponUse::Done(_)), "{fault:?}");
        assert_eq!(stage.balance().await, 0);
    }
}

#[test]
fn an_order_id_is_within_its_bounds() {
    assert!(OrderId::new("order-1:a.b_c").is_ok());
    for bad in ["", "a b", "a#b", &"x".repeat(65)] {
        assert_eq!(OrderId::new(bad).unwrap_err().field, "orderId");
    }
}
