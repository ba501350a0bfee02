//! The record of a round: the status of its `KeyEpoch`, which the operator writes and every node reads for itself.

use crate::identifiers::{EpochNumber, NodeIndex};
use crate::plan::FrozenDigests;
use crate::purpose::Certificate;

/// Phase of a round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Dealers deal, receivers say what they have.
    Dealing,
    /// The dealers are frozen; receivers check their bundles.
    Verifying,
    /// Responses and qualified dealers are frozen; receivers store their shares.
    Preparing,
    /// Enough receivers are prepared; they sign the certificate.
    Certifying,
    /// The certificate is there: the epoch serves.
    Active,
    /// Enough receivers prove to hold it that older epochs may go.
    Confirmed,
    /// Nodes destroy the epoch's secrets.
    Retired,
    /// The attempt came to nothing.
    Failed,
}

impl Phase {
    /// Returns true before the round has either become active or failed.
    #[must_use]
    pub fn is_open(self) -> bool {
        self < Self::Active
    }
}

/// The record of a round beside its plan. Each `Option` but `kept` is written once, by [`RoundRecord::apply`] alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoundRecord {
    /// The round's phase.
    pub phase: Phase,
    /// The frozen dealers with their bundles' digests.
    pub dealers: Option<FrozenDigests>,
    /// The frozen responses' digests.
    pub responses: Option<FrozenDigests>,
    /// The dealers that qualified.
    pub qualified: Option<Vec<NodeIndex>>,
    /// The certificate of an active epoch.
    pub certificate: Option<Certificate>,
    /// The epochs below this one whose secrets are kept, ascending. Counts in the record of the newest epoch alone, where it is
    /// written anew as the set changes.
    pub kept: Option<Vec<EpochNumber>>,
}

impl RoundRecord {
    /// Returns the record of a round that has just been opened.
    #[must_use]
    pub fn opened() -> Self {
        Self { phase: Phase::Dealing, dealers: None, responses: None, qualified: None, certificate: None, kept: None }
    }
}
