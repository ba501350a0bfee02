//! Weights for checking many equations as one, hashed from everything that the equations claim.

use sha2::{Digest as _, Sha256};

use crate::curve::Weight;

/// An endless row of weights from one seed, which must be a digest of all claims that are checked with them.
pub(crate) struct Weights {
    seed: [u8; 32],
    next: u32,
}

impl Weights {
    /// Begins the row of a seed.
    pub(crate) fn of(seed: [u8; 32]) -> Self {
        Self { seed, next: 0 }
    }
}

impl Iterator for Weights {
    type Item = Weight;

    fn next(&mut self) -> Option<Weight> {
        let hash = Sha256::new_with_prefix(b"KEYFLEET-V2-WEIGHT\0");
        let hash = hash.chain_update(self.seed).chain_update(self.next.to_be_bytes()).finalize();
        self.next += 1;
        hash.first_chunk().copied().map(Weight::new)
    }
}
