//! View of the nodes: everything that they said to this process, judged.
//!
//! - [`transcripts`]: the streams' content: messages in, the core's decisions out
//! - [`possession`]: which epochs a node has proven to hold

pub mod possession;
pub mod transcripts;

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_threshold::coordination::Decision;
use keyfleet_threshold::round::Culprit;

pub use transcripts::{Transcripts, Watched};

/// Messages and reports of nodes since this process started.
#[derive(Clone, Debug, Default)]
pub struct StreamView {
    /// Nodes whose stream is open.
    pub connected: BTreeSet<u32>,
    /// Nodes that have reported at least once, with the highest number that each ever accepted.
    pub highest: BTreeMap<u32, u64>,
    /// The newest certified epoch that each named.
    pub certified: BTreeMap<u32, u64>,
    /// The threshold of each of these epochs, from its vector.
    pub thresholds: BTreeMap<u64, usize>,
    /// Per epoch, who has proven to hold its share of the certified vector: by its partial signature over a fresh challenge,
    /// on a stream that is open.
    pub holds: BTreeMap<u64, BTreeSet<u32>>,
    /// Per epoch, who claims to hold its share and proves it not.
    pub unproven: BTreeMap<u64, BTreeMap<u32, Unproven>>,
    /// Per epoch, who said that it destroyed its secrets, with the statement's digest.
    pub erased: BTreeMap<u64, BTreeMap<u32, keyfleet_crds::values::Digest>>,
    /// Decision and culprits of each epoch that can still move.
    pub closing: BTreeMap<u64, Closing>,
}

/// Why a node that claims to hold an epoch does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unproven {
    /// No proof was sent.
    #[error("it sends no partial signature")]
    Missing,
    /// Proof over another challenge.
    #[error("its report answers another challenge than the one it was sent: it was made earlier, or elsewhere")]
    OtherChallenge,
    /// Claim for another vector than the certified one.
    #[error("it names another verification vector than the certified one")]
    OtherVector,
    /// The signature is not that of its share.
    #[error("its partial signature does not verify under its public share")]
    WrongSignature,
}

/// Outcome of a round as the core judges it.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    /// Next decision to write, if any.
    pub decision: Option<Decision>,
    /// Nodes that are provably at fault.
    pub culprits: Vec<Culprit>,
}
