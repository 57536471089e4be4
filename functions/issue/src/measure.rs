//! What a batch of claims came to, as metrics.

use firstcome_core::metric::{self, Metric};
use firstcome_core::{Claim, Decisions};

/// Notes a batch of so many messages: what was decided, and what else was counted of it.
pub(crate) fn note(
    claims: &[Claim],
    decisions: &Decisions,
    messages: usize,
    more: &[(Metric, usize)],
) {
    metric::values(Metric::BatchSize, vec![messages as f64]);
    metric::values(Metric::ClaimToDecidedMillis, waited(claims, decisions));
    for (campaign, issued) in decisions.changed.iter().zip(&decisions.issued_of) {
        metric::count_of(Metric::Issued, &campaign.campaign_id, *issued);
    }
    for (metric, many) in counts(claims, decisions).iter().chain(more) {
        metric::count(*metric, *many);
    }
}

/// How long each decided claim has waited, by its own time, in milliseconds.
fn waited(claims: &[Claim], decisions: &Decisions) -> Vec<f64> {
    let decided = claims.iter().zip(&decisions.verdicts);
    let millis = |claim: &Claim| decisions.decided_at.millis_since(claim.own_time()).max(0);
    decided
        .filter(|(_, verdict)| verdict.is_some())
        .map(|(claim, _)| millis(claim) as f64)
        .collect()
}

fn counts(claims: &[Claim], decisions: &Decisions) -> Vec<(Metric, usize)> {
    let mut counts = vec![
        (Metric::CampaignsSoldOut, decisions.sold_out.len()),
        (Metric::Transactions, decisions.transactions),
        (Metric::Conflicts, decisions.conflicts),
    ];
    let mut with_coupon = 0;
    for (claim, verdict) in claims.iter().zip(&decisions.verdicts) {
        let Some(verdict) = verdict else { continue };
        match Metric::of_refusal(verdict.outcome_for(&claim.claim_id)) {
            Some(refusal) => counts.push((refusal, 1)),
            None => with_coupon += 1,
        }
    }
    // Each coupon of this batch answers one claim; the other claims with a coupon meet one that another has won.
    let replays = with_coupon - decisions.issued.min(with_coupon);
    counts.push((Metric::Replays, replays));
    counts
}

#[cfg(test)]
mod tests {
    use firstcome_core::{
        ClaimId, Coupon, Outcome, PartnerId, Timestamp, TraceHeader, UserId, Verdict,
    };

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn claim(id: &str, seconds_ago: i64) -> Claim {
        Claim {
            claim_id: ClaimId::new(id).unwrap(),
            partner_id: PartnerId::new("acme").unwrap(),
            campaign_id: Coupon::sample().campaign_id,
            user_id: UserId::new(id).unwrap(),
            requested_at: NOW.plus_seconds(-seconds_ago),
            sent_at: NOW,
            connection_id: None,
            trace: TraceHeader::read("Root=1-2"),
        }
    }

    #[test]
    fn every_decided_claim_counts_once_and_a_repeat_as_one() {
        let coupon = Coupon::sample();
        let own = coupon.claim_id.as_str();
        let claims = [
            claim(own, 1),
            claim(own, 2),
            claim("other", 3),
            claim("late", 4),
            claim("open", 5),
        ];
        let stands = || Some(Verdict::Standing(coupon.clone()));
        let decisions = Decisions {
            verdicts: vec![
                stands(),
                stands(),
                stands(),
                Some(Verdict::Refused(Outcome::SoldOut)),
                None,
            ],
            issued: 1,
            conflicts: 3,
            decided_at: NOW,
            ..Decisions::default()
        };
        let counts = counts(&claims, &decisions);
        let of = |wanted| {
            counts
                .iter()
                .filter(|(metric, _)| *metric == wanted)
                .map(|(_, many)| many)
                .sum::<usize>()
        };
        assert_eq!(of(Metric::Replays), 2);
        assert_eq!(of(Metric::RefusedSoldOut), 1);
        assert_eq!(of(Metric::Conflicts), 3);
        assert_eq!(
            waited(&claims, &decisions),
            [1000.0, 2000.0, 3000.0, 4000.0]
        );
    }
}
