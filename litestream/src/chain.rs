//! Reading a chain: from a snapshot, object by object, to the newest state. Pure; bytes in, commits out.
//!
//! redb often does not notice a missing segment: a file rebuilt with a gap opens, with wrong contents. So every
//! link is checked here, before a byte reaches a file that someone could open.

use crate::format::error::ObjectError;
use crate::format::header::{Header, Kind, ReplicaName};
use crate::format::payload::{Commit, decode_commits};
use crate::format::seal;
use crate::keys::{KeyRing, TermKey};
use crate::position::{CommitNo, DatabaseId, Digest, Position, Seq, Term};

/// Cursor that verifies a chain link by link while it reads it.
#[derive(Debug)]
pub struct ChainCursor<'k> {
    replica: ReplicaName,
    database: DatabaseId,
    keys: &'k KeyRing,
    key: TermKey,
    /// Last object read, opening or not: the one that the next must name.
    link: (Seq, Digest),
    /// State reached: the last object whose content is included.
    state: Position,
    /// Opening whose base is not the snapshot that the cursor began with.
    missing_base: Option<Opened>,
    newest_term: Term,
    last_commit: CommitNo,
    time_ms: u64,
    file_len: u64,
}

/// Opening whose base was not read.
#[derive(Debug)]
struct Opened {
    term: Term,
    seq: Seq,
    time_ms: u64,
    key: TermKey,
}

impl<'k> ChainCursor<'k> {
    /// Opens the snapshot that lies under the key for `(seq, hash)`. Returns the cursor and the file's image as one
    /// zstd frame, which decompresses to `file_len` bytes.
    ///
    /// # Errors
    /// [`ChainError`] when the object is not that snapshot of this replica.
    pub fn from_snapshot(
        replica: &ReplicaName,
        keys: &'k KeyRing,
        (seq, hash): (Seq, Digest),
        object: &[u8],
    ) -> Result<(Self, Vec<u8>), ChainError> {
        let place = Place::Snapshot(seq);
        let header = decode(place, object)?;
        expect_owner(place, replica, &header)?;
        if header.kind != Kind::Snapshot || header.seq != seq || header.covers != hash {
            return Err(ChainError::Misplaced { place, found: header.kind, found_seq: header.seq });
        }
        let key = keys
            .unwrap(&header.wraps, replica.as_str(), header.term)
            .map_err(|error| ChainError::Object { place, error: error.into() })?;
        let image = seal::open_compressed(&key, object).map_err(|error| ChainError::Object { place, error })?;
        let cursor = Self {
            replica: replica.clone(),
            database: header.database,
            keys,
            key,
            link: (seq, hash),
            state: Position { term: header.term, seq, hash },
            missing_base: None,
            newest_term: header.term,
            last_commit: header.last_commit,
            time_ms: header.time_ms,
            file_len: header.file_len,
        };
        Ok((cursor, image))
    }

    /// Reads the object numbered `self.next_seq()`, and returns the commits that it carries.
    ///
    /// # Errors
    /// [`ChainError`] names the rule of the chain that the object breaks.
    pub fn read_next(&mut self, object: &[u8]) -> Result<Vec<Commit>, ChainError> {
        let place = Place::Sequence(self.next_seq());
        let header = decode(place, object)?;
        expect_owner(place, &self.replica, &header)?;
        expect_database(place, self.database, header.database)?;
        if !matches!(header.kind, Kind::Opening | Kind::Segment) || header.seq != self.next_seq() {
            return Err(ChainError::Misplaced { place, found: header.kind, found_seq: header.seq });
        }
        self.expect_link(place, &header)?;
        let commits = if header.kind == Kind::Opening {
            if header.term <= self.newest_term {
                return Err(ChainError::TermFell { place, before: self.newest_term, found: header.term });
            }
            let key = self
                .keys
                .unwrap(&header.wraps, self.replica.as_str(), header.term)
                .map_err(|error| ChainError::Object { place, error: error.into() })?;
            seal::open(&key, object).map_err(|error| ChainError::Object { place, error })?;
            self.newest_term = header.term;
            self.missing_base = Some(Opened { term: header.term, seq: header.seq, time_ms: header.time_ms, key });
            Vec::new()
        } else {
            self.take_commits(place, &header, object)?
        };
        self.advance(&header, Digest::of(object));
        Ok(commits)
    }

