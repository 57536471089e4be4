//! Whatever arrives from outside: a parser answers, in bounds and without panic, and its complaint never quotes the content.

use firstcome_core::{
    CampaignId, Claim, ClaimId, ClaimMessage, ClientFrame, ConnectionId, NewCampaign, PartnerId,
    Snapshot, TicketKey, Timestamp, UserId,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const SECRET: &str = "S3CR3T must be told";

/// Any JSON, most of it with the names that parsers look for.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        Just(json!(SECRET)),
        Just(json!("claim")),
        Just(json!("2026-11-21T00:00:00Z")),
    ];
    let name = prop_oneof![
        Just("action"),
        Just("campaignId"),
        Just("claimId"),
        Just("version"),
        Just("partnerId"),
        Just("userId"),
        Just("requestedAt"),
        Just("connectionId"),
        Just("title"),
        Just("total"),
        Just("opensAt"),
        Just("closesAt"),
        Just("benefit"),
        Just("shards"),
        Just("couponTtlSeconds"),
        Just("priority"),
        Just("campaigns"),
        Just("builtAt"),
    ];
    leaf.prop_recursive(3, 24, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..10).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            )),
        ]
    })
}

/// What clients and producers send, with one field of it replaced.
fn nearly_valid() -> impl Strategy<Value = Value> {
    let message = json!({"version": 1, "claimId": "c", "partnerId": "p", "campaignId": "k", "userId": "u", "requestedAt": NOW});
    let frame = json!({"action": "claim", "campaignId": "k", "claimId": "c"});
    let fields = [
        "version",
        "claimId",
        "partnerId",
        "campaignId",
        "userId",
        "requestedAt",
        "connectionId",
        "action",
    ];
    let base = prop_oneof![Just(message), Just(frame)];
    (base, prop::sample::select(fields.to_vec()), any_json()).prop_map(
        |(mut base, field, value)| {
            base[field] = value;
            base
        },
    )
}

fn any_text() -> impl Strategy<Value = String> {
    let json = prop_oneof![any_json(), nearly_valid()];
    prop_oneof![".{0,200}", json.prop_map(|value| value.to_string())]
}

proptest! {
    #![proptest_config(firstcome_core::hostile::cases(2000))]

    #[test]
    fn a_frame_is_understood_or_refused_without_its_content(text in any_text()) {
        if let Err(error) = ClientFrame::parse(&text) {
            prop_assert!(!error.message.contains("S3CR3T"), "{}", error.message);
        }
    }

    #[test]
    fn a_queue_message_is_understood_or_refused_without_its_content(text in any_text()) {
        if let Err(error) = ClaimMessage::parse(&text, NOW) {
            prop_assert!(!error.to_string().contains("S3CR3T"), "{error}");
        }
    }

    #[test]
    fn a_claim_travels_through_the_queue_with_the_time_it_is_judged_by(
        claim in "[A-Za-z0-9._:-]{1,64}", user in "[A-Za-z0-9._:@~-]{1,127}[A-Za-z0-9_]", at in 0..4_000_000_000_000_i64,
        socket in proptest::option::of("[A-Za-z0-9=_-]{1,64}"),
    ) {
        let sent = Claim {
            claim_id: ClaimId::new(claim).unwrap(),
            partner_id: PartnerId::new("acme").unwrap(),
            campaign_id: CampaignId::mint(NOW, 1),
            user_id: UserId::new(user).unwrap(),
            requested_at: Timestamp::from_millis(at),
            sent_at: NOW,
            connection_id: socket.map(|id| ConnectionId::new(id).unwrap()),
            trace: None,
        };
        let body = serde_json::to_string(&ClaimMessage::from(&sent)).unwrap();
        let requested_at = sent.requested_at.min(NOW);
        prop_assert_eq!(ClaimMessage::parse(&body, NOW).unwrap(), Claim { requested_at, ..sent });
    }

    #[test]
    fn a_campaign_is_in_bounds_or_refused(body in any_json()) {
        if let Ok(new) = serde_json::from_value::<NewCampaign>(body) {
            let made = new.into_campaign(CampaignId::mint(NOW, 1), PartnerId::new("acme").unwrap(), NOW);
            if let Ok(campaign) = made {
                prop_assert!((1..=10_000_000).contains(&campaign.total) && campaign.opens_at < campaign.closes_at);
                prop_assert_eq!(campaign.quotas().map(|(_, quota)| u64::from(quota)).sum::<u64>(), u64::from(campaign.total));
            }
        }
    }

    #[test]
    fn no_text_is_a_ticket(text in prop_oneof![".{0,200}", "[A-Za-z0-9_-]{1,80}\\.[A-Za-z0-9_-]{1,80}\\.[A-Za-z0-9_-]{1,43}"]) {
        let key = TicketKey::new("0123456789abcdef0123456789abcdef").unwrap();
        prop_assert!(key.verify(&text, NOW).is_err());
    }

    #[test]
    fn a_snapshot_is_whole_or_refused(value in any_json()) {
        if let Ok(snapshot) = serde_json::from_value::<Snapshot>(value) {
            prop_assert!(snapshot.campaigns.is_empty(), "random JSON holds no valid campaign");
        }
    }
}
