//! Dead letters: why a message was given up, and what may be sent again. Rules only; receiving and sending is the
//! operator's adapter.
//!
//! A replay must not change a verdict. The queue stamps a new `SentTimestamp` on what is sent again, and two rules read that
//! time: a claim without `requestedAt` is judged by it, and one that runs more than a minute ahead of it is `rejected`.
//! So a replay writes down the claim's own time, and refuses a claim that is `rejected` by its first `SentTimestamp`.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    BroadcastJob, CampaignId, Claim, ClaimMessage, ClaimMessageError, DeliveryJob, FrameBody,
    InvalidValue, MAX_BEHIND_SECONDS, PartnerId, REPORT_SECONDS, Timestamp, Topic, read_object,
};

/// How long BroadcastQueue keeps a message, in seconds (template.yaml).
const BROADCAST_RETENTION_SECONDS: i64 = 86_400;

/// How often a worker receives a message before it is a dead letter (template.yaml, `maxReceiveCount`).
pub const MAX_RECEIVES: u32 = 10;

/// One of the stack's queues with a consumer; each has a dead-letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Claims on their way to `issue`.
    Claims,
    /// Answers on their way to `broadcast`.
    Deliveries,
    /// Announcements on their way to `broadcast`.
    Broadcast,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Self; 3] = [Self::Claims, Self::Deliveries, Self::Broadcast];

    /// The name that people type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claims => "claims",
            Self::Deliveries => "deliveries",
            Self::Broadcast => "broadcast",
        }
    }
}

/// Why a message ended as a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is no message of its queue, and never will be.
    Unparseable,
    /// It names a campaign that does not exist, or that is another partner's.
    UnknownCampaign,
    /// It is valid, and its worker failed as often as the queue allows.
    ExhaustedRetries,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 3] = [
        Self::Unparseable,
        Self::UnknownCampaign,
        Self::ExhaustedRetries,
    ];

    /// The public name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unparseable => "unparseable",
            Self::UnknownCampaign => "unknown_campaign",
            Self::ExhaustedRetries => "exhausted_retries",
        }
    }
}

/// A message of one of the queues.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    Claim(Claim),
    Delivery(DeliveryJob),
    Broadcast(BroadcastJob),
}

/// A dead letter, read as its worker would.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    body: String,
    group: Option<String>,
    sent_at: Option<Timestamp>,
    content: Result<Content, String>,
}

/// A campaign that a dead letter is about, and the partner it is said to be of, if that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The campaign.
    pub campaign_id: CampaignId,
    /// Whose it is said to be.
    pub partner_id: Option<PartnerId>,
}

/// What is to be sent in place of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The body.
    pub body: String,
    /// `MessageGroupId`.
    pub group: Option<String>,
}

/// Why a dead letter must not be sent again.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReplayRefusal {
    /// It would only die again.
    #[error("{0}: its producer has to send it anew")]
    Unparseable(String),
    /// It is `rejected` by the time the queue first took it; sent again, it might be issued.
    #[error(
        "its own time runs {} s ahead of the queue's: its answer is `rejected`, and a replay would judge it anew",
        .ahead_millis.div_euclid(1000)
    )]
    FromTheFuture {
        /// By how much.
        ahead_millis: i64,
    },
    /// What made a repeat harmless may have been forgotten.
    #[error("it is {days} days old: what makes its repeat harmless may have been forgotten")]
    TooOld {
        /// How old.
        days: i64,
    },
}

impl DeadLetter {
    /// Reads a message; `group` is its `MessageGroupId`, `sent_at` the `SentTimestamp` it got when it was first sent (a
    /// standard queue keeps it when a message moves to its dead-letter queue).
    pub fn read(queue: Queue, body: &str, group: Option<&str>, sent_at: Option<Timestamp>) -> Self {
        let content = match queue {
            Queue::Claims => read_claim(body, sent_at).map(Content::Claim),
            Queue::Deliveries => read_job(body).map(Content::Delivery),
            Queue::Broadcast => read_job(body).map(Content::Broadcast),
        };
        Self {
            body: body.to_owned(),
            group: group.map(str::to_owned),
            sent_at,
            content,
        }
    }

    /// What is wrong with it, if it is unparseable; never its content.
    pub fn complaint(&self) -> Option<&str> {
        self.content.as_ref().err().map(String::as_str)
    }

