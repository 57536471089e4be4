//! Whether the sale kept its promises: evidence from the tables, the API and the sockets in, checks out. Pure judgement;
//! `sale.rs` gathers the evidence.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use firstcome_core::aws::operator::{StoredCoupon, StoredStock};

use super::api::{BroadcastReport, CampaignState, ClaimState};
use super::crowd::AnsweredClaim;
use super::latency::Latencies;
use super::wishes::Answer;

/// Everything known about a finished sale.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) partner: String,
    pub(crate) users: Vec<String>,
    pub(crate) stock: u64,
    /// Users whose socket opened; only they claim.
    pub(crate) claimants: usize,
    /// Distinct claims that were sent.
    pub(crate) claims: usize,
    pub(crate) answers: Vec<AnsweredClaim>,
    pub(crate) contradictions: Vec<String>,
    pub(crate) coupons: Vec<StoredCoupon>,
    pub(crate) shards: Vec<StoredStock>,
    pub(crate) campaign: Option<CampaignState>,
    /// What the API says of some users' claims.
    pub(crate) claim_states: Vec<(String, ClaimState)>,
    pub(crate) broadcasts: Vec<Broadcast>,
    /// New messages in dead-letter queues, by queue.
    pub(crate) dead_letters: Vec<(String, u64)>,
    /// Sockets open in the end, and memberships the table had then.
    pub(crate) open_sockets: usize,
    pub(crate) memberships: usize,
}

/// One broadcast, as its sender and its hearers saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Broadcast {
    pub(crate) name: &'static str,
    /// Open sockets that should hear it.
    pub(crate) audience: usize,
    /// Sockets that did.
    pub(crate) heard: usize,
    /// From the call to the API until each socket that heard it had it.
    pub(crate) delivery: Latencies,
    pub(crate) report: BroadcastReport,
}

/// A promise, and whether it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) promise: &'static str,
    pub(crate) kept: bool,
    pub(crate) found: String,
}

/// Judges the sale.
pub(crate) fn judge(evidence: &Evidence) -> Vec<Check> {
    vec![
        everybody_came(evidence),
        every_claim_answered(evidence),
        answers_never_change(evidence),
        exactly_the_stock(evidence),
        one_per_user(evidence),
        stock_conserved(evidence),
        answers_are_the_table(evidence),
        sold_out_only_when_empty(evidence),
        api_agrees(evidence),
        broadcasts_heard(evidence),
        gone_forgotten(evidence),
        nothing_dead(evidence),
    ]
}

fn check(promise: &'static str, kept: bool, found: String) -> Check {
    Check {
        promise,
        kept,
        found,
    }
}

fn everybody_came(evidence: &Evidence) -> Check {
    let (came, users) = (evidence.claimants, evidence.users.len());
    check(
        "every user got a socket",
        came == users,
        format!("{came} of {users}"),
    )
}

fn every_claim_answered(evidence: &Evidence) -> Check {
    let distinct: BTreeSet<&str> = evidence
        .answers
        .iter()
        .map(|answered| answered.claim_id.as_str())
        .collect();
    let (answered, claims) = (distinct.len(), evidence.claims);
    check(
        "every claim was answered",
        answered == claims,
        format!("{answered} of {claims} claims"),
    )
}

fn answers_never_change(evidence: &Evidence) -> Check {
    let found = match evidence.contradictions.as_slice() {
        [] => "no answer was ever taken back".to_owned(),
        [first, ..] => format!("{}, such as: {first}", evidence.contradictions.len()),
    };
    check(
        "the same claim, the same answer",
        evidence.contradictions.is_empty(),
        found,
    )
}

fn exactly_the_stock(evidence: &Evidence) -> Check {
    let expected = evidence.stock.min(evidence.claimants as u64);
    let coupons = evidence.coupons.len() as u64;
    check(
        "exactly min(stock, users) coupons",
        coupons == expected,
        format!("{coupons} coupons in the table, {expected} expected"),
    )
}

