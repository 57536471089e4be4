//! What an operator sees: metrics that agree with the tables, one claim's way through the logs, an alarm that is heard, and
//! no secret in any line.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use firstcome_core::aws::operator::{LogLine, Queue, RawMessage};
use firstcome_core::aws::{Aws, secret_text};
use firstcome_core::{ClaimId, Clock, SystemClock, Timestamp};
use firstcome_tests::{Partner, Socket, Stack, eventually};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long a log line may take to be found, and a dead letter to die.
const PATIENCE: Duration = Duration::from_secs(180);

/// Before everything of a test: machines' clocks differ, and Insights counts in seconds.
fn just_now() -> Timestamp {
    SystemClock.now().plus_seconds(-5)
}

/// A word that stands nowhere else.
fn marker(name: &str) -> String {
    format!("{name}{:016x}", fastrand::u64(..))
}

async fn lines_with(stack: &Stack, text: &str, since: Timestamp) -> Vec<LogLine> {
    let lines = stack.operator().log_lines(Some(text), since).await;
    lines.unwrap_or_else(|error| panic!("no logs: {error}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_of_a_sale_agree_with_its_tables() {
    const USERS: usize = 20;
    const STOCK: u64 = 5;
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let since = just_now();
    let campaign = partner.campaign(STOCK as u32).await;
    let claims = (0..USERS).map(|number| {
        let (partner, campaign) = (partner.clone(), campaign.clone());
        async move {
            let mut socket = partner.socket(&format!("user-{number}")).await;
            let answer = socket.claim(&campaign, &format!("claim-{number}")).await;
            socket.close().await;
            answer
        }
    });
    let answers = join_all(claims).await;
    let winners = answers
        .iter()
        .filter(|answer| answer["outcome"] == "issued");
    assert_eq!(winners.count() as u64, STOCK);

    // The last batch's line is written after its answers.
    let measured = |metric: &str, lines: &[LogLine]| -> u64 {
        let emf = lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(&line.text).ok())
            .filter(|line| line["_aws"].is_object());
        emf.filter_map(|line| line["campaigns"][&campaign][metric].as_u64())
            .sum()
    };
    eventually(
        "the metrics say what the tables say",
        PATIENCE,
        async || {
            let lines = lines_with(&stack, &campaign, since).await;
            (measured("Issued", &lines) == stack.stock(&campaign).await.1).then_some(())
        },
    )
    .await;
    let lines = lines_with(&stack, &campaign, since).await;
    assert_eq!(measured("Issued", &lines), STOCK);
    assert_eq!(stack.coupons(&campaign).await.len() as u64, STOCK);
    let accepted = measured("ClaimsAccepted", &lines);
    assert!(accepted >= STOCK, "{accepted} accepted");
}

#[tokio::test]
async fn one_claim_is_followed_by_its_id_from_its_frame_to_its_answer() {
    let stack = Stack::find().await;
    let partner = stack.partner().await;
    let since = just_now();
    let campaign = partner.campaign(5).await;
    let claim = ClaimId::new(marker("followed-")).unwrap();
    let mut socket = partner.socket("ann").await;
    assert_eq!(
        socket.claim(&campaign, claim.as_str()).await["outcome"],
        "issued"
    );

    let way = eventually("three functions name the claim", PATIENCE, async || {
        let lines = stack.operator().follow(&claim, since).await.unwrap();
        let named = |function: &str| {
            let found = lines.iter().find(|line| line.function == function);
            found.map(|line| line.text.clone())
        };
        Some([named("claim")?, named("issue")?, named("broadcast")?])
    })
    .await;
    let [frame, batch, post] = way.map(|text| serde_json::from_str::<Value>(&text).unwrap());
    let trace = frame["fields"]["trace.id"].as_str().unwrap();
    assert!(trace.starts_with("1-"), "{trace}");
    let entry = format!("{claim}@{trace}");
    let lists = |line: &Value, field: &str| line["fields"][field].as_str().unwrap().to_owned();
    assert!(lists(&batch, "claims.issued").contains(&entry), "{batch}");
    assert!(lists(&post, "job.subject").contains(&entry), "{post}");
}

/// A webhook on this machine.
struct Receiver {
    url: String,
    heard: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let heard = Arc::<Mutex<Vec<Value>>>::default();
        let kept = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if let Some(body) = hear(socket).await {
                    kept.lock().unwrap().push(body);
                }
            }
        });
        Self { url, heard }
    }

    async fn text_with(&self, words: &[&str]) -> String {
        let what = format!("a text with {words:?}");
        eventually(&what, PATIENCE, async || {
            let heard = self.heard.lock().unwrap().clone();
            let mut texts = heard.iter().filter_map(|body| body["text"].as_str());
            let found = texts.find(|text| words.iter().all(|word| text.contains(word)));
            found.map(str::to_owned)
        })
        .await
    }
}

