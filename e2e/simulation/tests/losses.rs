//! Shortest lives of fleets that lost their key while no more than n−t of its holders were ever destroyed.

use keyfleet_simulation::Fleet;
use keyfleet_simulation::history::{self, Step};
use keyfleet_threshold::identifiers::EpochNumber;

use Step::{Away, Back, Lose, Replace, Round, Wipe};

/// Lives through these steps. A round ends well, within `blocks`.
fn live(fleet: &mut Fleet, blocks: u64, steps: &[Step]) {
    for step in steps {
        let before = fleet.active();
        step.live(fleet);
        if *step == Round && fleet.active() == before {
            fleet.next_active(before, blocks);
            fleet.run_blocks(2);
        }
    }
}

/// Lives through these steps, brings everyone back who is not destroyed, and expects a newer epoch that all of them hold.
fn lives_through(seed: u64, n: u32, threshold: u16, steps: &[Step]) -> Fleet {
    let mut fleet = history::begin(seed, n, threshold);
    live(&mut fleet, 30, steps);
    history::recover(&mut fleet);
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

#[test]
fn destroyed_nodes_of_six_confirm_no_epoch_and_retire_none() {
    lives_through(6, 6, 4, &[Away(5), Away(6), Round, Round, Lose(1), Lose(2), Back(5)]);
}

/// Nodes 1 and 2 said that they hold the newer epochs, and are no more. Somebody who may write the record calls the first epoch
/// retired, which three living nodes hold and no newer one.
#[test]
fn a_false_record_and_words_of_the_dead_destroy_no_share() {
    let mut fleet = history::begin(7, 5, 3);
    let first = EpochNumber(1);
    live(&mut fleet, 30, &[Away(4), Away(5), Round, Round, Lose(1), Lose(2), Back(4)]);
    fleet.call_retired(first);
    fleet.run_blocks(30);
    let holders = fleet.living_holders(first).len();
    assert!(holders >= 3, "{holders} living nodes are left that hold the first epoch, and no newer one has three");
    history::recover(&mut fleet);
}

/// The default fleet with a week between boundaries and a day until epochs are confirmed by age, both a thousand times shorter. A day
/// after the last round nothing is gone that the living need.
#[test]
fn a_weekly_fleet_retires_nothing_that_the_living_need() {
    let mut fleet = history::begin(8, 4, 3);
    fleet.edit(|spec| {
        (spec.schedule.interval_blocks, spec.epochs.confirm_after_seconds) = (60, 120);
    });
    live(&mut fleet, 100, &[Away(4), Round, Round, Round, Lose(3), Back(4), Round]);
    fleet.run_blocks(30);
    let held = fleet.epochs().map(|epoch| fleet.living_holders(EpochNumber(epoch.spec.number)).len());
    assert_eq!(held.max(), Some(3), "no epoch is left that three living nodes hold");
}
