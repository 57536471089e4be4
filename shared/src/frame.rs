//! WebSocket frames: what clients may say and what they are told. The names are public and fixed.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Campaign, CampaignId, Claim, ClaimId, Coupon, Malformed, Outcome, Phase, Timestamp, UserId,
    Verdict, read_object,
};

/// The largest frame a client may send, in bytes.
pub const MAX_CLIENT_FRAME_BYTES: usize = 8 * 1024;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(
        tag = "action",
        rename_all = "camelCase",
        rename_all_fields = "camelCase"
    )
)]
pub enum ClientFrame {
    /// A coupon.
    Claim {
        /// Of this campaign.
        campaign_id: CampaignId,
        /// The claim's name; strongly advised.
        #[cfg_attr(feature = "schema", schemars(default))]
        claim_id: Option<ClaimId>,
    },
    /// The answer again; never enqueues.
    Result {
        /// Of this campaign.
        campaign_id: CampaignId,
        /// To this claim.
        #[cfg_attr(feature = "schema", schemars(default))]
        claim_id: Option<ClaimId>,
    },
    /// To hear about a campaign.
    Subscribe {
        /// Which.
        campaign_id: CampaignId,
    },
    /// To hear no more about a campaign.
    Unsubscribe {
        /// Which.
        campaign_id: CampaignId,
    },
    /// A sign of life.
    Ping,
}

/// Why a frame was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FrameError {
    /// A stable code: `too_large`, `malformed`, `unknown_action`.
    pub code: &'static str,
    /// What is wrong, with the field's name; never the frame's content.
    pub message: String,
}

impl ClientFrame {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`FrameError`] with a stable code and a text for the client's developer.
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        if text.len() > MAX_CLIENT_FRAME_BYTES {
            let message = format!("frame must be at most {MAX_CLIENT_FRAME_BYTES} bytes");
            return Err(FrameError {
                code: "too_large",
                message,
            });
        }
        // What a member may hold depends on the action: the action alone first.
        let Action { action } = read_object(text, FRAME)?;
        Ok(match action.as_str() {
            "claim" => {
                let OfClaim {
                    campaign_id,
                    claim_id,
                } = read_object(text, FRAME)?;
                Self::Claim {
                    campaign_id,
                    claim_id,
                }
            }
            "result" => {
                let OfClaim {
                    campaign_id,
                    claim_id,
                } = read_object(text, FRAME)?;
                Self::Result {
                    campaign_id,
                    claim_id,
                }
            }
            "subscribe" => {
                let OfCampaign { campaign_id } = read_object(text, FRAME)?;
                Self::Subscribe { campaign_id }
            }
            "unsubscribe" => {
                let OfCampaign { campaign_id } = read_object(text, FRAME)?;
                Self::Unsubscribe { campaign_id }
            }
            "ping" => Self::Ping,
            _ => {
                let message = "action must be claim, result, subscribe, unsubscribe or ping";
                return Err(FrameError {
                    code: "unknown_action",
                    message: message.into(),
                });
            }
        })
    }
}

/// The name of the whole in complaints.
const FRAME: &str = "frame";

#[derive(Deserialize)]
struct Action {
    action: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfClaim {
    campaign_id: CampaignId,
    claim_id: Option<ClaimId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfCampaign {
    campaign_id: CampaignId,
}

impl From<Malformed> for FrameError {
    fn from(malformed: Malformed) -> Self {
        Self {
            code: "malformed",
            message: malformed.to_string(),
        }
    }
}

/// The coupon as its holder sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CouponView {
    /// What the user shows.
    pub code: String,
    /// The campaign it belongs to.
    pub campaign_id: CampaignId,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// The first instant at which it can no longer be used.
    pub expires_at: Timestamp,
}

impl From<&Coupon> for CouponView {
    fn from(coupon: &Coupon) -> Self {
        Self {
            code: coupon.code.clone(),
            campaign_id: coupon.campaign_id.clone(),
            issued_at: coupon.issued_at,
            expires_at: coupon.expires_at,
        }
    }
}

/// What a client is told. The `id` is the same whenever the same thing is said again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServerFrame {
    /// For the client to recognize a repeat.
    pub id: String,
    /// What is said.
    #[serde(flatten)]
    pub body: FrameBody,
}

