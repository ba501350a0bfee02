//! Belief in heights. Pure: given every answer with its time, it returns the newest block, or the problem.

use jiff::Timestamp;

use crate::state::BlockError;

/// Factor over a chain's usual pace up to which its answer is believed.
const HASTE: u64 = 20;
/// Number of blocks ahead that are always believed: a restarted node catches up in steps.
const SLACK_BLOCKS: u64 = 10_000;

/// Highest height that was believed, and when it was reported.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    believed: Option<(u64, Timestamp)>,
}

impl Tracker {
    /// Starts from a height that a record names: no source may fall below it unnoticed after a restart.
    #[must_use]
    pub fn from_record(block: Option<u64>, now: Timestamp) -> Self {
        Self { believed: block.map(|block| (block, now)) }
    }

    /// The highest height ever believed.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.believed.map(|(block, _)| block)
    }

    /// Takes an answer. A fault changes nothing: the next good answer is believed again.
    ///
    /// # Errors
    /// When the source failed, or its answer is not believable.
    pub fn observe(
        &mut self,
        answer: Result<u64, BlockError>,
        now: Timestamp,
        restarted: bool,
    ) -> Result<u64, BlockError> {
        let block = answer?;
        if let Some((before, at)) = self.believed {
            if block < before {
                return Err(BlockError::Reversed { before, now: block });
            }
            let elapsed_seconds = u64::try_from(now.as_second().saturating_sub(at.as_second())).unwrap_or(0);
            let most = elapsed_seconds.saturating_mul(HASTE).saturating_add(SLACK_BLOCKS);
            // After a restart the time since the last height is not known, so that nothing can be said about pace.
            if !restarted && block - before > most {
                return Err(BlockError::Jumped { before, now: block, elapsed_seconds });
            }
        }
        self.believed = Some((block, now));
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A source that goes back or jumps is named, and believed again once it is right.
    #[test]
    fn a_reversed_or_jumping_source_is_named() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.observe(Ok(1_000), at(0), false), Ok(1_000));
        assert_eq!(tracker.observe(Ok(990), at(1), false), Err(BlockError::Reversed { before: 1_000, now: 990 }));
        let jumped = BlockError::Jumped { before: 1_000, now: 20_000_000, elapsed_seconds: 2 };
        assert_eq!(tracker.observe(Ok(20_000_000), at(2), false), Err(jumped));
        let down = BlockError::Down("refused".into());
        assert_eq!(tracker.observe(Err(down.clone()), at(3), false), Err(down));
        assert_eq!(tracker.highest(), Some(1_000), "faults leave no trace");
        assert_eq!(tracker.observe(Ok(1_001), at(4), false), Ok(1_001));
        assert_eq!(tracker.observe(Ok(1_001), at(5), false), Ok(1_001), "standing still is no fault");
    }

    #[test]
    fn after_a_restart_a_far_height_is_believed_and_a_low_one_is_not() {
        let mut tracker = Tracker::from_record(Some(500), at(0));
        assert!(matches!(tracker.observe(Ok(499), at(1), true), Err(BlockError::Reversed { before: 500, .. })));
        assert_eq!(tracker.observe(Ok(5_000_000), at(1), true), Ok(5_000_000));
    }
}
