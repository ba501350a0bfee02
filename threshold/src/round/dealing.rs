//! Dealing: a polynomial, its commitments, and one sealed share per receiver (Feldman 1987; Pedersen 1991).
//!
//! | | genesis | reshare |
//! |---|---|---|
//! | f_d(0) | random | the dealer's share of the source epoch |
//! | proof | Schnorr proof of knowledge of f_d(0), bound to plan and dealer | none |
//! | C_d\[0\] | checked by the proof | equals the dealer's public share of the source |
//!
//! Without the proof a dealer who speaks last could choose C_d\[0\] to cancel the others' and own the key alone (Komlo and
//! Goldberg 2020, §4). Everything random comes from the round's seed and the plan's digest, so a dealer that restarts says
//! byte-identical messages.

use std::collections::BTreeMap;

use hkdf::Hkdf;
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, SeedableRng};
use sha2::{Digest as _, Sha256, Sha512};
use zeroize::Zeroizing;

use crate::curve::{G2, Scalar, SecretScalar};
use crate::encoding::Writer;
use crate::identifiers::{Digest, NodeIndex};
use crate::plan::{Origin, ValidPlan};
use crate::polynomial::{Polynomial, VerificationVector};
use crate::prekey::{self, PrekeySet, SealedShare, SlotKey};

/// A dealer's bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dealing {
    /// Commitments to the dealer's polynomial, exactly t of them.
    pub vector: VerificationVector,
    /// Proof of knowledge of f_d(0): at genesis only.
    pub proof: Option<Proof>,
    /// One sealed share per receiver, in the plan's order.
    pub shares: Vec<SealedShare>,
}

/// A Schnorr proof of knowledge: R = k·g2 and s = k + c·x, with c hashed from plan, dealer, C\[0\] and R.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    /// R.
    pub commitment: G2,
    /// s.
    pub response: Scalar,
}

/// The seed of one dealer in one round. Durable before the bundle leaves; destroyed when the round ends.
pub struct DealerSeed(Zeroizing<[u8; 32]>);

impl DealerSeed {
    /// A fresh seed.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self(seed)
    }

    /// A stored seed.
    #[must_use]
    pub fn restore(seed: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*seed))
    }

    /// The seed: for wrapping into the node's two key stores, and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// All randomness of this dealer in this round.
    fn stream(&self, plan: &Digest, dealer: NodeIndex) -> ChaCha20Rng {
        let mut info = Writer::default();
        info.raw(b"KEYFLEET-V1-DEALER").digest(plan).index(dealer);
        let mut seed = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, self.0.as_ref())
            .expand(&info.finish(), seed.as_mut())
            .expect("32 bytes are within HKDF's limit");
        ChaCha20Rng::from_seed(*seed)
    }
}

/// Defect of a bundle that everyone who reads it sees. The dealer is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DealingError {
    /// The polynomial has another degree than the plan says.
    #[error("the bundle commits to {found} coefficients, the threshold is {expected}")]
    Threshold {
        /// Commitments in the bundle.
        found: usize,
        /// The plan's threshold.
        expected: usize,
    },
    /// Not one sealed share per receiver.
    #[error("the bundle seals {found} shares for {expected} receivers")]
    ShareCount {
        /// Shares in the bundle.
        found: usize,
        /// Receivers in the plan.
        expected: usize,
    },
    /// The proof of knowledge is missing, out of place, or wrong.
    #[error("the proof of knowledge is missing, out of place or wrong")]
    Proof,
    /// On reshare: the dealer does not deal its share of the source.
    #[error("the constant term is not the dealer's public share of the source epoch")]
    NotItsShare,
    /// The sender may not deal in this plan.
    #[error("the sender is no dealer of this plan")]
    NotADealer,
}

