//! Members that are not as they should be: without a prekey, with another's identity, guilty, or named twice.

use keyfleet_crds::cluster::RemoveNode;
use keyfleet_crds::conditions::ClusterCondition;
use keyfleet_crds::epoch::Phase;
use keyfleet_crds::epoch::status::{Culprit, Fault};
use keyfleet_crds::values::{Digest, PinnedKey};

use super::steady;
use crate::rounds::{Trigger, due};
use crate::state::{Node, State};
use crate::{Action, Facts, decide, key_epoch, status};

/// Adds a node that has just been made: it is not pinned and has no prekey.
fn newcomer(state: &mut State, index: u32) -> &mut Node {
    let mut node = state.nodes[&1].clone();
    (node.spec.index, node.spec.identity_key, node.offered, node.prekey) = (index, None, None, None);
    state.nodes.insert(index, node);
    state.cluster.spec.nodes = u32::try_from(state.nodes.len()).unwrap();
    state.nodes.get_mut(&index).unwrap()
}

fn condition(state: &State, type_: ClusterCondition) -> (String, String) {
    let status = status::status(&Facts::of(state), None, None);
    let found = status.conditions.into_iter().find(|one| one.type_ == type_.as_str()).expect("there is always one");
    (found.reason, found.message)
}

/// A receiver of the active epoch without a prekey is planned without one; its silence must not keep another in the fleet.
#[test]
fn a_member_that_shows_no_prekey_stops_no_change() {
    let (_, steady) = steady();
    let block = steady.cluster.status.last_processed_boundary.unwrap() + 1;
    let mut state = steady.clone();
    state.nodes.get_mut(&2).unwrap().prekey = None;
    state.cluster.spec.nodes = 3;
    state.cluster.spec.remove_nodes = vec![RemoveNode { index: 4, lost: true }];
    assert_eq!(due(&Facts::of(&state), block), Some(Trigger::Change), "node 2 keeps node 4 in the fleet");

    let mut state = steady;
    newcomer(&mut state, 5);
    assert_eq!(due(&Facts::of(&state), block), None, "a newcomer without a prekey is waited for");
    let (reason, message) = condition(&state, ClusterCondition::Progressing);
    assert!(reason == "Scaling" && message.contains("waits for the prekeys of keys-5"), "{reason}: {message}");
    state.nodes.get_mut(&5).unwrap().prekey = state.nodes[&1].prekey;
    assert_eq!(due(&Facts::of(&state), block), Some(Trigger::Change));
    let (_, message) = condition(&state, ClusterCondition::Progressing);
    assert!(!message.contains("prekeys"), "{message}");
}

fn pins(state: &State) -> Vec<(u32, Option<PinnedKey>)> {
    let updates = decide(state).actions.into_iter().filter_map(|action| match action {
        Action::UpdateNode { spec, .. } => Some((spec.index, spec.identity_key)),
        _ => None,
    });
    updates.collect()
}

/// With one identity under two indexes no plan is valid, and no round would be held any more.
#[test]
fn an_identity_is_pinned_under_one_index_only() {
    let (_, steady) = steady();
    let (pinned, new) = (steady.nodes[&1].spec.identity_key, PinnedKey([77; 32]));
    let mut state = steady.clone();
    newcomer(&mut state, 5).offered = pinned;
    assert_eq!(pins(&state), [], "the identity of node 1 was pinned for node 5");
    let (reason, message) = condition(&state, ClusterCondition::Degraded);
    assert_eq!(reason, "IdentityTaken");
    for part in ["node 5 offers the identity of node 1", "removeNodes", "docs/runbooks/identity-lost.md"] {
        assert!(message.contains(part), "`{part}` is missing: {message}");
    }
    // Plans and the record name it where the object of node 1 is gone.
    state.nodes.remove(&1);
    assert!(pins(&state).iter().all(|(index, _)| *index != 5), "a plan names it for node 1");
    state.epochs.clear();
    assert!(pins(&state).iter().all(|(index, _)| *index != 5), "the record names it for node 1");

    let mut state = steady;
    newcomer(&mut state, 5).offered = Some(new);
    newcomer(&mut state, 6).offered = Some(new);
    assert_eq!(pins(&state), [(5, Some(new))], "two newcomers that offer one key");
}

/// `status.holders` is what anyone wrote there.
#[test]
fn a_holder_that_is_named_twice_gives_no_key() {
    let (_, state) = steady();
    let (_, epoch) = state.active().unwrap();
    let mut status = epoch.status.clone().unwrap();
    let holders = status.holders.as_mut().unwrap();
    holders[1] = holders[0].clone();
    assert_eq!(key_epoch::public_key::public_key_of(&epoch.spec, &status), None);
}

/// An operator that has just started has not heard again what proved a node guilty.
#[test]
fn the_record_keeps_its_culprits_over_an_operators_restart() {
    let (mut model, _) = steady();
    model.block += model.interval();
    while model.state(0).open().is_none_or(|(_, open)| open.phase() != Some(Phase::Verifying)) {
        model.step_calmly();
    }
    let mut state = model.state(0);
    let (number, _) = state.open().unwrap();
    let culprit = |index, fault, evidence_digests| Culprit { index, fault, evidence_digests };
    let proven = culprit(4, Fault::InvalidDealing, vec![Digest([5; 32])]);
    let status = state.epochs.get_mut(&number).unwrap().status.as_mut().unwrap();
    status.culprits = vec![culprit(3, Fault::NoDealing, vec![]), proven.clone()];
    let written = decide(&state).actions.into_iter().find_map(|action| match action {
        Action::UpdateEpoch { number: of, status, .. } if of == number => Some(status.culprits),
        _ => None,
    });
    assert_eq!(written, Some(vec![proven]), "what is proven is forgotten, or what was only silence is kept");
}
