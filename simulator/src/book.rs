//! The checker: keeps every claim, every answer given to it and every coupon, and holds them against the invariants the
//! moment they happen. Knows the truth of the tables; the product's code never sees it.

use std::collections::BTreeMap;

use firstcome_core::{
    Campaign, CampaignId, ClaimId, ConnectionId, Coupon, Outcome, PartnerId, Timestamp, UserId,
};

use crate::known::Known;
use crate::tables::{Counter, CouponKey, Offer, Tables};

/// A claim, whoever sends it however often: under which partner, of which campaign, whose, and its name.
pub(crate) type ClaimKey = (PartnerId, CampaignId, UserId, ClaimId);

/// A claim in the queue.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) key: ClaimKey,
    pub(crate) own_time: Timestamp,
    pub(crate) is_from_the_future: bool,
    pub(crate) connection_id: Option<ConnectionId>,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A worker, by a job in DeliveriesQueue.
    Worker,
    /// A door whose clock showed this when it was asked and when it answered.
    Door(Timestamp, Timestamp),
}

/// One answer to one claim.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) key: ClaimKey,
    pub(crate) outcome: Outcome,
    pub(crate) code: Option<String>,
    pub(crate) place: Place,
    /// When the answerer took the question up, in virtual milliseconds.
    pub(crate) began: u64,
    /// Whether it answers a `claim` frame, which a door refuses before the opening without a look for the coupon.
    pub(crate) is_frame: bool,
}

/// An earlier answer.
#[derive(Clone, Copy, Debug)]
struct Given {
    outcome: Outcome,
    by_door: bool,
    /// Whether the claim's own time, or that of its frame at the door, is the reason.
    by_time: bool,
}

#[derive(Debug, Default)]
struct Record {
    /// Every time under which it is in the queue, and whether that is from the future.
    times: Vec<(Timestamp, bool)>,
    /// What was said.
    given: Vec<Given>,
    /// Sockets that a durable answer is addressed to.
    addressed: Vec<ConnectionId>,
    /// Sockets that have an answer.
    reached: Vec<ConnectionId>,
}

/// The checker's memory.
#[derive(Debug, Default)]
pub(crate) struct Book {
    records: BTreeMap<ClaimKey, Record>,
    sockets: BTreeMap<ConnectionId, (PartnerId, UserId)>,
    /// Sockets that closed at some time.
    closed_sockets: Vec<ConnectionId>,
    /// Campaigns whose closing was answered, with the time of the answer.
    closings: BTreeMap<CampaignId, Timestamp>,
    /// The known departure that is looked for.
    pub(crate) looked_for: Option<Known>,
    /// The first violation.
    pub(crate) violation: Option<String>,
}

fn partner_of(offer: &Offer) -> Option<&PartnerId> {
    offer
        .record
        .truth
        .as_ref()
        .map(|campaign| &campaign.partner_id)
}

impl Book {
    fn violate(&mut self, invariant: &str, text: String) {
        if self.violation.is_none() {
            self.violation = Some(format!("{invariant}: {text}"));
        }
    }

    pub(crate) fn opened(&mut self, socket: ConnectionId, partner: PartnerId, user: UserId) {
        self.sockets.insert(socket, (partner, user));
    }

    pub(crate) fn closed(&mut self, socket: ConnectionId) {
        self.closed_sockets.push(socket);
    }

    pub(crate) fn is_closed(&self, socket: &ConnectionId) -> bool {
        self.closed_sockets.contains(socket)
    }

    pub(crate) fn owner(&self, socket: &ConnectionId) -> Option<&(PartnerId, UserId)> {
        self.sockets.get(socket)
    }

