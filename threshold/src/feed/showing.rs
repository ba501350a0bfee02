//! Kept epochs on one stream: which of them the reader has not been shown yet.

use std::collections::BTreeMap;

use crate::identifiers::EpochNumber;
use crate::purpose::Certificate;
use crate::round::{PersistentState, ShownEpoch};

/// Remembers what one stream has shown of the kept epochs.
#[derive(Clone, Default, Debug)]
pub struct Showing(BTreeMap<EpochNumber, Certificate>);

impl Showing {
    /// Returns the kept epochs of a committed state that were not shown yet, newest first: whoever was away needs that one
    /// soonest. A list of qualified bundles never changes once it is proven, so an epoch is shown once.
    pub fn next(&mut self, state: &PersistentState) -> Vec<ShownEpoch> {
        let kept = |number: &EpochNumber| state.attempts.get(number).is_some_and(|attempt| !attempt.retired);
        self.0.retain(|number, _| kept(number));
        let mut fresh = Vec::new();
        for (number, attempt) in state.attempts.iter().rev() {
            if attempt.certificate().is_none_or(|certificate| self.0.get(number) == Some(certificate)) {
                continue;
            }
            let Some(shown) = ShownEpoch::of(attempt) else { continue };
            self.0.insert(*number, shown.certificate);
            fresh.push(shown);
        }
        fresh
    }
}
