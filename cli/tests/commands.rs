//! The binary as an operator types it, in trouble: an interrupt, a wrong id, no or expired credentials, a stack that is not
//! there or not whole. One line on stderr, its exit code, and nothing left behind. AWS is a few answers on a loopback port.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Every command that asks a stack, with arguments that are in order.
const COMMANDS: [&str; 20] = [
    "partner create --name Acme",
    "partner list",
    "partner rotate --partner acme",
    "partner revoke --key 0123456789abcdef",
    "dlq list",
    "dlq show --id m",
    "dlq replay --all",
    "dlq drop --all --yes",
    "audit --campaign k",
    "metrics",
    "follow --claim c",
    "alarms list",
    "alarms drill --alarm firstcome-claims-age",
    WEBHOOK,
    "doctor",
    "warm --table CouponsTable --writes 4000 --yes",
    "pollers show",
    "pollers on --min 2 --max 4",
    "pollers off",
    "sale --users 1 --stock 1",
];
/// The one that reads stdin.
const WEBHOOK: &str = "alarms webhook";
/// The signals that end a command.
const SIGNALS: &str = "INT,TERM,HUP";

/// What AWS was asked: the operation and its body.
type Call = (String, Vec<u8>);
/// What it says to an operation: status and body, or nothing for a long time.
type Answer = fn(&str, usize) -> Option<(u16, Vec<u8>)>;

