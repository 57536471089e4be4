//! Messages of DeliveriesQueue and BroadcastQueue, and the ports that send them.

use serde::{Deserialize, Serialize};

use crate::{
    BroadcastId, Campaign, CampaignId, ConnectionId, PartnerId, PortError, ServerFrame, Timestamp,
    Topic, TraceHeader,
};

/// The most answers in one delivery job.
pub const MAX_ANSWERS_PER_JOB: usize = 200;

/// The largest delivery job, in bytes: what SQS bills as four requests.
pub const MAX_JOB_BYTES: usize = 256 * 1024;

/// The generation of a delivery job whose failures are final: five tries in all, over about three minutes
/// ([`delivery_delay_seconds`]). Lambda stops loops through SQS at 16 hops; the claim has three behind it by then.
pub const LAST_DELIVERY: u8 = 4;

/// How long a delivery job waits that carries on one of this generation, in seconds: 2, 8, 32, 128. A socket that does not read
/// fast enough needs time more than tries.
pub fn delivery_delay_seconds(generation: u8) -> u16 {
    2 << (2 * u16::from(generation.min(LAST_DELIVERY - 1)))
}

/// The longest delay of a queue message, in seconds (SQS `DelaySeconds`).
pub const MAX_DELAY_SECONDS: u16 = 900;

/// An answer on its way to the socket that claimed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Answer {
    /// The socket.
    pub connection_id: ConnectionId,
    /// What it is told.
    pub frame: ServerFrame,
    /// The claim's own time, to tell how long its answer took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<Timestamp>,
    /// The platform's name for the claim's journey; left out if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceHeader>,
}

/// A message of DeliveriesQueue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum DeliveryJob {
    /// Answers to claims.
    Deliver {
        /// The answers.
        answers: Vec<Answer>,
        /// How often those that could not be posted went on in a new message: four times at most.
        #[serde(default)]
        generation: u8,
    },
    /// A campaign's present state, for one socket that has just subscribed.
    Snapshot {
        /// The socket.
        connection_id: ConnectionId,
        /// The campaign as the sender knew it; the stock is read when the job runs.
        campaign: Campaign,
        /// As of `deliver`.
        #[serde(default)]
        generation: u8,
    },
}

/// What an announcement is about, and until when it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum AnnouncementKind {
    /// The campaign takes claims; holds until it ends.
    Opened,
    /// Every coupon has gone.
    SoldOut,
    /// The campaign takes no more claims.
    Closed,
    /// A partner's own words.
    Message,
}

/// Something to tell everybody who hears a topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Announcement {
    /// The same announcement has the same id, whoever sends it.
    pub broadcast_id: BroadcastId,
    /// Whose it is.
    pub partner_id: PartnerId,
    /// Who hears it.
    pub topic: Topic,
    /// What it is about. Not `kind`: that tells the message's own.
    #[serde(rename = "about")]
    pub kind: AnnouncementKind,
    /// What every socket gets, the same bytes for all.
    pub frame: ServerFrame,
    /// Not to go out before this; `None` at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// Not worth going out from this on; `None` always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void_at: Option<Timestamp>,
}

/// One shard of an announcement's audience.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PageJob {
    /// The announcement it is part of.
    pub broadcast_id: BroadcastId,
    /// Whose members.
    pub topic: Topic,
    /// Which shard of them.
    pub shard: u16,
    /// How often the page was carried on; Lambda stops loops through SQS at 16 hops.
    pub generation: u8,
    /// What every socket gets.
    pub frame: ServerFrame,
}

/// A campaign's stock is to be told to those who watch it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StockJob {
    /// The campaign.
    pub campaign_id: CampaignId,
    /// How many stock shards it has.
    pub shards: u16,
    /// How often the job was carried on.
    #[serde(default)]
    pub generation: u8,
    /// Where to carry on: membership shard and the last connection told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<(u16, Option<ConnectionId>)>,
    /// How long those told so far took, in milliseconds.
    #[serde(default)]
    pub posted_millis: u64,
}

