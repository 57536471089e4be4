//! A claim, the answers it can get, and the message that carries it through the queue.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    CampaignId, ClaimId, ConnectionId, Coupon, InvalidValue, Malformed, PartnerId,
    RETENTION_SECONDS, Timestamp, TraceHeader, UserId, read_object, whole,
};

/// The only version of the claim message.
pub const CLAIM_MESSAGE_VERSION: u8 = 1;

/// The largest claim message, in bytes.
pub const MAX_CLAIM_MESSAGE_BYTES: usize = 8 * 1024;

/// How far the time that a claim states may run ahead of the queue's, in milliseconds; beyond it, the claim is `rejected`.
pub const MAX_AHEAD_MILLIS: i64 = 60_000;

/// How long the queues of claims keep a message, in seconds (template.yaml).
const QUEUE_RETENTION_SECONDS: i64 = 4 * 86_400;

/// How far a claim's own time may lie behind the queue's, in seconds; from there on, the coupon that its user has won by
/// then may be forgotten ([`RETENTION_SECONDS`]) before the message is decided, and the claim is `rejected`.
pub const MAX_BEHIND_SECONDS: i64 = RETENTION_SECONDS - QUEUE_RETENTION_SECONDS;

/// The one final answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Outcome {
    /// The claim won the coupon that is sent along.
    Issued,
    /// The user holds a coupon won by another claim; it is sent along.
    AlreadyIssued,
    /// Every shard was seen empty.
    SoldOut,
    /// The claim's own time lies before the opening.
    NotOpen,
    /// The claim's own time lies after the end, or the campaign was closed early.
    Closed,
    /// There is no such campaign for this partner.
    UnknownCampaign,
    /// The claim can never be stored, such as one whose own time lies ahead of the queue's, or months behind it.
    Rejected,
}

impl Outcome {
    /// The public name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::AlreadyIssued => "already_issued",
            Self::SoldOut => "sold_out",
            Self::NotOpen => "not_open",
            Self::Closed => "closed",
            Self::UnknownCampaign => "unknown_campaign",
            Self::Rejected => "rejected",
        }
    }
}

/// The final answer and, where one stands, the coupon.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// A coupon stands: `issued` if this claim won it, `already_issued` if another did.
    Standing(Coupon),
    /// No coupon stands, for this reason.
    Refused(Outcome),
}

impl Verdict {
    /// The answer to the claim with this id.
    pub fn outcome_for(&self, claim_id: &ClaimId) -> Outcome {
        match self {
            Self::Standing(coupon) if coupon.claim_id == *claim_id => Outcome::Issued,
            Self::Standing(_) => Outcome::AlreadyIssued,
            Self::Refused(outcome) => *outcome,
        }
    }

    /// The coupon, where one stands.
    pub fn coupon(&self) -> Option<&Coupon> {
        match self {
            Self::Standing(coupon) => Some(coupon),
            Self::Refused(_) => None,
        }
    }
}

/// One user's wish for one coupon of one campaign.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Names the wish; a repeat has the same.
    pub claim_id: ClaimId,
    /// Under which partner the user claims.
    pub partner_id: PartnerId,
    /// Which campaign.
    pub campaign_id: CampaignId,
    /// Who.
    pub user_id: UserId,
    /// When it was made, as its door or producer states. Judge it by [`Self::own_time`].
    pub requested_at: Timestamp,
    /// When the queue took it: SQS `SentTimestamp`, the same at every redelivery.
    pub sent_at: Timestamp,
    /// Where the answer goes; `None` if nobody waits on a socket.
    pub connection_id: Option<ConnectionId>,
    /// The platform's name for the claim's journey. Travels as the queue message's own attribute, not in its body.
    pub trace: Option<TraceHeader>,
}

impl Claim {
    /// The claim's own time, by which it is judged and ordered: what it states, but no later than the queue took it. Nobody wins
    /// before the opening because a producer's clock is fast, and no fast clock makes a claim late. Never the worker's clock.
    pub fn own_time(&self) -> Timestamp {
        self.requested_at.min(self.sent_at)
    }

