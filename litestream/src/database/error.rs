//! Errors of opening, of writing, and of waiting for the bucket.

use std::path::PathBuf;

use crate::bucket::BucketError;
use crate::chain::ChainError;
use crate::discover::DiscoverError;
use crate::keys::KeyError;
use crate::position::{CommitNo, Position, Seq};
use crate::restore::RestoreError;
use crate::start::StartError;

/// Why a commit is not known to be in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurabilityError {
    /// It may arrive yet; it stays in the queue.
    #[error("not confirmed in time: it may or may not reach the bucket")]
    Indeterminate,
    /// Another writer has taken over.
    #[error("another writer took over at seq {0}")]
    Fenced(Seq),
}

/// Why a write was not answered as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError<E> {
    /// The transaction itself said no; nothing was changed.
    #[error("the transaction was rejected")]
    Rejected(E),
    /// The transaction panicked; nothing was changed.
    #[error("the transaction panicked")]
    Panicked,
    /// redb failed. Whether the transaction is there shows after a reopen.
    #[error("the store failed: {0}")]
    Storage(redb::Error),
    /// Another writer has taken over: what was committed here since is not part of the replica.
    #[error("another writer took over at seq {seq}; close and open again")]
    Fenced {
        /// The first number that is not ours.
        seq: Seq,
    },
    /// Committed locally; the bucket's confirmation did not come in time. It may still.
    #[error("commit {commit} is local; whether it reached the bucket is not known")]
    Indeterminate {
        /// Its number.
        commit: CommitNo,
    },
    /// The database is closed.
    #[error("the database is closed")]
    Closed,
}

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A person must look.
    #[error(transparent)]
    Refused(#[from] StartError),
    /// The bucket does not answer and there is no way around it.
    #[error("the replica cannot be read: {0}")]
    Discover(#[from] DiscoverError),
    /// The restore failed.
    #[error("restore: {0}")]
    Restore(#[from] RestoreError),
    /// The state is below the floor.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// No key to wrap with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The local database.
    #[error("local database {}: {error}", path.display())]
    Storage {
        /// Which.
        path: PathBuf,
        /// What.
        error: redb::Error,
    },
    /// The local disk.
    #[error("local file: {0}")]
    Io(#[from] std::io::Error),
    /// The opening could not be made within the time that retry allows.
    #[error("no term could be opened: {0}")]
    Opening(String),
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The bucket does not answer, or says no.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// What was acknowledged is not there any more, or is something else.
    #[error("the object of {0}, which was acknowledged, is not in the bucket as it was written")]
    Mismatch(Position),
}