    /// Every socket with its owner.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = (&ConnectionId, &(PartnerId, UserId))> {
        self.sockets.iter()
    }

    /// Every claim that anybody was ever answered or queued.
    pub(crate) fn claims(&self) -> impl Iterator<Item = &ClaimKey> {
        self.records.keys()
    }

    /// The claim is in the queue.
    pub(crate) fn queued(&mut self, queued: &Queued) {
        let record = self.records.entry(queued.key.clone()).or_default();
        record
            .times
            .push((queued.own_time, queued.is_from_the_future));
    }

    /// I1, I2, I4, and the order of verdict, at the instant a chunk is decided. `before` is what stood under the coupons'
    /// keys, and the counter as it was.
    pub(crate) fn decided(
        &mut self,
        tables: &Tables,
        coupons: &[Coupon],
        overwritten: &[Coupon],
        counter: Option<Counter>,
        shard: u16,
    ) {
        if let Some(coupon) = overwritten.first() {
            self.violate(
                "I2",
                format!("the coupon of {} was overwritten", coupon.user_id),
            );
        }
        let Some(first) = coupons.first() else {
            return;
        };
        let Some(offer) = tables.offers.get(&first.campaign_id) else {
            return self.violate("I2", "a coupon of no campaign".into());
        };
        if offer.is_closed() || self.closings.contains_key(&first.campaign_id) {
            self.violate("closing", format!("issued after the close: {first:?}"));
        }
        self.check_counter(offer, shard, counter);
        self.check_sum(tables, &first.campaign_id);
        for coupon in coupons {
            self.check_coupon(offer, coupon);
        }
    }

    fn check_counter(&mut self, offer: &Offer, shard: u16, before: Option<Counter>) {
        let now = offer
            .shards
            .get(usize::from(shard))
            .and_then(|item| item.truth);
        let (Some(now), Some(before)) = (now, before) else {
            return self.violate("I4", format!("shard {shard} does not exist"));
        };
        if now.remaining < 0 {
            self.violate("I1", format!("shard {shard} holds {}", now.remaining));
        }
        if now.remaining > before.remaining || now.issued < before.issued {
            self.violate("I4", format!("stock rose: {before:?} to {now:?}"));
        }
        if now.remaining + now.issued != now.quota {
            self.violate("I4", format!("shard {shard} does not add up: {now:?}"));
        }
    }

    /// The coupons against the counters, in truth. Holds at every instant.
    fn check_sum(&mut self, tables: &Tables, id: &CampaignId) {
        let Some(offer) = tables.offers.get(id) else {
            return;
        };
        let Some(campaign) = &offer.record.truth else {
            return;
        };
        let mut taken = vec![0_i64; offer.shards.len()];
        let stand = tables
            .coupons
            .iter()
            .filter(|((.., of), _)| of == id)
            .filter_map(|(_, item)| item.truth.as_ref());
        for coupon in stand {
            if let Some(taken) = taken.get_mut(usize::from(coupon.shard)) {
                *taken += 1;
            }
        }
        let sum: i64 = taken.iter().sum();
        if sum > i64::from(campaign.total) {
            self.violate("I1", format!("{sum} coupons of {}", campaign.total));
        }
        for (shard, (counter, taken)) in offer.counters().zip(&taken).enumerate() {
            if counter.issued != *taken {
                let text = format!(
                    "shard {shard} says {} issued, {taken} stand",
                    counter.issued
                );
                self.violate("I4", text);
            }
        }
        let quotas: i64 = offer.counters().map(|counter| counter.quota).sum();
        if quotas != i64::from(campaign.total) {
            self.violate("I4", format!("quotas add up to {quotas}"));
        }
    }

    fn check_coupon(&mut self, offer: &Offer, coupon: &Coupon) {
        let Some(campaign) = &offer.record.truth else {
            return;
        };
        if coupon.partner_id != campaign.partner_id {
            return self.violate("I2", format!("under another partner's key: {coupon:?}"));
        }
        let key = (
            coupon.partner_id.clone(),
            coupon.campaign_id.clone(),
            coupon.user_id.clone(),
            coupon.claim_id.clone(),
        );
        let in_time = self.records.get(&key).is_some_and(|record| {
            let mut times = record.times.iter();
            times.any(|(at, ahead)| !ahead && campaign.refusal_at(*at).is_none())
        });
        if !in_time {
            self.violate(
                "I3",
                format!("issued to what is no claim of this partner in time: {coupon:?}"),
            );
        }
        let refused: Vec<(ClaimKey, Outcome)> = self
            .records
            .iter()
            .filter(|((partner, of, user, _), _)| {
                (partner, of, user) == (&coupon.partner_id, &coupon.campaign_id, &coupon.user_id)
            })
            .flat_map(|(key, record)| record.given.iter().map(move |given| (key, record, given)))
            .filter(|(other, record, given)| {
                let binds = !given.by_time || **other == key && !is_of_another_time(record, given);
                is_refusal(given.outcome) && binds
            })
            .map(|(key, _, given)| (key, given))
            .map(|(key, given)| (key.clone(), given.outcome))
            .collect();
        for (other, given) in refused {
            self.violate(
                if other == key { "I5" } else { "I4" },
                format!(
                    "issued to {} after its claim {} read {given:?}",
                    other.2, other.3
                ),
            );
        }
    }

    /// An answer is given.
    pub(crate) fn answered(&mut self, tables: &Tables, answer: &Answer) {
        let (partner, id, user, claim_id) = &answer.key;
        let own = tables
            .offers
            .get(id)
            .filter(|offer| partner_of(offer) == Some(partner));
        let who = format!(
            "{user}'s {claim_id}: {:?} by {:?}",
            answer.outcome, answer.place
        );
        let Some(offer) = own else {
            if answer.outcome != Outcome::UnknownCampaign {
                self.violate(
                    "I2",
                    format!("a campaign of another partner or none, {who}"),
                );
            }
            return;
        };
        let Some(campaign) = offer.record.truth.clone() else {
            return;
        };
        let coupon_key: CouponKey = (partner.clone(), user.clone(), id.clone());
        let item = tables.coupons.get(&coupon_key);
        let standing = item.and_then(|item| item.truth.as_ref());
        let is_unstorable = tables.unstorable.contains(user);
        let by_time = self.time_says(&answer.key, &campaign, answer.place, answer.outcome);
        let is_early_frame =
            answer.place != Place::Worker && answer.outcome == Outcome::NotOpen && by_time;
        if is_early_frame && answer.is_frame {
            return;
        }
        match answer.outcome {
            Outcome::Issued | Outcome::AlreadyIssued => {
                let expected = standing.map(|coupon| {
                    let is_own = coupon.claim_id == *claim_id;
                    let outcome = if is_own {
                        Outcome::Issued
                    } else {
                        Outcome::AlreadyIssued
                    };
                    (outcome, Some(coupon.code.clone()))
                });
                if expected.as_ref() != Some(&(answer.outcome, answer.code.clone())) {
                    self.violate("I6", format!("{who}, but there stands {standing:?}"));
                }
            }
            Outcome::UnknownCampaign => self.violate("I3", format!("the campaign exists, {who}")),
            _ if standing.is_some() => {
                let knew =
                    item.is_some_and(|item| item.seen.is_some() && item.seen_at < answer.began);
                if knew || !by_time {
                    self.violate("I5", format!("{who}, but there stands {standing:?}"));
                }
            }
            Outcome::SoldOut if !offer.is_empty() => {
                let left: Vec<i64> = offer.counters().map(|counter| counter.remaining).collect();
                self.violate("I4", format!("{who}, but there is left {left:?}"));
            }
            Outcome::Closed if !by_time && offer.can_issue() => {
                self.violate("I3", format!("{who}, but a shard can still issue"));
            }
            Outcome::Closed if !by_time && offer.is_empty() => {
                self.violate("I5", format!("{who}, but everything has gone"));
            }
            Outcome::Closed if !by_time && answer.place != Place::Worker && !offer.is_closed() => {
                self.violate("I3", format!("{who}, but the record is not closed"));
            }
            Outcome::NotOpen if !by_time => {
                self.violate(
                    "I3",
                    format!("{who}, but its time is not before the opening"),
                );
            }
            Outcome::Rejected if !by_time && !is_unstorable => {
                self.violate("I3", format!("{who}, without a reason"));
            }
            _ => {}
        }
        // A door's `not_open` refuses the frame, not the claim: it is no answer to hold others against. But a campaign that is
        // closed is not one that has yet to open, and `result` reads the record afresh.
        if is_early_frame {
            let record = &offer.record;
            if offer.is_closed() && record.seen_at < answer.began {
                self.violate("I3", format!("{who}, but the campaign is closed"));
            }
            return;
        }
        self.remember(answer, by_time, is_unstorable);
    }

    /// I5: the answer against every earlier one to the same claim.
    fn remember(&mut self, answer: &Answer, by_time: bool, is_unstorable: bool) {
        let is_door = answer.place != Place::Worker;
        let record = self.records.entry(answer.key.clone()).or_default();
        let by_the_clock = is_door && answer.outcome == Outcome::Closed && by_time;
        if by_the_clock && Known::DoorClock.is_excused(self.looked_for) {
            return;
        }
        let ignorance = Known::DoorBlind.is_excused(self.looked_for);
        let later = Given {
            outcome: answer.outcome,
            by_door: is_door,
            by_time,
        };
        let changed = record.given.iter().find(|earlier| {
            let is_blind = ignorance
                && is_refusal(earlier.outcome)
                && is_refusal(later.outcome)
                && ((earlier.by_door && later.by_time) || (later.by_door && earlier.by_time));
            let another_time =
                is_of_another_time(record, earlier) || is_of_another_time(record, &later);
            !is_blind && !another_time && !may_follow(**earlier, later, is_unstorable)
        });
        if let Some(Given {
            outcome: earlier, ..
        }) = changed
        {
            let text = format!(
                "{}'s {} read {earlier:?}, and then {:?} by {:?}",
                answer.key.2, answer.key.3, answer.outcome, answer.place
            );
            return self.violate("I5", text);
        }
        record.given.push(later);
    }

    /// Whether the claim's own time, or at a door the frame's, gives this refusal.
    fn time_says(
        &self,
        key: &ClaimKey,
        campaign: &Campaign,
        place: Place,
        outcome: Outcome,
    ) -> bool {
        let own = self
            .records
            .get(key)
            .is_some_and(|record| own_time_says(record, campaign, outcome));
        match place {
            Place::Door(asked, answered) => {
                // A door may not know yet that the campaign was closed before it opened.
                let unclosed = Campaign {
                    closed_at: None,
                    ..campaign.clone()
                };
                let says = |campaign: &Campaign| {
                    let mut times = [asked, answered].into_iter();
                    times.any(|now| campaign.refusal_at(now) == Some(outcome))
                };
                own || says(campaign) || says(&unclosed)
            }
            Place::Worker => own,
        }
    }

    /// A durable answer is on its way to this socket.
    pub(crate) fn addressed(&mut self, key: &ClaimKey, socket: &ConnectionId) {
        let record = self.records.entry(key.clone()).or_default();
        record.addressed.push(socket.clone());
    }

    /// A socket has an answer. It must have been durable before.
    pub(crate) fn reached(&mut self, key: &ClaimKey, socket: &ConnectionId) {
        let record = self.records.entry(key.clone()).or_default();
        if !record.addressed.contains(socket) {
            let text = format!("{}'s {} was never durable", key.2, key.3);
            return self.violate("I6", text);
        }
        record.reached.push(socket.clone());
    }

    /// A door let somebody at a campaign: to claim it, to ask for it or to hear of it.
    pub(crate) fn let_in(&mut self, tables: &Tables, partner: &PartnerId, id: &CampaignId) {
        if tables.offers.get(id).and_then(partner_of) != Some(partner) {
            self.violate("I2", format!("a door let {partner} at {id}"));
        }
    }

    /// A door said that a claim is undecided. A coupon that could be seen before it was asked must be found.
    pub(crate) fn undecided(&mut self, tables: &Tables, key: &ClaimKey, began: u64) {
        let (partner, id, user, _) = key;
        let item = tables
            .coupons
            .get(&(partner.clone(), user.clone(), id.clone()));
        if item.is_some_and(|item| item.seen.is_some() && item.seen_at < began) {
            self.violate(
                "I6",
                format!("{user} asked again, and the coupon was not found"),
            );
        }
    }

    /// A worker's message is deleted: by then its claim must be decided, and its answer durable.
    pub(crate) fn acknowledged(&mut self, tables: &Tables, queued: &Queued) {
        let (.., user, claim_id) = &queued.key;
        if !is_decided(tables, queued) {
            self.violate(
                "I3",
                format!("{user}'s {claim_id} was acknowledged undecided"),
            );
        }
        let Some(socket) = &queued.connection_id else {
            return;
        };
        let record = self.records.get(&queued.key);
        if !record.is_some_and(|record| record.addressed.contains(socket)) {
            self.violate(
                "I6",
                format!("{user}'s {claim_id} was acknowledged unanswered"),
            );
        }
    }

    /// The mark that every shard is empty is set.
    pub(crate) fn marked_sold(&mut self, tables: &Tables, id: &CampaignId) {
        if !tables.offers.get(id).is_some_and(Offer::is_empty) {
            self.violate(
                "I4",
                format!("{id} was marked sold out while stock remains"),
            );
        }
    }

    /// The record is closed: by now no shard may be able to issue, and what has sold out must be marked as that.
    pub(crate) fn record_closed(&mut self, tables: &Tables, id: &CampaignId) {
        let Some(offer) = tables.offers.get(id) else {
            return;
        };
        let unfrozen = offer.counters().any(|counter| counter.closed_at.is_none());
        if unfrozen {
            self.violate("closing", format!("{id} was closed before all its shards"));
        }
        if offer.is_empty() && !offer.sold {
            self.violate("closing", format!("{id} sold out and was closed unmarked"));
        }
    }

    /// A partner is answered that the campaign is closed. Every answer gives the same time.
    pub(crate) fn closing_answered(&mut self, tables: &Tables, id: &CampaignId, at: Timestamp) {
        let record = tables.offers.get(id).and_then(|o| o.record.truth.as_ref());
        if record.and_then(|campaign| campaign.closed_at) != Some(at) {
            self.violate("closing", format!("{id} was answered as closed at {at}"));
        }
        let first = *self.closings.entry(id.clone()).or_insert(at);
        if first != at {
            self.violate("closing", format!("{id} closed at {first}, and at {at}"));
        }
    }

    /// A closing must be answered within this many milliseconds.
    pub(crate) fn closing_took(&mut self, id: &CampaignId, millis: u64, most: u64) {
        if millis > most {
            self.violate("closing", format!("that of {id} took {millis} ms"));
        }
    }

    /// A socket is told that all has gone.
    pub(crate) fn told_sold_out(&mut self, tables: &Tables, id: &CampaignId) {
        if !tables.offers.get(id).is_some_and(Offer::is_empty) {
            self.violate(
                "I4",
                format!("{id} was announced sold out while stock remains"),
            );
        }
    }

    /// A socket is told the stock.
    pub(crate) fn told_stock(
        &mut self,
        tables: &Tables,
        id: &CampaignId,
        issued: u32,
        remaining: u32,
    ) {
        let Some(offer) = tables.offers.get(id) else {
            return self.violate("I4", "the stock of no campaign was told".into());
        };
        let total = offer.record.truth.as_ref().map(|campaign| campaign.total);
        let truth: i64 = offer.counters().map(|counter| counter.issued).sum();
        if total != Some(issued + remaining) || i64::from(issued) > truth {
            let text = format!("told {issued} + {remaining} of {total:?}, issued are {truth}");
            self.violate("I4", text);
        }
    }

    /// A refresher's audit found counters that do not add up.
    pub(crate) fn drifted(&mut self, campaigns: usize) {
        if campaigns > 0 {
            self.violate("I4", format!("the audit found drift in {campaigns}"));
        }
    }

    /// Something that must come to an end has not.
    pub(crate) fn stuck(&mut self, text: String) {
        self.violate("liveness", text);
    }

    /// Everything at rest: all is visible, adds up, and everybody who waits on an open socket has an answer.
    pub(crate) fn at_rest(&mut self, tables: &Tables) {
        let ids: Vec<CampaignId> = tables.offers.keys().cloned().collect();
        for id in ids {
            self.check_sum(tables, &id);
        }
        if tables.is_moving() {
            self.stuck("a transaction is still under way".into());
        }
        let mut offers = tables.offers.iter();
        if let Some((id, _)) = offers.find(|(_, offer)| offer.is_half_closed()) {
            self.stuck(format!("the closing of {id} was never finished"));
        }
        let waiting = self.records.iter().find_map(|(key, record)| {
            let missing = record.addressed.iter().find(|socket| {
                !record.reached.contains(socket) && !self.closed_sockets.contains(socket)
            });
            missing.map(|socket| format!("{}'s {} never reached {socket}", key.2, key.3))
        });
        if let Some(text) = waiting {
            self.stuck(text);
        }
    }

    /// A claim reads undecided at rest: then nothing that lasts may have been said to it before. A refusal by time and
    /// that of a claim no store can hold leave no trace.
    pub(crate) fn forgotten(&mut self, key: &ClaimKey) {
        let lasting = self.records.get(key).and_then(|record| {
            let mut given = record.given.iter();
            given.find(|given| !given.by_time && given.outcome != Outcome::Rejected)
        });
        if let Some(Given { outcome, .. }) = lasting {
            let text = format!(
                "{}'s {} read {outcome:?}, and at rest undecided",
                key.2, key.3
            );
            self.violate("I6", text);
        }
    }
}

