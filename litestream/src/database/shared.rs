//! State that the writer, the uploader and the callers share: the queue, the status, the waiters.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot, watch};

use crate::bucket::ErrorKind;
use crate::format::Commit;
use crate::meta::PositionFile;
use crate::position::{CommitNo, Position, Seq, Term};

/// Phase of replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Silence of the replica since the start: local work goes on, no write is acknowledged remotely.
    Unproven,
    /// Base on its way, in a term that was opened.
    Basing,
    /// Commits on their way, in order.
    Shipping,
    /// Chain closed by a full queue, until the bucket answers again.
    ChainClosed,
    /// Other writer that took over.
    Fenced {
        /// Number of the first object that is not ours.
        seq: Seq,
    },
    /// Replica that does not fit the local file, and why, for people. The uploader keeps reading it.
    Refused(String),
}

/// State of replication at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Phase of replication.
    pub phase: Phase,
    /// Term held, or the last one held.
    pub term: Term,
    /// Newest position that the bucket acknowledged, and its last commit. Rises, and never falls.
    pub durable: Option<(Position, CommitNo)>,
    /// Newest local commit.
    pub committed: CommitNo,
    /// Number of failures in a row, and kind and text of the last; `None` while requests succeed.
    pub trouble: Option<(u32, ErrorKind, String)>,
    /// Position covered by the newest snapshot that the bucket acknowledged.
    pub snapshot: Option<Position>,
    /// Number of times that a full queue closed the chain.
    pub closed_chains: u64,
    /// Number of failures by kind, since the start.
    pub errors: Vec<(ErrorKind, u64)>,
}

/// Item that the writer hands to the uploader. Items keep their order.
pub(super) enum Item {
    Commit(Commit),
    /// File as it was right after the commit before this item.
    Snapshot(SnapshotImage),
    /// Outcome of a snapshot: in the bucket, or not, and why.
    Snapshotted(Result<(), String>),
}

/// Copy of the file after one commit.
pub(super) struct SnapshotImage {
    pub(super) file: File,
    pub(super) file_len: u64,
    pub(super) commit: CommitNo,
    pub(super) time_ms: u64,
    pub(super) done: Option<oneshot::Sender<()>>,
}

/// Commits on their way from the writer to the uploader, and the memory that they hold.
#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Size of the commits that are not acknowledged, in the queue or beyond it, in bytes.
    bytes: usize,
    /// True while a chain is open: only then are commits queued.
    open: bool,
    overflowed: bool,
    oldest_ms: Option<u64>,
    /// Time of the oldest commit that is not acknowledged; survives a closed chain.
    unacknowledged_ms: Option<u64>,
}

