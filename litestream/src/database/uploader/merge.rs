//! Collecting the segments that were shipped, until there is enough of them to be merged into one object. Pure.

use std::collections::VecDeque;

use crate::format::{Commit, Op};
use crate::position::{CommitNo, Digest, Position, Seq};

/// Segments that were shipped and are not merged yet.
#[derive(Default)]
pub(super) struct Merge {
    /// Commits that were offered to the term and are not acknowledged yet.
    pub(super) waiting: VecDeque<Commit>,
    /// Position before the next segment.
    pub(super) last: Option<Position>,
    pub(super) run: Option<Run>,
    pub(super) segments: u64,
    pub(super) bytes: usize,
}

/// Run of segments, one after the other, of one term.
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
    /// Adds the segment at `position`, which ends with `commit` and claims `time_ms`. Returns false when no position before it is known.
    pub(super) fn take(&mut self, position: Position, commit: CommitNo, time_ms: u64) -> bool {
        let Some(before) = self.last.replace(position) else {
            self.waiting.clear();
            return false;
        };
        assert_eq!(position.seq, before.seq.next(), "segments of a run follow one another");
        while let Some(next) = self.waiting.pop_front_if(|next| next.number <= commit) {
            self.bytes += next.size();
            let run = self.run.get_or_insert_with(|| Run {
                first: position.seq,
                prev: before.hash,
                first_commit: next.number,
                last_commit: next.number,
                time_ms,
                ops: Vec::new(),
                segments: 0,
            });
            assert!(next.number == run.first_commit || next.number == run.last_commit.next(), "a run has no gap");
            (run.last_commit, run.time_ms) = (next.number, time_ms);
            run.ops.extend(next.ops);
        }
        self.segments += 1;
        true
    }

    /// Takes the run, and begins another.
    pub(super) fn finish(&mut self) -> Option<Run> {
        let segments = std::mem::take(&mut self.segments);
        self.bytes = 0;
        self.run.take().map(|run| Run { segments, ..run })
    }
}
