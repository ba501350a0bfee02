//! Shortest lives of fleets that lost their key while no more than n−t of its holders were ever destroyed.

use keyfleet_simulation::{Fleet, Settings};

/// One step of a life.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The node goes away, and its disk stays.
    Away(u32),
    /// The node returns.
    Back(u32),
    /// A boundary's round ends well.
    Round,
    /// The node is destroyed.
    Lose(u32),
    /// The node loses its volume and comes back from its replica.
    Wipe(u32),
    /// The user replaces a lost node; what its first attempt comes to is waited for.
    Replace(u32),
}

use Step::{Away, Back, Lose, Replace, Round, Wipe};

/// Lives through these steps, brings everyone back who is not destroyed, and expects a newer epoch that all of them hold.
fn lives_through(seed: u64, n: u32, threshold: u16, steps: &[Step]) -> Fleet {
    let mut fleet = Fleet::new(seed, Settings::CALM, n, threshold, threshold);
    let first = fleet.next_active(None, 30);
    fleet.run_until("everyone holds it", 5, |fleet| fleet.holders(first).len() == n as usize);
    for step in steps {
        fleet.log(format!("{step:?}"));
        match *step {
            Away(index) => fleet.take_down(index),
            Back(index) => fleet.bring_up(index),
            Round => {
                let active = fleet.active();
                fleet.next_active(active, 30);
            }
            Lose(index) => fleet.lose(index),
            Wipe(index) => fleet.wipe(index),
            Replace(index) => fleet.replace(index, true),
        }
        fleet.run_blocks(2);
    }
    let away: Vec<u32> =
        fleet.nodes.values().filter(|node| !node.lost && !node.is_up()).map(|node| node.index.value()).collect();
    away.into_iter().for_each(|index| fleet.bring_up(index));
    let before = fleet.active();
    fleet.next_active(before, 100);
    fleet.run_until("every node that lives holds the newest epoch", 60, |fleet| {
        let lost = |index: &u32| fleet.nodes.values().any(|node| node.index.value() == *index && node.lost);
        let living = fleet.receivers().iter().filter(|index| !lost(index)).count();
        fleet.active() > before && fleet.active().is_some_and(|active| fleet.holders(active).len() >= living)
    });
    fleet
}

/// Nodes 4 and 5, away for rounds, catch up on all of them when two others are destroyed.
#[test]
fn a_node_that_missed_three_rounds_saves_the_key() {
    lives_through(1, 5, 3, &[Away(1), Round, Round, Round, Lose(2), Lose(3), Back(1)]);
}

/// Proofs of destroyed nodes confirm nothing, and retire nothing that the living need.
#[test]
fn destroyed_nodes_confirm_no_epoch_and_retire_none() {
    lives_through(2, 5, 3, &[Away(4), Away(5), Round, Round, Lose(1), Lose(2), Back(4)]);
}

/// Two holders lose their volumes one after the other: each fetches the bundles again from the other.
#[test]
fn bundles_survive_volumes_that_are_replaced_one_by_one() {
    lives_through(3, 5, 3, &[Away(5), Round, Round, Lose(1), Lose(2), Wipe(3), Wipe(4), Back(5)]);
}

/// The newcomer was away in its first round, and another node is destroyed before it ever served.
#[test]
fn a_newcomer_that_missed_its_first_round_saves_the_key() {
    lives_through(4, 4, 3, &[Wipe(1), Lose(2), Replace(2), Away(5), Round, Back(5), Lose(4)]);
}

/// The default fleet: one node away for three rounds, another destroyed, and the first one back before anything is retired.
#[test]
fn a_default_fleet_survives_one_loss_with_another_node_behind() {
    lives_through(5, 4, 3, &[Away(4), Round, Round, Round, Lose(3), Back(4), Round]);
}
