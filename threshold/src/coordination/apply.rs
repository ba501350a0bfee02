//! The one fold from decisions to a round's record: operator, simulation and tests write records with it alone.
//!
//! ```text
//!  Dealing ─FreezeDealers─▶ Verifying ─FreezeResponses─▶ Preparing ─Certify─▶ Certifying ─Activate─▶ Active ─Confirm─▶ Confirmed
//!     └──────────────────────────┴───────── Fail ────────────┴───────────────────┘                     └──── retire ──┴─▶ Retired
//! ```

use super::closing::Decision;
use crate::round::{Phase, RoundRecord};

/// Refusal to write a record. The record stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The record moved on since the decision was made.
    #[error("the decision does not belong to phase {0:?}: read the record again")]
    WrongPhase(Phase),
    /// The record was not written by [`RoundRecord::apply`]: a field is missing, or there too early.
    #[error("the record's fields are not those of phase {0:?}: restore the record's status")]
    Malformed(Phase),
}

impl RoundRecord {
    /// Writes `decision` into the record: the next phase, and the fields that it freezes, each once.
    ///
    /// # Errors
    /// When the decision belongs to another phase, or the record's fields do not belong to its own.
    ///
    /// # Panics
    /// When a frozen field would change, which is a fault of this function.
    pub fn apply(&mut self, decision: &Decision) -> Result<(), ApplyError> {
        if !self.has_the_fields_of_its_phase() {
            return Err(ApplyError::Malformed(self.phase));
        }
        let mut next = self.clone();
        match (self.phase, decision) {
            (Phase::Dealing, Decision::FreezeDealers(dealers)) => {
                next.dealers = Some(dealers.clone());
                next.phase = Phase::Verifying;
            }
            (Phase::Verifying, Decision::FreezeResponses { responses, qualified }) => {
                next.responses = Some(responses.clone());
                next.qualified = Some(qualified.clone());
                next.phase = Phase::Preparing;
            }
            (Phase::Preparing, Decision::Certify) => next.phase = Phase::Certifying,
            (Phase::Certifying, Decision::Activate { certificate, .. }) => {
                next.certificate = Some(*certificate);
                next.phase = Phase::Active;
            }
            (Phase::Active, Decision::Confirm) => next.phase = Phase::Confirmed,
            (phase, Decision::Fail(_)) if phase.is_open() => next.phase = Phase::Failed,
            (phase, _) => return Err(ApplyError::WrongPhase(phase)),
        }
        self.replace(next);
        Ok(())
    }

    /// Retires an epoch that is no longer kept: its secrets are to be destroyed.
    ///
    /// # Errors
    /// When the record is not that of an active or confirmed epoch.
    ///
    /// # Panics
    /// When a frozen field would change, which is a fault of this function.
    pub fn retire(&mut self) -> Result<(), ApplyError> {
        match self.phase {
            Phase::Active | Phase::Confirmed => {
                self.replace(Self { phase: Phase::Retired, ..self.clone() });
                Ok(())
            }
            phase => Err(ApplyError::WrongPhase(phase)),
        }
    }

    fn replace(&mut self, next: Self) {
        self.invariant_frozen_fields_never_change(&next);
        assert!(next.phase > self.phase, "a round went back from {:?} to {:?}", self.phase, next.phase);
        *self = next;
    }

    /// Checks that each field is written once: what is there stays, word for word.
    fn invariant_frozen_fields_never_change(&self, next: &Self) {
        fn stays<T: PartialEq>(old: Option<&T>, new: Option<&T>) -> bool {
            old.is_none() || old == new
        }
        assert!(stays(self.dealers.as_ref(), next.dealers.as_ref()), "frozen dealers would change");
        assert!(stays(self.responses.as_ref(), next.responses.as_ref()), "frozen responses would change");
        assert!(stays(self.qualified.as_ref(), next.qualified.as_ref()), "qualified dealers would change");
        assert!(stays(self.certificate.as_ref(), next.certificate.as_ref()), "the certificate would change");
    }

