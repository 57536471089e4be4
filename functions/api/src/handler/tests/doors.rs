//! The doors agree: what one takes, every door takes, and what one refuses, every door refuses under the same name. The same
//! values go to HTTP as prepared events, to the parser of frames and to the parser of queue messages.

use firstcome_core::{ClaimMessage, ClientFrame};

use super::*;

/// What a door says: nothing against it, or the field that it names.
type Verdict = Result<(), String>;

fn refused(field: &str) -> Verdict {
    Err(field.to_owned())
}

/// The first word of a complaint is the field.
fn named(complaint: &str) -> String {
    let complaint = complaint
        .strip_prefix("not a claim message: ")
        .unwrap_or(complaint);
    let (field, _) = complaint.split_once(' ').unwrap_or((complaint, ""));
    // The whole has a name of its own at each door.
    let whole = ["frame", "message"].contains(&field);
    if whole { "body" } else { field }.to_owned()
}

fn of_frame(text: &str) -> Verdict {
    let parsed = ClientFrame::parse(text);
    parsed.map(|_| ()).map_err(|error| match error.code {
        "too_large" => "too_large".to_owned(),
        _ => named(&error.message),
    })
}

fn of_queue(text: &str) -> Verdict {
    let parsed = ClaimMessage::parse(text, now());
    parsed.map(|_| ()).map_err(|error| match error.to_string() {
        text if text.contains("more than 8192") => "too_large".to_owned(),
        text => named(&text),
    })
}

async fn of_http(stage: &Stage, path: &str, text: &str) -> Verdict {
    let headers = [("idempotency-key", text.len().to_string())];
    let headers = [(headers[0].0, headers[0].1.as_str())];
    let answer = answered(
        &stage
            .door
            .answer(&event("POST", path, "", text, &headers).to_string())
            .await,
    );
    match answer.status {
        400 => Err(answer.body["field"].as_str().unwrap().to_owned()),
        413 => refused("too_large"),
        500.. => panic!("{text}: {}", answer.body),
        _ => Ok(()),
    }
}

/// A claim at each door, with these members beside those that it must have, or instead of them.
struct Claims {
    http: String,
    frame: String,
    queue: String,
}

/// Members as JSON; of those that every claim has, `instead` are replaced.
fn claims(more: &str, instead: &[(&str, &str)]) -> Claims {
    let object = |members: &[(&str, &str)]| {
        let member = |(name, value): &(&str, &str)| {
            let replaced = instead.iter().find(|(known, _)| known == name);
            format!("\"{name}\":{}", replaced.map_or(*value, |(_, value)| value))
        };
        let members: Vec<String> = members.iter().map(member).collect();
        format!("{{{}{more}}}", members.join(","))
    };
    let campaign = format!("\"{CAMPAIGN}\"");
    let (user, claim) = (("userId", "\"u\""), ("claimId", "\"c\""));
    Claims {
        http: object(&[user, claim]),
        frame: object(&[("action", "\"claim\""), ("campaignId", &campaign), claim]),
        queue: object(&[
            ("version", "1"),
            ("partnerId", "\"acme\""),
            ("campaignId", &campaign),
            user,
            claim,
        ]),
    }
}

impl Claims {
    /// All doors say the same.
    async fn are(&self, stage: &Stage, verdict: &Verdict) {
        let path = format!("/v1/campaigns/{CAMPAIGN}/claims");
        assert_eq!(
            of_http(stage, &path, &self.http).await,
            *verdict,
            "HTTP: {}",
            self.http
        );
        assert_eq!(of_frame(&self.frame), *verdict, "WebSocket: {}", self.frame);
        assert_eq!(of_queue(&self.queue), *verdict, "SQS: {}", self.queue);
    }
}

fn door() -> Stage {
    stage().with_campaign(|campaign| campaign.total = 10_000)
}

