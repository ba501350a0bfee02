//! Nodes that lie, stay mute or say two things: left out and named with evidence, while the round succeeds.

use keyfleet_crds::convert::{certificate_of, point};
use keyfleet_crds::epoch::status::{Culprit, Fault};
use keyfleet_simulation::node::Node;
use keyfleet_simulation::{Behaviour, Fleet, Settings, seeds};
use keyfleet_threshold::identifiers::{Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::round::{Blob, Body, SignedMessage};

fn index(i: u32) -> NodeIndex {
    NodeIndex::new(i).expect("indices start at one")
}

/// A fleet of `n` whose first epoch is active; then the given nodes turn, and one more epoch becomes active.
fn reshare_with(seed: u64, n: u32, threshold: u16, adversaries: &[(u32, Behaviour)]) -> (Fleet, EpochNumber) {
    let mut fleet = Fleet::new(seed, Settings::CALM, n, threshold, threshold);
    let first = fleet.next_active(None, 30);
    fleet.run_until("everyone holds the first epoch", 5, |fleet| fleet.holders(first).len() == n as usize);
    for (who, behaviour) in adversaries {
        fleet.behave(*who, *behaviour);
    }
    let next = fleet.next_active(Some(first), 60);
    fleet.run_blocks(2);
    (fleet, next)
}

fn qualified(fleet: &Fleet, number: EpochNumber) -> Vec<u32> {
    fleet.status(number).qualified.clone().expect("an active epoch has qualified dealers")
}

/// The fault of which the record accuses `who`.
fn fault(fleet: &Fleet, number: EpochNumber, who: u32) -> Option<Fault> {
    culprit(fleet, number, who).map(|culprit| culprit.fault)
}

fn culprit(fleet: &Fleet, number: EpochNumber, who: u32) -> Option<&Culprit> {
    fleet.status(number).culprits.iter().find(|culprit| culprit.index == who)
}

/// The signed messages that prove it, as nodes keep them.
fn evidence(fleet: &Fleet, number: EpochNumber, who: u32) -> Vec<SignedMessage> {
    let digests = culprit(fleet, number, who).map_or(&[][..], |culprit| &culprit.evidence_digests);
    let kept = |digest: &Digest| fleet.nodes.values().find_map(|node| node.disk.blobs.get(digest).cloned());
    let said = |digest: &Digest| {
        let mut said = fleet.nodes.values().flat_map(Node::said);
        said.find(|(_, message)| message.digest() == *digest).map(|(_, message)| message.clone())
    };
    let message = |digest: Digest| match kept(&digest).as_deref() {
        Some(Blob::Message(message)) => Some(message.clone()),
        _ => said(&digest),
    };
    digests.iter().map(|digest| message(Digest(digest.0)).expect("evidence is kept")).collect()
}

/// Tells whether `who` complains about `accused` in one of these messages.
fn complains(evidence: &[SignedMessage], who: u32, accused: u32) -> bool {
    evidence.iter().any(|message| match &message.body {
        Body::Response(response) => {
            message.sender == index(who)
                && response.complaints.iter().any(|complaint| complaint.dealer == index(accused))
        }
        _ => false,
    })
}

/// A dealer that seals a bad share is left out, and named by a complaint that anyone can judge.
#[test]
fn a_dealer_that_seals_a_bad_share_is_left_out_and_named() {
    for seed in seeds(3) {
        let (fleet, number) = reshare_with(seed, 5, 3, &[(2, Behaviour::LyingDealer { victim: index(4) })]);
        assert_eq!(qualified(&fleet, number), [1, 3, 4, 5], "seed {seed}: the liar must not qualify");
        assert_eq!(fault(&fleet, number, 2), Some(Fault::InvalidShare), "seed {seed}");
        let evidence = evidence(&fleet, number, 2);
        assert_eq!(evidence.len(), 2, "seed {seed}: the bundle and the complaint");
        assert!(complains(&evidence, 4, 2), "seed {seed}: the victim complains");
        assert_eq!(fleet.holders(number).len(), 5, "seed {seed}: the victim has its share, and so has the liar");
    }
}

/// seed: 000-13
#[test]
fn a_mute_dealer_costs_one_deadline_and_nothing_else() {
    for seed in seeds(3) {
        let (fleet, number) = reshare_with(seed, 4, 3, &[(3, Behaviour::MuteDealer)]);
        assert_eq!(number, EpochNumber(2), "seed {seed}: the first attempt succeeds");
        assert_eq!(qualified(&fleet, number), [1, 2, 4], "seed {seed}");
        assert_eq!(fleet.holders(number).len(), 4, "seed {seed}: a mute dealer is still a receiver");
    }
}

/// A dealer that signs two bundles is left out, and both bundles are the evidence.
/// seed: 004-27
#[test]
fn a_dealer_that_signs_two_bundles_is_left_out_and_named() {
    for seed in seeds(4) {
        let (fleet, number) = reshare_with(seed, 5, 3, &[(1, Behaviour::Equivocator)]);
        assert_eq!(qualified(&fleet, number), [2, 3, 4, 5], "seed {seed}");
        assert_eq!(fault(&fleet, number, 1), Some(Fault::Equivocation), "seed {seed}");
        assert_eq!(evidence(&fleet, number, 1).len(), 2, "seed {seed}");
    }
}

/// A dealer that deals something else than its share is named by everyone.
#[test]
fn a_dealer_that_deals_another_secret_is_named() {
    for seed in seeds(2) {
        let (fleet, number) = reshare_with(seed, 4, 3, &[(4, Behaviour::ForeignConstant)]);
        assert_eq!(qualified(&fleet, number), [1, 2, 3], "seed {seed}");
        assert_eq!(fault(&fleet, number, 4), Some(Fault::WrongSource), "seed {seed}");
    }
}

#[test]
fn a_false_complaint_harms_its_author_alone() {
    for seed in seeds(3) {
        let (fleet, number) = reshare_with(seed, 4, 3, &[(4, Behaviour::FalseComplainer { accused: index(1) })]);
        assert_eq!(qualified(&fleet, number), [1, 2, 3], "seed {seed}: the accused stays, and its accuser does not");
        assert_eq!(fault(&fleet, number, 4), Some(Fault::FalseComplaint), "seed {seed}");
        assert!(complains(&evidence(&fleet, number, 4), 4, 1), "seed {seed}: its own complaint proves it");
        assert_eq!(fault(&fleet, number, 1), None, "seed {seed}");
    }
}

/// Signed bytes that nobody can read are no answer: the round goes on without them, and they convict the node.
#[test]
fn a_node_that_signs_what_does_not_decode_is_named() {
    for seed in seeds(2) {
        let (fleet, number) = reshare_with(seed, 4, 3, &[(2, Behaviour::Babbler)]);
        assert_eq!(fault(&fleet, number, 2), Some(Fault::Malformed), "seed {seed}");
        let exhibit = evidence(&fleet, number, 2);
        let [message] = &exhibit[..] else { panic!("seed {seed}: {} exhibits", exhibit.len()) };
        assert!(matches!(message.body, Body::Malformed(_)), "seed {seed}: it is {:?}", message.body.kind());
        let others = fleet.nodes.values().filter(|node| node.index != index(2));
        let kept = others.filter(|node| node.disk.blobs.contains_key(&message.digest())).count();
        assert_eq!(kept, 3, "seed {seed}: the others cannot show the exhibit");
        for node in fleet.nodes.values().filter(|node| node.index != index(2)) {
            let transcript = node.process.as_ref().and_then(|process| process.participant.transcript(number));
            let named = transcript.is_some_and(|it| it.culprits().any(|culprit| culprit.index == index(2)));
            assert!(named, "seed {seed}: node {} judges otherwise than the operator", node.index);
        }
    }
}

/// A receiver that prepares another vector is not counted, and its nonsense signature stops nothing. Neither proves anything by
/// itself, since under a record that shows different things to different nodes honest ones say such things: it is not named.
/// seed: 004-09, 004-27
#[test]
fn a_receiver_of_another_vector_stops_nothing() {
    for seed in seeds(2) {
        let (fleet, number) = reshare_with(seed, 4, 3, &[(2, Behaviour::Saboteur)]);
        assert_eq!(fault(&fleet, number, 2), None, "seed {seed}: what proves nothing names nobody");
        let certificate = certificate_of(&fleet.plan(number), fleet.status(number)).expect("a point of G1");
        let key = point(&fleet.public_key().expect("the record names it")).expect("a point of G2");
        assert!(certificate.expect("an active epoch has one").verify(&key), "seed {seed}");
    }
}

/// A receiver shows its answer to the operator alone. Without complaints it follows from what everyone knows; with complaints it is left
/// out at the deadline, and its author is named as one that gave no answer.
#[test]
fn a_response_whispered_to_the_operator_stops_no_round() {
    for seed in seeds(3) {
        let (fleet, number) = reshare_with(seed, 4, 3, &[(4, Behaviour::Whisperer { accused: None })]);
        assert_eq!(number, EpochNumber(2), "seed {seed}: the first attempt succeeds");
        assert_eq!(qualified(&fleet, number), [1, 2, 3, 4], "seed {seed}");
        let (fleet, number) = reshare_with(seed, 4, 3, &[(4, Behaviour::Whisperer { accused: Some(index(1)) })]);
        assert_eq!(number, EpochNumber(2), "seed {seed}: it costs one deadline");
        assert_eq!(qualified(&fleet, number), [1, 2, 3, 4], "seed {seed}: what nobody can judge judges nobody");
        assert_eq!(fault(&fleet, number, 4), Some(Fault::NoResponse), "seed {seed}");
    }
}

/// Floods and gossip cost their author its name, and the round nothing.
#[test]
fn a_node_that_floods_or_gossips_stops_nothing() {
    for seed in seeds(3) {
        let adversaries = [(2, Behaviour::Flooder), (5, Behaviour::Gossip)];
        let (fleet, number) = reshare_with(seed, 7, 4, &adversaries);
        assert_eq!(number, EpochNumber(2), "seed {seed}: the first attempt succeeds");
        for (who, _) in adversaries {
            assert!(culprit(&fleet, number, who).is_some(), "seed {seed}: node {who} is not named");
        }
        let honest = [1, 3, 4, 6, 7];
        assert!(honest.iter().all(|who| fault(&fleet, number, *who).is_none()), "seed {seed}: an honest node is named");
        assert!(
            honest.iter().all(|who| fleet.holders(number).contains(&index(*who))),
            "seed {seed}: a share is missing"
        );
    }
}

/// At most n−t nodes may be corrupt for liveness: with exactly that many of different kinds the round still succeeds.
/// seed: 002-13
#[test]
fn the_most_adversaries_allowed_do_not_stop_a_round() {
    for seed in seeds(3) {
        let adversaries = [
            (1, Behaviour::LyingDealer { victim: index(6) }),
            (3, Behaviour::Silent),
            (5, Behaviour::FalseComplainer { accused: index(2) }),
        ];
        let (fleet, number) = reshare_with(seed, 7, 4, &adversaries);
        let qualified = qualified(&fleet, number);
        assert!([2, 4, 6, 7].iter().all(|honest| qualified.contains(honest)), "seed {seed}: {qualified:?}");
        assert!(!qualified.contains(&1) && !qualified.contains(&3), "seed {seed}: {qualified:?}");
    }
}

#[test]
fn a_genesis_succeeds_beside_a_lying_and_a_mute_dealer() {
    for seed in seeds(3) {
        let mut fleet = Fleet::new(seed, Settings::CALM, 5, 3, 3);
        fleet.run_until("the nodes have been started", 2, |fleet| fleet.nodes.len() == 5);
        fleet.behave(2, Behaviour::LyingDealer { victim: index(5) });
        fleet.behave(3, Behaviour::MuteDealer);
        let number = fleet.next_active(None, 40);
        assert_eq!(qualified(&fleet, number), [1, 4, 5], "seed {seed}");
        assert_eq!(fault(&fleet, number, 2), Some(Fault::InvalidShare), "seed {seed}");
        assert!(complains(&evidence(&fleet, number, 2), 5, 2), "seed {seed}: the victim complains");
    }
}

/// A round below its quorum fails with its reason, and the next boundary succeeds unaided.
/// seed: 001-29, 003-30, 004-02, 004-34
#[test]
fn a_round_below_its_quorum_fails_and_the_next_succeeds() {
    let mut fleet = Fleet::new(1, Settings::CALM, 6, 4, 5);
    let first = fleet.next_active(None, 30);
    fleet.run_until("everyone holds it", 5, |fleet| fleet.holders(first).len() == 6);
    fleet.take_down(5);
    fleet.take_down(6);
    fleet.run_until("an attempt fails", 40, |fleet| {
        fleet.epochs().any(|epoch| epoch.status.as_ref().is_some_and(|status| status.failure.is_some()))
    });
    let failed = fleet.epochs().find(|epoch| epoch.status.as_ref().is_some_and(|status| status.failure.is_some()));
    let number = failed.expect("just seen").spec.number;
    let failure = fleet.status(EpochNumber(number)).failure.clone().expect("just seen");
    let reason = "4 receivers stored their share by the deadline, 5 are needed";
    assert!(failure.message.starts_with(reason), "{failure:?}");
    let failed = EpochNumber(number);
    assert_eq!(fleet.active(), Some(first), "the previous epoch serves throughout");
    assert_eq!(fleet.holders(first).len(), 4, "on every node that is up");
    fleet.run_blocks(1);
    assert_eq!(fleet.holders(failed).len(), 0, "what the failed attempt held is destroyed");
    fleet.bring_up(5);
    fleet.bring_up(6);
    let next = fleet.next_active(Some(first), 40);
    fleet.run_until("all six hold the next epoch", 5, |fleet| fleet.holders(next).len() == 6);
}

/// Random liars, as many as the threshold allows, in a rough world: rounds may fail, and nothing may break. When the liars
/// have turned honest and the world is calm, the next round succeeds with the same key.
/// seed: 002-25
#[test]
fn random_adversaries_in_a_rough_world_break_nothing() {
    for seed in seeds(6) {
        let n = 4 + u32::try_from(seed % 3).expect("small");
        let threshold = u16::try_from(n / 2 + 1).expect("small");
        let mut fleet = Fleet::new(seed, Settings::ROUGH, n, threshold, threshold);
        let first = fleet.next_active(None, 800);
        fleet.run_until("the status names the key", 100, |fleet| fleet.public_key().is_some());
        let key = fleet.public_key();
        for _ in 0..3 {
            for _ in 0..n - u32::from(threshold) {
                let who = 1 + u32::try_from(fleet.random(n.into())).expect("small");
                let other = index(1 + u32::try_from(fleet.random(n.into())).expect("small"));
                let behaviour = match fleet.random(11) {
                    0 => Behaviour::MuteDealer,
                    1 => Behaviour::LyingDealer { victim: other },
                    2 => Behaviour::ForeignConstant,
                    3 => Behaviour::Equivocator,
                    4 => Behaviour::FalseComplainer { accused: other },
                    5 => Behaviour::Saboteur,
                    6 => Behaviour::Whisperer { accused: None },
                    7 => Behaviour::Whisperer { accused: Some(other) },
                    8 => Behaviour::Flooder,
                    9 => Behaviour::Gossip,
                    _ => Behaviour::Silent,
                };
                fleet.behave(who, behaviour);
            }
            fleet.run_blocks(15);
            (1..=n).for_each(|who| fleet.behave(who, Behaviour::Honest));
        }
        fleet.settings = Settings::CALM;
        let before = fleet.active().max(Some(first));
        fleet.next_active(before, 200);
        assert!(fleet.public_key() == key, "seed {seed}: it is the same key");
    }
}
