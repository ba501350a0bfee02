//! Blocks by the clock: the height is the time since 1970-01-01T00:00:00Z, divided by a block's length.

use jiff::Timestamp;

/// The block at `now`. Before 1970 it is 0.
#[must_use]
pub(crate) fn block_at(now: Timestamp, block_ms: u32) -> u64 {
    u64::try_from(now.as_millisecond()).unwrap_or(0) / u64::from(block_ms.max(1))
}

/// When `block` begins, if the calendar reaches that far.
#[must_use]
pub(crate) fn begins_at(block: u64, block_ms: u32) -> Option<Timestamp> {
    let ms = block.checked_mul(u64::from(block_ms.max(1)))?;
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}

/// The clock as a source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// A block's length in milliseconds.
    pub(crate) block_ms: u32,
}

#[async_trait::async_trait]
impl super::BlockSource for Clock {
    async fn newest(&self) -> Result<u64, super::BlockError> {
        Ok(block_at(Timestamp::now(), self.block_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block lasts from its beginning to the next and not a millisecond longer.
    /// seed: 004-17
    #[test]
    fn a_block_lasts_from_its_beginning_to_the_next() {
        for (block, block_ms) in [(0, 12_000), (1, 100), (146_000_000, 12_000), (17, 86_400_000)] {
            let begin = begins_at(block, block_ms).unwrap();
            assert_eq!(block_at(begin, block_ms), block, "at the beginning of {block}");
            let next = begins_at(block + 1, block_ms).unwrap();
            let last = Timestamp::from_millisecond(next.as_millisecond() - 1).unwrap();
            assert_eq!((block_at(last, block_ms), block_at(next, block_ms)), (block, block + 1));
        }
        assert_eq!(block_at(Timestamp::from_second(-5).unwrap(), 1000), 0, "before 1970 no block is negative");
        assert_eq!(begins_at(u64::MAX, u32::MAX), None, "no panic where the calendar ends");
    }
}
