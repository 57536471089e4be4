//! What one customer wants and what it was told: the client's half of the protocol. Pure; time comes in as an argument.

use tokio::time::Instant;

use super::frame::Answered;

/// One claim, under one claimId.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) claim_id: String,
    /// How often it is sent at the start.
    pub(crate) times: u32,
    first_sent: Option<Instant>,
    answer: Option<Answer>,
}

/// The final answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) outcome: String,
    pub(crate) code: Option<String>,
}

/// What a `claim.result` meant to the customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The first answer to these claims, each with the moment its claim was first sent.
    First(Vec<(String, Instant)>, Answer),
    /// What was known already.
    Again,
    /// The door refused the frame, not the claim: come again.
    NotYet,
    /// Another answer than before to the same claim, or an answer to a claim never made.
    Contradiction(String),
}

/// All claims of one customer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes(Vec<Wish>);

impl Wish {
    pub(crate) fn new(claim_id: String, times: u32) -> Self {
        Self {
            claim_id,
            times,
            first_sent: None,
            answer: None,
        }
    }
}

impl Wishes {
    pub(crate) fn new(wishes: Vec<Wish>) -> Self {
        Self(wishes)
    }

    /// The claims to send at the start, some of them twice.
    pub(crate) fn all(&self) -> Vec<String> {
        self.0
            .iter()
            .flat_map(|wish| std::iter::repeat_n(wish.claim_id.clone(), wish.times as usize))
            .collect()
    }

    /// The claims without an answer, each once.
    pub(crate) fn pending(&self) -> Vec<String> {
        self.0
            .iter()
            .filter(|wish| wish.answer.is_none())
            .map(|wish| wish.claim_id.clone())
            .collect()
    }

    pub(crate) fn are_pending(&self) -> bool {
        self.0.iter().any(|wish| wish.answer.is_none())
    }

    /// The claims leave now; only their first time counts.
    pub(crate) fn sent(&mut self, now: Instant) {
        for wish in &mut self.0 {
            wish.first_sent.get_or_insert(now);
        }
    }

    /// Takes an answer in.
    pub(crate) fn hear(&mut self, answered: Answered, now: Instant) -> Heard {
        let Answered {
            claim_id,
            outcome,
            code,
        } = answered;
        if outcome == "not_open" {
            return Heard::NotYet;
        }
        let answer = Answer { outcome, code };
        match claim_id {
            Some(claim_id) => self.hear_of(&claim_id, answer, now),
            // The answer to `result` names no claim where no coupon stands: then it is the answer to all of them.
            None if answer.code.is_none() => self.hear_of_all(answer, now),
            None => Heard::Again,
        }
    }

    fn hear_of(&mut self, claim_id: &str, answer: Answer, now: Instant) -> Heard {
        let Some(wish) = self.0.iter_mut().find(|wish| wish.claim_id == claim_id) else {
            return Heard::Contradiction(format!("{claim_id} was answered and never claimed"));
        };
        match &wish.answer {
            Some(known) if *known == answer => Heard::Again,
            Some(known) => Heard::Contradiction(format!(
                "{claim_id} was answered {} and then {}",
                known.outcome, answer.outcome
            )),
            None => {
                wish.answer = Some(answer.clone());
                Heard::First(
                    vec![(wish.claim_id.clone(), wish.first_sent.unwrap_or(now))],
                    answer,
                )
            }
        }
    }

    fn hear_of_all(&mut self, answer: Answer, now: Instant) -> Heard {
        let mut first = Vec::new();
        for wish in self.0.iter_mut().filter(|wish| wish.answer.is_none()) {
            wish.answer = Some(answer.clone());
            first.push((wish.claim_id.clone(), wish.first_sent.unwrap_or(now)));
        }
        if first.is_empty() {
            Heard::Again
        } else {
            Heard::First(first, answer)
        }
    }
}

