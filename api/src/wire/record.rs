//! A fleet's public record, `client.json`: what callers must know before they ask a node.
//!
//! The operator writes it into the ConfigMap `<cluster>-record`; `keyfleet public-key -o json` prints it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

/// The format version that this release writes; it reads no other.
pub const FORMAT: u32 = 1;
/// The name of the file, and of the ConfigMap's key.
pub const FILE: &str = "client.json";

/// The public facts of a fleet, as they are written. [`FORMAT`] is beside them.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FleetRecord {
    /// Name of the `KmsCluster`.
    pub cluster: String,
    /// The cluster's id: token audiences name it.
    pub cluster_id: Hex<16>,
    /// The public key: a compressed point of BLS12-381's G2.
    pub public_key: Hex<96>,
    /// Number of nodes that answer together.
    pub threshold: u32,
    /// The nodes that hold a share, ascending by index.
    pub nodes: Vec<RecordNode>,
}

/// A node as callers see it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordNode {
    /// The node's index, from 1.
    pub index: u32,
    /// The Ed25519 identity key that its certificate must show.
    pub identity_key: Hex<32>,
}

/// A record that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Another release wrote it.
    #[error("{FILE} has format {0}, this release reads {FORMAT}: use the release that wrote it, or a newer one")]
    Format(u64),
    /// The text is not the JSON of a record.
    #[error("{FILE} is not a fleet's record: {0}; take it from the ConfigMap CLUSTER-record again")]
    Invalid(#[from] serde_json::Error),
}

impl FleetRecord {
    /// Reads the text of a `client.json`.
    ///
    /// # Errors
    /// When it is of another format, or malformed.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let mut json: Value = serde_json::from_str(text)?;
        let format = json.as_object_mut().and_then(|fields| fields.remove("format")).and_then(|format| format.as_u64());
        match format.unwrap_or(0) {
            found if found == u64::from(FORMAT) => Ok(serde_json::from_value(json)?),
            found => Err(RecordError::Format(found)),
        }
    }
}

/// Bytes that are written as lower-case hexadecimal, and in no other spelling.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hex<const N: usize>(pub [u8; N]);

/// A text that is not the hexadecimal value it should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected {expected} lower-case hexadecimal digits, found {found:?}")]
pub struct HexError {
    expected: usize,
    found: String,
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        let refuse = || HexError { expected: 2 * N, found: text.chars().take(2 * N + 8).collect() };
        if text.len() != 2 * N {
            return Err(refuse());
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = digit(pair[0]).zip(digit(pair[1]));
            *byte = digits.map(|(high, low)| high << 4 | low).ok_or_else(refuse)?;
        }
        Ok(Self(bytes))
    }
}

fn digit(ascii: u8) -> Option<u8> {
    match ascii {
        b'0'..=b'9' => Some(ascii - b'0'),
        b'a'..=b'f' => Some(ascii - b'a' + 10),
        _ => None,
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Value {
        serde_json::json!({
            "format": 1, "cluster": "keys", "clusterId": "07".repeat(16), "publicKey": "0a".repeat(96), "threshold": 3,
            "nodes": [{ "index": 1, "identityKey": "ff".repeat(32) }],
        })
    }

    #[test]
    fn a_record_is_read_as_it_is_written() {
        let record = FleetRecord::parse(&text().to_string()).unwrap();
        assert_eq!((record.cluster.as_str(), record.threshold, record.cluster_id), ("keys", 3, Hex([7; 16])));
        assert_eq!(record.nodes, [RecordNode { index: 1, identity_key: Hex([255; 32]) }]);
        let mut written = serde_json::to_value(&record).unwrap();
        written["format"] = FORMAT.into();
        assert_eq!(written, text());
    }

    #[test]
    fn another_format_spelling_or_field_is_refused() {
        let with = |key: &str, value: Value| {
            let mut json = text();
            json[key] = value;
            FleetRecord::parse(&json.to_string()).unwrap_err()
        };
        assert!(matches!(with("format", 2.into()), RecordError::Format(2)));
        assert!(matches!(with("format", Value::Null), RecordError::Format(0)));
        assert!(matches!(with("surprise", 1.into()), RecordError::Invalid(_)));
        for wrong in ["", "00", "000102030405060708090A0B0C0D0EFF", "000102030405060708090a0b0c0d0efg"] {
            let error = with("clusterId", wrong.into()).to_string();
            assert!(error.contains("32 lower-case hexadecimal digits"), "{wrong:?}: {error}");
        }
    }
}
