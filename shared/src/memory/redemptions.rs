//! The use of coupons in memory, on the coupons of a [`MemoryLedger`].

use super::MemoryLedger;
use crate::{Coupon, CouponChange, PortError, Recorded, Redemptions};

/// Whether the coupon stands as it was judged; then it is changed.
pub(super) fn change(standing: Option<&mut Coupon>, change: &CouponChange) -> Recorded {
    match standing {
        Some(coupon) if *coupon == change.judged => {
            *coupon = change.applied();
            Recorded::Recorded
        }
        standing => Recorded::Refused(standing.map(|coupon| Box::new(coupon.clone()))),
    }
}

impl Redemptions for MemoryLedger {
    async fn record(&self, to: &CouponChange) -> Result<Recorded, PortError> {
        // Lets concurrent callers meet.
        tokio::task::yield_now().await;
        self.check("record the coupon's use")?;
        let Coupon {
            partner_id,
            user_id,
            campaign_id,
            ..
        } = &to.judged;
        Ok(
            self.with_coupon(partner_id, user_id, campaign_id, |standing| {
                change(standing, to)
            }),
        )
    }
}