    /// Returns true where exactly the fields of the phases before are there. A failed round keeps what it had.
    #[must_use]
    pub fn has_the_fields_of_its_phase(&self) -> bool {
        let found =
            (self.dealers.is_some(), self.responses.is_some(), self.qualified.is_some(), self.certificate.is_some());
        match self.phase {
            Phase::Dealing => found == (false, false, false, false),
            Phase::Verifying => found == (true, false, false, false),
            Phase::Preparing | Phase::Certifying => found == (true, true, true, false),
            Phase::Active | Phase::Confirmed | Phase::Retired => found == (true, true, true, true),
            Phase::Failed => !found.3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::FailReason;
    use crate::curve::{G1, G2, HashDomain};
    use crate::identifiers::{ClusterId, Digest, EpochNumber, NodeIndex};
    use crate::plan::FrozenDigests;
    use crate::purpose::Certificate;

    /// Decisions of a round that ends Confirmed, in order.
    fn decisions() -> [Decision; 5] {
        let index = NodeIndex::new(1).unwrap();
        let digests = FrozenDigests::new(vec![(index, Digest([1; 32]))]).unwrap();
        let certificate = Certificate {
            cluster: ClusterId([0; 16]),
            number: EpochNumber(1),
            plan: Digest([2; 32]),
            vector: Digest([3; 32]),
            signature: G1::hash(b"any", HashDomain::Signature),
        };
        [
            Decision::FreezeDealers(digests.clone()),
            Decision::FreezeResponses { responses: digests, qualified: vec![index] },
            Decision::Certify,
            Decision::Activate { certificate, public_key: G2::generator(), holders: Default::default() },
            Decision::Confirm,
        ]
    }

    #[test]
    fn decisions_apply_in_order_and_each_once() {
        let decisions = decisions();
        let mut record = RoundRecord::opened();
        for (position, due) in decisions.iter().enumerate() {
            for (other, decision) in decisions.iter().enumerate().filter(|(other, _)| *other != position) {
                let before = record.clone();
                assert_eq!(record.apply(decision), Err(ApplyError::WrongPhase(before.phase)), "{other} at {position}");
                assert_eq!(record, before, "a refused decision changed the record");
            }
            record.apply(due).unwrap();
        }
        assert_eq!(record.phase, Phase::Confirmed);
        record.retire().unwrap();
        assert_eq!(record.retire(), Err(ApplyError::WrongPhase(Phase::Retired)));
        assert!(record.certificate.is_some() && record.qualified.is_some(), "a retired epoch's record stays complete");
    }

    #[test]
    fn only_an_open_round_fails_and_it_keeps_its_fields() {
        let failed = Decision::Fail(FailReason::EvidenceMissing);
        let mut record = RoundRecord::opened();
        for decision in &decisions()[..3] {
            let mut abandoned = record.clone();
            abandoned.apply(&failed).unwrap();
            assert_eq!(abandoned, RoundRecord { phase: Phase::Failed, ..record.clone() });
            assert_eq!(abandoned.apply(decision), Err(ApplyError::WrongPhase(Phase::Failed)));
            record.apply(decision).unwrap();
        }
        record.apply(&decisions()[3]).unwrap();
        assert_eq!(record.apply(&failed), Err(ApplyError::WrongPhase(Phase::Active)));
    }

    #[test]
    fn a_record_that_lacks_a_frozen_field_is_refused() {
        let mut record = RoundRecord { phase: Phase::Preparing, ..RoundRecord::opened() };
        assert_eq!(record.apply(&Decision::Certify), Err(ApplyError::Malformed(Phase::Preparing)));
        let mut early = RoundRecord { qualified: Some(Vec::new()), ..RoundRecord::opened() };
        assert_eq!(early.apply(&decisions()[0]), Err(ApplyError::Malformed(Phase::Dealing)));
    }
}
