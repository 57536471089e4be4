//! What the public learns of issuance: a stock gauge, at most once a second and not faster than its audience can be told,
//! and once that all has gone.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    BroadcastJob, BroadcastOutbox, Campaign, CampaignId, Clock, PortError, SoldMarks, StockJob,
    StockTicks, sold_out,
};

/// A tick whose job has not come by so many seconds after it was due is taken over.
const TICK_STALE_SECONDS: i64 = 5;
/// Campaigns remembered as marked or announced; then it starts anew, at the price of a call.
const REMEMBERED: usize = 1024;

/// Tells of stock. One per execution environment: it remembers what it has announced.
#[derive(Debug)]
pub struct StockNews<M, B, K> {
    marks: M,
    broadcasts: B,
    clock: K,
    marked: Remembered,
    announced: Remembered,
}

impl<M: SoldMarks + StockTicks, B: BroadcastOutbox, K: Clock> StockNews<M, B, K> {
    /// A teller that has announced nothing yet.
    pub fn new(marks: M, broadcasts: B, clock: K) -> Self {
        Self {
            marks,
            broadcasts,
            clock,
            marked: Remembered::default(),
            announced: Remembered::default(),
        }
    }

    /// Has the campaign's stock told, once however many ask. The job waits for the campaign's pace, and whatever happens
    /// meanwhile is in it.
    ///
    /// # Errors
    /// [`PortError`]; the gauge is then late until the next change.
    pub async fn stock_changed(&self, campaign: &Campaign) -> Result<(), PortError> {
        let id = &campaign.campaign_id;
        let marked = self
            .marks
            .mark(id, self.clock.now(), TICK_STALE_SECONDS)
            .await?;
        let Some(pace) = marked else {
            return Ok(());
        };
        let job = StockJob {
            campaign_id: id.clone(),
            shards: campaign.shards,
            generation: 0,
            resume: None,
            posted_millis: 0,
        };
        self.broadcasts
            .send(&[(BroadcastJob::Stock(job), pace)])
            .await
    }

    /// Marks the campaign as sold out, for the doors. The caller MUST have seen every shard empty, and MUST NOT tell
    /// anybody `sold_out` before this has worked: the mark is what a lost answer is made from again.
    ///
    /// # Errors
    /// [`PortError`]; nothing is known of the mark.
    pub async fn mark_sold_out(&self, campaign: &Campaign) -> Result<(), PortError> {
        if !self.marked.contains(&campaign.campaign_id) {
            self.marks.mark_sold(campaign).await?;
            self.marked.insert(&campaign.campaign_id);
        }
        Ok(())
    }

    /// Has it announced that all has gone. The announcement goes out once, whoever sends it; each environment sends it
    /// once, so that one lost on the way to the queue is made good by the next.
    ///
    /// # Errors
    /// [`PortError`]; the next batch that finds nothing left tries again, and `refresh` does from the mark.
    pub async fn announce_sold_out(&self, campaign: &Campaign) -> Result<(), PortError> {
        if !self.announced.contains(&campaign.campaign_id) {
            let job = BroadcastJob::Announce(sold_out(campaign));
            self.broadcasts.send(&[(job, 0)]).await?;
            self.announced.insert(&campaign.campaign_id);
        }
        Ok(())
    }
}

/// Campaigns that need no second visit of this environment.
#[derive(Debug, Default)]
struct Remembered(Mutex<HashSet<CampaignId>>);

impl Remembered {
    fn contains(&self, id: &CampaignId) -> bool {
        self.lock().contains(id)
    }

    fn insert(&self, id: &CampaignId) {
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(id.clone());
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<CampaignId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
