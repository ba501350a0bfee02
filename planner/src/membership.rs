//! Membership: the nodes that exist, and those that should. An index is an identity: given once, never again.

use std::collections::{BTreeMap, BTreeSet};

use keyfleet_crds::KmsNodeSpec;
use keyfleet_crds::cluster::status::Erasure;
use keyfleet_crds::values::{ClusterId, PinnedKey};

use crate::state::{Node, State};
use crate::{Action, Facts};

/// The nodes of a cluster, decided.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Members {
    /// Indexes that belong to the fleet and are not being removed, ascending.
    pub(crate) stay: BTreeSet<u32>,
    /// Indexes that are being removed, each true where it is given up as lost.
    pub(crate) leave: BTreeMap<u32, bool>,
    /// Number of indexes to give until the fleet has the size of the spec.
    pub(crate) missing: u32,
}

/// Returns the nodes that belong, those that leave, and how many are missing: a function of the objects alone.
#[must_use]
pub(crate) fn members(state: &State) -> Members {
    let spec = &state.cluster.spec;
    let mut all: BTreeMap<u32, bool> = BTreeMap::new();
    for node in state.recorded().into_iter().flat_map(|record| &record.nodes) {
        all.insert(node.index, node.removed);
    }
    for receiver in state.active().into_iter().flat_map(|(_, epoch)| &epoch.spec.receivers) {
        all.entry(receiver.index).or_insert(false);
    }
    for (index, node) in &state.nodes {
        *all.entry(*index).or_insert(false) |= node.spec.removed;
    }
    // Given, and not made yet: whatever lies above all that is known, and below the next index. Before there is a key nothing
    // was ever removed but by name, so that every index below it belongs.
    let gone: BTreeSet<u32> = state
        .cluster
        .status
        .removed_nodes
        .iter()
        .filter(|node| node.erasure != Erasure::Pending && !state.nodes.contains_key(&node.index))
        .map(|node| node.index)
        .collect();
    let known = all.keys().chain(&gone).max().copied().unwrap_or(0);
    let next = u32::try_from(state.cluster.status.next_index.unwrap_or(1)).unwrap_or(u32::MAX);
    for index in known.saturating_add(1)..next {
        all.insert(index, false);
    }
    let named: BTreeMap<u32, bool> = spec.remove_nodes.iter().map(|remove| (remove.index, remove.lost)).collect();
    let mut stay: BTreeSet<u32> = all
        .iter()
        .filter(|(index, removed)| !**removed && !gone.contains(index) && !named.contains_key(index))
        .map(|(index, _)| *index)
        .collect();
    let mut leave: BTreeMap<u32, bool> = BTreeMap::new();
    for (index, removed) in &all {
        let named = named.get(index);
        if !gone.contains(index) && (*removed || named.is_some()) {
            let lost = state.nodes.get(index).is_some_and(|node| node.spec.lost);
            leave.insert(*index, lost || named.copied().unwrap_or(false));
        }
    }
    while stay.len() > spec.nodes as usize {
        let highest = stay.pop_last().expect("more than spec.nodes, which is at least 3");
        leave.insert(highest, false);
    }
    let missing = spec.nodes.saturating_sub(u32::try_from(stay.len()).unwrap_or(u32::MAX));
    Members { stay, leave, missing }
}

/// The pin of an index that a plan or record names: nobody else may ever be pinned under it.
#[must_use]
pub(crate) fn known_pin(state: &State, index: u32) -> Option<PinnedKey> {
    let planned = state.epochs.values().rev().find_map(|epoch| {
        let receivers = epoch.spec.receivers.iter().map(|receiver| (receiver.index, receiver.identity_key));
        let dealers = epoch.spec.dealers.iter().map(|dealer| (dealer.index, dealer.identity_key));
        receivers.chain(dealers).find(|(named, _)| *named == index).map(|(_, key)| key)
    });
    planned.or_else(|| state.recorded()?.nodes.iter().find(|node| node.index == index)?.identity_key)
}

