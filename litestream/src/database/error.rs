//! Errors of opening, of writing, and of waiting for the bucket.

use std::path::PathBuf;

use crate::bucket::{BucketError, PrefixError};
use crate::chain::ChainError;
use crate::discover::DiscoverError;
use crate::format::header::ReplicaName;
use crate::keys::KeyError;
use crate::position::{CommitNo, Position, Seq};
use crate::restore::RestoreError;
use crate::start::StartError;

/// Error of waiting for the bucket: the commit is not known to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurabilityError {
    /// Timeout. The commit stays in the queue, and may arrive yet.
    #[error("not confirmed in time: it may or may not reach the bucket")]
    Indeterminate,
    /// Other writer that took over.
    #[error("another writer took over at seq {0}")]
    Fenced(Seq),
}

/// Error of a write.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError<E> {
    /// Rejection by the transaction itself. Nothing was changed.
    #[error("the transaction was rejected")]
    Rejected(E),
    /// Panic of the transaction. Nothing was changed.
    #[error("the transaction panicked")]
    Panicked,
    /// Failure of redb. A reopen shows if the transaction was made.
    #[error("the store failed: {0}")]
    Storage(redb::Error),
    /// Other writer that took over. Commits made here since are not part of the replica.
    #[error("another writer took over at seq {seq}; close and open again")]
    Fenced {
        /// Number of the first object that is not ours.
        seq: Seq,
    },
    /// Timeout of the bucket. The commit is local, and may reach the bucket yet.
    #[error("commit {commit} is local; whether it reached the bucket is not known")]
    Indeterminate {
        /// Number of the commit.
        commit: CommitNo,
    },
    /// Closed database.
    #[error("the database is closed")]
    Closed,
}

/// Error of opening a database. The local file is still there, at its path or moved aside.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Refused start: a person must look.
    #[error(transparent)]
    Refused(#[from] StartError),
    /// Replica that cannot be read, and no permission to go on without it.
    #[error("the replica cannot be read: {0}")]
    Discover(#[from] DiscoverError),
    /// Failed restore.
    #[error("restore: {0}")]
    Restore(#[from] RestoreError),
    /// State below the floor.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Key ring that cannot wrap a term's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Local file that belongs to another replica.
    #[error(
        "{} is another replica's file: it belongs to `{found}`, not to `{expected}`; look for the right file, bucket and prefix",
        path.display()
    )]
    OtherReplica {
        /// Path of the file.
        path: PathBuf,
        /// Name in the options.
        expected: ReplicaName,
        /// Name in the file.
        found: ReplicaName,
    },
    /// Missing file and missing replica, where neither is to be made.
    #[error("{} does not exist, and there is no replica to restore it from", .0.display())]
    NoFile(PathBuf),
    /// Local file that was changed, replaced or deleted by somebody else during the start.
    #[error("{} is not the file any more that this start has looked at: another program changes it; nothing was sent", .0.display())]
    Changed(PathBuf),
    /// Local database that redb does not open.
    #[error("local database {}: {error}", path.display())]
    Storage {
        /// Path of the file.
        path: PathBuf,
        /// Error of redb.
        error: redb::Error,
    },
    /// Local disk that failed.
    #[error("local file: {0}")]
    Io(#[from] std::io::Error),
    /// Store that takes a conditional PUT although its condition does not hold: two writers could both be acknowledged.
    #[error(
        "{0}: this store ignores `If-None-Match`, so nothing would keep a second writer out; use one with conditional writes (S3, \
         versitygw, MinIO, R2)"
    )]
    ConditionalWritesMissing(String),
    /// Prefix that servers change.
    #[error(transparent)]
    Location(#[from] PrefixError),
    /// Opening that could not be made within the retries of [`crate::bucket::RetryPolicy`].
    #[error("no term could be opened: {0}")]
    Opening(String),
}

/// Error of a probe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// Bucket that does not answer, or refuses.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// Acknowledged object that is not in the bucket any more, or is another one.
    #[error("the object of {0}, which was acknowledged, is not in the bucket as it was written")]
    Mismatch(Position),
}
