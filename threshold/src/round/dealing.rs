//! Dealing: a polynomial, its commitments, and one sealed share per receiver (Feldman 1987; Pedersen 1991).
//!
//! | | genesis | reshare |
//! |---|---|---|
//! | f_d(0) | random | the dealer's share of the source epoch |
//! | proof | possession of f_d(0), bound to plan, dealer and commitments | none |
//! | C_d\[0\] | checked by the proof | equals the dealer's public share of the source |
//!
//! Without the proof a dealer who speaks last could choose C_d\[0\] to cancel the others' and own the key alone (Komlo and
//! Goldberg 2020, §4). Every bundle also proves possession of the ephemeral secret under which its shares are sealed, over the
//! whole bundle: a dealer that copied or shifted another's ephemeral point could otherwise have a complaint about its own bundle
//! open the other's (Shoup and Gennaro 2002). Everything random comes from the round's seed and the plan's digest, so a dealer
//! that restarts says byte-identical messages.

use hkdf::Hkdf;
use rand_core::CryptoRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::pad::PadContext;
use crate::curve::{G1, G2, HashDomain, Scalar, SecretPoint, SecretScalar};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::{Digest, NodeIndex};
use crate::plan::{MEMBERS_MAX, Origin, ValidPlan};
use crate::polynomial::{Polynomial, VerificationVector};
use crate::weights::Weights;

/// A dealer's bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dealing {
    /// Commitments to the dealer's polynomial, exactly t of them.
    pub vector: VerificationVector,
    /// P: possession of f_d(0), at genesis only.
    pub proof: Option<G1>,
    /// E1 and E2.
    pub ephemeral: Ephemeral,
    /// One sealed share per receiver, in the plan's order; `None` exactly where the plan has no prekey.
    pub shares: Vec<Option<Scalar>>,
    /// Ē: possession of e, over everything before it.
    pub possession: G1,
}

/// The public half of a bundle's ephemeral secret e, in both groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ephemeral {
    /// E1 = e·g1.
    pub g1: G1,
    /// E2 = e·g2.
    pub g2: G2,
}

/// The seed of one dealer in one round. Durable before the bundle leaves; destroyed when the round ends.
pub struct DealerSeed(Zeroizing<[u8; 32]>);

impl DealerSeed {
    /// Draws a fresh seed.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self(seed)
    }

    /// Takes up a stored seed.
    #[must_use]
    pub fn restore(seed: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*seed))
    }

    /// Returns the seed: for wrapping into the node's two key stores, and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Derives coefficient j of the polynomial.
    fn coefficient(&self, plan: &Digest, dealer: NodeIndex, j: u16) -> SecretScalar {
        self.derive(b"KEYFLEET-V2-POLYNOMIAL", plan, dealer, &j.to_be_bytes())
    }

    /// Derives the ephemeral secret e, which is not zero.
    pub(super) fn ephemeral(&self, plan: &Digest, dealer: NodeIndex) -> SecretScalar {
        let labels = std::iter::once(Vec::new()).chain((1..=u8::MAX).map(|again| vec![again]));
        let mut candidates = labels.map(|again| self.derive(b"KEYFLEET-V2-EPHEMERAL", plan, dealer, &again));
        candidates.find(|secret| !secret.is_zero()).expect("256 hashes are not all zero")
    }

    /// Expands the seed, which is uniform and needs no extraction (RFC 5869 §3.3), to a scalar.
    fn derive(&self, label: &[u8], plan: &Digest, dealer: NodeIndex, rest: &[u8]) -> SecretScalar {
        let mut info = Writer::default();
        info.raw(label).digest(plan).index(dealer).raw(rest);
        let mut wide = Zeroizing::new([0; 64]);
        Hkdf::<Sha256>::from_prk(self.0.as_ref())
            .expect("32 bytes are a key of SHA-256")
            .expand(&info.finish(), wide.as_mut())
            .expect("64 bytes are within HKDF's limit");
        SecretScalar::from_wide(&wide)
    }
}

