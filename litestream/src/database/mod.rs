//! A replicated redb database: one writer, any number of readers, one uploader.
//!
//! ```text
//! write() ─▶ writer thread ─ commit ─▶ cut ─▶ queue ─▶ uploader task ─▶ bucket
//!    ▲                                                       │
//!    └────────── Ack::Local: after commit ── Ack::Remote: after ─┘
//! ```
//!
//! `open` decides what the local file is worth, `writer` owns the transactions, `uploader` drives the
//! [`crate::term::TermState`], `shared` is what they have in common.

mod open;
mod shared;
mod uploader;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{ReadableDatabase as _, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use crate::bucket::{Bucket, Location, RetryPolicy};
use crate::chain::ChainError;
use crate::discover::DiscoverError;
use crate::format::header::ReplicaName;
use crate::keys::{KeyError, KeyRing};
use crate::position::{CommitNo, Position, Seq};
use crate::restore::RestoreError;
use crate::start::{Permissions, StartError};

pub use open::Started;
pub use shared::{Phase, Status};

use shared::Shared;
use writer::{Job, WriterHandle};

/// How redb commits. One-phase is the cheapest, and its open checks every page after a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitMode {
    /// One sync per commit.
    #[default]
    OnePhase,
    /// Two syncs: for contents that an attacker may choose.
    TwoPhase,
    /// Two syncs, and an open after a crash that checks little.
    QuickRepair,
}

/// How to open a database. [`Options::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// The local file.
    pub path: PathBuf,
    /// Which replica it is.
    pub replica: ReplicaName,
    /// Where the replica lies.
    pub location: Location,
    /// The keys.
    pub keys: Arc<KeyRing>,
    /// Nothing older than this is opened or restored.
    pub floor: Option<Position>,
    /// Open an older state all the same, and say why.
    pub override_floor: Option<String>,
    /// What a start may do without the replica.
    pub permissions: Permissions,
    /// How redb commits.
    pub commit_mode: CommitMode,
    /// redb's cache, in bytes.
    pub cache_bytes: usize,
    /// Compact the file at the start.
    pub compact: bool,
    /// Commits that nobody waits for are sent at most so often; so long one of them may stay local.
    pub sync_interval: Duration,
    /// A snapshot is taken when this long has passed since the last, and something was committed.
    pub snapshot_interval: Duration,
    /// A snapshot is taken after so many segments, which bounds the time of a restore.
    pub snapshot_segments: u64,
    /// So many segments are sent once more as one object, which makes restores shorter; below 2: none is.
    pub merge_segments: u64,
    /// A segment takes commits until it holds this much, in bytes before compression.
    pub segment_bytes: usize,
    /// Commits that wait for the bucket may hold this much memory, in bytes; beyond it the chain is closed.
    pub queue_bytes: usize,
    /// See [`crate::term::Settings::idle_grace_ms`].
    pub idle_grace: Duration,
    /// Transactions that may wait for the writer.
    pub mailbox: usize,
    /// Limits of requests.
    pub retry: RetryPolicy,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, replica: ReplicaName, location: Location, keys: Arc<KeyRing>) -> Self {
        Self {
            path: path.into(),
            replica,
            location,
            keys,
            floor: None,
            override_floor: None,
            permissions: Permissions::default(),
            commit_mode: CommitMode::default(),
            cache_bytes: 64 << 20,
            compact: false,
            sync_interval: Duration::from_secs(1),
            snapshot_interval: Duration::from_secs(3600),
            snapshot_segments: 400,
            merge_segments: 32,
            segment_bytes: 4 << 20,
            queue_bytes: 64 << 20,
            idle_grace: Duration::from_secs(300),
            mailbox: 256,
            retry: RetryPolicy::default(),
        }
    }
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// When it is on the local disk.
    Local,
    /// When it is in the bucket as well.
    Remote {
        /// How long to wait for that after the local commit.
        timeout: Duration,
    },
}

/// A write that was done as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt<T> {
    /// What the transaction returned.
    pub value: T,
    /// Its number.
    pub commit: CommitNo,
    /// Of an [`Ack::Remote`]: a position that includes it.
    pub position: Option<Position>,
}

/// A replicated database. Cheap to clone; all clones share one writer.
#[derive(Clone, Debug)]
pub struct Database {
    redb: Arc<redb::Database>,
    writer: Arc<WriterHandle>,
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
    bucket: Bucket,
    path: PathBuf,
    started: Arc<Started>,
}

