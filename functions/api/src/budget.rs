//! Token buckets: how much may be asked for in a row, and then per second. Each execution environment counts alone.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use firstcome_core::{PartnerId, Timestamp};

use crate::problem::Problem;

/// How many partners are remembered; past it, all start anew.
const CAPACITY: usize = 10_000;

/// Tokens that come back with time.
pub(crate) struct Bucket {
    left: u32,
    most: u32,
    per_second: u32,
    counted_at: Timestamp,
}

impl Bucket {
    /// With all its tokens.
    pub(crate) fn full(most: u32, per_second: u32) -> Self {
        Self {
            left: most,
            most,
            per_second,
            counted_at: Timestamp::EPOCH,
        }
    }

    /// Takes one, if one is left at `now`.
    pub(crate) fn take(&mut self, now: Timestamp) -> bool {
        let since = now.millis_since(self.counted_at);
        let earned = since.saturating_mul(self.per_second.into()) / 1000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(earned).min(self.most);
            self.counted_at = now;
        }
        let any = self.left > 0;
        self.left = self.left.saturating_sub(1);
        any
    }

    /// Puts one back that was not used.
    pub(crate) fn give_back(&mut self) {
        self.left = (self.left + 1).min(self.most);
    }
}

/// What each partner may still ask for: `PARTNER_REQUESTS_PER_SECOND` (template.yaml), at once and then per second.
pub(crate) struct Budgets {
    per_second: u32,
    of: Mutex<HashMap<PartnerId, Bucket>>,
}

impl Budgets {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            of: Mutex::default(),
        }
    }

    /// Takes one request of the partner's; 429 if none is left at `now`.
    pub(crate) fn take(&self, partner: &PartnerId, now: Timestamp) -> Result<(), Problem> {
        let mut budgets = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if budgets.len() >= CAPACITY && !budgets.contains_key(partner) {
            budgets.clear();
        }
        let budget = budgets
            .entry(partner.clone())
            .or_insert_with(|| Bucket::full(self.per_second, self.per_second));
        budget
            .take(now)
            .then_some(())
            .ok_or_else(|| Problem::too_many("the partner asks for too much at once"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_at_once_and_comes_back_each_second_for_each_partner_alone() {
        let budgets = Budgets::new(3);
        let (acme, rival) = (
            PartnerId::new("acme").unwrap(),
            PartnerId::new("rival").unwrap(),
        );
        let admitted = |partner: &PartnerId, millis: i64| {
            let at = Timestamp::from_millis(1_790_000_000_000 + millis);
            (0..10)
                .filter(|_| budgets.take(partner, at).is_ok())
                .count()
        };
        assert_eq!(admitted(&acme, 0), 3);
        assert_eq!(admitted(&rival, 0), 3);
        assert_eq!(admitted(&acme, 333), 0);
        assert_eq!(admitted(&acme, 1000), 3);
        assert_eq!(
            admitted(&acme, 60_000),
            3,
            "what was not asked for is not saved up"
        );
    }
}