    /// Reads a merged segment that begins at `self.next_seq()`, and returns the commits that it carries.
    ///
    /// # Errors
    /// As [`ChainCursor::read_next`].
    pub fn read_merged(&mut self, last: Seq, hash: Digest, object: &[u8]) -> Result<Vec<Commit>, ChainError> {
        let place = Place::Merged(self.next_seq(), last);
        let header = decode(place, object)?;
        expect_owner(place, &self.replica, &header)?;
        expect_database(place, self.database, header.database)?;
        if header.kind != Kind::Merged
            || header.first_seq != self.next_seq()
            || header.seq != last
            || header.covers != hash
        {
            return Err(ChainError::Misplaced { place, found: header.kind, found_seq: header.seq });
        }
        self.expect_link(place, &header)?;
        let commits = self.take_commits(place, &header, object)?;
        self.advance(&header, header.covers);
        Ok(commits)
    }

    /// Returns the database whose history it is.
    #[must_use]
    pub fn database(&self) -> DatabaseId {
        self.database
    }

    /// Returns the number of the object to read next.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.link.0.next()
    }

    /// Returns the state reached. An opening alone is a link and no state; its base is one.
    #[must_use]
    pub fn state(&self) -> Position {
        self.state
    }

    /// Returns the last commit included.
    #[must_use]
    pub fn last_commit(&self) -> CommitNo {
        self.last_commit
    }

    /// Returns the time of the state, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Returns the length that the file must have, in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Returns the time of the last opening read, in milliseconds since the Unix epoch; `None` before the first. Every state
    /// of its term is at least as new.
    #[must_use]
    pub fn opened_ms(&self) -> Option<u64> {
        self.missing_base.as_ref().map(|opened| opened.time_ms)
    }

    /// Returns number and digest of the last object read, openings included.
    #[must_use]
    pub fn link(&self) -> (Seq, Digest) {
        self.link
    }

    fn expect_link(&self, place: Place, header: &Header) -> Result<(), ChainError> {
        if header.prev == self.link.1 {
            Ok(())
        } else {
            Err(ChainError::BrokenLink { place, expected: self.link.1, found: header.prev })
        }
    }

    fn take_commits(&mut self, place: Place, header: &Header, object: &[u8]) -> Result<Vec<Commit>, ChainError> {
        if let Some(opened) = &self.missing_base {
            let plain = seal::open(&opened.key, object).map_err(|error| ChainError::Object { place, error })?;
            let commits = decode_commits(&plain).map_err(|error| ChainError::Object { place, error })?;
            let since_ms = commits.first().map_or(header.time_ms, |first| first.time_ms);
            return Err(ChainError::BaseMissing { term: opened.term, seq: opened.seq, since_ms });
        }
        if header.term != self.state.term {
            return Err(ChainError::TermMixed { place, expected: self.state.term, found: header.term });
        }
        let plain = seal::open(&self.key, object).map_err(|error| ChainError::Object { place, error })?;
        let commits = decode_commits(&plain).map_err(|error| ChainError::Object { place, error })?;
        if carries_on(self.last_commit, header, &commits) {
            Ok(commits)
        } else {
            Err(ChainError::CommitGap { place, after: self.last_commit })
        }
    }

    /// Goes on to an object that passed every check.
    fn advance(&mut self, header: &Header, digest: Digest) {
        assert!(header.seq > self.link.0 && header.term >= self.newest_term, "a cursor goes forwards only");
        self.link = (header.seq, digest);
        if header.kind != Kind::Opening {
            self.state = Position { term: header.term, seq: header.seq, hash: digest };
            self.last_commit = header.last_commit;
            self.time_ms = header.time_ms;
            self.file_len = header.file_len;
        }
    }
}

/// Checks a state against the floor: a position that is known to have been acknowledged.
///
/// `seen` is the digest of the replica's object that has the floor's number, where it is known; it must be the
/// floor's.
///
/// # Errors
/// [`ChainError::BelowFloor`] for an older state, [`ChainError::ForkedBelowFloor`] for another history.
pub fn check_floor(state: Position, floor: Position, seen: Option<Digest>) -> Result<(), ChainError> {
    if state.seq < floor.seq || state.term < floor.term {
        return Err(ChainError::BelowFloor { state, floor });
    }
    let known = if state.seq == floor.seq { Some(state.hash) } else { seen };
    match known {
        Some(hash) if hash != floor.hash => Err(ChainError::ForkedBelowFloor { floor, found: hash }),
        _ => Ok(()),
    }
}

/// Returns true when an object goes on right after `last`, without leaving out or repeating a commit.
fn carries_on(last: CommitNo, header: &Header, commits: &[Commit]) -> bool {
    let (first, last_of_object) = (header.first_commit, header.last_commit);
    if last.0.checked_add(1) != Some(first.0) || last_of_object < first {
        return false;
    }
    // A merged segment has the operations of many commits under the number of the last.
    header.kind != Kind::Segment || commits.iter().map(|commit| commit.number.0).eq(first.0..=last_of_object.0)
}

