//! The prekey that a plan names for each receiver, after status and plans went back in time.

use keyfleet_threshold::identifiers::{ClusterId, NodeIndex, PrekeyNumber};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::prekey::PrekeySecret;

use super::steady;
use crate::state::State;
use crate::view::ReportedPrekey;
use crate::{Action, decide};

/// A prekey of node `of` of this fleet, signed by `signer`, as a report passes it on.
fn reported(state: &State, of: u32, number: u64, signer: u8) -> ReportedPrekey {
    let cluster = ClusterId(state.cluster.status.cluster_id.unwrap().0);
    let secret = PrekeySecret::restore(PrekeyNumber(number), &[77; 32]).unwrap();
    let signed = secret.offer(cluster, NodeIndex::new(of).unwrap(), &IdentitySecretKey::from_seed(&[signer; 32]));
    ReportedPrekey::of(signed.number.0, &signed.key.encode(), &signed.signature.0).unwrap()
}

/// The prekey that the next plan names for node 4, when nodes report these.
fn named(state: &State, reports: &[ReportedPrekey]) -> Option<u64> {
    let mut state = state.clone();
    state.view.prekeys.insert(4, reports.iter().copied().collect());
    let planned = decide(&state).actions.into_iter().find_map(|action| match action {
        Action::CreateEpoch(spec) => Some(spec),
        _ => None,
    });
    let planned = planned.expect("what a node reports of others stopped the round");
    let receiver = planned.receivers.iter().find(|receiver| receiver.index == 4).expect("node 4 receives");
    receiver.prekey.as_ref().map(|prekey| prekey.number)
}

/// A fleet whose next round was reserved: the plan follows.
fn reserved() -> State {
    let (model, mut due) = steady();
    let boundary = due.cluster.status.last_processed_boundary.unwrap() + model.interval();
    (due.block, due.last_block) = (Ok(boundary), boundary);
    let reserved = decide(&due).actions.into_iter().find_map(|action| match action {
        Action::UpdateCluster { status, .. } => status.reservation.is_some().then_some(*status),
        _ => None,
    });
    due.cluster.status = reserved.expect("the boundary reserves a number");
    due
}

/// Nodes refuse plans with an older prekey than one they accepted; after a restore of etcd they alone know it.
#[test]
fn a_plan_names_the_newest_prekey_that_any_node_accepted() {
    let mut state = reserved();
    assert_eq!(named(&state, &[]), Some(1), "of the node's own status");
    let newer = [reported(&state, 4, 3, 4), reported(&state, 4, 2, 4)];
    assert_eq!(named(&state, &newer), Some(3), "an older one than nodes accepted, which they refuse");
    state.nodes.get_mut(&4).unwrap().prekey = None;
    assert_eq!(named(&state, &newer), Some(3), "its status was lost");
    let older = state.epochs.values().find_map(|epoch| epoch.spec.receivers[3].prekey.clone());
    assert_eq!(named(&state, &[]), older.map(|prekey| prekey.number), "a plan names one still");
}

/// A liar that passes on what the receiver did not sign, or what no plan can hold, changes nothing.
#[test]
fn a_reported_prekey_counts_only_as_its_receiver_signed_it() {
    let state = reserved();
    let right = reported(&state, 4, 5, 4);
    let lies = [
        ("another node's signature", reported(&state, 4, 9, 3)),
        ("signed for another index", reported(&state, 3, 9, 4)),
        ("another number than the signed one", ReportedPrekey { number: 9, ..right }),
        ("no point", ReportedPrekey { number: 9, public_key: [1; 48], ..right }),
        ("a number that no kind can hold", reported(&state, 4, 1 << 53, 4)),
    ];
    for (what, lie) in lies {
        assert_eq!(named(&state, &[lie]), Some(1), "{what}: it counted");
        assert_eq!(named(&state, &[lie, right]), Some(5), "{what}: it hid the right one");
    }
}
