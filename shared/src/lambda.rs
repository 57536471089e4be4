//! What is around the handler of every function: the event as it came, a panic that ends one invocation and nothing else,
//! and the invocation's metric line. No function's own business, and none of the domain's.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::metric::{self, Metric};
use crate::{ConnectionId, InvalidValue};

/// An event as it came: read by the handler, so that one that cannot be read is the handler's to answer.
#[derive(Debug)]
pub struct RawEvent(Box<RawValue>);

impl<'de> Deserialize<'de> for RawEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::deserialize(deserializer).map(Self)
    }
}

/// The event is not of the kind that this function is there for. What it is, is not told.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the event is none of this function's")]
pub struct UnreadableEvent;

impl RawEvent {
    /// The event's JSON.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// The event as the function reads it.
    ///
    /// # Errors
    /// [`UnreadableEvent`].
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, UnreadableEvent> {
        read(self.text())
    }

    /// The ids of the messages of a queue in it; of one without an id, an empty text.
    ///
    /// # Errors
    /// [`UnreadableEvent`]: it is no batch of messages.
    pub fn message_ids(&self) -> Result<Vec<String>, UnreadableEvent> {
        #[derive(Deserialize)]
        struct Batch {
            #[serde(rename = "Records")]
            records: Vec<Message>,
        }
        #[derive(Deserialize)]
        struct Message {
            #[serde(rename = "messageId")]
            id: Option<String>,
        }
        let Batch { records } = self.read()?;
        let ids = records.into_iter();
        Ok(ids.map(|message| message.id.unwrap_or_default()).collect())
    }
}

/// Reads an event's JSON.
///
/// # Errors
/// [`UnreadableEvent`].
pub fn read<T: DeserializeOwned>(event: &str) -> Result<T, UnreadableEvent> {
    serde_json::from_str(event).map_err(|_| UnreadableEvent)
}

/// An event of a socket, as far as it matters. Its headers are not read: clients write them, and they may be no text of ours.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SocketEvent {
    request_context: SocketContext,
    query_string_parameters: Option<HashMap<String, Option<String>>>,
    multi_value_query_string_parameters: MultiValues,
    body: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SocketContext {
    connection_id: Option<String>,
    authorizer: Option<HashMap<String, Value>>,
}

impl SocketEvent {
    /// The socket.
    ///
    /// # Errors
    /// [`InvalidValue`] if the gateway names none.
    pub fn connection_id(&self) -> Result<ConnectionId, InvalidValue> {
        let id = self.request_context.connection_id.as_deref();
        ConnectionId::new(id.unwrap_or_default())
    }

    /// What the authorizer says; empty if it says nothing of that name.
    pub fn vouched(&self, name: &str) -> &str {
        let context = self.request_context.authorizer.as_ref();
        let value = context.and_then(|context| context.get(name)?.as_str());
        value.unwrap_or_default()
    }

    /// A parameter of the query with which the socket is opened.
    ///
    /// # Errors
    /// [`InvalidValue`]: it is given more than once, and of several values the gateway would choose one.
    pub fn parameter(&self, name: &'static str) -> Result<Option<&str>, InvalidValue> {
        let given = &self.multi_value_query_string_parameters;
        if given.count(|known| known == name) > 1 {
            return Err(InvalidValue {
                field: name,
                expected: "given once",
            });
        }
        let all = self.query_string_parameters.as_ref();
        Ok(all.and_then(|all| all.get(name)?.as_deref()))
    }

    /// The frame's text.
    pub fn body(&self) -> &str {
        self.body.as_deref().unwrap_or_default()
    }
}

/// One of a socket's `multiValue…` maps: all values that came, of which the maps of single values have only the last
/// (<https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html>). What is no such map
/// has no values: clients write them.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct MultiValues(Value);

impl MultiValues {
    /// How many values came under such names.
    pub fn count(&self, is_name: impl Fn(&str) -> bool) -> usize {
        let all = self.0.as_object().into_iter().flatten();
        all.filter(|(name, _)| is_name(name))
            .map(|(_, values)| values.as_array().map_or(0, Vec::len))
            .sum()
    }
}

/// The work panicked; where, the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

/// Has a panic logged by its place in the source, once, and not by its message: that may quote what came from outside.
/// Called once, before the first invocation.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        tracing::error!(panic.location = location, "invocation panicked");
    }));
}

