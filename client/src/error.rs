//! Errors of requests: nodes whose answer is missing, with the reason of each.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use keyfleet_api::epoch_certificate::EpochCertificateError;
use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};

use crate::tokens::TokenError;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Too few nodes answered.
    #[error(transparent)]
    TooFew(#[from] ShortfallError),
    /// The request itself breaks a limit.
    #[error("{what} has {length} bytes; {least} to {most} bytes are allowed")]
    Length {
        /// Name of the value.
        what: &'static str,
        /// Length of the value, in bytes.
        length: usize,
        /// Smallest length, in bytes.
        least: usize,
        /// Largest length, in bytes.
        most: usize,
    },
    /// Combined value that is not the identity's key, although it verified: a fault of this program.
    #[error("the combined key is not the key of this identity, although it verified; please report this as a bug")]
    NotTheKey,
}

/// Too few nodes answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShortfallError {
    /// Valid answers of one epoch.
    pub came: usize,
    /// Number of answers that are needed.
    pub needed: usize,
    /// Time from the request to this error.
    pub waited: Duration,
    /// The nodes whose answer is missing, with the reason of each.
    pub missing: BTreeMap<NodeIndex, NodeError>,
}

impl ShortfallError {
    /// Returns true when refusals alone are the reason: without the nodes that refused there are too few. Then trying again is
    /// pointless.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let refusals = self.missing.values().filter(|error| error.is_refusal()).count();
        self.came + self.missing.len() - refusals < self.needed
    }
}

impl fmt::Display for ShortfallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (came, needed) = (self.came, self.needed);
        write!(f, "{came} of {needed} needed answers came within {:.1} s; missing are:", self.waited.as_secs_f64())?;
        for (node, error) in &self.missing {
            write!(f, "\n  node {node}: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ShortfallError {}

/// Why a node's partial is missing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// No answer in time.
    #[error("no answer in time; check that its pod is ready")]
    Silent,
    /// Not reachable, or not the pinned node.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The caller has no token for the node.
    #[error("no token for this node: {0}")]
    NoToken(TokenError),
    /// Refusal of the caller's token. The caller is at fault.
    #[error("refused the token: {0}")]
    Unauthenticated(String),
    /// No access rule allows this. The caller is at fault.
    #[error("refused: {0}")]
    Denied(String),
    /// No answer possible now.
    #[error("cannot answer now: {0}")]
    NotNow(String),
    /// Refusal of the request as wrong. The caller is at fault.
    #[error("refused the request as wrong: {0}")]
    Refused(String),
    /// Answer from another epoch than the others'.
    #[error("answered from epoch {0}, unlike the other nodes; try again when the round has ended")]
    OtherEpoch(EpochNumber),
    /// Answer that does not match its public share. The node is at fault: it lies, or is broken.
    #[error("gave a wrong answer: it is faulty or lies; check its pod and log")]
    WrongPartial,
    /// Epoch that the fleet's public key did not certify. The node is at fault.
    #[error("the certificate of its epoch does not verify: {0}")]
    WrongProof(EpochCertificateError),
}

impl NodeError {
    /// Returns true when asking this node again is pointless.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Silent | Self::Unreachable(_) | Self::NotNow(_) | Self::OtherEpoch(_) => false,
            Self::NoToken(error) => error.is_final(),
            Self::Unauthenticated(_)
            | Self::Denied(_)
            | Self::Refused(_)
            | Self::WrongPartial
            | Self::WrongProof(_) => true,
        }
    }

    /// Returns true when the node refuses this caller as it is.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NoToken(error) => error.is_final(),
            Self::Unauthenticated(_) | Self::Denied(_) | Self::Refused(_) => true,
            _ => false,
        }
    }
}
