//! What a coupon gives: any JSON, kept as text, because numbers are to come back as they were sent: `1.0` is not `1` to
//! everybody, and no number type of ours holds all that JSON can write.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
    ser,
};
use serde_json::value::RawValue;

use crate::{Amount, InvalidValue};

/// The longest benefit, in bytes of its text.
const MAX_BYTES: usize = 256;
/// How deep it may be nested.
const MAX_DEPTH: u8 = 16;

/// A benefit: the JSON as it was sent, without white space. Where it is stored, and in messages, it is a text in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(description = "JSON as text, at most 256 bytes.", extend("maxLength" = MAX_BYTES))
)]
pub struct Benefit(String);

impl Benefit {
    /// Reads JSON.
    ///
    /// # Errors
    /// [`InvalidValue`] that names the field: it is no JSON, too long, too deep, or a member is given twice.
    pub fn new(json: &str) -> Result<Self, InvalidValue> {
        let mut text = String::new();
        let read = serde_json::from_str(json)
            .ok()
            .and_then(|raw| compact(raw, MAX_DEPTH, &mut text))
            .filter(|()| text.len() <= MAX_BYTES);
        read.map(|()| Self(text)).ok_or(InvalidValue {
            field: "benefit",
            expected: "at most 256 bytes of JSON, at most 16 levels deep, each member given once",
        })
    }

    /// The JSON.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The points it is worth: `{"type": "points", "amount": n}`. Every other benefit is opaque.
    ///
    /// # Errors
    /// [`InvalidValue`] if it says points and no [`Amount`] of them.
    pub fn points(&self) -> Result<Option<Amount>, InvalidValue> {
        #[derive(Deserialize)]
        struct Points<'a> {
            #[serde(borrow, rename = "type")]
            kind: Option<&'a RawValue>,
            #[serde(borrow)]
            amount: Option<&'a RawValue>,
        }
        let Ok(Points {
            kind: Some(kind),
            amount,
        }) = serde_json::from_str(&self.0)
        else {
            return Ok(None);
        };
        if !self.0.starts_with('{') || kind.get() != "\"points\"" {
            return Ok(None);
        }
        let amount = amount.and_then(|amount| serde_json::from_str(amount.get()).ok());
        amount.map(Some).ok_or(InvalidValue {
            field: "benefit",
            expected: "of type points with an amount from 1 to 1000000000000",
        })
    }

    /// Reads a member that holds any JSON, or `null`, as in what a partner sends.
    ///
    /// # Errors
    /// As [`Benefit::new`].
    pub fn from_json<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        let raw = Option::<Box<RawValue>>::deserialize(from)?;
        raw.map(|raw| Self::new(raw.get()))
            .transpose()
            .map_err(de::Error::custom)
    }

    /// Writes the JSON itself, and not the text that holds it.
    ///
    /// # Errors
    /// If the serializer is none of JSON.
    pub fn to_json<S: Serializer>(benefit: &Option<Self>, to: S) -> Result<S::Ok, S::Error> {
        let raw = benefit
            .as_ref()
            .map(|Self(text)| serde_json::from_str::<&RawValue>(text))
            .transpose()
            .map_err(ser::Error::custom)?;
        raw.serialize(to)
    }
}

impl TryFrom<String> for Benefit {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::new(&text)
    }
}

impl From<Benefit> for String {
    fn from(benefit: Benefit) -> Self {
        benefit.0
    }
}

/// The members of an object, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                while let Some((name, member)) = map.next_entry::<String, &RawValue>()? {
                    if members.iter().any(|(known, _)| *known == name) {
                        return Err(de::Error::custom("a member is given twice"));
                    }
                    members.push((name, member));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Object)
    }
}

/// Writes the JSON without white space: numbers as they are, texts with no more escapes than they need. `None` if it is
/// nested deeper than that, a member is given twice, or a text holds half a character.
fn compact(raw: &RawValue, depth: u8, to: &mut String) -> Option<()> {
    let json = raw.get();
    match json.as_bytes().first()? {
        b'"' => *to += &encoded(&serde_json::from_str::<String>(json).ok()?)?,
        b'[' => {
            let depth = depth.checked_sub(1)?;
            to.push('[');
            for (n, item) in serde_json::from_str::<Vec<&RawValue>>(json)
                .ok()?
                .into_iter()
                .enumerate()
            {
                if n > 0 {
                    to.push(',');
                }
                compact(item, depth, to)?;
            }
            to.push(']');
        }
        b'{' => {
            let depth = depth.checked_sub(1)?;
            to.push('{');
            let Members(members) = serde_json::from_str(json).ok()?;
            for (n, (name, member)) in members.into_iter().enumerate() {
                if n > 0 {
                    to.push(',');
                }
                *to += &encoded(&name)?;
                to.push(':');
                compact(member, depth, to)?;
            }
            to.push('}');
        }
        _ => to.push_str(json),
    }
    Some(())
}

