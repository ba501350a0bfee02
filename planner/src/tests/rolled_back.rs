//! Stops because the API server's record may have gone back in time.

use keyfleet_crds::KeyEpochStatus;
use keyfleet_crds::cluster::RemoveNode;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::epoch::Phase;
use keyfleet_crds::values::ClusterId;
use keyfleet_threshold::coordination::{Decision, FailReason};

use super::model::Model;
use super::table::starts;
use super::{proven, steady};
use crate::rounds::{Trigger, due};
use crate::state::{Problem, Recorded};
use crate::{Action, Facts, decide};

/// A failed attempt can have a certificate that one node kept to itself. It proves nothing, whoever shows it, until threshold nodes
/// prove that they hold that epoch: whether the record forgot it or calls it failed.
#[test]
fn a_certificate_stops_only_with_threshold_proofs() {
    let (_, steady) = steady();
    let (number, active) = steady.active().unwrap();
    let newest = number + 1;
    let mut failed = steady.clone();
    let mut attempt = active.clone();
    attempt.spec.number = newest;
    attempt.status = Some(KeyEpochStatus { phase: Some(Phase::Failed), ..KeyEpochStatus::default() });
    failed.epochs.insert(newest, attempt);
    for (record, mut state) in [("does not know", steady), ("calls failed", failed)] {
        state.cluster.status.next_number = Some(newest + 1);
        state.view.certified.extend([(2, newest), (3, newest)]);
        state.view.thresholds.insert(newest, 3);
        state.view.holds.insert(newest, proven(&state, [2, 3]));
        assert!(Facts::of(&state).gates.record.is_ok(), "two of four nodes stopped the fleet: the record {record} it");
        state.view.holds.insert(newest, proven(&state, [2, 3, 4]));
        let stop = Facts::of(&state).gates.record.expect_err("threshold nodes prove to hold it");
        assert!(stop.needs_person && stop.reason == Reason::RecordRolledBack, "{stop:?}");
        for part in ["nodes 2, 3, 4 prove", &format!("epoch {newest}"), record, "Restore a newer backup"] {
            assert!(stop.message.contains(part), "`{part}` is missing: {}", stop.message);
        }
    }
}

/// The record of an activation comes a moment after the nodes hold the epoch. Only a round that is about to fail contradicts them.
#[test]
fn a_round_under_way_is_not_failed_against_its_holders() {
    let (_, mut state) = steady();
    let (number, active) = state.active().map(|(number, active)| (number, active.clone())).unwrap();
    let newest = number + 1;
    let mut open = active;
    open.spec.number = newest;
    open.status.as_mut().unwrap().phase = Some(Phase::Certifying);
    state.epochs.insert(newest, open);
    state.view.certified.insert(2, newest);
    state.view.thresholds.insert(newest, 3);
    state.view.holds.insert(newest, proven(&state, [1, 2, 3]));
    assert!(Facts::of(&state).gates.record.is_ok(), "the record is a moment behind, and not in the past");
    let fails = Decision::Fail(FailReason::TooFewDealers { dealt: 2, needed: 3 });
    state.view.closing.entry(newest).or_default().decision = Some(fails);
    assert!(Facts::of(&state).gates.record.is_err(), "an epoch that three nodes hold would be called failed");
    let fails = |action: &Action| matches!(action, Action::UpdateEpoch { number, .. } if *number == newest);
    assert!(!decide(&state).actions.iter().any(fails), "the record of an epoch that nodes hold was written");
}

/// While everything else is stopped, a node that a person names is removed, and nobody else is touched.
#[test]
fn nodes_are_removed_while_decisions_are_stopped() {
    let (_, mut state) = steady();
    let newest = state.active().unwrap().0 + 40;
    state.view.certified.insert(3, newest);
    state.view.thresholds.insert(newest, 3);
    state.view.holds.insert(newest, proven(&state, [2, 3, 4]));
    state.cluster.spec.remove_nodes = vec![RemoveNode { index: 3, lost: true }];
    state.cluster.spec.nodes -= 1;
    state.nodes.remove(&1);
    assert!(Facts::of(&state).gates.record.is_err(), "what three nodes prove stays true when one of them goes");
    let writes = decide(&state).actions;
    let removed = |action: &Action| matches!(action, Action::UpdateNode { spec, .. } if spec.removed && spec.lost);
    assert!(writes.iter().any(removed), "node 3 is not removed: {writes:?}");
    let others = writes.iter().filter(|action| !removed(action));
    let others: Vec<_> = others.filter(|action| !matches!(action, Action::UpdateCluster { .. })).collect();
    assert!(others.is_empty(), "more than a removal was decided on a record from the past: {others:?}");
    state.cluster.status.cluster_id = Some(ClusterId([9; 16]));
    let writes = decide(&state).actions;
    assert!(!writes.iter().any(removed), "a node of another fleet of this name was removed");
}

/// Liars beyond what the threshold allows stop a fleet with a number. Naming them ends that.
#[test]
fn a_stop_by_invented_numbers_ends_when_the_liars_are_removed() {
    let (_, mut state) = steady();
    state.view.highest.extend([(2, u64::MAX), (3, u64::MAX)]);
    assert!(Facts::of(&state).gates.record.is_err(), "two of four may both be right");
    state.cluster.spec.remove_nodes = vec![RemoveNode { index: 3, lost: false }];
    assert!(Facts::of(&state).gates.record.is_ok(), "who causes a stop can be removed during it");
    let removed =
        |action: &Action| matches!(action, Action::UpdateNode { spec, .. } if spec.index == 3 && spec.removed);
    // With a replacement, its index is given first and node 3 removed in the next run.
    state.cluster.spec.nodes -= 1;
    assert!(decide(&state).actions.iter().any(removed), "node 3 is not removed");
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
    let told = Problem { reason: Reason::CredentialsRefused, message: "the key is refused".into() };
    state.nodes.get_mut(&3).unwrap().problems.push(told);
    state.view.certified.insert(3, 1);
    assert!(!starts(&state), "a second key was begun beside the one that node 3 shows");
    let stop = Facts::of(&state).gates.start.expect_err("nothing says why no key is made");
    assert!(stop.needs_person && stop.reason == Reason::RecordRolledBack, "{stop:?}");
    for part in ["node 3", "attempt 1", "spec.removeNodes"] {
        assert!(stop.message.contains(part), "`{part}` is missing: {}", stop.message);
    }
    state.view.certified.insert(1, 1);
    let both = Facts::of(&state).gates.start.expect_err("two show it");
    assert!(both.message.starts_with("nodes 1, 3 show a certificate"), "not all are named: {}", both.message);
    state.view.certified.remove(&1);
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