/// Reads one request and answers it; its body.
async fn hear(mut socket: TcpStream) -> Option<Value> {
    let mut request = Vec::new();
    let body = loop {
        let mut part = [0; 4096];
        let read = socket.read(&mut part).await.ok()?;
        request.extend_from_slice(&part[..read]);
        let end = request.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let body = end.and_then(|end| serde_json::from_slice(&request[end + 4..]).ok());
        if body.is_some() || read == 0 {
            break body;
        }
    };
    let answer = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    socket.write_all(answer).await.ok()?;
    body
}

/// The local AWS has no metrics of SQS, so the alarm on the dead letters is set off through its API once the letter lies
/// there; from the alarm on, everything is as on AWS.
#[tokio::test]
async fn a_poison_message_ends_as_words_at_the_webhook() {
    const ALARM: &str = "firstcome-claims-dead-letters";
    let stack = Stack::find().await;
    if !stack.is_local() {
        // A function on AWS cannot reach this machine.
        return;
    }
    let receiver = Receiver::open().await;
    let operator = stack.operator();
    operator.set_webhook(&receiver.url).await.unwrap();
    let poison = marker("poison");
    let message = RawMessage {
        group: poison.clone(),
        body: format!("no claim: {poison}"),
    };
    operator.send(Queue::Claims, &[message]).await.unwrap();
    let dead = eventually("the poison is dead", PATIENCE, async || {
        let dead = operator.take_dead_claims(&poison).await.unwrap();
        (!dead.is_empty()).then_some(dead)
    })
    .await;
    assert_eq!(dead.len(), 1);

    let alarms = operator.alarms().await.unwrap();
    assert!(
        alarms
            .iter()
            .any(|alarm| alarm.name == ALARM && alarm.wakes)
    );
    let reason = format!("one dead letter, {}", marker("why"));
    operator.set_off(ALARM, &reason).await.unwrap();
    let text = receiver.text_with(&["ALARM", &reason]).await;
    assert!(text.starts_with(&format!("🔴 ALARM {ALARM}\n")), "{text}");
    assert!(
        text.contains("docs/runbook.md#claims-dead-letters"),
        "{text}"
    );
    assert!(!text.contains(&poison), "no body goes outside: {text}");
    operator.calm(ALARM, &reason).await.unwrap();
    let text = receiver.text_with(&["🟢 OK", &reason]).await;
    assert!(text.contains(ALARM), "{text}");
    operator.set_webhook("unset").await.unwrap();
}

/// Sends a text that is no good frame and waits for the error it is answered with.
async fn refused_frame(socket: &mut Socket, text: String) {
    socket.send(text).await;
    socket.wait("error", |frame| frame["type"] == "error").await;
}