/// Returns the other index that a key is pinned, planned or recorded under, or offered by a node before this one: under two indexes
/// no plan is valid.
#[must_use]
pub(crate) fn other_owner(state: &State, index: u32, key: PinnedKey) -> Option<u32> {
    let pinned = state.nodes.iter().map(|(of, node)| (*of, node.spec.identity_key));
    let first = state.nodes.range(..index).map(|(of, node)| (*of, node.offered));
    let recorded = state.recorded().into_iter().flat_map(|record| &record.nodes);
    let recorded = recorded.map(|node| (node.index, node.identity_key));
    let planned = state.epochs.values().flat_map(|epoch| {
        let receivers = epoch.spec.receivers.iter().map(|receiver| (receiver.index, Some(receiver.identity_key)));
        receivers.chain(epoch.spec.dealers.iter().map(|dealer| (dealer.index, Some(dealer.identity_key))))
    });
    let mut known = pinned.chain(planned).chain(recorded).chain(first);
    known.find(|(of, pin)| *of != index && *pin == Some(key)).map(|(of, _)| of)
}

/// The nodes that wait for a pin because the identity that they offer is another's, each with that other's index.
pub(crate) fn impostors(state: &State) -> impl Iterator<Item = (u32, u32)> {
    let waiting = state.nodes.iter().filter(|(_, node)| node.spec.identity_key.is_none());
    waiting.filter_map(|(index, node)| Some((*index, other_owner(state, *index, node.offered?)?)))
}

/// The writes that bring `KmsNode`s to what [`members`] says.
#[must_use]
pub(crate) fn actions(facts: &Facts<'_>, id: ClusterId) -> Vec<Action> {
    let (state, members) = (facts.state, &facts.members);
    let name = &state.cluster.name;
    let mut actions = Vec::new();
    let wanted = members.stay.iter().chain(members.leave.keys().filter(|index| {
        // A node that leaves is made anew while its secrets may still exist somewhere: it has to erase them.
        known_pin(state, **index).is_some()
    }));
    for index in wanted {
        let removed = members.leave.get(index);
        let spec = KmsNodeSpec {
            cluster_name: name.clone(),
            cluster_id: id,
            index: *index,
            identity_key: known_pin(state, *index),
            removed: removed.is_some(),
            lost: removed.copied().unwrap_or(false),
        };
        match state.nodes.get(index) {
            None => actions.push(Action::CreateNode(Box::new(spec))),
            // Goes at once and comes back: the deletion of a KmsNode is no way to scale.
            Some(node) if node.deleting => actions.push(Action::ReleaseNode { index: *index }),
            Some(node) => {
                let offered = node.offered.filter(|key| other_owner(state, *index, *key).is_none());
                let identity_key = node.spec.identity_key.or(spec.identity_key).or(offered);
                actions.extend(update(node, KmsNodeSpec { identity_key, ..node.spec.clone() }, removed.copied()));
            }
        }
    }
    actions.extend(leavers_that_are_gone(facts));
    actions
}

/// The writes that mark those nodes as removed that a person names, and none besides: all that is decided on a record that may be
/// older than the nodes.
#[must_use]
pub(crate) fn removals(facts: &Facts<'_>) -> Vec<Action> {
    let State { cluster, nodes, .. } = facts.state;
    let named = cluster.spec.remove_nodes.iter().filter_map(|remove| Some((nodes.get(&remove.index)?, remove.lost)));
    named.filter_map(|(node, lost)| update(node, node.spec.clone(), Some(lost))).collect()
}

/// The write of a node's spec, where it changes. A node is removed for good: with `removed` it is, lost or not.
fn update(node: &Node, spec: KmsNodeSpec, removed: Option<bool>) -> Option<Action> {
    let after = KmsNodeSpec {
        removed: node.spec.removed || removed.is_some(),
        lost: node.spec.lost || removed.unwrap_or(false),
        ..spec
    };
    let resource_version = node.resource_version.clone();
    (after != node.spec).then(|| Action::UpdateNode { resource_version, spec: Box::new(after) })
}

/// Removed nodes whose secrets are proven gone: nothing keeps their objects.
fn leavers_that_are_gone(facts: &Facts<'_>) -> impl Iterator<Item = Action> {
    facts.members.leave.keys().filter_map(|index| {
        let node = facts.state.nodes.get(index)?;
        let removed = &facts.state.cluster.status.removed_nodes;
        let listed = removed.iter().any(|gone| gone.index == *index && gone.erasure != Erasure::Pending);
        (node.erased && node.spec.removed && listed).then_some(Action::DeleteNode { index: *index })
    })
}
