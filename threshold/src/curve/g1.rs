//! G1: signatures, partial signatures, hashed messages and transport keys.

use blst::{
    BLST_ERROR, MultiPoint, blst_hash_to_g1, blst_p1, blst_p1_add_or_double_affine, blst_p1_affine,
    blst_p1_affine_compress, blst_p1_affine_generator, blst_p1_affine_in_g1, blst_p1_affine_is_inf,
    blst_p1_from_affine, blst_p1_mult, blst_p1_to_affine, blst_p1_uncompress, blst_sign_pk_in_g2,
};

use zeroize::Zeroize as _;

use super::{CurveError, HashDomain, Scalar, SecretScalar, Weight};

/// A point of G1, in the subgroup, 48 bytes compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct G1(pub(super) blst_p1_affine);

impl G1 {
    /// Length of the compressed encoding in bytes.
    pub const BYTES: usize = 48;

    /// The generator that the curve's specification names.
    #[must_use]
    pub fn generator() -> Self {
        // SAFETY: blst answers with a pointer to a constant that lives as long as the program.
        Self(unsafe { *blst_p1_affine_generator() })
    }

    /// Hashes `message` to G1 (RFC 9380, suite `BLS12381G1_XMD:SHA-256_SSWU_RO_`) under `domain`'s tag.
    #[must_use]
    pub fn hash(message: &[u8], domain: HashDomain) -> Self {
        Self::hash_with_tag(message, domain.tag())
    }

    fn hash_with_tag(message: &[u8], tag: &[u8]) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: reads `message` and `tag` by their lengths and no augmentation; writes one point.
        unsafe {
            blst_hash_to_g1(&raw mut out, message.as_ptr(), message.len(), tag.as_ptr(), tag.len(), [].as_ptr(), 0);
        }
        Self(affine(&out))
    }

    /// Decodes 48 compressed bytes.
    ///
    /// # Errors
    /// For any bytes other than the canonical encoding of a point of the subgroup that is not infinity.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, CurveError> {
        let mut out = blst_p1_affine::default();
        // SAFETY: reads 48 bytes, writes one point, then reads it.
        unsafe {
            if blst_p1_uncompress(&raw mut out, bytes.as_ptr()) != BLST_ERROR::BLST_SUCCESS {
                return Err(CurveError::NotOnCurve);
            }
            if blst_p1_affine_is_inf(&raw const out) {
                return Err(CurveError::Infinity);
            }
            if !blst_p1_affine_in_g1(&raw const out) {
                return Err(CurveError::NotInSubgroup);
            }
        }
        Ok(Self(out))
    }

    /// The 48 compressed bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        // SAFETY: writes 48 bytes.
        unsafe { blst_p1_affine_compress(out.as_mut_ptr(), &raw const self.0) };
        out
    }

    /// Overwrites the point, in a way that the compiler keeps.
    pub(super) fn wipe(&mut self) {
        self.0.x.l.zeroize();
        self.0.y.l.zeroize();
    }

    /// Returns true if the point is infinity, which only arithmetic can produce.
    #[must_use]
    pub fn is_infinity(&self) -> bool {
        // SAFETY: reads one point.
        unsafe { blst_p1_affine_is_inf(&raw const self.0) }
    }

    /// `self + other`.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut out = projective(&self.0);
        // SAFETY: in and out may alias, as blst documents for all its point operations.
        unsafe { blst_p1_add_or_double_affine(&raw mut out, &raw const out, &raw const other.0) };
        Self(affine(&out))
    }

    /// `secret · self`, in constant time.
    #[must_use]
    pub fn times_secret(&self, secret: &SecretScalar) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: one point and one scalar in, one point out. The scalar is wiped when it is dropped.
        unsafe { blst_sign_pk_in_g2(&raw mut out, &projective(&self.0), &secret.as_blst()) };
        let product = Self(affine(&out));
        // It may be a value that two nodes share, and nothing else wipes this copy of it.
        for coordinate in [&mut out.x, &mut out.y, &mut out.z] {
            coordinate.l.zeroize();
        }
        product
    }

    /// `scalar · self` for a public scalar.
    #[must_use]
    pub fn times(&self, scalar: &Scalar) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: reads 255 bits of a 32-byte scalar.
        unsafe {
            blst_p1_mult(&raw mut out, &projective(&self.0), scalar.little_endian().as_ptr(), 255);
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
            return Self(blst_p1_affine::default());
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
            return Self(blst_p1_affine::default());
        }
        let points: Vec<_> = points.iter().map(|point| point.0).collect();
        let scalars: Vec<_> = scalars.iter().flat_map(Scalar::little_endian).collect();
        Self(affine(&points.as_slice().mult(&scalars, 255)))
    }
}

