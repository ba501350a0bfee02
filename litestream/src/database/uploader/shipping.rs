//! Shipping of a term: commits become segments, one on its way at a time, and the bucket's acknowledgements become the
//! database's status. Snapshots and merged segments travel beside the sequence, on threads of their own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, sleep_until};

use super::merge::Merge;
use super::{End, Uploader, step};
use crate::bucket::{Bucket, BucketError};
use crate::database::shared::{Item, Phase, Shared, SnapshotImage, Status};
use crate::database::writer::Job;
use crate::format::payload::coalesce;
use crate::format::{Commit, Sealed};
use crate::layout;
use crate::position::{CommitNo, Digest, Position};
use crate::term::{Event, TermState};

/// Time without a request after which the object acknowledged last is read back before another is added.
const PROBE_AFTER: Duration = Duration::from_secs(10);

/// Error of a request of a held term.
enum StepError {
    Bucket(BucketError),
    /// Acknowledged position that is not in the bucket any more.
    RolledBack(Position),
}

impl From<BucketError> for StepError {
    fn from(error: BucketError) -> Self {
        Self::Bucket(error)
    }
}

/// Held term: its base, then segments, with snapshots beside them.
pub(super) struct Shipping<'u> {
    uploader: &'u mut Uploader,
    term: TermState,
    /// Number, size in bytes and time of the commits on their way, in order.
    sizes: VecDeque<(CommitNo, usize, u64)>,
    snapshots: Vec<SnapshotImage>,
    merge: Merge,
    failures: u32,
    last_snapshot: Instant,
    segments: u64,
    asked_for_snapshot: bool,
    snapshot_commit: CommitNo,
    position_saved: Instant,
    position_due: bool,
    /// Time at which commits were last taken from the queue.
    sent: Instant,
    /// Set when the bucket failed, or was silent for long: it may be an older copy of itself by now.
    must_probe: bool,
}

impl<'u> Shipping<'u> {
    pub(super) fn new(uploader: &'u mut Uploader, term: TermState) -> Self {
        Self {
            uploader,
            term,
            sizes: VecDeque::new(),
            snapshots: Vec::new(),
            merge: Merge::default(),
            failures: 0,
            last_snapshot: Instant::now(),
            segments: 0,
            asked_for_snapshot: false,
            snapshot_commit: CommitNo(0),
            position_saved: Instant::now(),
            position_due: true,
            sent: Instant::now(),
            must_probe: false,
        }
    }

    pub(super) async fn run(mut self) -> End {
        loop {
            if self.uploader.shared.overflowed() {
                self.term.close();
                return End::Overflow;
            }
            self.take();
            if self.term.durable().is_some() && self.term.is_idle() {
                if self.uploader.shared.is_closing() {
                    return End::Closed;
                }
                self.wait().await;
                continue;
            }
            match self.step().await {
                Err(StepError::RolledBack(position)) => {
                    self.failures += 1;
                    self.uploader.refuse(format!(
                        "{position}, which the bucket acknowledged, is not in it any more: it was rolled back, or is another one"
                    ));
                    if self.uploader.shared.is_closing() {
                        return End::Closed;
                    }
                    self.pause().await;
                }
                Ok(event) => {
                    if event.is_some() && self.failures > 0 {
                        self.failures = 0;
                        self.uploader.shared.update(|status| status.trouble = None);
                    }
                    if let Some(end) = self.apply(event) {
                        return end;
                    }
                }
                Err(StepError::Bucket(error)) => {
                    self.must_probe = true;
                    self.failures += 1;
                    self.uploader.record_failure(self.failures, &error);
                    if self.uploader.shared.is_closing() {
                        // `close` waited as long as its caller wanted; what is left stays local.
                        return End::Closed;
                    }
                    self.pause().await;
                }
            }
        }
    }

    /// Makes the next request. In doubt, reads the object acknowledged last back first: in a bucket that was rolled back
    /// the next number would follow a gap that no restore gets over.
    async fn step(&mut self) -> Result<Option<Event>, StepError> {
        if let (true, Some((position, _))) = (self.must_probe, self.term.durable()) {
            let object = self.uploader.bucket.get_once(&layout::sequence(position.seq), None).await?;
            if object.is_none_or(|(object, _)| Digest::of(&object) != position.hash) {
                return Err(StepError::RolledBack(position));
            }
        }
        if std::mem::take(&mut self.must_probe) && matches!(self.uploader.shared.status().phase, Phase::Refused(_)) {
            tracing::info!("the bucket holds again what it acknowledged");
            self.uploader.shared.update(|status| status.phase = Phase::Shipping);
        }
        Ok(step(&self.uploader.bucket, &mut self.term, &mut self.uploader.rng).await?)
    }