/// Defect of a bundle that everyone who reads it sees. The dealer is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DealingError {
    /// Not exactly t commitments.
    #[error("the bundle commits to {found} coefficients, the threshold is {expected}")]
    Threshold {
        /// Commitments in the bundle.
        found: usize,
        /// The plan's threshold.
        expected: usize,
    },
    /// Not one sealed share for each receiver with a prekey, and none for the others.
    #[error("the bundle does not seal one share to each receiver that has a prekey")]
    Shares,
    /// The proof for the constant term is missing at a genesis, or there at a reshare.
    #[error("the proof for the constant term is missing or out of place")]
    Proof,
    /// The ephemeral points do not belong together, or the dealer does not know a secret of the bundle.
    #[error("the dealer does not prove possession of the secrets of its bundle")]
    Possession,
    /// On reshare: the dealer does not deal its share of the source.
    #[error("the constant term is not the dealer's public share of the source epoch")]
    NotItsShare,
}

/// A bundle that its own dealer computed does not pass its own check: the machine is faulty. The bundle must not be said, since
/// a wrong bit in a sealed share could be the only thing that hides the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bundle that this node computed is wrong: its processor or memory is faulty")]
pub struct FaultyDealing;

impl Dealing {
    /// Deals: `constant` is the dealer's share of the source on reshare, `None` at genesis. A bundle that is to leave is
    /// opened first, from its signed bytes.
    #[must_use]
    pub fn deal(plan: &ValidPlan, dealer: NodeIndex, constant: Option<&SecretScalar>, seed: &DealerSeed) -> Self {
        let digest = plan.digest();
        let polynomial = polynomial(plan, dealer, constant, seed);
        let vector = polynomial.vector();
        let proof = matches!(plan.origin, Origin::Genesis)
            .then(|| constant_statement(&digest, dealer, &vector).times_secret(polynomial.constant()));
        let secret = seed.ephemeral(&digest, dealer);
        let ephemeral = Ephemeral { g1: G1::generator().times_secret(&secret), g2: G2::of_secret(&secret) };
        let context = PadContext { plan: digest, dealer, commitments: vector.digest(), ephemeral: ephemeral.g1 };
        let shares = plan.receivers.iter().map(|receiver| {
            receiver.prekey.map(|prekey| {
                let shared = SecretPoint::shared(&prekey.key, &secret);
                context.seal(&polynomial.share_of(receiver.index), receiver.index, &prekey.key, &shared)
            })
        });
        let shares = shares.collect();
        let mut dealing = Self { vector, proof, ephemeral, shares, possession: G1::generator() };
        dealing.possession = dealing.statement(&digest, dealer).times_secret(&secret);
        #[cfg(test)]
        tests::strike(&mut dealing);
        dealing
    }

    /// Checks everything that the plan fixes about a bundle's shape: the cheap half of a bundle's check.
    pub(super) fn check_shape(&self, plan: &ValidPlan) -> Result<(), DealingError> {
        let (found, expected) = (self.vector.commitments().len(), plan.threshold.count());
        if found != expected {
            return Err(DealingError::Threshold { found, expected });
        }
        let sealed = self.shares.iter().map(Option::is_some);
        if !sealed.eq(plan.receivers.iter().map(|receiver| receiver.prekey.is_some())) {
            return Err(DealingError::Shares);
        }
        if self.proof.is_some() != matches!(plan.origin, Origin::Genesis) {
            return Err(DealingError::Proof);
        }
        Ok(())
    }

    /// Returns H_seal(M), to which possession multiplies e: M is the plan's digest, the dealer and the bundle up to Ē.
    pub(super) fn statement(&self, plan: &Digest, dealer: NodeIndex) -> G1 {
        let mut out = Writer::default();
        out.digest(plan).index(dealer);
        self.write_claims(&mut out);
        G1::hash(&out.finish(), HashDomain::Seal)
    }

