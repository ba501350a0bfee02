//! Tests of the inputs and answers of a node, without a node.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::coordination::{FleetView, KeptEpoch, NodeView, planning};
use crate::curve::G2;
use crate::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, PrekeyNumber, Threshold};
use crate::identity::IdentitySecretKey;
use crate::plan::{Deadlines, ValidPlan};
use crate::prekey::PrekeySecret;
use crate::round::{Blob, Body, RoundRecord, SignedMessage, Want};

fn index(i: u32) -> NodeIndex {
    NodeIndex::new(i).unwrap()
}

fn view(number: u64, nodes: u8, threshold: u16) -> FleetView {
    let cluster = ClusterId([7; 16]);
    let node = |i: u8| {
        let (index, identity) = (index(i.into()), IdentitySecretKey::from_seed(&[i; 32]));
        let secret = PrekeySecret::restore(PrekeyNumber(number), &[i; 32]).unwrap();
        let prekey = Some(secret.offer(cluster, index, &identity));
        NodeView { index, identity: identity.public(), prekey }
    };
    FleetView {
        cluster,
        number: EpochNumber(number),
        block: Block(100 * number),
        threshold: Threshold(threshold),
        min_holders: threshold,
        deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
        receivers: (1..=nodes).map(node).collect(),
        connected: (1..=nodes).map(|i| index(i.into())).collect(),
        unawaited: BTreeSet::new(),
    }
}

fn listing(plans: &[&ValidPlan]) -> Listing {
    let epoch =
        |plan: &&ValidPlan| (plan.number, ListedEpoch { plan: (*plan).clone(), record: Some(RoundRecord::opened()) });
    Listing {
        generation: 1,
        epochs: plans.iter().map(epoch).collect(),
        allow_downtime: Some(false),
        confirm_after_seconds: Some(60),
        retention: Some(2),
    }
}

/// Why the newest of these plans is held back from a node that knows none of them.
fn held_back(plans: &[&ValidPlan], allow_downtime: Option<bool>) -> Option<HeldBack> {
    let listing = Listing { allow_downtime, ..listing(plans) };
    let next = Feed::default().next(&listing, None, true);
    assert_eq!(next.again, !next.held_back.is_empty(), "what is held back is tried again, and nothing else");
    next.held_back.get(&plans.last()?.number).copied()
}

/// seed: 001-33
#[test]
fn a_plan_that_needs_every_node_is_held_back_unless_allowed() {
    let (spare, tight) = (planning::genesis(&view(1, 4, 3)).unwrap(), planning::genesis(&view(1, 3, 3)).unwrap());
    assert_eq!(held_back(&[&spare], Some(false)), None, "one may be away");
    let refused = Some(HeldBack::NeedsEveryNode);
    assert_eq!(held_back(&[&tight], Some(false)), refused, "nobody may be away, and nobody allowed that");
    assert_eq!(held_back(&[&tight], None), Some(HeldBack::AllowDowntimeUnknown));
    assert_eq!(held_back(&[&tight], Some(true)), None);
    // Handed on as it is while a newcomer starts: the user's word was given then.
    let kept = KeptEpoch {
        number: EpochNumber(1),
        plan: tight.clone(),
        vector: Digest([5; 32]),
        public_key: G2::generator(),
        holders: (1..=3).map(index).collect(),
    };
    let same = planning::reshare(&view(2, 3, 3), &kept).unwrap();
    assert_eq!(held_back(&[&tight, &same], Some(false)), None, "a reshare among the same nodes changes nothing");
    let grown = planning::reshare(&view(2, 4, 4), &kept).unwrap();
    assert_eq!(held_back(&[&tight, &grown], Some(false)), refused, "other nodes are another agreement");
}

