//! Debts of erasure: what nodes signed that they destroyed, one number for each. A record may go whatever is owed of it.

use std::collections::BTreeMap;

use keyfleet_crds::KmsNodeStatus;

use crate::state::{Node, State};
use crate::{Action, Facts};

/// Returns true for a removed node that erased everything which ever gave it a share.
#[must_use]
pub fn is_proven(removed: bool, last_epoch: Option<u64>, erased_through: Option<u64>) -> bool {
    removed && last_epoch.is_some() && erased_through >= last_epoch
}

/// As [`is_proven`], of a `KmsNode`.
pub(crate) fn is_proven_of(removed: bool, status: Option<&KmsNodeStatus>) -> bool {
    status.is_some_and(|status| is_proven(removed, status.last_epoch, status.erased_through))
}

/// Writes down how far each node erased, and of a removed one what it has to erase.
#[must_use]
pub(crate) fn actions(facts: &Facts<'_>) -> Vec<Action> {
    let state = facts.state;
    let last: BTreeMap<u32, u64> = last_epochs(state);
    let changed = state.nodes.iter().filter_map(|(index, node)| {
        let erased_through = node.erased_through.max(state.view.erased.get(index).copied());
        let got = last.get(index).copied().filter(|_| node.spec.removed);
        let last_epoch = node.last_epoch.max(got);
        let Node { resource_version, .. } = node;
        let is_new = (erased_through, last_epoch) != (node.erased_through, node.last_epoch);
        is_new.then(|| Action::NoteErasure {
            index: *index,
            resource_version: resource_version.clone(),
            erased_through,
            last_epoch,
        })
    });
    changed.collect()
}

/// The newest epoch that gave each node a share, as far as records are left.
fn last_epochs(state: &State) -> BTreeMap<u32, u64> {
    let activated = state
        .epochs
        .iter()
        .filter(|(_, epoch)| epoch.serves() || epoch.phase() == Some(keyfleet_crds::epoch::Phase::Retired));
    activated.flat_map(|(number, epoch)| epoch.receivers().into_iter().map(|index| (index, *number))).collect()
}
