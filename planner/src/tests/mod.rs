//! Decisions, by table and by interleaving.
//!
//! The interleaving tests run two operators against a model of the API server. Each reads when it wants, decides on what it
//! read, and sends its writes one by one, however much the other has written in between; either may crash after any write.
//! Seeds are printed by the failure and replayed with `KEYFLEET_SEED=<seed>`.

mod erased;
mod halted;
mod holding;
mod members;
mod model;
mod prekeys;
mod reported;
mod rolled_back;
mod silent;
mod table;

use std::collections::BTreeMap;

use super::state::{State, ms};
use model::Model;

/// Number of seeds that each property runs over.
const SEEDS: u64 = 30;

fn seeds() -> Vec<u64> {
    match std::env::var("KEYFLEET_SEED") {
        Ok(seed) => vec![seed.parse().expect("KEYFLEET_SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    }
}

/// A fleet of four with an active epoch, at rest.
fn steady() -> (Model, State) {
    let mut model = Model::calm(9);
    model.settle();
    let state = model.state(0);
    (model, state)
}

/// Returns these nodes as holders that were asked just now.
fn proven(state: &State, nodes: impl IntoIterator<Item = u32>) -> BTreeMap<u32, u64> {
    nodes.into_iter().map(|index| (index, ms(state.now))).collect()
}

/// Two operators at every interleaving make one epoch per boundary.
/// seed: 003-32
#[test]
fn two_interleaved_operators_make_one_epoch_per_boundary() {
    for seed in seeds() {
        let mut model = Model::new(seed);
        model.run(1_500);
        let rounds = model.api.now.epochs.len();
        if rounds < 5 {
            model.fail(&format!("only {rounds} rounds are there, so that nothing was tried"));
        }
    }
}

/// An operator that is away over many boundaries makes up for them by one round.
#[test]
fn boundaries_that_were_missed_are_one_round() {
    let mut model = Model::calm(1);
    model.settle();
    let before = model.api.now.epochs.len();
    model.block += 7 * model.interval();
    model.settle();
    assert_eq!(model.api.now.epochs.len(), before + 1, "seven boundaries were missed, and one round makes up for them");
    model.settle();
    assert_eq!(model.api.now.epochs.len(), before + 1, "and not a second one");
}

/// A fleet at rest: deciding again and again writes nothing.
#[test]
fn an_idle_cluster_costs_no_writes() {
    let mut model = Model::calm(2);
    model.settle();
    let writes = model.api.now.revision;
    for _ in 0..50 {
        model.time += 60;
        model.step_calmly();
    }
    assert_eq!(model.api.now.revision, writes, "an idle cluster was written to");
}

/// The objects put back without their status are the same fleet: same id, same key, and no second genesis.
#[test]
fn objects_put_back_without_their_status_are_the_same_fleet() {
    let mut model = Model::calm(3);
    model.settle();
    let key = model.api.now.cluster.status.public_key.expect("genesis ended");
    let id = model.api.now.cluster.status.cluster_id;
    model.api.lose_status();
    model.settle();
    assert_eq!(model.api.now.cluster.status.public_key, Some(key), "the public key is the same");
    assert_eq!(model.api.now.cluster.status.cluster_id, id, "and so is the id");
    model.block += model.interval();
    model.settle();
    assert!(model.api.now.epochs.values().skip(1).all(|epoch| epoch.spec.source.is_some()), "no second genesis");
    let active = model.api.now.cluster.status.active_epoch.expect("an epoch is active");
    assert!(active > 1, "the fleet goes on: {active}");
}

/// A round that fails is tried again by itself, later and later, and what serves stays.
#[test]
fn a_failed_genesis_is_tried_again_after_a_back_off() {
    let mut model = Model::calm(4);
    model.fail_next = 3;
    for _ in 0..200 {
        model.step_calmly();
        model.block += 1;
        if model.api.now.cluster.status.public_key.is_some() {
            break;
        }
    }
    let geneses = model.api.now.epochs.values().filter(|epoch| epoch.spec.source.is_none()).count();
    assert_eq!(geneses, 4, "three failed attempts and the one that succeeded");
    let failures = model.api.now.epochs.values().filter_map(|epoch| epoch.status.as_ref()?.failure.clone());
    for failure in failures {
        assert!(failure.message.contains("there is no key yet"), "no epoch serves on: {}", failure.message);
    }
    assert!(model.api.now.cluster.status.public_key.is_some());
}
