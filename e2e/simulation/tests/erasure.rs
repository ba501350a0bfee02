//! Secrets of old epochs: they die on every node, whoever is away, whatever is deleted and whoever does not say so. That what is said
//! to be erased is closed is an invariant, checked after every event.

use keyfleet_simulation::{Behaviour, Fleet, Settings};
use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};

fn index(i: u32) -> NodeIndex {
    NodeIndex::new(i).expect("indices start at one")
}

/// A fleet of four, threshold three, whose rounds follow each other closely, with its first epoch.
fn fleet(seed: u64) -> (Fleet, EpochNumber) {
    let mut fleet = Fleet::new(seed, Settings::CALM, 4, 3, 3);
    fleet.edit(|spec| {
        let deadlines = &mut spec.schedule.deadlines;
        (deadlines.dealing_blocks, deadlines.verifying_blocks) = (1, 1);
        (deadlines.preparing_blocks, deadlines.certifying_blocks) = (1, 1);
        spec.schedule.interval_blocks = 5;
    });
    let first = fleet.next_active(None, 30);
    fleet.run_until("everyone holds it", 5, |fleet| fleet.holders(first).len() == 4);
    (fleet, first)
}

fn erased_through(fleet: &Fleet, node: u32) -> Option<u64> {
    fleet.api.now.nodes.get(&node).and_then(|node| node.erased_through)
}

/// Nodes destroyed what a `KeyEpoch` said was retired, and one that was deleted before said nothing.
#[test]
fn a_deleted_key_epoch_keeps_no_share_alive() {
    let (mut fleet, first) = fleet(21);
    let second = fleet.next_active(Some(first), 30);
    fleet.run_blocks(1);
    assert!(fleet.delete_epoch(first), "only the active one is held by its finalizer");
    let mut active = second;
    for _ in 0..4 {
        active = fleet.next_active(Some(active), 30);
    }
    fleet.run_blocks(2);
    let holders: Vec<_> = fleet.nodes.values().filter(|node| node.has_share(first)).map(|node| node.index).collect();
    assert!(holders.is_empty(), "the deleted epoch's share lives on {holders:?}");
    assert!((1..=4).all(|node| erased_through(&fleet, node) > Some(first.0)), "not every node says that it erased it");
}

/// Thirty epochs come and go, and most of their records with them. The node returns, and owes one number.
#[test]
fn a_node_away_for_thirty_epochs_leaves_no_pile() {
    let (mut fleet, first) = fleet(22);
    // With a node away epochs are confirmed, and retired, by their age alone.
    fleet.edit(|spec| spec.epochs.confirm_after_seconds = 60);
    fleet.take_down(4);
    let mut active = first;
    for _ in 0..30 {
        active = fleet.next_active(Some(active), 30);
    }
    fleet.run_blocks(2);
    assert!(fleet.epochs().count() <= 12, "{} records are left", fleet.epochs().count());
    assert!(erased_through(&fleet, 1) > Some(25), "its absence stops the erasure of others");
    assert!(erased_through(&fleet, 4).is_none());
    fleet.bring_up(4);
    for _ in 0..3 {
        active = fleet.next_active(Some(active), 30);
    }
    fleet.run_blocks(2);
    assert!(erased_through(&fleet, 4) > Some(30), "it owes {:?}", erased_through(&fleet, 4));
    let state = fleet.nodes[&index(4)].process.as_ref().expect("it is up").participant.state();
    assert!(state.attempts.len() <= 12, "its state has {} attempts", state.attempts.len());
    assert!(state.prekeys.len() <= 2, "{} prekeys live", state.prekeys.len());
}

#[test]
fn a_node_that_never_says_erased_stops_nobody() {
    let (mut fleet, first) = fleet(23);
    fleet.behave(2, Behaviour::Hoarder);
    let mut active = first;
    for _ in 0..12 {
        active = fleet.next_active(Some(active), 30);
    }
    fleet.run_blocks(2);
    assert_eq!(erased_through(&fleet, 2), None);
    assert!([1, 3, 4].iter().all(|node| erased_through(&fleet, *node) > Some(8)), "others wait for it");
    assert!(fleet.epochs().count() <= 12, "{} records are left", fleet.epochs().count());
}

/// A removed node destroys what it has as that is kept no longer, says so, and its `KmsNode` goes.
#[test]
fn a_removed_node_erases_everything_and_goes() {
    let (mut fleet, first) = fleet(24);
    fleet.replace(2, false);
    fleet.run_until("the fleet goes on without it", 40, |fleet| fleet.receivers() == [1, 3, 4, 5]);
    let mut active = fleet.active().expect("just seen");
    assert!(active > first && fleet.api.now.nodes.contains_key(&2), "it still has what is kept");
    for _ in 0..3 {
        active = fleet.next_active(Some(active), 30);
    }
    fleet.run_blocks(3);
    let left: Vec<_> = fleet.nodes[&index(2)].disk.secrets.keys().collect();
    assert!(left.is_empty(), "a removed node keeps {left:?}");
    assert!(!fleet.api.now.nodes.contains_key(&2), "it has nothing left, and its KmsNode stays");
}
