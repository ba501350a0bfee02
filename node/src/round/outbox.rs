//! Positions of what a node has said: stable over restarts, so that a reader goes on where it was.

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_threshold::identifiers::Digest;
use keyfleet_threshold::round::Participant;
use rand::Rng as _;

use super::voice::Said;

/// What stands at a position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OutboxRow {
    /// The attempt's number; zero for prekey sets.
    pub number: u64,
    /// Digest of the message or prekey set.
    pub digest: Digest,
}

/// All positions of a lineage. A node that was restored from its replica begins a new one, since it may have said more
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
    /// A new lineage.
    #[must_use]
    pub fn begin() -> Self {
        let mut lineage = [0; 16];
        rand::rng().fill_bytes(&mut lineage);
        Self { lineage, next: 1, rows: BTreeMap::new() }
    }

    /// The outbox once the participant's state is committed: rows of what it dropped are gone, new ones are at the end.
    #[must_use]
    pub(super) fn after(&self, participant: &Participant, said: &Said) -> Self {
        let offers = participant.offers().map(|offer| OutboxRow { number: 0, digest: offer.digest() });
        let messages = said.iter().map(|(number, message)| OutboxRow { number: number.0, digest: message.digest() });
        let wanted: Vec<_> = offers.chain(messages).collect();
        let mut after = self.clone();
        let still: BTreeSet<_> = wanted.iter().copied().collect();
        after.rows.retain(|_, row| still.contains(row));
        let known: BTreeSet<_> = after.rows.values().copied().collect();
        for row in wanted.into_iter().filter(|row| !known.contains(row)) {
            after.rows.insert(after.next, row);
            after.next += 1;
        }
        after
    }
}
