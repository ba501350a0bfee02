//! Judgement: the qualified dealers, whose polynomials make the new sharing. A pure function of the frozen fields, so every node that
//! has fetched what they name reaches the same answer, at once or a year later.

use std::collections::BTreeMap;

use super::bundle::{Guilt, VerifiedBundle};
use super::culprit::{Culprit, Offence};
pub use super::judged::{CombineError, Combined, Judgement};
use super::transcript::Transcript;
use crate::curve::{Scalar, SecretScalar};
use crate::identifiers::{Digest, NodeIndex};
use crate::plan::frozen::dealers_digest;
use crate::plan::{Frozen, FrozenDigests, Origin, ValidPlan};
use crate::polynomial::{VerificationVector, lagrange_at_zero};

/// Reason why frozen fields cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// Bundles, responses or the source's vector have to be fetched first.
    #[error("{} signed messages that the record names are missing", .0.len())]
    Missing(Vec<Digest>),
    /// The frozen digest of this dealer names a bundle that it did not sign, or that does not deal its share. Who wrote the
    /// record is at fault.
    #[error("the record freezes a bundle under {0} that is not its own")]
    ForeignBundle(NodeIndex),
}

impl Transcript {
    /// Judges the frozen dealers by the frozen responses: a pure function of both and of the bundles they name.
    ///
    /// # Errors
    /// When messages that the record names are missing, or it froze under a dealer what is not its bundle.
    pub fn judge(&self, dealers: &FrozenDigests, responses: &FrozenDigests) -> Result<Judgement, JudgeError> {
        let missing = self.missing_evidence(dealers, responses);
        if !missing.is_empty() {
            return Err(JudgeError::Missing(missing));
        }
        match self.foreign_bundle(dealers) {
            Some(dealer) => Err(JudgeError::ForeignBundle(dealer)),
            None => Ok(self.judged.judgement(dealers, responses, || judge(self, dealers, responses))),
        }
    }

    /// Returns a dealer under which the record froze something else than its own, sound bundle, as far as bundles are known.
    pub(super) fn foreign_bundle(&self, dealers: &FrozenDigests) -> Option<NodeIndex> {
        let known = dealers.iter().filter_map(|(dealer, digest)| Some((dealer, self.bundle(&digest)?)));
        let foreign = |dealer: NodeIndex, bundle: &VerifiedBundle| {
            bundle.dealer() != dealer || (!self.lacks_source() && !self.is_sound(&bundle.digest()))
        };
        known.into_iter().find(|(dealer, bundle)| foreign(*dealer, bundle)).map(|(dealer, _)| dealer)
    }

    /// Returns the digests of bundles, responses and source vector without which frozen fields cannot be judged. A response without
    /// complaints is never missing.
    #[must_use]
    pub fn missing_evidence(&self, dealers: &FrozenDigests, responses: &FrozenDigests) -> Vec<Digest> {
        let bundles = dealers.iter().map(|(_, digest)| digest).filter(|digest| self.bundle(digest).is_none());
        let is_unknown = |(receiver, digest): &(NodeIndex, Digest)| {
            self.response(digest).is_none() && self.known_response(*receiver, digest, dealers).is_none()
        };
        let unheard = responses.iter().filter(is_unknown).map(|(_, digest)| digest);
        let source = self.plan().source().filter(|_| self.lacks_source()).map(|source| source.vector);
        bundles.chain(unheard).chain(source).collect()
    }
}

