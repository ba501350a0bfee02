//! A deleted `KmsCluster`. `Retain` leaves everything that the key needs; `Destroy` waits until every node has erased it.

use keyfleet_crds::KmsNodeSpec;
use keyfleet_crds::cluster::DeletionPolicy;

use crate::state::{Recorded, State};
use crate::{Action, Facts, record};

/// The writes that end a cluster. Pods stop by themselves: a `KmsNode` without a live `KmsCluster` has none.
#[must_use]
pub fn actions(facts: &Facts<'_>) -> Vec<Action> {
    let state = facts.state;
    if !state.cluster.finalizer {
        return Vec::new();
    }
    let release = Action::SetClusterFinalizer { present: false };
    if state.namespace_ends {
        // Nothing can be kept or made here any more: whatever still holds an object lets it go.
        return let_go(state).chain([release]).collect();
    }
    let Some(id) = facts.id() else { return vec![release] };
    match state.cluster.spec.deletion_policy {
        DeletionPolicy::Retain => {
            // The record first: it is what the fleet is found by again.
            if let Recorded::Unreadable(_) = state.record {
                return vec![release];
            }
            let write = record::write(facts, id);
            // Pods flush what they have when they are stopped; the cluster goes when they are gone.
            write.into_iter().chain(state.stopped.then_some(release)).collect()
        }
        DeletionPolicy::Destroy => destroy(state, release),
    }
}

fn let_go(state: &State) -> impl Iterator<Item = Action> {
    let nodes = state.nodes.keys().map(|index| Action::ReleaseNode { index: *index });
    let epochs = state.epochs.iter().filter(|(_, epoch)| epoch.finalizer);
    nodes.chain(epochs.map(|(number, _)| Action::SetEpochFinalizer { number: *number, present: false }))
}

fn destroy(state: &State, release: Action) -> Vec<Action> {
    let mut actions = Vec::new();
    for (index, node) in &state.nodes {
        if node.erased {
            actions.push(Action::DeleteNode { index: *index });
            if node.deleting {
                actions.push(Action::ReleaseNode { index: *index });
            }
        } else if !node.spec.removed {
            let spec = KmsNodeSpec { removed: true, ..node.spec.clone() };
            let resource_version = node.resource_version.clone();
            actions.push(Action::UpdateNode { resource_version, spec: Box::new(spec) });
        }
    }
    if state.nodes.is_empty() {
        for (number, epoch) in &state.epochs {
            if epoch.finalizer {
                actions.push(Action::SetEpochFinalizer { number: *number, present: false });
            }
            actions.push(Action::DeleteEpoch { number: *number });
        }
        if !matches!(state.record, Recorded::Absent) {
            actions.push(Action::DeleteRecord);
        }
        actions.push(release);
    }
    actions
}
