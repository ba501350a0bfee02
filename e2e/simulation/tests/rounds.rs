//! Genesis and reshares: calm worlds, and random fleets in rough ones.

use keyfleet_crds::cluster::RemoveNode;
use keyfleet_simulation::{Fleet, Settings, seeds};
use keyfleet_threshold::identifiers::EpochNumber;

/// A calm fleet makes a key and reshares it on every boundary.
/// seed: 002-05
#[test]
fn a_calm_fleet_reshares_its_key_on_every_boundary() {
    let mut fleet = Fleet::new(1, Settings::CALM, 4, 3, 3);
    let mut active = None;
    for _ in 0..6 {
        active = Some(fleet.next_active(active, 30));
    }
    assert!(
        fleet.epochs().all(|epoch| epoch.status.as_ref().is_some_and(|status| status.failure.is_none())),
        "no attempt fails in a calm world"
    );
    let newest = active.expect("six epochs became active");
    fleet.run_until("every node holds the newest epoch", 5, |fleet| fleet.holders(newest).len() == 4);
    assert_eq!(fleet.holders(EpochNumber(1)).len(), 0, "the first epoch is retired and its shares are gone");
}

/// A large fleet makes its key in its first attempt and reshares it in the next, although nodes make their first prekeys before
/// they know how many nodes there will be.
#[test]
fn a_large_fleet_needs_one_attempt_for_each_of_two_epochs() {
    let mut fleet = Fleet::new(2, Settings::CALM, 12, 8, 8);
    let first = fleet.next_active(None, 30);
    let second = fleet.next_active(Some(first), 30);
    assert_eq!((first, second), (EpochNumber(1), EpochNumber(2)), "an attempt failed on the way");
}

/// Boundaries that were missed coalesce into one round, for the newest of them; the next comes at its own boundary.
///
/// seed: 003-32
#[test]
fn an_operator_away_over_two_boundaries_runs_one_round() {
    let mut fleet = Fleet::new(3, Settings::CALM, 4, 3, 3);
    let first = fleet.next_active(None, 30);
    let second = fleet.next_active(Some(first), 30);
    fleet.set_operator(false);
    fleet.run_until("two boundaries pass", 30, |fleet| fleet.block.0 >= 32);
    assert_eq!(fleet.active(), Some(second), "nothing is decided without an operator");
    fleet.set_operator(true);
    let third = fleet.next_active(Some(second), 5);
    assert_eq!(third, EpochNumber(second.0 + 1));
    assert_eq!(fleet.plan(third).block.0, 30, "boundaries 20 and 30 are one round, for 30");
    fleet.run_until("the next boundary is near", 10, |fleet| fleet.block.0 == 39);
    assert_eq!(fleet.active(), Some(third), "there is no other round before the next boundary");
    fleet.next_active(Some(third), 5);
}

/// Random n, t and minHolders; random changes of membership and threshold; messages lost and late; nodes dying between
/// any two steps of storing, committing and saying; an operator that forgets everything now and then. After every event:
/// one dealer set, one vector and one verdict per number, the same public key, shares that sign, no secret that outlives
/// its round, nothing said before it is durable, nothing said twice differently.
///
/// seed: 002-02, 003-56, 003-61, 004-22
#[test]
fn random_fleets_in_a_rough_world_keep_their_key() {
    for seed in seeds(12) {
        let n = 3 + u32::try_from(seed % 4).expect("small");
        let mut fleet = Fleet::new(seed, Settings::ROUGH, n, 2, 2);
        let (threshold, min_holders) = choose_thresholds(&mut fleet, n);
        fleet.edit(|spec| (spec.threshold, spec.min_holders) = (Some(threshold), Some(min_holders)));
        let mut active = fleet.next_active(None, 800);
        for _ in 0..4 {
            change_membership(&mut fleet);
            active = fleet.next_active(Some(active), 800);
        }
        assert!(fleet.public_key().is_some(), "seed {seed}: the record names the public key");
        let needed = fleet.plan(active).threshold.count();
        fleet.run_until("a threshold of running nodes holds the newest epoch", 60, |fleet| {
            fleet.holders(active).len() >= needed
        });
    }
}

/// seed: 003-34, 004-20, 004-22, 004-41
#[test]
fn a_seed_reproduces_a_run_event_by_event() {
    let run = || {
        let mut fleet = Fleet::new(77, Settings::ROUGH, 4, 3, 3);
        let first = fleet.next_active(None, 800);
        fleet.next_active(Some(first), 800);
        fleet.lines().to_vec()
    };
    assert_eq!(run(), run(), "the same seed must give the same events");
}

/// Chooses any threshold and minHolders that `nodes` nodes allow.
fn choose_thresholds(fleet: &mut Fleet, nodes: u32) -> (u32, u32) {
    let lowest = nodes / 2 + 1;
    let threshold = lowest + below(fleet, nodes - lowest);
    (threshold, threshold + below(fleet, nodes - threshold))
}

fn below(fleet: &mut Fleet, bound: u32) -> u32 {
    u32::try_from(fleet.random(bound.into())).expect("small")
}

/// Adds a node, removes one, replaces one, or only lets the boundary come.
fn change_membership(fleet: &mut Fleet) {
    let choice = fleet.random(4);
    let receivers = fleet.receivers();
    let victim = receivers[usize::try_from(fleet.random(receivers.len() as u64)).expect("small")];
    let removes = choice == 3 || (choice == 2 && receivers.len() > 3);
    let adds = choice == 1 || choice == 3;
    let nodes = fleet.api.now.cluster.spec.nodes + u32::from(adds) - u32::from(removes);
    let (threshold, min_holders) = choose_thresholds(fleet, nodes);
    fleet.edit(|spec| {
        spec.remove_nodes.clear();
        if removes {
            spec.remove_nodes.push(RemoveNode { index: victim, lost: false });
        }
        (spec.nodes, spec.threshold, spec.min_holders) = (nodes, Some(threshold), Some(min_holders));
    });
    // A new node offers its first prekeys before a plan can name them.
    fleet.run_blocks(1);
}
