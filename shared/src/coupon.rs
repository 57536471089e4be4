//! A coupon and its code. Its key is the one-per-user rule, and lives with the ledger.

use serde::{Deserialize, Serialize};

use crate::{Campaign, CampaignId, Claim, ClaimId, PartnerId, Redemption, Timestamp, UserId};

/// A coupon's item outlives its expiry and its campaign's end by this much, in seconds (90 days). The queue keeps a
/// message 4 days and the dead-letter queue 14: whatever is replayed from there still meets the coupon.
pub const RETENTION_SECONDS: i64 = 90 * 86_400;

/// What a winner holds. Stored once under (partner, user, campaign), never overwritten; only its use is recorded later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Coupon {
    /// What the user shows: 16 characters of Crockford's base 32, 80 random bits.
    pub code: String,
    /// The campaign it belongs to.
    pub campaign_id: CampaignId,
    /// The partner it belongs to.
    pub partner_id: PartnerId,
    /// Who holds it.
    pub user_id: UserId,
    /// The claim that won it.
    pub claim_id: ClaimId,
    /// The stock shard it was taken from.
    pub shard: u16,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// The first instant at which it can no longer be used.
    pub expires_at: Timestamp,
    /// Its use, while it is redeemed.
    #[serde(flatten)]
    pub redemption: Option<Redemption>,
}

impl Coupon {
    /// The coupon that `claim` would win from `shard`, under the campaign's own partner.
    pub fn for_claim(
        campaign: &Campaign,
        claim: &Claim,
        shard: u16,
        code: String,
        now: Timestamp,
    ) -> Self {
        Self {
            code,
            campaign_id: campaign.campaign_id.clone(),
            partner_id: campaign.partner_id.clone(),
            user_id: claim.user_id.clone(),
            claim_id: claim.claim_id.clone(),
            shard,
            issued_at: now,
            expires_at: now.plus_seconds(i64::from(campaign.coupon_ttl_seconds)),
            redemption: None,
        }
    }

    /// When the stored item may vanish: [`RETENTION_SECONDS`] after both its expiry and the campaign's end.
    pub fn forgotten_at(&self, campaign: &Campaign) -> Timestamp {
        self.expires_at
            .max(campaign.closes_at)
            .plus_seconds(RETENTION_SECONDS)
    }
}

/// A coupon code from 80 random bits.
pub fn coupon_code(random: [u8; 10]) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let bits = random
        .iter()
        .fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..16)
        .rev()
        .map(|i| char::from(ALPHABET[(bits >> (i * 5) & 31) as usize]))
        .collect()
}

#[cfg(any(test, feature = "memory"))]
impl Coupon {
    /// Some coupon, for tests.
    #[expect(
        clippy::unwrap_used,
        reason = "constants within their bounds; compiled for tests only"
    )]
    pub fn sample() -> Self {
        let now = Timestamp::from_millis(1_790_000_000_000);
        Self {
            code: coupon_code([7; 10]),
            campaign_id: CampaignId::mint(now, 1),
            partner_id: PartnerId::new("acme").unwrap(),
            user_id: UserId::new("user-1").unwrap(),
            claim_id: ClaimId::new("claim-1").unwrap(),
            shard: 0,
            issued_at: now,
            expires_at: now.plus_seconds(60),
            redemption: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_spells_all_its_bits() {
        assert_eq!(coupon_code([0; 10]), "0".repeat(16));
        assert_eq!(coupon_code([255; 10]), "Z".repeat(16));
        assert_ne!(coupon_code([1; 10]), coupon_code([2; 10]));
    }

    #[test]
    fn a_coupon_is_remembered_after_its_expiry_and_after_its_campaigns_end() {
        let campaign = crate::memory::sample_campaign(1, Timestamp::EPOCH);
        let expiring = |seconds| Coupon {
            expires_at: campaign.closes_at.plus_seconds(seconds),
            ..Coupon::sample()
        };
        let days_after_the_end = |coupon: &Coupon| {
            let millis = coupon
                .forgotten_at(&campaign)
                .millis_since(campaign.closes_at);
            millis / 86_400_000
        };
        assert_eq!(days_after_the_end(&expiring(-60)), 90);
        assert_eq!(days_after_the_end(&expiring(10 * 86_400)), 100);
    }
}
