//! Shipping of a term: commits become segments, one on its way at a time, and the bucket's acknowledgements become the
//! database's status. Snapshots and merged segments travel beside the sequence, on threads of their own.

use std::sync::Arc;

use rand::rngs::StdRng;
use tokio::time::{sleep, sleep_until};

use super::merge::Merge;
use super::progress::{Doubt, PositionFile, Snapshots, Unacknowledged};
use super::{End, Uploader, step};
use crate::bucket::{Bucket, BucketError};
use crate::database::shared::{Item, Phase, Shared, SnapshotImage, Status};
use crate::database::writer::Job;
use crate::format::payload::coalesce;
use crate::format::{Commit, Sealed};
use crate::layout;
use crate::position::{CommitNo, Digest, Position};
use crate::term::{Event, TermState};

/// Error of a request of a held term.
enum StepError {
    Bucket(BucketError),
    /// Acknowledged position that is not in the bucket any more.
    RolledBack(Position),
    /// Base that was stored, under a key that no listing names.
    Unlisted(String),
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
    unacknowledged: Unacknowledged,
    snapshots: Snapshots,
    merge: Merge,
    position_file: PositionFile,
    doubt: Doubt,
    /// Key of the base, until a listing has named it: a restore begins with a listing.
    unlisted: Option<String>,
}

