//! Sharing polynomials, their public verification vectors (Feldman 1987), and interpolation at zero (Shamir 1979).
//!
//! A dealer's polynomial f has degree t−1; node i's share is f(i); the vector commits to the coefficients as
//! C_j = f_j·g2, so that anyone checks a share s against Σ C_j·iʲ = s·g2.

use std::collections::BTreeSet;

use rand_core::CryptoRng;

use crate::curve::{CurveError, G2, Scalar, SecretScalar};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::{Digest, NodeIndex, Threshold};
use crate::plan::MEMBERS_MAX;

/// A secret polynomial of degree t−1 over the scalars.
pub struct Polynomial {
    coefficients: Vec<SecretScalar>,
}

impl Polynomial {
    /// Wraps coefficients, constant term first.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn new(coefficients: Vec<SecretScalar>) -> Self {
        assert!(!coefficients.is_empty(), "a polynomial has a constant term");
        Self { coefficients }
    }

    /// Draws a polynomial with f(0) = `constant` and the other t−1 coefficients random.
    pub fn random(constant: SecretScalar, threshold: Threshold, rng: &mut impl CryptoRng) -> Self {
        // Never grown: what a vector leaves behind when it moves is not wiped.
        let mut coefficients = Vec::with_capacity(threshold.count());
        coefficients.push(constant);
        coefficients.extend((1..threshold.count()).map(|_| SecretScalar::random(rng)));
        Self { coefficients }
    }

    /// Returns f(0): at genesis one summand of the key, on reshare the dealer's share of the source epoch.
    #[must_use]
    pub fn constant(&self) -> &SecretScalar {
        &self.coefficients[0]
    }

    /// Returns the share of the node at `index`, in constant time.
    #[must_use]
    pub fn share_of(&self, index: NodeIndex) -> SecretScalar {
        let x = Scalar::from_u64(u64::from(index.value()));
        self.coefficients.iter().rev().fold(SecretScalar::zero(), |sum, coefficient| sum.scaled(&x).plus(coefficient))
    }

    /// Commits to all coefficients.
    #[must_use]
    pub fn vector(&self) -> VerificationVector {
        VerificationVector(self.coefficients.iter().map(G2::of_secret).collect())
    }
}

/// The public commitments to a sharing polynomial: of one dealer, or of a whole epoch.
///
/// Of an epoch's vector the constant term is the cluster's public key; its digest is what nodes sign and compare, because
/// comparing public keys does not notice that two nodes ended on different polynomials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerificationVector(Vec<G2>);

impl VerificationVector {
    /// Wraps commitments, constant term first.
    ///
    /// # Errors
    /// [`CurveError::Infinity`] when the list is empty or a commitment is infinity: no honest sharing looks like that.
    pub fn new(commitments: Vec<G2>) -> Result<Self, CurveError> {
        if commitments.is_empty() || commitments.iter().any(G2::is_infinity) {
            return Err(CurveError::Infinity);
        }
        Ok(Self(commitments))
    }

    /// Returns the commitments, constant term first.
    #[must_use]
    pub fn commitments(&self) -> &[G2] {
        &self.0
    }

    /// Returns the threshold of the sharing: the number of commitments.
    #[must_use]
    pub fn threshold(&self) -> Threshold {
        Threshold(u16::try_from(self.0.len()).expect("vectors are built from lists with a 16-bit count"))
    }

    /// Returns the commitment to f(0): of an epoch, the public key.
    #[must_use]
    pub fn constant(&self) -> G2 {
        self.0[0]
    }

    /// Returns the public share of the node at `index`.
    #[must_use]
    pub fn public_share(&self, index: NodeIndex) -> G2 {
        G2::evaluate(&self.0, index.value())
    }

    /// Returns true if `share` is f(`index`).
    #[must_use]
    pub fn matches(&self, index: NodeIndex, share: &SecretScalar) -> bool {
        self.public_share(index) == G2::of_secret(share)
    }

