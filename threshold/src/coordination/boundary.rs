//! Boundaries: finalized blocks that are multiples of the interval.

use std::num::NonZeroU64;

use crate::identifiers::Block;

/// Returns the boundary that is due: the newest multiple of `interval_blocks` at or below `finalized`, if it lies above
/// `last_processed`. Boundaries that were missed coalesce into this one; a source that goes backwards makes none due.
#[must_use]
pub fn due(interval_blocks: NonZeroU64, finalized: Block, last_processed: Option<Block>) -> Option<Block> {
    let boundary = Block(finalized.0 - finalized.0 % interval_blocks);
    last_processed.is_none_or(|last| boundary > last).then_some(boundary)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// seed: 003-06, 003-32
    #[test]
    fn processed_boundaries_are_skipped_and_missed_ones_coalesce() {
        let ten = NonZeroU64::new(10).unwrap();
        assert_eq!(due(ten, Block(100), None), Some(Block(100)));
        assert_eq!(due(ten, Block(110), Some(Block(100))), Some(Block(110)));
        assert_eq!(due(ten, Block(120), Some(Block(120))), None, "120 again is skipped");
        assert_eq!(due(ten, Block(119), Some(Block(120))), None, "110 after 120 is skipped");
        assert_eq!(due(ten, Block(157), Some(Block(120))), Some(Block(150)), "130, 140 and 150 are one round");
    }
}
