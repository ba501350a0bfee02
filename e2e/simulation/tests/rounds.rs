//! Genesis and reshares of random fleets in a rough world.

use keyfleet_simulation::{Fleet, Settings, seeds};
use keyfleet_threshold::identifiers::{NodeIndex, Threshold};

/// Any threshold that a fleet of `n` may have.
fn threshold_for(fleet: &mut Fleet, n: u64) -> u16 {
    let lowest = n / 2 + 1;
    u16::try_from(lowest + fleet.random(n - lowest + 1).min(n - lowest)).expect("small")
}

#[test]
fn a_calm_fleet_makes_a_key_and_reshares_it_on_every_boundary() {
    let mut fleet = Fleet::new(1, Settings::CALM, 4, 3, 3);
    let mut active = None;
    for _ in 0..6 {
        active = Some(fleet.next_active(active, 30));
    }
    assert!(fleet.api.epochs.values().all(|epoch| epoch.reason.is_empty()), "no attempt fails in a calm world");
    assert_eq!(fleet.holders(active.unwrap()).len(), 4, "every node holds the newest epoch");
}