    /// Whether the time that the claim states is too far ahead of the queue's to be true.
    pub fn is_from_the_future(&self) -> bool {
        self.requested_at.millis_since(self.sent_at) > MAX_AHEAD_MILLIS
    }

    /// Whether the claim is from so long before its message that what answers it may be forgotten.
    pub fn is_from_long_ago(&self) -> bool {
        self.sent_at >= self.requested_at.plus_seconds(MAX_BEHIND_SECONDS)
    }
}

/// Claims as a log line names them: `id@trace id` each, or `id` alone, with a space between; `None` for none. A batch's list
/// costs a tenth of a line for each claim.
pub fn claim_list<'a>(
    claims: impl Iterator<Item = (&'a ClaimId, Option<&'a TraceHeader>)>,
) -> Option<String> {
    let name = |(claim, trace): (&ClaimId, Option<&TraceHeader>)| match trace {
        Some(trace) => format!("{claim}@{}", trace.root()),
        None => claim.to_string(),
    };
    let list = claims.map(name).collect::<Vec<_>>().join(" ");
    Some(list).filter(|list| !list.is_empty())
}

/// A claim as it travels through ClaimsQueue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClaimMessage {
    /// The message's form; another one is not understood.
    #[cfg_attr(feature = "schema", schemars(extend("const" = CLAIM_MESSAGE_VERSION)))]
    #[serde(deserialize_with = "whole")]
    pub version: u8,
    /// Names the wish; a repeat has the same.
    pub claim_id: ClaimId,
    /// Under which partner the user claims.
    pub partner_id: PartnerId,
    /// Which campaign.
    pub campaign_id: CampaignId,
    /// Who.
    pub user_id: UserId,
    /// When the claim was made. A producer may leave it out; then, and where it lies ahead of it, the queue's time counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<Timestamp>,
    /// Where the answer goes; left out if nobody waits on a socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<ConnectionId>,
}

