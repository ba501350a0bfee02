//! Nodes that are away for long, and nodes that never come back.

use keyfleet_crds::cluster::RemoveNode;
use keyfleet_simulation::{Behaviour, Fleet, Settings};
use keyfleet_threshold::identifiers::NodeIndex;
use keyfleet_threshold::round::{Body, Notice};

fn index(i: u32) -> NodeIndex {
    NodeIndex::new(i).expect("indices start at one")
}

/// Four nodes, threshold three. Node 4 goes away and fifty epochs pass without it, all sealed to it under the prekey that
/// it showed last. It returns in the moment in which node 3 is lost for good: only with its share of the newest epoch do three
/// nodes remain, and it has to get that share from bundles that others keep. Then a fifth node takes the place of the third.
///
/// seed: 003-46
#[test]
fn a_node_away_for_fifty_rounds_saves_the_key() {
    let mut fleet = Fleet::new(4, Settings::CALM, 4, 3, 3);
    fleet.edit(|spec| {
        let deadlines = &mut spec.schedule.deadlines;
        (deadlines.dealing_blocks, deadlines.verifying_blocks) = (1, 1);
        (deadlines.preparing_blocks, deadlines.certifying_blocks) = (1, 1);
        spec.schedule.interval_blocks = 5;
    });
    let mut active = fleet.next_active(None, 30);
    fleet.run_until("everyone holds it", 5, |fleet| fleet.holders(active).len() == 4);
    fleet.run_blocks(1);
    let key = fleet.public_key();
    fleet.take_down(4);
    for _ in 0..50 {
        active = fleet.next_active(Some(active), 30);
    }
    fleet.run_blocks(1);
    assert_eq!(fleet.holders(active).len(), 3, "node 4 was away for all of it");

    fleet.lose(3);
    fleet.bring_up(4);
    fleet.run_until("node 4 has its share of the newest epoch", 1, |fleet| fleet.holders(active).contains(&index(4)));

    fleet.replace(3, true);
    fleet.run_blocks(1);
    let next = fleet.next_active(Some(active), 30);
    fleet.run_until("four nodes hold the key again", 30, |fleet| {
        fleet.active().is_some_and(|active| fleet.receivers() == [1, 2, 4, 5] && fleet.holders(active).len() == 4)
    });
    assert!(fleet.active() >= Some(next), "no epoch is given back");
    assert!(fleet.public_key() == key, "it is the same key");
}

/// A node that was away for one round has the new epoch's share within a few polls of its return, without another round.
/// seed: 002-07, 002-11, 004-24
#[test]
fn a_node_that_missed_a_round_catches_up_without_another() {
    let mut fleet = Fleet::new(5, Settings::CALM, 4, 3, 3);
    let first = fleet.next_active(None, 30);
    fleet.run_until("everyone holds it", 5, |fleet| fleet.holders(first).len() == 4);
    fleet.take_down(2);
    let second = fleet.next_active(Some(first), 30);
    fleet.run_blocks(1);
    fleet.bring_up(2);
    fleet.run_until("node 2 has its share", 1, |fleet| fleet.holders(second).contains(&index(2)));
    assert_eq!(fleet.active(), Some(second), "no other round was needed");
}

/// A node is back after one, two and five epochs, and every `KeyEpoch` is gone: the API server tells it nothing of what it missed.
/// One honest holder shows what it keeps. The three others show false lists and hand out bundles under bad signatures.
#[test]
fn one_honest_holder_serves_a_node_that_was_away() {
    for (seed, missed) in [(21, 1), (22, 2), (23, 5)] {
        let mut fleet = Fleet::new(seed, Settings::CALM, 5, 3, 3);
        let mut newest = fleet.next_active(None, 30);
        fleet.run_until("everyone holds it", 5, |fleet| fleet.holders(newest).len() == 5);
        fleet.take_down(5);
        for _ in 0..missed {
            newest = fleet.next_active(Some(newest), 30);
        }
        // The others read that it is active.
        fleet.run_blocks(1);
        assert_eq!(fleet.holders(newest).len(), 4, "missed {missed}");
        (2..=4).for_each(|liar| fleet.behave(liar, Behaviour::FalseKeeper));
        fleet.set_operator(false);
        fleet.api.now.epochs.clear();
        fleet.bring_up(5);
        fleet.run_until("node 5 has its share of the newest epoch", 2, |fleet| {
            fleet.holders(newest).contains(&index(5))
        });
        let notices = &fleet.nodes[&index(5)].notices;
        let named = notices.iter().filter_map(|notice| match notice {
            Notice::FalseList(_, peer) => Some(*peer),
            _ => None,
        });
        assert!(
            named.into_iter().all(|peer| peer != index(1)),
            "missed {missed}: the honest holder is named: {notices:?}"
        );
    }
}

