//! Weights with which many equations are checked as one.

use super::Scalar;

/// A random factor of 128 bits: odd, so never zero.
///
/// A sum of false equations holds with probability 2^-127 when each carries a weight that nobody could choose (Bellare, Garay
/// and Rabin 1998). Weights are hashed from everything that is claimed, so a check needs no randomness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weight([u8; 16]);

impl Weight {
    /// Makes a weight of 16 hashed bytes, big-endian. Sets the lowest bit.
    #[must_use]
    pub fn new(mut hashed: [u8; 16]) -> Self {
        hashed[15] |= 1;
        Self(hashed)
    }

    /// Returns the weight as a scalar.
    #[must_use]
    pub fn scalar(&self) -> Scalar {
        let mut wide = [0; 64];
        wide[48..].copy_from_slice(&self.0);
        Scalar::from_wide(&wide)
    }

    /// Returns the bytes that blst's multiplications read: 16, little-endian.
    #[cfg(not(feature = "transparent-group"))]
    pub(super) fn little_endian(&self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes.reverse();
        bytes
    }
}
