//! Judgement: the qualified dealers, whose polynomials make the new sharing. A pure function of the frozen fields, so every node that
//! has fetched what they name reaches the same answer, at once or a year later.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::culprit::{Culprit, Offence};
use super::message::Complaint;
use super::transcript::Transcript;
use crate::curve::{Scalar, SecretScalar};
use crate::identifiers::{Digest, NodeIndex};
use crate::plan::frozen::dealers_digest;
use crate::plan::{Frozen, FrozenDigests, Origin};
use crate::polynomial::{VerificationVector, lagrange_at_zero};
use crate::prekey;

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

impl Transcript {
    /// Judges the frozen dealers by the frozen responses: a pure function of both and of the bundles they name.
    ///
    /// # Errors
    /// The digests of bundles, responses or prekey sets that have to be fetched first.
    pub fn judge(&self, dealers: &FrozenDigests, responses: &FrozenDigests) -> Result<Judgement, Vec<Digest>> {
        let missing = self.missing_evidence(dealers, responses);
        if missing.is_empty() { Ok(judge(self, dealers, responses)) } else { Err(missing) }
    }

    /// Returns the digests of bundles, responses and prekey sets without which frozen fields cannot be judged.
    pub(super) fn missing_evidence(&self, dealers: &FrozenDigests, responses: &FrozenDigests) -> Vec<Digest> {
        let bundles = dealers.iter().map(|(_, digest)| digest).filter(|digest| self.bundle(digest).is_none());
        let unheard = responses.iter().map(|(_, digest)| digest).filter(|digest| self.response(digest).is_none());
        let mut missing: Vec<_> = bundles.chain(unheard).collect();
        let accusers = responses.iter().filter_map(|(_, digest)| self.response(&digest));
        for (accuser, _) in accusers.filter(|(_, response)| !response.complaints.is_empty()) {
            if let (false, Some(receiver)) = (self.prekeys().contains_key(&accuser), self.plan().receiver(accuser)) {
                missing.push(receiver.prekey_digest);
            }
        }
        missing
    }
}

fn judge(transcript: &Transcript, dealers: &FrozenDigests, responses: &FrozenDigests) -> Judgement {
    let expected = dealers_digest(transcript.plan_digest(), dealers);
    let mut culprits: BTreeMap<NodeIndex, Culprit> = BTreeMap::new();
    // Kept apart from the culprits: a dealer that cheats and also complains falsely must not hide the one by the other.
    let mut cheated: BTreeSet<NodeIndex> = BTreeSet::new();
    for (receiver, digest) in responses.iter() {
        let Some((sender, response)) = transcript.response(&digest) else { continue };
        let mut blame = |index, offence, evidence| {
            culprits.entry(index).or_insert(Culprit { index, offence, evidence });
        };
        if sender != receiver || response.dealers != expected {
            blame(sender, Offence::ForeignResponse, vec![digest]);
            continue;
        }
        for complaint in &response.complaints {
            let Some(bundle) = dealers.get(complaint.dealer) else {
                blame(receiver, Offence::FalseComplaint(complaint.dealer), vec![digest]);
                continue;
            };
            if is_justified(transcript, dealers, receiver, complaint) {
                cheated.insert(complaint.dealer);
                blame(complaint.dealer, Offence::BadShare(receiver), vec![bundle, digest]);
            } else {
                blame(receiver, Offence::FalseComplaint(complaint.dealer), vec![digest, bundle]);
            }
        }
    }
    let qualified = dealers.iter().map(|(dealer, _)| dealer).filter(|dealer| !cheated.contains(dealer)).collect();
    let frozen = Frozen { dealers: dealers.clone(), responses: responses.clone(), qualified };
    Judgement { frozen, culprits: culprits.into_values().collect() }
}

/// Returns true if the revealed key is the slot's and opens a share that is not the committed one.
fn is_justified(transcript: &Transcript, dealers: &FrozenDigests, receiver: NodeIndex, complaint: &Complaint) -> bool {
    let plan = transcript.plan();
    let parts = plan.slot_of(complaint.dealer).and_then(|slot| {
        let set = transcript.prekeys().get(&receiver)?;
        let dealing = transcript.bundle(&dealers.get(complaint.dealer)?)?;
        Some((set, set.slots.get(slot)?, dealing))
    });
    let Some((set, public, dealing)) = parts else { return false };
    // A last-resort set may be named again: whoever reveals its keys harms itself, and proves nothing.
    if set.last_resort {
        return false;
    }
    // A key to which nobody can seal is its owner's fault.
    let mut any = ChaCha20Rng::from_seed([0; 32]);
    if prekey::seal(public, &[0; 32], &[], &mut any).is_none() {
        return false;
    }
    let Some(key) = complaint.key.matching(public) else { return false };
    dealing.open(plan, transcript.plan_digest(), complaint.dealer, receiver, &key).is_none()
}

impl Judgement {
    /// Combines the qualified dealers' polynomials.
    ///
    /// # Errors
    /// When there are too few, or the sum is not a sharing of the expected key.
    pub fn combine(&self, transcript: &Transcript) -> Result<Combined, CombineError> {
        let plan = transcript.plan();
        let qualified = &self.frozen.qualified;
        if qualified.len() < plan.dealers_needed() {
            return Err(CombineError::TooFewQualified { qualified: qualified.len(), needed: plan.dealers_needed() });
        }
        let weights = match plan.origin {
            Origin::Genesis => vec![Scalar::one(); qualified.len()],
            Origin::Reshare { .. } => lagrange_at_zero(qualified),
        };
        let dealing_of = |dealer: &NodeIndex| self.frozen.dealers.get(*dealer).and_then(|d| transcript.bundle(&d));
        let vectors: Vec<_> = qualified.iter().filter_map(dealing_of).map(|dealing| &dealing.vector).collect();
        assert_eq!(vectors.len(), weights.len(), "a judgement exists only where every frozen bundle is known");
        let vector = VerificationVector::combine(&vectors, &weights).map_err(|_| CombineError::Vanished)?;
        match plan.expected_public_key() {
            Some(public_key) if public_key != vector.constant() => Err(CombineError::PublicKeyChanged),
            _ => Ok(Combined { vector, weights: qualified.iter().copied().zip(weights).collect() }),
        }
    }
}

impl Combined {
    /// Combines the receiver's new share from the shares that the qualified dealers sealed to it.
    ///
    /// # Errors
    /// The dealers whose share is missing or bad: `open` gives `None` for them.
    pub fn share(
        &self,
        receiver: NodeIndex,
        mut open: impl FnMut(NodeIndex) -> Option<SecretScalar>,
    ) -> Result<SecretScalar, Vec<NodeIndex>> {
        let mut sum = SecretScalar::zero();
        let mut unusable = Vec::new();
        for (dealer, weight) in &self.weights {
            match open(*dealer) {
                Some(share) => sum = sum.plus(&share.scaled(weight)),
                None => unusable.push(*dealer),
            }
        }
        if !unusable.is_empty() {
            return Err(unusable);
        }
        assert!(self.vector.matches(receiver, &sum), "checked shares combine to a share of the combined vector");
        Ok(sum)
    }
}
