//! Recorder: a redb storage backend that keeps a copy of every write.
//!
//! ```text
//! redb ──write, set_len──▶ Recorder ──▶ file
//!                              │ copy, in order
//!                              ▼
//!            Tape ◀──cut()── the single writer, after commit() returned
//! ```
//!
//! - Bytes are copied when they are written: a page that one commit frees may be reused by the next, so reading
//!   the file later would ship a newer page.
//! - `set_len` is kept in its place: a shrink comes after the last sync of its commit and reaches the next cut.
//! - An error of `sync_data` or `write` makes redb refuse everything until it is reopened. So nothing here fails
//!   or waits for the sake of replication; only the file's own errors pass through.
//! - The lock methods are delegated. Without them a second writer on the live file would succeed.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use crate::format::Op;
use crate::format::payload::coalesce;

/// Backend to hand to redb. Its [`Tape`] stays with the writer.
#[derive(Debug)]
pub struct Recorder<B = FileBackend> {
    inner: Arc<B>,
    tape: Tape<B>,
}

/// Writer's end of a [`Recorder`].
#[derive(Debug)]
pub struct Tape<B = FileBackend> {
    inner: Arc<B>,
    recorded: Arc<Mutex<Recorded>>,
}

impl<B> Clone for Tape<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), recorded: Arc::clone(&self.recorded) }
    }
}

#[derive(Debug)]
struct Recorded {
    running: bool,
    ops: Vec<Op>,
    /// Memory that the operations hold, in bytes.
    bytes: usize,
    /// Memory that they may hold, in bytes.
    limit: usize,
    /// True when they would have held more: nothing is copied then until the next start.
    overflowed: bool,
}

impl Recorded {
    fn empty(running: bool, limit: usize) -> Self {
        Self { running, ops: Vec::new(), bytes: 0, limit, overflowed: false }
    }

    fn push(&mut self, op: Op) {
        self.bytes += op.size();
        self.ops.push(op);
        if self.bytes > self.limit {
            *self = Self { overflowed: true, ..Self::empty(false, self.limit) };
        }
    }
}

impl<B: StorageBackend> Recorder<B> {
    /// Wraps a backend. Nothing is copied until [`Tape::start`].
    pub fn new(inner: B) -> (Self, Tape<B>) {
        let inner = Arc::new(inner);
        let recorded = Arc::new(Mutex::new(Recorded::empty(false, usize::MAX)));
        let tape = Tape { inner: Arc::clone(&inner), recorded };
        (Self { inner, tape: tape.clone() }, tape)
    }
}

impl<B: StorageBackend> Tape<B> {
    /// Begins to copy, from an empty tape. The caller is between two commits.
    pub fn start(&self) {
        let mut recorded = self.lock();
        *recorded = Recorded::empty(true, recorded.limit);
    }

    /// Stops copying and forgets what was copied: the chain that it belonged to is closed.
    pub fn stop(&self) {
        let mut recorded = self.lock();
        *recorded = Recorded::empty(false, recorded.limit);
    }

    /// Takes the operations copied since the last cut. The caller is the single writer, after `commit()` returned.
    #[must_use]
    pub fn cut(&self) -> Vec<Op> {
        let mut recorded = self.lock();
        recorded.bytes = 0;
        std::mem::take(&mut recorded.ops)
    }

    /// Bounds the memory of what is copied and not cut, in bytes.
    pub fn set_limit(&self, bytes: usize) {
        self.lock().limit = bytes;
    }

    /// Returns true when more was written since the last cut than the limit allows. The tape has a gap then: the chain must be
    /// closed.
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.lock().overflowed
    }

    /// Drops what later writes replaced. The caller is the single writer, after it aborted a transaction: the next one writes
    /// over the same free pages, so that any number of aborted ones holds no more than the largest.
    pub fn settle(&self) {
        let mut recorded = self.lock();
        recorded.ops = coalesce(std::mem::take(&mut recorded.ops));
        recorded.bytes = recorded.ops.iter().map(Op::size).sum();
    }

    /// Returns the length of the file, in bytes.
    ///
    /// # Errors
    /// Error of the file.
    pub fn file_len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    /// Copies the file into `out` while nobody can write to it, and returns its length in bytes. Exact only while the
    /// caller keeps redb from committing, that is between two transactions of the single writer.
    ///
    /// # Errors
    /// Error of the file or of `out`.
    pub(crate) fn copy_file(&self, out: &mut impl io::Write) -> io::Result<u64> {
        let _no_writes = self.lock();
        let len = self.inner.len()?;
        let mut chunk = vec![0; 1 << 20];
        let mut at = 0;
        while at < len {
            let size = usize::try_from((len - at).min(1 << 20)).expect("a chunk is at most 1 MiB");
            self.inner.read(at, &mut chunk[..size])?;
            out.write_all(&chunk[..size])?;
            at += size as u64;
        }
        Ok(len)
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        // A panic cannot leave the list half-changed: entries are pushed whole.
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: StorageBackend> StorageBackend for Recorder<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut recorded = self.tape.lock();
        self.inner.set_len(len)?;
        if recorded.running {
            recorded.push(Op::SetLen(len));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        // Held over both, so that the tape's order is the file's order.
        let mut recorded = self.tape.lock();
        self.inner.write(offset, data)?;
        if recorded.running {
            recorded.push(Op::Write(offset, data.to_vec()));
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
