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
#![allow(unsafe_code)]

mod g1;
mod g2;
mod pairing;
mod scalar;

pub use g1::{G1, HashDomain};
pub use g2::G2;
pub use pairing::{GT_BYTES, pairing_bytes, pairings_cancel};
pub use scalar::{Scalar, SecretScalar};

/// Why bytes are not a scalar or a point.
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
