//! Confirming and retiring: which proofs count, when nodes are asked anew, and who is not waited for.

use jiff::SignedDuration;
use keyfleet_crds::epoch::Phase;
use keyfleet_threshold::coordination::Decision;

use super::{proven, steady};
use crate::state::{State, ms};
use crate::{Action, decide};

/// A fleet of four whose newest epoch can be confirmed by all of them. Returns its number.
fn unconfirmed() -> (State, u64) {
    let (_, mut state) = steady();
    let (number, _) = state.active().unwrap();
    let status = state.epochs.get_mut(&number).unwrap().status.as_mut().unwrap();
    (status.phase, status.timings.as_mut().unwrap().confirmed) = (Some(Phase::Active), None);
    state.view.closing.get_mut(&number).unwrap().decision = Some(Decision::Confirm);
    (state, number)
}

/// A fleet whose first epoch is to be retired, the newest being held by three of four. Returns the numbers of both.
fn retiring() -> (State, u64, u64) {
    let (_, mut state) = steady();
    state.cluster.spec.epochs.retention = 1;
    let (number, epoch) = state.active().map(|(number, epoch)| (number, epoch.clone())).unwrap();
    let newest = number + 2;
    for newer in [number + 1, newest] {
        let mut epoch = epoch.clone();
        epoch.spec.number = newer;
        epoch.status.as_mut().unwrap().phase = Some(Phase::Confirmed);
        state.epochs.insert(newer, epoch);
    }
    state.cluster.status.active_epoch = Some(newest);
    let three = proven(&state, [1, 2, 3]);
    state.view.holds.insert(newest, three);
    (state, number, newest)
}

fn moves(state: &State, number: u64, to: Phase) -> bool {
    let is = |action: &Action| matches!(action, Action::UpdateEpoch { number: of, status, .. } if *of == number && status.phase == Some(to));
    decide(state).actions.iter().any(is)
}

fn later(state: &mut State, seconds: i64) {
    state.now += SignedDuration::from_secs(seconds);
}

/// Nodes that proved to hold an epoch a while ago may be gone for good.
#[test]
fn old_proofs_confirm_nothing_until_nodes_are_asked_anew() {
    let (mut state, number) = unconfirmed();
    later(&mut state, 60);
    assert!(moves(&state, number, Phase::Confirmed), "a proof is good for a minute");
    later(&mut state, 1);
    assert!(!moves(&state, number, Phase::Confirmed), "proofs of more than a minute ago confirm an epoch");
    assert!(decide(&state).asks, "nobody is asked, so that it is never confirmed");
    state.view.asked_ms = Some(ms(state.now));
    assert!(!decide(&state).asks, "all are asked again and again");
    later(&mut state, 10);
    assert!(decide(&state).asks, "those who did not answer are not asked again");
    let all = proven(&state, 1..=4);
    state.view.holds.insert(number, all);
    assert!(moves(&state, number, Phase::Confirmed));
    assert!(!decide(&state).asks, "nothing is left to ask for");
}

#[test]
fn every_retirement_rests_on_proofs_of_its_own() {
    let (mut state, old, newest) = retiring();
    assert!(moves(&state, old, Phase::Retired), "three of threshold three hold the newest epoch");
    // Another epoch was retired after they were asked.
    let timings = state.epochs.get_mut(&(old + 1)).unwrap().status.as_mut().unwrap().timings.as_mut().unwrap();
    timings.retired = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(state.now));
    assert!(!moves(&state, old, Phase::Retired), "the proofs for another retirement are used again");
    assert!(decide(&state).asks);
    later(&mut state, 1);
    let three = proven(&state, [1, 2, 3]);
    state.view.holds.insert(newest, three);
    assert!(moves(&state, old, Phase::Retired));
    later(&mut state, 61);
    assert!(!moves(&state, old, Phase::Retired), "old proofs retire an epoch");
}

/// Node 4 is connected for ever and proves nothing. The age of an epoch waits for it once, until a later round has succeeded beside
/// it.
#[test]
fn a_node_that_proves_nothing_blocks_no_epoch_for_ever() {
    let (mut state, number) = unconfirmed();
    state.view.closing.clear();
    let after = i64::from(state.cluster.spec.epochs.confirm_after_seconds);
    later(&mut state, after);
    let three = proven(&state, [1, 2, 3]);
    state.view.holds.insert(number, three.clone());
    let since = ms(state.now) - 1_000;
    state.view.known_since_ms = (1..=4).map(|index| (index, since)).collect();
    assert!(!moves(&state, number, Phase::Confirmed), "node 4 answers and may be catching up");

    let mut newer = state.epochs[&number].clone();
    newer.spec.number = number + 1;
    let timings = newer.status.as_mut().unwrap().timings.as_mut().unwrap();
    timings.ended = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(state.now));
    state.epochs.insert(number + 1, newer);
    assert!(moves(&state, number, Phase::Confirmed), "a node that proves nothing blocks it for ever");
    state.view.holds.insert(number + 1, proven(&state, [4]));
    assert!(!moves(&state, number, Phase::Confirmed), "node 4 proves a newer one, and is no stranger");
    state.view.holds.remove(&(number + 1));
    state.view.known_since_ms.insert(4, ms(state.now) + 1);
    assert!(!moves(&state, number, Phase::Confirmed), "node 4 was not there in the later round");
    let two = proven(&state, [1, 2]);
    state.view.holds.insert(number, two);
    state.view.known_since_ms.insert(4, since);
    assert!(!moves(&state, number, Phase::Confirmed), "fewer than the threshold hold it");
}
