//! Settings of a term, its requests to the caller, the answers to them, and its progress.

use std::sync::Arc;

use crate::format::header::ReplicaName;
use crate::position::{CommitNo, Position, Seq};

/// Settings of a term.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the replica.
    pub replica: ReplicaName,
    /// Age of a proof of place, in milliseconds, beyond which the writer reads the lowest needed number before it
    /// acknowledges. Must be shorter than retention's grace.
    pub idle_grace_ms: u64,
    /// Size of a segment in bytes before compression. A segment takes commits until it holds this much.
    pub segment_bytes: usize,
}

/// Request that the caller makes to the bucket next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// PUT with `If-None-Match: *`.
    Create {
        /// Key under the prefix.
        key: String,
        /// The object.
        bytes: Arc<[u8]>,
    },
    /// GET of an object that exists although no answer said that we made it.
    ReadBack {
        /// Key under the prefix.
        key: String,
    },
    /// GET of the object `boundary`, which holds the lowest needed number.
    ReadLowestNeeded,
}

/// Answer to a [`Request`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// Success: the object is ours.
    Created,
    /// 412: an object lies under that key already.
    Exists,
    /// No answer, or one that leaves open what happened (lost, 409, 503, 5xx). The request is repeated.
    Unknown,
    /// Object read back; `None` when it is gone.
    Object(Option<Vec<u8>>),
    /// Lowest needed number; `None` where retention never ran.
    LowestNeeded(Option<Seq>),
}

/// Progress of a term, after an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Opening in the bucket, which refused it a second time: the term is ours. The caller supplies a base next.
    Opened(Position),
    /// Opening that the bucket stored a second time, although it was there: its conditional writes do not hold, and nothing
    /// fences another writer. The same is asked again with the next request.
    Overwritten,
    /// Base in the bucket. Nothing may be acknowledged yet: a segment must follow.
    Based {
        /// The opening's position, which it stands for.
        position: Position,
        /// Last commit included.
        commit: CommitNo,
    },
    /// Segment in the bucket: every commit up to this one may be acknowledged.
    Durable {
        /// The replica's state.
        position: Position,
        /// Last commit included.
        commit: CommitNo,
        /// Bytes of the object.
        bytes: usize,
    },
    /// Race lost: another writer took the number of our opening. Restore and open again.
    Lost,
    /// Term ended: another writer follows us. Nothing more is acknowledged.
    Fenced {
        /// Number of the first object that is not ours.
        seq: Seq,
    },
}
