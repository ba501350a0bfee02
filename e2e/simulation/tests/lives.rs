//! Random lives of random fleets, as `cargo xtask simulate` runs them by the thousand.

use keyfleet_simulation::{scenario, seeds};

/// Everything goes wrong by itself, nodes lie, and the user grows, shrinks and replaces what there is. After every event the
/// invariants hold, and once the world calms down all the living hold a newer epoch.
///
/// seed: 002-13
#[test]
fn random_lives_end_with_an_epoch_that_all_the_living_hold() {
    for seed in seeds(16) {
        let outcome = scenario::live(&mut scenario::fleet(seed));
        assert_eq!(outcome.broken, None, "seed {seed}: replay it with cargo xtask simulate --curve --seed {seed}");
    }
}
