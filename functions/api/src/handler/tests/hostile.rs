//! What no partner would send, as prepared events: every route with hostile characters in every parameter, and events that
//! are almost requests. Nothing is carried out and nothing panics.

use firstcome_core::hostile;
use proptest::prelude::*;

use super::*;

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// A stage on which each operation of the document can be carried out, for `user-1` and the events' campaign.
async fn full_stage() -> Stage {
    let stage = stage().with_campaign(|campaign| campaign.total = 10);
    let campaign = campaign_of("acme", CAMPAIGN, 10);
    stage.win(&campaign, "user-1", "claim-1").await;
    stage.win(&campaign, "bob", "claim-2").await;
    for user in ["user-1", "bob"] {
        let body = r#"{"amount":500,"reason":"r"}"#;
        let path = format!("/v1/users/{user}/wallet/earn");
        assert_eq!(stage.move_points(&path, user, body).await.status, 200);
    }
    stage
}

impl Stage {
    /// Everything that is stored or sent, and how often it was looked at.
    fn contents(&self) -> String {
        self.parts().map(|(_, part)| part).join(" ")
    }

    /// Everything that is stored or sent, part by part.
    fn parts(&self) -> [(&'static str, String); 4] {
        [
            ("ledger", format!("{:?}", self.ledger)),
            ("catalog", format!("{:?}", self.catalog)),
            ("outbox", format!("{:?}", self.outbox)),
            ("wallets", format!("{:?}", self.wallets)),
        ]
    }

    /// The status alone: the document is held to answers elsewhere, and here are many thousands.
    async fn status(&self, event: &Value) -> u16 {
        let answer = serde_json::to_value(self.door.answer(&event.to_string()).await).unwrap();
        u16::try_from(answer["statusCode"].as_u64().unwrap()).unwrap()
    }
}

/// A request of this route that would be carried out if `path` were its path.
fn request(route: &str, method: &str, path: &str, n: usize) -> Value {
    let operation = &openapi::served()["paths"][route][method.to_lowercase()];
    let mut body = operation["requestBody"]["content"]["application/json"]["example"].clone();
    let body = match body.as_object_mut() {
        None => String::new(),
        Some(members) => {
            // The stage's coupon has another.
            members.remove("code");
            // Who holds a coupon is answered with it, and leaves no trace.
            if route.ends_with("/claims") {
                members.insert("userId".into(), "ann".into());
            }
            body.to_string()
        }
    };
    let key = format!("key-{n}");
    event(
        method,
        path,
        "orderId=order-1",
        &body,
        &[("idempotency-key", &key)],
    )
}

/// The path with the events' ids in it; the `n`th parameter is this instead.
fn filled_but(route: &str, n: usize, hostile: &str) -> String {
    let mut parameters = 0;
    let segments = route.split('/').map(|segment| {
        if !segment.starts_with('{') {
            return segment.to_owned();
        }
        parameters += 1;
        if parameters == n + 1 {
            return hostile.to_owned();
        }
        filled(segment)
    });
    segments.collect::<Vec<_>>().join("/")
}

/// What is put in the place of an id, in each of the ways that somebody might.
fn hostile_ids(good: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (encoded, decoded) in hostile::ENCODED {
        // API Gateway decodes some of what was encoded twice, and some only once.
        for text in [encoded, decoded, &encoded.replace('%', "%25")] {
            all.extend([
                text.to_owned(),
                format!("{good}/{text}"),
                format!("{text}/{good}"),
            ]);
            // A dot beside other characters is a part of an id.
            if !text.bytes().all(|byte| byte == b'.') {
                let (head, tail) = good.split_at(1);
                all.extend([
                    format!("{head}{text}{tail}"),
                    format!("{good}{text}"),
                    format!("{text}{good}"),
                ]);
            }
        }
    }
    all.push(format!("{good}/wallet/use?"));
    all.push(format!("{good}#"));
    all.push(String::new());
    all
}

#[tokio::test]
async fn the_examples_of_the_document_are_carried_out() {
    let mut carried_out = 0;
    for (n, route) in routes::<InMemory>().into_iter().enumerate() {
        let operations = openapi::served()["paths"][route.path].as_object().unwrap();
        for method in operations.keys() {
            let stage = full_stage().await;
            let path = filled(route.path);
            let asked = request(route.path, &method.to_uppercase(), &path, n);
            let status = stage.status(&asked).await;
            let of_an_absent_report = route.path == "/v1/broadcasts/{broadcastId}";
            assert_eq!(
                status < 300,
                !of_an_absent_report,
                "{method} {path}: {status}"
            );
            carried_out += 1;
        }
    }
    assert!(carried_out >= 19, "{carried_out}");
}

/// Where what an operation does is seen. Without it, that nothing has changed would say nothing.
const TRACES: [(&str, &str, &str); 10] = [
    ("post", "/v1/campaigns", "ledger"),
    ("post", "/v1/campaigns/{campaignId}/close", "ledger"),
    ("post", "/v1/campaigns/{campaignId}/claims", "outbox"),
    ("post", "/v1/campaigns/{campaignId}/broadcasts", "outbox"),
    ("post", "/v1/broadcasts", "outbox"),
    ("post", REDEMPTION_ROUTE, "ledger"),
    ("delete", REDEMPTION_ROUTE, "ledger"),
    ("post", "/v1/users/{userId}/wallet/earn", "wallets"),
    ("post", "/v1/users/{userId}/wallet/use", "wallets"),
    ("post", "/v1/transfers", "wallets"),
];
const REDEMPTION_ROUTE: &str = "/v1/users/{userId}/coupons/{campaignId}/redemption";

#[tokio::test]
async fn what_is_carried_out_is_seen_in_the_contents() {
    let mut traced = Vec::new();
    for (n, route) in routes::<InMemory>().into_iter().enumerate() {
        let operations = openapi::served()["paths"][route.path].as_object().unwrap();
        for method in operations.keys() {
            let (stage, path) = (full_stage().await, filled(route.path));
            let ask = async |method: &str| {
                let asked = request(route.path, &method.to_uppercase(), &path, n);
                stage.status(&asked).await
            };
            if method == "delete" {
                assert_eq!(ask("post").await, 200, "there is nothing to take back");
            }
            // A ticket is stored nowhere.
            if method == "get" || route.path == "/v1/tickets" {
                continue;
            }
            let before = (stage.contents(), stage.parts());
            let status = ask(method).await;
            assert!(status < 300, "{method} {path}: {status}");
            assert!(before.0 != stage.contents(), "{method} {path}");
            let is_this = |(of, at, _): &&(&str, &str, &str)| *of == method && *at == route.path;
            let (_, _, part) = TRACES.iter().find(is_this).unwrap();
            let all = before.1.iter().zip(stage.parts());
            let changed: Vec<_> = all
                .filter(|(before, after)| before.1 != after.1)
                .map(|(_, after)| after.0)
                .collect();
            assert!(changed.contains(part), "{method} {path}: {changed:?}");
            traced.push((method.clone(), route.path));
        }
    }
    assert_eq!(traced.len(), TRACES.len(), "{traced:?}");
}

#[tokio::test]
async fn no_route_takes_a_hostile_path_and_nothing_changes() {
    let stage = full_stage().await;
    let before = stage.contents();
    let mut asked = 0;
    for route in routes::<InMemory>() {
        let parameters = route.path.split('/').filter(|s| s.starts_with('{'));
        for (n, parameter) in parameters.enumerate() {
            for id in hostile_ids(&filled(parameter)) {
                let path = filled_but(route.path, n, &id);
                for method in METHODS {
                    let status = stage
                        .status(&request(route.path, method, &path, asked))
                        .await;
                    assert!(
                        [400, 404, 405].contains(&status),
                        "{method} {path:?}: {status}"
                    );
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 10_000, "{asked}");
    assert_eq!(before, stage.contents());
}

#[tokio::test]
async fn a_path_that_a_parser_of_urls_would_mend_moves_no_points_and_uses_no_coupon() {
    let stage = full_stage().await;
    let before = stage.contents();
    let points = r#"{"amount":100,"reason":"r"}"#;
    let order = r#"{"orderId":"m"}"#;
    let redemption = format!("/v1/users/b\nob/coupons/{CAMPAIGN}/redemption");
    for (path, body, field) in [
        ("/v1/users/b\tob/wallet/use", points, "userId"),
        ("/v1/users/bob/wallet/use\n", points, "path"),
        (&redemption, order, "userId"),
        ("/v1/users/bob/wallet/use?/wallet/earn", points, "path"),
        ("/v1/users/bob/wallet/use#/wallet/earn", points, "path"),
        ("/v1/users/x/../bob/wallet/use", points, "path"),
        ("/v1/users/x\\..\\bob/wallet/use", points, "userId"),
        (
            "/v1/users/bob%2Fwallet%2Fuse%3F/wallet/earn",
            points,
            "userId",
        ),
        ("/\t/v1/users/bob/wallet/use", points, "path"),
    ] {
        let key = [("idempotency-key", "k")];
        let answer = stage.send(&event("POST", path, "", body, &key)).await;
        answer.names(field);
        assert!(!answer.body.to_string().contains("bob"), "{}", answer.body);
    }
    let shown = stage.get(&format!("/v1/campaigns/{CAMPAIGN}\n")).await;
    shown.names("campaignId");
    assert_eq!(before, stage.contents());
}

#[tokio::test]
async fn what_made_the_url_of_a_request_fail_is_answered() {
    let stage = stage();
    let ask = async |query: &str, name: &str, value: &str| {
        let headers = [(name, value)];
        stage
            .send(&event("GET", "/healthz", query, "", &headers))
            .await
    };
    for query in [
        "cursor=\"x\"",
        "cursor=a b",
        "cursor=<",
        "a#b",
        "é",
        "\u{0}",
    ] {
        ask(query, "x", "y").await.names("query");
    }
    for host in ["a b", "a,b c", "", "[", "a:b:c", "é"] {
        ask("", "host", host).await.names("Host");
    }
    for host in ["a.example", "a.example:443", "127.0.0.1:4566", "[::1]:80"] {
        assert_eq!(ask("", "host", host).await.status, 200, "{host}");
    }
    // Each proxy on the way may add its own.
    for proto in ["https,http", "https, http", "", "x y", "\u{e9}"] {
        assert_eq!(ask("a=b&&c", "x-forwarded-proto", proto).await.status, 200);
    }
    ask("", "x\n", "y").await.names("headers");
    // Of two keys, either might count.
    assert_eq!(ask("", "Idempotency-Key", "a").await.status, 200);
    for twice in ["Idempotency-Key", "IDEMPOTENCY-KEY", "X-Api-Key", "HOST"] {
        let given = [("idempotency-key", "a"), ("x-api-key", "b"), (twice, "c")];
        let asked = event("GET", "/healthz", "", "", &given);
        stage.send(&asked).await.names("headers");
    }
    let many: Vec<_> = (0..40_000).map(|n| format!("x-{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "y")).collect();
    let asked = event("GET", "/healthz", "", "", &many);
    stage.send(&asked).await.names("headers");
    ask("", "x", "a\nb").await.names("headers");
}

#[tokio::test]
async fn an_event_without_its_parts_is_answered() {
    let stage = stage();
    for (event, field) in [
        ("", "event"),
        ("7", "event"),
        ("null", "event"),
        (r#"{"rawPath": 7}"#, "event"),
        ("{}", "path"),
        (r#"{"rawPath": "/healthz"}"#, "method"),
        (
            r#"{"rawPath": "/healthz", "requestContext": {"http": {"method": "A B"}}}"#,
            "method",
        ),
        (
            r#"{"rawPath": "/healthz", "requestContext": {"http": {"method": "GET"}}, "body": "%", "isBase64Encoded": true}"#,
            "body",
        ),
    ] {
        answered(&stage.door.answer(event).await).names(field);
    }
    let least = r#"{"rawPath": "/healthz", "headers": null, "requestContext": {"http": {"method": "GET"}}}"#;
    assert_eq!(answered(&stage.door.answer(least).await).status, 200);
}

#[tokio::test]
async fn a_body_may_come_in_base64() {
    let stage = stage();
    let mut asked = event("POST", "/v1/tickets", "", "eyJ1c2VySWQiOiJ1In0=", &[]);
    asked["isBase64Encoded"] = true.into();
    assert_eq!(stage.status(&asked).await, 201);
    // Two bytes that no UTF-8 holds, in a field that is read and in one that is not.
    for body in ["eyJ1c2VySWQiOiL//iJ9", "eyJ4Ijoi//4iLCJ1c2VySWQiOiJ1In0="] {
        asked["body"] = body.into();
        assert_eq!(stage.status(&asked).await, 400);
    }
}

#[test]
fn a_panic_is_answered_by_a_problem() {
    let answer = answered(&Answer::after_panic());
    answer.is_problem(500, "internal");
    assert_eq!(answer.body["title"], "Internal Server Error");
}

/// The events' files.
fn samples() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../events");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let ours = files.filter(|path| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("api-")
    });
    ours.map(|path| std::fs::read_to_string(path).unwrap())
        .collect()
}

fn almost_requests() -> impl Strategy<Value = String> {
    let samples = samples();
    let samples: Vec<&str> = samples.iter().map(String::as_str).collect();
    hostile::events(&samples)
}

proptest! {
    #![proptest_config(hostile::cases(1000))]

    #[test]
    fn whatever_the_event_is_the_answer_is_one_of_ours(event in almost_requests()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let answer = runtime.block_on(async {
            answered(&full_stage().await.door.answer(&event).await)
        });
        prop_assert!((200..600).contains(&answer.status) && answer.status != 500, "{}", answer.body);
    }
}
