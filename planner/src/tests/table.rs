//! Actions that each situation leads to.

use keyfleet_crds::cluster::{DeletionPolicy, RemoveNode};
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::record::Record;
use keyfleet_crds::values::ClusterId;
use keyfleet_threshold::coordination::Decision;

use super::model::Model;
use super::{proven, steady};
use crate::rounds::{Trigger, back_off_blocks, due};
use crate::state::{Recorded, State};
use crate::{Action, Facts, decide, membership};

pub(super) fn starts(state: &State) -> bool {
    decide(state).actions.iter().any(|action| match action {
        Action::UpdateCluster { status, .. } => status.reservation.is_some(),
        Action::CreateEpoch(_) => true,
        _ => false,
    })
}

/// seed: 002-03
#[test]
fn only_a_boundary_a_changed_spec_or_a_request_starts_a_round() {
    let (model, state) = steady();
    let last = state.cluster.status.last_processed_boundary.unwrap();
    assert_eq!(due(&Facts::of(&state), last + model.interval() - 1), None, "between boundaries");
    let boundary = last + model.interval();
    assert_eq!(due(&Facts::of(&state), boundary), Some(Trigger::Boundary(boundary)));
    assert_eq!(due(&Facts::of(&state), last), None, "a boundary that was processed");
    let mut asked = state.clone();
    asked.cluster.reshare_request = Some("now".into());
    assert_eq!(due(&Facts::of(&asked), last + 1), Some(Trigger::Request));
    asked.cluster.status.answered_reshare_request = Some("now".into());
    assert_eq!(due(&Facts::of(&asked), last + 1), None, "a request is answered once");
    let mut smaller = state;
    smaller.cluster.spec.nodes = 3;
    assert_eq!(due(&Facts::of(&smaller), last + 1), Some(Trigger::Change));
}

/// seed: 001-33
#[test]
fn what_forbids_a_round_says_why_and_what_to_do_and_starts_none() {
    let (model, steady) = steady();
    let boundary = steady.cluster.status.last_processed_boundary.unwrap() + model.interval();
    let due = State { block: Ok(boundary), last_block: boundary, ..steady };
    assert!(starts(&due), "nothing forbids it");
    type Change = fn(&mut State);
    let cases: [(&str, Change, Reason, &str); 5] = [
        ("paused", |state| state.cluster.spec.paused = true, Reason::Paused, "Set it to false"),
        (
            "a process that has heard nobody",
            |state| state.view.highest.clear(),
            Reason::AwaitingReports,
            "look at the nodes' pods",
        ),
        (
            "more nodes than may be lost that saw a higher number",
            |state| {
                state.view.highest.extend([(2, 4_000), (3, 4_000)]);
            },
            Reason::RecordRolledBack,
            "Restore a newer backup",
        ),
        (
            "a source that went back",
            |state| state.block = Err(crate::state::BlockError::Reversed { before: 9, now: 3 }),
            Reason::BlockSourceReversed,
            "check the endpoint",
        ),
        (
            "a record that cannot be read",
            |state| state.record = Recorded::Unreadable("it is empty".into()),
            Reason::EarlierLifeFound,
            "Until then nothing is decided",
        ),
    ];
    for (what, change, reason, advice) in cases {
        let mut state = due.clone();
        change(&mut state);
        let stop = Facts::of(&state).gates.start.expect_err(what);
        assert_eq!(stop.reason, reason, "{what}");
        assert!(stop.message.contains(advice), "{what}: {}", stop.message);
        assert!(!starts(&state), "{what}: a round was started");
    }
}