struct FakeAws {
    port: u16,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl FakeAws {
    fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let calls = Arc::<Mutex<Vec<Call>>>::default();
        let kept = Arc::clone(&calls);
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let calls = Arc::clone(&kept);
                // A connection that the client breaks off is no failure of the test.
                thread::spawn(move || drop(serve(&socket, &calls, answer)));
            }
        });
        Self { port, calls }
    }

    fn command(&self, line: &str) -> Command {
        firstcome(line, self.port)
    }

    /// A command that hears signals, whoever runs the tests: those that are ignored, as under `nohup` or in the background,
    /// are inherited as ignored. To keep that true, they are ignored here first.
    fn interruptible(&self, line: &str) -> Command {
        let mut command = self.command(line);
        if cfg!(target_os = "linux") {
            let mut env = Command::new("/usr/bin/env");
            env.arg(format!("--ignore-signal={SIGNALS}"))
                .arg("/usr/bin/env")
                .arg(format!("--default-signal={SIGNALS}"))
                .arg(command.get_program())
                .args(command.get_args());
            command = with_environment(env, self.port);
        }
        command
    }

    fn bodies_of(&self, operation: &str) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        let of = calls.iter().filter(|(name, _)| name == operation);
        of.map(|(_, body)| String::from_utf8_lossy(body).into_owned())
            .collect()
    }

    fn wait_for(&self, operation: &str, times: usize) {
        let started = Instant::now();
        while self.bodies_of(operation).len() < times {
            assert!(started.elapsed() < PATIENCE, "no {operation}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn serve(socket: &TcpStream, calls: &Mutex<Vec<Call>>, answer: Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let header = |name: &str| {
            head.iter().find_map(|line| {
                let (found, value) = line.split_once(": ")?;
                found
                    .eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        let length = header("content-length").and_then(|text| text.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let text = String::from_utf8_lossy(&body).into_owned();
        // Four protocols: a header (DynamoDB, SQS, Logs), the path (CloudWatch; Lambda, with the method), the form
        // (CloudFormation).
        let by_header =
            header("x-amz-target").map(|target| target.rsplit('.').next().unwrap().to_owned());
        let by_path = head[0]
            .split_once("/operation/")
            .map(|(_, rest)| rest.split(' ').next().unwrap().to_owned());
        let by_form = text
            .strip_prefix("Action=")
            .map(|rest| rest.split('&').next().unwrap().to_owned());
        let is_cbor = by_path.is_some();
        let by_rest = head[0].split_once(" /2015-03-31/").map(|(method, rest)| {
            let kind = rest.split(['/', ' ']).next().unwrap();
            format!("{method} {kind}")
        });
        let operation = by_header.or(by_path).or(by_rest).or(by_form);
        let operation = operation.unwrap_or_default();
        let before = {
            let mut calls = calls.lock().unwrap();
            calls.push((operation.clone(), body));
            calls.iter().filter(|(name, _)| *name == operation).count() - 1
        };
        let Some((status, body)) = answer(&operation, before) else {
            thread::sleep(PATIENCE);
            return Ok(());
        };
        let cbor = if is_cbor {
            "smithy-protocol: rpc-v2-cbor\r\ncontent-type: application/cbor\r\n"
        } else {
            ""
        };
        let mut writer = socket;
        write!(
            writer,
            "HTTP/1.1 {status} x\r\n{cbor}content-length: {}\r\n\r\n",
            body.len()
        )?;
        writer.write_all(&body)?;
    }
}

/// The binary, with nothing of this environment.
fn firstcome(line: &str, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstcome"));
    command.args(line.split(' '));
    let mut command = with_environment(command, port);
    if line == WEBHOOK {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer
            .write_all(b"https://hooks.slack.com/services/T/B/x")
            .unwrap();
        command.stdin(reader);
    }
    command
}

fn with_environment(mut command: Command, port: u16) -> Command {
    command
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("PATH", "/usr/bin:/bin")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// One line on stderr, nothing on stdout, exit code 2; the line.
fn complaint(what: &str, output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{what}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{what}: {stderr}");
    assert!(stderr.starts_with("firstcome: "), "{what}: {stderr}");
    stderr
}

/// A port that nobody listens at.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn each_complains(answer: Answer, expected: &str) {
    let aws = FakeAws::start(answer);
    for line in COMMANDS {
        let output = aws.command(line).output().unwrap();
        let told = complaint(line, &output);
        assert!(told.contains(expected), "{line}: {told}");
        // A sale says first what it is going to do, and what reads stdin that it does.
        assert!(
            output.stdout.is_empty() || line.starts_with("sale") || line == WEBHOOK,
            "{line}"
        );
    }
    let calls = aws.calls.lock().unwrap();
    let only_looked = |(operation, _): &Call| operation == "DescribeStacks";
    assert!(calls.iter().all(only_looked), "nothing is left behind");
}

fn stack(status: &str) -> Vec<u8> {
    let outputs = [
        "WebSocketUrl",
        "HttpApiUrl",
        "ClaimsQueueUrl",
        "ClaimsDeadLetterQueueUrl",
        "DeliveriesQueueUrl",
        "BroadcastQueueUrl",
        "CampaignsTable",
        "CouponsTable",
        "ConnectionsTable",
        "WalletsTable",
        "PartnersTable",
        "AlertWebhookSecret",
        "TicketSecret",
    ];
    let member = |name| {
        format!(
            "<member><OutputKey>{name}</OutputKey><OutputValue>http://127.0.0.1/{name}</OutputValue></member>"
        )
    };
    let outputs: String = outputs.map(member).concat();
    format!(
        "<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>firstcome</StackName>\
         <CreationTime>2026-11-01T09:00:00Z</CreationTime><StackStatus>{status}</StackStatus><Outputs>{outputs}</Outputs>\
         </member></Stacks></DescribeStacksResult></DescribeStacksResponse>"
    )
    .into_bytes()
}

fn refused(code: &str, message: &str) -> Option<(u16, Vec<u8>)> {
    let text = format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    );
    Some((400, text.into_bytes()))
}

/// CBOR (RFC 8949) of short texts, lists and maps of them: what CloudWatch speaks.
enum Cbor {
    Text(&'static str),
    List(Vec<Cbor>),
    Map(Vec<(&'static str, Cbor)>),
}

impl Cbor {
    fn bytes(&self) -> Vec<u8> {
        let text =
            |text: &str| [&[0x78, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let head = |major: u8, length: usize| vec![major << 5 | u8::try_from(length).unwrap()];
        match self {
            Self::Text(shown) => text(shown),
            Self::List(all) => {
                let bytes = all.iter().flat_map(Self::bytes).collect();
                [head(4, all.len()), bytes].concat()
            }
            Self::Map(fields) => {
                let all = fields
                    .iter()
                    .flat_map(|(name, value)| [text(name), value.bytes()].concat());
                [head(5, fields.len()), all.collect()].concat()
            }
        }
    }
}

/// The commands that the help names, each with its own.
fn commands_below(path: &[&str]) -> Vec<String> {
    let line = [path, &["--help"]].concat().join(" ");
    let help = firstcome(&line, closed_port()).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        return vec![path.join(" ")];
    };
    let listed = list.lines().take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names
        .filter(|name| !name.is_empty() && *name != "help")
        .flat_map(|name| commands_below(&[path, &[name]].concat()))
        .collect()
}

#[test]
fn every_command_that_asks_a_stack_is_tried() {
    let all = commands_below(&[]);
    assert!(all.contains(&"partner create".to_owned()), "{all:?}");
    // The one that asks no stack.
    for name in all.iter().filter(|name| *name != "plan") {
        let is_tried = |line: &&str| format!("{line} ").starts_with(&format!("{name} "));
        assert!(COMMANDS.iter().any(is_tried), "{name}");
    }
}

#[test]
fn where_nothing_answers_every_command_says_so_in_one_line() {
    let port = closed_port();
    let children: Vec<_> = COMMANDS
        .map(|line| (line, firstcome(line, port).spawn().unwrap()))
        .into_iter()
        .collect();
    for (line, child) in children {
        let told = complaint(line, &child.wait_with_output().unwrap());
        assert!(
            told.contains(&format!("127.0.0.1:{port}")),
            "{line}: {told}"
        );
    }
}

#[test]
fn a_stack_that_is_not_there_is_told_with_what_may_be_wrong() {
    each_complains(
        |_, _| refused("ValidationError", "Stack with id firstcome does not exist"),
        "AWS_REGION and --stack",
    );
}

#[test]
fn another_thing_that_does_not_exist_is_told_as_that() {
    each_complains(
        |_, _| refused("AccessDenied", "The role firstcome does not exist"),
        "AccessDenied: The role firstcome does not exist",
    );
}

#[test]
fn credentials_that_have_expired_are_told_as_that() {
    each_complains(
        |_, _| {
            refused(
                "ExpiredToken",
                "The security token included in the request is expired",
            )
        },
        "log in again",
    );
}

#[test]
fn a_stack_that_is_half_deployed_is_told_as_that() {
    each_complains(
        |_, _| Some((200, stack("ROLLBACK_IN_PROGRESS"))),
        "ROLLBACK_IN_PROGRESS",
    );
}

#[test]
fn no_credentials_and_credentials_of_an_unknown_kind_are_two_things() {
    let told = |set: &dyn Fn(&mut Command)| {
        let mut command = firstcome("partner list", closed_port());
        command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY");
        set(&mut command);
        complaint("partner list", &command.output().unwrap())
    };
    assert!(told(&|_| {}).contains("no AWS credentials were found"));
    let folder = std::env::temp_dir().join(format!("firstcome-profile-{}", std::process::id()));
    let profile = "[profile work]\nsso_session = s\nsso_account_id = 1\nsso_role_name = r\n[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://x\n";
    std::fs::write(&folder, profile).unwrap();
    let sso = told(&|command| {
        command
            .env("AWS_CONFIG_FILE", &folder)
            .env("AWS_PROFILE", "work");
    });
    std::fs::remove_file(&folder).unwrap();
    assert!(sso.contains("cannot be loaded"), "{sso}");
}

#[test]
fn no_region_is_told() {
    let mut command = firstcome("partner list", closed_port());
    let told = complaint(
        "no Region",
        &command.env_remove("AWS_REGION").output().unwrap(),
    );
    assert!(told.contains("no AWS Region is set"), "{told}");
}

#[test]
fn what_is_wrong_in_itself_is_refused_before_anything_is_asked() {
    let secret = "5".repeat(64);
    let aws = FakeAws::start(|_, _| refused("ValidationError", "asked"));
    let run = |arguments: &[&str]| {
        let mut command = aws.command("partner");
        let output = command.args(arguments).output().unwrap();
        complaint(&arguments.join(" "), &output)
    };
    for name in ["", " ", "a\u{1b}[2Jb", "a\nb", "\u{200b}", "a\u{200e}b"] {
        let told = run(&["create", "--name", name]);
        assert!(told.contains("name must be 1 to 200 characters"), "{told}");
    }
    for line in [
        [
            "create",
            "--name",
            "Acme",
            "--expires-at",
            "2020-01-01T00:00:00Z",
        ],
        [
            "rotate",
            "--partner",
            "acme",
            "--expires-at",
            "2020-01-01T00:00:00Z",
        ],
    ] {
        assert!(run(&line).contains("--expires-at is past"));
    }
    for key in [
        &secret,
        &format!("fck_{secret}"),
        &format!("FCK_0123456789abcdef_{secret}"),
    ] {
        let told = run(&["revoke", "--key", key]);
        assert!(!told.contains("5555"), "{told}");
    }
    assert!(aws.calls.lock().unwrap().is_empty());
}

#[test]
fn a_whole_key_is_revoked_by_its_id_and_its_secret_is_nowhere() {
    let secret = "5".repeat(64);
    let aws = FakeAws::start(|operation, _| match operation {
        "DescribeStacks" => Some((200, stack("UPDATE_IN_PROGRESS"))),
        _ => Some((200, b"{}".to_vec())),
    });
    let line = format!("partner revoke --key fck_0123456789abcdef_{secret}");
    let output = aws.command(&line).output().unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .ends_with(" 0123456789abcdef\n")
    );
    let asked = aws.bodies_of("UpdateItem").concat();
    assert!(
        asked.contains("KEY#0123456789abcdef") && !asked.contains("5555"),
        "{asked}"
    );
}

#[test]
fn a_partners_name_is_shown_and_not_obeyed() {
    let aws = FakeAws::start(|operation, _| {
        match operation {
        "DescribeStacks" => Some((200, stack("CREATE_COMPLETE"))),
        _ => Some((
            200,
            br#"{"Items": [{"sk": {"S": "acme"}, "name": {"S": "A\u001b[2Jb\u009bc\nd"}, "createdAt": {"S": "2026-11-01T09:00:00.000Z"}}]}"#.to_vec(),
        )),
    }
    });
    for line in ["partner list", "--json partner list"] {
        let output = aws.command(line).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.trim_end().contains(char::is_control), "{text:?}");
    }
}

#[test]
fn an_interrupted_drill_sets_the_alarm_back() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        let aws = FakeAws::start(|operation, _| match operation {
            "DescribeStacks" => Some((200, stack("CREATE_COMPLETE"))),
            "DescribeAlarms" => {
                let alarm = Cbor::Map(vec![
                    ("AlarmName", Cbor::Text("firstcome-claims-age")),
                    (
                        "AlarmDescription",
                        Cbor::Text("Do: docs/runbook.md#claims-age"),
                    ),
                    ("StateValue", Cbor::Text("OK")),
                    ("AlarmActions", Cbor::List(vec![Cbor::Text("topic")])),
                ]);
                let alarms = Cbor::Map(vec![("MetricAlarms", Cbor::List(vec![alarm]))]);
                Some((200, alarms.bytes()))
            }
            _ => Some((200, Cbor::Map(vec![]).bytes())),
        });
        let mut command = aws.interruptible("alarms drill --alarm firstcome-claims-age");
        let child = command.spawn().unwrap();
        aws.wait_for("SetAlarmState", 1);
        interrupt(signal, child.id());
        let told = complaint(signal, &child.wait_with_output().unwrap());
        assert!(
            told.contains("interrupted; the alarm was set back"),
            "{told}"
        );
        let states = aws.bodies_of("SetAlarmState");
        assert!(states.len() == 2 && states[1].contains("bOK"), "{states:?}");
    }
}

#[test]
fn an_interrupted_look_lets_the_dead_letters_go() {
    let aws = FakeAws::start(|operation, before| match (operation, before) {
        ("DescribeStacks", _) => Some((200, stack("CREATE_COMPLETE"))),
        ("GetQueueAttributes", _) => {
            let counts = br#"{"Attributes": {"ApproximateNumberOfMessages": "9"}}"#;
            Some((200, counts.to_vec()))
        }
        ("ReceiveMessage", 0) => {
            let message =
                br#"{"Messages": [{"MessageId": "m", "ReceiptHandle": "r", "Body": "b"}]}"#;
            Some((200, message.to_vec()))
        }
        ("ReceiveMessage", _) => None,
        _ => Some((200, b"{}".to_vec())),
    });
    let child = aws.interruptible("dlq list").spawn().unwrap();
    aws.wait_for("ReceiveMessage", 2);
    interrupt("-INT", child.id());
    let told = complaint("dlq list", &child.wait_with_output().unwrap());
    assert!(
        told.contains("interrupted; the dead letters were let go"),
        "{told}"
    );
    let freed = aws.bodies_of("ChangeMessageVisibility").concat();
    assert!(freed.contains(r#""VisibilityTimeout":0"#), "{freed}");
}

#[test]
fn a_webhook_that_is_waited_for_does_not_hold_up_an_interrupt() {
    let aws = FakeAws::start(|_, _| None);
    let mut command = aws.interruptible(WEBHOOK);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut told).unwrap();
    assert!(told.contains("from stdin"), "{told}");
    interrupt("-INT", child.id());
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(5) {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(20));
    }
    let told = complaint("alarms webhook", &child.wait_with_output().unwrap());
    assert!(told.contains("interrupted"), "{told}");
}

/// A stack with the event source of its claims: what the template asks for, and which it is.
fn with_claims_source(operation: &str) -> Option<(u16, Vec<u8>)> {
    let template = r#"{"Resources": {"ClaimsEventSource": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": {"ScalingConfig": {"MaximumConcurrency": 20}}}}}"#;
    let text = match operation {
        "DescribeStacks" => return Some((200, stack("CREATE_COMPLETE"))),
        "GetTemplate" => format!(
            "<GetTemplateResponse><GetTemplateResult><TemplateBody>{template}</TemplateBody></GetTemplateResult></GetTemplateResponse>"
        ),
        _ => "<ListStackResourcesResponse><ListStackResourcesResult><StackResourceSummaries><member>\
              <LogicalResourceId>ClaimsEventSource</LogicalResourceId><PhysicalResourceId>u-1</PhysicalResourceId>\
              <ResourceType>AWS::Lambda::EventSourceMapping</ResourceType><LastUpdatedTimestamp>2026-11-01T09:00:00Z\
              </LastUpdatedTimestamp><ResourceStatus>CREATE_COMPLETE</ResourceStatus></member></StackResourceSummaries>\
              </ListStackResourcesResult></ListStackResourcesResponse>"
            .to_owned(),
    };
    Some((200, text.into_bytes()))
}

const GET_SOURCE: &str = "GET event-source-mappings";
const PUT_SOURCE: &str = "PUT event-source-mappings";
const BOUNDED: &str =
    r#"{"UUID": "u-1", "State": "Enabled", "ScalingConfig": {"MaximumConcurrency": 20}}"#;
const WITH_POLLERS: &str = r#"{"UUID": "u-1", "State": "Enabled", "ProvisionedPollerConfig": {"MinimumPollers": 2, "MaximumPollers": 4}}"#;
/// What is between the two, and must not stay.
const NEITHER: &str = r#"{"UUID": "u-1", "State": "Enabled"}"#;

fn source(text: &str) -> Option<(u16, Vec<u8>)> {
    Some((200, text.as_bytes().to_vec()))
}

const SET_BACK: &str = "ClaimsQueue has its pollers or its bound again";
const TO_BOUND: &str = r#"{"ScalingConfig":{"MaximumConcurrency":20}}"#;

#[test]
fn interrupted_pollers_leave_the_bound_and_not_nothing() {
    // On: the bound is gone, the pollers are not yet asked for. Off: the pollers are gone, the bound is not yet set.
    let on: Answer = |operation, before| match (operation, before) {
        (GET_SOURCE, 1) => None,
        (GET_SOURCE, 2) | (PUT_SOURCE, _) => source(NEITHER),
        (GET_SOURCE, _) => source(BOUNDED),
        _ => with_claims_source(operation),
    };
    let off: Answer = |operation, before| match (operation, before) {
        (GET_SOURCE, 0) => source(WITH_POLLERS),
        (GET_SOURCE, 1) => None,
        (GET_SOURCE, 2) | (PUT_SOURCE, _) => source(NEITHER),
        (GET_SOURCE, _) => source(BOUNDED),
        _ => with_claims_source(operation),
    };
    for (line, answer, begun) in [
        ("pollers on --min 2 --max 4", on, r#"{"ScalingConfig":{}}"#),
        ("pollers off", off, r#"{"ProvisionedPollerConfig":{}}"#),
    ] {
        let aws = FakeAws::start(answer);
        let child = aws.interruptible(line).spawn().unwrap();
        aws.wait_for(GET_SOURCE, 2);
        interrupt("-INT", child.id());
        let told = complaint(line, &child.wait_with_output().unwrap());
        assert!(told.contains(&format!("interrupted; {SET_BACK}")), "{told}");
        assert_eq!(aws.bodies_of(PUT_SOURCE), [begun, TO_BOUND], "{line}");
    }
}

#[test]
fn pollers_that_aws_refuses_leave_the_bound() {
    let aws = FakeAws::start(|operation, before| match (operation, before) {
        (GET_SOURCE, 1 | 2) => source(NEITHER),
        (GET_SOURCE, _) => source(BOUNDED),
        (PUT_SOURCE, 1) => Some((
            400,
            br#"{"__type": "InvalidParameterValueException", "message": "no pollers here"}"#
                .to_vec(),
        )),
        (PUT_SOURCE, _) => source(NEITHER),
        _ => with_claims_source(operation),
    });
    let line = "pollers on --min 2 --max 4";
    let told = complaint(line, &aws.command(line).output().unwrap());
    assert!(
        told.contains("no pollers here") && told.contains(SET_BACK),
        "{told}"
    );
    let asked = aws.bodies_of(PUT_SOURCE);
    assert_eq!((asked.len(), asked[2].as_str()), (3, TO_BOUND));
}

#[test]
fn pollers_that_were_switched_are_not_set_back() {
    let aws = FakeAws::start(|operation, before| match (operation, before) {
        (GET_SOURCE, 0) => source(BOUNDED),
        (GET_SOURCE, 1) | (PUT_SOURCE, _) => source(NEITHER),
        (GET_SOURCE, _) => source(WITH_POLLERS),
        _ => with_claims_source(operation),
    });
    let output = aws.command("pollers on --min 2 --max 4").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
    let asked = aws.bodies_of(PUT_SOURCE);
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].contains(r#""MinimumPollers":2"#), "{asked:?}");
}

/// A partner with two keys, whose lives are shortened one after the other.
fn with_two_keys(operation: &str) -> Option<(u16, Vec<u8>)> {
    let key = |id: char| {
        let id = id.to_string().repeat(16);
        format!(
            r#"{{"pk": {{"S": "KEY#{id}"}}, "sk": {{"S": "KEY"}}, "partnerId": {{"S": "acme"}}, "scopes": {{"L": [{{"S": "tickets"}}]}}, "status": {{"S": "active"}}}}"#
        )
    };
    match operation {
        "DescribeStacks" => Some((200, stack("CREATE_COMPLETE"))),
        "Scan" => {
            let keys = [key('1'), key('2')].join(", ");
            Some((200, format!(r#"{{"Items": [{keys}]}}"#).into_bytes()))
        }
        "GetItem" => Some((200, br#"{"Item": {"pk": {"S": "PARTNER"}}}"#.to_vec())),
        _ => Some((200, b"{}".to_vec())),
    }
}

#[test]
fn a_rotation_that_is_cut_short_names_the_keys_that_may_live_on() {
    let (first, second) = ("1".repeat(16), "2".repeat(16));
    for flag in ["", "--json "] {
        let line = format!("{flag}partner rotate --partner acme --overlap 60");
        let aws = FakeAws::start(|operation, before| match (operation, before) {
            ("UpdateItem", 1) => None,
            _ => with_two_keys(operation),
        });
        let child = aws.interruptible(&line).spawn().unwrap();
        aws.wait_for("UpdateItem", 2);
        interrupt("-INT", child.id());
        let output = child.wait_with_output().unwrap();
        let told = complaint(&line, &output);
        assert!(told.contains(&second) && !told.contains(&first), "{told}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("fck_"), "the new key was shown: {said}");
        let is_said = |key: &str| said.contains(&format!("{key}  until "));
        assert!(!is_said(&second), "{said}");
        assert_eq!(is_said(&first), flag.is_empty(), "{said}");
    }
}

#[test]
fn a_key_that_cannot_be_shortened_is_named_and_the_others_are_shortened() {
    let aws = FakeAws::start(|operation, before| match (operation, before) {
        ("UpdateItem", 0) => Some((
            400,
            br#"{"__type": "ValidationException", "message": "no"}"#.to_vec(),
        )),
        _ => with_two_keys(operation),
    });
    let line = "partner rotate --partner acme --overlap 60";
    let output = aws.command(line).output().unwrap();
    let told = complaint(line, &output);
    let (first, second) = ("1".repeat(16), "2".repeat(16));
    assert!(told.contains(&first) && !told.contains(&second), "{told}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("{second}  until ")), "{said}");
    assert!(!said.contains(&first), "{said}");
}

#[test]
fn a_secret_that_was_typed_in_a_wrong_place_is_not_repeated() {
    let key = format!("fck_0123456789abcdef_{}", "5".repeat(64));
    let hook = format!("https://discord.com/api/webhooks/1/{}", "hush".repeat(8));
    let aws = FakeAws::start(|operation, _| match operation {
        "DescribeStacks" => Some((200, stack("CREATE_COMPLETE"))),
        "DescribeAlarms" => Some((200, Cbor::Map(vec![]).bytes())),
        _ => Some((200, b"{}".to_vec())),
    });
    for (line, code) in [
        (format!("dlq replay --id {key}"), 1),
        (format!("--json dlq replay --id {key}"), 1),
        (format!("dlq drop --yes --id={key}"), 1),
        (format!("dlq show --id {key}"), 2),
        (format!("dlq replay --id {hook}"), 1),
        (format!("--json dlq drop --yes --id {hook}"), 1),
        (format!("alarms drill --alarm {hook}"), 2),
        (format!("alarms drill --alarm={hook}"), 2),
    ] {
        let output = aws.command(&line).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8(told).unwrap();
        assert_eq!(output.status.code(), Some(code), "{line}: {told}");
        assert!(!told.contains("5555") && !told.contains("hush"), "{told}");
        assert!(told.contains('…'), "what was meant is seen: {told}");
    }
}

#[test]
fn a_letter_is_dropped_before_the_others_are_let_go() {
    let aws = FakeAws::start(|operation, before| match (operation, before) {
        ("DescribeStacks", _) => Some((200, stack("CREATE_COMPLETE"))),
        ("ReceiveMessage", 0) => {
            let message = |id: &str| {
                format!(r#"{{"MessageId": "{id}", "ReceiptHandle": "r-{id}", "Body": "b"}}"#)
            };
            let messages = ["a", "m", "z"].map(message).join(", ");
            Some((200, format!(r#"{{"Messages": [{messages}]}}"#).into_bytes()))
        }
        _ => Some((200, b"{}".to_vec())),
    });
    let output = aws.command("dlq drop --yes --id m").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let calls = aws.calls.lock().unwrap();
    let told = calls
        .iter()
        .skip_while(|(name, _)| name != "ChangeMessageVisibility");
    let told: Vec<(&str, String)> = told
        .map(|(name, body)| (name.as_str(), String::from_utf8_lossy(body).into_owned()))
        .collect();
    let names: Vec<&str> = told.iter().map(|(name, _)| *name).collect();
    let (hold, delete) = ("ChangeMessageVisibility", "DeleteMessage");
    assert_eq!(names, [hold, delete, hold, hold]);
    assert!(
        told[0].1.contains("r-m") && told[0].1.contains(":60"),
        "{told:?}"
    );
    assert!(told[1].1.contains("r-m"), "{told:?}");
    for (_, freed) in &told[2..] {
        assert!(freed.contains(":0") && !freed.contains("r-m"), "{told:?}");
    }
}

#[test]
fn an_empty_stack_is_no_failure_of_a_look() {
    let aws = FakeAws::start(|operation, _| match operation {
        "DescribeStacks" => Some((200, stack("CREATE_COMPLETE"))),
        "DescribeAlarms" => Some((200, Cbor::Map(vec![]).bytes())),
        "DescribeLogGroups" => Some((200, br#"{"logGroups": []}"#.to_vec())),
        "Query" | "Scan" => Some((200, br#"{"Items": []}"#.to_vec())),
        _ => Some((200, b"{}".to_vec())),
    });
    for (line, code) in [
        ("partner list", 0),
        ("partner list --partner acme", 0),
        ("dlq list", 0),
        ("metrics", 0),
        ("alarms list", 0),
        ("follow --claim c", 1),
        ("dlq replay --id m", 1),
        ("dlq drop --id m --yes", 1),
    ] {
        let output = aws.command(line).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), stderr.as_str()),
            (Some(code), ""),
            "{line}"
        );
    }
    for (line, words) in [
        ("dlq show --id m", "no dead letter m was seen"),
        ("audit --campaign k", "k"),
        ("partner rotate --partner acme", "acme has no active key"),
        ("alarms drill --alarm firstcome-none", "there is no alarm"),
    ] {
        let told = complaint(line, &aws.command(line).output().unwrap());
        assert!(told.contains(words), "{line}: {told}");
    }
}

fn interrupt(signal: &str, process: u32) {
    let sent = Command::new("kill")
        .args([signal, &process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}
