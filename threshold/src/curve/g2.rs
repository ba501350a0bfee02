//! G2: public keys, public shares and polynomial commitments.

use blst::{
    BLST_ERROR, MultiPoint, blst_p2, blst_p2_add_or_double_affine, blst_p2_affine, blst_p2_affine_compress,
    blst_p2_affine_generator, blst_p2_affine_in_g2, blst_p2_affine_is_inf, blst_p2_double, blst_p2_from_affine,
    blst_p2_mult, blst_p2_to_affine, blst_p2_uncompress, blst_sk_to_pk_in_g2,
};

use super::{CurveError, Scalar, SecretScalar, Weight};

/// A point of G2, in the subgroup, 96 bytes compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct G2(pub(super) blst_p2_affine);

impl G2 {
    /// Length of the compressed encoding in bytes.
    pub const BYTES: usize = 96;

    /// The generator that the curve's specification names.
    #[must_use]
    pub fn generator() -> Self {
        // SAFETY: blst answers with a pointer to a constant that lives as long as the program.
        Self(unsafe { *blst_p2_affine_generator() })
    }

    /// `secret · g2` in constant time: the public key of a secret scalar.
    #[must_use]
    pub fn of_secret(secret: &SecretScalar) -> Self {
        let mut out = blst_p2::default();
        // SAFETY: one scalar in, one point out. The scalar is wiped when it is dropped.
        unsafe { blst_sk_to_pk_in_g2(&raw mut out, &secret.as_blst()) };
        Self(affine(&out))
    }

    /// Decodes 96 compressed bytes.
    ///
    /// # Errors
    /// For any bytes other than the canonical encoding of a point of the subgroup that is not infinity.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, CurveError> {
        let mut out = blst_p2_affine::default();
        // SAFETY: reads 96 bytes, writes one point, then reads it.
        unsafe {
            if blst_p2_uncompress(&raw mut out, bytes.as_ptr()) != BLST_ERROR::BLST_SUCCESS {
                return Err(CurveError::NotOnCurve);
            }
            if blst_p2_affine_is_inf(&raw const out) {
                return Err(CurveError::Infinity);
            }
            if !blst_p2_affine_in_g2(&raw const out) {
                return Err(CurveError::NotInSubgroup);
            }
        }
        Ok(Self(out))
    }

    /// The 96 compressed bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        // SAFETY: writes 96 bytes.
        unsafe { blst_p2_affine_compress(out.as_mut_ptr(), &raw const self.0) };
        out
    }

    /// Returns true if the point is infinity, which only arithmetic can produce.
    #[must_use]
    pub fn is_infinity(&self) -> bool {
        // SAFETY: reads one point.
        unsafe { blst_p2_affine_is_inf(&raw const self.0) }
    }

    /// `self + other`.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut out = projective(&self.0);
        // SAFETY: in and out may alias, as blst documents for all its point operations.
        unsafe { blst_p2_add_or_double_affine(&raw mut out, &raw const out, &raw const other.0) };
        Self(affine(&out))
    }

    /// `scalar · self` for a public scalar.
    #[must_use]
    pub fn times(&self, scalar: &Scalar) -> Self {
        let mut out = blst_p2::default();
        // SAFETY: reads 255 bits of a 32-byte scalar.
        unsafe {
            blst_p2_mult(&raw mut out, &projective(&self.0), scalar.little_endian().as_ptr(), 255);
        }
        Self(affine(&out))
    }

    /// `Σ pointᵢ`. The sum of nothing is infinity.
    #[must_use]
    pub fn sum(points: &[Self]) -> Self {
        let mut out = blst_p2::default();
        for point in points {
            // SAFETY: as in `plus`.
            unsafe { blst_p2_add_or_double_affine(&raw mut out, &raw const out, &raw const point.0) };
        }
        Self(affine(&out))
    }

    /// `Σ weightᵢ · pointᵢ` (Pippenger, 128 bits). The sum of nothing is infinity.
    ///
    /// # Panics
    /// When the slices differ in length, which is a mistake of the caller.
    #[must_use]
    pub fn weighted_sum(points: &[Self], weights: &[Weight]) -> Self {
        assert_eq!(points.len(), weights.len(), "each point needs one weight");
        if points.is_empty() {
            return Self(blst_p2_affine::default());
        }
        let points: Vec<_> = points.iter().map(|point| point.0).collect();
        let weights: Vec<_> = weights.iter().flat_map(Weight::little_endian).collect();
        Self(affine(&points.as_slice().mult(&weights, 128)))
    }

    /// `Σ scalarᵢ · pointᵢ` for public scalars (Pippenger). The sum of nothing is infinity.
    ///
    /// # Panics
    /// When the slices differ in length, which is a mistake of the caller.
    #[must_use]
    pub fn sum_of_products(points: &[Self], scalars: &[Scalar]) -> Self {
        assert_eq!(points.len(), scalars.len(), "each point needs one scalar");
        if points.is_empty() {
            return Self(blst_p2_affine::default());
        }
        let points: Vec<_> = points.iter().map(|point| point.0).collect();
        let scalars: Vec<_> = scalars.iter().flat_map(Scalar::little_endian).collect();
        Self(affine(&points.as_slice().mult(&scalars, 255)))
    }

    /// `Σ coefficientⱼ · indexʲ` by Horner's rule.
    ///
    /// Share indices are small integers, so each step is a handful of doublings: six to twenty-five times faster than a
    /// multi-scalar multiplication at the sizes of a fleet, and the reason why indices are not hashes.
    #[must_use]
    pub fn evaluate(coefficients: &[Self], index: u32) -> Self {
        let mut out = blst_p2::default();
        for coefficient in coefficients.iter().rev() {
            out = times_small(&out, index);
            // SAFETY: as in `plus`.
            unsafe { blst_p2_add_or_double_affine(&raw mut out, &raw const out, &raw const coefficient.0) };
        }
        Self(affine(&out))
    }
}