/// Does the work and catches its panic, which is counted. It relies on `panic = "unwind"` (Cargo.toml). What the work left
/// half done in memory is used again by the next invocation: shared state MUST be sound after every await and every lock.
///
/// # Errors
/// [`Panicked`].
pub fn catch_panic<T>(work: impl Future<Output = T>) -> impl Future<Output = Result<T, Panicked>> {
    // Boxed: the SDK's nested futures would overflow the compiler's depth limit.
    let work = AssertUnwindSafe(Box::pin(work)).catch_unwind();
    async {
        work.await.map_err(|_| {
            metric::count(Metric::Panics, 1);
            Panicked
        })
    }
}

/// One invocation: does the work, answers with `instead` if it panicked, and writes the metric line.
pub fn invocation<T>(
    request_id: &str,
    work: impl Future<Output = T>,
    instead: impl FnOnce() -> T,
) -> impl Future<Output = T> {
    let work = catch_panic(work);
    async {
        let answer = work.await.unwrap_or_else(|Panicked| instead());
        metric::flush(request_id);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered_wherever_in_the_work_it_happens() {
        let at_once = invocation("request", async { panic!("at once") }, || "instead").await;
        assert_eq!(at_once, "instead");
        let later = async {
            tokio::task::yield_now().await;
            panic!("later")
        };
        assert_eq!(catch_panic::<()>(later).await, Err(Panicked));
        assert_eq!(
            invocation("request", async { "done" }, || "instead").await,
            "done"
        );
    }

    fn event(json: &str) -> RawEvent {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn messages_are_named_whatever_else_they_hold() {
        let batch = event(
            r#"{"Records":[{"messageId":"a","body":7,"attributes":[]},{"x":1e999},{"messageId":"c"}]}"#,
        );
        assert_eq!(
            batch.message_ids(),
            Ok(vec!["a".into(), String::new(), "c".into()])
        );
        for other in [
            "{}",
            "[]",
            "null",
            r#"{"Records":{}}"#,
            r#"{"Records":[{"messageId":7}]}"#,
        ] {
            assert_eq!(event(other).message_ids(), Err(UnreadableEvent), "{other}");
        }
    }

    #[test]
    fn a_sockets_event_is_read_whatever_its_headers_are() {
        let text = r#"{"headers":{"x":"\u00e9\u0000\ud800"},"multiValueHeaders":7,"requestContext":{"connectionId":"c=","authorizer":{"userId":"u","n":7}},
            "queryStringParameters":{"campaignId":"k","x":null},"body":"{}"}"#;
        let event: SocketEvent = read(text).unwrap();
        assert_eq!(event.connection_id().unwrap().as_str(), "c=");
        assert_eq!(
            (
                event.vouched("userId"),
                event.vouched("n"),
                event.vouched("x")
            ),
            ("u", "", "")
        );
        assert_eq!(
            (event.parameter("campaignId"), event.parameter("x")),
            (Ok(Some("k")), Ok(None))
        );
        assert_eq!(event.body(), "{}");
        let least: SocketEvent = read("{}").unwrap();
        assert!(least.connection_id().is_err());
        assert_eq!(
            (least.vouched("userId"), least.parameter("x"), least.body()),
            ("", Ok(None), "")
        );
    }

    #[test]
    fn a_parameter_that_is_given_twice_is_none() {
        let event = |values: &str| {
            let text = format!(
                r#"{{"queryStringParameters":{{"k":"b"}},"multiValueQueryStringParameters":{values}}}"#
            );
            let event: SocketEvent = read(&text).unwrap();
            event.parameter("k").map(|value| value.map(str::to_owned))
        };
        for twice in [
            r#"{"k":["a","b"]}"#,
            r#"{"k":["b","b"]}"#,
            r#"{"k":[null,"b"]}"#,
        ] {
            assert!(event(twice).is_err(), "{twice}");
        }
        for once in [
            r#"{"k":["b"]}"#,
            r#"{"j":["a","b"]}"#,
            "{}",
            "null",
            "7",
            r#"{"k":"b"}"#,
        ] {
            assert_eq!(event(once), Ok(Some("b".into())), "{once}");
        }
    }
}