    /// What it is, in few words and without its content.
    pub fn summary(&self) -> String {
        match &self.content {
            Err(complaint) => complaint.clone(),
            Ok(Content::Claim(claim)) => format!("claim {}", claim.claim_id),
            Ok(Content::Delivery(DeliveryJob::Deliver { answers, .. })) => {
                format!("{} answers", answers.len())
            }
            Ok(Content::Delivery(DeliveryJob::Snapshot { .. })) => "snapshot".to_owned(),
            Ok(Content::Broadcast(BroadcastJob::Announce(announcement))) => {
                format!("announcement {}", announcement.broadcast_id)
            }
            Ok(Content::Broadcast(BroadcastJob::Page(page))) => {
                format!("page {} of {}", page.shard, page.broadcast_id)
            }
            Ok(Content::Broadcast(BroadcastJob::Stock(_))) => "stock".to_owned(),
        }
    }

    /// The campaigns it is about.
    pub fn subjects(&self) -> Vec<Subject> {
        match &self.content {
            Err(_) => Vec::new(),
            Ok(Content::Claim(claim)) => vec![Subject {
                campaign_id: claim.campaign_id.clone(),
                partner_id: Some(claim.partner_id.clone()),
            }],
            Ok(Content::Delivery(job)) => subjects_of_delivery(job),
            Ok(Content::Broadcast(job)) => subjects_of_broadcast(job),
        }
    }

    /// Whether it is about this campaign. What cannot be read is, if its `MessageGroupId` says so.
    pub fn is_about(&self, campaign: &CampaignId) -> bool {
        self.group.as_deref() == Some(campaign.as_str())
            || self
                .subjects()
                .iter()
                .any(|subject| subject.campaign_id == *campaign)
    }

    /// Why it died; `is_known` tells whether the campaign exists and is the partner's.
    pub fn reason(&self, is_known: impl Fn(&Subject) -> bool) -> Reason {
        match &self.content {
            Err(_) => Reason::Unparseable,
            // `unknown_campaign` is an answer, too: a campaign that does not exist is no reason for its delivery to fail.
            Ok(Content::Delivery(DeliveryJob::Deliver { .. })) => Reason::ExhaustedRetries,
            Ok(_) if self.subjects().iter().all(is_known) => Reason::ExhaustedRetries,
            Ok(_) => Reason::UnknownCampaign,
        }
    }

    /// What to send so that every verdict stays what it would have been, however often it is sent.
    ///
    /// # Errors
    /// [`ReplayRefusal`] if nothing can be sent, or a repeat could change a verdict.
    pub fn replay(&self, now: Timestamp) -> Result<Replay, ReplayRefusal> {
        let content = self
            .content
            .as_ref()
            .map_err(|complaint| ReplayRefusal::Unparseable(complaint.clone()))?;
        match content {
            Content::Claim(claim) => replay_claim(claim, now),
            Content::Delivery(_) | Content::Broadcast(BroadcastJob::Stock(_)) => {
                Ok(self.as_it_is())
            }
            // Once its report has expired, a repeat would be told to everybody anew.
            Content::Broadcast(BroadcastJob::Announce(_) | BroadcastJob::Page(_)) => {
                let kept = REPORT_SECONDS - BROADCAST_RETENTION_SECONDS;
                refuse_after(kept, self.sent_at.unwrap_or(now), now).map(|()| self.as_it_is())
            }
        }
    }

    fn as_it_is(&self) -> Replay {
        Replay {
            body: self.body.clone(),
            group: self.group.clone(),
        }
    }
}

/// The claim with its own time written down; encoded anew, so that it fits whatever else the producer had put in.
fn replay_claim(claim: &Claim, now: Timestamp) -> Result<Replay, ReplayRefusal> {
    if claim.is_from_the_future() {
        let ahead_millis = claim.requested_at.millis_since(claim.sent_at);
        return Err(ReplayRefusal::FromTheFuture { ahead_millis });
    }
    // Coupons stand until RETENTION_SECONDS after their campaign's end at least, and a claim inside the window is older.
    refuse_after(MAX_BEHIND_SECONDS, claim.own_time(), now)?;
    let body = serde_json::to_string(&ClaimMessage::from(claim))
        .map_err(|error| ReplayRefusal::Unparseable(error.to_string()))?;
    Ok(Replay {
        body,
        group: Some(claim.campaign_id.to_string()),
    })
}

/// Refuses what is older than `kept_seconds`: it might be received when what it relies on is forgotten.
fn refuse_after(kept_seconds: i64, since: Timestamp, now: Timestamp) -> Result<(), ReplayRefusal> {
    let days = now.millis_since(since) / 86_400_000;
    (now < since.plus_seconds(kept_seconds))
        .then_some(())
        .ok_or(ReplayRefusal::TooOld { days })
}

