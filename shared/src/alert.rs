//! Telling an alarm to people: what CloudWatch says made readable, and a webhook that is asked with patience.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{InvalidValue, PortError, leaves_no_ink};

/// The longest text that is told, in characters; Discord takes 2,000
/// (<https://discord.com/developers/docs/resources/webhook#execute-webhook>).
const MAX_TEXT: usize = 1900;
/// The names that Discord's webhooks are under.
const DISCORD: [&str; 2] = ["discord.com", "discordapp.com"];
/// What is told of a notification that says nothing: neither Slack nor Discord takes an empty text.
const NOTHING_SAID: &str = "⚪ A notification without text came to the alarms' topic.";
/// How often a notice is posted before the platform is left to try again.
const MAX_TRIES: u32 = 4;
/// The first pause between tries; it doubles, and a random half of it is taken off.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest time one try takes (functions/alert/src/webhook.rs); none is begun that could not end.
const LONGEST_TRY: Duration = Duration::from_secs(5);

/// Where alarms are told. Whoever knows it can write there, so it is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(String);

impl WebhookUrl {
    /// An `https` URL; `http` to this machine only.
    ///
    /// # Errors
    /// [`InvalidValue`], which does not quote it.
    pub fn new(url: &str) -> Result<Self, InvalidValue> {
        let host = |rest: &str| {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            rest[..end].to_owned()
        };
        let sound = url.len() <= 2048 && url.bytes().all(|byte| byte.is_ascii_graphic());
        let good = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => !host(rest).is_empty() && !host(rest).contains('@'),
            (_, Some(rest)) => {
                let host = host(rest);
                let name = host
                    .rsplit_once(':')
                    .map_or(host.as_str(), |(name, _)| name);
                ["127.0.0.1", "localhost", "[::1]"].contains(&name)
            }
            _ => false,
        };
        if sound && good {
            Ok(Self(url.to_owned()))
        } else {
            Err(InvalidValue {
                field: "webhook",
                expected: "an https:// URL of Discord or Slack",
            })
        }
    }

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is posted there: Slack reads `text`, Discord `content`; whoever it is, nobody is mentioned.
    fn body(&self, text: &str) -> Value {
        let no_mentions = json!({"parse": []});
        let after_scheme = self.0.split("://").nth(1).unwrap_or_default();
        let end = after_scheme.find(['/', ':', '?', '#']);
        let host = &after_scheme[..end.unwrap_or(after_scheme.len())];
        // Names of hosts know no case, and one with a dot at its end is the same.
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_of = |name: &str| {
            host.strip_suffix(name)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        // Its test builds, too, take webhooks: ptb.discord.com and canary.discord.com.
        if DISCORD.iter().any(|name| is_of(name)) {
            json!({"content": text, "allowed_mentions": no_mentions})
        } else if is_of("slack.com") {
            json!({"text": for_slack(text)})
        } else {
            json!({"text": text, "content": text, "allowed_mentions": no_mentions})
        }
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookUrl(…)")
    }
}

/// The three characters that mean something to Slack.
fn for_slack(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    alarm: Option<Alarm>,
    words: String,
}

/// A message of a CloudWatch alarm to its topic, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Alarm {
    alarm_name: String,
    #[serde(default)]
    alarm_description: Option<String>,
    new_state_value: String,
    #[serde(default)]
    new_state_reason: String,
    #[serde(default)]
    state_change_time: String,
    #[serde(default)]
    region: String,
}

impl Notice {
    /// Reads a notification. What is no alarm is told as it is.
    pub fn read(subject: Option<&str>, message: &str) -> Self {
        let alarm = serde_json::from_str(message).ok();
        let words = [subject.unwrap_or_default(), message].join("\n");
        Self { alarm, words }
    }

    /// The alarm's name; empty if it is none.
    pub fn name(&self) -> &str {
        self.alarm.as_ref().map_or("", |alarm| &alarm.alarm_name)
    }

    /// `ALARM`, `OK` or `INSUFFICIENT_DATA`; empty if it is no alarm.
    pub fn state(&self) -> &str {
        self.alarm
            .as_ref()
            .map_or("", |alarm| &alarm.new_state_value)
    }