    /// Moves the commits that are due from the queue into the term.
    fn take(&mut self) {
        let (bytes, oldest_ms) = self.uploader.shared.backlog();
        if oldest_ms.is_none() {
            self.take_all();
            return;
        }
        // The interval spaces requests: a commit after a pause leaves at once.
        if self.uploader.shared.has_waiters()
            || self.term.durable().is_none()
            || self.sent.elapsed() >= self.uploader.options.sync_interval
            || bytes >= self.uploader.options.segment_bytes
            || self.term.pending() > 0
        {
            self.take_all();
        }
    }

    fn take_all(&mut self) {
        for item in self.uploader.shared.drain() {
            match item {
                Item::Commit(commit) => {
                    self.must_probe |= self.sent.elapsed() >= PROBE_AFTER;
                    self.sent = Instant::now();
                    self.sizes.push_back((commit.number, commit.size(), commit.time_ms));
                    let commit = Commit { ops: coalesce(commit.ops), ..commit };
                    if self.uploader.options.merge_segments > 1 {
                        self.merge.waiting.push_back(commit.clone());
                    }
                    self.term.offer(commit);
                }
                Item::Snapshot(image) => {
                    self.term.cut_after(image.commit);
                    self.snapshots.push(image);
                }
            }
        }
        if let Some((position, commit)) = self.term.durable()
            && self.term.pending() == 0
        {
            self.send_snapshots(position, commit);
        }
    }

    /// Carries out an event of the term. Returns the end of the term, if it is one.
    fn apply(&mut self, event: Option<Event>) -> Option<End> {
        match event? {
            Event::Durable { position, commit, .. } => {
                assert!(self.merge.last.is_some(), "nothing is acknowledged before the term's base is durable");
                let mut bytes = 0;
                while let Some((_, size, _)) = self.sizes.pop_front_if(|(number, ..)| *number <= commit) {
                    bytes += size;
                }
                self.uploader.shared.release(bytes, self.sizes.front().map(|(_, _, time_ms)| *time_ms));
                self.segments += 1;
                self.uploader.shared.update(|status| {
                    invariant_acknowledgement(status, position, commit);
                    status.phase = Phase::Shipping;
                    status.durable = Some((position, commit));
                    status.trouble = None;
                });
                self.position_due = true;
                self.save_position(false);
                self.merge_segments(position, commit);
                self.send_snapshots(position, commit);
                self.ask_for_snapshot(commit);
                None
            }
            Event::Based { position, commit } => {
                self.merge.last = Some(position);
                self.snapshot_commit = commit;
                self.uploader.shared.update(|status| status.snapshot = Some(position));
                None
            }
            Event::Fenced { seq } => {
                tracing::error!(%seq, "another writer took over: nothing more is acknowledged");
                self.uploader.shared.update(|status| status.phase = Phase::Fenced { seq });
                Some(End::Over)
            }
            Event::Opened(_) | Event::Lost => None,
        }
    }

    /// Asks the writer for a snapshot when one is due.
    fn ask_for_snapshot(&mut self, commit: CommitNo) {
        let due = self.segments >= self.uploader.options.snapshot_segments
            || (self.last_snapshot.elapsed() >= self.uploader.options.snapshot_interval
                && commit > self.snapshot_commit);
        if !due || self.asked_for_snapshot {
            return;
        }
        if let Some(jobs) = self.uploader.jobs.upgrade()
            && jobs.try_send(Job::Snapshot { done: None }).is_ok()
        {
            self.asked_for_snapshot = true;
        }
    }