    /// Checks opened shares against the commitments, all at once: s = f(i) for each.
    pub(super) fn opens_to(&self, opened: &[(NodeIndex, SecretScalar)]) -> bool {
        let weights = Weights::of(self.vector.digest().0);
        let mut sum = SecretScalar::zero();
        let mut combination = vec![Scalar::default(); self.vector.commitments().len()];
        for ((index, share), weight) in opened.iter().zip(weights) {
            let (x, mut power) = (Scalar::from_u64(u64::from(index.value())), weight.scalar());
            sum = sum.plus(&share.scaled(&power));
            for coefficient in &mut combination {
                *coefficient = *coefficient + power;
                power = power * x;
            }
        }
        G2::of_secret(&sum) == G2::sum_of_products(self.vector.commitments(), &combination)
    }

    /// Writes the body of the message: the claims, then Ē.
    pub(super) fn write(&self, out: &mut Writer) {
        self.write_claims(out);
        out.raw(&self.possession.encode());
    }

    fn write_claims(&self, out: &mut Writer) {
        self.vector.write(out);
        out.option(self.proof.as_ref(), |out, proof| {
            out.raw(&proof.encode());
        });
        out.raw(&self.ephemeral.g1.encode()).raw(&self.ephemeral.g2.encode());
        out.list(&self.shares, |out, share| {
            out.option(share.as_ref(), |out, share| {
                out.raw(&share.encode());
            });
        });
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            vector: VerificationVector::read(reader)?,
            proof: reader.option("proof", |reader| reader.g1("proof"))?,
            ephemeral: Ephemeral { g1: reader.g1("ephemeral point")?, g2: reader.g2("ephemeral point")? },
            shares: reader.short_list("shares", MEMBERS_MAX, |reader| {
                reader.option("sealed share", |reader| reader.scalar("sealed share"))
            })?,
            possession: reader.g1("possession")?,
        })
    }
}

/// Returns H_deal, to which the proof of a genesis multiplies f_d(0).
pub(super) fn constant_statement(plan: &Digest, dealer: NodeIndex, vector: &VerificationVector) -> G1 {
    let mut out = Writer::default();
    out.digest(plan).index(dealer);
    vector.write(&mut out);
    G1::hash(&out.finish(), HashDomain::Deal)
}

fn polynomial(plan: &ValidPlan, dealer: NodeIndex, constant: Option<&SecretScalar>, seed: &DealerSeed) -> Polynomial {
    let digest = plan.digest();
    let constant = constant.map_or_else(|| seed.coefficient(&digest, dealer, 0), SecretScalar::duplicate);
    let others = (1..plan.threshold.0).map(|j| seed.coefficient(&digest, dealer, j));
    // Never grown: what a vector leaves behind when it moves is not wiped.
    let mut coefficients = Vec::with_capacity(plan.threshold.count());
    coefficients.extend(std::iter::once(constant).chain(others));
    Polynomial::new(coefficients)
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::round::tests::genesis_plan;

    thread_local! {
        /// True while the memory of this test is faulty.
        pub(in crate::round) static FAULTY: Cell<bool> = const { Cell::new(false) };
    }

    /// Flips a bit of the first sealed share, after the sealing, where memory is faulty.
    pub(super) fn strike(dealing: &mut Dealing) {
        if FAULTY.get() {
            dealing.shares[0] = dealing.shares[0].map(|share| share + Scalar::one());
        }
    }

    /// A bit that flips between computing and saying is found before anybody hears of it.
    #[test]
    fn a_dealer_notices_its_own_flipped_bit() {
        let (plan, _) = genesis_plan();
        let dealer = plan.receivers[0].index;
        let seed = DealerSeed::restore(&[7; 32]);
        let dealing = Dealing::deal(&plan, dealer, None, &seed);
        let shares = || {
            let polynomial = polynomial(&plan, dealer, None, &seed);
            plan.receivers.iter().map(move |receiver| (receiver.index, polynomial.share_of(receiver.index)))
        };
        assert!(dealing.opens_to(&shares().collect::<Vec<_>>()));
        for at in 0..plan.receivers.len() {
            let mut flipped: Vec<_> = shares().collect();
            flipped[at].1 = flipped[at].1.plus(
                &SecretScalar::decode(&{
                    let mut one = [0; 32];
                    one[31] = 2;
                    one
                })
                .unwrap(),
            );
            assert!(!dealing.opens_to(&flipped), "a wrong share {at} went unnoticed");
        }
    }
}
