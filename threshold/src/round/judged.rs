//! Outcomes of a round's frozen fields, and the memory of the last one. Whoever looks at a round looks often, at the same fields, and
//! judging costs pairings: a judgement follows from these fields alone, so it is made once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::culprit::Culprit;
use crate::curve::Scalar;
use crate::identifiers::NodeIndex;
use crate::plan::{Frozen, FrozenDigests};
use crate::polynomial::VerificationVector;

/// Outcome of the frozen fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// All frozen fields, the qualified dealers among them.
    pub frozen: Frozen,
    /// Nodes that broke the protocol, ascending by index, with evidence.
    pub culprits: Vec<Culprit>,
}

/// Reason why a judged round gives no sharing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CombineError {
    /// Too few dealers qualified. Those named as culprits are at fault.
    #[error("{qualified} dealers qualified, {needed} are needed")]
    TooFewQualified {
        /// Number of dealers that qualified.
        qualified: usize,
        /// Number of dealers needed.
        needed: usize,
    },
    /// The combined constant term is not the cluster's public key: never with checked bundles.
    #[error("the combined polynomial does not keep the public key")]
    PublicKeyChanged,
    /// A coefficient of the sum is infinity: dealers colluded to break this round.
    #[error("a coefficient of the combined polynomial vanished")]
    Vanished,
}

/// The agreed sharing of a round, without any secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Combined {
    /// The epoch's verification vector.
    pub vector: VerificationVector,
    /// Each qualified dealer's weight, ascending: 1 at genesis, its Lagrange coefficient on reshare.
    pub weights: Vec<(NodeIndex, Scalar)>,
}

/// The last judgement of a transcript, and what its qualified dealers add up to once somebody asked.
#[derive(Default)]
pub(super) struct Judged(Mutex<Option<Known>>);

#[derive(Clone)]
struct Known {
    judgement: Judgement,
    combined: Option<Result<Combined, CombineError>>,
}

impl Judged {
    /// Returns the judgement of these fields: the known one, or what `judge` finds.
    pub(super) fn judgement(
        &self,
        dealers: &FrozenDigests,
        responses: &FrozenDigests,
        judge: impl FnOnce() -> Judgement,
    ) -> Judgement {
        let mut known = self.lock();
        let is_of = |frozen: &Frozen| frozen.dealers == *dealers && frozen.responses == *responses;
        match &*known {
            Some(known) if is_of(&known.judgement.frozen) => known.judgement.clone(),
            _ => known.insert(Known { judgement: judge(), combined: None }).judgement.clone(),
        }
    }

    /// Returns what a judgement's dealers add up to: the known sum, or what `combine` finds.
    pub(super) fn combined(
        &self,
        judgement: &Judgement,
        combine: impl FnOnce() -> Result<Combined, CombineError>,
    ) -> Result<Combined, CombineError> {
        match &mut *self.lock() {
            Some(known) if known.judgement == *judgement => known.combined.get_or_insert_with(combine).clone(),
            _ => combine(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        // What a panic left is either whole or not there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for Judged {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.lock().clone()))
    }
}
