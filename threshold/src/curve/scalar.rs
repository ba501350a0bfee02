//! Scalars modulo the group order: public ones with operators, secret ones that are wiped and cannot be printed.

use std::ops::{Add, Mul, Neg, Sub};

use blst::{
    blst_bendian_from_scalar, blst_fr, blst_fr_add, blst_fr_cneg, blst_fr_from_scalar, blst_fr_from_uint64,
    blst_fr_inverse, blst_fr_mul, blst_fr_sub, blst_scalar, blst_scalar_fr_check, blst_scalar_from_be_bytes,
    blst_scalar_from_bendian, blst_scalar_from_fr,
};
use rand_core::CryptoRng;
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, Zeroizing};

use super::CurveError;

/// A public scalar modulo the group order r: an index, a Lagrange coefficient, a challenge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scalar(pub(super) blst_fr);

impl Scalar {
    /// The scalar 1.
    #[must_use]
    pub fn one() -> Self {
        Self::from_u64(1)
    }

    /// A small integer as a scalar.
    #[must_use]
    pub fn from_u64(value: u64) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: reads four limbs, writes one field element; both are initialised references.
        unsafe { blst_fr_from_uint64(&raw mut out, [value, 0, 0, 0].as_ptr()) };
        Self(out)
    }

    /// Reduces 64 uniform bytes (big-endian) modulo r; the bias is below 2^-250.
    #[must_use]
    pub fn from_wide(bytes: &[u8; 64]) -> Self {
        let mut scalar = blst_scalar::default();
        // SAFETY: reads exactly the 64 bytes of `bytes`. Its answer says only whether the result is zero.
        unsafe { blst_scalar_from_be_bytes(&raw mut scalar, bytes.as_ptr(), bytes.len()) };
        Self(fr_from_scalar(&scalar))
    }

    /// Decodes 32 big-endian bytes.
    ///
    /// # Errors
    /// [`CurveError::NotAScalar`] for values of r or above.
    pub fn decode(bytes: &[u8; 32]) -> Result<Self, CurveError> {
        Ok(Self(fr_from_scalar(&checked_scalar(bytes)?)))
    }

    /// The 32 big-endian bytes of the scalar.
    #[must_use]
    pub fn encode(&self) -> [u8; 32] {
        let mut out = [0; 32];
        // SAFETY: writes 32 bytes.
        unsafe { blst_bendian_from_scalar(out.as_mut_ptr(), &scalar_from_fr(&self.0)) };
        out
    }

    /// The multiplicative inverse; that of zero is zero, so callers exclude it first.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: one field element in, one out.
        unsafe { blst_fr_inverse(&raw mut out, &raw const self.0) };
        Self(out)
    }

    /// Inverts all of `values` with one inversion (Montgomery's trick). None of them may be zero.
    #[must_use]
    pub fn batch_inverse(values: &[Self]) -> Vec<Self> {
        let mut prefix = Vec::with_capacity(values.len());
        let mut product = Self::one();
        for value in values {
            prefix.push(product);
            product = product * *value;
        }
        let mut inverse = product.inverse();
        let mut out = vec![Self::default(); values.len()];
        for ((slot, value), before) in out.iter_mut().zip(values).zip(prefix).rev() {
            *slot = inverse * before;
            inverse = inverse * *value;
        }
        out
    }

    /// Overwrites the scalar, in a way that the compiler keeps.
    #[cfg(feature = "transparent-group")]
    pub(super) fn wipe(&mut self) {
        self.0.l.zeroize();
    }

    /// The bytes that blst's multiplications read: 32, little-endian.
    #[cfg(not(feature = "transparent-group"))]
    pub(super) fn little_endian(&self) -> [u8; 32] {
        let mut out = [0; 32];
        // SAFETY: writes 32 bytes.
        unsafe { blst::blst_lendian_from_scalar(out.as_mut_ptr(), &scalar_from_fr(&self.0)) };
        out
    }
}

impl Add for Scalar {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(fr_binary(blst_fr_add, &self.0, &other.0))
    }
}

impl Sub for Scalar {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(fr_binary(blst_fr_sub, &self.0, &other.0))
    }
}

impl Mul for Scalar {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        Self(fr_binary(blst_fr_mul, &self.0, &other.0))
    }
}

impl Neg for Scalar {
    type Output = Self;
    fn neg(self) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: one field element in, one out.
        unsafe { blst_fr_cneg(&raw mut out, &raw const self.0, true) };
        Self(out)
    }
}

/// A scalar that nobody else may learn: a share, a polynomial's coefficient, a transport key.
///
/// Wiped when dropped, compared in constant time, never printed and never serialised implicitly:
///
/// ```compile_fail
/// println!("{:?}", keyfleet_threshold::curve::SecretScalar::zero());
/// ```
pub struct SecretScalar(pub(super) blst_fr);

