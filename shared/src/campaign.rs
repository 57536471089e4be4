//! A campaign: who offers how many coupons, when. Rules only; where it is stored is a port's business.

use serde::{Deserialize, Serialize};

use crate::{
    Benefit, CampaignId, InvalidValue, Outcome, PartnerId, RETENTION_SECONDS, Timestamp,
    whole::{optional_whole, whole},
};

/// A campaign's stock is spread over at most this many counters, so that its creation, with the record and two
/// index items, fits one transaction of 100 items.
pub const MAX_SHARDS: u16 = 64;

/// Coupons per stock shard before another one is added: as many as one full transaction takes, so that full batches cost no transaction
/// more than without shards. Batches of ten, the default, need the shards: a counter is written by one transaction at a time, some
/// ten a second under load, so one shard sells about a hundred coupons a second in transactions of ten.
pub const COUPONS_PER_SHARD: u32 = crate::MAX_CHUNK as u32;

/// The most coupons one campaign can have.
pub const MAX_TOTAL: u32 = 10_000_000;

/// How long a campaign stays open if its creator names no end: 30 days, in seconds.
pub const DEFAULT_WINDOW_SECONDS: i64 = 30 * 86_400;

/// How long a coupon can be used if its campaign does not say: 30 days, in seconds.
pub const DEFAULT_COUPON_TTL_SECONDS: u32 = 30 * 86_400;

/// The longest life of a coupon: 5 years, in seconds.
pub const MAX_COUPON_TTL_SECONDS: u32 = 5 * 365 * 86_400;

/// An offer of `total` coupons, first come, first served. Immutable once stored, except for `closing_at` and `closed_at`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Campaign {
    /// The campaign's id, a ULID.
    pub campaign_id: CampaignId,
    /// The partner it belongs to; only that partner's users can claim.
    pub partner_id: PartnerId,
    /// What people read, at most 128 characters.
    pub title: String,
    /// How many coupons there are.
    pub total: u32,
    /// The first instant at which a claim counts.
    pub opens_at: Timestamp,
    /// The first instant at which a claim no longer counts.
    pub closes_at: Timestamp,
    /// How long a coupon can be used, in seconds from its issue.
    pub coupon_ttl_seconds: u32,
    /// What the coupon gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub benefit: Option<Benefit>,
    /// Over how many counters the stock is spread.
    pub shards: u16,
    /// Whether its claims wait in a queue of their own, with workers of their own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub priority: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When somebody began to close it early; set once. No verdict follows from it: it only makes an unfinished closing known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing_at: Option<Timestamp>,
    /// When it was closed early, every stock shard having been frozen; set once, never taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
}

/// Where a campaign is in its life, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Phase {
    /// Claims do not count yet.
    Scheduled,
    /// Claims count.
    Open,
    /// Every coupon has gone.
    SoldOut,
    /// Claims no longer count.
    Closed,
}

/// What a partner sends to create a campaign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewCampaign {
    /// What people read.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 128)))]
    pub title: String,
    /// How many coupons there are.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MAX_TOTAL)))]
    #[serde(deserialize_with = "whole")]
    pub total: u32,
    /// The first instant at which a claim counts. Default: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<Timestamp>,
    /// The first instant at which a claim no longer counts: later than the opening and than now. Default: 30 days after the
    /// opening.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<Timestamp>,
    /// How long a coupon can be used, in seconds from its issue. Default: 30 days.
    #[serde(
        default,
        deserialize_with = "optional_whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MAX_COUPON_TTL_SECONDS)))]
    pub coupon_ttl_seconds: Option<u32>,
    /// What a coupon gives: any JSON of at most 256 bytes and 16 levels, each member given once. It comes back as it was sent,
    /// without white space. `{"type": "points", "amount": n}` (n from 1 to 1000000000000) is credited to the holder's wallet
    /// when the coupon is redeemed.
    #[serde(
        default,
        deserialize_with = "Benefit::from_json",
        serialize_with = "Benefit::to_json",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<serde_json::Value>"))]
    pub benefit: Option<Benefit>,
    /// Over how many counters the stock is spread, for who expects another rush than the total suggests. Default: one per
    /// 1,000 coupons.
    #[serde(
        default,
        deserialize_with = "optional_whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MAX_SHARDS)))]
    pub shards: Option<u16>,
    /// Whether its claims wait in a queue of their own, with a few workers of their own, beside what all other campaigns
    /// share. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<bool>,
}

