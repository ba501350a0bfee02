//! Bundles whose dealer is known to have made them, and the only things that one may do with its own share of such a bundle.
//!
//! Everything that protects an honest dealer stands here: a [`VerifiedBundle`] exists only under the dealer that signed it and
//! that proved possession of the secret under which it is sealed. It is opened, complained about and judged under *that* dealer,
//! whatever a record says. An honest dealer's bundle always opens to the committed share, so nobody ever publishes what it shares
//! with an honest dealer.

use std::sync::Arc;

use super::complaint::Complaint;
use super::dealing::{DealerSeed, Dealing, DealingError, Ephemeral, FaultyDealing, constant_statement};
use super::message::{Body, SignedMessage, digest_of};
use super::pad::PadContext;
use crate::curve::{G1, G2, Scalar, SecretPoint, SecretScalar, pairings_cancel};
use crate::encoding::{Reader, Writer};
use crate::identifiers::{Digest, NodeIndex};
use crate::plan::ValidPlan;
use crate::polynomial::VerificationVector;
use crate::prekey::PrekeySecret;
use crate::weights::Weights;

/// A bundle that its dealer signed, with proven possession of its secrets. [`Transcript::hear`](super::Transcript::hear) alone
/// makes one.
#[derive(Clone, Debug)]
pub struct VerifiedBundle {
    plan: Digest,
    dealer: NodeIndex,
    digest: Digest,
    dealing: Arc<Dealing>,
}

/// Reason why a receiver has no share from a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The plan has no prekey of this receiver, so nothing was sealed to it.
    #[error("nothing is sealed to a receiver without a prekey")]
    NoPrekey,
    /// The secret is not that of the prekey in the plan. Nobody else is at fault.
    #[error("the secret of the prekey in the plan is gone")]
    OtherSecret,
    /// The share is not the committed one. The dealer is at fault.
    #[error("the share does not match its commitments")]
    BadShare,
}

/// Guilty side of a judged complaint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Guilt {
    Dealer,
    Complainer,
}

impl VerifiedBundle {
    /// Checks the bundle that `dealer` signed under `digest`: its shape, and possession of its secrets unless that `is_proven`.
    ///
    /// # Errors
    /// The first defect; the dealer is at fault.
    pub(super) fn verify(
        plan: &ValidPlan,
        dealer: NodeIndex,
        digest: Digest,
        dealing: &Dealing,
        is_proven: bool,
    ) -> Result<Self, DealingError> {
        dealing.check_shape(plan)?;
        let plan_digest = plan.digest();
        if !is_proven && !possession_holds(&plan_digest, &[(dealer, digest, dealing)]) {
            return Err(DealingError::Possession);
        }
        Ok(Self { plan: plan_digest, dealer, digest, dealing: Arc::new(dealing.clone()) })
    }

    /// Returns the dealer that signed it.
    #[must_use]
    pub fn dealer(&self) -> NodeIndex {
        self.dealer
    }

    /// Returns the digest of the message that carried it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the commitments.
    #[must_use]
    pub fn vector(&self) -> &VerificationVector {
        &self.dealing.vector
    }

    /// Returns the public half of the secret under which it is sealed.
    #[must_use]
    pub fn ephemeral(&self) -> Ephemeral {
        self.dealing.ephemeral
    }

    /// Tells whether the dealer deals its share of the source.
    pub(super) fn deals_its_share_of(&self, source: &VerificationVector) -> bool {
        source.public_share(self.dealer) == self.dealing.vector.constant()
    }

    /// Opens the share of `receiver`.
    ///
    /// # Errors
    /// When nothing was sealed to the receiver, the secret is another one, or the share is bad.
    pub fn open(
        &self,
        plan: &ValidPlan,
        receiver: NodeIndex,
        secret: &PrekeySecret,
    ) -> Result<SecretScalar, OpenError> {
        let share = self.unseal(plan, receiver, secret)?;
        if self.dealing.vector.matches(receiver, &share) { Ok(share) } else { Err(OpenError::BadShare) }
    }

