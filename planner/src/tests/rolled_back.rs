//! Stops because the API server's record may have gone back in time.

use keyfleet_crds::cluster::RemoveNode;
use keyfleet_crds::conditions::Reason;

use super::model::Model;
use super::table::starts;
use super::{proven, steady};
use crate::rounds::{Trigger, due};
use crate::state::Recorded;
use crate::{Action, Facts, decide};

/// A failed attempt can have a certificate that one node kept to itself. When its record is gone, that node shows it.
#[test]
fn a_certificate_that_one_node_alone_shows_stops_nobody() {
    let (_, mut state) = steady();
    let newest = state.active().unwrap().0 + 40;
    state.view.certified.insert(3, newest);
    state.view.thresholds.insert(newest, 3);
    state.view.holds.insert(newest, proven(&state, [3]));
    assert!(Facts::of(&state).gates.record.is_ok(), "one node stopped the fleet with an epoch that it alone holds");

    let mut held = state.clone();
    held.view.holds.insert(newest, proven(&state, [2, 3, 4]));
    assert_eq!(Facts::of(&held).gates.record.unwrap_err().reason, Reason::RecordRolledBack, "t nodes prove to hold it");

    let mut shown = state;
    shown.view.certified.insert(2, newest);
    assert_eq!(
        Facts::of(&shown).gates.record.unwrap_err().reason,
        Reason::RecordRolledBack,
        "not all who show it are lost ones"
    );
    shown.cluster.spec.remove_nodes = vec![RemoveNode { index: 3, lost: false }];
    // With a replacement, its index is given first and node 3 removed in the next run.
    shown.cluster.spec.nodes -= 1;
    assert!(Facts::of(&shown).gates.record.is_ok(), "who causes a stop can be removed during it");
    let removes =
        |action: &Action| matches!(action, Action::UpdateNode { spec, .. } if spec.index == 3 && spec.removed);
    assert!(decide(&shown).actions.iter().any(removes), "node 3 is not removed");
}

/// An attempt that failed for the operator may have come to a certificate that one node made and kept. No second key is made
/// beside it unless a person says so.
#[test]
fn a_certificate_of_a_failed_genesis_stops_the_next() {
    let mut model = Model::calm(4);
    model.fail_next = 1;
    while model.api.now.cluster.status.failures_in_row.is_none() {
        model.step_calmly();
    }
    let mut state = model.state(0);
    state.block = Ok(state.block.unwrap() + 4);
    assert_eq!((state.active().map(|(number, _)| number), state.epochs.len()), (None, 1), "one attempt failed");
    assert!(starts(&state), "the next attempt is due");
    state.view.certified.insert(3, 1);
    assert!(!starts(&state), "a second key was begun beside the one that node 3 shows");
    let stop = Facts::of(&state).gates.start.expect_err("nothing says why no key is made");
    assert!(stop.needs_person && stop.reason == Reason::RecordRolledBack, "{stop:?}");
    for part in ["node 3", "attempt 1", "spec.removeNodes"] {
        assert!(stop.message.contains(part), "`{part}` is missing: {}", stop.message);
    }
    state.cluster.spec.remove_nodes = vec![RemoveNode { index: 3, lost: true }];
    let gates = Facts::of(&state).gates;
    assert!(gates.start.is_ok(), "whoever causes a stop can be removed during it: {gates:?}");
    let due = due(&Facts::of(&state), state.last_block);
    assert_eq!(due, Some(Trigger::Genesis), "a node that is removed keeps the fleet from its key");
}

/// One node's lie about a number stops nobody; a number from more nodes than may be corrupt stops everything.
#[test]
fn one_node_that_invents_a_number_does_not_stop_the_fleet() {
    let (_, mut state) = steady();
    state.view.highest.insert(1, u64::MAX);
    assert!(
        Facts::of(&state).gates.record.is_ok(),
        "a single node stopped the fleet with a number that nobody else saw"
    );
    state.view.highest.insert(2, 1_000);
    let stop = Facts::of(&state).gates.record.unwrap_err();
    assert_eq!(stop.reason, Reason::RecordRolledBack);
    assert!(stop.message.contains("1000"), "not the invented number: {}", stop.message);
}

/// One node with a high number is no reason to restore a backup: there is nothing in it.
#[test]
fn a_number_alone_stops_no_fleet_without_a_key() {
    let mut model = Model::calm(4);
    model.fail_next = 1;
    while model.api.now.cluster.status.failures_in_row.is_none() {
        model.step_calmly();
    }
    let mut state = model.state(0);
    state.block = Ok(state.block.unwrap() + 4);
    assert!(!state.has_key() && starts(&state), "the next attempt is due");
    state.view.highest.insert(1, 900);
    assert!(Facts::of(&state).gates.record.is_ok(), "a fleet without a key is told to restore a backup");
    assert!(starts(&state), "a number of a failed attempt keeps the fleet from its key");
}

/// Where no node may be lost, one alone is enough to stop; the sentence is about that one.
#[test]
fn a_stop_by_one_node_names_that_node_alone() {
    let (_, mut state) = steady();
    let number = state.active().unwrap().0;
    state.epochs.get_mut(&number).unwrap().spec.threshold = 4;
    state.record = Recorded::Absent;
    state.view.highest.insert(3, 900);
    let stop = Facts::of(&state).gates.record.unwrap_err();
    assert!(stop.message.starts_with("node 3 says that number 900"), "{}", stop.message);
    state.view.highest.insert(1, 900);
    let stop = Facts::of(&state).gates.record.unwrap_err();
    assert!(stop.message.starts_with("nodes 1, 3 say that number 900"), "{}", stop.message);
}
