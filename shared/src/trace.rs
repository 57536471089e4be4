//! The platform's own name for a journey, carried along so that one claim can be followed from its frame to its answer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest header that is carried, in bytes; Lambda's are below 150.
const MAX_BYTES: usize = 256;

/// An X-Ray trace header, such as `Root=1-67891233-abcdef012345678912345678;Parent=463ac35c9f6413ad;Sampled=1`
/// (<https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader>). Lambda adds
/// `Lineage=1:a87bd80c:0|68fd508a:5`, of which its recursion guard counts the hops: every function passed, with `|` between
/// (<https://docs.aws.amazon.com/lambda/latest/dg/services-xray.html>).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("pattern" = "^[A-Za-z0-9=;:_.|-]*Root=[^;]+", "maxLength" = MAX_BYTES)))]
pub struct TraceHeader(String);

impl TraceHeader {
    /// Reads a header. What is none is no error: the journey has no name then. Of one that is too long, or holds what nobody
    /// expects there, the journey's name is kept.
    pub fn read(text: &str) -> Option<Self> {
        let root = || text.split(';').find(|field| field.starts_with("Root="));
        Self::whole(text).or_else(|| Self::whole(root()?))
    }

    fn whole(text: &str) -> Option<Self> {
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-=;:_.|".contains(&byte);
        let sound = text.len() <= MAX_BYTES && text.bytes().all(harmless);
        Some(Self(text.to_owned())).filter(|header| sound && !header.root().is_empty())
    }

    /// A header for a journey that the platform gives none, as the local AWS; nothing is sampled of it.
    pub fn mint(now: crate::Timestamp, random: u128) -> Self {
        let (seconds, random) = (now.epoch_seconds(), random >> 32);
        Self(format!("Root=1-{seconds:08x}-{random:024x};Sampled=0"))
    }

    /// The whole header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trace's id: the same on the whole journey. What X-Ray is searched by.
    pub fn root(&self) -> &str {
        let mut fields = self.0.split(';');
        fields
            .find_map(|field| field.trim().strip_prefix("Root="))
            .unwrap_or_default()
    }
}

impl fmt::Display for TraceHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.root())
    }
}

impl From<TraceHeader> for String {
    fn from(header: TraceHeader) -> Self {
        header.0
    }
}

impl TryFrom<String> for TraceHeader {
    type Error = crate::InvalidValue;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::read(&text).ok_or(crate::InvalidValue {
            field: "trace",
            expected: "an X-Ray trace header",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn the_root_is_found_wherever_it_stands() {
        for header in [
            "Root=1-67891233-abc;Parent=4;Sampled=1",
            "Sampled=0;Root=1-67891233-abc",
        ] {
            assert_eq!(TraceHeader::read(header).unwrap().root(), "1-67891233-abc");
        }
    }

    #[test]
    fn a_header_with_the_lineage_of_several_functions_is_carried_whole() {
        let header =
            "Root=1-67891233-abc;Parent=4;Sampled=0;Lineage=1:a87bd80c:0|68fd508a:5|c512fbe3:2";
        let read = TraceHeader::read(header).unwrap();
        assert_eq!((read.as_str(), read.root()), (header, "1-67891233-abc"));
    }

    #[test]
    fn whatever_else_a_header_holds_the_journey_keeps_its_name() {
        for rest in [
            vec!["32767:ffffffff:255"; 16].join("|"),
            "Self=1 2".to_owned(),
        ] {
            let header = format!("Sampled=1;Root=1-67891233-abc;Lineage={rest}");
            let read = TraceHeader::read(&header).unwrap();
            assert_eq!(read.as_str(), "Root=1-67891233-abc");
        }
    }

    #[test]
    fn what_is_no_header_is_none() {
        let long = format!("Root={}", "a".repeat(300));
        for text in [
            "",
            "Parent=4",
            "Root=",
            "Root=1-2\n",
            "Root=<script>",
            &long,
        ] {
            assert_eq!(TraceHeader::read(text), None, "{text}");
        }
    }

    #[test]
    fn a_minted_header_reads_back() {
        let minted = TraceHeader::mint(Timestamp::from_millis(1_790_000_000_000), u128::MAX);
        assert_eq!(minted.root(), "1-6ab13b80-ffffffffffffffffffffffff");
        assert_eq!(TraceHeader::read(minted.as_str()), Some(minted));
    }
}