/// A message of BroadcastQueue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum BroadcastJob {
    /// Start an announcement, or carry one on.
    Announce(Announcement),
    /// Post one shard of it.
    Page(PageJob),
    /// Tell the present stock.
    Stock(StockJob),
}

/// Sends to DeliveriesQueue.
pub trait DeliveryOutbox {
    /// Sends one job. Once `Ok`, the job is durable.
    fn deliver(&self, job: &DeliveryJob) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Sends what of a delivery job could not be posted back to DeliveriesQueue (function `broadcast`).
pub trait DeliveryRetries {
    /// Sends one job, to be seen after so many seconds. Once `Ok`, the job is durable.
    fn deliver_later(
        &self,
        job: &DeliveryJob,
        delay_seconds: u16,
    ) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Sends to BroadcastQueue.
pub trait BroadcastOutbox {
    /// Sends jobs, each to be seen after its delay in seconds (at most [`MAX_DELAY_SECONDS`]). Once `Ok`, all are durable; on
    /// an error some may be.
    fn send(
        &self,
        jobs: &[(BroadcastJob, u16)],
    ) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Sends to ClaimsQueue, or to PriorityClaimsQueue.
pub trait ClaimOutbox {
    /// Sends one claim to the queue of its campaign. Once `Ok`, it is accepted and will be answered.
    fn enqueue(
        &self,
        claim: &crate::Claim,
        campaign: &Campaign,
    ) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Sets when undecided claims come back to the queue they are from (function `issue`).
pub trait ClaimReturns {
    /// Each message of this queue, by its receipt, comes back after so many seconds. Only hurries or delays: without it, a
    /// message comes back after the queue's own visibility time-out.
    fn come_back(
        &self,
        queue_arn: &str,
        returns: &[(String, u16)],
    ) -> impl Future<Output = Result<(), PortError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::sample_campaign;
    use crate::{FrameBody, MEMBERSHIP_SHARDS, opened};

    #[test]
    fn every_job_reads_back_as_sent() {
        let campaign = sample_campaign(10, Timestamp::from_millis(1_790_000_000_000));
        let announcement = opened(&campaign);
        let page = PageJob {
            broadcast_id: announcement.broadcast_id.clone(),
            topic: announcement.topic.clone(),
            shard: MEMBERSHIP_SHARDS - 1,
            generation: 3,
            frame: ServerFrame {
                id: "1".into(),
                body: FrameBody::Pong,
            },
        };
        let stock = StockJob {
            campaign_id: campaign.campaign_id.clone(),
            shards: 1,
            generation: 0,
            resume: Some((2, ConnectionId::new("L0SM9cOFvHcCIhw=").ok())),
            posted_millis: 24_000,
        };
        for job in [
            BroadcastJob::Announce(announcement),
            BroadcastJob::Page(page),
            BroadcastJob::Stock(stock),
        ] {
            let text = serde_json::to_string(&job).unwrap();
            assert_eq!(serde_json::from_str::<BroadcastJob>(&text).unwrap(), job);
        }
        let connection_id = ConnectionId::new("L0SM9cOFvHcCIhw=").unwrap();
        let frame = ServerFrame {
            id: "1".into(),
            body: FrameBody::Pong,
        };
        let answers = vec![Answer {
            connection_id: connection_id.clone(),
            frame,
            requested_at: Some(Timestamp::from_millis(1_790_000_000_000)),
            trace: TraceHeader::read("Root=1-67891233-abcdef012345678912345678"),
        }];
        for job in [
            DeliveryJob::Deliver {
                answers,
                generation: 2,
            },
            DeliveryJob::Snapshot {
                connection_id,
                campaign,
                generation: 1,
            },
        ] {
            let text = serde_json::to_string(&job).unwrap();
            assert_eq!(serde_json::from_str::<DeliveryJob>(&text).unwrap(), job);
        }
    }

    #[test]
    fn each_try_of_a_delivery_waits_four_times_as_long_as_the_one_before() {
        let delays: Vec<u16> = (0..LAST_DELIVERY).map(delivery_delay_seconds).collect();
        assert_eq!(delays, [2, 8, 32, 128]);
        assert!(delays.iter().all(|delay| *delay <= MAX_DELAY_SECONDS));
    }
}
