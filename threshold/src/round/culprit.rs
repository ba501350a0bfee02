//! Blame: a node that broke the protocol, what it did, and the signed messages that prove it to anyone.

use super::dealing::DealingError;
use crate::identifiers::{Digest, NodeIndex};

/// Node that provably broke the protocol, with the digests of the signed messages that prove it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Culprit {
    /// Index of the node.
    pub index: NodeIndex,
    /// Breach of the protocol.
    pub offence: Offence,
    /// Digests of its signed messages: fetch and check them.
    pub evidence: Vec<Digest>,
}

/// A provable breach of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Offence {
    /// Signed two different messages where one is allowed.
    #[error("said two different things in one round")]
    Equivocation,
    /// Dealt a bundle that is bad for everyone.
    #[error("dealt a bad bundle: {0}")]
    BadBundle(DealingError),
    /// Sealed a share that does not match its commitments; a complaint disclosed the value that shows it.
    #[error("sealed a bad share to {0}")]
    BadShare(NodeIndex),
    /// Complained about a share that was good, or with a value that it does not share with the dealer.
    #[error("complained falsely about {0}")]
    FalseComplaint(NodeIndex),
    /// Signed a message that no node may send.
    #[error("sent a message that is not one of this round")]
    Malformed,
}
