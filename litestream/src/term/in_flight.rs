//! An object on its way to the bucket, and the requests that prove its arrival.

use std::sync::Arc;

use super::Request;
use crate::format::seal::Sealed;
use crate::position::{CommitNo, Digest};

/// Object on its way. A term has at most one.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) object: Object,
    pub(super) step: Step,
    /// Time of the first request for it, in milliseconds. Whatever follows it in the sequence was made later.
    pub(super) sent_ms: Option<u64>,
    /// Set when the bucket refused a PUT of it: its conditions hold.
    pub(super) was_refused: bool,
    /// Set when it was there and then gone: the lowest needed number must be read, whatever the clock says.
    pub(super) must_check: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) key: String,
    pub(super) bytes: Arc<[u8]>,
    pub(super) digest: Digest,
    pub(super) last_commit: CommitNo,
    pub(super) time_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Put,
    ReadBack,
    ReadLowestNeeded,
}

impl InFlight {
    pub(super) fn new(key: String, sealed: Sealed) -> Self {
        let Sealed { header, bytes, digest } = sealed;
        let object =
            Object { key, bytes: bytes.into(), digest, last_commit: header.last_commit, time_ms: header.time_ms };
        Self { object, step: Step::Put, sent_ms: None, was_refused: false, must_check: false }
    }

    pub(super) fn request(&self) -> Request {
        match self.step {
            Step::Put => Request::Create { key: self.object.key.clone(), bytes: self.object.bytes.clone() },
            Step::ReadBack => Request::ReadBack { key: self.object.key.clone() },
            Step::ReadLowestNeeded => Request::ReadLowestNeeded,
        }
    }
}

/// Owner of the object that lies under the key.
pub(super) enum Outcome {
    Ours,
    Foreign,
}