    /// Opens the shares of `receiver` in many bundles with one check for all; in the bundles' order.
    ///
    /// # Errors
    /// The dealers whose shares are bad, or no dealer where the receiver itself lacks its secret.
    pub fn open_all(
        bundles: &[&Self],
        plan: &ValidPlan,
        receiver: NodeIndex,
        secret: &PrekeySecret,
    ) -> Result<Vec<SecretScalar>, Vec<NodeIndex>> {
        // Never grown: what a vector leaves behind when it moves is not wiped.
        let mut shares = Vec::with_capacity(bundles.len());
        for bundle in bundles {
            shares.push(bundle.unseal(plan, receiver, secret).map_err(|_| Vec::new())?);
        }
        let claims: Vec<_> = bundles.iter().map(|bundle| bundle.digest.0).collect();
        let claims: Vec<_> = claims.iter().map(<[u8; 32]>::as_slice).collect();
        let seed = Digest::of("KEYFLEET-V2-SHARES", &claims);
        let weights: Vec<_> = Weights::of(seed.0).take(bundles.len()).collect();
        let public: Vec<_> = bundles.iter().map(|bundle| bundle.vector().public_share(receiver)).collect();
        let sum = shares
            .iter()
            .zip(&weights)
            .fold(SecretScalar::zero(), |sum, (share, weight)| sum.plus(&share.scaled(&weight.scalar())));
        if G2::of_secret(&sum) == G2::weighted_sum(&public, &weights) {
            return Ok(shares);
        }
        let bad = |(bundle, share): &(&&Self, &SecretScalar)| !bundle.vector().matches(receiver, share);
        let bad: Vec<_> = bundles.iter().zip(&shares).filter(bad).map(|(bundle, _)| bundle.dealer).collect();
        assert!(!bad.is_empty(), "a sum is wrong only where a summand is");
        Err(bad)
    }

    /// Complains about the share of `receiver`, if it is bad. The complaint is judged before it leaves, as everyone will, by a bundle
    /// that is read again from the bytes that its digest names: a bit that flipped in this node's memory must not publish anything.
    #[must_use]
    pub fn complain(&self, plan: &ValidPlan, receiver: NodeIndex, secret: &PrekeySecret) -> Option<Complaint> {
        if !matches!(self.open(plan, receiver, secret), Err(OpenError::BadShare)) {
            return None;
        }
        let signed = self.read_again()?;
        let key = secret.shared_with(&signed.dealing.ephemeral.g1).disclose();
        let complaint = Complaint { dealer: self.dealer, bundle: self.digest, key };
        (signed.judge(plan, receiver, &complaint) == Guilt::Dealer).then_some(complaint)
    }

    /// Reads the bundle from its bytes, if these are the ones that its dealer signed.
    fn read_again(&self) -> Option<Self> {
        let mut body = Writer::default();
        self.dealing.write(&mut body);
        let dealing = Reader::whole(&body.finish(), Dealing::read).ok()?;
        let body = Body::Dealing(dealing);
        let is_signed = digest_of(&self.plan, self.dealer, &body) == self.digest;
        match body {
            Body::Dealing(dealing) if is_signed => Some(Self { dealing: Arc::new(dealing), ..self.clone() }),
            _ => None,
        }
    }

    /// Judges a complaint of `receiver` about this very bundle.
    pub(super) fn judge(&self, plan: &ValidPlan, receiver: NodeIndex, complaint: &Complaint) -> Guilt {
        #[cfg(test)]
        tests::JUDGED.with(|judged| judged.set(judged.get() + 1));
        assert!(complaint.dealer == self.dealer && complaint.bundle == self.digest, "a complaint about another bundle");
        let Some((prekey, sealed)) = self.sealed_to(plan, receiver) else { return Guilt::Complainer };
        // e(K, g2) = e(PK, E2): K is the one value that this receiver shares with this dealer.
        let minus = -Scalar::one();
        let pairs = [(complaint.key, G2::generator()), (prekey.times(&minus), self.dealing.ephemeral.g2)];
        if !pairings_cancel(&pairs) {
            return Guilt::Complainer;
        }
        let share = self.context().open_disclosed(&sealed, receiver, &prekey, &complaint.key);
        if self.dealing.vector.matches(receiver, &share) { Guilt::Complainer } else { Guilt::Dealer }
    }

    fn unseal(&self, plan: &ValidPlan, receiver: NodeIndex, secret: &PrekeySecret) -> Result<SecretScalar, OpenError> {
        let (prekey, sealed) = self.sealed_to(plan, receiver).ok_or(OpenError::NoPrekey)?;
        if secret.public() != prekey {
            return Err(OpenError::OtherSecret);
        }
        let shared = secret.shared_with(&self.dealing.ephemeral.g1);
        Ok(self.context().open(&sealed, receiver, &prekey, &shared))
    }

    /// Returns the receiver's prekey in the plan and what is sealed to it.
    fn sealed_to(&self, plan: &ValidPlan, receiver: NodeIndex) -> Option<(G1, Scalar)> {
        assert_eq!(self.plan, plan.digest(), "a bundle is opened under its own plan");
        let at = plan.receivers.iter().position(|listed| listed.index == receiver)?;
        Some((plan.receivers[at].prekey?.key, self.dealing.shares[at]?))
    }

    fn context(&self) -> PadContext {
        PadContext {
            plan: self.plan,
            dealer: self.dealer,
            commitments: self.dealing.vector.digest(),
            ephemeral: self.dealing.ephemeral.g1,
        }
    }
}