/// Shared state of one database.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    queue_bytes: usize,
    pub(super) wake: Notify,
    waiters: AtomicUsize,
    status: watch::Sender<Status>,
    closing: watch::Sender<bool>,
    /// Held while the position file is read, changed and written.
    saving: Mutex<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(queue_bytes: usize, phase: Phase, term: Term, committed: CommitNo) -> Self {
        let status = Status {
            phase,
            term,
            durable: None,
            committed,
            trouble: None,
            snapshot: None,
            closed_chains: 0,
            errors: Vec::new(),
        };
        Self {
            queue: Mutex::default(),
            queue_bytes,
            wake: Notify::new(),
            waiters: AtomicUsize::new(0),
            status: watch::Sender::new(status),
            closing: watch::Sender::new(false),
            saving: Mutex::default(),
        }
    }

    pub(super) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    pub(super) fn fenced(&self) -> Option<Seq> {
        match self.status.borrow().phase {
            Phase::Fenced { seq } => Some(seq),
            _ => None,
        }
    }

    /// Counts a caller that waits for the bucket: its commit leaves at once.
    pub(super) fn waiting(self: &Arc<Self>) -> Waiting {
        self.waiters.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_one();
        Waiting(Arc::clone(self))
    }

    pub(super) fn has_waiters(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) > 0 || *self.closing.borrow()
    }

    pub(super) fn close(&self) {
        self.closing.send_replace(true);
        self.wake.notify_one();
    }

    pub(super) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    pub(super) async fn closed(&self) {
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Returns the position file of the database at `path`: its saved content, with the durable position of now. An
    /// intent and a wish to adopt an older state stand until a segment of the new term is durable.
    pub(super) fn position_file(&self, path: &Path) -> PositionFile {
        let mut file = PositionFile::read(path);
        if let Some((position, commit)) = self.status.borrow().durable {
            file = PositionFile { position: Some(position), commit, intent: None, adopt: None, ..file };
        }
        file
    }

    /// Writes the position file. The uploader does so about once a second, a caller that raises a floor at once: one
    /// after the other, or the older of two could stay.
    pub(super) fn save_position(&self, path: &Path) -> std::io::Result<()> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.position_file(path).write(path)
    }

    /// Begins to queue: every item from here on belongs to the chain whose base was just copied.
    pub(super) fn open_queue(&self) {
        let mut queue = self.lock();
        let unacknowledged_ms = queue.unacknowledged_ms;
        *queue = Queue { open: true, unacknowledged_ms, ..Queue::default() };
    }

    /// Queues an item of the writer. Returns false when no chain is open, or just closed: the recorder may rest.
    pub(super) fn push(&self, item: Item) -> bool {
        if let Item::Commit(commit) = &item {
            let committed = self.status.borrow().committed;
            assert_eq!(commit.number, committed, "a commit is queued right after redb returned from it");
        }
        let mut queue = self.lock();
        if !queue.open {
            if let Item::Commit(commit) = &item {
                queue.unacknowledged_ms.get_or_insert(commit.time_ms);
            }
            return false;
        }
        if let Item::Commit(commit) = &item {
            queue.bytes += commit.size();
            queue.oldest_ms.get_or_insert(commit.time_ms);
            queue.unacknowledged_ms.get_or_insert(commit.time_ms);
            if queue.bytes > self.queue_bytes {
                drop(queue);
                self.overflow();
                return false;
            }
        }
        queue.items.push_back(item);
        drop(queue);
        self.wake.notify_one();
        true
    }

    /// Closes the chain: a transaction wrote more than the memory for commits that wait.
    pub(super) fn overflow(&self) {
        let mut queue = self.lock();
        if queue.open {
            *queue = Queue { overflowed: true, unacknowledged_ms: queue.unacknowledged_ms, ..Queue::default() };
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Takes all items of the queue.
    pub(super) fn drain(&self) -> VecDeque<Item> {
        let mut queue = self.lock();
        queue.oldest_ms = None;
        std::mem::take(&mut queue.items)
    }

    pub(super) fn overflowed(&self) -> bool {
        self.lock().overflowed
    }

    /// Returns the size in bytes of the commits that are not acknowledged, and the time of the oldest in the queue, in
    /// milliseconds since the Unix epoch.
    pub(super) fn backlog(&self) -> (usize, Option<u64>) {
        let queue = self.lock();
        (queue.bytes, queue.oldest_ms)
    }

    /// Returns the time of the oldest commit that is not acknowledged, in milliseconds since the Unix epoch.
    pub(super) fn unacknowledged_ms(&self) -> Option<u64> {
        self.lock().unacknowledged_ms
    }

    /// Releases the memory of acknowledged commits, `bytes` in all. `next_ms` is the time of the oldest commit still on
    /// its way, in milliseconds since the Unix epoch.
    pub(super) fn release(&self, bytes: usize, next_ms: Option<u64>) {
        let mut queue = self.lock();
        queue.unacknowledged_ms = next_ms.or(queue.oldest_ms);
        queue.bytes = queue.bytes.saturating_sub(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard of a caller that waits for the bucket: see [`Shared::waiting`].
pub(super) struct Waiting(Arc<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::SeqCst);
    }
}