#[test]
fn a_genesis_waits_for_the_mark_of_its_name() {
    let plan = planning::genesis(&view(1, 4, 3)).unwrap();
    let listing = listing(&[&plan]);
    let mut feed = Feed::default();
    assert!(feed.awaits_name_mark(&listing, None));
    let next = feed.next(&listing, None, false);
    assert_eq!(next.held_back, BTreeMap::from([(plan.number, HeldBack::NameNotMarked)]));
    assert!(next.inputs.is_empty() && next.again);
    let next = feed.next(&listing, None, true);
    let fed = [Input::Plan((*plan).clone()), Input::Record(plan.number, RoundRecord::opened())];
    assert_eq!(next.inputs, fed);
    assert!(!feed.awaits_name_mark(&listing, None), "it was fed");
    assert!(feed.next(&listing, None, true).inputs.is_empty(), "nothing is fed twice of one list");
    let again = Listing { generation: 2, ..listing };
    assert_eq!(feed.next(&again, None, true).inputs, fed, "a list that was read anew is fed whole");
}

/// Each node begins with another peer, and goes on while something is wanted.
#[test]
fn peers_are_asked_in_turn_and_again() {
    let (me, digest) = (index(1), Digest([0; 32]));
    let peers: BTreeSet<_> = (1..=4).map(index).collect();
    let want = [Want { number: EpochNumber(1), digest }];
    let mut first: Vec<_> = (2..=4)
        .map(|peer| {
            let mut turns = Turns::new(me, index(peer));
            turns.want(&want, &peers, 5_000);
            turns.next_ms().unwrap()
        })
        .collect();
    first.sort_unstable();
    assert_eq!(first, [5_000, 5_100, 5_200], "each peer has a turn of its own");
    let mut turns = Turns::new(me, index(2));
    turns.want(&want, &peers, 0);
    let at = turns.next_ms().unwrap();
    assert_eq!(turns.due(at), [digest]);
    assert_eq!(turns.next_ms(), Some(at + 1_000), "it is asked again while that is wanted");
    assert!(turns.due(at + 999).is_empty());
    turns.want(&[], &peers, at);
    assert_eq!(turns.next_ms(), None, "it is asked for what is no longer wanted");
}

/// The newest epoch's bundles come first, whatever their digests are.
#[test]
fn what_is_wanted_first_is_asked_for_first() {
    let (peers, digests) = (BTreeSet::from([index(1), index(2)]), [Digest([9; 32]), Digest([1; 32]), Digest([5; 32])]);
    let want = |digest: &Digest| Want { number: EpochNumber(1), digest: *digest };
    let mut turns = Turns::new(index(1), index(2));
    turns.want(&digests.each_ref().map(want), &peers, 0);
    assert_eq!(turns.due(0), digests);
    let newer = [digests[2], digests[0]];
    turns.want(&newer.each_ref().map(want), &peers, 500);
    assert!(turns.due(999).is_empty(), "it was asked for half a second ago");
    assert_eq!(turns.due(1_000), newer, "the order of what is still wanted is the one before");
}

/// Requests for a blob that no peer has grow rarer, down to one a minute; a blob that is wanted anew is asked for at once.
#[test]
fn pauses_between_requests_for_a_blob_double() {
    let (peers, digest) = (BTreeSet::from([index(1), index(2)]), Digest([0; 32]));
    let want = [Want { number: EpochNumber(1), digest }];
    let mut turns = Turns::new(index(1), index(2));
    turns.want(&want, &peers, 0);
    let mut pauses = Vec::new();
    while pauses.len() < 9 {
        let at = turns.next_ms().unwrap();
        assert_eq!(turns.due(at), [digest]);
        turns.want(&want, &peers, at);
        pauses.push((turns.next_ms().unwrap() - at) / 1_000);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    turns.want(&[], &peers, 900_000);
    turns.want(&want, &peers, 900_000);
    assert_eq!(turns.next_ms(), Some(900_000), "the pause of an earlier want goes on");
}

#[test]
fn a_peer_is_heard_in_its_own_name_alone() {
    let key = IdentitySecretKey::from_seed(&[2; 32]);
    let said = |sender| Blob::Message(SignedMessage::sign(Digest([1; 32]), index(sender), Body::Erased, &key));
    assert!(says_itself(&said(2), index(2)), "its own words are dropped");
    let other = says_itself(&said(3), index(2));
    assert!(!other, "it speaks for another, and would fill what is kept of it");
}