/// Double-and-add from the highest bit: for public factors only.
fn times_small(point: &blst_p2, factor: u32) -> blst_p2 {
    let mut out = blst_p2::default();
    for bit in (0..u32::BITS - factor.leading_zeros()).rev() {
        // SAFETY: one or two points in, one out; blst allows aliasing.
        unsafe {
            blst_p2_double(&raw mut out, &raw const out);
            if factor >> bit & 1 == 1 {
                blst::blst_p2_add_or_double(&raw mut out, &raw const out, point);
            }
        }
    }
    out
}

fn affine(point: &blst_p2) -> blst_p2_affine {
    let mut out = blst_p2_affine::default();
    // SAFETY: one point in, one out.
    unsafe { blst_p2_to_affine(&raw mut out, point) };
    out
}

fn projective(point: &blst_p2_affine) -> blst_p2 {
    let mut out = blst_p2::default();
    // SAFETY: one point in, one out.
    unsafe { blst_p2_from_affine(&raw mut out, point) };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluation_at_small_indices_agrees_with_powers() {
        let coefficients: Vec<_> = (1..9u64).map(|i| G2::generator().times(&Scalar::from_u64(i * 1_000_003))).collect();
        for index in [1u32, 2, 3, 7, 100, 65_535, u32::MAX] {
            let mut power = Scalar::one();
            let mut powers = Vec::new();
            for _ in &coefficients {
                powers.push(power);
                power = power * Scalar::from_u64(u64::from(index));
            }
            assert_eq!(
                G2::evaluate(&coefficients, index),
                G2::sum_of_products(&coefficients, &powers),
                "Horner and the sum of powers differ at index {index}"
            );
        }
    }

    /// seed: 003-15
    #[test]
    fn bytes_that_are_no_honest_point_are_refused() {
        let good = G2::generator().encode();
        assert_eq!(G2::decode(&good), Ok(G2::generator()));
        let mut infinity = [0; 96];
        infinity[0] = 0xc0;
        assert_eq!(G2::decode(&infinity), Err(CurveError::Infinity));
        assert_eq!(G2::decode(&[0xff; 96]), Err(CurveError::NotOnCurve));
        // x = 2 lies on the twist but not in the subgroup.
        let mut outside = [0; 96];
        outside[0] = 0x80;
        outside[95] = 2;
        assert_eq!(G2::decode(&outside), Err(CurveError::NotInSubgroup));
    }
}
