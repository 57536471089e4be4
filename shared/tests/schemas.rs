//! schemas/ against the types, the parsers, the serializer and the samples in events/.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use firstcome_core::memory::sample_campaign;
use firstcome_core::{
    Answer, BroadcastId, BroadcastJob, ClaimId, ClaimMessage, ClientFrame, ConnectionId, Coupon,
    DeliveryJob, FrameBody, Outcome, PageJob, Phase, ServerFrame, StockJob, Timestamp, TraceHeader,
    Verdict, closed, hostile, opened, schema,
};
use jsonschema::Validator;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_123);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn validator(name: &str) -> Validator {
    let contracts = schema::contracts();
    let found = contracts.into_iter().find(|(known, _)| *known == name);
    let schema = found.unwrap().1.to_value();
    jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&schema)
        .unwrap()
}

/// Whether what is named so is understood by the function that gets it.
fn is_understood(name: &str, message: &Value) -> bool {
    let text = message.to_string();
    match name {
        "claim-message" => ClaimMessage::parse(&text, NOW).is_ok(),
        "delivery-job" => serde_json::from_str::<DeliveryJob>(&text).is_ok(),
        "broadcast-job" => serde_json::from_str::<BroadcastJob>(&text).is_ok(),
        "client-frame" => ClientFrame::parse(&text).is_ok(),
        "server-frame" => serde_json::from_str::<ServerFrame>(&text).is_ok(),
        other => panic!("{other} is no contract"),
    }
}

/// What a producer or a client is told of a message that is not understood.
fn complaint(name: &str, message: &Value) -> Option<String> {
    let text = message.to_string();
    match name {
        "claim-message" => ClaimMessage::parse(&text, NOW)
            .err()
            .map(|error| error.to_string()),
        "client-frame" => ClientFrame::parse(&text).err().map(|error| error.message),
        _ => None,
    }
}

/// The samples of `events/`: bodies inside SQS records, frames inside gateway events.
fn samples() -> Vec<(&'static str, Value)> {
    let mut samples = Vec::new();
    for entry in std::fs::read_dir(root().join("events")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let event: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let bodies: Vec<&Value> = match event["Records"].as_array() {
            Some(records) => records.iter().map(|record| &record["body"]).collect(),
            None => vec![&event["body"]],
        };
        for body in bodies.into_iter().filter_map(Value::as_str) {
            let body: Value = serde_json::from_str(body).unwrap_or_else(|_| body.into());
            let name = match file.split('-').next().unwrap() {
                "issue" => "claim-message",
                "claim" => "client-frame",
                "broadcast" if ["announce", "page", "stock"].contains(&kind(&body)) => {
                    "broadcast-job"
                }
                "broadcast" => "delivery-job",
                _ => continue,
            };
            samples.push((name, body));
        }
    }
    samples
}

fn kind(job: &Value) -> &str {
    job["kind"].as_str().unwrap_or_default()
}

