//! Numbers of failed attempts that a state lists no more. A node acts on one verdict for each number, also when somebody shows it a
//! certificate later.

use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::EpochNumber;

/// Most ranges that are remembered, the newest: older certificates than those between them are kept by nobody.
const RANGES_MAX: usize = 64;

/// Numbers in ranges, ascending, which neither touch nor overlap.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct FailedNumbers(Vec<(EpochNumber, EpochNumber)>);

impl FailedNumbers {
    /// Adds a number.
    pub(super) fn insert(&mut self, number: EpochNumber) {
        if self.contains(number) {
            return;
        }
        let at = self.0.partition_point(|(first, _)| *first < number);
        self.0.insert(at, (number, number));
        let mut merged: Vec<(EpochNumber, EpochNumber)> = Vec::with_capacity(self.0.len());
        for (first, last) in self.0.drain(..) {
            match merged.last_mut() {
                Some(before) if before.1.0 + 1 == first.0 => before.1 = last,
                _ => merged.push((first, last)),
            }
        }
        let old = merged.len().saturating_sub(RANGES_MAX);
        self.0 = merged.split_off(old);
    }

    /// Returns true for a number that was added and is remembered.
    #[must_use]
    pub fn contains(&self, number: EpochNumber) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.list(&self.0, |out, (first, last)| {
            out.epoch(*first).epoch(*last);
        });
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let read = |reader: &mut Reader<'_>| Ok((reader.epoch("failed number")?, reader.epoch("failed number")?));
        let ranges = reader.short_list("failed numbers", RANGES_MAX, read)?;
        let is_ordered = ranges.iter().all(|(first, last)| first <= last)
            && ranges.is_sorted_by(|before, after| before.1.0.saturating_add(1) < after.0.0);
        if is_ordered { Ok(Self(ranges)) } else { Err(DecodeError::Invalid { field: "failed numbers" }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_take_one_place() {
        let mut failed = FailedNumbers::default();
        [7, 3, 5, 4, 9, 4].map(EpochNumber).into_iter().for_each(|number| failed.insert(number));
        assert_eq!(failed.0, [(3, 5), (7, 7), (9, 9)].map(|(first, last)| (EpochNumber(first), EpochNumber(last))));
        let known: Vec<u64> = (1..12).filter(|number| failed.contains(EpochNumber(*number))).collect();
        assert_eq!(known, [3, 4, 5, 7, 9]);
        (0..200).for_each(|number| failed.insert(EpochNumber(100 + 2 * number)));
        assert_eq!(failed.0.len(), RANGES_MAX, "they grow without end");
        assert!(failed.contains(EpochNumber(498)) && !failed.contains(EpochNumber(3)), "the newest stay");
        let mut out = Writer::default();
        failed.write(&mut out);
        assert_eq!(Reader::whole(&out.finish(), FailedNumbers::read), Ok(failed));
    }
}