impl<'u> Shipping<'u> {
    pub(super) fn new(uploader: &'u mut Uploader, term: TermState) -> Self {
        Self {
            uploader,
            term,
            unacknowledged: Unacknowledged::default(),
            snapshots: Snapshots::new(),
            merge: Merge::default(),
            position_file: PositionFile::new(),
            doubt: Doubt::new(),
            unlisted: None,
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
                    let what = "it was rolled back, or is another one";
                    let why = format!("{position}, which the bucket acknowledged, is not in it any more: {what}");
                    if let Some(end) = self.refuse(why).await {
                        return end;
                    }
                }
                Err(StepError::Unlisted(key)) => {
                    let why = format!("{key} was stored, and no listing names it: a restore would not find it");
                    if let Some(end) = self.refuse(why).await {
                        return end;
                    }
                }
                Ok(event) => {
                    if event.is_some() && self.doubt.succeed() {
                        self.uploader.shared.update(|status| status.trouble = None);
                    }
                    if let Some(end) = self.apply(event) {
                        return end;
                    }
                }
                Err(StepError::Bucket(error)) => {
                    self.doubt.fail();
                    self.uploader.record_failure(self.doubt.failures(), &error);
                    if self.uploader.shared.is_closing() {
                        // `close` waited as long as its caller wanted; what is left stays local.
                        return End::Closed;
                    }
                    self.pause().await;
                }
            }
        }
    }

    /// Reports that the bucket is not what it should be, and waits before it is asked again. Returns the end of the term when the
    /// database is closing.
    async fn refuse(&mut self, why: String) -> Option<End> {
        self.doubt.fail();
        self.uploader.refuse(why);
        if self.uploader.shared.is_closing() {
            return Some(End::Closed);
        }
        self.pause().await;
        None
    }

    /// Makes the next request. In doubt, reads the object acknowledged last back first: in a bucket that was rolled back
    /// the next number would follow a gap that no restore gets over.
    async fn step(&mut self) -> Result<Option<Event>, StepError> {
        if let (true, Some((position, _))) = (self.doubt.must_probe(), self.term.durable()) {
            let object = self.uploader.bucket.get_once(&layout::sequence(position.seq), None).await?;
            if object.is_none_or(|(object, _)| Digest::of(&object) != position.hash) {
                return Err(StepError::RolledBack(position));
            }
        }
        if let Some(key) = &self.unlisted {
            let listed = self.uploader.bucket.list(key, None).await?;
            if listed.iter().all(|entry| entry.key != *key) {
                return Err(StepError::Unlisted(key.clone()));
            }
            self.unlisted = None;
        }
        if self.doubt.resolve() && matches!(self.uploader.shared.status().phase, Phase::Refused(_)) {
            tracing::info!("the bucket holds again what it acknowledged");
            let phase = if self.term.durable().is_some() { Phase::Shipping } else { Phase::Basing };
            self.uploader.shared.update(|status| status.phase = phase);
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
            || self.doubt.sent().elapsed() >= self.uploader.options.sync_interval
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
                    self.doubt.send();
                    self.unacknowledged.push(&commit);
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
                Item::Snapshotted(Ok(())) => self.snapshots.stored(),
                Item::Snapshotted(Err(why)) => {
                    self.snapshots.fail();
                    self.uploader.record_local_failure(self.snapshots.failures(), &why);
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
                let bytes = self.unacknowledged.acknowledge(commit);
                self.uploader.shared.release(bytes, self.unacknowledged.oldest_ms());
                self.snapshots.count_segment();
                self.uploader.shared.update(|status| {
                    invariant_acknowledgement(status, position, commit);
                    status.phase = Phase::Shipping;
                    status.durable = Some((position, commit));
                    status.trouble = None;
                });
                self.position_file.changed();
                self.save_position();
                self.merge_segments(position, commit);
                self.send_snapshots(position, commit);
                self.request_snapshot(commit);
                None
            }
            Event::Based { position, commit } => {
                self.merge.last = Some(position);
                self.unlisted = Some(layout::snapshot(position.seq, position.hash));
                self.snapshots.based(commit);
                self.uploader.shared.update(|status| status.snapshot = Some(position));
                None
            }
            Event::Fenced { seq } => {
                tracing::error!(%seq, "another writer took over: nothing more is acknowledged");
                self.uploader.shared.update(|status| status.phase = Phase::Fenced { seq });
                Some(End::Over)
            }
            Event::Opened(_) | Event::Overwritten | Event::Lost => None,
        }
    }

    /// Asks the writer for a snapshot when one is due.
    fn request_snapshot(&mut self, commit: CommitNo) {
        if !self.snapshots.is_due(&self.uploader.options, commit) {
            return;
        }
        if let Some(jobs) = self.uploader.jobs.upgrade()
            && jobs.try_send(Job::Snapshot { done: None }).is_ok()
        {
            self.snapshots.requested();
        }
    }

    /// Seals and sends the snapshots of exactly this position.
    fn send_snapshots(&mut self, position: Position, commit: CommitNo) {
        for image in self.snapshots.take_at(commit) {
            self.send_snapshot(image, position, commit);
        }
    }

    /// Seals and sends a copy of the file, beside the sequence.
    fn send_snapshot(&self, mut image: SnapshotImage, position: Position, commit: CommitNo) {
        let (sealer, time_ms, runtime) = (self.term.sealer(), self.term.time_ms(), tokio::runtime::Handle::current());
        let (bucket, shared) = (self.uploader.bucket.clone(), Arc::clone(&self.uploader.shared));
        tokio::task::spawn_blocking(move || {
            let frame = match image.compress() {
                Ok(frame) => frame,
                Err(error) => {
                    let why = format!("the copy of the file could not be read: {error}");
                    let _ = shared.push(Item::Snapshotted(Err(why)));
                    return;
                }
            };
            let mut rng: StdRng = rand::make_rng();
            let sealed = sealer.snapshot(frame, image.file_len, position, commit, time_ms, &mut rng);
            let key = layout::snapshot(position.seq, position.hash);
            let stored = runtime.block_on(send_beside(&bucket, &shared, &key, &sealed));
            let outcome = if stored { Ok(()) } else { Err(format!("{key} could not be stored")) };
            let _ = shared.push(Item::Snapshotted(outcome));
            if stored {
                shared.update(|status| status.snapshot = Some(position));
                if let Some(done) = image.done.take() {
                    let _ = done.send(());
                }
            }
        });
    }

    /// Collects the segments that were shipped, and sends them once more as one object when there are enough: a restore
    /// then needs one GET in the place of many.
    fn merge_segments(&mut self, position: Position, commit: CommitNo) {
        let options = &self.uploader.options;
        if options.merge_segments < 2 {
            return;
        }
        if !self.merge.take(position, commit, self.term.time_ms()) {
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

    /// Writes the position file when it is due.
    fn save_position(&mut self) {
        if !self.position_file.take_due() {
            return;
        }
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
        let sync_at = oldest_ms.map(|_| self.doubt.sent() + self.uploader.options.sync_interval);
        let wake_at = [self.position_file.next(), sync_at].into_iter().flatten().min();
        tokio::select! {
            () = self.uploader.shared.wake.notified() => {}
            () = async { sleep_until(wake_at.expect("guarded")).await }, if wake_at.is_some() => {}
        }
        self.save_position();
    }

    async fn pause(&self) {
        tokio::select! {
            () = sleep(self.uploader.bucket.retry().backoff(self.doubt.failures())) => {}
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