/// Judges responses ascending by receiver, and in each the complaints ascending by dealer. A complaint about a dealer that is
/// guilty already is skipped, and the first false one ends its response, so n nodes cost at most n judgements.
///
/// A response to other dealers, and a complaint about another bundle than the frozen one, count for nothing and prove nothing:
/// under a record that shows different things to different nodes honest ones say both.
fn judge(transcript: &Transcript, dealers: &FrozenDigests, responses: &FrozenDigests) -> Judgement {
    let expected = dealers_digest(transcript.plan_digest(), dealers);
    let mut culprits: BTreeMap<NodeIndex, Culprit> = BTreeMap::new();
    for (receiver, digest) in responses.iter() {
        let Some((sender, response)) = transcript.response(&digest) else { continue };
        if sender != receiver || response.dealers != expected {
            continue;
        }
        for complaint in &response.complaints {
            let frozen = dealers.get(complaint.dealer).filter(|frozen| *frozen == complaint.bundle);
            let bundle = frozen.and_then(|frozen| transcript.bundle(&frozen));
            let Some(bundle) = bundle.filter(|_| !culprits.contains_key(&complaint.dealer)) else { continue };
            let evidence = vec![bundle.digest(), digest];
            let (index, offence) = match bundle.judge(transcript.plan(), receiver, complaint) {
                Guilt::Dealer => (complaint.dealer, Offence::BadShare(receiver)),
                Guilt::Complainer => (receiver, Offence::FalseComplaint(complaint.dealer)),
            };
            culprits.entry(index).or_insert(Culprit { index, offence, evidence });
            if index == receiver {
                break;
            }
        }
    }
    // Guilt is a node's, whatever its part: who complains falsely does not qualify as a dealer either.
    let qualified = dealers.iter().map(|(dealer, _)| dealer).filter(|dealer| !culprits.contains_key(dealer)).collect();
    let frozen = Frozen { dealers: dealers.clone(), responses: responses.clone(), qualified };
    Judgement { frozen, culprits: culprits.into_values().collect() }
}

impl Judgement {
    /// Combines the qualified dealers' polynomials.
    ///
    /// # Errors
    /// When there are too few, or the sum is not a sharing of the expected key.
    pub fn combine(&self, transcript: &Transcript) -> Result<Combined, CombineError> {
        transcript.judged.combined(self, || self.combine_anew(transcript))
    }

    fn combine_anew(&self, transcript: &Transcript) -> Result<Combined, CombineError> {
        #[cfg(test)]
        super::tests::COMBINED.with(|combined| combined.set(combined.get() + 1));
        let bundle_of = |dealer: &NodeIndex| self.frozen.dealers.get(*dealer).and_then(|d| transcript.bundle(&d));
        let bundles: Vec<_> = self.frozen.qualified.iter().filter_map(bundle_of).collect();
        assert_eq!(
            bundles.len(),
            self.frozen.qualified.len(),
            "a judgement exists only where every frozen bundle is known"
        );
        combine(transcript.plan(), &bundles)
    }
}

/// Combines the polynomials of dealers, ascending by index.
///
/// # Errors
/// When there are too few, or the sum is not a sharing of the expected key.
pub(super) fn combine(plan: &ValidPlan, bundles: &[&VerifiedBundle]) -> Result<Combined, CombineError> {
    if bundles.len() < plan.dealers_needed() {
        return Err(CombineError::TooFewQualified { qualified: bundles.len(), needed: plan.dealers_needed() });
    }
    let dealers: Vec<_> = bundles.iter().map(|bundle| bundle.dealer()).collect();
    let weights = match plan.origin {
        Origin::Genesis => vec![Scalar::one(); dealers.len()],
        Origin::Reshare { .. } => lagrange_at_zero(&dealers),
    };
    let vectors: Vec<_> = bundles.iter().map(|bundle| bundle.vector()).collect();
    let vector = VerificationVector::combine(&vectors, &weights).map_err(|_| CombineError::Vanished)?;
    match plan.expected_public_key() {
        Some(public_key) if public_key != vector.constant() => Err(CombineError::PublicKeyChanged),
        _ => Ok(Combined { vector, weights: dealers.into_iter().zip(weights).collect() }),
    }
}

impl Combined {
    /// Combines the receiver's new share from what the qualified dealers sealed to it, in the order of the weights.
    ///
    /// # Panics
    /// When the shares are not those of the qualified dealers: callers have checked each against its commitments.
    #[must_use]
    pub fn share(&self, receiver: NodeIndex, shares: &[SecretScalar]) -> SecretScalar {
        assert_eq!(shares.len(), self.weights.len(), "one share of each qualified dealer");
        let weighted = self.weights.iter().zip(shares).map(|((_, weight), share)| share.scaled(weight));
        let sum = weighted.fold(SecretScalar::zero(), |sum, share| sum.plus(&share));
        assert!(self.vector.matches(receiver, &sum), "checked shares combine to a share of the combined vector");
        sum
    }
}