    /// Computes `Σ weightₖ · vectorₖ`, coefficient by coefficient.
    ///
    /// # Errors
    /// [`CurveError::Infinity`] when a coefficient of the sum vanishes, which needs dealers who know each other's secrets.
    ///
    /// # Panics
    /// When the vectors differ in threshold or the weights in number: callers have checked both.
    pub fn combine(vectors: &[&Self], weights: &[Scalar]) -> Result<Self, CurveError> {
        let length = vectors.first().map_or(0, |vector| vector.0.len());
        assert!(vectors.iter().all(|vector| vector.0.len() == length), "vectors of one round have one threshold");
        let sum = |j: usize| {
            let column: Vec<_> = vectors.iter().map(|vector| vector.0[j]).collect();
            if weights.iter().all(|weight| *weight == Scalar::one()) {
                G2::sum(&column)
            } else {
                G2::sum_of_products(&column, weights)
            }
        };
        Self::new((0..length).map(sum).collect())
    }

    /// Returns the digest that names this vector in plans, `Prepared` messages and certificates.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of("KEYFLEET-V1-VECTOR", &[&self.encode()])
    }

    /// Returns the digest of a vector whose points came as compressed bytes, without a look at what they are; `None` where one has
    /// another length.
    #[must_use]
    pub fn digest_of_encoded(points: &[Vec<u8>]) -> Option<Digest> {
        let points: Vec<&[u8; G2::BYTES]> =
            points.iter().map(|point| point.as_slice().try_into().ok()).collect::<Option<_>>()?;
        let mut out = Writer::default();
        out.list(&points, |out, point| {
            out.raw(*point);
        });
        Some(Digest::of("KEYFLEET-V1-VECTOR", &[&out.finish()]))
    }

    /// Returns the canonical bytes: u16 count, then each commitment (96 bytes compressed).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.finish()
    }

    /// Decodes canonical bytes, checking every point.
    ///
    /// # Errors
    /// When the bytes are not exactly one vector of valid points.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::whole(bytes, Self::read)
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.list(&self.0, |out, point| {
            out.raw(&point.encode());
        });
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let points = reader.short_list("commitments", MEMBERS_MAX, |reader| reader.g2("commitment"))?;
        Self::new(points).map_err(|source| DecodeError::Curve { field: "commitments", source })
    }
}

/// Returns the Lagrange coefficients at zero for distinct `indices`: λ_i = Π_{j≠i} x_j / (x_j − x_i), with a single inversion.
///
/// They depend on the whole set, which is why a round decides its set exactly once.
///
/// # Panics
/// When an index repeats: callers hold ordered sets.
#[must_use]
pub fn lagrange_at_zero(indices: &[NodeIndex]) -> Vec<Scalar> {
    let points: Vec<_> = indices.iter().map(|index| Scalar::from_u64(u64::from(index.value()))).collect();
    let all = points.iter().fold(Scalar::one(), |product, x| product * *x);
    let denominators: Vec<_> = points
        .iter()
        .enumerate()
        .map(|(i, x)| {
            let differences = points.iter().enumerate().filter(|(j, _)| *j != i);
            // λ_i = (Π x_j) / (x_i · Π_{j≠i} (x_j − x_i)).
            differences.fold(*x, |product, (_, other)| product * (*other - *x))
        })
        .collect();
    assert!(denominators.iter().all(|d| *d != Scalar::default()), "interpolation needs distinct indices");
    Scalar::batch_inverse(&denominators).into_iter().map(|inverse| all * inverse).collect()
}

/// Returns the vector of the one polynomial of degree t−1 on which all public shares lie; `None` when they lie on no such
/// polynomial, or when there are fewer than t of them.
///
/// Interpolation in the exponent: with Lagrange's basis polynomials b_i multiplied out, commitment k is Σ_i b_(i,k)·share_i.
/// `shares` have distinct indices.
pub(crate) fn interpolate_vector(shares: &[(NodeIndex, G2)], threshold: Threshold) -> Option<VerificationVector> {
    let (indices, points): (Vec<_>, Vec<_>) = shares.get(..threshold.count())?.iter().copied().unzip();
    if !are_distinct(shares.iter().map(|(index, _)| *index)) {
        return None;
    }
    let bases = basis_polynomials(&indices);
    let commitment = |power: usize| {
        let weights: Vec<_> = bases.iter().map(|basis| basis[power]).collect();
        G2::sum_of_products(&points, &weights)
    };
    let vector = VerificationVector::new((0..threshold.count()).map(commitment).collect()).ok()?;
    shares.iter().all(|(index, share)| vector.public_share(*index) == *share).then_some(vector)
}