/// Why a message is not a claim. Such a message can only end in the dead-letter queue.
#[derive(Debug, Error)]
pub enum ClaimMessageError {
    /// Not JSON, a field missing, or a value out of its bounds.
    #[error("not a claim message: {0}")]
    Malformed(#[from] Malformed),
    /// A version this code does not know.
    #[error("not a claim message: version {0} is unknown")]
    Version(u8),
    /// Over [`MAX_CLAIM_MESSAGE_BYTES`].
    #[error("not a claim message: {0} bytes are more than 8192")]
    TooLong(usize),
    /// The queue's own time of the message is missing.
    #[error("not a claim message: {0}")]
    Attribute(#[from] InvalidValue),
}

impl ClaimMessage {
    /// Reads a queue message's body; `sent_at` is the queue's `SentTimestamp`.
    ///
    /// # Errors
    /// [`ClaimMessageError`], whose text names the field and never holds the body.
    pub fn parse(body: &str, sent_at: Timestamp) -> Result<Claim, ClaimMessageError> {
        if body.len() > MAX_CLAIM_MESSAGE_BYTES {
            return Err(ClaimMessageError::TooLong(body.len()));
        }
        let message: Self = read_object(body, "message")?;
        if message.version != CLAIM_MESSAGE_VERSION {
            return Err(ClaimMessageError::Version(message.version));
        }
        Ok(Claim {
            claim_id: message.claim_id,
            partner_id: message.partner_id,
            campaign_id: message.campaign_id,
            user_id: message.user_id,
            requested_at: message.requested_at.unwrap_or(sent_at),
            sent_at,
            connection_id: message.connection_id,
            trace: None,
        })
    }
}

impl From<&Claim> for ClaimMessage {
    fn from(claim: &Claim) -> Self {
        Self {
            version: CLAIM_MESSAGE_VERSION,
            claim_id: claim.claim_id.clone(),
            partner_id: claim.partner_id.clone(),
            campaign_id: claim.campaign_id.clone(),
            user_id: claim.user_id.clone(),
            // Whoever sends it again sends what it was judged by: at its next sending a time ahead of the first would count.
            requested_at: Some(claim.own_time()),
            connection_id: claim.connection_id.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Timestamp = Timestamp::EPOCH;

    fn body(extra: &str) -> String {
        format!(
            r#"{{"version":1,"claimId":"c","partnerId":"p","campaignId":"k","userId":"u"{extra}}}"#
        )
    }

    #[test]
    fn a_claim_without_a_time_has_the_queues() {
        assert_eq!(
            ClaimMessage::parse(&body(""), SENT).unwrap().requested_at,
            SENT
        );
    }

    #[test]
    fn a_claims_own_time_is_what_it_states_but_no_later_than_the_queues() {
        let own = |stated: i64, sent: i64| {
            let stated = Timestamp::from_millis(stated);
            let message = body(&format!(r#","requestedAt":"{stated}""#));
            let claim = ClaimMessage::parse(&message, Timestamp::from_millis(sent)).unwrap();
            assert!(!claim.is_from_the_future());
            claim.own_time().millis()
        };
        assert_eq!(own(100_000, 160_000), 100_000, "a minute behind");
        assert_eq!(own(160_000, 100_000), 100_000, "a minute ahead");
        assert_eq!(
            [own(99_999, 100_000), own(100_001, 100_000)],
            [99_999, 100_000]
        );
    }

    #[test]
    fn a_claim_that_is_sent_again_states_its_own_time() {
        let message = body(r#","requestedAt":"1970-01-01T00:00:40Z""#);
        let claim = ClaimMessage::parse(&message, SENT).unwrap();
        let again = serde_json::to_string(&ClaimMessage::from(&claim)).unwrap();
        let again = ClaimMessage::parse(&again, SENT.plus_seconds(86_400)).unwrap();
        assert_eq!(again.own_time(), claim.own_time());
    }

    #[test]
    fn a_version_is_a_number_however_it_is_written() {
        for one in ["1", "1.0", "1e0", "0.1e1"] {
            let message = body("").replace("\"version\":1", &format!("\"version\":{one}"));
            assert!(ClaimMessage::parse(&message, SENT).is_ok(), "{one}");
        }
    }

    #[test]
    fn a_claim_more_than_a_minute_ahead_is_from_the_future() {
        let claim = |at: &str| {
            ClaimMessage::parse(&body(&format!(r#","requestedAt":"{at}""#)), SENT).unwrap()
        };
        assert!(!claim("1970-01-01T00:01:00Z").is_from_the_future());
        assert!(claim("1970-01-01T00:01:00.001Z").is_from_the_future());
    }

    #[test]
    fn a_claim_whose_coupon_may_be_forgotten_while_it_waits_is_from_long_ago() {
        let sent = |millis: i64| {
            let message = body(r#","requestedAt":"1970-01-01T00:00:00Z""#);
            ClaimMessage::parse(&message, Timestamp::from_millis(millis)).unwrap()
        };
        let limit = 86 * 86_400_000;
        assert!(!sent(limit - 1).is_from_long_ago());
        assert!(sent(limit).is_from_long_ago());
    }

    #[test]
    fn what_is_no_claim_is_named_without_its_content() {
        for (bad, says) in [
            ("hello".to_owned(), "message must be a JSON object"),
            (
                body("").replace("\"version\":1", "\"version\":\"SECRET\""),
                "version must be a whole number",
            ),
            (
                body("").replace("\"userId\":\"u\"", "\"x\":1"),
                "userId is missing",
            ),
            (body(r#","userId":"SECRET""#), "userId must be given once"),
            (body("").replace("\"u\"", "\"a b\""), "userId must be"),
            (
                body("").replace("\"version\":1", "\"version\":2"),
                "version 2",
            ),
            (body(&format!(r#","x":"{}""#, "y".repeat(9000))), "8192"),
        ] {
            let error = ClaimMessage::parse(&bad, SENT).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn a_standing_coupon_answers_its_own_claim_and_every_other() {
        let coupon = Coupon::sample();
        let own = coupon.claim_id.clone();
        let verdict = Verdict::Standing(coupon);
        assert_eq!(verdict.outcome_for(&own), Outcome::Issued);
        assert_eq!(
            verdict.outcome_for(&ClaimId::new("other").unwrap()),
            Outcome::AlreadyIssued
        );
    }
}