/// An epoch becomes Active or Confirmed, and lets others retire, only as far as nodes prove to hold it.
/// seed: 003-32
#[test]
fn epochs_advance_only_as_far_as_nodes_prove() {
    let (_, steady) = steady();
    let (number, epoch) = steady.active().unwrap();
    let (threshold, receivers) = (epoch.spec.threshold as usize, epoch.spec.receivers.len());
    let holding = |state: &State, nodes: usize| {
        let mut state = state.clone();
        let all: Vec<u32> = epoch.spec.receivers.iter().map(|receiver| receiver.index).collect();
        state.view.holds.insert(number, proven(&state, all.into_iter().take(nodes)));
        state
    };
    // The process before wrote the record and ended before it took the epoch into the cluster's status.
    let mut unsettled = steady.clone();
    unsettled.cluster.status.active_epoch = Some(number - 1);
    let activates = |state: &State| {
        decide(state).actions.iter().any(|action| match action {
            Action::UpdateCluster { status, .. } => status.active_epoch == Some(number),
            _ => false,
        })
    };
    assert!(!activates(&holding(&unsettled, threshold - 1)), "fewer than t nodes can sign with it");
    assert!(activates(&holding(&unsettled, threshold)), "t nodes have proven that they can");

    let mut unconfirmed = steady.clone();
    let status = unconfirmed.epochs.get_mut(&number).unwrap().status.as_mut().unwrap();
    status.phase = Some(keyfleet_crds::epoch::Phase::Active);
    unconfirmed.view.closing.get_mut(&number).unwrap().decision = Some(Decision::Confirm);
    let moves = |state: &State, of: u64, to: keyfleet_crds::epoch::Phase| {
        decide(state).actions.iter().any(|action| match action {
            Action::UpdateEpoch { number, status, .. } => *number == of && status.phase == Some(to),
            _ => false,
        })
    };
    let confirmed = keyfleet_crds::epoch::Phase::Confirmed;
    assert!(!moves(&holding(&unconfirmed, receivers - 1), number, confirmed), "words are not enough to confirm");
    assert!(moves(&holding(&unconfirmed, receivers), number, confirmed), "all receivers have proven it");

    // Two newer ones make it one that is kept no more; it retires once the active one is proven, not before.
    let mut old = steady.clone();
    old.cluster.spec.epochs.retention = 1;
    let active = number + 2;
    for newer in [number + 1, active] {
        let mut epoch = epoch.clone();
        epoch.spec.number = newer;
        epoch.status.as_mut().unwrap().phase = Some(confirmed);
        old.epochs.insert(newer, epoch);
    }
    old.cluster.status.active_epoch = Some(active);
    let retired = keyfleet_crds::epoch::Phase::Retired;
    for (proven, retires) in [(threshold - 1, false), (threshold, true)] {
        let all = epoch.spec.receivers.iter().map(|receiver| receiver.index);
        old.view.holds.insert(active, super::proven(&old, all.take(proven)));
        assert_eq!(moves(&old, number, retired), retires, "{proven} nodes have proven the active epoch");
    }
}

