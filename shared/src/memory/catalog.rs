//! What partners manage and read, in memory, over the ledger of the same tests.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::MemoryLedger;
use crate::{
    BroadcastId, BroadcastReport, BroadcastReports, Campaign, CampaignCatalog, CampaignId,
    CampaignRecords, Coupon, Creation, IDEMPOTENCY_SECONDS, Idempotency, KeyRecord, KeyStore,
    Opening, Page, PageCounts, PartnerId, PortError, REPORT_SECONDS, ReportRecord, StandingCoupons,
    Timestamp, UserCoupons, UserId,
};

/// A request as it is recognized again: whose, and by which key.
type Request = (PartnerId, String);

/// What a request made, by the hash of what it asked for, and when that is forgotten.
type Made<T> = (T, String, Timestamp);

/// What the key made before, if it still counts at `now`: `Err` if that was of another request.
fn made_before<T: Clone>(
    requests: &HashMap<Request, Made<T>>,
    partner: &PartnerId,
    idempotency: &Idempotency,
    now: Timestamp,
) -> Option<Result<T, ()>> {
    let request = (partner.clone(), idempotency.key_sha256.clone());
    let (made, body, end) = requests.get(&request)?;
    // In whole seconds, as DynamoDB's TTL.
    (now.epoch_seconds() < end.epoch_seconds()).then(|| {
        let same = *body == idempotency.body_sha256;
        same.then(|| made.clone()).ok_or(())
    })
}

#[derive(Debug, Default)]
struct State {
    index: BTreeSet<(PartnerId, CampaignId)>,
    requests: HashMap<Request, Made<CampaignId>>,
    broadcasts: HashMap<Request, Made<BroadcastId>>,
    reports: HashMap<BroadcastId, (ReportRecord, Vec<PageCounts>)>,
    keys: HashMap<String, KeyRecord>,
    key_reads: usize,
    failing: bool,
}

/// Campaigns, reports and keys in memory; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryCatalog {
    ledger: MemoryLedger,
    state: Arc<Mutex<State>>,
}

impl MemoryCatalog {
    /// A catalog whose campaigns are issued from this ledger.
    pub fn over(ledger: &MemoryLedger) -> Self {
        Self {
            ledger: ledger.clone(),
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, operation: &'static str) -> Result<(), PortError> {
        if self.state().failing {
            Err(PortError::retry(operation, "told to fail"))
        } else {
            Ok(())
        }
    }

    /// From now on (or no more) every call fails.
    pub fn fail(&self, failing: bool) {
        self.state().failing = failing;
    }

    /// Stores a campaign with its whole stock.
    pub fn add(&self, campaign: &Campaign) {
        self.ledger.add(campaign);
        self.state()
            .index
            .insert((campaign.partner_id.clone(), campaign.campaign_id.clone()));
    }

    /// Stores an API key.
    pub fn add_key(&self, key_id: &str, record: KeyRecord) {
        self.state().keys.insert(key_id.into(), record);
    }

    /// How often a key was read.
    pub fn key_reads(&self) -> usize {
        self.state().key_reads
    }

    /// Records an announcement's progress, as the function `broadcast` does.
    pub fn progress(&self, id: &BroadcastId, fanned_out: bool, pages: Vec<PageCounts>) {
        if let Some((record, standing)) = self.state().reports.get_mut(id) {
            record.fanned_out = fanned_out;
            *standing = pages;
        }
    }

    /// The partner's campaigns behind `after`, newest first.
    fn behind(&self, partner: &PartnerId, after: Option<&CampaignId>) -> Vec<CampaignId> {
        let state = self.state();
        let theirs = state
            .index
            .iter()
            .rev()
            .filter(|(of, _)| of == partner)
            .map(|(_, id)| id);
        theirs
            .filter(|id| after.is_none_or(|after| *id < after))
            .cloned()
            .collect()
    }
}

impl CampaignCatalog for MemoryCatalog {
    async fn create(
        &self,
        campaign: &Campaign,
        idempotency: Option<&Idempotency>,
    ) -> Result<Creation, PortError> {
        self.check("create the campaign")?;
        if let Some(idempotency) = idempotency {
            let (partner, now) = (&campaign.partner_id, campaign.created_at);
            if let Some(creation) = self.recall(partner, idempotency, now).await? {
                return Ok(creation);
            }
            let request = (partner.clone(), idempotency.key_sha256.clone());
            let made = (
                campaign.campaign_id.clone(),
                idempotency.body_sha256.clone(),
                now.plus_seconds(IDEMPOTENCY_SECONDS),
            );
            self.state().requests.insert(request, made);
        }
        self.add(campaign);
        Ok(Creation::Created)
    }