/// The kinds of [`ServerFrame`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
#[expect(
    missing_docs,
    reason = "the fields are the interface's, documented there and in README.md"
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum FrameBody {
    /// The claim is in the queue; a `claim.result` follows.
    #[serde(rename = "claim.accepted")]
    ClaimAccepted {
        claim_id: ClaimId,
        campaign_id: CampaignId,
    },
    /// Answer to `result`: no coupon stands, and one may still come.
    #[serde(rename = "claim.undecided")]
    ClaimUndecided { campaign_id: CampaignId },
    /// The final answer.
    #[serde(rename = "claim.result")]
    ClaimResult {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        claim_id: Option<ClaimId>,
        campaign_id: CampaignId,
        outcome: Outcome,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        coupon: Option<CouponView>,
    },
    /// A campaign's present state.
    #[serde(rename = "campaign.snapshot")]
    CampaignSnapshot {
        campaign_id: CampaignId,
        phase: Phase,
        total: u32,
        issued: u32,
        remaining: u32,
        opens_at: Timestamp,
        closes_at: Timestamp,
    },
    /// The stock as a gauge: `issued` only grows, a lower one is old.
    #[serde(rename = "campaign.stock")]
    CampaignStock {
        campaign_id: CampaignId,
        issued: u32,
        remaining: u32,
    },
    /// Claims count from now on.
    #[serde(rename = "campaign.opened")]
    CampaignOpened { campaign_id: CampaignId },
    /// Every coupon has gone.
    #[serde(rename = "campaign.sold_out")]
    CampaignSoldOut { campaign_id: CampaignId },
    /// Claims no longer count.
    #[serde(rename = "campaign.closed")]
    CampaignClosed { campaign_id: CampaignId },
    /// The connection hears the campaign.
    #[serde(rename = "subscribed")]
    Subscribed { campaign_id: CampaignId },
    /// The connection no longer hears the campaign.
    #[serde(rename = "unsubscribed")]
    Unsubscribed { campaign_id: CampaignId },
    /// A partner's words.
    #[serde(rename = "broadcast")]
    Broadcast {
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        campaign_id: Option<CampaignId>,
    },
    /// Answer to `ping`.
    #[serde(rename = "pong")]
    Pong,
    /// The frame was not carried out; the socket stays open.
    #[serde(rename = "error")]
    Error { code: String, message: String },
}

impl ServerFrame {
    /// The claim that this is the answer to, where it is one.
    pub fn claim_id(&self) -> Option<&ClaimId> {
        match &self.body {
            FrameBody::ClaimAccepted { claim_id, .. } => Some(claim_id),
            FrameBody::ClaimResult { claim_id, .. } => claim_id.as_ref(),
            _ => None,
        }
    }

    /// The frame with an id made of `parts`: the same parts, the same id.
    pub fn repeatable(parts: &[&str], body: FrameBody) -> Self {
        Self {
            id: stable_id(parts),
            body,
        }
    }

    /// The frame with an id of its own.
    pub fn unique(random: u128, body: FrameBody) -> Self {
        Self {
            id: format!("{random:032x}"),
            body,
        }
    }

    /// The answer to a claim.
    pub fn claim_result(
        campaign: &CampaignId,
        user: &UserId,
        claim: &ClaimId,
        verdict: &Verdict,
    ) -> Self {
        let outcome = verdict.outcome_for(claim);
        let parts = [
            "claim.result",
            campaign.as_str(),
            user.as_str(),
            claim.as_str(),
            outcome.as_str(),
        ];
        let body = FrameBody::ClaimResult {
            claim_id: Some(claim.clone()),
            campaign_id: campaign.clone(),
            outcome,
            coupon: verdict.coupon().map(CouponView::from),
        };
        Self::repeatable(&parts, body)
    }

    /// The receipt for an accepted claim.
    pub fn claim_accepted(claim: &Claim) -> Self {
        let parts = [
            "claim.accepted",
            claim.campaign_id.as_str(),
            claim.user_id.as_str(),
            claim.claim_id.as_str(),
        ];
        let body = FrameBody::ClaimAccepted {
            claim_id: claim.claim_id.clone(),
            campaign_id: claim.campaign_id.clone(),
        };
        Self::repeatable(&parts, body)
    }