fn affine(point: &blst_p1) -> blst_p1_affine {
    let mut out = blst_p1_affine::default();
    // SAFETY: one point in, one out.
    unsafe { blst_p1_to_affine(&raw mut out, point) };
    out
}

fn projective(point: &blst_p1_affine) -> blst_p1 {
    let mut out = blst_p1::default();
    // SAFETY: one point in, one out.
    unsafe { blst_p1_from_affine(&raw mut out, point) };
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// RFC 9380 appendix J.9.1: the suite under which every message and identity is hashed.
    #[test]
    fn hashing_to_g1_matches_rfc9380() {
        let file: Value =
            serde_json::from_str(include_str!("../../fixtures/rfc9380-bls12381g1-xmd-sha256-sswu-ro.json")).unwrap();
        let tag = file["dst"].as_str().unwrap().as_bytes();
        let vectors = file["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 5, "the appendix has five vectors");
        for vector in vectors {
            let message = vector["msg"].as_str().unwrap();
            let point = G1::hash_with_tag(message.as_bytes(), tag);
            let mut uncompressed = [0u8; 96];
            // SAFETY: writes 96 bytes.
            unsafe { blst::blst_p1_affine_serialize(uncompressed.as_mut_ptr(), &raw const point.0) };
            let expected = format!("{}{}", vector["P"]["x"].as_str().unwrap(), vector["P"]["y"].as_str().unwrap());
            assert_eq!(hex::encode(uncompressed), expected, "hash of {message:?} differs from the RFC");
        }
    }

    /// seed: 003-15
    #[test]
    fn bytes_that_are_no_honest_point_are_refused() {
        let good = G1::generator().encode();
        assert_eq!(G1::decode(&good), Ok(G1::generator()));
        let mut infinity = [0; 48];
        infinity[0] = 0xc0;
        assert_eq!(G1::decode(&infinity), Err(CurveError::Infinity));
        let mut uncompressed_flag = good;
        uncompressed_flag[0] &= 0x7f;
        assert_eq!(G1::decode(&uncompressed_flag), Err(CurveError::NotOnCurve), "compression flag is mandatory");
        let mut above_modulus = [0xff; 48];
        above_modulus[0] = 0x9f;
        assert_eq!(G1::decode(&above_modulus), Err(CurveError::NotOnCurve), "x must be canonical");
        // x = 4 lies on the curve but not in the subgroup.
        let mut outside = [0; 48];
        outside[0] = 0x80;
        outside[47] = 4;
        assert_eq!(G1::decode(&outside), Err(CurveError::NotInSubgroup));
    }

    #[test]
    fn sum_of_products_agrees_with_one_at_a_time() {
        for count in [1usize, 2, 3, 7, 40, 70] {
            let points: Vec<_> = (0..count).map(|i| G1::hash(&i.to_be_bytes(), HashDomain::Signature)).collect();
            let scalars: Vec<_> = (0..count as u64).map(|i| -Scalar::from_u64(i * i + 1)).collect();
            let mut expected = points[0].times(&scalars[0]);
            for (point, scalar) in points.iter().zip(&scalars).skip(1) {
                expected = expected.plus(&point.times(scalar));
            }
            assert_eq!(G1::sum_of_products(&points, &scalars), expected, "{count} terms");
        }
        let point = G1::generator();
        let gone = G1::sum_of_products(&[point, point], &[Scalar::one(), -Scalar::one()]);
        assert!(gone.is_infinity(), "terms that cancel leave infinity");
        let kept = G1::sum_of_products(&[gone, point], &[Scalar::from_u64(5), Scalar::one()]);
        assert_eq!(kept, point, "infinity adds nothing");
    }
}
