//! Keys, digests and ids as objects carry them: lower-case hexadecimal of a fixed length, and nothing else.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A text that is not the hexadecimal value it should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} is {expected} lower-case hexadecimal digits, this is {found:?}")]
pub struct HexError {
    what: &'static str,
    expected: usize,
    found: String,
}

fn decode<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], HexError> {
    let refuse = || HexError { what, expected: 2 * N, found: text.chars().take(2 * N + 8).collect() };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(refuse());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [digit(pair[0]), digit(pair[1])];
        *byte = high.zip(low).map(|(high, low)| high << 4 | low).ok_or_else(refuse)?;
    }
    Ok(bytes)
}

fn digit(ascii: u8) -> Option<u8> {
    match ascii {
        b'0'..=b'9' => Some(ascii - b'0'),
        b'a'..=b'f' => Some(ascii - b'a' + 10),
        _ => None,
    }
}

macro_rules! hex_value {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                decode($what, text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = HexError;

            fn try_from(text: String) -> Result<Self, HexError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let digits = 2 * $bytes;
                json_schema!({
                    "type": "string",
                    "pattern": format!("^[0-9a-f]{{{digits}}}$"),
                    "maxLength": digits,
                })
            }
        }
    };
}

hex_value!(
    /// 16 random bytes, minted once per cluster.
    ClusterId, 16, "a cluster id"
);
hex_value!(
    /// A SHA-256 digest of a canonical encoding: 32 bytes.
    Digest, 32, "a digest"
);
hex_value!(
    /// A node's Ed25519 identity key: 32 bytes.
    PinnedKey, 32, "an identity key"
);
hex_value!(
    /// An Ed25519 signature: 64 bytes.
    IdentitySignature, 64, "an Ed25519 signature"
);
hex_value!(
    /// A compressed point of BLS12-381's G2, 96 bytes: the fleet's public key, or the public half of one share.
    PublicKey, 96, "a public key"
);
hex_value!(
    /// A compressed point of BLS12-381's G1, 48 bytes: the key under which shares are sealed to a node.
    PrekeyPoint, 48, "a prekey"
);
hex_value!(
    /// A compressed point of BLS12-381's G1, 48 bytes: a signature.
    BlsSignature, 48, "a BLS signature"
);

impl PublicKey {
    /// The first 16 digits, for people who compare keys in a table.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.to_string()[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_it_is_written_and_in_no_other_spelling() {
        let id: ClusterId = serde_json::from_str(r#""000102030405060708090a0b0c0d0eff""#).unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), r#""000102030405060708090a0b0c0d0eff""#);
        for wrong in
            ["", "00", "000102030405060708090A0B0C0D0EFF", "000102030405060708090a0b0c0d0efg", "ééééééééééééééää"]
        {
            let error = wrong.parse::<ClusterId>().unwrap_err().to_string();
            assert!(error.contains("32 lower-case hexadecimal digits"), "{wrong:?}: {error}");
        }
    }
}
