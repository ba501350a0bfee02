//! Pairings: equations between G1 and G2, and the bytes of a pairing's value as drand's implementations order them.

use blst::{blst_bendian_from_fp, blst_fp12};

use super::{G1, G2};

/// Length of a target-group element in bytes.
pub const GT_BYTES: usize = 576;

/// Returns true if `Π e(Pᵢ, Qᵢ) = 1`: the form into which every pairing equation of this crate is brought.
#[must_use]
pub fn pairings_cancel(pairs: &[(G1, G2)]) -> bool {
    // A pair with infinity contributes the factor 1, which Miller's loop does not promise.
    let (p, q): (Vec<_>, Vec<_>) =
        pairs.iter().filter(|(p, q)| !p.is_infinity() && !q.is_infinity()).map(|(p, q)| (p.0, q.0)).unzip();
    p.is_empty() || blst_fp12::miller_loop_n(&q, &p).final_exp() == blst_fp12::default()
}

/// The bytes of `e(p, q)` in the order of kyber and tlock: the highest coefficient of each tower step first, the
/// imaginary half before the real one, 48 bytes big-endian each. (`blst_bendian_from_fp12` orders them otherwise.)
#[must_use]
pub fn pairing_bytes(p: &G1, q: &G2) -> [u8; GT_BYTES] {
    let value = blst_fp12::miller_loop(&q.0, &p.0).final_exp();
    let mut out = [0; GT_BYTES];
    let mut chunks = out.chunks_exact_mut(48);
    for fp6 in value.fp6.iter().rev() {
        for fp2 in fp6.fp2.iter().rev() {
            for fp in fp2.fp.iter().rev() {
                let chunk = chunks.next().expect("twelve coefficients fill the twelve chunks");
                // SAFETY: writes the 48 bytes of the chunk.
                unsafe { blst_bendian_from_fp(chunk.as_mut_ptr(), fp) };
            }
        }
    }
    out
}
