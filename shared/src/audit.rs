//! The audit: whether a campaign's counters and coupons add up. Rules only; the refresher reads the counters every
//! minute, the operator's command scans the coupons after the sale.
//!
//! Only one thing can be repaired safely, a missing sold mark: every shard was seen empty and stock never rises, so setting
//! it says what is true for good. Everything else is shown and left alone. A counter above its coupons may not be turned
//! back: stock would rise, which no worker expects, and whoever held a vanished coupon still has its code. A coupon above
//! its counter may not be taken back: its holder has been told. A shard that is missing, or a sold mark while stock
//! remains, has a cause that the books do not show; point-in-time recovery shows it.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::{Campaign, Coupon, RETENTION_SECONDS, StockShard, Timestamp};

/// Something in a campaign's books that does not add up.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is named in its message")]
pub enum Damage {
    /// A counter is not there.
    #[error("shard {shard} is missing")]
    ShardMissing { shard: u16 },
    /// A counter beyond the campaign's.
    #[error("shard {shard} exists, the campaign has only {shards}")]
    ShardTooMany { shard: u16, shards: u16 },
    /// A counter gained or lost.
    #[error("shard {shard}: {remaining} remaining + {issued} issued are not its quota of {quota}")]
    ShardUnbalanced {
        shard: u16,
        remaining: u32,
        issued: u32,
        quota: u32,
    },
    /// The shards were not cut from the total.
    #[error("the shards' quotas add up to {sum}, the total is {total}")]
    QuotasDiffer { sum: u64, total: u32 },
    /// More coupons than were paid for, or fewer.
    #[error("shard {shard}: {issued} issued, but {coupons} coupons stand")]
    CouponsDiffer {
        shard: u16,
        issued: u32,
        coupons: u64,
    },
    /// Nobody paid for them.
    #[error("{coupons} coupons are of shard {shard}, which does not exist")]
    CouponsOfNoShard { shard: u16, coupons: u64 },
    /// They stand under a key that does not keep its user from a second one.
    #[error("{coupons} coupons stand under another partner than the campaign's")]
    OtherPartner { coupons: u64 },
    /// Likewise.
    #[error("{coupons} coupons name another partner, user or campaign than their key")]
    KeyDiffers { coupons: u64 },
    /// One code, several holders.
    #[error("{coupons} coupons carry a code that another one carries")]
    CodesRepeat { coupons: u64 },
    /// No code of this service.
    #[error("{coupons} coupons carry no readable code")]
    CodesUnreadable { coupons: u64 },
    /// Once it is gone, its user could be issued another one.
    #[error("{coupons} coupons may vanish before their time")]
    VanishEarly { coupons: u64 },
    /// The functions could not read them either.
    #[error("{coupons} coupons cannot be read")]
    Unreadable { coupons: u64 },
    /// Users are turned away although there is stock.
    #[error("marked as sold out, but {remaining} remain")]
    SoldWithStock { remaining: u64 },
}

/// What is wrong with a campaign's counters: each MUST be there, hold what it started with, and all MUST have been cut from
/// the total. A counter is changed in one write, so this holds at every instant.
pub fn stock_damage(campaign: &Campaign, stock: &[StockShard]) -> Vec<Damage> {
    let missing = (0..campaign.shards)
        .filter(|shard| !stock.iter().any(|found| found.shard == *shard))
        .map(|shard| Damage::ShardMissing { shard });
    let too_many = stock
        .iter()
        .filter(|found| found.shard >= campaign.shards)
        .map(|found| Damage::ShardTooMany {
            shard: found.shard,
            shards: campaign.shards,
        });
    let unbalanced = stock
        .iter()
        .filter(|found| found.remaining.checked_add(found.issued) != Some(found.quota))
        .map(|found| Damage::ShardUnbalanced {
            shard: found.shard,
            remaining: found.remaining,
            issued: found.issued,
            quota: found.quota,
        });
    let sum: u64 = stock.iter().map(|found| u64::from(found.quota)).sum();
    let differ = (sum != u64::from(campaign.total)).then_some(Damage::QuotasDiffer {
        sum,
        total: campaign.total,
    });
    missing
        .chain(too_many)
        .chain(unbalanced)
        .chain(differ)
        .collect()
}

