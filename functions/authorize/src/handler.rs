//! Who may open a socket: a good ticket, from a page that is listed or from no page at all. Nothing is stored here;
//! `connect` consumes the ticket.

use std::collections::HashMap;
use std::time::Instant;

use firstcome_core::{
    Ticket, TicketKey, Timestamp,
    lambda::{MultiValues, UnreadableEvent, read},
    metric::{self, Metric},
};
use lambda_runtime::{Diagnostic, tracing};
use serde::{Deserialize, Serialize};

/// A request for a socket, as far as it matters. Headers and query are the client's: a value that is no text of ours is no
/// reason to read nothing.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Request {
    method_arn: Option<String>,
    headers: Option<HashMap<String, Option<String>>>,
    query_string_parameters: Option<HashMap<String, Option<String>>>,
    multi_value_headers: MultiValues,
    multi_value_query_string_parameters: MultiValues,
}

impl Request {
    /// The pages that ask: of an empty text if it has a name that is none. A browser sends one; of several, which one the
    /// gateway shows is chance.
    fn origins(&self) -> impl Iterator<Item = &str> {
        let headers = self.headers.iter().flatten();
        let origins = headers.filter(|(name, _)| name.eq_ignore_ascii_case("origin"));
        origins.map(|(_, value)| value.as_deref().unwrap_or_default())
    }

    /// Whether it names more than one page.
    fn has_several_origins(&self) -> bool {
        let is_origin = |name: &str| name.eq_ignore_ascii_case("origin");
        self.origins().count() > 1 || self.multi_value_headers.count(is_origin) > 1
    }

    fn ticket(&self) -> Result<&str, &'static str> {
        let given = &self.multi_value_query_string_parameters;
        if given.count(|name| name == "ticket") > 1 {
            return Err("ticket is given more than once");
        }
        let query = self.query_string_parameters.as_ref();
        let ticket = query.and_then(|query| query.get("ticket")?.as_deref());
        ticket.ok_or("ticket is missing")
    }
}

/// The pages whose scripts may open sockets.
#[derive(Debug)]
pub(crate) struct Origins(Vec<String>);

impl Origins {
    /// From a comma-separated list such as `https://shop.example,https://www.shop.example`.
    pub(crate) fn parse(list: &str) -> Self {
        Self(
            list.split(',')
                .map(str::trim)
                .filter(|origin| !origin.is_empty())
                .map(String::from)
                .collect(),
        )
    }

    /// A browser always sends its page's origin; who sends none is an app, and holds a ticket anyway.
    fn admit(&self, origin: Option<&str>) -> bool {
        origin.is_none_or(|origin| self.0.iter().any(|allowed| allowed == origin))
    }
}

/// Judges the requests for a socket.
pub(crate) struct Doorman {
    pub(crate) key: TicketKey,
    pub(crate) origins: Origins,
}

impl Doorman {
    /// Judges an event as it came.
    pub(crate) fn answer(&self, event: &str, now: Timestamp) -> Result<Answer, Diagnostic> {
        let request = read(event).map_err(unreadable)?;
        Ok(self.judge(&request, now))
    }

    /// A policy that allows or denies this one connection.
    fn judge(&self, request: &Request, now: Timestamp) -> Answer {
        let started = Instant::now();
        let resource = request.method_arn.clone().unwrap_or_default();
        let judgement = self.admit(request, now);
        let reason = judgement.as_ref().err().map(String::as_str);
        // The reason never quotes the ticket.
        tracing::info!(
            outcome = if reason.is_none() {
                "allowed"
            } else {
                "denied"
            },
            reason,
            duration_ms = started.elapsed().as_millis() as u64,
            "connection judged"
        );
        metric::count(
            match reason {
                None => Metric::SocketsAdmitted,
                Some(_) => Metric::SocketsDenied,
            },
            1,
        );
        match judgement {
            Ok(ticket) => Answer::allow(resource, ticket),
            Err(_) => Answer::deny(resource),
        }
    }

