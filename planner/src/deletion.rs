//! A deleted `KmsCluster`. `Retain` leaves everything that the key needs; `Destroy` waits until every node has erased it.

use keyfleet_crds::KmsNodeSpec;
use keyfleet_crds::cluster::DeletionPolicy;
use keyfleet_crds::values::ClusterId;

use crate::state::{Node, Recorded, State};
use crate::{Action, Facts, record};

/// Longest wait of a deletion for pods to end, in seconds.
const STOP_SECONDS_MAX: i64 = 300;

/// The writes that end a cluster. Pods stop by themselves: a `KmsNode` without a live `KmsCluster` has none.
#[must_use]
pub(crate) fn actions(facts: &Facts<'_>) -> Vec<Action> {
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
            write.into_iter().chain(has_stopped(state).then_some(release)).collect()
        }
        DeletionPolicy::Destroy => destroy(state, id, release),
    }
}

/// Returns true when no pod is left to flush, or the deletion has waited as long as it may: a pod on a worker that is gone may
/// never end, and its volume keeps what it did not flush.
fn has_stopped(state: &State) -> bool {
    let waited = state.deleted_at.is_some_and(|since| state.now.as_second() - since.as_second() >= STOP_SECONDS_MAX);
    !state.pods_left || waited
}

fn let_go(state: &State) -> impl Iterator<Item = Action> {
    let nodes = state.nodes.keys().map(|index| Action::ReleaseNode { index: *index });
    let epochs = state.epochs.iter().filter(|(_, epoch)| epoch.finalizer);
    nodes.chain(epochs.map(|(number, _)| Action::SetEpochFinalizer { number: *number, present: false }))
}

/// Nodes, epochs and the record of another fleet that had this name are left as they are.
fn destroy(state: &State, id: ClusterId, release: Action) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut nodes = state.nodes.iter().filter(|(_, node)| node.spec.cluster_id == id).peekable();
    if nodes.peek().is_some() {
        nodes.for_each(|(index, node)| actions.extend(destroy_node(*index, node)));
        return actions;
    }
    for (number, epoch) in state.epochs.iter().filter(|(_, epoch)| epoch.spec.cluster_id == id) {
        if epoch.finalizer {
            actions.push(Action::SetEpochFinalizer { number: *number, present: false });
        }
        actions.push(Action::DeleteEpoch { number: *number });
    }
    if !matches!(state.record, Recorded::Absent) && !state.has_record_of_another(id) {
        actions.push(Action::DeleteRecord);
    }
    actions.push(release);
    actions
}

/// Lets a node go, and its object once everything secret is gone.
fn destroy_node(index: u32, node: &Node) -> Vec<Action> {
    if node.erased {
        let released = node.deleting.then_some(Action::ReleaseNode { index });
        return [Action::DeleteNode { index }].into_iter().chain(released).collect();
    }
    if node.spec.removed {
        return Vec::new();
    }
    let spec = Box::new(KmsNodeSpec { removed: true, ..node.spec.clone() });
    vec![Action::UpdateNode { resource_version: node.resource_version.clone(), spec }]
}
