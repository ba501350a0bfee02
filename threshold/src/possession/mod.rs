//! Possession: which epochs a node can sign with now, proven and not said.
//!
//! Whoever wants to know sends a fresh challenge. The node answers with a partial signature over it for each epoch whose share it
//! holds, and that signature verifies under the node's public share of the certified vector.
//!
//! ```text
//!  Asked ──▶ node ──▶ Claims ──judge──▶ ProvenHolding ──▶ Holdings ──▶ Proofs ──▶ what may be retired
//! ```
//!
//! | Type | What |
//! |---|---|
//! | [`Claims`] | what one answer claims, and what became of each claim; unchecked until it is judged |
//! | [`ProvenHolding`] | a claim that was verified; nothing else makes one |
//! | [`Holdings`] | the peers whose streams are open, when they are asked anew, and what they proved |
//! | [`Proofs`] | proofs of one time of asking, good for [`GOOD_MS`] |
//!
//! Times are milliseconds since any fixed moment, the same for all of one process.

mod claims;
mod holdings;
#[cfg(test)]
mod tests;

pub use claims::{Asked, CertifiedShare, Challenge, Claimed, Claims, ProvenHolding, Unproven};
pub use holdings::{Holdings, Proofs, Turn};

/// Milliseconds for which a proof is good, counted from when its challenge was sent. A node that is gone for good proved the
/// same a moment before.
pub const GOOD_MS: u64 = 60_000;

/// Tells whether a proof over a challenge of `asked_ms` is good at `now_ms`. One from the future is not: the clock went back.
#[must_use]
pub fn is_good(asked_ms: u64, now_ms: u64) -> bool {
    now_ms.checked_sub(asked_ms).is_some_and(|age| age <= GOOD_MS)
}