/// Sends a word in every place of a request that a caller fills in, in a form that is good and in one that is not; each place
/// with its word.
async fn say_everywhere(
    stack: &Stack,
    partner: &Partner,
    campaign: &str,
) -> Vec<(&'static str, String)> {
    let places = [
        "a parameter of a path",
        "a malformed parameter of a path",
        "a query",
        "a malformed query",
        "a cursor",
        "an order of a query",
        "a malformed order of a query",
        "an order of a body",
        "a code",
        "an Idempotency-Key",
        "a malformed Idempotency-Key",
        "a reason",
        "a malformed reason",
        "a header",
        "an Origin",
        "a prepared event",
    ];
    let words = places.map(|place| (place, marker("word")));
    let [
        in_path,
        bad_path,
        query,
        bad_query,
        cursor,
        order,
        bad_order,
        body_order,
        code,
        key,
        bad_key,
        reason,
        bad_reason,
        header,
        origin,
        event,
    ] = words.each_ref().map(|(_, word)| word.as_str());
    let redemption = format!("/v1/users/ann/coupons/{campaign}/redemption");
    let long_key = format!("{bad_key}{}", "x".repeat(300));
    let (earn, points) = (
        "/v1/users/ann/wallet/earn",
        json!({"amount": 1, "reason": reason}),
    );
    let long_reason = json!({"amount": 1, "reason": format!("{bad_reason}{}", "x".repeat(128))});
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    // A client of HTTP may encode the quotes, and then they are a value like any other.
    let calls = [
        (
            &get,
            format!("/v1/users/{in_path}/wallet"),
            json!({}),
            "a",
            &[200][..],
        ),
        (
            &get,
            format!("/v1/users/{bad_path}%0A/wallet"),
            json!({}),
            "b",
            &[400][..],
        ),
        (
            &get,
            format!("/v1/campaigns?{query}={query}"),
            json!({}),
            "c",
            &[200][..],
        ),
        (
            &get,
            format!("/v1/campaigns?x=\"{bad_query}\""),
            json!({}),
            "d",
            &[200, 400],
        ),
        (
            &get,
            format!("/v1/campaigns?cursor={cursor}"),
            json!({}),
            "e",
            &[400][..],
        ),
        (
            &delete,
            format!("{redemption}?orderId={order}"),
            json!({}),
            "f",
            &[404][..],
        ),
        (
            &delete,
            format!("{redemption}?orderId={bad_order}%20"),
            json!({}),
            "g",
            &[400][..],
        ),
        (
            &post,
            redemption.clone(),
            json!({"orderId": body_order, "code": code}),
            "h",
            &[404],
        ),
        (&post, earn.to_owned(), points.clone(), key, &[200]),
        (&post, earn.to_owned(), points, long_key.as_str(), &[400]),
        (&post, earn.to_owned(), long_reason, "i", &[400]),
    ];
    for (method, path, body, key, status) in calls {
        let headers = [("idempotency-key", key), ("x-odd", header)];
        let told = partner
            .call_as_written(method.clone(), &path, &headers, &body.to_string())
            .await;
        assert!(status.contains(&told), "{method} {path}: {told}");
    }
    let address = partner.address("ann", 60).await;
    let page = format!("https://{origin}.example");
    assert!(Socket::open_from(&address, Some(&page)).await.is_err());

    let http = json!({
        "version": "2.0", "rawPath": format!("/v1/{event}"), "rawQueryString": event, "headers": {event: event},
        "requestContext": {"http": {"method": event.to_uppercase(), "path": event}}, "body": event,
    });
    let socket = json!({
        "requestContext": {"connectionId": "x=", "authorizer": {"partnerId": event, "userId": "a b", "ticketId": event}},
        "queryStringParameters": {"ticket": event, "campaignId": event}, "methodArn": "x", "body": event,
    });
    let queue =
        json!({"Records": [{"messageId": "m", "body": event, "attributes": {event: event}}]});
    let none = json!({event: event, "Records": event, "requestContext": event, "rawPath": [event]});
    for function in [
        "Api",
        "Authorize",
        "Connect",
        "Disconnect",
        "Claim",
        "Issue",
        "Broadcast",
    ] {
        for event in [&http, &socket, &queue, &none] {
            // Whether it is answered or refused: only what is logged of it matters here.
            let name = format!("{function}Function");
            let invoked = stack.operator().invoke(&name, &event.to_string()).await;
            invoked.unwrap_or_else(|error| panic!("{function}: {error}"));
        }
    }
    words.into_iter().collect()
}

