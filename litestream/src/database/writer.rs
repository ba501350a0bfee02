//! Single writer: a thread that runs transactions one after the other and cuts the tape after each.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use redb::{Durability, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::error::WriteError;
use super::options::{CommitMode, Options};
use super::shared::{Item, Shared, SnapshotImage};
use crate::format::Commit;
use crate::format::header::ReplicaName;
use crate::meta;
use crate::position::{CommitNo, DatabaseId, Term};
use crate::recorder::Tape;
use crate::start::Meta;

/// Job of the writer.
pub(super) enum Job {
    Write(Box<dyn FnOnce(&mut Writer) + Send>),
    /// Enter a term and copy the file as its base.
    Base {
        term: Term,
        database: DatabaseId,
        reply: oneshot::Sender<Result<SnapshotImage, redb::Error>>,
    },
    Snapshot {
        done: Option<oneshot::Sender<()>>,
    },
    /// Accept no more transactions; bases and snapshots are still taken.
    Last {
        reply: oneshot::Sender<CommitNo>,
    },
    Close,
}

/// State of the writer's thread.
pub(super) struct Writer {
    redb: Arc<redb::Database>,
    tape: Tape,
    shared: Arc<Shared>,
    replica: ReplicaName,
    meta: Meta,
    /// True once this process opened a term: from then on commits belong to the term's own line.
    linked: bool,
    ended: bool,
    mode: CommitMode,
    path: PathBuf,
}

impl Writer {
    pub(super) fn spawn(
        redb: Arc<redb::Database>,
        tape: Tape,
        shared: Arc<Shared>,
        meta: Meta,
        options: &Options,
        mut jobs: mpsc::Receiver<Job>,
    ) -> std::io::Result<WriterHandle> {
        let handle = Arc::clone(&shared);
        let (replica, mode, path) = (options.replica.clone(), options.commit_mode, options.path.clone());
        let mut writer = Self { redb, tape, shared, replica, meta, linked: false, ended: false, mode, path };
        let thread = thread::Builder::new().name("litestream-writer".into()).spawn(move || {
            while let Some(job) = jobs.blocking_recv() {
                match job {
                    Job::Write(run) => run(&mut writer),
                    Job::Base { term, database, reply } => {
                        let _ = reply.send(writer.base(term, database));
                    }
                    Job::Snapshot { done } => writer.snapshot(done),
                    Job::Last { reply } => {
                        writer.ended = true;
                        let _ = reply.send(writer.meta.commit);
                    }
                    Job::Close => break,
                }
            }
        })?;
        Ok(WriterHandle { thread: Mutex::new(Some(thread)), shared: handle })
    }

