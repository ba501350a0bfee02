//! Positions of what a node has published: stable over restarts, so that a reader goes on where it was.

use std::collections::BTreeMap;

use keyfleet_threshold::identifiers::Digest;
use rand::Rng as _;

use super::StoreError;

use crate::secret_rng::secret_rng;

/// Row at a position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OutboxRow {
    /// The attempt's number.
    pub number: u64,
    /// Digest of the message.
    pub digest: Digest,
}

/// All positions of a lineage. A node that was restored from its replica begins a new one, since it may have published more
/// than it remembers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outbox {
    /// Names the lineage.
    pub lineage: [u8; 16],
    /// The position that the next row gets.
    pub next: u64,
    /// The rows that are served.
    pub rows: BTreeMap<u64, OutboxRow>,
}

impl Outbox {
    /// Begins a new lineage.
    #[must_use]
    pub fn begin() -> Self {
        let mut lineage = [0; 16];
        secret_rng().fill_bytes(&mut lineage);
        Self { lineage, next: 1, rows: BTreeMap::new() }
    }

    /// Returns true when every position is one that was given out.
    fn is_in_bounds(&self) -> bool {
        self.rows.last_key_value().is_none_or(|(position, _)| *position < self.next)
    }

    /// Checks that an outbox may be written: no row stands at a position that a later row would get again.
    ///
    /// # Panics
    /// When one does.
    pub(super) fn invariant_positions_are_given_out_once(&self) {
        assert!(self.is_in_bounds(), "an outbox row stands at or above the next position {}", self.next);
    }

    /// Encodes the row `outbox` of `meta`: 16 bytes lineage, u64 next position.
    pub(super) fn encode_head(&self) -> Vec<u8> {
        [self.lineage.as_slice(), &self.next.to_be_bytes()].concat()
    }

    /// Decodes an outbox from its row of `meta` and its rows by position.
    ///
    /// # Errors
    /// When the head is malformed, or a row stands where the next one would.
    pub(super) fn decode(head: &[u8], rows: BTreeMap<u64, OutboxRow>) -> Result<Self, StoreError> {
        let (lineage, next) = head.split_first_chunk().ok_or(MALFORMED)?;
        let next = u64::from_be_bytes(next.try_into().map_err(|_| MALFORMED)?);
        let outbox = Self { lineage: *lineage, next, rows };
        if outbox.is_in_bounds() { Ok(outbox) } else { Err(MALFORMED) }
    }
}

const MALFORMED: StoreError = StoreError::Malformed("outbox");

impl OutboxRow {
    /// Encodes a row: u64 attempt, 32 bytes digest.
    pub(super) fn encode(&self) -> Vec<u8> {
        [self.number.to_be_bytes().as_slice(), &self.digest.0].concat()
    }

    /// Decodes what [`OutboxRow::encode`] wrote.
    ///
    /// # Errors
    /// When the length is another.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let (number, digest) = bytes.split_first_chunk().ok_or(MALFORMED)?;
        let digest = Digest(digest.try_into().map_err(|_| MALFORMED)?);
        Ok(Self { number: u64::from_be_bytes(*number), digest })
    }
}
