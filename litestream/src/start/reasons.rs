//! Reasons to set a local file aside, and to refuse a start.

use crate::position::{CommitNo, DatabaseId, Position, Term};

/// Reason why a local file is not the newest state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StaleReason {
    /// File that redb refuses, or whose pages do not check.
    #[error("the local file is damaged")]
    Damaged,
    /// File that was never part of this replica.
    #[error("the local file was never part of this replica")]
    NotReplicated,
    /// File of another database's history, whatever its counters say.
    #[error("the local file belongs to database {local}, the replica to {replica}")]
    OtherDatabase {
        /// Database of the file.
        local: DatabaseId,
        /// Database of the replica.
        replica: DatabaseId,
    },
    /// File of an older term: another writer opened one since.
    #[error("the local file belongs to term {local}, and another writer opened term {replica} since")]
    OlderTerm {
        /// Term of the file.
        local: Term,
        /// Term in which the replica ends.
        replica: Term,
    },
    /// File without commits that the replica has.
    #[error("the local file ends with commit {local}, the replica with commit {replica}")]
    Behind {
        /// Last linked commit of the file.
        local: CommitNo,
        /// Last commit of the replica.
        replica: CommitNo,
    },
    /// File of a later term than the replica: the replica was rolled back, or is another one.
    #[error("the local file belongs to term {local}, the replica ends in term {replica}")]
    NewerTerm {
        /// Term of the file.
        local: Term,
        /// Term in which the replica ends.
        replica: Term,
    },
}

/// Error of a start that is refused: a person must look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Missing replica, although a position in it is known to have been acknowledged.
    #[error("there is no replica, but {0} is known to have been acknowledged: look for the right bucket and prefix")]
    ReplicaVanished(Position),
    /// Missing replica of a file that was replicated before.
    #[error(
        "the local file was replicated in term {0}, and there is no replica: look for the right bucket and prefix, \
         or allow a new replica explicitly"
    )]
    ReplicaVanishedUnderFile(Term),
    /// Silent replica and no local file.
    #[error("the replica does not answer, and there is no local file to go on with")]
    NothingLocal,
    /// Silent replica, and no permission to go on without it.
    #[error("the replica does not answer, and opening without it was not asked for")]
    NotAllowed,
    /// Silent replica, and a local file that may be too old.
    #[error("the replica does not answer, and the local file is not known to be at or above the floor {0}")]
    LocalBelowFloor(Position),
    /// Damaged file, and no replica to restore from.
    #[error("the local file is damaged, and there is no replica to restore it from")]
    Damaged,
    /// Local file of another replica: neither is to take the other's place.
    #[error(
        "the local file is another replica's: it belongs to database {local}, the replica to {replica}; look for the right file, \
         bucket and prefix"
    )]
    OtherDatabase {
        /// Database of the file.
        local: DatabaseId,
        /// Database of the replica.
        replica: DatabaseId,
    },
    /// Older state that a person wants to be the newest, and a replica that went on since that was said.
    #[error(
        "the local file was restored to go on from in the place of {over}, and another writer went on since, to {head}: end \
         that writer, and restore again"
    )]
    AdoptionOvertaken {
        /// End of the replica at the restore.
        over: Position,
        /// End of the replica now.
        head: Position,
    },
    /// Older state that a person wants to be the newest, and a replica that cannot be asked.
    #[error(
        "the local file was restored to go on from in the place of {0}: that needs the replica, which does not answer"
    )]
    AdoptionUnproven(Position),
    /// Older state that a person wants to be the newest, and that is below the floor.
    #[error(
        "the local file was restored to go on from, at {state}, which is below the floor {floor}: override the floor as well, \
         with a reason"
    )]
    AdoptionBelowFloor {
        /// Position of the file.
        state: Position,
        /// Floor.
        floor: Position,
    },
    /// Replica that ends in an earlier term than the local file.
    #[error(
        "the local file belongs to term {local}, the replica ends in term {replica}: the replica was rolled back, or \
         this is another one; set the file aside yourself if the replica is right"
    )]
    ReplicaOlder {
        /// Term of the file.
        local: Term,
        /// Term in which the replica ends.
        replica: Term,
    },
}

impl StartError {
    /// Returns true when the replica lacks what is known to have been in it.
    pub(super) fn blames_the_replica(self) -> bool {
        matches!(self, Self::ReplicaVanished(_) | Self::ReplicaVanishedUnderFile(_) | Self::ReplicaOlder { .. })
    }
}
