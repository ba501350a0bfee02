//! Bucket of the simulation, and the restore of a state from it.

use std::collections::BTreeMap;

use keyfleet_litestream::chain::ChainCursor;
use keyfleet_litestream::format::header::{Header, Kind};
use keyfleet_litestream::format::payload::apply;
use keyfleet_litestream::keys::KeyRing;
use keyfleet_litestream::layout;
use keyfleet_litestream::position::{CommitNo, Digest, Head, Position, Seq};

use crate::support::name;

/// Bucket: atomic, and stamped by its own clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Bucket {
    pub(super) objects: BTreeMap<String, (Vec<u8>, u64)>,
    pub(super) lowest_needed: Option<(Seq, u64)>,
}

impl Bucket {
    pub(super) fn create(&mut self, key: &str, bytes: &[u8], now_ms: u64) -> bool {
        if self.objects.contains_key(key) {
            return false;
        }
        self.objects.insert(key.to_owned(), (bytes.to_vec(), now_ms));
        true
    }

    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.objects.get(key).map(|(bytes, _)| &bytes[..])
    }

    pub(super) fn head(&self) -> Option<Head> {
        let listed = self.objects.keys().filter_map(|key| layout::parse_sequence(key)).max();
        let seq = listed.max(self.lowest_needed.map(|(lowest_needed, _)| lowest_needed))?;
        let object = self.get(&layout::sequence(seq)).expect("nothing at or above the lowest needed number is deleted");
        let (header, _) = Header::decode(object).unwrap();
        Some(Head {
            database: header.database,
            position: Position { term: header.term, seq, hash: Digest::of(object) },
            is_opening: header.kind == Kind::Opening,
            nonce: header.nonce,
            last_commit: header.last_commit,
            time_ms: header.time_ms,
        })
    }

    pub(super) fn snapshots(&self) -> Vec<(Seq, Digest)> {
        self.objects.keys().filter_map(|key| layout::parse_snapshot(key)).collect()
    }

    /// Rebuilds the state at `head`, as a restore does; `None` where nothing was ever stored.
    pub(super) fn restore(&self, ring: &KeyRing, head: Head) -> Result<Option<Restored>, String> {
        let mut first = None;
        for at in self.snapshots().into_iter().rev().filter(|(seq, _)| *seq <= head.position.seq) {
            match self.follow(ring, at, head) {
                Ok(restored) => return Ok(Some(restored)),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        match first {
            Some(error) => Err(error),
            None if head.position.seq.0 == head.position.term.0 => Ok(None),
            None => Err("no snapshot".into()),
        }
    }

    pub(super) fn follow(&self, ring: &KeyRing, at: (Seq, Digest), head: Head) -> Result<Restored, String> {
        let object = self.get(&layout::snapshot(at.0, at.1)).expect("listed");
        let (mut cursor, frame) =
            ChainCursor::from_snapshot(&name(), ring, at, object).map_err(|error| error.to_string())?;
        if at.0 == head.position.seq && at.1 != head.position.hash {
            return Err("a snapshot of another history".into());
        }
        let mut image = zstd::bulk::decompress(&frame, 1 << 20).unwrap();
        while cursor.link().0 < head.position.seq {
            let object = self.get(&layout::sequence(cursor.next_seq())).ok_or("missing")?;
            for commit in cursor.read_next(object).map_err(|error| error.to_string())? {
                apply(&mut image, &commit.ops).unwrap();
            }
        }
        Ok(Restored { image, position: cursor.state(), commit: cursor.last_commit(), time_ms: cursor.time_ms() })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Restored {
    pub(super) image: Vec<u8>,
    pub(super) position: Position,
    pub(super) commit: CommitNo,
    pub(super) time_ms: u64,
}