fn read_claim(body: &str, sent_at: Option<Timestamp>) -> Result<Claim, String> {
    let missing = InvalidValue {
        field: "SentTimestamp",
        expected: "set by the queue",
    };
    let sent_at = sent_at.ok_or_else(|| missing.to_string())?;
    ClaimMessage::parse(body, sent_at).map_err(|error| match error {
        ClaimMessageError::Malformed(error) => error.to_string(),
        other => other.to_string(),
    })
}

/// Read as the worker does; what it does not take is read once more, for a complaint without content.
fn read_job<T: DeserializeOwned>(body: &str) -> Result<T, String> {
    serde_json::from_str(body)
        .or_else(|_| read_object(body, "message").map_err(|error| error.to_string()))
}

fn subjects_of_delivery(job: &DeliveryJob) -> Vec<Subject> {
    match job {
        DeliveryJob::Snapshot { campaign, .. } => vec![Subject {
            campaign_id: campaign.campaign_id.clone(),
            partner_id: Some(campaign.partner_id.clone()),
        }],
        DeliveryJob::Deliver { answers, .. } => {
            let mut subjects: Vec<Subject> = Vec::new();
            for answer in answers {
                if let FrameBody::ClaimResult { campaign_id, .. } = &answer.frame.body
                    && !subjects
                        .iter()
                        .any(|known| known.campaign_id == *campaign_id)
                {
                    subjects.push(Subject {
                        campaign_id: campaign_id.clone(),
                        partner_id: None,
                    });
                }
            }
            subjects
        }
    }
}

