//! Kept epochs of a node: what the newest record lists, and what the node keeps whatever a record says.
//!
//! Any t shares of any epoch open the key, so a share dies with the need for it. The word for that is a list in the record of
//! the newest epoch, and not the record of the epoch itself, which somebody may delete. The list alone destroys nothing: a
//! node keeps the epochs that it serves and deals on, and [`Participant::retire`](super::Participant::retire) wants to know
//! first that enough nodes hold a newer one.

use std::collections::BTreeSet;

use super::outputs::Contradiction;
use super::record::RoundRecord;
use super::state::{Attempt, PersistentState, Verdict};
use crate::coordination::retention::listed_max;
use crate::identifiers::EpochNumber;

impl PersistentState {
    /// Lists the epochs that the record keeps no longer and that this node has not retired, oldest first. Some of them it keeps
    /// all the same.
    ///
    /// `record` gives what is read of a round. Only the list of the newest certified epoch counts: an older record may have come
    /// back with a backup, and one whose certificate this node did not verify may be anybody's.
    ///
    /// # Errors
    /// When the list is longer than `retention` allows: the operator is at fault, and nothing is retired.
    pub fn unlisted<'a>(
        &self,
        record: impl FnOnce(EpochNumber) -> Option<&'a RoundRecord>,
        retention: usize,
    ) -> Result<Vec<EpochNumber>, Contradiction> {
        let Some((newest, attempt)) = self.newest_epoch() else { return Ok(Vec::new()) };
        let Some(listed) = record(newest).and_then(|record| listed(record, attempt)) else { return Ok(Vec::new()) };
        if listed.len() > listed_max(retention) {
            return Err(Contradiction::Kept { number: newest, listed: listed.len(), most: listed_max(retention) });
        }
        let old = self.attempts.range(..newest).filter(|(number, attempt)| {
            let lives = matches!(attempt.verdict, Some(Verdict::Active(_))) && !attempt.retired;
            lives && !listed.contains(number)
        });
        Ok(old.map(|(number, _)| *number).collect())
    }

    /// Returns true for an epoch that the node keeps, whatever a record says.
    pub(crate) fn keeps(&self, number: EpochNumber) -> bool {
        self.newest_epoch().is_none_or(|(newest, _)| number >= newest) || self.kept_anyway().contains(&number)
    }

    /// The newest epoch that the node holds and the one held before it, and what open attempts are dealt on. A removed node keeps
    /// nothing.
    fn kept_anyway(&self) -> BTreeSet<EpochNumber> {
        if self.is_removed() {
            return BTreeSet::new();
        }
        let held = self.attempts.iter().rev().filter(|(_, attempt)| attempt.holds_share && !attempt.is_open());
        let open = self.attempts.values().filter(|attempt| attempt.is_open());
        let sources = open.filter_map(|attempt| Some(attempt.plan.source()?.number));
        held.take(2).map(|(number, _)| *number).chain(sources).collect()
    }

    /// Returns true for a node that had a share once, and gets none of the newest epoch: it destroys every secret but its identity.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        let receives = |attempt: &Attempt| attempt.plan.receiver(self.index).is_some();
        let is_out = self.newest_epoch().is_some_and(|(_, newest)| !receives(newest));
        is_out && self.attempts.values().any(|attempt| attempt.certificate().is_some() && receives(attempt))
    }

    /// The newest epoch of which this node verified the certificate.
    pub(super) fn newest_epoch(&self) -> Option<(EpochNumber, &Attempt)> {
        let certified = self.attempts.iter().rev().find(|(_, attempt)| attempt.certificate().is_some());
        certified.map(|(number, attempt)| (*number, attempt))
    }
}

/// The list in the record of a certified attempt. It counts only beside the certificate that the node verified.
pub(super) fn listed<'a>(record: &'a RoundRecord, attempt: &Attempt) -> Option<&'a [EpochNumber]> {
    let is_verified = record.certificate.is_some() && record.certificate.as_ref() == attempt.certificate();
    record.kept.as_deref().filter(|_| is_verified)
}
