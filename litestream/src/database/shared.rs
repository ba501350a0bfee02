//! What the writer, the uploader and the callers have in common.

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

/// Where replication stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The replica has not answered since the start: local work goes on, nothing is acknowledged remotely.
    Unproven,
    /// A term is open and its base is on its way.
    Basing,
    /// Commits are shipped.
    Shipping,
    /// The queue was full: the chain is closed until the bucket answers again.
    ChainClosed,
    /// Another writer has taken over.
    Fenced {
        /// The first number that is not ours.
        seq: Seq,
    },
    /// The replica answers, and what it says does not fit the local file. It is asked again.
    Refused(String),
}

/// A view of replication at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What is going on.
    pub phase: Phase,
    /// The term held, or the last one held.
    pub term: Term,
    /// Newest position that the bucket acknowledged, and its last commit.
    pub durable: Option<(Position, CommitNo)>,
    /// Newest local commit.
    pub committed: CommitNo,
    /// Failures in a row, and the last one's kind and text.
    pub trouble: Option<(u32, ErrorKind, String)>,
    /// Position covered by the newest snapshot that the bucket acknowledged.
    pub snapshot: Option<Position>,
    /// How often the chain was closed by a full queue.
    pub closed_chains: u64,
    /// Failures by kind since the start.
    pub errors: Vec<(ErrorKind, u64)>,
}

/// What the writer hands to the uploader, in order.
pub(super) enum Item {
    Commit(Commit),
    /// The file as it was right after the commit before this item.
    Snapshot(SnapshotImage),
}

pub(super) struct SnapshotImage {
    pub(super) file: File,
    pub(super) file_len: u64,
    pub(super) commit: CommitNo,
    pub(super) time_ms: u64,
    pub(super) done: Option<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Bytes of commits that are not acknowledged, in the queue or beyond it.
    bytes: usize,
    /// Commits are queued only while a chain is open.
    open: bool,
    overflowed: bool,
    oldest_ms: Option<u64>,
    /// When the oldest commit that is not acknowledged was made; survives a closed chain.
    unacknowledged_ms: Option<u64>,
}

pub(super) struct Shared {
    queue: Mutex<Queue>,
    queue_bytes: usize,
    pub(super) wake: Notify,
    waiters: AtomicUsize,
    status: watch::Sender<Status>,
    closing: watch::Sender<bool>,
    /// Held while the note beside the file is read, changed and written.
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

    /// Counts a caller that waits for the bucket: what it waits for leaves at once.
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

    /// The note that tells a later start how far the file at `path` is: what was written there, and what became
    /// known since. An intent stands until something in its term is durable.
    pub(super) fn position_file(&self, path: &Path) -> PositionFile {
        let mut file = PositionFile::read(path);
        if let Some((position, commit)) = self.status.borrow().durable {
            file = PositionFile { position: Some(position), commit, intent: None, ..file };
        }
        file
    }

    /// Writes that note. The uploader does so about once a second, and whoever raises a floor at once: one after the
    /// other, or the older of two would be the one that stays.
    pub(super) fn save_position(&self, path: &Path) -> std::io::Result<()> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.position_file(path).write(path)
    }

    /// Begins to queue: everything from here on belongs to the chain whose base was just copied.
    pub(super) fn open_queue(&self) {
        let mut queue = self.lock();
        let unacknowledged_ms = queue.unacknowledged_ms;
        *queue = Queue { open: true, unacknowledged_ms, ..Queue::default() };
    }

    /// Queues what the writer made. False when there is no chain, or just no longer: the recorder may rest.
    pub(super) fn push(&self, item: Item) -> bool {
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
                let unacknowledged_ms = queue.unacknowledged_ms;
                *queue = Queue { overflowed: true, unacknowledged_ms, ..Queue::default() };
                drop(queue);
                self.wake.notify_one();
                return false;
            }
        }
        queue.items.push_back(item);
        drop(queue);
        self.wake.notify_one();
        true
    }

    /// Takes everything queued.
    pub(super) fn drain(&self) -> VecDeque<Item> {
        let mut queue = self.lock();
        queue.oldest_ms = None;
        std::mem::take(&mut queue.items)
    }

    pub(super) fn overflowed(&self) -> bool {
        self.lock().overflowed
    }

    /// Bytes queued, and when the oldest commit among them was made.
    pub(super) fn backlog(&self) -> (usize, Option<u64>) {
        let queue = self.lock();
        (queue.bytes, queue.oldest_ms)
    }

    /// When the oldest commit that is not acknowledged was made, in milliseconds since the Unix epoch.
    pub(super) fn unacknowledged_ms(&self) -> Option<u64> {
        self.lock().unacknowledged_ms
    }

    /// Commits of this size were acknowledged.
    /// `next_ms` is when the oldest commit on its way was made.
    pub(super) fn release(&self, bytes: usize, next_ms: Option<u64>) {
        let mut queue = self.lock();
        queue.unacknowledged_ms = next_ms.or(queue.oldest_ms);
        queue.bytes = queue.bytes.saturating_sub(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Shared::waiting`].
pub(super) struct Waiting(Arc<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::SeqCst);
    }
}
