//! What partners manage and read: their campaigns, the reports of their announcements, their users' coupons.
//! Ports and pure parts; claiming and issuing live elsewhere.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    AnnouncementKind, BroadcastId, Campaign, CampaignId, Coupon, InvalidValue, MEMBERSHIP_SHARDS,
    PartnerId, PortError, Timestamp, Topic, UserId,
};

/// How long an `Idempotency-Key` names its request, in seconds, whatever it is the request of. It is judged by the time of
/// the request at hand, to the second: that the store has not yet removed what it knew of the key means nothing.
pub const IDEMPOTENCY_SECONDS: i64 = 86_400;

/// How long an announcement's report can be read, in seconds (7 days).
pub const REPORT_SECONDS: i64 = 7 * 86_400;

/// SHA-256 in hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// One page of a longer list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Behind which campaign the next page starts; `None` after the last.
    pub next: Option<CampaignId>,
}

/// By what a repeated request is recognized. Neither the key nor the body itself is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// SHA-256 of the caller's key, in hex.
    pub key_sha256: String,
    /// SHA-256 of what is asked for, in hex: the body, and what of the path matters.
    pub body_sha256: String,
}

/// What became of a creation.
#[derive(Clone, Debug, PartialEq)]
pub enum Creation {
    /// The campaign stands now.
    Created,
    /// The same key and body made this campaign before.
    Repeated(Campaign),
    /// The same key came before, with another body.
    Mismatch,
}

/// Creates and lists a partner's campaigns.
pub trait CampaignCatalog {
    /// Stores the record, every stock shard and the index items, all or nothing. MUST NOT overwrite anything; within
    /// [`IDEMPOTENCY_SECONDS`] one key of one partner MUST make at most one campaign.
    fn create(
        &self,
        campaign: &Campaign,
        idempotency: Option<&Idempotency>,
    ) -> impl Future<Output = Result<Creation, PortError>> + Send;

    /// What an earlier creation with this key came to, as far as the key still counts at `now`; `None` if it is free. MUST
    /// see every creation that was answered before the call.
    fn recall(
        &self,
        partner: &PartnerId,
        idempotency: &Idempotency,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Creation>, PortError>> + Send;

    /// The partner's campaigns behind `after`, newest first, at most `limit` (up to 100).
    /// MUST see every write that was answered before the call.
    fn list(
        &self,
        partner: &PartnerId,
        after: Option<&CampaignId>,
        limit: u16,
    ) -> impl Future<Output = Result<Page<Campaign>, PortError>> + Send;
}

/// An announcement as first asked for: stored once, then only `fanned_out` changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportRecord {
    /// Whose announcement it is.
    pub partner_id: PartnerId,
    /// Who hears it.
    pub topic: Topic,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<AnnouncementKind>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Whether every page has been sent on its way.
    #[serde(default)]
    pub fanned_out: bool,
}

/// What became of an announcement that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// This record stands under this id, now or since the same was asked for with the same key.
    Standing(BroadcastId, ReportRecord),
    /// The key came before with something else.
    Mismatch,
}

/// How far one page of an announcement has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PageCounts {
    /// Sockets looked at: `sent + gone + failed`.
    pub seen: u64,
    /// Sockets told.
    pub sent: u64,
    /// Sockets found closed.
    pub gone: u64,
    /// Sockets that could not be told.
    pub failed: u64,
    /// Whether the page's last member was reached.
    pub done: bool,
    /// When its last member was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// Whether an announcement is still going out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum BroadcastStatus {
    /// Somebody may still be told.
    Running,
    /// Every page is done.
    Finished,
}