impl Dealing {
    /// Deals: `constant` is the dealer's share of the source on reshare, `None` at genesis.
    ///
    /// `prekeys` holds the set of every receiver of the plan, with a slot for every dealer. A receiver whose key is
    /// degenerate gets [`SealedShare::IMPOSSIBLE`]; its complaint will be judged against itself.
    ///
    /// # Panics
    /// When a receiver's set is missing or too small: callers check that first.
    #[must_use]
    pub fn deal(
        plan: &ValidPlan,
        dealer: NodeIndex,
        constant: Option<&SecretScalar>,
        prekeys: &BTreeMap<NodeIndex, PrekeySet>,
        seed: &DealerSeed,
    ) -> Self {
        let digest = plan.digest();
        let slot = plan.slot_of(dealer).expect("only dealers of the plan deal");
        let mut rng = seed.stream(&digest, dealer);
        let constant = constant.map_or_else(|| SecretScalar::random(&mut rng), SecretScalar::duplicate);
        let polynomial = Polynomial::random(constant, plan.threshold, &mut rng);
        let vector = polynomial.vector();
        let proof = matches!(plan.origin, Origin::Genesis)
            .then(|| Proof::prove(&digest, dealer, polynomial.constant(), &vector.constant(), &mut rng));
        let seal = |receiver: NodeIndex, rng: &mut ChaCha20Rng| {
            let share = polynomial.share_of(receiver).expose();
            let public = &prekeys[&receiver].slots[slot];
            prekey::seal(public, &share, &associated_data(&digest, dealer, receiver), rng)
                .unwrap_or(SealedShare::IMPOSSIBLE)
        };
        let shares = plan.receivers.iter().map(|receiver| seal(receiver.index, &mut rng)).collect();
        Self { vector, proof, shares }
    }

    /// Checks all that anyone can check without a key.
    ///
    /// # Errors
    /// The first fault found; the dealer is the culprit.
    pub fn check(
        &self,
        plan: &ValidPlan,
        dealer: NodeIndex,
        source: Option<&VerificationVector>,
    ) -> Result<(), DealingError> {
        plan.slot_of(dealer).ok_or(DealingError::NotADealer)?;
        let found = self.vector.commitments().len();
        if found != plan.threshold.count() {
            return Err(DealingError::Threshold { found, expected: plan.threshold.count() });
        }
        if self.shares.len() != plan.receivers.len() {
            return Err(DealingError::ShareCount { found: self.shares.len(), expected: plan.receivers.len() });
        }
        match (&plan.origin, &self.proof) {
            (Origin::Genesis, Some(proof)) if proof.verify(&plan.digest(), dealer, &self.vector.constant()) => Ok(()),
            (Origin::Genesis, _) | (Origin::Reshare { .. }, Some(_)) => Err(DealingError::Proof),
            (Origin::Reshare { .. }, None) => {
                let own = source.map(|source| source.public_share(dealer));
                if own == Some(self.vector.constant()) { Ok(()) } else { Err(DealingError::NotItsShare) }
            }
        }
    }

    /// Opens the share of `receiver` with its key for this dealer's slot and checks it against the commitments.
    ///
    /// `None` is the dealer's fault, unless the receiver's public key was degenerate.
    #[must_use]
    pub fn open(
        &self,
        plan: &ValidPlan,
        digest: &Digest,
        dealer: NodeIndex,
        receiver: NodeIndex,
        key: &SlotKey,
    ) -> Option<SecretScalar> {
        let position = plan.receivers.iter().position(|listed| listed.index == receiver)?;
        let bytes = prekey::open(key, self.shares.get(position)?, &associated_data(digest, dealer, receiver))?;
        let share = SecretScalar::decode(&bytes).ok()?;
        self.vector.matches(receiver, &share).then_some(share)
    }
}

impl Proof {
    fn prove(plan: &Digest, dealer: NodeIndex, secret: &SecretScalar, public: &G2, rng: &mut impl CryptoRng) -> Self {
        let nonce = SecretScalar::random(rng);
        let commitment = G2::of_secret(&nonce);
        let challenge = challenge(plan, dealer, public, &commitment);
        Self { commitment, response: nonce.plus(&secret.scaled(&challenge)).disclose() }
    }

    /// s·g2 = R + c·C\[0\].
    fn verify(&self, plan: &Digest, dealer: NodeIndex, public: &G2) -> bool {
        let challenge = challenge(plan, dealer, public, &self.commitment);
        G2::generator().times(&self.response) == self.commitment.plus(&public.times(&challenge))
    }
}

fn challenge(plan: &Digest, dealer: NodeIndex, public: &G2, commitment: &G2) -> Scalar {
    let mut hash = Sha512::new();
    hash.update(b"KEYFLEET-V1-PROOF\0");
    hash.update(plan.0);
    hash.update(dealer.value().to_be_bytes());
    hash.update(public.encode());
    hash.update(commitment.encode());
    Scalar::from_wide(&hash.finalize().into())
}

/// Binds a sealed share to its round and its two ends; the plan names the receiver's prekey set.
fn associated_data(plan: &Digest, dealer: NodeIndex, receiver: NodeIndex) -> Vec<u8> {
    let mut out = Writer::default();
    out.digest(plan).index(dealer).index(receiver);
    out.finish()
}
