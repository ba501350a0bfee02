//! A stand-in for both groups, for simulations alone: a point *is* its discrete logarithm, and the pairing multiplies two of
//! them.
//!
//! Whoever sees a point sees the secret behind it, so this protects nothing. What it keeps is the algebra: sums, products,
//! encodings with one canonical form, and pairing equations hold for the same inputs as on BLS12-381. Everything above this
//! module is the product's own code. A fleet's round costs a hundredth of its time on the curve, and an adversary's exact
//! knowledge can be computed.
//!
//! It exists under the feature `transparent-group` only, and product binaries refuse to compile with it
//! ([`IS_TRANSPARENT`](super::IS_TRANSPARENT)).

use sha2::{Digest as _, Sha512};

use super::{CurveError, HashDomain, Scalar, SecretScalar, Weight};

/// Length of a target-group element in bytes.
pub const GT_BYTES: usize = 576;

/// Marks the first byte of an encoded point, as compressed points of the curve do.
const FLAG: u8 = 0x80;

/// A point of G1: the scalar by which the generator is multiplied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct G1(Scalar);

/// A point of G2: the scalar by which the generator is multiplied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct G2(Scalar);

macro_rules! group {
    ($name:ident, $bytes:literal) => {
        impl $name {
            /// Length of the encoding in bytes, as on the curve.
            pub const BYTES: usize = $bytes;

            /// Returns the generator, the point 1.
            #[must_use]
            pub fn generator() -> Self {
                Self(Scalar::one())
            }

            /// Decodes a point: the flag, zeros, and 32 big-endian bytes of its scalar.
            ///
            /// # Errors
            /// For any bytes other than the canonical encoding of a point that is not infinity.
            pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, CurveError> {
                let (head, scalar) = bytes.split_last_chunk::<32>().expect("a point is longer than a scalar");
                let padded = head[0] == FLAG && head[1..].iter().all(|byte| *byte == 0);
                let scalar = Scalar::decode(scalar).map_err(|_| CurveError::NotOnCurve)?;
                if !padded {
                    return Err(CurveError::NotOnCurve);
                }
                if scalar == Scalar::default() {
                    return Err(CurveError::Infinity);
                }
                Ok(Self(scalar))
            }

            /// Encodes the point.
            #[must_use]
            pub fn encode(&self) -> [u8; Self::BYTES] {
                let mut out = [0; Self::BYTES];
                out[0] = FLAG;
                out[Self::BYTES - 32..].copy_from_slice(&self.0.encode());
                out
            }

            /// Tells whether the point is infinity, which only arithmetic can produce.
            #[must_use]
            pub fn is_infinity(&self) -> bool {
                self.0 == Scalar::default()
            }

            /// Returns `self + other`.
            #[must_use]
            pub fn plus(&self, other: &Self) -> Self {
                Self(self.0 + other.0)
            }

            /// Returns `scalar · self`.
            #[must_use]
            pub fn times(&self, scalar: &Scalar) -> Self {
                Self(self.0 * *scalar)
            }

            /// Returns `Σ scalarᵢ · pointᵢ`. The sum of nothing is infinity.
            ///
            /// # Panics
            /// When the slices differ in length, which is a mistake of the caller.
            #[must_use]
            pub fn sum_of_products(points: &[Self], scalars: &[Scalar]) -> Self {
                assert_eq!(points.len(), scalars.len(), "each point needs one scalar");
                points
                    .iter()
                    .zip(scalars)
                    .fold(Self(Scalar::default()), |sum, (point, scalar)| sum.plus(&point.times(scalar)))
            }

            /// Returns `Σ weightᵢ · pointᵢ`. The sum of nothing is infinity.
            ///
            /// # Panics
            /// When the slices differ in length, which is a mistake of the caller.
            #[must_use]
            pub fn weighted_sum(points: &[Self], weights: &[Weight]) -> Self {
                let scalars: Vec<_> = weights.iter().map(Weight::scalar).collect();
                Self::sum_of_products(points, &scalars)
            }
        }
    };
}