/// How an announcement has gone so far, summed over its pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the fields are the interface's, and those of PageCounts"
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BroadcastReport {
    #[serde(skip)]
    pub partner_id: PartnerId,
    pub status: BroadcastStatus,
    pub seen: u64,
    pub sent: u64,
    pub gone: u64,
    pub failed: u64,
    pub started_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

impl BroadcastReport {
    /// The sum. It is finished when every page was sent on its way and all of them are done.
    pub fn sum(record: &ReportRecord, pages: &[PageCounts]) -> Self {
        let all_done =
            pages.iter().filter(|page| page.done).count() >= usize::from(MEMBERSHIP_SHARDS);
        let finished = record.fanned_out && all_done;
        let total = |count: fn(&PageCounts) -> u64| pages.iter().map(count).sum();
        Self {
            partner_id: record.partner_id.clone(),
            status: if finished {
                BroadcastStatus::Finished
            } else {
                BroadcastStatus::Running
            },
            seen: total(|page| page.seen),
            sent: total(|page| page.sent),
            gone: total(|page| page.gone),
            failed: total(|page| page.failed),
            started_at: record.created_at,
            finished_at: pages
                .iter()
                .filter_map(|page| page.finished_at)
                .max()
                .filter(|_| finished),
        }
    }
}

/// Opens and reads the reports of announcements.
pub trait BroadcastReports {
    /// Stores the record if none stands under the id, and returns the one that stands. With a key that came before, within
    /// [`IDEMPOTENCY_SECONDS`] of the record's time, the id is the one that it came with first.
    fn open(
        &self,
        id: &BroadcastId,
        record: &ReportRecord,
        idempotency: Option<&Idempotency>,
    ) -> impl Future<Output = Result<Opening, PortError>> + Send;

    /// The report, `None` if there is none or it can no longer be read at `now` ([`REPORT_SECONDS`]), whether the store has
    /// removed it or not.
    fn report(
        &self,
        id: &BroadcastId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<BroadcastReport>, PortError>> + Send;
}

/// Lists users' coupons.
pub trait UserCoupons {
    /// The user's coupons behind `after`, newest campaign first, at most `limit`.
    /// MUST see every write that was answered before the call.
    fn coupons_of(
        &self,
        partner: &PartnerId,
        user: &UserId,
        after: Option<&CampaignId>,
        limit: u16,
    ) -> impl Future<Output = Result<Page<Coupon>, PortError>> + Send;
}

/// A caller's own name for a request, to be carried out once. Only its hash is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Takes the text if it is within its bounds.
    ///
    /// # Errors
    /// [`InvalidValue`] if it is not 1 to 255 visible ASCII characters.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidValue> {
        let text = text.into();
        let fits = (1..=255).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        let invalid = InvalidValue {
            field: "Idempotency-Key",
            expected: "1 to 255 visible ASCII characters",
        };
        fits.then_some(Self(text)).ok_or(invalid)
    }

    /// The key as text; not to be logged.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fanned_out: bool) -> ReportRecord {
        let partner = PartnerId::new("acme").unwrap();
        ReportRecord {
            topic: Topic::Partner(partner.clone()),
            partner_id: partner,
            kind: Some(AnnouncementKind::Message),
            created_at: Timestamp::EPOCH,
            fanned_out,
        }
    }

    fn page(done: bool, at: i64) -> PageCounts {
        let finished_at = done.then(|| Timestamp::from_millis(at));
        PageCounts {
            seen: 6,
            sent: 3,
            gone: 2,
            failed: 1,
            done,
            finished_at,
        }
    }

    #[test]
    fn a_report_is_finished_once_every_page_was_sent_and_is_done() {
        let mut pages: Vec<_> = (0..MEMBERSHIP_SHARDS)
            .map(|n| page(true, i64::from(n)))
            .collect();
        let report = BroadcastReport::sum(&record(true), &pages);
        assert_eq!(report.status, BroadcastStatus::Finished);
        assert_eq!(
            report.finished_at,
            Some(Timestamp::from_millis(i64::from(MEMBERSHIP_SHARDS) - 1))
        );
        assert_eq!(
            (report.seen, report.sent, report.gone, report.failed),
            (48, 24, 16, 8)
        );

        assert_eq!(
            BroadcastReport::sum(&record(false), &pages).status,
            BroadcastStatus::Running
        );
        pages[3] = page(false, 0);
        let report = BroadcastReport::sum(&record(true), &pages);
        assert_eq!(
            (report.status, report.finished_at),
            (BroadcastStatus::Running, None)
        );
        pages.remove(3);
        assert_eq!(
            BroadcastReport::sum(&record(true), &pages).status,
            BroadcastStatus::Running
        );
    }

    #[test]
    fn an_idempotency_key_is_visible_ascii() {
        assert!(IdempotencyKey::new("order-1 again").is_ok());
        assert!(IdempotencyKey::new("").is_err());
        assert!(IdempotencyKey::new("x".repeat(256)).is_err());
        assert!(IdempotencyKey::new("é").is_err());
    }
}