    /// Seals and sends the snapshots of exactly this position.
    fn send_snapshots(&mut self, position: Position, commit: CommitNo) {
        let (due, later) = std::mem::take(&mut self.snapshots).into_iter().partition(|image| image.commit <= commit);
        self.snapshots = later;
        let due: Vec<SnapshotImage> = due;
        for mut image in due.into_iter().filter(|image| image.commit == commit) {
            self.asked_for_snapshot = false;
            self.last_snapshot = Instant::now();
            self.segments = 0;
            self.snapshot_commit = commit;
            let (sealer, runtime) = (self.term.sealer(), tokio::runtime::Handle::current());
            let (bucket, shared) = (self.uploader.bucket.clone(), Arc::clone(&self.uploader.shared));
            tokio::task::spawn_blocking(move || {
                let frame = match image.compress() {
                    Ok(frame) => frame,
                    Err(error) => {
                        tracing::error!(%error, "the copy of the file could not be read");
                        return;
                    }
                };
                let mut rng: StdRng = rand::make_rng();
                let sealed = sealer.snapshot(frame, image.file_len, position, commit, image.time_ms, &mut rng);
                let key = layout::snapshot(position.seq, position.hash);
                if runtime.block_on(send_beside(&bucket, &shared, &key, &sealed)) {
                    shared.update(|status| status.snapshot = Some(position));
                    if let Some(done) = image.done.take() {
                        let _ = done.send(());
                    }
                }
            });
        }
    }

    /// Collects the segments that were shipped, and sends them once more as one object when there are enough: a restore
    /// then needs one GET in the place of many.
    fn merge_segments(&mut self, position: Position, commit: CommitNo) {
        let options = &self.uploader.options;
        if options.merge_segments < 2 {
            return;
        }
        if !self.merge.take(position, commit) {
            return;
        }
        if self.merge.segments < options.merge_segments && self.merge.bytes < options.segment_bytes {
            return;
        }
        let file_len = self.term.file_len();
        let Some(run) = self.merge.finish().filter(|run| run.segments > 1) else { return };
        let (sealer, runtime) = (self.term.sealer(), tokio::runtime::Handle::current());
        let (bucket, shared) = (self.uploader.bucket.clone(), Arc::clone(&self.uploader.shared));
        tokio::task::spawn_blocking(move || {
            let merged = Commit { number: run.last_commit, time_ms: run.time_ms, ops: coalesce(run.ops) };
            let mut rng: StdRng = rand::make_rng();
            let sealed = sealer.merged(run.first, run.prev, position, run.first_commit, &merged, file_len, &mut rng);
            let key = layout::merged(run.first, position.seq, position.hash);
            runtime.block_on(send_beside(&bucket, &shared, &key, &sealed));
        });
    }

    /// Writes the position file when it is due, at most once a second unless `now`: it is a lower bound, and a sync of
    /// the disk is not free.
    fn save_position(&mut self, now: bool) {
        if !self.position_due || (!now && self.position_saved.elapsed() < Duration::from_secs(1)) {
            return;
        }
        self.position_saved = Instant::now();
        self.position_due = false;
        let (shared, path) = (Arc::clone(&self.uploader.shared), self.uploader.options.path.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = shared.save_position(&path) {
                tracing::warn!(%error, "the position file beside the database could not be written");
            }
        });
    }

    /// Waits until something is due.
    async fn wait(&mut self) {
        let (_, oldest_ms) = self.uploader.shared.backlog();
        let note_at = self.position_due.then(|| self.position_saved + Duration::from_secs(1));
        let sync_at = oldest_ms.map(|_| self.sent + self.uploader.options.sync_interval);
        let wake_at = [note_at, sync_at].into_iter().flatten().min();
        tokio::select! {
            () = self.uploader.shared.wake.notified() => {}
            () = async { sleep_until(wake_at.expect("guarded")).await }, if wake_at.is_some() => {}
        }
        self.save_position(false);
    }

    async fn pause(&self) {
        tokio::select! {
            () = sleep(self.uploader.bucket.retry().backoff(self.failures)) => {}
            () = self.uploader.shared.closed() => {}
        }
    }
}

/// An acknowledgement names a commit that redb returned from, and never goes back.
fn invariant_acknowledgement(status: &Status, position: Position, commit: CommitNo) {
    assert!(commit <= status.committed, "acknowledged before redb returned");
    let rises = status.durable.is_none_or(|(before, last)| before.seq < position.seq && last < commit);
    assert!(rises, "the acknowledged position fell");
}

/// Creates an object beside the sequence, with as many tries as a read. Returns false when that failed: the next snapshot
/// or merged segment takes its place.
async fn send_beside(bucket: &Bucket, shared: &Shared, key: &str, sealed: &Sealed) -> bool {
    for failures in 1..=bucket.retry().read_attempts {
        match bucket.create(key, &sealed.bytes).await {
            Ok(_) => return true,
            Err(error) if error.kind.is_transient() && !shared.is_closing() => {
                sleep(bucket.retry().backoff(failures)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "{key} could not be stored");
                return false;
            }
        }
    }
    false
}