fn one_per_user(evidence: &Evidence) -> Check {
    let known: BTreeSet<&str> = evidence.users.iter().map(String::as_str).collect();
    let holders: BTreeSet<&str> = evidence
        .coupons
        .iter()
        .map(|coupon| coupon.user_id.as_str())
        .collect();
    let codes: BTreeSet<&str> = evidence
        .coupons
        .iter()
        .map(|coupon| coupon.code.as_str())
        .collect();
    let strangers = evidence
        .coupons
        .iter()
        .filter(|coupon| {
            coupon.partner_id != evidence.partner || !known.contains(coupon.user_id.as_str())
        })
        .count();
    let coupons = evidence.coupons.len();
    let kept = holders.len() == coupons && codes.len() == coupons && strangers == 0;
    let found = format!(
        "{coupons} coupons, {} holders, {} codes, {strangers} strangers",
        holders.len(),
        codes.len()
    );
    check("one coupon per user, each its own code", kept, found)
}

fn stock_conserved(evidence: &Evidence) -> Check {
    let sum = |part: fn(&StoredStock) -> u64| evidence.shards.iter().map(part).sum::<u64>();
    let (remaining, issued, quota) = (sum(|s| s.remaining), sum(|s| s.issued), sum(|s| s.quota));
    let each = evidence
        .shards
        .iter()
        .all(|shard| shard.remaining + shard.issued == shard.quota);
    let mut paid: BTreeMap<u64, u64> = BTreeMap::new();
    for coupon in &evidence.coupons {
        *paid.entry(coupon.shard).or_default() += 1;
    }
    let paid_by_shard = evidence
        .shards
        .iter()
        .all(|shard| paid.get(&shard.shard).copied().unwrap_or(0) == shard.issued);
    let kept =
        each && paid_by_shard && quota == evidence.stock && issued == evidence.coupons.len() as u64;
    check(
        "remaining + issued = total, in every shard",
        kept,
        format!("{remaining} + {issued} = {quota}"),
    )
}

fn answers_are_the_table(evidence: &Evidence) -> Check {
    let held: HashMap<&str, &StoredCoupon> = evidence
        .coupons
        .iter()
        .map(|coupon| (coupon.user_id.as_str(), coupon))
        .collect();
    let issued: Vec<&AnsweredClaim> = evidence
        .answers
        .iter()
        .filter(|answered| answered.answer.outcome == "issued")
        .collect();
    let false_answers = evidence
        .answers
        .iter()
        .filter(|answered| !is_true(answered, &held))
        .count();
    let kept = false_answers == 0 && issued.len() == evidence.coupons.len();
    let found = format!(
        "{} answers `issued`, {false_answers} answers differ from the table",
        issued.len()
    );
    check("the answers are what the table says", kept, found)
}

/// Whether an answer agrees with the coupons that stand in the end.
fn is_true(answered: &AnsweredClaim, held: &HashMap<&str, &StoredCoupon>) -> bool {
    let coupon = held.get(answered.user.as_str());
    let Answer { outcome, code } = &answered.answer;
    let same_code = coupon.is_some_and(|coupon| code.as_deref() == Some(coupon.code.as_str()));
    let same_claim = coupon.is_some_and(|coupon| coupon.claim_id == answered.claim_id);
    match outcome.as_str() {
        "issued" => same_code && same_claim,
        "already_issued" => same_code && !same_claim,
        "sold_out" => coupon.is_none() && code.is_none(),
        // The sale is open from its first claim to its last: nothing else can be true.
        _ => false,
    }
}

fn sold_out_only_when_empty(evidence: &Evidence) -> Check {
    let turned_away = evidence
        .answers
        .iter()
        .filter(|answered| answered.answer.outcome == "sold_out")
        .count();
    let remaining: u64 = evidence.shards.iter().map(|shard| shard.remaining).sum();
    let kept = turned_away == 0 || remaining == 0;
    check(
        "nobody turned away while stock remained",
        kept,
        format!("{turned_away} turned away, {remaining} left"),
    )
}

fn api_agrees(evidence: &Evidence) -> Check {
    let coupons = evidence.coupons.len() as u64;
    let counts = evidence
        .campaign
        .as_ref()
        .map(|campaign| (campaign.issued, campaign.remaining));
    let sold_out = coupons == evidence.stock;
    let phase = evidence
        .campaign
        .as_ref()
        .map_or("unknown", |campaign| campaign.phase.as_str());
    let phase_fits = phase == if sold_out { "sold_out" } else { "open" };
    let held: HashMap<&str, &str> = evidence
        .coupons
        .iter()
        .map(|coupon| (coupon.user_id.as_str(), coupon.code.as_str()))
        .collect();
    let wrong = evidence
        .claim_states
        .iter()
        .filter(|(user, state)| {
            let code = state.coupon.as_ref().map(|coupon| coupon.code.as_str());
            let status = match (held.get(user.as_str()), sold_out) {
                (Some(_), _) => "issued",
                (None, true) => "sold_out",
                (None, false) => "undecided",
            };
            state.status != status || code != held.get(user.as_str()).copied()
        })
        .count();
    let kept = counts == Some((coupons, evidence.stock.saturating_sub(coupons)))
        && phase_fits
        && wrong == 0;
    let (issued, remaining) = counts.unwrap_or_default();
    let asked = evidence.claim_states.len();
    let found = format!(
        "{phase}, {issued} issued, {remaining} remaining; {wrong} of {asked} users asked differ"
    );
    check("the API says the same", kept, found)
}

