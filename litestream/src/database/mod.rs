//! Replicated redb database: one writer, any number of readers, one uploader.
//!
//! ```text
//! write() ─▶ writer thread ─ commit ─▶ cut ─▶ queue ─▶ uploader task ─▶ bucket
//!    ▲                                                       │
//!    └────────── Ack::Local: after commit ── Ack::Remote: after ─┘
//! ```
//!
//! `open` compares the local file with the replica and starts the workers, `check` looks for damage, `store` is the open file, `writer` owns the transactions, `uploader`
//! drives the [`crate::term::TermState`], `shared` is the state that these have in common, `probe` measures the lag.

mod check;
mod error;
mod open;
mod options;
mod probe;
mod shared;
mod store;
mod uploader;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{ReadableDatabase as _, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use crate::bucket::Bucket;
use crate::position::{CommitNo, Position};

pub use error::{DurabilityError, OpenError, ProbeError, WriteError};
pub use open::Started;
pub use options::{CommitMode, Options};
pub use probe::Probe;
pub use shared::{Phase, Status};

use shared::Shared;
use writer::{Job, WriterHandle};

/// Acknowledgement that a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Commit on the local disk.
    Local,
    /// Commit on the local disk and in the bucket.
    Remote {
        /// Time to wait for the bucket, after the local commit.
        timeout: Duration,
    },
}

/// Receipt of a write that was acknowledged as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt<T> {
    /// Value that the transaction returned.
    pub value: T,
    /// Number of the commit.
    pub commit: CommitNo,
    /// Position in the bucket that includes the commit; `None` after [`Ack::Local`].
    pub position: Option<Position>,
}

/// Replicated database. Cheap to clone; all clones share one writer.
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
    /// [`OpenError`]. No local file is deleted.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        open::open(options).await
    }

    /// Returns what the start found and did.
    #[must_use]
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// Returns the path of the local file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a read transaction on the newest local state.
    ///
    /// # Errors
    /// Error of redb.
    pub fn begin_read(&self) -> Result<redb::ReadTransaction, redb::TransactionError> {
        self.redb.begin_read()
    }

    /// Runs one transaction on the writer and commits it. The transaction runs to its end even if this future is
    /// dropped.
    ///
    /// # Errors
    /// [`WriteError`]. Only [`WriteError::Rejected`] and [`WriteError::Panicked`] mean for certain that nothing was
    /// changed.
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
            Ack::Remote { timeout } => Some(self.wait_durable(commit, timeout).await.map_err(|error| match error {
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

    /// Returns the newest position that the bucket has acknowledged in this process, and its last commit. Streams that
    /// may show only what cannot be lost end there.
    #[must_use]
    pub fn durable_position(&self) -> Option<(Position, CommitNo)> {
        self.shared.status().durable
    }

    /// Returns the state of replication, as a value that can be watched.
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

    /// Writes the durable position into the position file at once, rather than within a second. The caller does so
    /// before it raises a floor to that position.
    ///
    /// # Errors
    /// Error of the file system.
    pub async fn persist_position(&self) -> Result<(), std::io::Error> {
        let (path, shared) = (self.path.clone(), Arc::clone(&self.shared));
        tokio::task::spawn_blocking(move || shared.save_position(&path)).await.map_err(std::io::Error::other)?
    }

    /// Measures the lag, and reads the durable position's object back from the bucket.
    ///
    /// # Errors
    /// [`ProbeError`]; a mismatch means that somebody else changed the replica.
    pub async fn probe(&self) -> Result<Probe, ProbeError> {
        probe::probe(&self.shared, &self.bucket).await
    }

    /// Reads the durable position's object back from the bucket, with one request. Returns the position; `None` when nothing was
    /// acknowledged in this process.
    pub(crate) async fn confirm(&self) -> Result<Option<Position>, ProbeError> {
        probe::confirm(&self.shared, &self.bucket).await
    }

    /// Measures the lag by what the bucket has acknowledged. Sends nothing.
    #[must_use]
    pub fn lag(&self) -> Probe {
        probe::lag(&self.shared)
    }

    /// Returns the client of the bucket.
    #[must_use]
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Closes the database: finishes the transactions that were accepted, ships all commits, and returns the position
    /// that includes them. Readers that still hold transactions keep the file open.
    ///
    /// # Errors
    /// [`DurabilityError`] when the bucket did not acknowledge all commits in time. The local file has them, unless this
    /// writer was fenced.
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
