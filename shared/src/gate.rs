//! The claim door: answers what it can from memory or one read, and queues the rest. It never posts; every answer is
//! the returned frame.

use std::sync::Arc;

use crate::{
    Campaign, CampaignDirectory, CampaignId, CampaignRecords, Claim, ClaimId, ClaimOutbox,
    ClientFrame, Clock, ConnectionId, DeliveryJob, DeliveryOutbox, Entropy, FrameBody, Lookup,
    Outcome, PartnerId, PortError, ServerFrame, Snapshots, SoldMarks, StandingCoupons,
    Subscription, Subscriptions, Timestamp, Topic, TraceHeader, UserId, Verdict,
    refresh::RETIRE_AFTER_SECONDS,
};

/// Who is behind a socket, as the authorizer vouched for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The partner whose ticket opened the socket.
    pub partner_id: PartnerId,
    /// The user the ticket was for.
    pub user_id: UserId,
    /// The socket.
    pub connection_id: ConnectionId,
    /// The platform's name for this frame's journey.
    pub trace: Option<TraceHeader>,
}

/// The claim door. One per execution environment.
#[derive(Debug)]
pub struct Gate<S, P, C, Q, U, D, K, E> {
    /// The campaigns as this door knows them.
    pub directory: CampaignDirectory<S, K>,
    /// The records and sold marks, read afresh where an answer is asked for again.
    pub records: P,
    /// The coupons.
    pub coupons: C,
    /// ClaimsQueue.
    pub claims: Q,
    /// Who hears what.
    pub subscriptions: U,
    /// DeliveriesQueue, for the snapshot that follows a subscription.
    pub deliveries: D,
    /// The time of day.
    pub clock: K,
    /// Randomness.
    pub entropy: E,
}

/// Why a frame is not carried out.
enum Refusal {
    /// Something it needs does not answer; the same frame may work in a moment.
    Unavailable(Arc<PortError>),
    /// The connection is not registered.
    NotConnected,
    /// Too many campaigns were asked for that nobody knows.
    Busy,
}

