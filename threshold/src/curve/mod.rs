//! BLS12-381 as the rest of the crate sees it: scalars, points and pairings whose values are always valid.
//!
//! Keys and commitments live in G2 (96 bytes compressed), signatures and hashed messages in G1 (48 bytes). A [`G1`] or
//! [`G2`] that exists is on the curve and in the subgroup of prime order: decoding checks it, and nothing else makes one
//! from bytes. Infinity is refused by `decode`, since no honest commitment, key or signature is ever infinity.
//!
//! # Why unsafe code is allowed here, and nowhere else
//! `blst` is the fastest and most reviewed implementation, written in C and assembly; its safe Rust layer covers plain
//! signatures only, neither polynomials over G2 nor secret scalars. Each call below keeps three rules that make it sound:
//! 1. every pointer comes from a Rust reference to a type of exactly the layout that the C header declares (bindgen checks
//!    the layouts), so it is aligned, initialised and valid for the call;
//! 2. every output is a default-initialised Rust value, never uninitialised memory;
//! 3. byte inputs are arrays of the fixed length that the function reads, or pass their own length.
//!
//! # Constant time
//! Secrets are [`SecretScalar`]s. They meet only `blst_fr_*` arithmetic, `blst_sk_to_pk_in_g2`, `blst_sign_pk_in_g2` and
//! `blst_p1_mult`, all of which run in constant time. Everything else here takes public values and may take shortcuts.
//!
//! # Simulations at scale
//! The feature `transparent-group` replaces both groups by scalars, so that a hundred thousand fleets can be simulated on the
//! product's own protocol code. It protects nothing and no product binary compiles with it.
#![allow(unsafe_code)]

#[cfg(not(feature = "transparent-group"))]
mod g1;
#[cfg(not(feature = "transparent-group"))]
mod g2;
#[cfg(not(feature = "transparent-group"))]
mod pairing;
mod scalar;
mod secret_point;
#[cfg(feature = "transparent-group")]
mod transparent;
mod weight;

#[cfg(not(feature = "transparent-group"))]
pub use g1::G1;
#[cfg(not(feature = "transparent-group"))]
pub use g2::G2;
#[cfg(not(feature = "transparent-group"))]
pub use pairing::{GT_BYTES, pairing_bytes, pairings_cancel};
pub use scalar::{Scalar, SecretScalar};
pub use secret_point::SecretPoint;
#[cfg(feature = "transparent-group")]
pub use transparent::{G1, G2, GT_BYTES, pairing_bytes, pairings_cancel};
pub use weight::Weight;

/// True if points show the secrets behind them: in simulations built with the feature `transparent-group`, and
/// nowhere else. Product binaries assert at compile time that it is false.
pub const IS_TRANSPARENT: bool = cfg!(feature = "transparent-group");

/// The domain separation tag under which bytes are hashed to G1 (RFC 9380 §3.1).
///
/// Identities have a tag of their own, so that no signature over a message can ever be the key of an identity; and so have the
/// two proofs of possession in a bundle (Ristenpart and Yilek 2007).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HashDomain {
    /// Identities of identity-based encryption and derivation.
    Identity,
    /// Signatures, certificates and the beacon: drand's tag of the scheme `bls-unchained-g1-rfc9380`.
    Signature,
    /// A dealer's possession of the ephemeral secret under which its bundle is sealed.
    Seal,
    /// A dealer's possession of the constant that it deals at a genesis.
    Deal,
}

impl HashDomain {
    /// The tag's bytes.
    #[must_use]
    pub fn tag(self) -> &'static [u8] {
        match self {
            Self::Identity => b"KEYFLEET-V1-IBE_BLS12381G1_XMD:SHA-256_SSWU_RO_",
            Self::Signature => b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_",
            Self::Seal => b"KEYFLEET-V2-SEAL_BLS12381G1_XMD:SHA-256_SSWU_RO_",
            Self::Deal => b"KEYFLEET-V2-DEAL_BLS12381G1_XMD:SHA-256_SSWU_RO_",
        }
    }
}

/// Error of decoding a scalar or a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CurveError {
    /// The bytes are not the one canonical encoding of a point on the curve.
    #[error("not a canonical compressed point of BLS12-381")]
    NotOnCurve,
    /// The point lies outside the subgroup of prime order.
    #[error("the point is outside the prime-order subgroup")]
    NotInSubgroup,
    /// The point is infinity, which no honest party sends.
    #[error("the point is infinity")]
    Infinity,
    /// The bytes are not below the group order, or zero where zero is forbidden.
    #[error("not a canonical scalar of BLS12-381")]
    NotAScalar,
}