    /// A campaign's state with this stock.
    pub fn snapshot(campaign: &Campaign, phase: Phase, issued: u32) -> Self {
        let phase_name = serde_json::to_string(&phase).unwrap_or_default();
        let parts = [
            "campaign.snapshot",
            campaign.campaign_id.as_str(),
            &phase_name,
            &issued.to_string(),
        ];
        let body = FrameBody::CampaignSnapshot {
            campaign_id: campaign.campaign_id.clone(),
            phase,
            total: campaign.total,
            issued,
            remaining: campaign.total.saturating_sub(issued),
            opens_at: campaign.opens_at,
            closes_at: campaign.closes_at,
        };
        Self::repeatable(&parts, body)
    }
}

/// 32 hex characters that are the same for the same parts (SHA-256 over the parts and their lengths).
pub fn stable_id(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_is_understood() {
        let id = CampaignId::new("k").unwrap();
        let parse = |text: &str| ClientFrame::parse(text).unwrap();
        assert_eq!(parse(r#"{"action":"ping","x":1}"#), ClientFrame::Ping);
        // No field of this action, and therefore as good as unknown.
        assert_eq!(
            parse(r#"{"action":"ping","campaignId":7}"#),
            ClientFrame::Ping
        );
        assert_eq!(
            parse(r#"{"action":"claim","campaignId":"k"}"#),
            ClientFrame::Claim {
                campaign_id: id.clone(),
                claim_id: None
            }
        );
        assert_eq!(
            parse(r#"{"action":"subscribe","campaignId":"k"}"#),
            ClientFrame::Subscribe { campaign_id: id }
        );
    }

    #[test]
    fn what_is_no_frame_is_named_without_its_content() {
        for (bad, code, says) in [
            ("hello", "malformed", "JSON object"),
            ("[]", "malformed", "JSON object"),
            ("{}", "malformed", "action is missing"),
            (
                r#"{"action":"ping","action":"ping"}"#,
                "malformed",
                "action must be given once",
            ),
            (
                r#"{"action":"claim","campaignId":"k","campaignId":"secret"}"#,
                "malformed",
                "campaignId must be given once",
            ),
            (r#"{"action":7}"#, "malformed", "action"),
            (r#"{"action":"steal"}"#, "unknown_action", "action must be"),
            (r#"{"action":"claim"}"#, "malformed", "campaignId"),
            (
                r#"{"action":"claim","campaignId":"secret word"}"#,
                "malformed",
                "campaignId must be",
            ),
            (
                r#"{"action":"claim","campaignId":7}"#,
                "malformed",
                "campaignId",
            ),
            (&"x".repeat(9000), "too_large", "8192"),
        ] {
            let error = ClientFrame::parse(bad).unwrap_err();
            assert_eq!(error.code, code, "{bad}");
            assert!(error.message.contains(says), "{}", error.message);
            assert!(!error.message.contains("secret"));
        }
    }

    #[test]
    fn a_frame_is_written_as_the_interface_says() {
        let frame = ServerFrame {
            id: "1".into(),
            body: FrameBody::Pong,
        };
        assert_eq!(
            serde_json::to_string(&frame).unwrap(),
            r#"{"id":"1","type":"pong"}"#
        );
        let coupon = Coupon::sample();
        let (campaign, user, claim) = (
            coupon.campaign_id.clone(),
            coupon.user_id.clone(),
            coupon.claim_id.clone(),
        );
        let frame = ServerFrame::claim_result(&campaign, &user, &claim, &Verdict::Standing(coupon));
        let json = serde_json::to_value(&frame).unwrap();
        assert_eq!(json["type"], "claim.result");
        assert_eq!(json["outcome"], "issued");
        assert_eq!(json["coupon"]["campaignId"], campaign.as_str());
        assert_eq!(serde_json::from_value::<ServerFrame>(json).unwrap(), frame);
    }

    #[test]
    fn an_id_depends_on_where_its_parts_end() {
        assert_ne!(stable_id(&["a", "bc"]), stable_id(&["ab", "c"]));
        assert_eq!(stable_id(&["a", "bc"]), stable_id(&["a", "bc"]));
    }
}