    fn admit(&self, request: &Request, now: Timestamp) -> Result<Ticket, String> {
        if request.has_several_origins() {
            return Err("origin is given more than once".into());
        }
        if !self.origins.admit(request.origins().next()) {
            return Err("origin is not listed".into());
        }
        let ticket = request.ticket()?;
        self.key
            .verify(ticket, now)
            .map_err(|error| error.to_string())
    }
}

/// What the platform is told after a panic.
pub(crate) fn panicked() -> Diagnostic {
    Diagnostic {
        error_type: "Panic".into(),
        error_message: "the handler panicked; the log says where".into(),
    }
}

fn unreadable(error: UnreadableEvent) -> Diagnostic {
    tracing::error!(%error, "event not read");
    Diagnostic {
        error_type: "Event".into(),
        error_message: error.to_string(),
    }
}

/// What API Gateway takes from an authorizer. (The type of `aws_lambda_events` would send `usageIdentifierKey: null`.)
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    principal_id: String,
    policy_document: Policy,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Holder>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Policy {
    version: &'static str,
    statement: [Statement; 1],
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    action: &'static str,
    effect: &'static str,
    resource: String,
}

/// Who holds the ticket: reaches every later event of the socket as `requestContext.authorizer`.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Holder {
    partner_id: String,
    user_id: String,
    ticket_id: String,
}

impl Answer {
    fn allow(resource: String, ticket: Ticket) -> Self {
        let user_id = String::from(ticket.user_id);
        let context = Holder {
            partner_id: ticket.partner_id.into(),
            user_id: user_id.clone(),
            ticket_id: ticket.ticket_id,
        };
        Self {
            principal_id: user_id,
            policy_document: Policy::new("Allow", resource),
            context: Some(context),
        }
    }

    fn deny(resource: String) -> Self {
        Self {
            principal_id: "nobody".into(),
            policy_document: Policy::new("Deny", resource),
            context: None,
        }
    }
}

impl Policy {
    fn new(effect: &'static str, resource: String) -> Self {
        let statement = Statement {
            action: "execute-api:Invoke",
            effect,
            resource,
        };
        Self {
            version: "2012-10-17",
            statement: [statement],
        }
    }
}

#[cfg(test)]
mod tests {
    use firstcome_core::{PartnerId, UserId};
    use serde_json::{Value, json};

    use super::*;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn key(letter: &str) -> TicketKey {
        TicketKey::new(&letter.repeat(32)).unwrap()
    }

    fn ticket(key: &TicketKey) -> String {
        let (partner, user) = (
            PartnerId::new("acme").unwrap(),
            UserId::new("user-1").unwrap(),
        );
        key.sign(&Ticket::new(partner, user, 60, NOW, 9).unwrap())
            .unwrap()
    }

    /// What the authorizer says of the event file, once `change` has been made to it.
    fn judge_at(now: Timestamp, change: impl FnOnce(&mut Value)) -> Value {
        let mut event: Value =
            serde_json::from_str(include_str!("../../../events/authorize-connect.json")).unwrap();
        event["queryStringParameters"]["ticket"] = ticket(&key("s")).into();
        change(&mut event);
        let doorman = Doorman {
            key: key("s"),
            origins: Origins::parse("https://shop.example, https://b.example"),
        };
        serde_json::to_value(doorman.answer(&event.to_string(), now).unwrap()).unwrap()
    }

    fn effect(answer: &Value) -> &str {
        answer["policyDocument"]["Statement"][0]["Effect"]
            .as_str()
            .unwrap()
    }

    #[test]
    fn a_good_ticket_opens_this_door_under_its_holders_name() {
        let answer = judge_at(NOW, |_| {});
        let statement = json!({
            "Action": "execute-api:Invoke",
            "Effect": "Allow",
            "Resource": "arn:aws:execute-api:us-east-1:000000000000:abcdef1234/v1/$connect",
        });
        let context =
            json!({"partnerId": "acme", "userId": "user-1", "ticketId": format!("{:032x}", 9)});
        let policy = json!({"Version": "2012-10-17", "Statement": [statement]});
        assert_eq!(
            answer,
            json!({"principalId": "user-1", "policyDocument": policy, "context": context})
        );
    }