/// Whether one of the claim's own times gives this refusal.
fn own_time_says(record: &Record, campaign: &Campaign, outcome: Outcome) -> bool {
    record.times.iter().any(|(at, from_the_future)| {
        if *from_the_future {
            outcome == Outcome::Rejected
        } else {
            campaign.refusal_at(*at) == Some(outcome)
        }
    })
}

/// Whether this is a `not_open` that holds for one of the times at which the claim was sent, and not for another. A door whose
/// clock is fast takes a frame before the opening: the worker refuses it by the queue's time, and the same claim, sent again
/// after the opening, is judged by its later time.
fn is_of_another_time(record: &Record, given: &Given) -> bool {
    let first = record.times.first();
    let several = record.times.iter().any(|time| Some(time) != first);
    given.by_time && given.outcome == Outcome::NotOpen && several
}

/// Whether one answer may follow another to the same claim. The same one may. A claim refused by its own time holds
/// nobody off: its user's coupon from another claim outranks the refusal once it stands, and a slow worker that could not
/// see it yet may be late with the refusal. A claim that can never be stored is refused for whichever reason is met first.
fn may_follow(earlier: Given, later: Given, is_unstorable: bool) -> bool {
    let overtaken = (earlier.by_time && later.outcome == Outcome::AlreadyIssued)
        || (later.by_time && earlier.outcome == Outcome::AlreadyIssued);
    let refused_anyhow = is_unstorable && is_refusal(earlier.outcome) && is_refusal(later.outcome);
    earlier.outcome == later.outcome || overtaken || refused_anyhow
}

fn is_refusal(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Issued | Outcome::AlreadyIssued)
}

/// Whether the claim's answer is stored or follows from facts that never revert.
fn is_decided(tables: &Tables, queued: &Queued) -> bool {
    let (partner, id, user, _) = &queued.key;
    let Some(offer) = tables.offers.get(id) else {
        return true;
    };
    let Some(campaign) = &offer.record.truth else {
        return true;
    };
    let coupon = tables
        .coupons
        .get(&(partner.clone(), user.clone(), id.clone()));
    campaign.partner_id != *partner
        || coupon.is_some_and(|item| item.truth.is_some())
        || queued.is_from_the_future
        || campaign.refusal_at(queued.own_time).is_some()
        || !offer.can_issue()
        || tables.unstorable.contains(user)
}