/// Who claims what: `percent` of the users claim twice, every other one of those with a second claimId.
pub(crate) fn wishes_of(users: u32, percent: u32) -> Vec<Wishes> {
    let mut doublers = 0;
    (0..users)
        .map(|user| {
            let first = |times| Wish::new(format!("claim-{user:05}-1"), times);
            if !claims_twice(user, percent) {
                return Wishes::new(vec![first(1)]);
            }
            doublers += 1;
            if doublers % 2 == 1 {
                Wishes::new(vec![first(2)])
            } else {
                Wishes::new(vec![first(1), Wish::new(format!("claim-{user:05}-2"), 1)])
            }
        })
        .collect()
}

/// Spreads the doublers evenly over the crowd.
fn claims_twice(user: u32, percent: u32) -> bool {
    let up_to = |users: u64| users * u64::from(percent) / 100;
    up_to(u64::from(user) + 1) > up_to(u64::from(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(claim_id: Option<&str>, outcome: &str, code: Option<&str>) -> Answered {
        Answered {
            claim_id: claim_id.map(Into::into),
            outcome: outcome.into(),
            code: code.map(Into::into),
        }
    }

    fn one_wish() -> Wishes {
        Wishes::new(vec![Wish::new("c".into(), 1)])
    }

    #[test]
    fn a_share_of_the_users_claims_twice_in_two_ways() {
        let plans = wishes_of(1000, 20);
        let twice_the_same = plans.iter().filter(|wishes| wishes.0[0].times == 2).count();
        let two_claims = plans.iter().filter(|wishes| wishes.0.len() == 2).count();
        assert_eq!((twice_the_same, two_claims), (100, 100));
        assert!(wishes_of(7, 0).iter().all(|wishes| wishes.all().len() == 1));
        assert!(
            wishes_of(7, 100)
                .iter()
                .all(|wishes| wishes.all().len() == 2)
        );
    }

    #[test]
    fn a_claim_is_pending_until_it_is_answered() {
        let now = Instant::now();
        let mut wishes = one_wish();
        wishes.sent(now);
        assert_eq!(wishes.pending(), ["c"]);
        let heard = wishes.hear(answered(Some("c"), "issued", Some("X")), now);
        let answer = Answer {
            outcome: "issued".into(),
            code: Some("X".into()),
        };
        assert_eq!(heard, Heard::First(vec![("c".into(), now)], answer));
        assert!(!wishes.are_pending());
    }

    #[test]
    fn a_repeated_answer_must_be_the_same() {
        let now = Instant::now();
        let mut wishes = one_wish();
        wishes.hear(answered(Some("c"), "issued", Some("X")), now);
        assert_eq!(
            wishes.hear(answered(Some("c"), "issued", Some("X")), now),
            Heard::Again
        );
        assert!(matches!(
            wishes.hear(answered(Some("c"), "issued", Some("Y")), now),
            Heard::Contradiction(_)
        ));
        assert!(matches!(
            wishes.hear(answered(Some("c"), "sold_out", None), now),
            Heard::Contradiction(_)
        ));
        assert!(matches!(
            wishes.hear(answered(Some("d"), "sold_out", None), now),
            Heard::Contradiction(_)
        ));
    }

    #[test]
    fn not_open_refuses_the_frame_and_not_the_claim() {
        let mut wishes = one_wish();
        assert_eq!(
            wishes.hear(answered(Some("c"), "not_open", None), Instant::now()),
            Heard::NotYet
        );
        assert!(wishes.are_pending());
    }

    #[test]
    fn a_refusal_without_a_claim_answers_all_that_are_pending() {
        let now = Instant::now();
        let mut wishes = Wishes::new(vec![Wish::new("c".into(), 1), Wish::new("d".into(), 1)]);
        wishes.hear(answered(Some("c"), "sold_out", None), now);
        let heard = wishes.hear(answered(None, "sold_out", None), now);
        assert!(
            matches!(heard, Heard::First(claims, _) if claims.len() == 1 && claims[0].0 == "d")
        );
    }
}
