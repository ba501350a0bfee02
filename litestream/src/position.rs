//! Names for places in a replica: terms, sequence numbers, commits and digests.

use std::fmt;
use std::str::FromStr;

use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Number of a term: one writer's tenure. Rises with every opening, and is never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u64);

/// Sequence number of an object: openings and segments share one sequence. The first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Returns the number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Number of a write transaction of one database. Goes on across terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitNo(pub u64);

impl CommitNo {
    /// Returns the number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_number!(Term, Seq, CommitNo);

/// Random name of one database's history. Made with the first opening of a replica; the file and every object carry it, so that
/// no other file is taken for this one because its counters agree.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct DatabaseId(pub [u8; 16]);

impl DatabaseId {
    /// Name of a file that was never replicated.
    pub const NONE: Self = Self([0; 16]);

    /// Makes a name.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        Self(id)
    }
}

impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for DatabaseId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DatabaseId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut id = [0; 16];
        hex::decode_to_slice(String::deserialize(deserializer)?, &mut id).map_err(serde::de::Error::custom)?;
        Ok(Self(id))
    }
}

/// SHA-256 of a whole object, as it lies in the bucket.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Placeholder for the digest of a predecessor that does not exist.
    pub const NONE: Self = Self([0; 32]);

    /// Returns the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", hex::encode(&self.0[..4]))
    }
}

impl FromStr for Digest {
    type Err = ParsePositionError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut out = [0; 32];
        hex::decode_to_slice(text, &mut out).map_err(|_| ParsePositionError::Hash(text.into()))?;
        Ok(Self(out))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// State of a replica: the term of its content, the last object that it includes and that object's digest.
///
/// Written `TERM:SEQ:HASH`. Positions are ordered by `seq`; two with the same `seq` and different hashes are
/// two histories, of which one is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Term of the content.
    pub term: Term,
    /// Last sequence number included.
    pub seq: Seq,
    /// Digest of the object with that number.
    pub hash: Digest,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.term, self.seq, self.hash)
    }
}

impl FromStr for Position {
    type Err = ParsePositionError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':');
        let (Some(term), Some(seq), Some(hash), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(ParsePositionError::Shape(text.into()));
        };
        Ok(Self { term: Term(parse_number(term)?), seq: Seq(parse_number(seq)?), hash: hash.parse()? })
    }
}

fn parse_number(text: &str) -> Result<u64, ParsePositionError> {
    text.parse().map_err(|_| ParsePositionError::Number(text.into()))
}

/// Newest object of a sequence, as read from the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Database whose history it is.
    pub database: DatabaseId,
    /// Term, number and digest of the object.
    pub position: Position,
    /// True for an opening, false for a segment.
    pub is_opening: bool,
    /// Random bytes by which the object's writer knows it again.
    pub nonce: [u8; 16],
    /// Last commit that the object carries; of an opening, the last commit before it.
    pub last_commit: CommitNo,
    /// Time of that commit, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// Error of reading a [`Position`] from text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParsePositionError {
    /// Text without exactly three parts.
    #[error("`{0}` is not TERM:SEQ:HASH (for example 3:1042:9f…, with 64 hexadecimal digits)")]
    Shape(String),
    /// A part that should be a number.
    #[error("`{0}` is not a number")]
    Number(String),
    /// A part that should be a digest.
    #[error("`{0}` is not a SHA-256 digest of 64 hexadecimal digits")]
    Hash(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_its_text_form() {
        let position = Position { term: Term(3), seq: Seq(1042), hash: Digest::of(b"object") };
        assert_eq!(position.to_string().parse(), Ok(position));
    }

    #[test]
    fn a_malformed_position_names_its_wrong_part() {
        assert!(matches!("3:1042".parse::<Position>(), Err(ParsePositionError::Shape(_))));
        assert!(matches!("3:x:00".parse::<Position>(), Err(ParsePositionError::Number(part)) if part == "x"));
        assert!(matches!("3:4:00".parse::<Position>(), Err(ParsePositionError::Hash(_))));
    }
}