impl NewCampaign {
    /// Judges what does not depend on the time of day.
    ///
    /// # Errors
    /// [`InvalidValue`] that names the first field out of its bounds.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let require = |holds: bool, field, expected| {
            holds.then_some(()).ok_or(InvalidValue { field, expected })
        };
        require(
            (1..=128).contains(&self.title.chars().count()),
            "title",
            "1 to 128 characters",
        )?;
        require(
            (1..=MAX_TOTAL).contains(&self.total),
            "total",
            "1 to 10000000",
        )?;
        if let (Some(opens_at), Some(closes_at)) = (self.opens_at, self.closes_at) {
            require(opens_at < closes_at, "closesAt", "later than opensAt")?;
        }
        require(
            self.coupon_ttl_seconds
                .is_none_or(|ttl| (1..=MAX_COUPON_TTL_SECONDS).contains(&ttl)),
            "couponTtlSeconds",
            "1 to 157680000 seconds (5 years)",
        )?;
        if let Some(benefit) = &self.benefit {
            benefit.points()?;
        }
        require(
            self.shards
                .is_none_or(|shards| (1..=MAX_SHARDS).contains(&shards)),
            "shards",
            "1 to 64",
        )
    }

    /// Makes the campaign, with defaults filled in.
    ///
    /// # Errors
    /// [`InvalidValue`] that names the first field out of its bounds; what [`Self::validate`] admits is refused for the
    /// time of day only.
    pub fn into_campaign(
        self,
        campaign_id: CampaignId,
        partner_id: PartnerId,
        now: Timestamp,
    ) -> Result<Campaign, InvalidValue> {
        self.validate()?;
        let opens_at = self.opens_at.unwrap_or(now);
        let closes_at = self
            .closes_at
            .unwrap_or(opens_at.plus_seconds(DEFAULT_WINDOW_SECONDS));
        let invalid = |expected| InvalidValue {
            field: "closesAt",
            expected,
        };
        if closes_at <= opens_at {
            return Err(invalid("later than opensAt"));
        }
        if closes_at <= now {
            return Err(invalid("in the future"));
        }
        Ok(Campaign {
            campaign_id,
            partner_id,
            title: self.title,
            total: self.total,
            opens_at,
            closes_at,
            coupon_ttl_seconds: self
                .coupon_ttl_seconds
                .unwrap_or(DEFAULT_COUPON_TTL_SECONDS),
            benefit: self.benefit,
            shards: self.shards.unwrap_or_else(|| shards_for(self.total)),
            priority: self.priority.unwrap_or_default(),
            created_at: now,
            closing_at: None,
            closed_at: None,
        })
    }
}

/// Over how many counters a stock of `total` is spread: one per [`COUPONS_PER_SHARD`], at most [`MAX_SHARDS`].
pub fn shards_for(total: u32) -> u16 {
    let wanted = total
        .div_ceil(COUPONS_PER_SHARD)
        .clamp(1, u32::from(MAX_SHARDS));
    u16::try_from(wanted).unwrap_or(MAX_SHARDS)
}

impl Campaign {
    /// What each shard starts with; the parts differ by at most one and add up to `total`.
    pub fn quotas(&self) -> impl Iterator<Item = (u16, u32)> + use<> {
        let shards = u32::from(self.shards.max(1));
        let (base, extra) = (self.total / shards, self.total % shards);
        (0..self.shards.max(1))
            .map(move |shard| (shard, base + u32::from(u32::from(shard) < extra)))
    }

    /// Where the campaign is at `now`, given whether every shard was proved empty.
    pub fn phase(&self, now: Timestamp, sold_out: bool) -> Phase {
        match self.refusal_at(now) {
            _ if self.closed_at.is_some() => Phase::Closed,
            Some(Outcome::NotOpen) => Phase::Scheduled,
            Some(_) => Phase::Closed,
            None if sold_out => Phase::SoldOut,
            None => Phase::Open,
        }
    }

    /// What the time of a claim says against it, if that was made at `at`: `not_open`, `closed`, or nothing.
    ///
    /// A campaign that was closed before it opened will never open: whoever claims after the closing reads `closed`. Whoever
    /// claimed before it was told `not_open` then, and is told the same for ever.
    pub fn refusal_at(&self, at: Timestamp) -> Option<Outcome> {
        if self.closed_at.is_some_and(|closed| closed <= at) && at < self.opens_at {
            Some(Outcome::Closed)
        } else if at < self.opens_at {
            Some(Outcome::NotOpen)
        } else if at >= self.closes_at {
            Some(Outcome::Closed)
        } else {
            None
        }
    }

