//! Following a chain: from a snapshot, object by object, to the newest state. Pure; bytes in, commits out.
//!
//! redb often does not notice a missing segment: a file rebuilt with a gap opens, with wrong contents. So every
//! link is checked here, before a byte reaches a file that someone could open.

use crate::format::error::ObjectError;
use crate::format::header::{Header, Kind, ReplicaName};
use crate::format::payload::{Commit, decode_commits};
use crate::format::seal;
use crate::keys::{KeyRing, TermKey};
use crate::position::{CommitNo, Digest, Position, Seq, Term};

/// A verified walk along the chain.
#[derive(Debug)]
pub struct ChainCursor<'k> {
    replica: ReplicaName,
    keys: &'k KeyRing,
    key: TermKey,
    /// Last object seen, opening or not: what the next one must name.
    link: (Seq, Digest),
    /// The state: last object whose content is included.
    state: Position,
    /// An opening whose base is not the snapshot we started from.
    missing_base: Option<(Term, Seq)>,
    newest_term: Term,
    last_commit: CommitNo,
    time_ms: u64,
    file_len: u64,
}

impl<'k> ChainCursor<'k> {
    /// Starts at a snapshot, which lies under the key for `(seq, hash)`. Returns the walk and the file's image
    /// as one zstd frame of `file_len` bytes.
    ///
    /// # Errors
    /// When the object is not that snapshot of this replica.
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

    /// Takes the object numbered `self.next_seq()`, and returns the commits it carries.
    ///
    /// # Errors
    /// [`ChainError`] says which promise of the chain the object breaks.
    pub fn read_next(&mut self, object: &[u8]) -> Result<Vec<Commit>, ChainError> {
        let place = Place::Sequence(self.next_seq());
        let header = decode(place, object)?;
        expect_owner(place, &self.replica, &header)?;
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
            self.missing_base = Some((header.term, header.seq));
            Vec::new()
        } else {
            self.take_commits(place, &header, object)?
        };
        self.advance(&header, Digest::of(object));
        Ok(commits)
    }

    /// Takes a merged segment that begins at `self.next_seq()`.
    ///
    /// # Errors
    /// As [`ChainCursor::read_next`].
    pub fn read_merged(&mut self, last: Seq, hash: Digest, object: &[u8]) -> Result<Vec<Commit>, ChainError> {
        let place = Place::Merged(self.next_seq(), last);
        let header = decode(place, object)?;
        expect_owner(place, &self.replica, &header)?;
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

    /// The number that comes next.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.link.0.next()
    }

    /// The state so far. A bare opening is followed but is no state: its base is.
    #[must_use]
    pub fn state(&self) -> Position {
        self.state
    }

    /// Last commit included.
    #[must_use]
    pub fn last_commit(&self) -> CommitNo {
        self.last_commit
    }

    /// Time of the state, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Length that the file must have, in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The last link seen, openings included: number and digest of an object of the sequence.
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
        if let Some((term, seq)) = self.missing_base {
            return Err(ChainError::BaseMissing { term, seq });
        }
        if header.term != self.state.term {
            return Err(ChainError::TermMixed { place, expected: self.state.term, found: header.term });
        }
        let plain = seal::open(&self.key, object).map_err(|error| ChainError::Object { place, error })?;
        let commits = decode_commits(&plain).map_err(|error| ChainError::Object { place, error })?;
        let gap = || ChainError::CommitGap { place, after: self.last_commit };
        if header.first_commit != self.last_commit.next() || header.last_commit < header.first_commit {
            return Err(gap());
        }
        if header.kind == Kind::Segment {
            let numbers = commits.iter().map(|commit| commit.number.0);
            if !numbers.eq(header.first_commit.0..=header.last_commit.0) {
                return Err(gap());
            }
        }
        Ok(commits)
    }

    fn advance(&mut self, header: &Header, digest: Digest) {
        self.link = (header.seq, digest);
        if header.kind != Kind::Opening {
            self.state = Position { term: header.term, seq: header.seq, hash: digest };
            self.last_commit = header.last_commit;
            self.time_ms = header.time_ms;
            self.file_len = header.file_len;
        }
    }
}

/// Checks a state that was reached against the floor below which nobody may go.
///
/// `seen` are the links that were passed on the way; where the floor's own object is among them, its digest must
/// be the floor's.
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

/// Where an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `seq/…`
    Sequence(Seq),
    /// `snap/…`
    Snapshot(Seq),
    /// `merged/…`
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

/// Which promise of the chain is broken, and where. The replica's content is at fault, or whoever serves it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The object itself is wrong: torn, altered, another key.
    #[error("{place}: {error}")]
    Object {
        /// Where.
        place: Place,
        /// What.
        error: ObjectError,
    },
    /// The object is not there.
    #[error("{place} is missing, although objects after it exist")]
    Missing {
        /// Where.
        place: Place,
    },
    /// Another replica's object.
    #[error("{place} belongs to replica `{found}`, not to `{expected}`")]
    Foreign {
        /// Where.
        place: Place,
        /// Ours.
        expected: ReplicaName,
        /// Whose it is.
        found: ReplicaName,
    },
    /// One of our objects under the key of another.
    #[error("{place} is swapped: under its key lies the {found} of seq {found_seq}")]
    Misplaced {
        /// Where.
        place: Place,
        /// What lies there.
        found: Kind,
        /// Its own number.
        found_seq: Seq,
    },
    /// It follows another object than the one before it.
    #[error("{place} does not follow the object before it: it names {found}, which is not {expected}")]
    BrokenLink {
        /// Where.
        place: Place,
        /// Digest of the object before.
        expected: Digest,
        /// Digest that it names.
        found: Digest,
    },
    /// An opening whose term is not above the one before.
    #[error("{place} opens term {found} after term {before}")]
    TermFell {
        /// Where.
        place: Place,
        /// Newest term before.
        before: Term,
        /// Its term.
        found: Term,
    },
    /// A segment of another term than the one that is open.
    #[error("{place} is of term {found} in the midst of term {expected}")]
    TermMixed {
        /// Where.
        place: Place,
        /// The open term.
        expected: Term,
        /// Its term.
        found: Term,
    },
    /// Segments follow an opening whose base is gone.
    #[error("term {term}, opened at seq {seq}, has segments but its base snapshot is missing")]
    BaseMissing {
        /// The term.
        term: Term,
        /// Number of its opening.
        seq: Seq,
    },
    /// Commits are left out or repeated.
    #[error("{place} does not carry on after commit {after}")]
    CommitGap {
        /// Where.
        place: Place,
        /// Last commit before.
        after: CommitNo,
    },
    /// The replica's newest state is older than what is known to have been acknowledged.
    #[error("the replica ends at {state}, below the floor {floor}: it was rolled back, or a part is missing")]
    BelowFloor {
        /// Where it ends.
        state: Position,
        /// The floor.
        floor: Position,
    },
    /// The replica's history is not the one that the floor belongs to.
    #[error("the replica has another history than the floor {floor}: its object of that number is {found}")]
    ForkedBelowFloor {
        /// The floor.
        floor: Position,
        /// Digest found.
        found: Digest,
    },
}