group!(G1, 48);
group!(G2, 96);

impl G1 {
    /// Hashes `message` to a point under `domain`'s tag.
    #[must_use]
    pub fn hash(message: &[u8], domain: HashDomain) -> Self {
        let tag = domain.tag();
        let length = u64::try_from(tag.len()).expect("tags are short").to_be_bytes();
        let hash = Sha512::new().chain_update(length).chain_update(tag).chain_update(message).finalize();
        Self(Scalar::from_wide(&hash.into()))
    }

    /// Overwrites the point, in a way that the compiler keeps.
    pub(super) fn wipe(&mut self) {
        self.0.wipe();
    }

    /// Returns `secret · self`.
    #[must_use]
    pub fn times_secret(&self, secret: &SecretScalar) -> Self {
        self.times(&secret.disclose())
    }
}

impl G2 {
    /// Returns `secret · g2`: the public key of a secret scalar, which here shows the secret.
    #[must_use]
    pub fn of_secret(secret: &SecretScalar) -> Self {
        Self(secret.disclose())
    }

    /// Returns `Σ pointᵢ`. The sum of nothing is infinity.
    #[must_use]
    pub fn sum(points: &[Self]) -> Self {
        points.iter().fold(Self(Scalar::default()), |sum, point| sum.plus(point))
    }

    /// Returns `Σ coefficientⱼ · indexʲ` by Horner's rule.
    #[must_use]
    pub fn evaluate(coefficients: &[Self], index: u32) -> Self {
        let index = Scalar::from_u64(u64::from(index));
        coefficients.iter().rev().fold(Self(Scalar::default()), |sum, coefficient| sum.times(&index).plus(coefficient))
    }
}

/// Tells whether `Π e(Pᵢ, Qᵢ) = 1`: the form into which every pairing equation of this crate is brought.
#[must_use]
pub fn pairings_cancel(pairs: &[(G1, G2)]) -> bool {
    pairs.iter().fold(Scalar::default(), |sum, (p, q)| sum + p.0 * q.0) == Scalar::default()
}

/// Returns the bytes of `e(p, q)`: zeros, then the product of the two scalars.
#[must_use]
pub fn pairing_bytes(p: &G1, q: &G2) -> [u8; GT_BYTES] {
    let mut out = [0; GT_BYTES];
    out[GT_BYTES - 32..].copy_from_slice(&(p.0 * q.0).encode());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The equations that the product relies on hold here as on the curve, and fail for other scalars.
    #[test]
    fn pairings_are_bilinear_and_tell_points_apart() {
        let (a, b) = (Scalar::from_u64(7), Scalar::from_u64(11));
        let (p, q) = (G1::hash(b"message", HashDomain::Signature), G2::generator());
        assert!(pairings_cancel(&[(p.times(&a), q.times(&b)), (p.times(&(-(a * b))), q)]), "e(aP, bQ) = e(abP, Q)");
        assert!(
            !pairings_cancel(&[(p.times(&a), q.times(&b)), (p.times(&-a), q)]),
            "another scalar is another pairing"
        );
        assert_eq!(
            pairing_bytes(&p.times(&a), &q),
            pairing_bytes(&p, &q.times(&a)),
            "a scalar moves between the groups"
        );
    }

    #[test]
    fn a_point_has_one_encoding_and_infinity_has_none() {
        let point = G1::hash(b"message", HashDomain::Identity);
        assert_eq!(G1::decode(&point.encode()), Ok(point), "a point comes back from its encoding");
        let mut other = point.encode();
        other[1] = 1;
        assert_eq!(G1::decode(&other), Err(CurveError::NotOnCurve), "padding is zero");
        let mut infinity = [0; 48];
        infinity[0] = FLAG;
        assert_eq!(G1::decode(&infinity), Err(CurveError::Infinity), "infinity is refused");
    }
}
