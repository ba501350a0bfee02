//! What is kept: since any t shares of any epoch ever held open the key, an epoch that is no longer needed must die.

use std::collections::BTreeSet;

use crate::identifiers::EpochNumber;

/// An epoch that was activated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActivatedEpoch {
    /// Its number.
    pub number: EpochNumber,
    /// Whether it was confirmed.
    pub confirmed: bool,
}

/// The epochs that are kept, of `activated` in ascending order: the active one, the one before it (the grace window), the
/// newest `retention` confirmed ones, and `source`, on which a round or an unconfirmed epoch rests.
#[must_use]
pub fn kept(
    activated: &[ActivatedEpoch],
    retention: usize,
    source: impl IntoIterator<Item = EpochNumber>,
) -> BTreeSet<EpochNumber> {
    let newest_two = activated.iter().rev().take(2);
    let confirmed = activated.iter().rev().filter(|epoch| epoch.confirmed).take(retention);
    let mut kept: BTreeSet<_> = newest_two.chain(confirmed).map(|epoch| epoch.number).collect();
    kept.extend(source.into_iter().filter(|number| activated.iter().any(|epoch| epoch.number == *number)));
    kept
}

/// Whether an active epoch is confirmed by age: active for `confirmAfter`, and held by every receiver that answered in the
/// last interval, at least its threshold of them. (Confirmation by count is [`super::Decision::Confirm`].)
#[must_use]
pub fn confirmed_by_age(holding: usize, answering: usize, threshold: usize, outlasted_confirm_after: bool) -> bool {
    outlasted_confirm_after && holding >= threshold && holding >= answering
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(list: &[(u64, bool)]) -> Vec<ActivatedEpoch> {
        list.iter().map(|(n, confirmed)| ActivatedEpoch { number: EpochNumber(*n), confirmed: *confirmed }).collect()
    }

    fn numbers(kept: &BTreeSet<EpochNumber>) -> Vec<u64> {
        kept.iter().map(|number| number.0).collect()
    }

    #[test]
    fn the_newest_confirmed_epochs_outlive_any_number_of_unconfirmed_ones() {
        let steady = epochs(&[(1, true), (2, true), (3, true), (4, true)]);
        assert_eq!(numbers(&kept(&steady, 2, [])), [3, 4]);
        let shaky = epochs(&[(1, true), (2, true), (3, false), (5, false), (9, false)]);
        assert_eq!(numbers(&kept(&shaky, 2, [])), [1, 2, 5, 9], "two confirmed ones stay, however old");
        assert_eq!(numbers(&kept(&shaky, 1, [EpochNumber(3)])), [2, 3, 5, 9], "the source of a round stays");
    }
}