/// A coupon as it stands, with what its key and its expiry attribute say.
#[derive(Clone, Copy, Debug)]
pub struct CouponEntry<'a> {
    /// The partner in its key.
    pub key_partner: &'a str,
    /// The user in its key.
    pub key_user: &'a str,
    /// The coupon.
    pub coupon: &'a Coupon,
    /// When the table may forget it; `None` if never.
    pub vanishes_at: Option<Timestamp>,
}

/// A campaign's coupons, counted. One per user needs no count: two items cannot have one key, and the key is partner, user
/// and campaign, so that only a key that says otherwise than its coupon can hide a second one.
#[derive(Debug, Default)]
pub struct CouponBooks {
    by_shard: BTreeMap<u16, u64>,
    codes: Vec<u128>,
    other_partner: u64,
    key_differs: u64,
    codes_unreadable: u64,
    vanish_early: u64,
    unreadable: u64,
}

impl CouponBooks {
    /// Counts a coupon that stands under the campaign.
    pub fn enter(&mut self, campaign: &Campaign, entry: CouponEntry<'_>) {
        let coupon = entry.coupon;
        *self.by_shard.entry(coupon.shard).or_default() += 1;
        self.other_partner += u64::from(entry.key_partner != campaign.partner_id.as_str());
        let differs = coupon.partner_id.as_str() != entry.key_partner
            || coupon.user_id.as_str() != entry.key_user
            || coupon.campaign_id != campaign.campaign_id;
        self.key_differs += u64::from(differs);
        match code_bits(&coupon.code) {
            Some(bits) => self.codes.push(bits),
            None => self.codes_unreadable += 1,
        }
        // The attribute is in whole seconds.
        let stays_until = coupon.forgotten_at(campaign).epoch_seconds();
        let early = entry
            .vanishes_at
            .is_some_and(|at| at.epoch_seconds() < stays_until);
        self.vanish_early += u64::from(early);
    }

    /// Counts an item that is no coupon, though it stands where one should.
    pub fn enter_unreadable(&mut self) {
        self.unreadable += 1;
    }

    /// How many coupons were counted.
    pub fn coupons(&self) -> u64 {
        self.by_shard.values().sum::<u64>() + self.unreadable
    }

    fn of(&self, shard: u16) -> u64 {
        self.by_shard.get(&shard).copied().unwrap_or_default()
    }

    fn damage(&mut self) -> impl Iterator<Item = Damage> + use<> {
        self.codes.sort_unstable();
        let repeats = self.codes.windows(2).filter(|pair| pair[0] == pair[1]);
        let found =
            |coupons: u64, damage: fn(u64) -> Damage| (coupons > 0).then(|| damage(coupons));
        [
            found(self.other_partner, |coupons| Damage::OtherPartner {
                coupons,
            }),
            found(self.key_differs, |coupons| Damage::KeyDiffers { coupons }),
            found(repeats.count() as u64, |coupons| Damage::CodesRepeat {
                coupons,
            }),
            found(self.codes_unreadable, |coupons| Damage::CodesUnreadable {
                coupons,
            }),
            found(self.vanish_early, |coupons| Damage::VanishEarly { coupons }),
            found(self.unreadable, |coupons| Damage::Unreadable { coupons }),
        ]
        .into_iter()
        .flatten()
    }
}

/// The 80 bits that a coupon's code spells; the inverse of [`crate::coupon_code`].
fn code_bits(code: &str) -> Option<u128> {
    const ALPHABET: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digit = |letter| ALPHABET.find(letter).and_then(|at| u128::try_from(at).ok());
    (code.chars().count() == 16)
        .then(|| {
            code.chars()
                .try_fold(0, |bits, letter| Some(bits << 5 | digit(letter)?))
        })
        .flatten()
}

/// Everything an audit rests on. It MUST have been read in the order of the fields, each after the one before.
#[derive(Debug)]
pub struct AuditEvidence<'a> {
    /// The campaign.
    pub campaign: &'a Campaign,
    /// Its counters before the scan.
    pub before: &'a [StockShard],
    /// Its coupons.
    pub books: CouponBooks,
    /// Whether the sold mark stands.
    pub sold: bool,
    /// Its counters after the scan, with any beyond the campaign's.
    pub after: &'a [StockShard],
}