#[test]
fn genesis_is_refused_where_anything_of_an_earlier_life_is_left() {
    let (_, with_key) = steady();
    let mut model = Model::calm(10);
    let mut fresh = model.state(0);
    fresh.cluster.finalizer = true;
    fresh.volumes.insert("keys-1-state".into(), "00112233445566778899aabbccddeeff".into());
    let stop = Facts::of(&fresh).gates.start.unwrap_err();
    assert_eq!(stop.reason, Reason::EarlierLifeFound);
    assert!(stop.message.contains("00112233445566778899aabbccddeeff"), "it says which id: {}", stop.message);
    assert!(stop.needs_person);
    fresh.volumes.clear();
    fresh.cluster.spec.expected_public_key = with_key.cluster.status.public_key;
    assert_eq!(Facts::of(&fresh).gates.start.unwrap_err().reason, Reason::ExpectedKeyNotFound);
    // With the record of that life it is adopted, not made anew.
    fresh.record = with_key.record;
    let actions = decide(&fresh).actions;
    let [Action::UpdateCluster { status, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(status.cluster_id, with_key.cluster.status.cluster_id);
    assert_eq!(status.public_key, with_key.cluster.status.public_key);
    assert!(status.next_number >= with_key.cluster.status.next_number, "numbers go on above the record's");
}

/// Scale down drops the highest and a replacement takes a new index.
/// seed: 002-14
#[test]
fn scale_down_drops_the_highest_index() {
    let (_, state) = steady();
    let mut smaller = state.clone();
    smaller.cluster.spec.nodes = 3;
    let members = membership::members(&smaller);
    assert_eq!((members.stay.into_iter().collect::<Vec<_>>(), members.missing), (vec![1, 2, 3], 0));
    let mut replaced = state;
    replaced.cluster.spec.remove_nodes = vec![RemoveNode { index: 2, lost: true }];
    let members = membership::members(&replaced);
    assert_eq!(members.stay.iter().copied().collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!((members.missing, members.leave.get(&2)), (1, Some(&true)));
    let actions = decide(&replaced).actions;
    let [Action::UpdateCluster { status, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(status.next_index, Some(6), "index 5 is taken before its KmsNode is made");
}

fn written_record(state: &State) -> Option<Record> {
    decide(state).actions.into_iter().find_map(|action| match action {
        Action::WriteRecord { record, .. } => Some(*record),
        _ => None,
    })
}

/// The condition of such a cluster says: delete it to adopt the record's fleet. That must not take the record with it.
#[test]
fn the_record_of_another_fleet_outlives_the_deletion_of_a_cluster() {
    let (_, mut state) = steady();
    state.cluster.status.cluster_id = Some(ClusterId([9; 16]));
    assert_eq!(Facts::of(&state).gates.record.unwrap_err().reason, Reason::EarlierLifeFound);
    state.cluster.deleting = true;
    assert_eq!(written_record(&state), None, "the record of the other fleet is overwritten");
    let release = [Action::SetClusterFinalizer { present: false }];
    assert_eq!(decide(&state).actions, release);
    state.cluster.spec.deletion_policy = DeletionPolicy::Destroy;
    assert_eq!(decide(&state).actions, release, "nodes and epochs of the other fleet are destroyed with this one");
}

/// A cluster whose status was put back from an older backup may be deleted before the record was taken into it.
#[test]
fn the_record_never_falls_below_an_older_status() {
    let (_, mut state) = steady();
    let Recorded::Present { record, .. } = &state.record else { panic!("a steady fleet has a record") };
    let before = record.as_ref().clone();
    let status = &mut state.cluster.status;
    (status.next_number, status.next_index, status.public_key) = (Some(1), Some(1), None);
    status.last_processed_boundary = None;
    state.cluster.deleting = true;
    let after = written_record(&state).unwrap_or_else(|| before.clone());
    assert_eq!((after.next_number, after.next_index), (before.next_number, before.next_index));
    assert_eq!(after.public_key, before.public_key);
    assert_eq!(after.last_processed_boundary, before.last_processed_boundary);
}

#[test]
fn a_deleted_node_comes_back_with_its_index_and_pin() {
    let (_, mut state) = steady();
    let pin = state.nodes[&2].spec.identity_key;
    assert!(pin.is_some());
    state.nodes.remove(&2);
    let created = decide(&state).actions.into_iter().find_map(|action| match action {
        Action::CreateNode(spec) => Some(*spec),
        _ => None,
    });
    let spec = created.expect("the node comes back");
    assert_eq!((spec.index, spec.identity_key), (2, pin));
}

/// The pin of an index that a plan names is the plans whatever is offered.
/// seed: 003-08
#[test]
fn the_pin_of_an_index_in_a_plan_is_the_plans() {
    let (_, mut state) = steady();
    let node = state.nodes.get_mut(&2).unwrap();
    let pin = node.spec.identity_key.take();
    node.offered = Some(keyfleet_crds::values::PinnedKey([99; 32]));
    let pinned = decide(&state).actions.into_iter().find_map(|action| match action {
        Action::UpdateNode { spec, .. } if spec.index == 2 => Some(spec.identity_key),
        _ => None,
    });
    assert_eq!(pinned, Some(pin), "a stranger was pinned under an index that holds a share");
}

#[test]
fn back_off_doubles_and_stops_at_four_intervals() {
    let waits: Vec<u64> = (1..=8).map(|failures| back_off_blocks(failures, 10)).collect();
    assert_eq!(waits, [2, 4, 8, 16, 32, 40, 40, 40]);
}

/// A changed pod is replaced alone and only while the others serve.
/// seed: 002-14
#[test]
fn a_changed_pod_is_replaced_while_the_others_serve() {
    use crate::rollout::{Rolling, rolling};
    let (_, mut state) = steady();
    assert_eq!(rolling(&Facts::of(&state)), Rolling::Done, "nothing has changed");
    for node in state.nodes.values_mut() {
        (node.ready, node.outdated) = (true, true);
    }
    let evicted = |state: &State| {
        let actions = decide(state).actions;
        actions
            .iter()
            .filter_map(|one| if let Action::Evict { index } = one { Some(*index) } else { None })
            .collect::<Vec<_>>()
    };
    assert_eq!(evicted(&state), [1], "one at a time");

    let mut restarting = state.clone();
    let first = restarting.nodes.get_mut(&1).unwrap();
    (first.ready, first.outdated) = (false, false);
    assert!(evicted(&restarting).is_empty(), "the last one is not ready again");
    assert!(matches!(rolling(&Facts::of(&restarting)), Rolling::Waits(why) if why.contains("not ready: 1")));

    let mut broken = state.clone();
    broken.nodes.get_mut(&3).unwrap().ready = false;
    assert_eq!(evicted(&broken), [3], "the one that does not serve anyway goes first");

    let mut refused = state.clone();
    refused.eviction_refused = Some((refused.now, "it needs three".into()));
    assert!(evicted(&refused).is_empty(), "the budget is not asked at once again");
    assert!(matches!(rolling(&Facts::of(&refused)), Rolling::Waits(why) if why.contains("it needs three")));
    refused.now += jiff::SignedDuration::from_secs(10);
    assert_eq!(evicted(&refused), [1], "the budget is never asked again");

    let mut paused = state.clone();
    paused.cluster.spec.paused = true;
    assert!(evicted(&paused).is_empty(), "a paused cluster changes nothing");

    let mut unheard = state.clone();
    unheard.view.highest.clear();
    assert!(evicted(&unheard).is_empty(), "what serves is not known yet");

    let mut tight = state;
    let number = tight.active().unwrap().0;
    tight.epochs.get_mut(&number).unwrap().spec.threshold = 4;
    assert!(evicted(&tight).is_empty(), "all are needed");
}

/// An operator for its own namespace alone makes epochs without finalizers, and takes off those of a wider one.
///
/// An operator for its own namespace alone goes with the namespace: what it left a finalizer on would keep it from going.
#[test]
fn an_operator_of_one_namespace_sets_no_finalizers() {
    let mut model = Model::calm(9);
    model.finalizers = false;
    model.settle();
    assert!(model.api.now.cluster.status.active_epoch.is_some(), "without finalizers no epoch becomes active");
    assert!(model.api.now.epochs.values().all(|epoch| !epoch.finalizer), "an epoch has a finalizer");

    let (_, mut state) = steady();
    let (active, _) = state.active().expect("a steady fleet has an epoch");
    assert!(state.epochs[&active].finalizer, "a wider operator protects the active epoch");
    state.finalizers = false;
    let actions = decide(&state).actions;
    let taken_off =
        |action: &Action| matches!(action, Action::SetEpochFinalizer { number, present: false } if *number == active);
    assert!(actions.iter().any(taken_off), "it stays on: {actions:?}");
}

/// The first block at which dealers lack counts until a plan can be made again.
#[test]
fn a_fleet_starves_from_the_block_at_which_dealers_first_lacked() {
    let (model, mut state) = steady();
    let boundary = state.cluster.status.last_processed_boundary.unwrap() + model.interval();
    (state.block, state.last_block) = (Ok(boundary), boundary);
    assert_eq!(decide(&state).starved_since, None, "all dealers are there");
    let (number, _) = state.active().unwrap();
    let one = proven(&state, [1]);
    let holds = state.view.holds.insert(number, one).unwrap();
    state.view.connected = [1].into();
    assert_eq!(decide(&state).starved_since, Some(boundary));
    (state.last_block, state.starved_since) = (boundary + 3, Some(boundary));
    assert_eq!(decide(&state).starved_since, Some(boundary), "the wait began anew");
    state.view.connected = holds.keys().copied().collect();
    state.view.holds.insert(number, holds);
    assert_eq!(decide(&state).starved_since, None, "they are back");
}

/// Pods flush what they have when they are stopped; one on a worker that is gone never ends.
#[test]
fn a_retained_cluster_goes_without_pods_or_after_five_minutes() {
    let (_, mut state) = steady();
    (state.cluster.deleting, state.deleted_at, state.pods_left) = (true, Some(state.now), true);
    state.cluster.spec.deletion_policy = DeletionPolicy::Retain;
    let goes = |state: &State| decide(state).actions.contains(&Action::SetClusterFinalizer { present: false });
    assert!(!goes(&state), "a pod may still flush");
    let ended = State { pods_left: false, ..state.clone() };
    assert!(goes(&ended));
    let after = |seconds| state.now + jiff::SignedDuration::from_secs(seconds);
    assert!(!goes(&State { now: after(299), ..state.clone() }));
    assert!(goes(&State { now: after(300), ..state.clone() }), "it waits for ever");
}

/// During a change of threshold neither the old nor the new epoch loses its quorum to a drain.
#[test]
fn the_budget_keeps_the_higher_of_both_thresholds() {
    let (_, state) = steady();
    let (number, active) = state.active().unwrap();
    for (now, next, wanted, kept) in [(3, 4, 4, 4), (4, 3, 3, 4), (3, 3, 4, 4), (3, 3, 3, 3)] {
        let mut state = state.clone();
        let mut open = active.clone();
        (open.spec.number, open.spec.threshold, open.status) = (number + 1, next, None);
        state.epochs.insert(number + 1, open);
        state.epochs.get_mut(&number).unwrap().spec.threshold = now;
        state.cluster.spec.threshold = Some(wanted);
        assert_eq!(crate::rollout::min_available(&state), kept, "{now}, then {next}, then {wanted}");
    }
}

/// No node stops a round by what it writes into its own status: it is planned without a prekey, and the others get their shares.
#[test]
fn a_node_that_knows_no_plan_of_ours_costs_nobody_a_round() {
    let (model, steady) = steady();
    let boundary = steady.cluster.status.last_processed_boundary.unwrap() + model.interval();
    let mut due = State { block: Ok(boundary), last_block: boundary, ..steady };
    let first = *due.nodes.keys().next().unwrap();
    due.nodes.get_mut(&first).unwrap().plan_versions = vec![99];
    let reserved = decide(&due).actions.into_iter().find_map(|action| match action {
        Action::UpdateCluster { status, .. } => status.reservation.is_some().then_some(*status),
        _ => None,
    });
    due.cluster.status = reserved.expect("the boundary reserves a number");
    let planned = decide(&due).actions.into_iter().find_map(|action| match action {
        Action::CreateEpoch(spec) => Some(spec),
        _ => None,
    });
    let planned = planned.expect("one node's word stopped the round");
    let sealed: Vec<_> = planned.receivers.iter().filter(|receiver| receiver.prekey.is_some()).collect();
    assert_eq!(sealed.len() + 1, planned.receivers.len(), "the others are sealed to");
    assert!(planned.dealers.iter().any(|dealer| dealer.index == first), "and it deals like everyone");
}