    /// What people read: state and name, meaning and what to do, why, and since when.
    pub fn text(&self) -> String {
        let text = match &self.alarm {
            Some(alarm) => alarm.text(),
            None => self.words.clone(),
        };
        let text: String = text.trim().chars().take(MAX_TEXT).collect();
        // Discord refuses such a text.
        if text.chars().all(leaves_no_ink) {
            NOTHING_SAID.to_owned()
        } else {
            text
        }
    }
}

impl Alarm {
    fn text(&self) -> String {
        let sign = match self.new_state_value.as_str() {
            "ALARM" => "🔴",
            "OK" => "🟢",
            _ => "⚪",
        };
        let mut lines = vec![format!(
            "{sign} {} {}",
            self.new_state_value, self.alarm_name
        )];
        lines.extend(self.alarm_description.clone());
        for (name, value) in [
            ("Why", &self.new_state_reason),
            ("Since", &self.state_change_time),
            ("Where", &self.region),
        ] {
            if !value.is_empty() {
                lines.push(format!("{name}: {value}"));
            }
        }
        lines.join("\n")
    }
}

/// What a webhook answered to one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It has it.
    Told,
    /// Not now: in the webhook's words, and after the time it asks for, if it does.
    Again(String, Option<Duration>),
    /// Never, in the webhook's words.
    Refused(String),
}

/// Posts to a webhook.
pub trait Webhook {
    /// Posts once. MUST NOT retry by itself.
    fn post(&self, url: &WebhookUrl, body: &Value) -> impl Future<Output = Delivery> + Send;
}

/// Knows where alarms are told.
pub trait WebhookAddress {
    /// The address; `None` if nobody has set one.
    fn url(&self) -> impl Future<Output = Result<Option<WebhookUrl>, PortError>> + Send;
}

/// How a notice went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Told, at this try.
    Told(u32),
    /// Nobody has set a webhook.
    Nowhere,
}

impl Telling {
    /// Whether anybody was told.
    pub fn is_told(self) -> bool {
        matches!(self, Self::Told(_))
    }

    /// How many tries it took.
    pub fn tries(self) -> u32 {
        match self {
            Self::Told(tries) => tries,
            Self::Nowhere => 0,
        }
    }

    /// For the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Told(_) => "told",
            Self::Nowhere => "no webhook is set",
        }
    }
}

