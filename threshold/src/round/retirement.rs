//! Retirement: what an epoch's secrets are destroyed on. Proofs count, words do not.
//!
//! Whoever writes the record, and fewer than t nodes that lie with it, must not make honest nodes destroy an epoch before enough
//! of them hold a newer one. So a node asks its peers anew and counts whom it could verify.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use rand_core::CryptoRng;

use super::outputs::{Outputs, RetireError};
use super::participant::Participant;
use super::state::{Attempt, PersistentState};
use crate::identifiers::{EpochNumber, NodeIndex};
use crate::possession::{CertifiedShare, Proofs};

/// Request to retire an epoch, with what its peers just proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retirement {
    /// The epoch's number.
    pub number: EpochNumber,
    /// Proofs that peers gave for this retirement.
    pub proofs: Proofs,
    /// The user's `confirmAfter` in milliseconds; `None` while it was not read.
    pub confirm_after_ms: Option<u64>,
}

impl Participant {
    /// Destroys the secrets of an epoch that is no longer kept, and says so.
    ///
    /// The node keeps what it serves and deals on, whatever a record says. Of the rest it lets go only where a newer epoch that it knows
    /// as certified is proven to be held at `now_ms`, the wall clock: by as many receivers as confirm it, itself included; or, once
    /// it is active here for `confirmAfter`, by its threshold of them, of which this node is one. Of the epoch that the newest is
    /// dealt on it lets go when that is proven of the newest. A removed node holds none of the newer ones, and counts others alone.
    ///
    /// # Errors
    /// The reason to keep the epoch. Nothing has changed then.
    pub fn retire(
        &mut self,
        retirement: &Retirement,
        now_ms: u64,
        rng: &mut impl CryptoRng,
    ) -> Result<Outputs, RetireError> {
        let number = retirement.number;
        if self.state.contradicted.is_some() {
            return Err(RetireError::RecordContradicted(number));
        }
        if self.state.keeps(number) {
            return Err(RetireError::StillServed(number));
        }
        let mut newer = self.newer_to_prove(number).into_iter();
        if !newer.any(|attempt| self.is_held(attempt, retirement, now_ms)) {
            return Err(RetireError::NewerNotProven(number));
        }
        let mut out = Outputs::default();
        self.erase(number, rng, &mut out);
        self.invariant_state_is_sound();
        Ok(out)
    }

    /// The certified epochs above `number`, any of which may stand in for it. What the newest was dealt on gives way to the newest
    /// alone.
    fn newer_to_prove(&self, number: EpochNumber) -> Vec<&Attempt> {
        let above = self.state.attempts.range((Excluded(number), Unbounded)).map(|(_, attempt)| attempt);
        let newest = self.state.newest_epoch().filter(|_| !self.state.is_removed()).map(|(_, newest)| newest);
        let source_of = newest.filter(|newest| newest.plan.source().is_some_and(|source| source.number == number));
        source_of
            .map_or_else(|| above.filter(|attempt| attempt.certificate().is_some()).collect(), |newest| vec![newest])
    }

    /// Tells whether enough nodes prove to hold a certified epoch that an older one may go.
    fn is_held(&self, attempt: &Attempt, retirement: &Retirement, now_ms: u64) -> bool {
        let (me, plan) = (self.state.index, &attempt.plan);
        let Some(certificate) = attempt.certificate() else { return false };
        let receivers: BTreeSet<_> = plan.receivers.iter().map(|receiver| receiver.index).collect();
        let proven = retirement.proofs.holders(plan.number, &certificate.vector, now_ms);
        let others = proven.intersection(&receivers).filter(|index| **index != me).count();
        let holders = others + usize::from(attempt.holds_share);
        let since_ms = attempt.active_since_ms.zip(retirement.confirm_after_ms);
        let is_old = since_ms.is_some_and(|(since_ms, after_ms)| now_ms >= since_ms.saturating_add(after_ms));
        let one_of_them = attempt.holds_share || plan.receiver(me).is_none();
        holders >= plan.holders_to_confirm() || (is_old && one_of_them && holders >= plan.threshold.count())
    }

    /// Dates the epochs whose activation is durable and not dated yet. For [`Participant::retire`], which counts from then.
    pub fn date(&mut self, now_ms: u64) -> Outputs {
        let mut out = Outputs::default();
        for attempt in self.state.attempts.values_mut().filter(|attempt| is_undated(attempt)) {
            attempt.active_since_ms = Some(now_ms);
            out.commit = true;
        }
        out
    }

    /// Tells whether [`Participant::date`] has something to do.
    #[must_use]
    pub fn has_undated(&self) -> bool {
        self.state.attempts.values().any(is_undated)
    }
}

fn is_undated(attempt: &Attempt) -> bool {
    attempt.certificate().is_some() && !attempt.retired && attempt.active_since_ms.is_none()
}

impl PersistentState {
    /// Returns what a proof of `prover` for an epoch is verified by: the epoch's certificate, and its vector where this node knows it.
    #[must_use]
    pub fn certified_share(&self, number: EpochNumber, prover: NodeIndex) -> Option<CertifiedShare> {
        let attempt = self.attempts.get(&number)?;
        let point = attempt.vector.as_ref().map(|vector| vector.public_share(prover));
        Some(CertifiedShare { vector: attempt.certificate()?.vector, point })
    }
}
