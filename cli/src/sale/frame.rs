//! Frames as a client sees them: what to send, and what an incoming text means. Pure. Written against the public
//! interface, on purpose not with the service's own types: a drift of theirs must show.

use serde::Deserialize;
use serde_json::json;

/// What the service or the gateway says, as far as a customer of a sale cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The claim is in the queue.
    Accepted,
    /// Answer to `result`: nothing decided yet.
    Undecided,
    /// The final answer to a claim.
    Result(Answered),
    /// The socket hears the campaign.
    Subscribed,
    /// Somebody's words to all.
    Broadcast { id: String, message: String },
    /// The service did not carry the frame out.
    Error { code: String, message: String },
    /// The gateway's own: throttled, or the integration failed. To be sent again.
    Gateway(String),
    /// Nothing a sale waits for (stock, snapshot, opened, pong …).
    Other,
}

/// A `claim.result`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) claim_id: Option<String>,
    pub(crate) outcome: String,
    pub(crate) code: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    r#type: Option<String>,
    #[serde(rename = "__type")]
    error_type: Option<String>,
    id: Option<String>,
    claim_id: Option<String>,
    outcome: Option<String>,
    coupon: Option<WireCoupon>,
    code: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct WireCoupon {
    code: String,
}

impl Frame {
    /// Reads a frame. Anything that is not one of the service's is taken for the gateway's.
    pub(crate) fn parse(text: &str) -> Self {
        let Ok(wire) = serde_json::from_str::<Wire>(text) else {
            return Self::Gateway(excerpt(text));
        };
        let Some(kind) = wire.r#type.as_deref() else {
            return Self::Gateway(
                wire.error_type
                    .or(wire.message)
                    .unwrap_or_else(|| excerpt(text)),
            );
        };
        match kind {
            "claim.accepted" => Self::Accepted,
            "claim.undecided" => Self::Undecided,
            "claim.result" => Self::Result(Answered {
                claim_id: wire.claim_id,
                outcome: wire.outcome.unwrap_or_default(),
                code: wire.coupon.map(|coupon| coupon.code),
            }),
            "subscribed" => Self::Subscribed,
            "broadcast" => Self::Broadcast {
                id: wire.id.unwrap_or_default(),
                message: wire.message.unwrap_or_default(),
            },
            "error" => Self::Error {
                code: wire.code.unwrap_or_default(),
                message: wire.message.unwrap_or_default(),
            },
            _ => Self::Other,
        }
    }
}

pub(crate) fn claim(campaign: &str, claim_id: &str) -> String {
    json!({"action": "claim", "campaignId": campaign, "claimId": claim_id}).to_string()
}

pub(crate) fn result(campaign: &str) -> String {
    json!({"action": "result", "campaignId": campaign}).to_string()
}

pub(crate) fn subscribe(campaign: &str) -> String {
    json!({"action": "subscribe", "campaignId": campaign}).to_string()
}

pub(crate) fn ping() -> String {
    json!({"action": "ping"}).to_string()
}

/// Enough of a foreign frame to tell what it was.
fn excerpt(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_its_claim_and_its_coupon() {
        let text = r#"{"id":"1","type":"claim.result","claimId":"c","campaignId":"k","outcome":"issued",
            "coupon":{"code":"X","campaignId":"k","issuedAt":"…","expiresAt":"…"},"new":1}"#;
        let answered = Answered {
            claim_id: Some("c".into()),
            outcome: "issued".into(),
            code: Some("X".into()),
        };
        assert_eq!(Frame::parse(text), Frame::Result(answered));
    }

    #[test]
    fn a_frame_without_type_is_the_gateways() {
        for (text, told) in [
            (
                r#"{"__type":"TooManyRequestsException","message":"Rate Exceeded"}"#,
                "TooManyRequestsException",
            ),
            (
                r#"{"message":"Internal server error","connectionId":"c"}"#,
                "Internal server error",
            ),
            ("throttled", "throttled"),
        ] {
            assert_eq!(Frame::parse(text), Frame::Gateway(told.into()));
        }
    }

    #[test]
    fn a_kind_of_frame_from_the_future_is_passed_over() {
        assert_eq!(
            Frame::parse(r#"{"id":"1","type":"campaign.confetti"}"#),
            Frame::Other
        );
    }

    #[test]
    fn requests_are_written_as_the_interface_says() {
        assert_eq!(
            claim("k", "c"),
            r#"{"action":"claim","campaignId":"k","claimId":"c"}"#
        );
        assert_eq!(subscribe("k"), r#"{"action":"subscribe","campaignId":"k"}"#);
    }
}