fn encoded(text: &str) -> Option<String> {
    serde_json::to_string(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> Option<String> {
        Benefit::new(json).ok().map(String::from)
    }

    #[test]
    fn a_benefit_is_what_was_sent_without_white_space() {
        for same in [
            r#"{"v":9007199254740991.0}"#,
            r#"{"v":9007199254740993}"#,
            "50.0",
            "1E+2",
            "-0",
            "-0.0",
            "1e999",
            "12345678901234567890123.4567890",
            r#"{"b":1,"a":[true,null,{"":""}]}"#,
            r#""\"\\쿠폰\u0000""#,
            "null",
            "[]",
            "{}",
        ] {
            assert_eq!(text(same).as_deref(), Some(same));
        }
        assert_eq!(
            text(" { \"a\" : [ 1 , 2.50 ] , \"b c\" : \"d e\" }\n").as_deref(),
            Some(r#"{"a":[1,2.50],"b c":"d e"}"#)
        );
        assert_eq!(text(r#""\ucfe0\/\u0041""#).as_deref(), Some(r#""쿠/A""#));
    }

    #[test]
    fn what_two_readers_may_read_differently_is_none() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(text(&nested(16)).is_some());
        let objects = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        assert!(text(&objects(16)).is_some());
        for bad in [
            &nested(17),
            &objects(17),
            &nested(120),
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"[{"x":{"a":1,"b":2,"a":3}}]"#,
            r#""\ud800""#,
            r#"{"\udfff":1}"#,
            "",
            "x",
            "1 2",
            "{",
            "NaN",
            "01",
            "+1",
            ".5",
            "1.",
        ] {
            assert_eq!(Benefit::new(bad).unwrap_err().field, "benefit", "{bad}");
        }
        let long = |bytes: usize| format!("  \"{}\"  ", "x".repeat(bytes - 2));
        assert_eq!(text(&long(256)).map(|text| text.len()), Some(256));
        assert_eq!(text(&long(257)), None);
    }

    #[test]
    fn a_benefit_of_points_names_how_many() {
        let points = |json: &str| {
            Benefit::new(json)
                .unwrap()
                .points()
                .map(|points| points.map(Amount::points))
        };
        for (amount, whole) in [
            ("1", 1),
            ("50.0", 50),
            ("5e1", 50),
            ("1000000000000", 1_000_000_000_000),
            ("1e12", 1_000_000_000_000),
        ] {
            assert_eq!(
                points(&format!(
                    r#"{{"type":"points","amount":{amount},"x":1e999}}"#
                )),
                Ok(Some(whole))
            );
        }
        for opaque in [
            "null",
            "5",
            "[\"points\",5]",
            r#"{"amount":0}"#,
            r#"{"type":"point","amount":0}"#,
            r#"{"type":["points"]}"#,
            r#"{"type":1e999}"#,
        ] {
            assert_eq!(points(opaque), Ok(None), "{opaque}");
        }
        for bad in [
            "0",
            "-1",
            "1.5",
            "1000000000001",
            "1e999",
            "\"5\"",
            "null",
            "[5]",
        ] {
            let refused = points(&format!(r#"{{"type":"points","amount":{bad}}}"#));
            assert_eq!(refused.unwrap_err().field, "benefit", "{bad}");
        }
        assert!(points(r#"{"type":"points"}"#).is_err());
        assert!(points(r#"{"ty\u0070e":"p\u006fints"}"#).is_err());
    }

    #[test]
    fn a_benefit_is_a_text_where_it_is_stored_and_json_where_it_is_shown() {
        #[derive(Debug, PartialEq, Deserialize, Serialize)]
        struct Stored {
            benefit: Option<Benefit>,
        }
        #[derive(Debug, PartialEq, Deserialize, Serialize)]
        struct Shown {
            #[serde(
                default,
                deserialize_with = "Benefit::from_json",
                serialize_with = "Benefit::to_json",
                skip_serializing_if = "Option::is_none"
            )]
            benefit: Option<Benefit>,
        }
        let json = r#"{"benefit":{"v":1.0}}"#;
        let Shown { benefit } = serde_json::from_str(json).unwrap();
        let stored = serde_json::to_string(&Stored { benefit }).unwrap();
        assert_eq!(stored, r#"{"benefit":"{\"v\":1.0}"}"#);
        let Stored { benefit } = serde_json::from_str(&stored).unwrap();
        assert_eq!(serde_json::to_string(&Shown { benefit }).unwrap(), json);
        for none in ["{}", r#"{"benefit":null}"#] {
            assert_eq!(
                serde_json::from_str::<Shown>(none).unwrap(),
                Shown { benefit: None }
            );
        }
        assert!(serde_json::from_str::<Shown>(r#"{"benefit":{"a":1,"a":1}}"#).is_err());
    }
}
