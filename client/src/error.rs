//! Why a fleet gave no answer: who was missing, and why.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use keyfleet_api::epoch_certificate::EpochCertificateError;
use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};

use crate::tokens::NoToken;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Too few nodes answered.
    #[error(transparent)]
    TooFew(#[from] Shortfall),
    /// The request itself breaks a limit.
    #[error("{what} has {length} bytes; {least} to {most} are allowed")]
    Length {
        /// Name of the value.
        what: &'static str,
        /// Length of the value, in bytes.
        length: usize,
        /// The least.
        least: usize,
        /// The most.
        most: usize,
    },
    /// Combined value that is not the identity's key, although it verified: a fault of this program.
    #[error("what the nodes made together is not the identity's key; please report this")]
    NotTheKey,
}

/// Too few partials came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortfall {
    /// Valid partials of one epoch that came.
    pub came: usize,
    /// Number of answers that are needed.
    pub needed: usize,
    /// Time that was waited.
    pub waited: Duration,
    /// The nodes whose partial was missing, and why.
    pub missing: BTreeMap<NodeIndex, NodeError>,
}

impl Shortfall {
    /// Returns true when refusals alone are the reason: without the nodes that refused there are too few. Then trying again is
    /// pointless.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let refusals = self.missing.values().filter(|error| error.is_refusal()).count();
        self.came + self.missing.len() - refusals < self.needed
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (came, needed) = (self.came, self.needed);
        write!(f, "{came} of {needed} needed answers came within {:.1} s; missing:", self.waited.as_secs_f64())?;
        for (node, error) in &self.missing {
            write!(f, "\n  node {node}: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Shortfall {}

/// Why a node's partial is missing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// No answer in time.
    #[error("no answer")]
    Silent,
    /// Not reachable, or not the pinned node.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The caller has no token for it.
    #[error("no token for it: {0}")]
    NoToken(NoToken),
    /// Refusal of the caller's token.
    #[error("it did not take the token: {0}")]
    Unauthenticated(String),
    /// No access rule allows this.
    #[error("refused: {0}")]
    Denied(String),
    /// No answer possible now.
    #[error("not able to answer now: {0}")]
    NotNow(String),
    /// Refusal of the request as wrong.
    #[error("it refused the request: {0}")]
    Refused(String),
    /// Answer from another epoch than the others'.
    #[error("it answered from epoch {0}, unlike the others")]
    OtherEpoch(EpochNumber),
    /// Answer that its share does not make: the node lies, or is broken.
    #[error("its answer was wrong: it is faulty or lies")]
    WrongPartial,
    /// Epoch that the fleet's public key did not certify.
    #[error("what it says of its epoch does not verify: {0}")]
    WrongProof(EpochCertificateError),
}

impl NodeError {
    /// Returns true when asking this node again is pointless.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Silent | Self::Unreachable(_) | Self::NotNow(_) | Self::OtherEpoch(_) => false,
            Self::NoToken(no) => no.lasting,
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
            Self::NoToken(no) => no.lasting,
            Self::Unauthenticated(_) | Self::Denied(_) | Self::Refused(_) => true,
            _ => false,
        }
    }
}