fn deep(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

#[tokio::test]
async fn unknown_members_are_ignored_whatever_they_hold() {
    let stage = door();
    for unknown in [
        "1e999",
        "-1e999",
        "0.1e-9999",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\u0000\"",
        "null",
        &deep(200),
        &deep(1000),
        "12345678901234567890123",
        "{\"userId\":7,\"userId\":8}",
    ] {
        claims(&format!(",\"x\":{unknown}"), &[])
            .are(&stage, &Ok(()))
            .await;
        claims(&format!(",\"x\":{unknown},\"x\":{unknown}"), &[])
            .are(&stage, &Ok(()))
            .await;
        claims(
            &format!(",\"ClaimId\":{unknown},\"claim_id\":{unknown},\"\\ud83d\\ude00\":{unknown}"),
            &[],
        )
        .are(&stage, &Ok(()))
        .await;
    }
}

#[tokio::test]
async fn a_known_member_is_given_once() {
    let stage = door();
    for claim in ["\"c\"", "\"d\"", "7", "null", "1e999"] {
        claims(&format!(",\"claimId\":{claim}"), &[])
            .are(&stage, &refused("claimId"))
            .await;
        claims(&format!(",\"cl\\u0061imId\":{claim}"), &[])
            .are(&stage, &refused("claimId"))
            .await;
    }
    for (name, text) in [
        ("version", ",\"version\":1"),
        ("partnerId", ",\"partnerId\":\"acme\""),
        ("userId", ",\"userId\":\"u\""),
        ("requestedAt", ",\"requestedAt\":null,\"requestedAt\":null"),
    ] {
        assert_eq!(of_queue(&claims(text, &[]).queue), refused(name));
    }
    for (name, text) in [
        ("action", ",\"action\":\"claim\""),
        ("campaignId", ",\"campaignId\":\"x\""),
    ] {
        assert_eq!(of_frame(&claims(text, &[]).frame), refused(name));
    }
    let path = format!("/v1/campaigns/{CAMPAIGN}/claims");
    let doubled = claims(",\"userId\":\"u\"", &[]).http;
    assert_eq!(of_http(&stage, &path, &doubled).await, refused("userId"));
}

#[tokio::test]
async fn an_id_is_one_at_every_door_or_at_none() {
    let stage = door();
    let long = |length: usize| format!("\"{}\"", "x".repeat(length));
    let (fits, over, user_fits, user_over) = (long(64), long(65), long(128), long(129));
    let good = [
        "\"a\"",
        "\"A-z.0_9:\"",
        "\".\"",
        "\"..\"",
        "\"\\u0061\"",
        &fits,
    ];
    let bad = [
        "\"\"",
        "\" \"",
        "\"a b\"",
        "\"a\\tb\"",
        "\"a\\nb\"",
        "\"a\\u0000\"",
        "\"a/b\"",
        "\"a\\\\b\"",
        "\"a#b\"",
        "\"a?b\"",
        "\"a%20b\"",
        "\"%2e\"",
        "\"a+b\"",
        "\"é\"",
        "\"ａ\"",
        "\"\\ufeffa\"",
        "\"\\ud800\"",
        "\"a\u{a0}\"",
        "\"a\u{7f}\"",
        &over,
        "7",
        "1.0",
        "1e999",
        "true",
        "[]",
        "{}",
        "[\"a\"]",
        "{\"a\":\"b\"}",
        &deep(100),
        &deep(200),
    ];
    for claim in good {
        claims("", &[("claimId", claim)]).are(&stage, &Ok(())).await;
    }
    for claim in bad {
        claims("", &[("claimId", claim)])
            .are(&stage, &refused("claimId"))
            .await;
    }
    // The names of users hold two characters more, and are never `.` or `..`.
    let path = format!("/v1/campaigns/{CAMPAIGN}/claims");
    let users = good.iter().chain(&bad).copied().chain([
        "\"a@b\"", "\"~a\"", "\"...\"", &user_fits, &user_over, "null",
    ]);
    for user in users {
        let claims = claims("", &[("userId", user)]);
        let is_good = (good.contains(&user)
            || [
                "\"a@b\"",
                "\"~a\"",
                "\"...\"",
                user_fits.as_str(),
                over.as_str(),
            ]
            .contains(&user))
            && !["\".\"", "\"..\""].contains(&user);
        let verdict = if is_good { Ok(()) } else { refused("userId") };
        assert_eq!(
            of_http(&stage, &path, &claims.http).await,
            verdict,
            "{user}"
        );
        assert_eq!(of_queue(&claims.queue), verdict, "{user}");
        let ticket = format!("{{\"userId\":{user}}}");
        assert_eq!(
            of_http(&stage, "/v1/tickets", &ticket).await,
            verdict,
            "{user}"
        );
        let transfer = format!("{{\"fromUserId\":\"w\",\"toUserId\":{user},\"amount\":1}}");
        let verdict = verdict.map_err(|_| "toUserId".to_owned());
        assert_eq!(
            of_http(&stage, "/v1/transfers", &transfer).await,
            verdict,
            "{user}"
        );
    }
    for campaign in good.iter().chain(&bad) {
        let claims = claims("", &[("campaignId", campaign)]);
        let verdict = if good.contains(campaign) {
            Ok(())
        } else {
            refused("campaignId")
        };
        assert_eq!(of_frame(&claims.frame), verdict, "{campaign}");
        assert_eq!(of_queue(&claims.queue), verdict, "{campaign}");
    }
}

#[tokio::test]
async fn a_time_is_one_at_every_door_or_at_none() {
    let stage = door();
    for (time, good) in [
        ("\"2030-01-31T09:00:00Z\"", true),
        ("\"2030-01-31T09:00:00.1Z\"", true),
        ("\"2030-01-31T09:00:00.123456789Z\"", true),
        ("\"2030-01-31T18:00:00+09:00\"", true),
        ("\"9999-12-31T23:59:59.999Z\"", true),
        ("null", true),
        ("\"1969-12-31T23:59:59.999Z\"", false),
        ("\"10000-01-01T00:00:00Z\"", false),
        ("\"9999-12-31T23:59:59-01:00\"", false),
        ("\"2030-02-30T09:00:00Z\"", false),
        ("\"2030-01-31\"", false),
        ("\"2030-01-31T09:00:00\"", false),
        ("\"2030-01-31T25:00:00Z\"", false),
        ("\"tomorrow\"", false),
        ("\"\"", false),
        ("1790000000000", false),
        ("1e999", false),
        ("true", false),
        ("{}", false),
    ] {
        let verdict = |field: &str| if good { Ok(()) } else { refused(field) };
        let message = claims(&format!(",\"requestedAt\":{time}"), &[]).queue;
        assert_eq!(of_queue(&message), verdict("requestedAt"), "{time}");
        let earning = format!("{{\"amount\":1,\"reason\":\"r\",\"expiresAt\":{time}}}");
        let earned = of_http(&stage, "/v1/users/u/wallet/earn", &earning).await;
        assert_eq!(earned, verdict("expiresAt"), "{time}");
        if !time.contains("9999-12-31T23:59:59.999Z") {
            let campaign = format!("{{\"title\":\"t\",\"total\":1,\"opensAt\":{time}}}");
            let created = of_http(&stage, "/v1/campaigns", &campaign).await;
            assert_eq!(created, verdict("opensAt"), "{time}");
        }
    }
}

#[tokio::test]
async fn a_whole_number_is_one_however_it_is_written_and_at_every_door() {
    let stage = door();
    for (number, good) in [
        ("50", true),
        ("50.0", true),
        ("5e1", true),
        ("0.5E+2", true),
        ("500e-1", true),
        ("50.5", false),
        ("-50", false),
        ("1e999", false),
        ("-1e999", false),
        ("1e-999", false),
        ("18446744073709551616", false),
        ("\"50\"", false),
        ("[50]", false),
        ("true", false),
    ] {
        let verdict = |field: &str| if good { Ok(()) } else { refused(field) };
        for (path, body, field) in [
            ("/v1/campaigns", "{\"title\":\"t\",\"total\":N}", "total"),
            (
                "/v1/campaigns",
                "{\"title\":\"t\",\"total\":1,\"shards\":N}",
                "shards",
            ),
            (
                "/v1/campaigns",
                "{\"title\":\"t\",\"total\":1,\"couponTtlSeconds\":N}",
                "couponTtlSeconds",
            ),
            (
                "/v1/campaigns",
                "{\"title\":\"t\",\"total\":1,\"benefit\":{\"type\":\"points\",\"amount\":N}}",
                "benefit",
            ),
            (
                "/v1/tickets",
                "{\"userId\":\"u\",\"ttlSeconds\":N}",
                "ttlSeconds",
            ),
            (
                "/v1/users/u/wallet/earn",
                "{\"amount\":N,\"reason\":\"r\"}",
                "amount",
            ),
            (
                "/v1/users/u/wallet/use",
                "{\"amount\":N,\"reason\":\"r\"}",
                "amount",
            ),
            (
                "/v1/transfers",
                "{\"fromUserId\":\"u\",\"toUserId\":\"v\",\"amount\":N}",
                "amount",
            ),
        ] {
            let body = body.replace('N', number);
            assert_eq!(
                of_http(&stage, path, &body).await,
                verdict(field),
                "{path} {body}"
            );
        }
        let one = number
            .replace("500", "10")
            .replace("50", "1")
            .replace("5e1", "1e0")
            .replace("0.5E+2", "0.1E+1");
        let message = claims("", &[("version", &one)]).queue;
        assert_eq!(of_queue(&message), verdict("version"), "{one}");
    }
}

#[tokio::test]
async fn a_text_is_a_json_object_of_8192_bytes_at_most() {
    let stage = door();
    let claim = claims("", &[]);
    let changed = |change: &dyn Fn(&str) -> String| Claims {
        http: change(&claim.http),
        frame: change(&claim.frame),
        queue: change(&claim.queue),
    };
    let padded = |length: usize| move |text: &str| format!("{text:<length$}");
    for (change, verdict) in [
        (
            &(|text: &str| format!(" \t\r\n{text} \n")) as &dyn Fn(&str) -> String,
            Ok(()),
        ),
        (&padded(8192), Ok(())),
        (&padded(8193), refused("too_large")),
        (&|_| String::new(), refused("body")),
        (&|_| "null".into(), refused("body")),
        (&|_| "\"x\"".into(), refused("body")),
        (&|_| deep(4000), refused("body")),
        (&|_| "{\"x\":".repeat(1300), refused("body")),
        (&|text| format!("[{text}]"), refused("body")),
        (&|text| format!("{text}{text}"), refused("body")),
        (&|text| format!("{text},"), refused("body")),
        (&|text| format!("{text}\0"), refused("body")),
        (&|text| format!("\u{feff}{text}"), refused("body")),
        (&|text| format!("\u{a0}{text}"), refused("body")),
        (&|text| format!("// {text}"), refused("body")),
        (&|text| text.replace('"', "'"), refused("body")),
        (&|text| text.replace('}', ",}"), refused("body")),
        (&|text| text[..text.len() - 1].into(), refused("body")),
        (&|text| text.replace('}', ",\"x\":NaN}"), refused("body")),
        (
            &|text| text.replace('}', ",\"x\":Infinity}"),
            refused("body"),
        ),
        (&|text| text.replace('}', ",\"x\":01}"), refused("body")),
        (
            &|text| text.replace('}', ",\"x\":\"a\nb\"}"),
            refused("body"),
        ),
        (
            &|text| text.replace('}', ",\"x\":\"\\q\"}"),
            refused("body"),
        ),
        (&|text| text.replace('}', ",x:1}"), refused("body")),
    ] {
        changed(change).are(&stage, &verdict).await;
    }
    // An object without members lacks the first that it must have.
    assert_eq!(of_frame("{}"), refused("action"));
    assert_eq!(of_queue("{}"), refused("version"));
    for path in ["/v1/tickets", &format!("/v1/campaigns/{CAMPAIGN}/claims")] {
        assert_eq!(of_http(&stage, path, "{}").await, refused("userId"));
    }
}

#[tokio::test]
async fn a_benefit_comes_back_as_it_was_sent() {
    let stage = stage();
    for benefit in [
        r#"{"v":9007199254740991.0}"#,
        r#"{"v":9007199254740993}"#,
        "50.0",
        "1E+2",
        "1e300",
        r#"{"b":1,"a":[0.10,-0,{"":[]}]}"#,
        r#""\"쿠폰\"""#,
        r#"{"type":"points","amount":50.0}"#,
    ] {
        let body = format!("{{\"title\":\"t\",\"total\":1,\"benefit\": {benefit} }}");
        let asked = event("POST", "/v1/campaigns", "", &body, &[]);
        let created = serde_json::to_value(stage.door.answer(&asked.to_string()).await).unwrap();
        assert_eq!(created["statusCode"], 201, "{created}");
        let id: Value = serde_json::from_str(created["body"].as_str().unwrap()).unwrap();
        let path = format!("/v1/campaigns/{}", id["campaignId"].as_str().unwrap());
        let shown = stage
            .door
            .answer(&event("GET", &path, "", "", &[]).to_string())
            .await;
        let listed = stage
            .door
            .answer(&event("GET", "/v1/campaigns", "", "", &[]).to_string())
            .await;
        for answer in [
            created,
            serde_json::to_value(shown).unwrap(),
            serde_json::to_value(listed).unwrap(),
        ] {
            let text = answer["body"].as_str().unwrap();
            assert!(text.contains(&format!("\"benefit\":{benefit},")), "{text}");
        }
    }
}

#[tokio::test]
async fn fifty_points_are_fifty_however_they_are_written() {
    let points = firstcome_core::Benefit::new(r#"{"type":"points","amount":50.0}"#).unwrap();
    let stage = stage().with_campaign(|campaign| campaign.benefit = Some(points));
    stage
        .win(&campaign_of("acme", CAMPAIGN, 2), "user-1", "c")
        .await;
    assert_eq!(stage.event("redeem-coupon").await.status, 200);
    assert_eq!(stage.balance("user-1").await, 50);
}
