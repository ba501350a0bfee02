//! Progress of a held term, a type for each concern: commits that wait for their acknowledgement, snapshots that are due, the
//! position file, doubt about the bucket. No IO.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::database::options::Options;
use crate::database::shared::SnapshotImage;
use crate::format::Commit;
use crate::position::CommitNo;

/// Time without a request after which the object acknowledged last is read back before another is added.
const PROBE_AFTER: Duration = Duration::from_secs(10);
/// Pause between two writes of the position file: it is a lower bound, and a sync of the disk is not free.
const POSITION_PAUSE: Duration = Duration::from_secs(1);

/// Commits that left the queue and are not acknowledged yet, in their order.
#[derive(Default)]
pub(super) struct Unacknowledged(VecDeque<UnacknowledgedCommit>);

struct UnacknowledgedCommit {
    number: CommitNo,
    bytes: usize,
    time_ms: u64,
}

impl Unacknowledged {
    pub(super) fn push(&mut self, commit: &Commit) {
        let before = self.0.back().map(|last| last.number);
        assert!(before.is_none_or(|before| before < commit.number), "commits leave the queue in their order");
        self.0.push_back(UnacknowledgedCommit { number: commit.number, bytes: commit.size(), time_ms: commit.time_ms });
    }

    /// Removes the commits up to `commit`. Returns their size in bytes.
    pub(super) fn acknowledge(&mut self, commit: CommitNo) -> usize {
        let mut bytes = 0;
        while let Some(acknowledged) = self.0.pop_front_if(|next| next.number <= commit) {
            bytes += acknowledged.bytes;
        }
        bytes
    }

    /// Returns the time of the oldest commit, in milliseconds since 1970.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        self.0.front().map(|commit| commit.time_ms)
    }
}

/// Snapshots of a term: the copies of the file that wait for their position, and when the next one is due.
pub(super) struct Snapshots {
    waiting: Vec<SnapshotImage>,
    /// True while the writer has been asked for a copy.
    requested: bool,
    /// True after a copy or its upload failed, until another is in the bucket's place.
    owed: bool,
    /// Failures in a row.
    failures: u32,
    /// Segments to wait before the writer is asked again.
    pause: u64,
    /// Time of the last snapshot, or of the base.
    taken: Instant,
    /// Segments since then.
    segments: u64,
    /// Commit of the last snapshot, or of the base.
    commit: CommitNo,
}

impl Snapshots {
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::new(),
            requested: false,
            owed: false,
            failures: 0,
            pause: 0,
            taken: Instant::now(),
            segments: 0,
            commit: CommitNo(0),
        }
    }

    pub(super) fn based(&mut self, commit: CommitNo) {
        self.commit = commit;
    }

    pub(super) fn count_segment(&mut self) {
        self.segments += 1;
        self.pause = self.pause.saturating_sub(1);
    }

    pub(super) fn push(&mut self, image: SnapshotImage) {
        self.waiting.push(image);
    }

    /// Returns true when the writer is to be asked for a copy.
    pub(super) fn is_due(&self, options: &Options, commit: CommitNo) -> bool {
        let is_old = self.taken.elapsed() >= options.snapshot_interval && commit > self.commit;
        let is_due = self.owed || self.segments >= options.snapshot_segments || is_old;
        is_due && !self.requested && self.pause == 0
    }

    pub(super) fn requested(&mut self) {
        self.requested = true;
    }

    /// Notes that a copy or its upload failed: another one is asked for, after twice as many segments each time.
    pub(super) fn fail(&mut self) {
        (self.requested, self.owed) = (false, true);
        self.failures += 1;
        self.pause = 1 << self.failures.min(8);
    }

    /// Returns the number of failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes that a snapshot is in the bucket.
    pub(super) fn stored(&mut self) {
        (self.owed, self.failures, self.pause) = (false, 0, 0);
    }

    /// Takes the copies of exactly this commit. Older ones are dropped: no position names them any more.
    pub(super) fn take_at(&mut self, commit: CommitNo) -> Vec<SnapshotImage> {
        let (reached, later): (Vec<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(|image| image.commit <= commit);
        self.waiting = later;
        let now: Vec<_> = reached.into_iter().filter(|image| image.commit == commit).collect();
        if !now.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            *self = Self { waiting, commit, failures: self.failures, pause: self.pause, ..Self::new() };
        }
        now
    }
}

/// The position file beside the database, and when it is written next.
pub(super) struct PositionFile {
    saved: Instant,
    is_due: bool,
}

impl PositionFile {
    pub(super) fn new() -> Self {
        Self { saved: Instant::now(), is_due: true }
    }

    pub(super) fn changed(&mut self) {
        self.is_due = true;
    }

    /// Returns the time of the next write, if one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.is_due.then(|| self.saved + POSITION_PAUSE)
    }

    /// Returns true when the file is to be written now, and counts it as written.
    pub(super) fn take_due(&mut self) -> bool {
        let is_due = self.is_due && self.saved.elapsed() >= POSITION_PAUSE;
        if is_due {
            (self.saved, self.is_due) = (Instant::now(), false);
        }
        is_due
    }
}

/// Doubt about the bucket: it failed, or was silent for long, and may be an older copy of itself by now.
pub(super) struct Doubt {
    /// Failed requests in a row.
    failures: u32,
    must_probe: bool,
    /// Time at which commits were last taken from the queue.
    sent: Instant,
}

impl Doubt {
    pub(super) fn new() -> Self {
        Self { failures: 0, must_probe: false, sent: Instant::now() }
    }

    pub(super) fn sent(&self) -> Instant {
        self.sent
    }

    /// Notes that a commit is sent now.
    pub(super) fn send(&mut self) {
        self.must_probe |= self.sent.elapsed() >= PROBE_AFTER;
        self.sent = Instant::now();
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes a failed request, or an answer that is not what the bucket acknowledged.
    pub(super) fn fail(&mut self) {
        self.must_probe = true;
        self.failures += 1;
    }

    /// Notes a request that succeeded. Returns true when others had failed before it.
    pub(super) fn succeed(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }

    pub(super) fn must_probe(&self) -> bool {
        self.must_probe
    }

    /// Ends the doubt. Returns true when there was one.
    pub(super) fn resolve(&mut self) -> bool {
        std::mem::take(&mut self.must_probe)
    }
}