fn are_distinct(mut indices: impl Iterator<Item = NodeIndex>) -> bool {
    let mut seen = BTreeSet::new();
    indices.all(|index| seen.insert(index))
}

/// Returns the coefficients of b_i(x) = λ_i · N_i(x) / N_i(0) with N_i(x) = Π_{j≠i} (x − x_j), from x⁰ on. λ_i is b_i(0).
fn basis_polynomials(indices: &[NodeIndex]) -> Vec<Vec<Scalar>> {
    let points: Vec<_> = indices.iter().map(|index| Scalar::from_u64(u64::from(index.value()))).collect();
    let at_zero = lagrange_at_zero(indices);
    (0..indices.len())
        .map(|i| {
            let others: Vec<_> = points.iter().copied().enumerate().filter(|(j, _)| *j != i).map(|(_, x)| x).collect();
            let numerator = with_roots(&others);
            let factor = at_zero[i] * numerator[0].inverse();
            numerator.into_iter().map(|coefficient| coefficient * factor).collect()
        })
        .collect()
}

/// Returns the coefficients of Π (x − r) over all roots r, from x⁰ on.
fn with_roots(roots: &[Scalar]) -> Vec<Scalar> {
    let mut product = vec![Scalar::one()];
    for root in roots {
        // (Σ c_k x^k)·(x − r): each coefficient moves up, less r times itself.
        product.push(Scalar::default());
        for k in (0..product.len()).rev() {
            let below = if k == 0 { Scalar::default() } else { product[k - 1] };
            product[k] = below - *root * product[k];
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;
    use subtle::ConstantTimeEq;

    fn index(i: u32) -> NodeIndex {
        NodeIndex::new(i).unwrap()
    }

    /// seed: 002-08
    #[test]
    fn any_threshold_of_shares_gives_the_constant_back() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let secret = SecretScalar::random(&mut rng);
        let polynomial = Polynomial::random(secret.duplicate(), Threshold(3), &mut rng);
        for set in [[1u32, 2, 3], [1, 3, 7], [2, 40, 65_536]] {
            let indices = set.map(index);
            let sum = indices
                .iter()
                .zip(lagrange_at_zero(&indices))
                .fold(SecretScalar::zero(), |sum, (i, lambda)| sum.plus(&polynomial.share_of(*i).scaled(&lambda)));
            assert!(bool::from(sum.ct_eq(&secret)), "the set {set:?} must interpolate to the secret");
        }
    }

    #[test]
    fn a_share_matches_the_vector_and_no_other_does() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let polynomial = Polynomial::random(SecretScalar::random(&mut rng), Threshold(4), &mut rng);
        let vector = polynomial.vector();
        for i in 1..9 {
            let share = polynomial.share_of(index(i));
            assert!(vector.matches(index(i), &share), "share {i} lies on the committed polynomial");
            assert!(!vector.matches(index(i + 1), &share), "share {i} is not the share of {}", i + 1);
        }
        assert_eq!(VerificationVector::decode(&vector.encode()).unwrap(), vector);
    }

    #[test]
    fn public_shares_interpolate_to_their_vector_or_to_none() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let threshold = Threshold(4);
        let vector = Polynomial::random(SecretScalar::random(&mut rng), threshold, &mut rng).vector();
        let share = |i: u32| (index(i), vector.public_share(index(i)));
        let mut shares: Vec<_> = [2, 3, 5, 8, 21, 22].map(share).to_vec();
        assert_eq!(interpolate_vector(&shares, threshold), Some(vector.clone()));
        assert_eq!(interpolate_vector(&shares[1..5], threshold), Some(vector.clone()), "any four will do");
        assert_eq!(interpolate_vector(&shares[..3], threshold), None, "three are too few");
        assert_eq!(interpolate_vector(&[2, 3, 5, 2].map(share), threshold), None, "an index repeats");
        shares[5].1 = shares[4].1;
        assert_eq!(interpolate_vector(&shares, threshold), None, "a share that is off the polynomial went unnoticed");
    }
}
