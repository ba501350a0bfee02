//! Collecting the segments that were shipped, until there is enough of them to be merged into one object. Pure.

use std::collections::VecDeque;

use crate::format::{Commit, Op};
use crate::position::{CommitNo, Digest, Position, Seq};

/// Segments that were shipped and may be merged.
#[derive(Default)]
pub(super) struct Merge {
    /// Commits that are offered and not yet acknowledged.
    pub(super) waiting: VecDeque<Commit>,
    /// The position before the next segment.
    pub(super) last: Option<Position>,
    pub(super) run: Option<Run>,
    pub(super) segments: u64,
    pub(super) bytes: usize,
}

/// A run of segments.
pub(super) struct Run {
    pub(super) first: Seq,
    pub(super) prev: Digest,
    pub(super) first_commit: CommitNo,
    pub(super) last_commit: CommitNo,
    pub(super) time_ms: u64,
    pub(super) ops: Vec<Op>,
    pub(super) segments: u64,
}

impl Merge {
    /// Adds the segment at `position`. False when there is nothing before it to name.
    pub(super) fn take(&mut self, position: Position, commit: CommitNo) -> bool {
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

    pub(super) fn finish(&mut self) -> Option<Run> {
        let segments = std::mem::take(&mut self.segments);
        self.bytes = 0;
        self.run.take().map(|run| Run { segments, ..run })
    }
}