/// A dealer cheats a node that is away. On its return the node proves it, which changes nothing about that epoch; in the next
/// round its complaint keeps the dealer's polynomial out, and the node has its share.
#[test]
fn a_dealer_that_cheats_an_absent_node_is_convicted() {
    let mut fleet = Fleet::new(6, Settings::CALM, 5, 3, 3);
    let mut active = fleet.next_active(None, 30);
    fleet.run_until("everyone holds it", 5, |fleet| fleet.holders(active).len() == 5);
    fleet.take_down(4);
    for _ in 0..5 {
        active = fleet.next_active(Some(active), 30);
    }
    fleet.behave(1, Behaviour::LyingDealer { victim: index(4) });
    active = fleet.next_active(Some(active), 30);
    fleet.run_blocks(1);
    fleet.bring_up(4);
    fleet.run_blocks(2);
    assert!(!fleet.holders(active).contains(&index(4)), "the cheated node cannot have its share of this epoch");
    let late = fleet.nodes[&index(4)].said().find_map(|(_, message)| match &message.body {
        Body::Late(complaints) => Some(complaints.iter().map(|complaint| complaint.dealer).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(late, Some(vec![index(1)]), "the node does not say who cheated it");
    let next = fleet.next_active(Some(active), 30);
    assert!(fleet.plan(next).dealer(index(1)).is_some(), "every receiver of the source deals");
    let qualified = fleet.status(next).qualified.clone().unwrap_or_default();
    assert!(!qualified.contains(&1), "the cheat's polynomial counts: {qualified:?}");
    fleet.run_until("the node has its share", 3, |fleet| fleet.holders(next).contains(&index(4)));
}

/// The active epoch can no longer supply a threshold of dealers: after a whole interval an older kept epoch is dealt on.
#[test]
fn a_starving_epoch_is_replaced_from_an_older_one() {
    // Six nodes, threshold four; the next epoch moves to nodes 1, 2, 3, 7, 8, 9, of which then three are lost. Nodes 4, 5 and 6
    // are removed, and hold what is kept until it retires.
    let mut fleet = Fleet::new(7, Settings::CALM, 6, 4, 4);
    let first = fleet.next_active(None, 30);
    fleet.run_until("everyone holds it", 5, |fleet| fleet.holders(first).len() == 6);
    let remove =
        |indexes: std::ops::Range<u32>, lost: bool| indexes.map(|index| RemoveNode { index, lost }).collect::<Vec<_>>();
    fleet.edit(|spec| spec.remove_nodes = remove(4..7, false));
    fleet.run_until("the fleet has moved", 30, |fleet| fleet.receivers() == [1, 2, 3, 7, 8, 9]);
    let second = fleet.active().expect("just seen");
    let key = fleet.public_key();
    for lost in 7..10 {
        fleet.lose(lost);
    }
    fleet.edit(|spec| spec.remove_nodes = remove(7..10, true));
    let third = fleet.next_active(Some(second), 60);
    let source = fleet.plan(third).source().map(|source| source.number);
    assert_eq!(source, Some(first), "only the first epoch still has four answering holders");
    assert!(fleet.public_key() == key, "it is the same key");
}

/// Node 4 is away while the fleet triples: all of the larger fleet are sealed to, it under the prekey that it showed last. Back,
/// it has its share. No round fails on the way.
#[test]
fn a_fleet_triples_while_a_node_is_away() {
    let mut fleet = Fleet::new(8, Settings::CALM, 4, 3, 3);
    let active = fleet.next_active(None, 30);
    fleet.run_until("everyone holds it", 5, |fleet| fleet.holders(active).len() == 4);
    fleet.take_down(4);
    fleet.edit(|spec| (spec.nodes, spec.threshold, spec.min_holders) = (12, Some(7), Some(7)));
    fleet.run_blocks(1);
    let grown = fleet.next_active(Some(active), 30);
    assert_eq!(fleet.plan(grown).receivers.len(), 12, "the fleet did not grow");
    fleet.run_until("those who are there hold it", 5, |fleet| fleet.holders(grown).len() == 11);

    let next = fleet.next_active(Some(grown), 30);
    assert_eq!(next.0, grown.0 + 1, "a round failed after the fleet had grown");
    assert_eq!(fleet.plan(next).dealers.len(), 12, "not all receivers of the source deal");
    fleet.bring_up(4);
    fleet.run_until("node 4 has its share", 5, |fleet| fleet.holders(next).contains(&index(4)));
}