/// Every frame there is, as the serializer writes it.
fn frames() -> Vec<Value> {
    let campaign = sample_campaign(3, NOW);
    let campaign_id = campaign.campaign_id.clone();
    let claim_id = ClaimId::new("claim-1").unwrap();
    let coupon = Coupon::sample();
    let user = coupon.user_id.clone();
    let won = Verdict::Standing(coupon.clone());
    let lost = Verdict::Refused(Outcome::SoldOut);
    let bodies = [
        FrameBody::ClaimAccepted {
            claim_id: claim_id.clone(),
            campaign_id: campaign_id.clone(),
        },
        FrameBody::ClaimUndecided {
            campaign_id: campaign_id.clone(),
        },
        FrameBody::ClaimResult {
            claim_id: None,
            campaign_id: campaign_id.clone(),
            outcome: Outcome::NotOpen,
            coupon: None,
        },
        FrameBody::CampaignStock {
            campaign_id: campaign_id.clone(),
            issued: 1,
            remaining: 2,
        },
        FrameBody::CampaignSoldOut {
            campaign_id: campaign_id.clone(),
        },
        FrameBody::Subscribed {
            campaign_id: campaign_id.clone(),
        },
        FrameBody::Unsubscribed {
            campaign_id: campaign_id.clone(),
        },
        FrameBody::Broadcast {
            message: "곧 시작합니다".into(),
            campaign_id: None,
        },
        FrameBody::Pong,
        FrameBody::Error {
            code: "malformed".into(),
            message: "campaignId is missing".into(),
        },
    ];
    let made = [
        ServerFrame::claim_result(&campaign_id, &user, &coupon.claim_id, &won),
        ServerFrame::claim_result(&campaign_id, &user, &claim_id, &won),
        ServerFrame::claim_result(&campaign_id, &user, &claim_id, &lost),
        ServerFrame::snapshot(&campaign, Phase::Open, 1),
        opened(&campaign).frame,
        closed(&campaign).frame,
    ];
    let bodies = bodies.into_iter().map(|body| ServerFrame::unique(7, body));
    made.into_iter()
        .chain(bodies)
        .map(|frame| serde_json::to_value(frame).unwrap())
        .collect()
}

/// Every message there is, as the functions write it.
fn messages() -> Vec<(&'static str, Value)> {
    let campaign = sample_campaign(3, NOW);
    let announcement = opened(&campaign);
    let connection_id = ConnectionId::new("L0SM9cOFvHcCIhw=").unwrap();
    let frame = announcement.frame.clone();
    let answers = vec![Answer {
        connection_id: connection_id.clone(),
        frame: frame.clone(),
        requested_at: Some(NOW),
        trace: TraceHeader::read("Root=1-67891233-abcdef012345678912345678;Sampled=0"),
    }];
    let page = PageJob {
        broadcast_id: BroadcastId::derived(&["x"]),
        topic: announcement.topic.clone(),
        shard: 7,
        generation: 3,
        frame,
    };
    let stock = |resume| StockJob {
        campaign_id: campaign.campaign_id.clone(),
        shards: 64,
        generation: 0,
        resume,
        posted_millis: 0,
    };
    let claim = json!({
        "version": 1, "claimId": "c", "partnerId": "p", "campaignId": "k", "userId": "u",
        "requestedAt": NOW, "connectionId": connection_id,
    });
    let claim = ClaimMessage::parse(&claim.to_string(), NOW).unwrap();
    let jobs = [
        BroadcastJob::Announce(announcement),
        BroadcastJob::Page(page),
        BroadcastJob::Stock(stock(None)),
        BroadcastJob::Stock(stock(Some((2, Some(connection_id.clone()))))),
    ];
    let deliveries = [
        DeliveryJob::Deliver {
            answers,
            generation: 0,
        },
        DeliveryJob::Snapshot {
            connection_id,
            campaign,
            generation: 4,
        },
    ];
    let claim = serde_json::to_value(ClaimMessage::from(&claim)).unwrap();
    let jobs = jobs.iter().map(|job| serde_json::to_value(job).unwrap());
    let deliveries = deliveries
        .iter()
        .map(|job| serde_json::to_value(job).unwrap());
    std::iter::once(("claim-message", claim))
        .chain(jobs.map(|job| ("broadcast-job", job)))
        .chain(deliveries.map(|job| ("delivery-job", job)))
        .collect()
}

#[test]
fn the_files_in_schemas_say_what_the_types_say() {
    let folder = root().join("schemas");
    let mut expected = BTreeSet::new();
    for (name, schema) in schema::contracts() {
        let mut schema = schema.to_value();
        schema["$id"] = format!("firstcome:{name}").into();
        // Whether a map keeps its order depends on what else is compiled.
        schema.sort_all_objects();
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        let file = folder.join(format!("{name}.json"));
        if std::env::var_os("WRITE_CONTRACTS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(&file).unwrap_or_default() == text,
            "schemas/{name}.json differs from the types. A field that is gone, renamed or newly required breaks who \
             programs against it; if the change is meant, `make contracts` writes the file anew"
        );
        expected.insert(format!("{name}.json"));
    }
    let files: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, expected);
}

