//! View of the nodes: everything that they said to this process, judged.
//!
//! - [`transcripts`]: the streams' content: messages and proofs in, the core's decisions out
//! - [`prekeys`]: prekeys that nodes accepted, as their reports pass them on

pub mod prekeys;
pub mod transcripts;

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_threshold::coordination::Decision;
use keyfleet_threshold::possession::Unproven;
use keyfleet_threshold::round::Culprit;

pub use prekeys::ReportedPrekey;
pub use transcripts::{Transcripts, Watched};

/// Messages and reports of nodes since this process started.
#[derive(Clone, Debug, Default)]
pub struct StreamView {
    /// Nodes whose stream is open.
    pub connected: BTreeSet<u32>,
    /// When the stream of each node that this process ever followed was caught up for the first time, in milliseconds since the
    /// Unix epoch.
    pub known_since_ms: BTreeMap<u32, u64>,
    /// When all nodes were asked anew for proofs, in milliseconds since the Unix epoch.
    pub asked_ms: Option<u64>,
    /// Nodes that have reported at least once, with the highest number that each ever accepted.
    pub highest: BTreeMap<u32, u64>,
    /// The newest certified epoch that each named.
    pub certified: BTreeMap<u32, u64>,
    /// The threshold of each of these epochs, from its vector.
    pub thresholds: BTreeMap<u64, usize>,
    /// Per epoch, who has proven to hold its share of the certified vector: by its partial signature over a fresh challenge,
    /// on a stream that is open. Each with the time at which the newest challenge was sent that it answered, in milliseconds
    /// since the Unix epoch.
    pub holds: BTreeMap<u64, BTreeMap<u32, u64>>,
    /// Per epoch, who claims to hold its share and proves it not.
    pub unproven: BTreeMap<u64, BTreeMap<u32, Unproven>>,
    /// The newest epoch of which each node signed that its secrets are gone, as it numbers its own words.
    pub erased: BTreeMap<u32, u64>,
    /// Per receiver, the prekeys that nodes accepted for it, by their newest reports. Nothing is checked yet.
    pub prekeys: BTreeMap<u32, BTreeSet<ReportedPrekey>>,
    /// Decision and culprits of each epoch that can still move.
    pub closing: BTreeMap<u64, Closing>,
}

/// Outcome of a round as the core judges it.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    /// Next decision to write, if any.
    pub decision: Option<Decision>,
    /// Nodes that are provably at fault.
    pub culprits: Vec<Culprit>,
}