    async fn recall(
        &self,
        partner: &PartnerId,
        idempotency: &Idempotency,
        now: Timestamp,
    ) -> Result<Option<Creation>, PortError> {
        self.check("recall the campaign's creation")?;
        let made = made_before(&self.state().requests, partner, idempotency, now);
        match made {
            None => Ok(None),
            Some(Err(())) => Ok(Some(Creation::Mismatch)),
            Some(Ok(id)) => Ok(self.ledger.find(&id).await?.map(Creation::Repeated)),
        }
    }

    async fn list(
        &self,
        partner: &PartnerId,
        after: Option<&CampaignId>,
        limit: u16,
    ) -> Result<Page<Campaign>, PortError> {
        self.check("list the campaigns")?;
        let mut items = Vec::new();
        for id in self.behind(partner, after) {
            items.extend(self.ledger.find(&id).await?);
        }
        Ok(page(items, limit, |campaign| &campaign.campaign_id))
    }
}

/// Cut to `limit`.
fn page<T>(mut items: Vec<T>, limit: u16, id: impl Fn(&T) -> &CampaignId) -> Page<T> {
    let more = items.len() > usize::from(limit);
    items.truncate(usize::from(limit));
    let last = items.last().filter(|_| more);
    let next = last.map(|item| id(item).clone());
    Page { items, next }
}

impl BroadcastReports for MemoryCatalog {
    async fn open(
        &self,
        id: &BroadcastId,
        record: &ReportRecord,
        idempotency: Option<&Idempotency>,
    ) -> Result<Opening, PortError> {
        self.check("open the report")?;
        let mut state = self.state();
        let mut id = id.clone();
        if let Some(idempotency) = idempotency {
            let (partner, now) = (&record.partner_id, record.created_at);
            match made_before(&state.broadcasts, partner, idempotency, now) {
                Some(Ok(first)) => id = first,
                Some(Err(())) => return Ok(Opening::Mismatch),
                None => {
                    let request = (partner.clone(), idempotency.key_sha256.clone());
                    let end = now.plus_seconds(IDEMPOTENCY_SECONDS);
                    let made = (id.clone(), idempotency.body_sha256.clone(), end);
                    state.broadcasts.insert(request, made);
                }
            }
        }
        let standing = state
            .reports
            .entry(id.clone())
            .or_insert_with(|| (record.clone(), Vec::new()));
        Ok(Opening::Standing(id, standing.0.clone()))
    }

    async fn report(
        &self,
        id: &BroadcastId,
        now: Timestamp,
    ) -> Result<Option<BroadcastReport>, PortError> {
        self.check("read the report")?;
        // In whole seconds, as DynamoDB's TTL.
        let end = |record: &ReportRecord| record.created_at.plus_seconds(REPORT_SECONDS);
        let state = self.state();
        let standing = state.reports.get(id);
        let standing =
            standing.filter(|(record, _)| now.epoch_seconds() < end(record).epoch_seconds());
        Ok(standing.map(|(record, pages)| BroadcastReport::sum(record, pages)))
    }
}

impl UserCoupons for MemoryCatalog {
    async fn coupons_of(
        &self,
        partner: &PartnerId,
        user: &UserId,
        after: Option<&CampaignId>,
        limit: u16,
    ) -> Result<Page<Coupon>, PortError> {
        self.check("list the user's coupons")?;
        let mut items = Vec::new();
        for id in self.behind(partner, after) {
            items.extend(self.ledger.coupon(partner, user, &id).await?);
        }
        Ok(page(items, limit, |coupon| &coupon.campaign_id))
    }
}

impl KeyStore for MemoryCatalog {
    async fn key(&self, key_id: &str) -> Result<Option<KeyRecord>, PortError> {
        self.state().key_reads += 1;
        // Lets concurrent readers meet.
        tokio::task::yield_now().await;
        self.check("read the API key")?;
        Ok(self.state().keys.get(key_id).cloned())
    }
}