#[test]
fn no_description_speaks_rust() {
    for (name, schema) in schema::contracts() {
        let text = schema.to_value().to_string();
        assert!(!text.contains("[`") && !text.contains("::"), "{name}");
    }
}

#[test]
fn a_sample_is_understood_if_its_schema_admits_it_and_only_then() {
    let samples = samples();
    for name in [
        "claim-message",
        "delivery-job",
        "broadcast-job",
        "client-frame",
    ] {
        let validator = validator(name);
        let of: Vec<&Value> = samples
            .iter()
            .filter(|(whose, _)| *whose == name)
            .map(|(_, sample)| sample)
            .collect();
        let good = of
            .iter()
            .filter(|sample| validator.is_valid(sample))
            .count();
        assert!(good > 0, "no sample of {name}");
        for sample in of {
            let admitted = validator.is_valid(sample);
            assert_eq!(admitted, is_understood(name, sample), "{name}: {sample}");
        }
    }
}

#[test]
fn what_is_written_is_admitted() {
    for (name, message) in messages() {
        assert!(validator(name).is_valid(&message), "{name}: {message}");
        assert!(is_understood(name, &message), "{name}: {message}");
    }
    let validator = validator("server-frame");
    let mut types = BTreeSet::new();
    for frame in frames() {
        assert!(validator.is_valid(&frame), "{frame}");
        types.insert(frame["type"].as_str().unwrap().to_owned());
        for field in frame.as_object().unwrap().keys() {
            // What every frame of its type bears; the others are optional.
            let optional = ["claimId", "coupon"].contains(&field.as_str())
                && frame["type"] == "claim.result"
                || frame["type"] == "broadcast" && field == "campaignId";
            let mut less = frame.clone();
            less.as_object_mut().unwrap().remove(field);
            assert_eq!(validator.is_valid(&less), optional, "{field} of {frame}");
        }
    }
    let schema = schema::contracts()[4].1.clone().to_value();
    let known = schema["oneOf"].as_array().unwrap().iter();
    let known = known.map(|one| {
        one["properties"]["type"]["const"]
            .as_str()
            .unwrap()
            .to_owned()
    });
    assert_eq!(types, known.collect(), "every type of frame is written");
}

/// Parsers and schemas agree on what is changed in one place.
#[test]
fn a_schema_admits_a_changed_message_if_it_is_still_understood() {
    let mut values = hostile::values();
    values.push(json!(NOW));
    let mut judged = (0, 0);
    let frames = samples()
        .into_iter()
        .filter(|(name, sample)| *name == "client-frame" && is_understood(name, sample));
    for (name, message) in messages().into_iter().chain(frames) {
        let validator = validator(name);
        for field in message.as_object().unwrap().keys() {
            let mut changed = message.clone();
            changed.as_object_mut().unwrap().remove(field);
            let mut variants = vec![changed];
            // Jobs are written by functions, which write whole numbers as such.
            let is_job = name.ends_with("-job");
            for value in values.iter().filter(|value| !(is_job && value.is_f64())) {
                let mut changed = message.clone();
                changed[field] = value.clone();
                variants.push(changed);
            }
            for variant in variants {
                let admitted = validator.is_valid(&variant);
                assert_eq!(admitted, is_understood(name, &variant), "{name}: {variant}");
                if let Some(complaint) = complaint(name, &variant) {
                    assert!(complaint.contains(field), "{variant}: {complaint}");
                }
                if admitted {
                    judged.0 += 1;
                } else {
                    judged.1 += 1;
                }
            }
        }
    }
    assert!(judged.0 > 50 && judged.1 > 200, "{judged:?}");
}
