//! Epochs that are kept, debts of nodes, and the records that go all the same.

use keyfleet_crds::epoch::Phase;

use super::{proven, steady};
use crate::state::State;
use crate::{Action, decide, erasure};

/// A fleet at rest whose epochs `numbers` are Confirmed, each with the four receivers of the first.
fn confirmed(numbers: &[u64]) -> State {
    let (_, mut state) = steady();
    let (_, first) = state.active().unwrap();
    let (first, receivers) = (first.clone(), first.receivers());
    state.epochs.clear();
    for number in numbers {
        let mut epoch = first.clone();
        epoch.spec.number = *number;
        let status = epoch.status.as_mut().unwrap();
        (status.phase, status.kept) = (Some(Phase::Confirmed), None);
        state.epochs.insert(*number, epoch);
    }
    let newest = numbers.last().copied();
    state.cluster.status.active_epoch = newest;
    let holders = proven(&state, receivers);
    state.view.holds = newest.into_iter().map(|newest| (newest, holders.clone())).collect();
    state
}

/// The list that a decision writes into the record of an epoch.
fn listed(state: &State, of: u64) -> Option<Vec<u64>> {
    decide(state).actions.into_iter().find_map(|action| match action {
        Action::UpdateEpoch { number, status, .. } if number == of => status.kept,
        _ => None,
    })
}

/// Nodes destroy what the newest epoch does not list: a record that somebody deleted keeps no share alive.
#[test]
fn the_newest_epoch_lists_the_older_ones_that_are_there() {
    let mut state = confirmed(&[2, 5, 6]);
    assert_eq!(listed(&state, 6), Some(vec![2, 5]), "2 is to be retired, and listed until it is");
    state.epochs.get_mut(&2).unwrap().status.as_mut().unwrap().phase = Some(Phase::Retired);
    assert_eq!(listed(&state, 6), Some(vec![5]));
    state.epochs.remove(&5);
    assert_eq!(listed(&state, 6), Some(vec![]), "a deleted record is listed");
    assert_eq!(listed(&confirmed(&[2, 5, 6]), 5), None, "an older epoch lists what is kept");
}

/// Nodes take a longer list for a contradiction: what stands there stays.
#[test]
fn a_list_longer_than_retention_allows_is_not_written() {
    let most: Vec<u64> = (1..=7).collect();
    assert_eq!(listed(&confirmed(&most), 7), Some((1..=6).collect()), "two confirmed ones and four beside them");
    let more: Vec<u64> = (1..=8).collect();
    assert_eq!(listed(&confirmed(&more), 8), None);
}

/// A node that is away for a month, or never says `Erased`, leaves no pile of records.
#[test]
fn records_go_by_their_limit_whatever_is_owed() {
    let mut state = confirmed(&(1..=20).collect::<Vec<_>>());
    for number in 1..=18 {
        state.epochs.get_mut(&number).unwrap().status.as_mut().unwrap().phase = Some(Phase::Retired);
    }
    let gone = decide(&state).actions.into_iter().filter_map(|action| match action {
        Action::DeleteEpoch { number } => Some(number),
        _ => None,
    });
    assert_eq!(gone.collect::<Vec<_>>(), (1..=13).collect::<Vec<_>>(), "five stay to be read, and nobody said Erased");
}

/// Progress of each node's erasure, as a decision writes it down: through which epoch, and through which it has to.
fn noted(state: &State) -> Vec<(u32, Option<u64>, Option<u64>)> {
    let noted = decide(state).actions.into_iter().filter_map(|action| match action {
        Action::NoteErasure { index, erased_through, last_epoch, .. } => Some((index, erased_through, last_epoch)),
        _ => None,
    });
    noted.collect()
}

/// One node that proves and never erases stops nobody else's erasure: the debts of each are a number of its own.
#[test]
fn what_a_node_owes_is_one_number_that_only_rises() {
    let mut state = confirmed(&[5, 6]);
    assert!(noted(&state).is_empty(), "nobody erased anything");
    state.view.erased = [(1, 3), (2, 4), (3, 4)].into();
    assert_eq!(noted(&state), [(1, Some(3), None), (2, Some(4), None), (3, Some(4), None)]);
    state.nodes.get_mut(&1).unwrap().erased_through = Some(3);
    state.nodes.get_mut(&2).unwrap().erased_through = Some(9);
    assert_eq!(noted(&state), [(3, Some(4), None)], "a process that heard less takes something back");
}

/// A removed node goes once it erased the newest epoch that gave it a share, and not before.
#[test]
fn a_removed_node_goes_once_its_last_epoch_is_erased() {
    let mut state = confirmed(&[5, 6, 7]);
    for newer in [6, 7] {
        state.epochs.get_mut(&newer).unwrap().spec.receivers.retain(|receiver| receiver.index != 4);
    }
    state.cluster.spec.nodes = 3;
    state.nodes.get_mut(&4).unwrap().spec.removed = true;
    state.view.erased = [(4, 3)].into();
    assert_eq!(noted(&state), [(4, Some(3), Some(5))]);
    let node = state.nodes.get_mut(&4).unwrap();
    (node.erased_through, node.last_epoch) = (Some(3), Some(5));
    // Its record goes; what it owes does not.
    state.epochs.remove(&5);
    assert!(noted(&state).is_empty());
    assert!(!erasure::is_proven(true, Some(5), Some(3)), "it may still hold epoch 5");
    assert!(!erasure::is_proven(true, None, Some(3)), "nobody knows what it had");
    assert!(!erasure::is_proven(false, Some(5), Some(5)), "it is no removed node");
    assert!(erasure::is_proven(true, Some(5), Some(5)));
}
