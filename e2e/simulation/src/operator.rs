//! Memory of one operator process: nothing that it cannot gather again, so it may be restarted at any event, and a second one
//! may run beside it.

use std::collections::{BTreeMap, VecDeque};

use keyfleet_crds::values::PinnedKey;
use keyfleet_planner::Action;
use keyfleet_planner::view::Transcripts;
use keyfleet_threshold::feed::Showing;
use keyfleet_threshold::identifiers::Digest;
use keyfleet_threshold::possession::Asked;

/// One operator process.
#[derive(Default)]
pub(crate) struct Operator {
    /// False while the operator is stopped.
    pub(crate) up: bool,
    pub(crate) transcripts: Transcripts,
    pub(crate) streams: BTreeMap<u32, Stream>,
    pub(crate) queue: VecDeque<Action>,
    pub(crate) starved_since: Option<u64>,
    pub(crate) last_block: u64,
}

/// Stream of one node, as this operator follows it.
pub(crate) struct Stream {
    pub(crate) identity: PinnedKey,
    /// The node's process at the other end; `None` while the stream is down.
    pub(crate) life: Option<u64>,
    pub(crate) asked: Asked,
    pub(crate) position: u64,
    pub(crate) lineage: u64,
    pub(crate) reading: bool,
    pub(crate) reported: Option<Reported>,
    pub(crate) showing: Showing,
}

/// Contents of a report that can change.
#[derive(PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) highest: u64,
    pub(crate) held: Vec<(u64, Digest)>,
}

impl Operator {
    pub(crate) fn new(up: bool) -> Self {
        Self { up, ..Self::default() }
    }
}
