//! Reads JSON objects from outside: bodies of requests, frames of sockets, messages of queues. One rule for all doors:
//! unknown members are ignored, whatever they hold; a known one is given once, and a complaint names it and never quotes
//! what it holds.

use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why a text is not what it should be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{field} {complaint}")]
pub struct Malformed {
    /// The member that is at fault, or the name of the whole.
    pub field: String,
    /// What is wrong with it; continues a sentence that begins with the field.
    pub complaint: String,
}

impl Malformed {
    fn new(field: impl Into<String>, complaint: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            complaint: complaint.into(),
        }
    }
}

/// Reads the object that `text` holds. `whole` is its name in complaints about no single member.
///
/// # Errors
/// [`Malformed`]: no JSON object, a member missing, given twice or out of its bounds.
pub fn read_object<T: DeserializeOwned>(text: &str, whole: &str) -> Result<T, Malformed> {
    let no_object = || Malformed::new(whole, "must be a JSON object");
    // The four characters that JSON takes for white space (RFC 8259, section 2). Serde would take an array for an object.
    if !text
        .trim_start_matches([' ', '\t', '\n', '\r'])
        .starts_with('{')
    {
        return Err(no_object());
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let member = error.path().to_string();
        // A fault of no single member; or of one that is not ours, where serde reads ahead to find out which type it is.
        let member = if is_name(&member) { &member } else { whole };
        complaint(member, error.inner()).unwrap_or_else(no_object)
    })?;
    deserializer.end().map_err(|_| no_object())?;
    Ok(value)
}

/// Whether a path reads like one to a member of ours, such as `answers[1].connectionId`; `.` is the whole.
fn is_name(path: &str) -> bool {
    let of_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'[' | b']');
    path != "." && path.len() <= 64 && path.bytes().all(of_name)
}

