//! Retention of epochs: since any t shares of any epoch ever held open the key, an epoch that is no longer needed must die.

use std::collections::BTreeSet;

use crate::identifiers::EpochNumber;

/// An epoch that was activated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActivatedEpoch {
    /// Number of the epoch.
    pub number: EpochNumber,
    /// True if the epoch was confirmed.
    pub confirmed: bool,
    /// Epoch on which it was dealt; `None` at genesis.
    pub source: Option<EpochNumber>,
}

/// The most epochs that are kept beside the newest `retention` confirmed ones and the active one: the one before it, the source
/// of the round under way, and the sources of two epochs that are not confirmed.
const BESIDE_CONFIRMED: usize = 4;

/// Returns the most epochs that a record may list as kept.
#[must_use]
pub fn listed_max(retention: usize) -> usize {
    retention.saturating_add(BESIDE_CONFIRMED)
}

/// Returns the epochs that are kept, of `activated` (not yet retired) in ascending order: the active one, the one before it (the
/// grace window), the newest `retention` confirmed ones, the source of the round under way, and where one of the newest two had to
/// be dealt on an older one than its predecessor, that source until it is confirmed itself.
#[must_use]
pub fn kept(
    activated: &[ActivatedEpoch],
    retention: usize,
    source_under_way: Option<EpochNumber>,
) -> BTreeSet<EpochNumber> {
    let newest_two = activated.iter().rev().take(2);
    let confirmed = activated.iter().rev().filter(|epoch| epoch.confirmed).take(retention);
    let mut kept: BTreeSet<_> = newest_two.chain(confirmed).map(|epoch| epoch.number).collect();
    let last_pairs = activated.windows(2).rev().take(2);
    let fallbacks = last_pairs.filter(|pair| !pair[1].confirmed && pair[1].source != Some(pair[0].number));
    kept.extend(fallbacks.filter_map(|pair| pair[1].source).chain(source_under_way));
    kept.retain(|number| activated.iter().any(|epoch| epoch.number == *number));
    kept
}

/// Returns true if an active epoch is confirmed by age: active for `confirmAfter`, and held by every receiver that answered in the
/// last interval, at least its threshold of them. (Confirmation by count is [`super::Decision::Confirm`].)
#[must_use]
pub fn confirmed_by_age(holding: usize, answering: usize, threshold: usize, outlasted_confirm_after: bool) -> bool {
    outlasted_confirm_after && holding >= threshold && holding >= answering
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(list: &[(u64, bool)]) -> Vec<ActivatedEpoch> {
        let mut source = None;
        let epoch = |(n, confirmed): &(u64, bool)| {
            let number = EpochNumber(*n);
            ActivatedEpoch { number, confirmed: *confirmed, source: source.replace(number) }
        };
        list.iter().map(epoch).collect()
    }

    fn numbers(kept: &BTreeSet<EpochNumber>) -> Vec<u64> {
        kept.iter().map(|number| number.0).collect()
    }

    /// seed: 003-51
    #[test]
    fn the_newest_confirmed_epochs_are_kept() {
        let steady = epochs(&[(1, true), (2, true), (3, true), (4, true)]);
        assert_eq!(numbers(&kept(&steady, 2, None)), [3, 4]);
        let shaky = epochs(&[(1, true), (2, true), (3, false), (5, false), (9, false)]);
        assert_eq!(numbers(&kept(&shaky, 2, None)), [1, 2, 5, 9], "two confirmed ones stay, however old");
        assert_eq!(numbers(&kept(&shaky, 1, Some(EpochNumber(3)))), [2, 3, 5, 9], "the source of a round stays");
    }

    #[test]
    fn a_fallback_source_is_kept_until_its_epoch_is_confirmed() {
        let mut list = epochs(&[(1, false), (2, false), (3, false), (4, false)]);
        list[2].source = Some(EpochNumber(1));
        assert_eq!(numbers(&kept(&list, 2, None)), [1, 3, 4], "epoch 3 rests on epoch 1, past its predecessor");
        list[2].confirmed = true;
        assert_eq!(numbers(&kept(&list, 2, None)), [3, 4]);
    }
}