    #[test]
    fn a_missing_forged_or_expired_ticket_is_denied_without_a_context() {
        let forged = ticket(&key("t"));
        let answers = [
            judge_at(NOW, |event| event["queryStringParameters"] = Value::Null),
            judge_at(NOW, |event| {
                event["queryStringParameters"]["ticket"] = forged.into()
            }),
            judge_at(NOW.plus_seconds(60), |_| {}),
        ];
        for answer in answers {
            assert_eq!(effect(&answer), "Deny");
            assert_eq!(answer["context"], Value::Null);
        }
    }

    #[test]
    fn an_origin_may_be_absent_and_must_be_listed_if_present() {
        let origin = |origin: &'static str| {
            judge_at(NOW, |event| event["headers"]["Origin"] = origin.into())
        };
        assert_eq!(effect(&origin("https://b.example")), "Allow");
        for other in [
            "https://evil.example",
            "https://shop.example.evil.example",
            "null",
            "",
        ] {
            assert_eq!(effect(&origin(other)), "Deny", "{other}");
        }
        let none = judge_at(NOW, |event| {
            drop(event["headers"].as_object_mut().unwrap().remove("Origin"))
        });
        assert_eq!(effect(&none), "Allow");
        assert!(!Origins::parse("").admit(Some("https://shop.example")));
    }

    #[test]
    fn what_is_given_twice_opens_nothing() {
        let good = ticket(&key("s"));
        let tickets = json!(["another", good.clone()]);
        let twice = judge_at(NOW, |event| {
            event["multiValueQueryStringParameters"]["ticket"] = tickets;
        });
        assert_eq!(effect(&twice), "Deny");
        for (map, name, value) in [
            ("headers", "origin", json!("https://shop.example")),
            (
                "multiValueHeaders",
                "Origin",
                json!(["https://evil.example", "https://shop.example"]),
            ),
            (
                "multiValueHeaders",
                "ORIGIN",
                json!(["https://evil.example", "https://shop.example"]),
            ),
        ] {
            let twice = judge_at(NOW, |event| event[map][name] = value);
            assert_eq!(effect(&twice), "Deny", "{map} {name}");
        }
        let once = judge_at(NOW, |event| {
            event["multiValueQueryStringParameters"]["ticket"] = json!([good]);
            event["multiValueHeaders"]["Origin"] = json!(["https://shop.example"]);
        });
        assert_eq!(effect(&once), "Allow");
    }

    #[test]
    fn the_recorded_ticket_was_never_good() {
        let event = include_str!("../../../events/authorize-invalid-ticket.json");
        let doorman = Doorman {
            key: key("s"),
            origins: Origins::parse(""),
        };
        let answer = doorman.answer(event, NOW).unwrap();
        assert_eq!(effect(&serde_json::to_value(answer).unwrap()), "Deny");
    }

    proptest::proptest! {
        #![proptest_config(firstcome_core::hostile::cases(1000))]

        #[test]
        fn whatever_the_event_is_nothing_panics(event in firstcome_core::hostile::events(&[
            include_str!("../../../events/authorize-connect.json"),
            include_str!("../../../events/authorize-invalid-ticket.json"),
        ])) {
            let doorman = Doorman {
                key: key("s"),
                origins: Origins::parse("https://shop.example"),
            };
            if let Ok(answer) = doorman.answer(&event, NOW) {
                let answer = serde_json::to_value(answer).unwrap();
                proptest::prop_assert_eq!(effect(&answer), "Deny", "the recorded tickets are good no more");
            }
        }
    }

    #[test]
    fn a_header_that_is_no_text_of_ours_is_no_reason_to_fail() {
        for value in ["é", "\u{0}", "a\nb", ""] {
            let answer = judge_at(NOW, |event| event["headers"]["X-Odd"] = value.into());
            assert_eq!(effect(&answer), "Allow", "{value:?}");
        }
    }
}
