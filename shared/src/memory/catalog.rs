//! What partners manage and read, in memory, over the ledger of the same tests.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::MemoryLedger;
use crate::{
    BroadcastId, BroadcastReport, BroadcastReports, Campaign, CampaignCatalog, CampaignId,
    CampaignRecords, Coupon, Creation, Idempotency, KeyRecord, KeyStore, Page, PageCounts,
    PartnerId, PortError, ReportRecord, StandingCoupons, UserCoupons, UserId,
};

/// A request as it is recognized again: whose, and by which key.
type Request = (PartnerId, String);

#[derive(Debug, Default)]
struct State {
    index: BTreeSet<(PartnerId, CampaignId)>,
    requests: HashMap<Request, (CampaignId, String)>,
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
        if let Some(Idempotency {
            key_sha256,
            body_sha256,
        }) = idempotency
        {
            let request = (campaign.partner_id.clone(), key_sha256.clone());
            let mine = (campaign.campaign_id.clone(), body_sha256.clone());
            let (id, body) = self.state().requests.entry(request).or_insert(mine).clone();
            if body != *body_sha256 {
                return Ok(Creation::Mismatch);
            }
            if let Some(standing) = self.ledger.find(&id).await? {
                return Ok(Creation::Repeated(standing));
            }
        }
        self.add(campaign);
        Ok(Creation::Created)
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

/// Cut to `limit`. DynamoDB, too, names a next page whenever one is full.
fn page<T>(mut items: Vec<T>, limit: u16, id: impl Fn(&T) -> &CampaignId) -> Page<T> {
    items.truncate(usize::from(limit));
    let next = items
        .last()
        .filter(|_| items.len() == usize::from(limit))
        .map(|item| id(item).clone());
    Page { items, next }
}

impl BroadcastReports for MemoryCatalog {
    async fn open(
        &self,
        id: &BroadcastId,
        record: &ReportRecord,
    ) -> Result<ReportRecord, PortError> {
        self.check("open the report")?;
        Ok(self
            .state()
            .reports
            .entry(id.clone())
            .or_insert_with(|| (record.clone(), Vec::new()))
            .0
            .clone())
    }

    async fn report(&self, id: &BroadcastId) -> Result<Option<BroadcastReport>, PortError> {
        self.check("read the report")?;
        Ok(self
            .state()
            .reports
            .get(id)
            .map(|(record, pages)| BroadcastReport::sum(record, pages)))
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