/// Opens, with its dealer's own seed, every share of the bundle that a message carries, read from the bytes that would leave: what was
/// signed is what was checked, whatever flipped on the way.
///
/// # Errors
/// When the bytes are no bundle, or one that does not open to the polynomial that it commits to.
pub(super) fn opens(seed: &DealerSeed, plan: &ValidPlan, message: &[u8]) -> Result<(), FaultyDealing> {
    let message = SignedMessage::decode(message).map_err(|_| FaultyDealing)?;
    let (dealer, Body::Dealing(dealing)) = (message.sender, &message.body) else { return Err(FaultyDealing) };
    dealing.check_shape(plan).map_err(|_| FaultyDealing)?;
    let plan_digest = plan.digest();
    let secret = seed.ephemeral(&plan_digest, dealer);
    let (commitments, ephemeral) = (dealing.vector.digest(), dealing.ephemeral.g1);
    let context = PadContext { plan: plan_digest, dealer, commitments, ephemeral };
    let mut opened = Vec::with_capacity(plan.receivers.len());
    for (receiver, sealed) in plan.receivers.iter().zip(&dealing.shares) {
        let (Some(prekey), Some(sealed)) = (receiver.prekey, sealed) else { continue };
        let shared = SecretPoint::shared(&prekey.key, &secret);
        opened.push((receiver.index, context.open(sealed, receiver.index, &prekey.key, &shared)));
    }
    if dealing.opens_to(&opened) { Ok(()) } else { Err(FaultyDealing) }
}

/// Checks, with one product of pairings, what each bundle proves:
/// e(E1, g2) = e(g1, E2), e(Ē, g2) = e(H_seal(M), E2), and at genesis e(P, g2) = e(H_deal, C\[0\]).
pub(super) fn possession_holds(plan: &Digest, claims: &[(NodeIndex, Digest, &Dealing)]) -> bool {
    let digests: Vec<_> = claims.iter().map(|(_, digest, _)| digest.0.as_slice()).collect();
    let mut weights = Weights::of(Digest::of("KEYFLEET-V2-BATCH", &digests).0);
    let mut weight = || weights.next().expect("weights never end");
    let (mut left, mut left_weights, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    for (dealer, _, dealing) in claims {
        let (of_point, of_seal) = (weight(), weight());
        left.extend([dealing.ephemeral.g1, dealing.possession]);
        left_weights.extend([of_point, of_seal]);
        let statement = dealing.statement(plan, *dealer);
        pairs.push((G1::weighted_sum(&[G1::generator(), statement], &[of_point, of_seal]), dealing.ephemeral.g2));
        if let Some(proof) = dealing.proof {
            let of_constant = weight();
            left.push(proof);
            left_weights.push(of_constant);
            let statement = constant_statement(plan, *dealer, &dealing.vector);
            pairs.push((G1::weighted_sum(&[statement], &[of_constant]), dealing.vector.constant()));
        }
    }
    let minus = -Scalar::one();
    pairs.push((G1::weighted_sum(&left, &left_weights).times(&minus), G2::generator()));
    pairings_cancel(&pairs)
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::round::Body;
    use crate::round::tests::{deal, dealt, genesis_plan, index, say, shifted};

    thread_local! {
        /// Judgements of this test so far: each costs a pairing.
        pub(in crate::round) static JUDGED: Cell<usize> = const { Cell::new(0) };
    }

    /// A bit that flips in a node's memory makes an honest bundle look bad. What the complaint would disclose is what an honest
    /// receiver shares with an honest dealer.
    #[test]
    fn a_bundle_that_changed_in_memory_is_not_complained_about() {
        let (plan, secrets) = genesis_plan();
        let transcript = dealt(&plan, &[say(&plan, 3, Body::Dealing(deal(&plan, 3)))]);
        let victim = index(5);
        let at = plan.receivers.iter().position(|receiver| receiver.index == victim).unwrap();
        let honest = transcript.bundle_of(index(3)).unwrap();
        let changed = |change: &dyn Fn(&mut Dealing)| {
            let mut bundle = honest.clone();
            change(Arc::make_mut(&mut bundle.dealing));
            bundle.complain(&plan, victim, &secrets[&victim])
        };
        let share = changed(&|dealing| dealing.shares[at] = dealing.shares[at].map(|share| share + Scalar::one()));
        assert_eq!(share, None, "after a flip in the sealed share");
        let commitments = changed(&|dealing| dealing.vector = deal(&plan, 2).vector);
        assert_eq!(commitments, None, "after a flip in the commitments");
        let ephemeral = changed(&|dealing| dealing.ephemeral = deal(&plan, 2).ephemeral);
        assert_eq!(ephemeral, None, "after a flip in the ephemeral point");
        let bad = dealt(&plan, &[say(&plan, 3, Body::Dealing(shifted(&plan, 3, victim, Scalar::one())))]);
        let complaint = bad.bundle_of(index(3)).unwrap().complain(&plan, victim, &secrets[&victim]);
        assert!(complaint.is_some(), "a bundle that its dealer made bad is complained about");
    }
}