    /// What stands against a claim that comes through a door at `now`, given whether every shard was proved empty.
    /// The sold mark is judged before the end, so that whoever was told `sold_out` before it is told the same after it. A closed
    /// campaign is never `not_open`, whatever the door's clock shows: its record is only closed when nothing can be issued any more.
    pub fn refusal(&self, sold_out: bool, now: Timestamp) -> Option<Outcome> {
        let closed = self.closed_at.map(|_| Outcome::Closed);
        match closed.or_else(|| self.refusal_at(now)) {
            Some(Outcome::NotOpen) => Some(Outcome::NotOpen),
            _ if sold_out => Some(Outcome::SoldOut),
            refusal => refusal,
        }
    }

    /// Whether an early closing was begun and the record does not show its end. What the time says of claims before the opening
    /// is not known until then.
    pub fn is_being_closed(&self) -> bool {
        self.closing_at.is_some() && self.closed_at.is_none()
    }

    /// When the last of its coupons may be forgotten, had it been issued at the very end.
    pub fn forgotten_at(&self) -> Timestamp {
        self.closes_at
            .plus_seconds(i64::from(self.coupon_ttl_seconds) + RETENTION_SECONDS)
    }

    /// When its claims ended or will end.
    pub fn ends_at(&self) -> Timestamp {
        self.closed_at
            .map_or(self.closes_at, |closed| closed.min(self.closes_at))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn campaign(total: u32) -> Campaign {
        let new = NewCampaign {
            title: "t".into(),
            total,
            opens_at: None,
            closes_at: None,
            coupon_ttl_seconds: None,
            benefit: None,
            shards: None,
            priority: None,
        };
        let now = Timestamp::from_millis(1_790_000_000_000);
        new.into_campaign(CampaignId::mint(now, 1), PartnerId::new("p").unwrap(), now)
            .unwrap()
    }

    #[test]
    fn quotas_add_up_to_the_total() {
        for total in [
            1, 2, 63, 64, 999, 1000, 1001, 63_999, 64_000, 100_003, MAX_TOTAL,
        ] {
            let campaign = campaign(total);
            let quotas: Vec<u32> = campaign.quotas().map(|(_, quota)| quota).collect();
            assert_eq!(quotas.iter().sum::<u32>(), total);
            assert_eq!(quotas.len(), usize::from(campaign.shards));
            assert!(
                quotas.iter().all(|quota| *quota > 0),
                "no shard starts empty"
            );
            assert!(quotas.iter().max().unwrap() - quotas.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn the_window_takes_its_first_instant_and_not_its_last() {
        let campaign = campaign(1);
        let before = Timestamp::from_millis(campaign.opens_at.millis() - 1);
        assert_eq!(campaign.refusal_at(before), Some(Outcome::NotOpen));
        assert_eq!(campaign.refusal_at(campaign.opens_at), None);
        let last = Timestamp::from_millis(campaign.closes_at.millis() - 1);
        assert_eq!(campaign.refusal_at(last), None);
        assert_eq!(
            campaign.refusal_at(campaign.closes_at),
            Some(Outcome::Closed)
        );
    }

    /// The field that is named, if any, where these are sent at `1970-01-01T00:00:01Z`.
    fn refused(fields: serde_json::Value) -> Option<&'static str> {
        let mut body = json!({"title": "t", "total": 1});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        let new: NewCampaign = serde_json::from_value(body).unwrap();
        let (now, partner) = (Timestamp::from_millis(1000), PartnerId::new("p").unwrap());
        let made = new.into_campaign(CampaignId::mint(now, 1), partner, now);
        made.err().map(|error| error.field)
    }

    #[test]
    fn a_field_out_of_bounds_is_named() {
        for (name, least, most) in [
            ("total", 1, 10_000_000),
            ("shards", 1, 64),
            ("couponTtlSeconds", 1, 5 * 31_536_000),
        ] {
            let with = |value: u32| refused(json!({ name: value }));
            assert_eq!((with(least), with(most)), (None, None), "{name}");
            let beyond = (with(least - 1), with(most + 1));
            assert_eq!(beyond, (Some(name), Some(name)));
        }
        let title = |length| refused(json!({"title": "쿠".repeat(length)}));
        assert_eq!([title(1), title(128)], [None, None]);
        assert_eq!([title(0), title(129)], [Some("title"); 2]);
        let points = |amount| refused(json!({"benefit": {"type": "points", "amount": amount}}));
        assert_eq!([points(1), points(0)], [None, Some("benefit")]);
    }

    #[test]
    fn a_window_ends_after_it_begins_and_after_this_moment() {
        let window = |opens: &str, closes: &str| {
            let at = |time: &str| format!("1970-01-01T00:00:{time}Z");
            refused(json!({"opensAt": at(opens), "closesAt": at(closes)}))
        };
        assert_eq!(window("05", "05.001"), None);
        assert_eq!(window("05", "05"), Some("closesAt"));
        assert_eq!(window("05", "04"), Some("closesAt"));
        assert_eq!(window("00", "01.001"), None, "opened in the past");
        assert_eq!(window("00", "01"), Some("closesAt"));
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let open = campaign(1);
        let days = open.closes_at.millis_since(open.opens_at) / 86_400_000;
        assert_eq!((days, open.coupon_ttl_seconds), (30, 2_592_000));
        assert_eq!((open.opens_at, open.priority), (open.created_at, false));
        let shards = [1, 99, 100, 1000, 64_000, MAX_TOTAL].map(shards_for);
        assert_eq!(shards, [1, 1, 2, 11, 64, 64]);
    }

    #[test]
    fn a_campaign_is_scheduled_then_open_until_it_is_sold_out_or_over() {
        let campaign = campaign(1);
        let before = Timestamp::from_millis(campaign.opens_at.millis() - 1);
        let at = |now, sold| (campaign.phase(now, sold), campaign.refusal(sold, now));
        let not_open = Some(Outcome::NotOpen);
        assert_eq!(at(before, false), (Phase::Scheduled, not_open));
        assert_eq!(at(before, true), (Phase::Scheduled, not_open));
        assert_eq!(at(campaign.opens_at, false), (Phase::Open, None));
        let sold_out = Some(Outcome::SoldOut);
        assert_eq!(at(campaign.opens_at, true), (Phase::SoldOut, sold_out));
        let closed = Some(Outcome::Closed);
        assert_eq!(at(campaign.closes_at, false), (Phase::Closed, closed));
        assert_eq!(at(campaign.closes_at, true), (Phase::Closed, sold_out));
        assert_eq!(campaign.ends_at(), campaign.closes_at);
        let days = campaign.forgotten_at().millis_since(campaign.closes_at) / 86_400_000;
        assert_eq!(days, 30 + 90);
    }

    #[test]
    fn a_campaign_closed_before_it_opened_is_closed_to_whoever_comes_after() {
        let mut campaign = campaign(1);
        campaign.opens_at = campaign.created_at.plus_seconds(3600);
        let closed_at = campaign.created_at.plus_seconds(60);
        campaign.closed_at = Some(closed_at);
        let before = Timestamp::from_millis(closed_at.millis() - 1);
        // A claim by its own time: what was told before the closing is told again.
        assert_eq!(campaign.refusal_at(before), Some(Outcome::NotOpen));
        assert_eq!(campaign.refusal_at(closed_at), Some(Outcome::Closed));
        // A door, though its clock be slow.
        for now in [before, closed_at, campaign.opens_at] {
            assert_eq!(campaign.refusal(false, now), Some(Outcome::Closed));
            assert_eq!(campaign.phase(now, false), Phase::Closed);
        }
        // One closed while it was open says what it did of claims before its opening.
        campaign.closed_at = Some(campaign.opens_at.plus_seconds(1));
        assert_eq!(campaign.refusal_at(before), Some(Outcome::NotOpen));
        assert_eq!(campaign.refusal_at(campaign.opens_at), None);
        let late = campaign.opens_at.plus_seconds(2);
        assert_eq!(campaign.refusal(true, late), Some(Outcome::SoldOut));
    }

    #[test]
    fn a_campaign_may_have_more_shards_than_coupons() {
        let mut campaign = campaign(3);
        campaign.shards = 64;
        let quotas: Vec<u32> = campaign.quotas().map(|(_, quota)| quota).collect();
        assert_eq!((quotas.len(), quotas.iter().sum::<u32>()), (64, 3));
    }

    #[test]
    fn closing_early_outranks_every_other_phase() {
        let mut campaign = campaign(1);
        campaign.closed_at = Some(campaign.opens_at);
        assert_eq!(campaign.phase(campaign.opens_at, true), Phase::Closed);
        assert_eq!(
            campaign.phase(Timestamp::from_millis(0), false),
            Phase::Closed
        );
    }
}