fn subjects_of_broadcast(job: &BroadcastJob) -> Vec<Subject> {
    let (topic, partner_id) = match job {
        BroadcastJob::Announce(announcement) => {
            (&announcement.topic, Some(announcement.partner_id.clone()))
        }
        BroadcastJob::Page(page) => (&page.topic, None),
        BroadcastJob::Stock(stock) => {
            return vec![Subject {
                campaign_id: stock.campaign_id.clone(),
                partner_id: None,
            }];
        }
    };
    match topic {
        Topic::Partner(_) => Vec::new(),
        Topic::Campaign(campaign_id) => vec![Subject {
            campaign_id: campaign_id.clone(),
            partner_id,
        }],
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::memory::sample_campaign;
    use crate::{
        Answer, ClaimId, ConnectionId, MAX_CLAIM_MESSAGE_BYTES, Outcome, PageJob, ServerFrame,
        StockJob, TraceHeader, UserId, Verdict, opened,
    };

    const SENT: Timestamp = Timestamp::from_millis(1_790_000_000_000);
    const DAY: i64 = 86_400;

    fn message(more: Value) -> String {
        let mut message = json!({"version": 1, "claimId": "c1", "partnerId": "acme", "campaignId": "k", "userId": "ann"});
        for (field, value) in more.as_object().unwrap() {
            message[field] = value.clone();
        }
        message.to_string()
    }

    fn claim(more: Value) -> DeadLetter {
        DeadLetter::read(Queue::Claims, &message(more), Some("k"), Some(SENT))
    }

    fn frame(body: FrameBody) -> ServerFrame {
        ServerFrame {
            id: "1".into(),
            body,
        }
    }

    /// What the worker would read, `later` seconds after the first sending.
    fn read_again(replay: &Replay, later: i64) -> Claim {
        ClaimMessage::parse(&replay.body, SENT.plus_seconds(later)).unwrap()
    }

    #[test]
    fn a_claim_without_a_time_keeps_the_one_the_queue_gave_it_first() {
        for without in [json!({}), json!({"requestedAt": null})] {
            let replay = claim(without).replay(SENT.plus_seconds(3 * DAY)).unwrap();
            let again = read_again(&replay, 3 * DAY);
            assert_eq!(again.requested_at, SENT, "the window is judged as before");
            assert_eq!(replay.group.as_deref(), Some("k"));
            // And should it die once more, a second replay changes nothing.
            let second = DeadLetter::read(
                Queue::Claims,
                &replay.body,
                Some("k"),
                Some(SENT.plus_seconds(3 * DAY)),
            );
            assert_eq!(second.replay(SENT.plus_seconds(4 * DAY)), Ok(replay));
        }
    }

    #[test]
    fn a_claims_own_time_and_everything_else_it_says_is_kept() {
        let at = SENT.plus_seconds(-5).to_string();
        let dead = claim(json!({"requestedAt": at, "connectionId": "L0SM9cOFvHcCIhw="}));
        let again = read_again(&dead.replay(SENT.plus_seconds(DAY)).unwrap(), DAY);
        let expected = Claim {
            claim_id: ClaimId::new("c1").unwrap(),
            partner_id: PartnerId::new("acme").unwrap(),
            campaign_id: CampaignId::new("k").unwrap(),
            user_id: UserId::new("ann").unwrap(),
            requested_at: SENT.plus_seconds(-5),
            sent_at: SENT.plus_seconds(DAY),
            connection_id: ConnectionId::new("L0SM9cOFvHcCIhw=").ok(),
            trace: None,
        };
        assert_eq!(again, expected);
    }

    #[test]
    fn a_claim_from_the_future_is_never_sent_again_even_when_its_time_has_come() {
        let ahead = |millis: i64| {
            let at = Timestamp::from_millis(SENT.millis() + millis).to_string();
            claim(json!({ "requestedAt": at })).replay(SENT.plus_seconds(DAY))
        };
        assert!(ahead(60_000).is_ok());
        let refused = ahead(60_001).unwrap_err();
        assert_eq!(
            refused,
            ReplayRefusal::FromTheFuture {
                ahead_millis: 60_001
            }
        );
        assert!(refused.to_string().contains("60 s ahead"), "{refused}");
    }

    #[test]
    fn a_claim_is_sent_again_only_while_every_coupon_of_its_campaign_still_stands() {
        let kept = MAX_BEHIND_SECONDS;
        assert!(claim(json!({})).replay(SENT.plus_seconds(kept - 1)).is_ok());
        assert_eq!(
            claim(json!({})).replay(SENT.plus_seconds(kept)),
            Err(ReplayRefusal::TooOld { days: kept / DAY })
        );
        // The replay states the claim's own time, and that is what its worker judges: no later than the queue's.
        let ahead = json!({"requestedAt": SENT.plus_seconds(60).to_string()});
        let last = SENT.plus_seconds(kept - 1);
        let replay = claim(ahead.clone()).replay(last).unwrap();
        assert!(!read_again(&replay, kept - 1).is_from_long_ago());
        assert!(read_again(&replay, kept).is_from_long_ago());
        assert_eq!(
            claim(ahead).replay(SENT.plus_seconds(kept)),
            Err(ReplayRefusal::TooOld { days: kept / DAY })
        );
        let behind = json!({"requestedAt": SENT.plus_seconds(-60).to_string()});
        assert!(
            claim(behind.clone())
                .replay(SENT.plus_seconds(kept - 61))
                .is_ok()
        );
        assert!(claim(behind).replay(SENT.plus_seconds(kept - 60)).is_err());
    }

    #[test]
    fn the_largest_claim_still_fits_after_its_time_was_written_down() {
        let room = MAX_CLAIM_MESSAGE_BYTES - message(json!({"padding": ""})).len();
        let dead = claim(json!({"padding": "x".repeat(room)}));
        assert_eq!(dead.body.len(), MAX_CLAIM_MESSAGE_BYTES);
        let replay = dead.replay(SENT).unwrap();
        assert_eq!(read_again(&replay, 1).requested_at, SENT);
    }

    #[test]
    fn what_is_no_message_is_named_without_its_content_and_not_sent_again() {
        for (queue, body, says) in [
            (
                Queue::Claims,
                "secret".to_owned(),
                "message must be a JSON object",
            ),
            (
                Queue::Claims,
                message(json!({"version": "secret"})),
                "version must be a whole number",
            ),
            (Queue::Claims, message(json!({"version": 9})), "version 9"),
            (
                Queue::Claims,
                message(json!({"userId": "sec ret"})),
                "userId must be",
            ),
            (
                Queue::Claims,
                message(json!({"padding": "x".repeat(9000)})),
                "8192",
            ),
            (
                Queue::Claims,
                r#"{"version":1,"userId":"secret"}"#.to_owned(),
                "claimId is missing",
            ),
            (
                Queue::Deliveries,
                r#"{"kind":"secret"}"#.to_owned(),
                "kind must be `deliver` or `snapshot`",
            ),
            (
                Queue::Deliveries,
                r#"{"kind":"secret must be secret"}"#.to_owned(),
                "kind must be `deliver` or `snapshot`",
            ),
            (
                Queue::Broadcast,
                r#"{"kind":"secret must be secret, expected secret"}"#.to_owned(),
                "kind must be one of",
            ),
            (
                Queue::Deliveries,
                r#"{"kind":"deliver","answers":"x, expected secret at line 1"}"#.to_owned(),
                "message must be a sequence",
            ),
            (
                Queue::Broadcast,
                r#"{"kind":"stock","sec ret":1e999}"#.to_owned(),
                "message must be a smaller number",
            ),
            (
                Queue::Broadcast,
                r#"{"about":"secret"}"#.to_owned(),
                "kind is missing",
            ),
            (
                Queue::Broadcast,
                "secret".to_owned(),
                "message must be a JSON object",
            ),
        ] {
            let dead = DeadLetter::read(queue, &body, Some("k"), Some(SENT));
            let complaint = dead.complaint().unwrap().to_owned();
            assert!(complaint.contains(says), "{complaint}");
            assert!(
                !complaint.contains("secret") && !complaint.contains("sec ret"),
                "{complaint}"
            );
            assert_eq!(dead.reason(|_| true), Reason::Unparseable);
            assert_eq!(dead.summary(), complaint);
            assert_eq!(
                dead.replay(SENT),
                Err(ReplayRefusal::Unparseable(complaint))
            );
            assert!(
                dead.is_about(&CampaignId::new("k").unwrap()),
                "its group says so"
            );
            assert!(!dead.is_about(&CampaignId::new("other").unwrap()));
        }
        let unsent = DeadLetter::read(Queue::Claims, &message(json!({})), None, None);
        assert!(unsent.complaint().unwrap().contains("SentTimestamp"));
    }

    #[test]
    fn a_claim_of_no_campaign_or_of_another_partners_is_told_from_one_that_was_given_up() {
        let dead = claim(json!({}));
        let subject = Subject {
            campaign_id: CampaignId::new("k").unwrap(),
            partner_id: PartnerId::new("acme").ok(),
        };
        assert_eq!(
            dead.reason(|asked| *asked == subject),
            Reason::ExhaustedRetries
        );
        assert_eq!(dead.reason(|_| false), Reason::UnknownCampaign);
    }

    #[test]
    fn jobs_are_sent_again_as_they_are() {
        let campaign = sample_campaign(10, SENT);
        let verdict = Verdict::Refused(Outcome::UnknownCampaign);
        let (user, claim_id) = (UserId::new("ann").unwrap(), ClaimId::new("c1").unwrap());
        let connection_id = ConnectionId::new("L0SM9cOFvHcCIhw=").unwrap();
        let answer = Answer {
            connection_id: connection_id.clone(),
            frame: ServerFrame::claim_result(&campaign.campaign_id, &user, &claim_id, &verdict),
            requested_at: Some(SENT),
            trace: TraceHeader::read("Root=1-67891233-abcdef012345678912345678"),
        };
        let deliver = DeliveryJob::Deliver {
            answers: vec![answer.clone(), answer],
            generation: 0,
        };
        let snapshot = DeliveryJob::Snapshot {
            connection_id,
            campaign: campaign.clone(),
            generation: 0,
        };
        let stock = BroadcastJob::Stock(StockJob {
            campaign_id: campaign.campaign_id.clone(),
            shards: 1,
            generation: 0,
            resume: None,
            posted_millis: 0,
        });
        let text = |job: Value| job.to_string();
        for (queue, body, unknown) in [
            (
                Queue::Deliveries,
                text(json!(deliver)),
                Reason::ExhaustedRetries,
            ),
            (
                Queue::Deliveries,
                text(json!(snapshot)),
                Reason::UnknownCampaign,
            ),
            (
                Queue::Broadcast,
                text(json!(stock)),
                Reason::UnknownCampaign,
            ),
        ] {
            let dead = DeadLetter::read(queue, &body, None, Some(SENT));
            assert!(dead.is_about(&campaign.campaign_id), "{}", dead.summary());
            assert_eq!(dead.reason(|_| true), Reason::ExhaustedRetries);
            assert_eq!(dead.reason(|_| false), unknown, "{}", dead.summary());
            let replay = Replay { body, group: None };
            assert_eq!(dead.replay(SENT.plus_seconds(14 * DAY)), Ok(replay));
        }
    }

    #[test]
    fn an_announcement_is_not_sent_again_once_its_report_may_be_forgotten() {
        let announcement = opened(&sample_campaign(10, SENT));
        let page = PageJob {
            broadcast_id: announcement.broadcast_id.clone(),
            topic: announcement.topic.clone(),
            shard: 1,
            generation: 0,
            frame: frame(FrameBody::Pong),
        };
        for job in [
            BroadcastJob::Announce(announcement),
            BroadcastJob::Page(page),
        ] {
            let body = json!(job).to_string();
            let dead = DeadLetter::read(Queue::Broadcast, &body, None, Some(SENT));
            assert!(dead.replay(SENT.plus_seconds(6 * DAY - 1)).is_ok());
            assert_eq!(
                dead.replay(SENT.plus_seconds(6 * DAY)),
                Err(ReplayRefusal::TooOld { days: 6 })
            );
        }
    }
}
