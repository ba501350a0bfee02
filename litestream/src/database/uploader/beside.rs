//! What travels beside the sequence of a held term, on threads of its own: snapshots, and merged segments.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::shipping::Shipping;
use crate::bucket::Bucket;
use crate::database::shared::{Shared, SnapshotImage};
use crate::database::writer::Job;
use crate::format::payload::coalesce;
use crate::format::{Commit, Op, Sealed};
use crate::keyspace;
use crate::position::{CommitNo, Digest, Position, Seq};

impl Shipping<'_> {
    pub(super) fn ask_for_snapshot(&mut self, commit: CommitNo) {
        let due = self.segments >= self.up.options.snapshot_segments
            || (self.last_snapshot.elapsed() >= self.up.options.snapshot_interval && commit > self.snapshot_commit);
        if !due || self.asked_for_snapshot {
            return;
        }
        if let Some(jobs) = self.up.jobs.upgrade()
            && jobs.try_send(Job::Snapshot { done: None }).is_ok()
        {
            self.asked_for_snapshot = true;
        }
    }

    /// Seals and sends the snapshots that stand for exactly this position. They travel beside the sequence.
    pub(super) fn send_snapshots(&mut self, position: Position, commit: CommitNo) {
        let (due, later) = std::mem::take(&mut self.snapshots).into_iter().partition(|image| image.commit <= commit);
        self.snapshots = later;
        let due: Vec<SnapshotImage> = due;
        for mut image in due.into_iter().filter(|image| image.commit == commit) {
            self.asked_for_snapshot = false;
            self.last_snapshot = Instant::now();
            self.segments = 0;
            self.snapshot_commit = commit;
            let (sealer, runtime) = (self.tenure.sealer(), tokio::runtime::Handle::current());
            let (bucket, shared) = (self.up.bucket.clone(), Arc::clone(&self.up.shared));
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
                let key = keyspace::snapshot(position.seq, position.hash);
                if runtime.block_on(send_beside(&bucket, &shared, &key, &sealed)) {
                    shared.update(|status| status.snapshot = Some(position));
                    if let Some(done) = image.done.take() {
                        let _ = done.send(());
                    }
                }
            });
        }
    }

    /// Collects what was shipped, and sends it once more as one object when there is enough of it: a restore then
    /// needs one GET where it needed many.
    pub(super) fn merge_segments(&mut self, position: Position, commit: CommitNo) {
        let options = &self.up.options;
        if options.merge_segments < 2 {
            return;
        }
        if !self.merge.take(position, commit) {
            return;
        }
        if self.merge.segments < options.merge_segments && self.merge.bytes < options.segment_bytes {
            return;
        }
        let file_len = self.tenure.file_len();
        let Some(run) = self.merge.finish().filter(|run| run.segments > 1) else { return };
        let (sealer, runtime) = (self.tenure.sealer(), tokio::runtime::Handle::current());
        let (bucket, shared) = (self.up.bucket.clone(), Arc::clone(&self.up.shared));
        tokio::task::spawn_blocking(move || {
            let merged = Commit { number: run.last_commit, time_ms: run.time_ms, ops: coalesce(run.ops) };
            let mut rng: StdRng = rand::make_rng();
            let sealed = sealer.merged(run.first, run.prev, position, run.first_commit, &merged, file_len, &mut rng);
            let key = keyspace::merged(run.first, position.seq, position.hash);
            runtime.block_on(send_beside(&bucket, &shared, &key, &sealed));
        });
    }
}

/// Segments that were shipped and may be merged.
#[derive(Default)]
pub(super) struct Merge {
    /// Commits that are offered and not yet acknowledged.
    pub(super) waiting: VecDeque<Commit>,
    /// The position before the next segment.
    pub(super) last: Option<Position>,
    run: Option<Run>,
    segments: u64,
    bytes: usize,
}

/// A run of segments.
struct Run {
    first: Seq,
    prev: Digest,
    first_commit: CommitNo,
    last_commit: CommitNo,
    time_ms: u64,
    ops: Vec<Op>,
    segments: u64,
}

impl Merge {
    /// Adds the segment at `position`. False when there is nothing before it to name.
    fn take(&mut self, position: Position, commit: CommitNo) -> bool {
        let Some(before) = self.last.replace(position) else {
            self.waiting.clear();
            return false;
        };
        while let Some(next) = self.waiting.pop_front_if(|next| next.number <= commit) {
            self.bytes += next.size();
            let run = self.run.get_or_insert_with(|| Run {
                first: position.seq,
                prev: before.hash,
                first_commit: next.number,
                last_commit: next.number,
                time_ms: 0,
                ops: Vec::new(),
                segments: 0,
            });
            (run.last_commit, run.time_ms) = (next.number, next.time_ms.max(run.time_ms));
            run.ops.extend(next.ops);
        }
        self.segments += 1;
        true
    }

    fn finish(&mut self) -> Option<Run> {
        let segments = std::mem::take(&mut self.segments);
        self.bytes = 0;
        self.run.take().map(|run| Run { segments, ..run })
    }
}

/// PUTs what travels beside the sequence, as patiently as a read. One that fails is not missed: the next will do.
async fn send_beside(bucket: &Bucket, shared: &Shared, key: &str, sealed: &Sealed) -> bool {
    for failures in 1..=bucket.patience().reads {
        match bucket.create(key, &sealed.bytes).await {
            Ok(_) => return true,
            Err(error) if error.kind.is_transient() && !shared.is_closing() => {
                sleep(bucket.patience().pause_after(failures)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "{key} could not be stored");
                return false;
            }
        }
    }
    false
}