fn broadcasts_heard(evidence: &Evidence) -> Check {
    let good = |broadcast: &Broadcast| {
        let report = &broadcast.report;
        broadcast.heard == broadcast.audience
            && report.finished_at.is_some()
            // A post without an answer counts as failed and may have arrived; what was heard, the sockets tell.
            && report.sent + report.failed >= broadcast.audience as u64
            && report.seen == report.sent + report.gone + report.failed
    };
    let bad: Vec<&str> = evidence
        .broadcasts
        .iter()
        .filter(|broadcast| !good(broadcast))
        .map(|b| b.name)
        .collect();
    let found = if bad.is_empty() {
        format!("{} broadcasts", evidence.broadcasts.len())
    } else {
        bad.join(", ")
    };
    check(
        "every open socket heard every broadcast",
        bad.is_empty() && !evidence.broadcasts.is_empty(),
        found,
    )
}

fn gone_forgotten(evidence: &Evidence) -> Check {
    let (memberships, open) = (evidence.memberships, evidence.open_sockets);
    let found = format!("{memberships} sockets in the table, {open} open");
    check(
        "sockets that died are forgotten",
        memberships == open,
        found,
    )
}

fn nothing_dead(evidence: &Evidence) -> Check {
    let new: Vec<String> = evidence
        .dead_letters
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(queue, count)| format!("{count} in {queue}"))
        .collect();
    let found = if new.is_empty() {
        "nothing new".to_owned()
    } else {
        new.join(", ")
    };
    check("dead-letter queues stay empty", new.is_empty(), found)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::api::ClaimCoupon;
    use super::*;

    /// Three users, two coupons, all as it should be.
    fn good_sale() -> Evidence {
        let user = |number: usize| format!("user-{number}");
        let coupon = |number: usize| StoredCoupon {
            partner_id: "acme".into(),
            user_id: user(number),
            claim_id: format!("claim-{number}"),
            code: format!("CODE-{number}"),
            shard: 0,
        };
        let answered = |number: usize, outcome: &str| AnsweredClaim {
            user: user(number),
            claim_id: format!("claim-{number}"),
            answer: Answer {
                outcome: outcome.into(),
                code: (outcome == "issued").then(|| format!("CODE-{number}")),
            },
            took: Duration::from_millis(10),
        };
        let state = |number: usize, status: &str| {
            let coupon = (status == "issued").then(|| ClaimCoupon {
                code: format!("CODE-{number}"),
            });
            (
                user(number),
                ClaimState {
                    status: status.into(),
                    coupon,
                },
            )
        };
        Evidence {
            partner: "acme".into(),
            users: (0..3).map(user).collect(),
            stock: 2,
            claimants: 3,
            claims: 3,
            answers: vec![
                answered(0, "issued"),
                answered(1, "issued"),
                answered(2, "sold_out"),
            ],
            contradictions: vec![],
            coupons: vec![coupon(0), coupon(1)],
            shards: vec![StoredStock {
                shard: 0,
                remaining: 0,
                issued: 2,
                quota: 2,
            }],
            campaign: Some(CampaignState {
                campaign_id: "k".into(),
                phase: "sold_out".into(),
                issued: 2,
                remaining: 0,
            }),
            claim_states: vec![state(0, "issued"), state(2, "sold_out")],
            broadcasts: vec![Broadcast {
                name: "start",
                audience: 3,
                heard: 3,
                delivery: Latencies::default(),
                report: BroadcastReport {
                    seen: 3,
                    sent: 3,
                    gone: 0,
                    failed: 0,
                    finished_at: Some("…".into()),
                },
            }],
            dead_letters: vec![("claims".into(), 0)],
            open_sockets: 2,
            memberships: 2,
        }
    }

    /// The promises broken after `harm`.
    fn broken_by(harm: impl FnOnce(&mut Evidence)) -> Vec<&'static str> {
        let mut evidence = good_sale();
        harm(&mut evidence);
        judge(&evidence)
            .into_iter()
            .filter(|check| !check.kept)
            .map(|check| check.promise)
            .collect()
    }

    #[test]
    fn a_good_sale_keeps_every_promise() {
        assert_eq!(broken_by(|_| {}), Vec::<&str>::new());
    }

    #[test]
    fn a_coupon_too_many_is_noticed() {
        let broken = broken_by(|sale| {
            let coupon = StoredCoupon {
                user_id: "user-2".into(),
                code: "CODE-2".into(),
                ..sale.coupons[0].clone()
            };
            sale.coupons.push(coupon);
        });
        assert!(broken.contains(&"exactly min(stock, users) coupons"));
        assert!(broken.contains(&"remaining + issued = total, in every shard"));
        assert!(broken.contains(&"the answers are what the table says"));
    }

    #[test]
    fn two_coupons_of_one_user_are_noticed() {
        let broken = broken_by(|sale| sale.coupons[1].user_id = "user-0".into());
        assert!(broken.contains(&"one coupon per user, each its own code"));
    }

    #[test]
    fn a_coupon_under_another_partner_is_noticed() {
        let broken = broken_by(|sale| sale.coupons[1].partner_id = "other".into());
        assert_eq!(broken, ["one coupon per user, each its own code"]);
    }

    #[test]
    fn a_lost_coupon_is_noticed() {
        let broken = broken_by(|sale| drop(sale.coupons.pop()));
        assert!(broken.contains(&"exactly min(stock, users) coupons"));
    }

    #[test]
    fn a_claim_without_an_answer_is_noticed() {
        assert!(broken_by(|sale| drop(sale.answers.pop())).contains(&"every claim was answered"));
    }

    #[test]
    fn a_code_that_is_not_the_tables_is_noticed() {
        let broken = broken_by(|sale| sale.answers[0].answer.code = Some("FALSE".into()));
        assert_eq!(broken, ["the answers are what the table says"]);
    }

    #[test]
    fn a_winner_told_sold_out_is_noticed() {
        let broken = broken_by(|sale| {
            sale.answers[0].answer = Answer {
                outcome: "sold_out".into(),
                code: None,
            }
        });
        assert_eq!(broken, ["the answers are what the table says"]);
    }

    #[test]
    fn turning_away_while_stock_remains_is_noticed() {
        let broken = broken_by(|sale| sale.shards[0].remaining = 1);
        assert!(broken.contains(&"nobody turned away while stock remained"));
        assert!(broken.contains(&"remaining + issued = total, in every shard"));
    }

    #[test]
    fn an_answer_taken_back_is_noticed() {
        let broken = broken_by(|sale| sale.contradictions.push("user-0: …".into()));
        assert_eq!(broken, ["the same claim, the same answer"]);
    }

    #[test]
    fn an_api_that_differs_from_the_table_is_noticed() {
        assert_eq!(
            broken_by(|sale| sale.campaign = None),
            ["the API says the same"]
        );
        assert_eq!(
            broken_by(|sale| sale.claim_states[0].1.coupon = None),
            ["the API says the same"]
        );
    }

    #[test]
    fn a_broadcast_that_missed_a_socket_is_noticed() {
        assert_eq!(
            broken_by(|sale| sale.broadcasts[0].heard = 2),
            ["every open socket heard every broadcast"]
        );
        assert_eq!(
            broken_by(|sale| sale.broadcasts[0].report.finished_at = None),
            ["every open socket heard every broadcast"]
        );
        assert_eq!(
            broken_by(|sale| sale.broadcasts[0].report.seen = 4),
            ["every open socket heard every broadcast"]
        );
    }

    #[test]
    fn a_dead_letter_and_a_remembered_dead_socket_are_noticed() {
        assert_eq!(
            broken_by(|sale| sale.dead_letters[0].1 = 1),
            ["dead-letter queues stay empty"]
        );
        assert_eq!(
            broken_by(|sale| sale.memberships = 3),
            ["sockets that died are forgotten"]
        );
    }

    #[test]
    fn a_user_who_stayed_away_is_noticed() {
        assert!(broken_by(|sale| sale.claimants = 2).contains(&"every user got a socket"));
    }
}