/// A counter beside its coupons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditedShard {
    /// The counter after the scan.
    pub stock: StockShard,
    /// Coupons that stand and name it.
    pub coupons: u64,
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Every counter found.
    pub shards: Vec<AuditedShard>,
    /// Coupons that stand.
    pub coupons: u64,
    /// What does not add up.
    pub damage: Vec<Damage>,
    /// Coupons were issued while they were counted: no damage was found, but it could be hidden.
    pub moving: bool,
    /// Every shard is empty and the mark that says so is missing: no damage, and safe to set.
    pub sold_mark_missing: bool,
}

impl Audit {
    /// Whether the books are proved to balance.
    pub fn balances(&self) -> bool {
        self.damage.is_empty() && !self.moving
    }
}

/// Judges the evidence. Coupons counted during a sale must lie between the counters before and after.
pub fn audit_books(evidence: AuditEvidence<'_>) -> Audit {
    let AuditEvidence {
        campaign,
        before,
        mut books,
        sold,
        after,
    } = evidence;
    let issued_before = |shard: u16| {
        let found = before.iter().find(|stock| stock.shard == shard);
        found.map_or(0, |stock| stock.issued)
    };
    let mut shards: Vec<AuditedShard> = after
        .iter()
        .map(|stock| AuditedShard {
            stock: *stock,
            coupons: books.of(stock.shard),
        })
        .collect();
    shards.sort_by_key(|shard| shard.stock.shard);

    let mut damage = stock_damage(campaign, after);
    let remaining: u64 = after.iter().map(|stock| u64::from(stock.remaining)).sum();
    let sold_mark_missing = damage.is_empty() && remaining == 0 && !sold;
    damage.extend((sold && remaining > 0).then_some(Damage::SoldWithStock { remaining }));
    let in_bounds = |shard: &&AuditedShard| {
        let least = u64::from(issued_before(shard.stock.shard));
        (least..=u64::from(shard.stock.issued)).contains(&shard.coupons)
    };
    damage.extend(
        shards
            .iter()
            .filter(|shard| !in_bounds(shard))
            .map(|shard| Damage::CouponsDiffer {
                shard: shard.stock.shard,
                issued: shard.stock.issued,
                coupons: shard.coupons,
            }),
    );
    damage.extend(
        books
            .by_shard
            .iter()
            .filter(|(shard, _)| !after.iter().any(|stock| stock.shard == **shard))
            .map(|(shard, coupons)| Damage::CouponsOfNoShard {
                shard: *shard,
                coupons: *coupons,
            }),
    );
    damage.extend(books.damage());
    Audit {
        coupons: books.coupons(),
        moving: after
            .iter()
            .any(|stock| stock.issued != issued_before(stock.shard)),
        sold_mark_missing,
        shards,
        damage,
    }
}