fn decode(place: Place, object: &[u8]) -> Result<Header, ChainError> {
    Header::decode(object).map(|(header, _)| header).map_err(|error| ChainError::Object { place, error })
}

fn expect_owner(place: Place, replica: &ReplicaName, header: &Header) -> Result<(), ChainError> {
    if header.replica == *replica {
        Ok(())
    } else {
        Err(ChainError::Foreign { place, expected: replica.clone(), found: header.replica.clone() })
    }
}

pub(crate) fn expect_database(place: Place, expected: DatabaseId, found: DatabaseId) -> Result<(), ChainError> {
    if found == expected { Ok(()) } else { Err(ChainError::OtherDatabase { place, expected, found }) }
}

/// Place of an object in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Opening or segment: `seq/…`.
    Sequence(Seq),
    /// Snapshot: `snap/…`.
    Snapshot(Seq),
    /// Merged segment, from the first number to the last: `merged/…`.
    Merged(Seq, Seq),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sequence(seq) => write!(f, "object {seq} of the sequence"),
            Self::Snapshot(seq) => write!(f, "the snapshot that covers seq {seq}"),
            Self::Merged(first, last) => write!(f, "the merged segment {first} to {last}"),
        }
    }
}

/// Broken rule of a chain, and the object that breaks it. The replica's content is at fault, or whoever serves it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Object that is wrong in itself: torn, altered, or sealed under another key.
    #[error("{place}: {error}")]
    Object {
        /// Place of the object.
        place: Place,
        /// Error of the object.
        error: ObjectError,
    },
    /// Missing object.
    #[error("{place} is missing, although objects after it exist")]
    Missing {
        /// Place of the object.
        place: Place,
    },
    /// Object of another replica.
    #[error("{place} belongs to replica `{found}`, not to `{expected}`")]
    Foreign {
        /// Place of the object.
        place: Place,
        /// Name of this replica.
        expected: ReplicaName,
        /// Name of the object's replica.
        found: ReplicaName,
    },
    /// Object of another database's history under the same name, as after two buckets were mixed.
    #[error("{place} belongs to the history of database {found}, not to that of {expected}")]
    OtherDatabase {
        /// Place of the object.
        place: Place,
        /// Database of this history.
        expected: DatabaseId,
        /// Database of the object.
        found: DatabaseId,
    },
    /// Object of this replica under the key of another one.
    #[error("{place} is swapped: under its key lies the {found} of seq {found_seq}")]
    Misplaced {
        /// Place of the object.
        place: Place,
        /// Kind of the object found there.
        found: Kind,
        /// Number of the object found there.
        found_seq: Seq,
    },
    /// Object that names another one as its predecessor.
    #[error("{place} does not follow the object before it: it names {found}, which is not {expected}")]
    BrokenLink {
        /// Place of the object.
        place: Place,
        /// Digest of the object before it.
        expected: Digest,
        /// Digest that it names.
        found: Digest,
    },
    /// Opening whose term is not above the one before.
    #[error("{place} opens term {found} after term {before}")]
    TermFell {
        /// Place of the object.
        place: Place,
        /// Newest term before.
        before: Term,
        /// Term of the object.
        found: Term,
    },
    /// Segment of another term than the open one.
    #[error("{place} is of term {found} in the midst of term {expected}")]
    TermMixed {
        /// Place of the object.
        place: Place,
        /// Term that is open.
        expected: Term,
        /// Term of the object.
        found: Term,
    },
    /// Segments after an opening whose base is gone.
    #[error("term {term}, opened at seq {seq}, has segments but its base snapshot is missing")]
    BaseMissing {
        /// Term of the opening.
        term: Term,
        /// Number of the opening.
        seq: Seq,
        /// Time of the first commit after the base, in milliseconds since the Unix epoch.
        since_ms: u64,
    },
    /// Gap: commits are left out or repeated.
    #[error("{place} does not carry on after commit {after}")]
    CommitGap {
        /// Place of the object.
        place: Place,
        /// Last commit before.
        after: CommitNo,
    },
    /// Newest state that is older than what is known to have been acknowledged.
    #[error("the replica ends at {state}, below the floor {floor}: it was rolled back, or a part is missing")]
    BelowFloor {
        /// End of the replica.
        state: Position,
        /// Floor.
        floor: Position,
    },
    /// History other than the one that the floor belongs to.
    #[error("the replica has another history than the floor {floor}: its object of that number is {found}")]
    ForkedBelowFloor {
        /// Floor.
        floor: Position,
        /// Digest of the replica's object that has the floor's number.
        found: Digest,
    },
}
