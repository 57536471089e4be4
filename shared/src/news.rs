//! What the public learns of issuance: a stock gauge at most once a second, and once that all has gone.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::{
    BroadcastJob, BroadcastOutbox, Campaign, CampaignId, Clock, Mark, PortError, SoldMarks,
    StockJob, StockTicks, sold_out,
};

/// The gauge's pace: a job waits this long, and whatever happens meanwhile is in it. In seconds.
const TICK_SECONDS: u16 = 1;
/// A tick whose job has not come by after so many seconds is taken over.
const TICK_STALE_SECONDS: i64 = 5;
/// Campaigns remembered as announced; then it starts anew, at the price of a message.
const REMEMBERED: usize = 1024;

/// Tells of stock. One per execution environment: it remembers what it has announced.
#[derive(Debug)]
pub struct StockNews<M, B, K> {
    marks: M,
    broadcasts: B,
    clock: K,
    announced: Mutex<HashSet<CampaignId>>,
}

impl<M: SoldMarks + StockTicks, B: BroadcastOutbox, K: Clock> StockNews<M, B, K> {
    /// A teller that has announced nothing yet.
    pub fn new(marks: M, broadcasts: B, clock: K) -> Self {
        Self {
            marks,
            broadcasts,
            clock,
            announced: Mutex::default(),
        }
    }

    /// Has the campaign's present stock told within [`TICK_SECONDS`], once however many ask.
    ///
    /// # Errors
    /// [`PortError`]; the gauge is then late until the next change.
    pub async fn stock_changed(&self, campaign: &Campaign) -> Result<(), PortError> {
        let id = &campaign.campaign_id;
        if self
            .marks
            .mark(id, self.clock.now(), TICK_STALE_SECONDS)
            .await?
            == Mark::Stood
        {
            return Ok(());
        }
        let job = StockJob {
            campaign_id: id.clone(),
            shards: campaign.shards,
            generation: 0,
            resume: None,
        };
        self.broadcasts
            .send(&[(BroadcastJob::Stock(job), TICK_SECONDS)])
            .await
    }

    /// Marks the campaign as sold out, for the doors, and has it announced. The caller MUST have seen every shard empty.
    /// The announcement goes out once, whoever sends it; each environment sends it once, so that one lost on the way
    /// from the mark to the queue is made good by the next.
    ///
    /// # Errors
    /// [`PortError`]; the next batch that finds nothing left tries again.
    pub async fn sold_out(&self, campaign: &Campaign) -> Result<(), PortError> {
        if self.announced().contains(&campaign.campaign_id) {
            return Ok(());
        }
        self.marks.mark_sold(campaign).await?;
        self.broadcasts
            .send(&[(BroadcastJob::Announce(sold_out(campaign)), 0)])
            .await?;
        let mut announced = self.announced();
        if announced.len() >= REMEMBERED {
            announced.clear();
        }
        announced.insert(campaign.campaign_id.clone());
        Ok(())
    }

    fn announced(&self) -> std::sync::MutexGuard<'_, HashSet<CampaignId>> {
        self.announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
