//! The file under the store: replicated through Keyfleet's own replication, or alone on its volume.
//!
//! Either way one thread writes. A write is locally durable when it returns; [`Backing::acknowledged`] then waits for the
//! replica, as a second step, since only what must survive the loss of the volume needs it.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keyfleet_litestream::bucket::Location;
use keyfleet_litestream::database::{DurabilityError, Probe, Status, WriteError};
use keyfleet_litestream::position::CommitNo;
use keyfleet_litestream::{Ack, Database, Position};
use redb::{ReadTransaction, ReadableDatabase as _, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use super::{StoreError, redb_error};

/// Timeout of the bucket for one commit. A round's commit that was not acknowledged is tried again.
pub const ACKNOWLEDGE: Duration = Duration::from_secs(10);

/// Writes that may wait for the writer.
const MAILBOX: usize = 256;

/// Names a commit, for [`Backing::acknowledged`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitId(Option<CommitNo>);

/// The file.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a node has one, and few clones")]
pub enum Backing {
    /// Replicated to a bucket.
    Replicated {
        /// The database.
        database: Database,
        /// Timeout of the bucket for one commit.
        timeout: Duration,
        /// True when the file was restored, and nothing was yet done about it.
        restored: bool,
    },
    /// On its volume alone.
    Local(Local),
}

/// A redb file with one writer thread, which ends with the last clone.
#[derive(Clone)]
pub struct Local(Arc<Inner>);

struct Inner {
    redb: Arc<redb::Database>,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The file is free for the next process once this returns.
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

type Job = Box<dyn FnOnce(&redb::Database) + Send>;

impl Backing {
    /// Opens or creates a file that is not replicated.
    ///
    /// # Errors
    /// redb's, and the file system's.
    pub fn local(path: &Path) -> Result<Self, StoreError> {
        let redb = Arc::new(redb::Database::create(path).map_err(redb_error)?);
        let (jobs, mut mailbox) = mpsc::channel::<Job>(MAILBOX);
        let file = redb.clone();
        let writer = thread::Builder::new().name("store-writer".into()).spawn(move || {
            while let Some(job) = mailbox.blocking_recv() {
                job(&file);
            }
        });
        let writer = writer.map_err(|error| StoreError::Redb(redb::Error::Io(error)))?;
        Ok(Self::Local(Local(Arc::new(Inner { redb, jobs: Some(jobs), writer: Some(writer) }))))
    }

    /// Returns true when there is a replica.
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        self.database().is_some()
    }

    /// Returns true when the file was restored from its replica before this start: then the node may have said more than it knows.
    #[must_use]
    pub fn was_restored(&self) -> bool {
        matches!(self, Self::Replicated { restored: true, .. })
    }

    /// Returns how far the replica is behind; `None` where there is no replica.
    #[must_use]
    pub fn lag(&self) -> Option<Probe> {
        self.database().map(Database::lag)
    }

    /// Returns where replication stands, as it changes; `None` where there is no replica.
    #[must_use]
    pub fn status(&self) -> Option<watch::Receiver<Status>> {
        self.database().map(Database::status)
    }

    /// Returns the place of the replica; `None` without a bucket.
    #[must_use]
    pub fn location(&self) -> Option<&Location> {
        self.database().map(|database| database.bucket().location())
    }

    /// Ends replication: sends what is not in the bucket yet and returns the last position; `None` where there is no replica.
    ///
    /// # Errors
    /// When the bucket did not confirm everything within `timeout`; the volume has it.
    pub async fn close(self, timeout: Duration) -> Option<Result<Option<Position>, DurabilityError>> {
        match self {
            Self::Replicated { database, .. } => Some(database.close(timeout).await),
            Self::Local(_) => None,
        }
    }

    fn database(&self) -> Option<&Database> {
        match self {
            Self::Replicated { database, .. } => Some(database),
            Self::Local(_) => None,
        }
    }

    /// A read transaction on the newest local state.
    ///
    /// # Errors
    /// redb's.
    pub fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        match self {
            Self::Replicated { database, .. } => database.begin_read().map_err(redb_error),
            Self::Local(local) => local.0.redb.begin_read().map_err(redb_error),
        }
    }

    /// Runs one transaction on the writer: durable on the local disk when this returns. It runs to its end even if this
    /// future is dropped.
    ///
    /// # Errors
    /// When it was not committed.
    pub async fn write<T, F>(&self, transaction: F) -> Result<(T, CommitId), StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    {
        match self {
            Self::Replicated { database, .. } => match database.write(Ack::Local, transaction).await {
                Ok(receipt) => Ok((receipt.value, CommitId(Some(receipt.commit)))),
                Err(WriteError::Rejected(error) | WriteError::Storage(error)) => Err(StoreError::Redb(error)),
                Err(WriteError::Closed | WriteError::Panicked) => Err(StoreError::Stopped),
                Err(other) => Err(StoreError::Replica(other.to_string())),
            },
            Self::Local(local) => {
                let (reply, answer) = oneshot::channel();
                let job: Job = Box::new(move |redb| {
                    let _ = reply.send(transact(redb, transaction));
                });
                let jobs = local.0.jobs.as_ref().ok_or(StoreError::Stopped)?;
                jobs.send(job).await.map_err(|_| StoreError::Stopped)?;
                let value = answer.await.map_err(|_| StoreError::Stopped)??;
                Ok((value, CommitId(None)))
            }
        }
    }

    /// Waits until the replica has a commit, and says at which position; `None` where there is no replica.
    ///
    /// # Errors
    /// [`StoreError::Replica`] when it did not acknowledge in time; the commit stays in the queue.
    pub async fn acknowledged(&self, commit: CommitId) -> Result<Option<Position>, StoreError> {
        match (self, commit) {
            (Self::Replicated { database, timeout, .. }, CommitId(Some(commit))) => {
                let position = database.wait_durable(commit, *timeout).await;
                let position = position.map_err(|not| StoreError::Replica(not.to_string()))?;
                let noted = database.persist_position().await;
                noted.map_err(|error| StoreError::Redb(redb::Error::Io(error)))?;
                Ok(Some(position))
            }
            _ => Ok(None),
        }
    }
}

fn transact<T>(
    redb: &redb::Database,
    transaction: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    let txn = redb.begin_write().map_err(redb_error)?;
    let value = transaction(&txn)?;
    txn.commit().map_err(redb_error)?;
    Ok(value)
}