/// Serde's complaint, cut down to the member and what it may hold: the rest quotes the offending value. `None` if it is about
/// the whole text.
fn complaint(member: &str, error: &serde_json::Error) -> Option<Malformed> {
    let text = error.to_string();
    // Nothing is cut off where serde does not say the place: that might be in the offending value.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    if !error.is_data() {
        // What JSON can write and no value of ours can hold. It is no matter in a member that nobody reads.
        let complaint = match text {
            "number out of range" => "must be a smaller number",
            "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
                "must be a text without halves of characters"
            }
            "recursion limit exceeded" => "must be less deeply nested",
            _ => return None,
        };
        return Some(Malformed::new(member, complaint));
    }
    let named = |prefix: &str| text.strip_prefix(prefix)?.strip_suffix('`');
    if let Some(missing) = named("missing field `") {
        return Some(Malformed::new(missing, "is missing"));
    }
    if let Some(doubled) = named("duplicate field `") {
        return Some(Malformed::new(doubled, "must be given once"));
    }
    let is_quoting = ["invalid ", "unknown "]
        .iter()
        .any(|start| text.starts_with(start));
    // Ours begin with the member's name.
    let ours = || {
        text.split_once(" must be ")
            .filter(|(name, _)| is_name(name))
    };
    let expected = if is_quoting {
        text.rsplit_once(", expected ")
    } else {
        ours()
    };
    let expected = expected.map(|(_, expected)| expected);
    let expected = expected.unwrap_or("a value of the documented type");
    Some(Malformed::new(member, format!("must be {expected}")))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::{Timestamp, UserId, optional_whole};

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Thing {
        user_id: UserId,
        at: Option<Timestamp>,
        #[serde(default, deserialize_with = "optional_whole")]
        many: Option<u16>,
    }

    fn complaint_about(text: &str) -> String {
        read_object::<Thing>(text, "body").unwrap_err().to_string()
    }

    #[test]
    fn unknown_members_are_ignored_whatever_they_hold() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let deeper = format!(
            "{}{}",
            "{\"x\":".repeat(200),
            "1".to_owned() + &"}".repeat(200)
        );
        for unknown in [
            "1e999",
            "-1e-999",
            "\"\\ud800\"",
            "\"\\udc00\\ud800\"",
            "null",
            "1.0",
            &deep,
            &deeper,
            "12345678901234567890123",
        ] {
            for text in [
                format!(r#"{{"x":{unknown},"userId":"u","x":{unknown},"many":2.0}}"#),
                format!("\r\n\t {{\"userId\":\"u\",\"many\":2,\"User-Id\":{unknown}}}\n"),
                format!(r#"{{"us\u0065rId":"u","many":2e0,"\ud83d\ude00":{unknown}}}"#),
            ] {
                let thing: Thing = read_object(&text, "body").unwrap();
                assert_eq!(
                    (thing.user_id.as_str(), thing.many, thing.at),
                    ("u", Some(2), None)
                );
            }
        }
    }

    #[test]
    fn a_known_member_is_named_and_not_quoted() {
        for (text, says) in [
            (r#"{"many":1}"#, "userId is missing"),
            (
                r#"{"userId":"secret","userId":"secret"}"#,
                "userId must be given once",
            ),
            (
                r#"{"userId":"secret","us\u0065rId":"secret"}"#,
                "userId must be given once",
            ),
            (r#"{"userId":null}"#, "userId must be a string"),
            (
                r#"{"userId":"secret secret"}"#,
                "userId must be 1 to 128 characters of A-Z",
            ),
            (r#"{"userId":"\ud800"}"#, "userId must be a text without"),
            (
                r#"{"userId":"\ud800\u0041"}"#,
                "userId must be a text without",
            ),
            (
                r#"{"userId":"secret","many":1e999}"#,
                "many must be a smaller number",
            ),
            (
                r#"{"userId":"secret","many":65536}"#,
                "many must be a smaller whole number",
            ),
            (
                r#"{"userId":"secret","many":-1}"#,
                "many must be a whole number",
            ),
            (
                r#"{"userId":"secret","at":"secret, expected secret must be secret"}"#,
                "at must be an RFC 3339 time",
            ),
            (r#"{"userId":{"secret":1}}"#, "userId must be a string"),
        ] {
            let complaint = complaint_about(text);
            assert!(complaint.starts_with(says), "{text}: {complaint}");
            assert!(!complaint.contains("secret"), "{complaint}");
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "kind", rename_all = "camelCase")]
    enum Kind {
        Fish {
            #[expect(dead_code, reason = "only read")]
            legs: u8,
        },
        Bird,
    }

    #[test]
    fn of_what_is_read_ahead_nothing_is_quoted_either() {
        for (text, says) in [
            (r#"{"kind":"secret"}"#, "kind must be `fish` or `bird`"),
            (
                r#"{"kind":"secret must be secret"}"#,
                "kind must be `fish` or `bird`",
            ),
            (
                r#"{"kind":"x, expected secret"}"#,
                "kind must be `fish` or `bird`",
            ),
            (
                r#"{"kind":"fish","legs":"x, expected secret at line 1 column 2"}"#,
                "body must be u8",
            ),
            (
                r#"{"kind":"fish","legs":"secret must be secret"}"#,
                "body must be u8",
            ),
            (
                r#"{"kind":"bird","secret must be":1e999}"#,
                "body must be a smaller number",
            ),
            (r#"{"kind":["secret must be"]}"#, "kind"),
            (r#"{"secret":1}"#, "kind is missing"),
        ] {
            let complaint = read_object::<Kind>(text, "body").unwrap_err().to_string();
            assert!(complaint.starts_with(says), "{text}: {complaint}");
            assert!(!complaint.contains("secret"), "{text}: {complaint}");
        }
        assert!(matches!(
            read_object::<Kind>(r#"{"kind":"bird","secret":1}"#, "body"),
            Ok(Kind::Bird)
        ));
    }

    #[test]
    fn what_is_no_object_is_named_as_a_whole() {
        for text in [
            "",
            " ",
            "secret",
            "[\"u\"]",
            "null",
            "\"u\"",
            "{",
            "{\"userId\":\"u\"",
            "{\"userId\":\"u\"}}",
            "{\"userId\":\"u\"} x",
            "{'userId':'u'}",
            "{userId:\"u\"}",
            "{\"userId\":\"u\",}",
            "{\"userId\":\"u\" /* */}",
            "\u{feff}{\"userId\":\"u\"}",
            "\u{c}{\"userId\":\"u\"}",
            "\u{a0}{\"userId\":\"u\"}",
            "{\"userId\":\"u\",\"x\":NaN}",
            "{\"userId\":\"u\",\"x\":01}",
            "{\"userId\":\"a\tb\"}",
            "{\"userId\":\"u\",\"x\":\"\\x\"}",
        ] {
            assert_eq!(
                complaint_about(text),
                "body must be a JSON object",
                "{text:?}"
            );
        }
    }
}
