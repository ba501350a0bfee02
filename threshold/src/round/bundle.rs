//! Bundles whose dealer is known to have made them, and the only things that one may do with its own share of such a bundle.
//!
//! Everything that protects an honest dealer stands here: a [`VerifiedBundle`] exists only under the dealer that signed it and
//! that proved possession of the secret under which it is sealed. It is opened, complained about and judged under *that* dealer,
//! whatever a record says. An honest dealer's bundle always opens to the committed share, so nobody ever publishes what it shares
//! with an honest dealer.

use std::sync::Arc;

use super::dealing::{Dealing, DealingError, Ephemeral, constant_statement};
use super::message::Complaint;
use super::pad::PadContext;
use crate::curve::{G1, G2, Scalar, SecretScalar, pairings_cancel};
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
        let shares = bundles.iter().map(|bundle| bundle.unseal(plan, receiver, secret));
        let shares: Vec<_> = shares.collect::<Result<_, _>>().map_err(|_| Vec::new())?;
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

    /// Complains about the share of `receiver`, if it is bad. The complaint is judged before it leaves, as everyone will: a bit
    /// that flipped in this node's memory must not publish anything.
    #[must_use]
    pub fn complain(&self, plan: &ValidPlan, receiver: NodeIndex, secret: &PrekeySecret) -> Option<Complaint> {
        if !matches!(self.open(plan, receiver, secret), Err(OpenError::BadShare)) {
            return None;
        }
        let key = secret.shared_with(&self.dealing.ephemeral.g1).disclose();
        let complaint = Complaint { dealer: self.dealer, bundle: self.digest, key };
        (self.judge(plan, receiver, &complaint) == Guilt::Dealer).then_some(complaint)
    }

    /// Judges a complaint of `receiver` about this very bundle.
    pub(super) fn judge(&self, plan: &ValidPlan, receiver: NodeIndex, complaint: &Complaint) -> Guilt {
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