impl Database {
    /// Opens a database as [`crate::start`] decides, under a new term.
    ///
    /// # Errors
    /// [`OpenError`]; nothing local is deleted on any of them.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        open::open(options).await
    }

    /// What the start found and did.
    #[must_use]
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// Path of the local file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A read transaction on the newest local state.
    ///
    /// # Errors
    /// redb's.
    pub fn begin_read(&self) -> Result<redb::ReadTransaction, redb::TransactionError> {
        self.redb.begin_read()
    }

    /// Runs one transaction on the writer and commits it. It runs to its end even if this future is dropped.
    ///
    /// # Errors
    /// See [`WriteError`]; only [`WriteError::Rejected`] and [`WriteError::Panicked`] mean that nothing was
    /// changed for certain.
    pub async fn write<T, E, F>(&self, ack: Ack, transaction: F) -> Result<Receipt<T>, WriteError<E>>
    where
        F: FnOnce(&WriteTransaction) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let _waiting = matches!(ack, Ack::Remote { .. }).then(|| self.shared.waiting());
        let (reply, answer) = oneshot::channel();
        let job = Job::Write(Box::new(move |writer| {
            let _ = reply.send(writer.transact(transaction));
        }));
        self.jobs.send(job).await.map_err(|_| WriteError::Closed)?;
        let (value, commit) = answer.await.map_err(|_| WriteError::Closed)??;
        let position = match ack {
            Ack::Local => None,
            Ack::Remote { timeout } => Some(self.wait_durable(commit, timeout).await.map_err(|not| match not {
                DurabilityError::Indeterminate => WriteError::Indeterminate { commit },
                DurabilityError::Fenced(seq) => WriteError::Fenced { seq },
            })?),
        };
        Ok(Receipt { value, commit, position })
    }

    /// Waits until a commit is in the bucket.
    ///
    /// # Errors
    /// [`DurabilityError`].
    pub async fn wait_durable(&self, commit: CommitNo, timeout: Duration) -> Result<Position, DurabilityError> {
        let _waiting = self.shared.waiting();
        let mut status = self.shared.subscribe();
        let reached = status.wait_for(|status| {
            matches!(status.phase, Phase::Fenced { .. } | Phase::Refused(_))
                || status.durable.is_some_and(|(_, durable)| durable >= commit)
        });
        let Ok(Ok(status)) = tokio::time::timeout(timeout, reached).await else {
            return Err(DurabilityError::Indeterminate);
        };
        match (&status.durable, &status.phase) {
            (Some((position, durable)), _) if *durable >= commit => Ok(*position),
            (_, Phase::Fenced { seq }) => Err(DurabilityError::Fenced(*seq)),
            _ => Err(DurabilityError::Indeterminate),
        }
    }

    /// The newest position that the bucket has acknowledged in this process, and its last commit. Streams that
    /// may show only what cannot be lost end there.
    #[must_use]
    pub fn durable_position(&self) -> Option<(Position, CommitNo)> {
        self.shared.status().durable
    }

    /// Where replication stands, as a value that can be watched.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.subscribe()
    }

    /// Takes a snapshot and waits until it is in the bucket.
    ///
    /// # Errors
    /// [`DurabilityError::Indeterminate`] when that did not happen in time.
    pub async fn snapshot(&self, timeout: Duration) -> Result<(), DurabilityError> {
        let (done, finished) = oneshot::channel();
        let _waiting = self.shared.waiting();
        self.jobs.send(Job::Snapshot { done: Some(done) }).await.map_err(|_| DurabilityError::Indeterminate)?;
        match tokio::time::timeout(timeout, finished).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(DurabilityError::Indeterminate),
        }
    }

    /// Writes the durable position into the note beside the file at once, rather than within a second: to be
    /// called before a floor is raised to it.
    pub async fn persist_position(&self) -> Result<(), std::io::Error> {
        let (path, shared) = (self.path.clone(), Arc::clone(&self.shared));
        tokio::task::spawn_blocking(move || shared.save_position(&path)).await.map_err(std::io::Error::other)?
    }

    /// Asks the bucket itself how far it is: reads the durable position's object back and compares.
    ///
    /// # Errors
    /// [`ProbeError`]; a mismatch means that somebody else changed the replica.
    pub async fn probe(&self) -> Result<Probe, ProbeError> {
        uploader::probe(&self.shared, &self.bucket).await
    }

    /// How far the bucket is behind, by what it has acknowledged. Sends nothing.
    #[must_use]
    pub fn lag(&self) -> Probe {
        uploader::lag(&self.shared)
    }

    /// Requests and bytes so far.
    #[must_use]
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Stops: finishes what was accepted, ships everything, and says which position was reached. Readers that
    /// still hold transactions keep the file open.
    ///
    /// # Errors
    /// [`DurabilityError`] when not everything was shipped in time; the local file has it, unless this writer was
    /// fenced.
    pub async fn close(self, timeout: Duration) -> Result<Option<Position>, DurabilityError> {
        let (reply, finished) = oneshot::channel();
        let last = match self.jobs.send(Job::Last { reply }).await {
            Ok(()) => finished.await.unwrap_or_default(),
            Err(_) => self.shared.status().committed,
        };
        let outcome = if last == CommitNo(0) { Ok(None) } else { self.wait_durable(last, timeout).await.map(Some) };
        self.shared.close();
        let _ = self.persist_position().await;
        let _ = self.jobs.send(Job::Close).await;
        self.writer.join().await;
        outcome
    }
}

/// What [`Database::probe`] measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The position whose object was read back; none when nothing was ever acknowledged.
    pub position: Option<Position>,
    /// Commits that the bucket does not have.
    pub lag_commits: u64,
    /// Age of the oldest of them, in milliseconds.
    pub lag_ms: u64,
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The bucket does not answer, or says no.
    #[error(transparent)]
    Bucket(#[from] crate::bucket::BucketError),
    /// What was acknowledged is not there any more, or is something else.
    #[error("the object of {0}, which was acknowledged, is not in the bucket as it was written")]
    Mismatch(Position),
}

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