/// Tells a notice: up to four tries, with jitter, after the time the webhook asks for, and none that the deadline would
/// cut off.
///
/// # Errors
/// [`PortError`] if nobody was told; the platform is to try again.
pub async fn tell(
    webhook: &impl Webhook,
    url: &WebhookUrl,
    notice: &Notice,
    deadline: Instant,
) -> Result<Telling, PortError> {
    const OPERATION: &str = "tell the alarm";
    let body = url.body(&notice.text());
    let mut pause = FIRST_PAUSE;
    for tries in 1.. {
        let (words, asked) = match webhook.post(url, &body).await {
            Delivery::Told => return Ok(Telling::Told(tries)),
            Delivery::Refused(words) => return Err(PortError::reject(OPERATION, words)),
            Delivery::Again(words, asked) => (words, asked),
        };
        let wait = asked.unwrap_or_else(|| pause.mul_f64(1.0 - fastrand::f64() / 2.0));
        // The wait is the webhook's own word, and may be longer than an instant can say.
        let end = Instant::now().checked_add(wait.saturating_add(LONGEST_TRY));
        if tries >= MAX_TRIES || end.is_none_or(|end| end > deadline) {
            return Err(PortError::retry(OPERATION, words));
        }
        sleep(wait).await;
        pause *= 2;
    }
    Err(PortError::retry(OPERATION, "out of tries"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> WebhookUrl {
        WebhookUrl::new(text).unwrap()
    }

    #[test]
    fn a_webhook_is_https_or_this_machine() {
        for good in [
            "https://discord.com/api/webhooks/1/x",
            "https://hooks.slack.com/services/T/B/x",
            "http://127.0.0.1:8080/hook",
            "http://localhost/hook",
            "http://[::1]:80/hook",
        ] {
            assert!(WebhookUrl::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "unset",
            "http://hooks.slack.com/x",
            "http://127.0.0.1.evil.example/",
            "https://",
            "https://user@evil.example/",
            "https://a b/",
            "ftp://127.0.0.1/",
            "http://127.0.0.1@evil.example/",
        ] {
            assert!(WebhookUrl::new(bad).is_err(), "{bad}");
        }
        assert_eq!(
            format!("{:?}", url("https://discord.com/api/webhooks/1/x")),
            "WebhookUrl(…)"
        );
    }

    #[test]
    fn each_webhook_gets_its_own_form() {
        let discord = url("https://discord.com/api/webhooks/1/x").body("<@everyone> & co");
        assert_eq!(discord["content"], "<@everyone> & co");
        assert_eq!(discord["allowed_mentions"]["parse"], json!([]));
        let slack = url("https://hooks.slack.com/services/T/B/x").body("<!channel> & co");
        assert_eq!(slack, json!({"text": "&lt;!channel&gt; &amp; co"}));
    }

    #[test]
    fn every_host_of_discord_is_told_alike_and_nobody_is_mentioned_anywhere() {
        let told = |host: &str| url(&format!("https://{host}/api/webhooks/1/x")).body("@everyone");
        let discord = told("discord.com");
        assert_eq!(
            discord,
            json!({"content": "@everyone", "allowed_mentions": {"parse": []}})
        );
        for host in [
            "ptb.discord.com",
            "canary.discord.com",
            "discordapp.com",
            "ptb.discordapp.com",
            "canary.discordapp.com",
            "Discord.COM",
            "discord.com:443",
            "discord.com.",
        ] {
            assert_eq!(told(host), discord, "{host}");
        }
        for other in [
            "notdiscord.com",
            "discord.com.example",
            "discord.example",
            "127.0.0.1:80",
        ] {
            let body = url(&format!("https://{other}/x?discord.com/")).body("@everyone");
            assert_eq!(
                body,
                json!({"text": "@everyone", "content": "@everyone", "allowed_mentions": {"parse": []}}),
                "{other}"
            );
        }
        for slack in ["hooks.slack.com", "HOOKS.slack.com", "hooks.slack.com:443"] {
            assert_eq!(told(slack), json!({"text": "@everyone"}), "{slack}");
        }
    }

    #[test]
    fn a_notification_that_says_nothing_is_told_as_that() {
        for (subject, message) in [
            (None, ""),
            (Some(""), " \n\t"),
            (Some("\u{200b}"), "\u{feff}\r\n"),
            (Some("\u{61c}"), "\u{3164}\u{2800}"),
            (None, "\u{0}\u{7}"),
        ] {
            assert_eq!(
                Notice::read(subject, message).text(),
                NOTHING_SAID,
                "{message:?}"
            );
        }
        assert_eq!(Notice::read(None, " x\n").text(), "x");
        let padded = format!("{}x", " ".repeat(3000));
        assert_eq!(
            Notice::read(None, &padded).text(),
            "x",
            "trimmed before it is cut"
        );
        let nameless = json!({"AlarmName": "", "NewStateValue": ""}).to_string();
        assert!(Notice::read(None, &nameless).text().contains('⚪'));
    }

    #[test]
    fn an_alarm_reads_as_lines() {
        let message = json!({
            "AlarmName": "firstcome-stock-drift", "AlarmDescription": "Counters do not add up.",
            "NewStateValue": "OK", "NewStateReason": "all is well", "StateChangeTime": "2026-11-21T11:30:00.000+0000",
            "Region": "US East (N. Virginia)", "Trigger": {"Threshold": 0.0},
        });
        let notice = Notice::read(Some("OK"), &message.to_string());
        assert_eq!(
            notice.text(),
            "🟢 OK firstcome-stock-drift\nCounters do not add up.\nWhy: all is well\n\
             Since: 2026-11-21T11:30:00.000+0000\nWhere: US East (N. Virginia)"
        );
        assert_eq!(
            (notice.name(), notice.state()),
            ("firstcome-stock-drift", "OK")
        );
    }

    #[test]
    fn what_is_no_alarm_is_told_as_it_is_and_never_too_long() {
        assert_eq!(Notice::read(Some("hello"), "world").text(), "hello\nworld");
        let long = Notice::read(None, &"ü".repeat(5000));
        assert_eq!(long.text().chars().count(), MAX_TEXT);
    }
}
