//! Sealing of a term's objects.

use std::sync::Arc;

use rand::CryptoRng;

use crate::format::header::{Header, Kind, ReplicaName};
use crate::format::payload::{Commit, encode_commits};
use crate::format::seal::{self, Sealed};
use crate::keys::{TermKey, Wrap};
use crate::position::{CommitNo, DatabaseId, Digest, Position, Seq, Term};

/// Seals the objects of a term that lie outside its sequence: snapshots and merged segments. These wait for no other
/// object, so a clone may be used on another thread.
#[derive(Clone, Debug)]
pub struct Sealer {
    pub(super) replica: ReplicaName,
    pub(super) database: DatabaseId,
    pub(super) key: Arc<TermKey>,
    pub(super) wraps: Arc<[Wrap]>,
}

impl Sealer {
    /// Seals a snapshot of `covered`, a position that was reported durable with exactly `commit` as its last.
    /// `image` is the file as one zstd frame, `file_len` its length in bytes before compression.
    pub fn snapshot(
        &self,
        image: Vec<u8>,
        file_len: u64,
        covered: Position,
        commit: CommitNo,
        time_ms: u64,
        rng: &mut impl CryptoRng,
    ) -> Sealed {
        let header = Header {
            first_commit: commit,
            last_commit: commit,
            time_ms,
            covers: covered.hash,
            file_len,
            wraps: self.wraps.to_vec(),
            ..self.header(Kind::Snapshot, covered.term, covered.seq)
        };
        seal::seal_compressed(&self.key, header, file_len, image, rng)
    }

    /// Seals one object in the place of a run of segments, from the one numbered `first`, which names `prev`, to
    /// `last`. `commit` has the operations of all of them, and the number and time of the last.
    #[expect(clippy::too_many_arguments, reason = "each is a field of the header")]
    pub fn merged(
        &self,
        first: Seq,
        prev: Digest,
        last: Position,
        first_commit: CommitNo,
        commit: &Commit,
        file_len: u64,
        rng: &mut impl CryptoRng,
    ) -> Sealed {
        let header = Header {
            first_seq: first,
            first_commit,
            last_commit: commit.number,
            time_ms: commit.time_ms,
            prev,
            covers: last.hash,
            file_len,
            ..self.header(Kind::Merged, last.term, last.seq)
        };
        seal::seal(&self.key, header, &encode_commits(std::slice::from_ref(commit)), rng)
    }

    /// Returns a header in which every field that not all kinds have is zero.
    pub(super) fn header(&self, kind: Kind, term: Term, seq: Seq) -> Header {
        Header {
            kind,
            replica: self.replica.clone(),
            database: self.database,
            term,
            seq,
            first_seq: seq,
            first_commit: CommitNo(0),
            last_commit: CommitNo(0),
            time_ms: 0,
            prev: Digest::NONE,
            covers: Digest::NONE,
            nonce: [0; 16],
            salt: [0; 32],
            file_len: 0,
            plain_len: 0,
            wraps: Vec::new(),
        }
    }
}