impl SecretScalar {
    /// A uniform scalar, zero only with probability 2^-255.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut wide = Zeroizing::new([0; 64]);
        rng.fill_bytes(wide.as_mut());
        Self::from_wide(&wide)
    }

    /// Reduces 64 secret, uniform bytes (big-endian) modulo r.
    #[must_use]
    pub fn from_wide(bytes: &Zeroizing<[u8; 64]>) -> Self {
        let mut scalar = blst_scalar::default();
        // SAFETY: reads exactly the 64 bytes of `bytes`. The scalar is wiped when it is dropped.
        unsafe { blst_scalar_from_be_bytes(&raw mut scalar, bytes.as_ptr(), bytes.len()) };
        Self(fr_from_scalar(&scalar))
    }

    /// The scalar 0, where a sum of secrets begins.
    #[must_use]
    pub fn zero() -> Self {
        Self(blst_fr::default())
    }

    /// Decodes 32 big-endian bytes.
    ///
    /// # Errors
    /// [`CurveError::NotAScalar`] for values of r or above.
    pub fn decode(bytes: &[u8; 32]) -> Result<Self, CurveError> {
        Ok(Self(fr_from_scalar(&checked_scalar(bytes)?)))
    }

    /// The 32 big-endian bytes, wiped when dropped: for sealing, and for nothing else.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0; 32]);
        // SAFETY: writes 32 bytes; the temporary scalar is wiped when it is dropped.
        unsafe { blst_bendian_from_scalar(out.as_mut_ptr(), &scalar_from_fr(&self.0)) };
        out
    }

    /// A second copy of the secret, where a state machine hands one on.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0)
    }

    /// `self + other`.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self(fr_binary(blst_fr_add, &self.0, &other.0))
    }

    /// `from − self`, for a public `from`: what a one-time pad leaves of a ciphertext.
    #[must_use]
    pub fn taken_from(&self, from: &Scalar) -> Self {
        Self(fr_binary(blst_fr_sub, &from.0, &self.0))
    }

    /// Returns true for the scalar 0.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.ct_eq(&Self::zero()).into()
    }

    /// `self · factor` for a public factor.
    #[must_use]
    pub fn scaled(&self, factor: &Scalar) -> Self {
        Self(fr_binary(blst_fr_mul, &self.0, &factor.0))
    }

    /// Gives up secrecy on purpose: of a share under its pad, which is public.
    #[must_use]
    pub fn disclose(&self) -> Scalar {
        Scalar(self.0)
    }

    #[cfg(not(feature = "transparent-group"))]
    pub(super) fn as_blst(&self) -> blst_scalar {
        scalar_from_fr(&self.0)
    }
}

impl Drop for SecretScalar {
    fn drop(&mut self) {
        self.0.l.zeroize();
    }
}

impl ConstantTimeEq for SecretScalar {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.l.as_slice().ct_eq(other.0.l.as_slice())
    }
}

fn checked_scalar(bytes: &[u8; 32]) -> Result<blst_scalar, CurveError> {
    let mut scalar = blst_scalar::default();
    // SAFETY: reads 32 bytes, writes one scalar, then reads it.
    let canonical = unsafe {
        blst_scalar_from_bendian(&raw mut scalar, bytes.as_ptr());
        blst_scalar_fr_check(&raw const scalar)
    };
    canonical.then_some(scalar).ok_or(CurveError::NotAScalar)
}

fn fr_from_scalar(scalar: &blst_scalar) -> blst_fr {
    let mut out = blst_fr::default();
    // SAFETY: one scalar in, one field element out.
    unsafe { blst_fr_from_scalar(&raw mut out, scalar) };
    out
}

fn scalar_from_fr(fr: &blst_fr) -> blst_scalar {
    let mut out = blst_scalar::default();
    // SAFETY: one field element in, one scalar out.
    unsafe { blst_scalar_from_fr(&raw mut out, fr) };
    out
}

type FrOperation = unsafe extern "C" fn(*mut blst_fr, *const blst_fr, *const blst_fr);

fn fr_binary(operation: FrOperation, a: &blst_fr, b: &blst_fr) -> blst_fr {
    let mut out = blst_fr::default();
    // SAFETY: all operations of this type read two field elements and write one.
    unsafe { operation(&raw mut out, a, b) };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: [u8; 32] = [
        0x73, 0xed, 0xa7, 0x53, 0x29, 0x9d, 0x7d, 0x48, 0x33, 0x39, 0xd8, 0x08, 0x09, 0xa1, 0xd8, 0x05, 0x53, 0xbd,
        0xa4, 0x02, 0xff, 0xfe, 0x5b, 0xfe, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01,
    ];

    #[test]
    fn scalar_at_or_above_the_order_is_refused() {
        assert_eq!(Scalar::decode(&ORDER), Err(CurveError::NotAScalar), "r itself must not decode");
        assert_eq!(Scalar::decode(&[0xff; 32]), Err(CurveError::NotAScalar), "2^256-1 must not decode");
        let mut below = ORDER;
        below[31] = 0;
        assert_eq!(Scalar::decode(&below).unwrap().encode(), below, "r-1 is the largest scalar");
        assert_eq!(-Scalar::one(), Scalar::decode(&below).unwrap(), "r-1 is minus one");
    }

    #[test]
    fn batch_inverse_agrees_with_single_inverses() {
        let values: Vec<_> = (1..40).map(Scalar::from_u64).collect();
        for (value, inverse) in values.iter().zip(Scalar::batch_inverse(&values)) {
            assert_eq!(*value * inverse, Scalar::one(), "batch inversion must invert each value");
        }
    }
}