#[tokio::test]
async fn no_log_holds_a_key_a_ticket_a_code_or_a_body_even_under_errors() {
    let stack = Stack::find().await;
    let since = just_now();
    let partner = stack.partner().await;
    let campaign = partner.campaign(2).await;
    let user = marker("user");
    let claim = marker("claim-");
    let address = partner.address(&user, 60).await;
    let ticket = address.split("ticket=").nth(1).unwrap().to_owned();
    let mut socket = Socket::open(&address).await.unwrap();
    let won = socket.claim(&campaign, &claim).await;
    let code = won["coupon"]["code"].as_str().unwrap().to_owned();

    // Everything that can be wrong, with a word in it that must not be told.
    let [
        forged,
        key,
        frame,
        long_frame,
        body,
        long_body,
        message,
        poison,
        long_poison,
    ] = [
        "forged",
        "key",
        "frame",
        "longframe",
        "body",
        "longbody",
        "message",
        "poison",
        "longpoison",
    ]
    .map(marker);
    let url = &stack.operator().stack().web_socket_url;
    assert!(
        Socket::open(&format!("{url}?ticket={forged}"))
            .await
            .is_err()
    );
    assert!(
        Socket::open(&address).await.is_err(),
        "a ticket is for one connection"
    );
    let stranger = stack.stranger(Some(&format!("fck_{}_{key}", &key[3..])));
    assert_eq!(stranger.get("/v1/campaigns").await.status, 401);
    refused_frame(&mut socket, format!("{{\"action\": {frame}")).await;
    let long = format!("{long_frame}{}", "x".repeat(9000));
    refused_frame(
        &mut socket,
        json!({"action": "claim", "campaignId": long}).to_string(),
    )
    .await;
    let path = format!("/v1/campaigns/{campaign}/claims");
    assert_eq!(
        partner
            .post_text(&path, &format!("{{\"userId\": \"{body} {{"))
            .await
            .status,
        400
    );
    let long = format!("{long_body}{}", "x".repeat(9000));
    assert_eq!(
        partner.post(&path, json!({"userId": long})).await.status,
        413
    );
    let broadcast = partner.broadcast(Some(&campaign), &message).await;
    partner.finished_report(&broadcast).await;
    let letters = [
        format!("{{\"version\": 1, \"claimId\": \"{poison}"),
        json!({"version": 1, "claimId": long_poison, "padding": "x".repeat(9000)}).to_string(),
    ];
    let messages = letters.map(|body| RawMessage {
        group: campaign.clone(),
        body,
    });
    stack
        .operator()
        .send(Queue::Claims, &messages)
        .await
        .unwrap();
    for poison in [&poison, &long_poison] {
        eventually("the poison is dead", PATIENCE, async || {
            let dead = stack.operator().take_dead_claims(poison).await.unwrap();
            (!dead.is_empty()).then_some(())
        })
        .await;
    }
    socket.close().await;
    let said = say_everywhere(&stack, &partner, &campaign).await;

    // The search finds what is there: what it does not find, is not.
    eventually("the search finds the claim", PATIENCE, async || {
        let lines = lines_with(&stack, &claim, since).await;
        let functions = ["claim", "issue", "broadcast"];
        let named = |function: &&str| lines.iter().any(|line| line.function == **function);
        functions.iter().all(named).then_some(())
    })
    .await;
    for must_be in ["authorize", "api", "connect"] {
        let lines = lines_with(&stack, "fields", since).await;
        assert!(
            lines.iter().any(|line| line.function == must_be),
            "{must_be}"
        );
    }
    assert!(
        !lines_with(&stack, "message is no claim", since)
            .await
            .is_empty()
    );

    let (aws, secret) = (Aws::load().await, &stack.operator().stack().ticket_secret);
    let secret = secret_text(&aws, secret).await.unwrap();
    let own_key = partner
        .key()
        .unwrap()
        .rsplit('_')
        .next()
        .unwrap()
        .to_owned();
    let signature = ticket.rsplit('.').next().unwrap().to_owned();
    for (what, text) in [
        ("the partner's key", own_key),
        ("a ticket", ticket),
        ("a ticket's signature", signature),
        ("the ticket secret", secret),
        ("a coupon's code", code),
        ("a user's id", user),
        ("a forged ticket", forged),
        ("a wrong key", key),
        ("a malformed frame", frame),
        ("a long frame", long_frame),
        ("a malformed body", body),
        ("a long body", long_body),
        ("a partner's message", message),
        ("a poison message", poison),
        ("a long message", long_poison),
    ]
    .into_iter()
    .chain(said)
    {
        let found = lines_with(&stack, &text, since).await;
        assert!(found.is_empty(), "{what} stands in a log: {:?}", found[0]);
    }
}