    /// Runs one transaction, from begin to commit to cut.
    pub(super) fn transact<T, E>(
        &mut self,
        transaction: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> Result<(T, CommitNo), WriteError<E>> {
        if self.ended {
            return Err(WriteError::Closed);
        }
        if let Some(seq) = self.shared.fenced() {
            return Err(WriteError::Fenced { seq });
        }
        let txn = self.begin().map_err(WriteError::Storage)?;
        // The transaction is aborted as a whole, so what a panic left behind in it is never seen.
        let value = match catch_unwind(AssertUnwindSafe(|| transaction(&txn))) {
            Ok(Ok(value)) => value,
            Ok(Err(rejected)) => {
                self.abort(txn).map_err(WriteError::Storage)?;
                return Err(WriteError::Rejected(rejected));
            }
            Err(_panic) => {
                self.abort(txn).map_err(WriteError::Storage)?;
                return Err(WriteError::Panicked);
            }
        };
        let commit = self.commit(txn).map_err(WriteError::Storage)?;
        Ok((value, commit))
    }

    fn begin(&self) -> Result<WriteTransaction, redb::Error> {
        let mut txn = self.redb.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        match self.mode {
            CommitMode::OnePhase => {}
            CommitMode::TwoPhase => txn.set_two_phase_commit(true),
            CommitMode::QuickRepair => txn.set_quick_repair(true),
        }
        Ok(txn)
    }

    /// Aborts a transaction. What it wrote to the file before is free space, which the next one writes anew.
    fn abort(&self, txn: WriteTransaction) -> Result<(), redb::Error> {
        txn.abort()?;
        self.tape.settle();
        if self.tape.overflowed() {
            self.shared.overflow();
        }
        Ok(())
    }

    /// Commits a transaction with its row, then cuts the tape and queues the commit.
    fn commit(&mut self, txn: WriteTransaction) -> Result<CommitNo, redb::Error> {
        let commit = self.meta.commit.next();
        // As this machine's clock has it: what the replica says of it is the term's to decide.
        let time_ms = crate::clock::now_ms();
        let linked = if self.linked { commit } else { self.meta.linked };
        let next = Meta { commit, linked, time_ms, ..self.meta };
        meta::write(&txn, next, &self.replica)?;
        txn.commit()?;
        self.meta = next;
        self.shared.update(|status| status.committed = commit);
        let overflowed = self.tape.overflowed();
        let ops = self.tape.cut();
        if overflowed {
            self.shared.overflow();
        }
        if !self.shared.push(Item::Commit(Commit { number: commit, time_ms, ops })) {
            // No chain is open: the next one begins with a base.
            self.tape.stop();
        }
        Ok(commit)
    }

    /// Enters `term` of `database`: writes both into the file's row, then copies the file. From here on every write is recorded.
    fn base(&mut self, term: Term, database: DatabaseId) -> Result<SnapshotImage, redb::Error> {
        self.tape.stop();
        let txn = self.begin()?;
        let before = (self.meta, self.linked);
        (self.meta, self.linked) = (Meta { term, database, ..self.meta }, true);
        if let Err(error) = self.commit(txn) {
            (self.meta, self.linked) = before;
            return Err(error);
        }
        self.tape.start();
        let image = match self.copy(None) {
            Ok(image) => image,
            Err(error) => {
                // What is written until the next try is in its copy.
                self.tape.stop();
                return Err(error);
            }
        };
        self.shared.open_queue();
        // An empty transaction right behind the base: a term acknowledges nothing before an object of the sequence
        // has followed its base.
        let txn = self.begin()?;
        self.commit(txn)?;
        Ok(image)
    }

    fn snapshot(&mut self, done: Option<oneshot::Sender<()>>) {
        match self.copy(done) {
            // Without a chain the snapshot has no position; the next base takes its place.
            Ok(image) => drop(self.shared.push(Item::Snapshot(image))),
            Err(error) => {
                let why = format!("the file could not be copied for a snapshot: {error}");
                let _ = self.shared.push(Item::Snapshotted(Err(why)));
            }
        }
    }

    /// Copies the file between two transactions, into a file without a name in the same folder.
    fn copy(&self, done: Option<oneshot::Sender<()>>) -> Result<SnapshotImage, redb::Error> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let file = tempfile::tempfile_in(folder.unwrap_or(std::path::Path::new(".")))?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let file_len = self.tape.copy_file(&mut out)?;
        out.flush()?;
        drop(out);
        Ok(SnapshotImage { file, file_len, commit: self.meta.commit, time_ms: self.meta.time_ms, done })
    }
}

impl SnapshotImage {
    /// Compresses the copy into one zstd frame. Slow: never called on the writer's thread.
    pub(super) fn compress(&mut self) -> std::io::Result<Vec<u8>> {
        use std::io::Seek as _;
        self.file.rewind()?;
        let mut source: &File = &self.file;
        zstd::stream::encode_all(&mut source, crate::format::seal::ZSTD_LEVEL)
    }
}

/// Handle of the writer's thread. When the last database that holds it is dropped, the uploader ends as well, once it
/// has shipped what it can.
#[derive(Debug)]
pub(super) struct WriterHandle {
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    shared: Arc<Shared>,
}

impl WriterHandle {
    pub(super) async fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
        self.shared.close();
    }
}