/// From when on a campaign's coupons may vanish by their age, and can no longer be counted.
pub fn auditable_until(campaign: &Campaign) -> Timestamp {
    campaign.closes_at.plus_seconds(RETENTION_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::sample_campaign;
    use crate::{CampaignId, PartnerId, UserId, coupon_code};

    #[test]
    fn a_campaign_can_be_counted_until_its_first_coupon_may_vanish() {
        let campaign = sample_campaign(10, NOW);
        let coupon = |expires_at| Coupon {
            expires_at,
            ..Coupon::sample()
        };
        let until = auditable_until(&campaign);
        let early = coupon(campaign.opens_at);
        assert_eq!(early.forgotten_at(&campaign), until);
        let late = coupon(campaign.closes_at.plus_seconds(1));
        assert_eq!(late.forgotten_at(&campaign), until.plus_seconds(1));
    }

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    /// A campaign of 2,500 in three shards, of each of which two coupons were issued.
    struct Books {
        campaign: Campaign,
        before: Vec<StockShard>,
        coupons: Vec<(String, String, Coupon, i64)>,
        sold: bool,
        after: Vec<StockShard>,
    }

    fn good() -> Books {
        let campaign = Campaign {
            shards: 3,
            ..sample_campaign(2500, NOW)
        };
        let stock: Vec<StockShard> = campaign
            .quotas()
            .map(|(shard, quota)| StockShard {
                shard,
                remaining: quota - 2,
                issued: 2,
                quota,
                closed_at: None,
            })
            .collect();
        let coupon = |number: u8| {
            let coupon = Coupon {
                code: coupon_code([number; 10]),
                campaign_id: campaign.campaign_id.clone(),
                partner_id: campaign.partner_id.clone(),
                user_id: UserId::new(format!("user-{number}")).unwrap(),
                shard: u16::from(number) % 3,
                ..Coupon::sample()
            };
            let ttl = coupon.forgotten_at(&campaign).epoch_seconds();
            (
                coupon.partner_id.to_string(),
                coupon.user_id.to_string(),
                coupon,
                ttl,
            )
        };
        Books {
            coupons: (0..6).map(coupon).collect(),
            before: stock.clone(),
            after: stock,
            sold: false,
            campaign,
        }
    }

    fn audited(harm: impl FnOnce(&mut Books)) -> Audit {
        let mut books = good();
        harm(&mut books);
        let mut counted = CouponBooks::default();
        for (key_partner, key_user, coupon, ttl) in &books.coupons {
            let entry = CouponEntry {
                key_partner,
                key_user,
                coupon,
                vanishes_at: Some(Timestamp::from_millis(ttl * 1000)),
            };
            counted.enter(&books.campaign, entry);
        }
        audit_books(AuditEvidence {
            campaign: &books.campaign,
            before: &books.before,
            books: counted,
            sold: books.sold,
            after: &books.after,
        })
    }

    #[test]
    fn sound_books_balance() {
        let audit = audited(|_| {});
        assert_eq!(audit.damage, []);
        assert!(audit.balances() && !audit.sold_mark_missing);
        assert_eq!(audit.coupons, 6);
        let counted: Vec<_> = audit
            .shards
            .iter()
            .map(|shard| (shard.stock.shard, shard.coupons))
            .collect();
        assert_eq!(counted, [(0, 2), (1, 2), (2, 2)]);
    }

    #[test]
    fn every_damage_is_found_and_nothing_else() {
        type Harm = fn(&mut Books);
        let cases: [(Harm, Vec<Damage>); 13] = [
            (
                |books| {
                    books.after.remove(1);
                },
                vec![
                    Damage::ShardMissing { shard: 1 },
                    Damage::QuotasDiffer {
                        sum: 1667,
                        total: 2500,
                    },
                    Damage::CouponsOfNoShard {
                        shard: 1,
                        coupons: 2,
                    },
                ],
            ),
            (
                |books| {
                    books.after.push(StockShard {
                        shard: 3,
                        remaining: 0,
                        issued: 0,
                        quota: 0,
                        closed_at: None,
                    });
                },
                vec![Damage::ShardTooMany {
                    shard: 3,
                    shards: 3,
                }],
            ),
            (
                |books| books.after[0].remaining += 1,
                vec![Damage::ShardUnbalanced {
                    shard: 0,
                    remaining: 833,
                    issued: 2,
                    quota: 834,
                }],
            ),
            (
                |books| {
                    books.after[0].remaining += 1;
                    books.after[0].quota += 1;
                },
                vec![Damage::QuotasDiffer {
                    sum: 2501,
                    total: 2500,
                }],
            ),
            (
                |books| {
                    books.coupons.remove(0);
                },
                vec![Damage::CouponsDiffer {
                    shard: 0,
                    issued: 2,
                    coupons: 1,
                }],
            ),
            (
                |books| {
                    let mut another = books.coupons[1].clone();
                    another.1 = "somebody".into();
                    another.2.user_id = UserId::new("somebody").unwrap();
                    another.2.code = coupon_code([99; 10]);
                    books.coupons.push(another);
                },
                vec![Damage::CouponsDiffer {
                    shard: 1,
                    issued: 2,
                    coupons: 3,
                }],
            ),
            (
                |books| books.coupons[0].2.shard = 7,
                vec![
                    Damage::CouponsDiffer {
                        shard: 0,
                        issued: 2,
                        coupons: 1,
                    },
                    Damage::CouponsOfNoShard {
                        shard: 7,
                        coupons: 1,
                    },
                ],
            ),
            (
                |books| {
                    books.coupons[0].0 = "rival".into();
                    books.coupons[0].2.partner_id = PartnerId::new("rival").unwrap();
                },
                vec![Damage::OtherPartner { coupons: 1 }],
            ),
            (
                |books| books.coupons[0].2.user_id = UserId::new("user-1").unwrap(),
                vec![Damage::KeyDiffers { coupons: 1 }],
            ),
            (
                |books| books.coupons[0].2.campaign_id = CampaignId::new("other").unwrap(),
                vec![Damage::KeyDiffers { coupons: 1 }],
            ),
            (
                |books| books.coupons[3].2.code = books.coupons[5].2.code.clone(),
                vec![Damage::CodesRepeat { coupons: 1 }],
            ),
            (
                |books| books.coupons[3].2.code = "U000000000000000".into(),
                vec![Damage::CodesUnreadable { coupons: 1 }],
            ),
            (
                |books| books.coupons[3].3 -= 1,
                vec![Damage::VanishEarly { coupons: 1 }],
            ),
        ];
        for (harm, expected) in cases {
            let audit = audited(harm);
            assert_eq!(audit.damage, expected);
            assert!(!audit.balances());
        }
    }

    #[test]
    fn what_is_issued_during_the_count_is_no_damage_and_no_proof() {
        let selling = |coupons: usize| {
            audited(move |books| {
                books.after[0].issued += 2;
                books.after[0].remaining -= 2;
                for number in 0..coupons {
                    let mut more = books.coupons[0].clone();
                    more.1 = format!("late-{number}");
                    more.2.user_id = UserId::new(more.1.clone()).unwrap();
                    more.2.code = coupon_code([100 + number as u8; 10]);
                    books.coupons.push(more);
                }
            })
        };
        for coupons in 0..=2 {
            let audit = selling(coupons);
            assert_eq!(audit.damage, []);
            assert!(audit.moving && !audit.balances());
        }
        let expected = Damage::CouponsDiffer {
            shard: 0,
            issued: 4,
            coupons: 5,
        };
        assert_eq!(selling(3).damage, [expected]);
    }

    #[test]
    fn a_sold_mark_is_missed_only_when_every_shard_is_there_and_empty() {
        let empty = |books: &mut Books| {
            for stock in books.before.iter_mut().chain(&mut books.after) {
                stock.issued = 2;
                stock.quota = 2;
                stock.remaining = 0;
            }
            books.campaign.total = 6;
        };
        assert!(audited(empty).sold_mark_missing);
        assert!(
            audited(empty).balances(),
            "nobody is answered wrongly without it"
        );
        let marked = |books: &mut Books| {
            empty(books);
            books.sold = true;
        };
        assert!(!audited(marked).sold_mark_missing);
        let one_lost = |books: &mut Books| {
            empty(books);
            books.after.pop();
        };
        assert!(!audited(one_lost).sold_mark_missing);
        let some_left = |books: &mut Books| {
            empty(books);
            books.after[2].remaining = 1;
            books.after[2].quota = 3;
            books.campaign.total = 7;
        };
        assert!(!audited(some_left).sold_mark_missing);
    }

    #[test]
    fn a_sold_mark_while_stock_remains_is_damage() {
        let audit = audited(|books| books.sold = true);
        assert_eq!(audit.damage, [Damage::SoldWithStock { remaining: 2494 }]);
    }

    #[test]
    fn an_item_that_is_no_coupon_counts_and_is_damage() {
        let books = good();
        let mut counted = CouponBooks::default();
        counted.enter_unreadable();
        let audit = audit_books(AuditEvidence {
            campaign: &books.campaign,
            before: &[],
            books: counted,
            sold: false,
            after: &[],
        });
        assert_eq!(audit.coupons, 1);
        assert!(audit.damage.contains(&Damage::Unreadable { coupons: 1 }));
    }

    #[test]
    fn coupons_are_counted_until_the_first_of_them_may_vanish() {
        let campaign = good().campaign;
        let until = auditable_until(&campaign);
        let issued = |at: Timestamp| Coupon {
            expires_at: at,
            ..Coupon::sample()
        };
        // However soon a coupon expires, it is kept for 90 days after its campaign's end, to the millisecond.
        let first = issued(campaign.opens_at).forgotten_at(&campaign);
        assert_eq!(
            (first, until),
            (until, campaign.closes_at.plus_seconds(90 * 86_400))
        );
        let after_the_end = Timestamp::from_millis(campaign.closes_at.millis() + 1);
        assert!(issued(after_the_end).forgotten_at(&campaign) > until);
    }

    #[test]
    fn a_code_is_read_back_to_its_bits() {
        for random in [[0; 10], [7; 10], [255; 10]] {
            let bits = random
                .iter()
                .fold(0, |bits, byte| bits << 8 | u128::from(*byte));
            assert_eq!(code_bits(&coupon_code(random)), Some(bits));
        }
        assert_eq!(code_bits("short"), None);
        assert_eq!(code_bits("000000000000000é"), None);
    }
}