impl From<PortError> for Refusal {
    fn from(error: PortError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}

impl From<Arc<PortError>> for Refusal {
    fn from(error: Arc<PortError>) -> Self {
        Self::Unavailable(error)
    }
}

impl<S, P, C, Q, U, D, K, E> Gate<S, P, C, Q, U, D, K, E>
where
    S: Snapshots + CampaignRecords,
    P: CampaignRecords + SoldMarks,
    C: StandingCoupons,
    Q: ClaimOutbox,
    U: Subscriptions,
    D: DeliveryOutbox,
    K: Clock + Clone,
    E: Entropy,
{
    /// Answers one frame. Always: what cannot be carried out is answered by an `error` frame.
    pub async fn respond(&self, caller: &Caller, text: &str) -> ServerFrame {
        let frame = match ClientFrame::parse(text) {
            Ok(frame) => frame,
            Err(error) => return self.error(error.code, &error.message),
        };
        let answered = match frame {
            ClientFrame::Ping => Ok(ServerFrame::unique(self.entropy.bits(), FrameBody::Pong)),
            ClientFrame::Claim {
                campaign_id,
                claim_id,
            } => self.claim(caller, campaign_id, claim_id).await,
            ClientFrame::Result {
                campaign_id,
                claim_id,
            } => self.result(caller, campaign_id, claim_id).await,
            ClientFrame::Subscribe { campaign_id } => self.subscribe(caller, campaign_id).await,
            ClientFrame::Unsubscribe { campaign_id } => self.unsubscribe(caller, campaign_id).await,
        };
        answered.unwrap_or_else(|refusal| self.refuse(&refusal))
    }

    /// The order of verdict, as far as a door can tell: what no claim can change is refused from memory, `sold_out` and
    /// `closed` only after a look for this user's coupon, and everything else is queued.
    async fn claim(
        &self,
        caller: &Caller,
        campaign_id: CampaignId,
        claim_id: Option<ClaimId>,
    ) -> Result<ServerFrame, Refusal> {
        let now = self.clock.now();
        let claim_id = claim_id.unwrap_or_else(|| ClaimId::mint(now, self.entropy.bits()));
        let answer = |verdict: &Verdict| {
            ServerFrame::claim_result(&campaign_id, &caller.user_id, &claim_id, verdict)
        };
        let known = self.campaign_of(caller, &campaign_id, now).await?;
        let Some((campaign, sold)) = known else {
            return Ok(answer(&Verdict::Refused(Outcome::UnknownCampaign)));
        };
        match campaign.refusal(sold, now) {
            Some(Outcome::NotOpen) => return Ok(answer(&Verdict::Refused(Outcome::NotOpen))),
            Some(mut outcome) => {
                // What the directory holds of the sold marks may be older than what it holds of the end.
                if outcome == Outcome::Closed && self.records.is_sold(&campaign.campaign_id).await?
                {
                    outcome = Outcome::SoldOut;
                }
                return Ok(answer(&self.standing_or(caller, &campaign, outcome).await?));
            }
            None => {}
        }
        let claim = Claim {
            claim_id,
            partner_id: caller.partner_id.clone(),
            campaign_id,
            user_id: caller.user_id.clone(),
            requested_at: now,
            sent_at: now,
            connection_id: Some(caller.connection_id.clone()),
            trace: caller.trace.clone(),
        };
        self.claims.enqueue(&claim, &campaign).await?;
        Ok(ServerFrame::claim_accepted(&claim))
    }

    /// The answer again, from facts as they stand this moment.
    async fn result(
        &self,
        caller: &Caller,
        campaign_id: CampaignId,
        claim_id: Option<ClaimId>,
    ) -> Result<ServerFrame, Refusal> {
        let record = self.records.find(&campaign_id).await?;
        let Some(campaign) = record.filter(|found| found.partner_id == caller.partner_id) else {
            return Ok(result_frame(
                caller,
                campaign_id,
                claim_id,
                &Verdict::Refused(Outcome::UnknownCampaign),
            ));
        };
        let sold = self.records.is_sold(&campaign_id).await?;
        // Read after the facts above: a refusal is only for one whose coupon did not stand once they held.
        let coupon = self
            .coupons
            .coupon(&caller.partner_id, &caller.user_id, &campaign_id)
            .await?;
        let verdict = match (coupon, campaign.refusal(sold, self.clock.now())) {
            (Some(coupon), _) => Verdict::Standing(coupon),
            (None, Some(outcome)) => Verdict::Refused(outcome),
            (None, None) => {
                let parts = [
                    "claim.undecided",
                    campaign_id.as_str(),
                    caller.user_id.as_str(),
                ];
                let body = FrameBody::ClaimUndecided {
                    campaign_id: campaign_id.clone(),
                };
                return Ok(ServerFrame::repeatable(&parts, body));
            }
        };
        Ok(result_frame(caller, campaign_id, claim_id, &verdict))
    }

    async fn subscribe(
        &self,
        caller: &Caller,
        campaign_id: CampaignId,
    ) -> Result<ServerFrame, Refusal> {
        let now = self.clock.now();
        let Some((campaign, _)) = self.campaign_of(caller, &campaign_id, now).await? else {
            return Ok(self.error("unknown_campaign", "campaignId names no campaign"));
        };
        let topic = Topic::Campaign(campaign_id.clone());
        if self
            .subscriptions
            .subscribe(&caller.connection_id, &topic)
            .await?
            == Subscription::Gone
        {
            return Err(Refusal::NotConnected);
        }
        let connection_id = caller.connection_id.clone();
        let job = DeliveryJob::Snapshot {
            connection_id,
            campaign: (*campaign).clone(),
            generation: 0,
        };
        if let Err(error) = self.deliveries.deliver(&job).await {
            // The subscription stands; the next stock tick tells the same.
            tracing::warn!(campaign.id = %campaign_id, error = &error as &dyn std::error::Error, "snapshot not sent");
        }
        Ok(ServerFrame::unique(
            self.entropy.bits(),
            FrameBody::Subscribed { campaign_id },
        ))
    }

    async fn unsubscribe(
        &self,
        caller: &Caller,
        campaign_id: CampaignId,
    ) -> Result<ServerFrame, Refusal> {
        self.subscriptions
            .unsubscribe(&caller.connection_id, &Topic::Campaign(campaign_id.clone()))
            .await?;
        Ok(ServerFrame::unique(
            self.entropy.bits(),
            FrameBody::Unsubscribed { campaign_id },
        ))
    }

    /// The campaign, if it is the caller's own partner's; another partner's is as good as none.
    async fn campaign_of(
        &self,
        caller: &Caller,
        id: &CampaignId,
        now: Timestamp,
    ) -> Result<Option<(Arc<Campaign>, bool)>, Refusal> {
        match self.directory.look_up(id).await? {
            Lookup::Known(campaign, sold) if campaign.partner_id == caller.partner_id => {
                Ok(Some((campaign, sold)))
            }
            Lookup::Known(..) => Ok(None),
            Lookup::Unknown => self.retired_campaign_of(caller, id, now).await,
            Lookup::Busy => Err(Refusal::Busy),
        }
    }

    /// As [`Self::campaign_of`], of a campaign that the directory dropped after its end: every door knows it for as long as
    /// its record is kept, as the HTTP API does. One too young for that is not looked for a second time: the directory bounds the reads of
    /// an opening rush at a wrong id.
    async fn retired_campaign_of(
        &self,
        caller: &Caller,
        id: &CampaignId,
        now: Timestamp,
    ) -> Result<Option<(Arc<Campaign>, bool)>, Refusal> {
        let retired = |born: Timestamp| born.plus_seconds(RETIRE_AFTER_SECONDS) <= now;
        if !id.minted_at().is_some_and(retired) {
            return Ok(None);
        }
        let record = self.records.find(id).await?;
        let own = record.filter(|found| found.partner_id == caller.partner_id);
        Ok(own.map(|campaign| (Arc::new(campaign), false)))
    }

    async fn standing_or(
        &self,
        caller: &Caller,
        campaign: &Campaign,
        outcome: Outcome,
    ) -> Result<Verdict, Refusal> {
        let coupon = self
            .coupons
            .coupon(&caller.partner_id, &caller.user_id, &campaign.campaign_id)
            .await?;
        Ok(coupon.map_or(Verdict::Refused(outcome), Verdict::Standing))
    }

    fn refuse(&self, refusal: &Refusal) -> ServerFrame {
        match refusal {
            Refusal::Unavailable(error) => {
                tracing::warn!(
                    error = &**error as &dyn std::error::Error,
                    "frame not carried out"
                );
                self.error(
                    "unavailable",
                    "not carried out; send the same frame again in a moment",
                )
            }
            Refusal::NotConnected => self.error(
                "not_connected",
                "this connection is closing; open another one",
            ),
            Refusal::Busy => self.error(
                "busy",
                "not carried out; send the same frame again in a moment",
            ),
        }
    }

    fn error(&self, code: &str, message: &str) -> ServerFrame {
        let body = FrameBody::Error {
            code: code.into(),
            message: message.into(),
        };
        ServerFrame::unique(self.entropy.bits(), body)
    }
}

/// The answer to `result`; asked without a claim's id, it names the claim that won, or none.
fn result_frame(
    caller: &Caller,
    campaign_id: CampaignId,
    claim_id: Option<ClaimId>,
    verdict: &Verdict,
) -> ServerFrame {
    let user = &caller.user_id;
    match (claim_id, verdict) {
        (None, Verdict::Refused(outcome)) => {
            let parts = [
                "claim.result",
                campaign_id.as_str(),
                user.as_str(),
                "",
                outcome.as_str(),
            ];
            let (campaign_id, outcome) = (campaign_id.clone(), *outcome);
            let body = FrameBody::ClaimResult {
                claim_id: None,
                campaign_id,
                outcome,
                coupon: None,
            };
            ServerFrame::repeatable(&parts, body)
        }
        (Some(claim_id), _) => ServerFrame::claim_result(&campaign_id, user, &claim_id, verdict),
        (None, Verdict::Standing(coupon)) => {
            ServerFrame::claim_result(&campaign_id, user, &coupon.claim_id, verdict)
        }
    }
}
