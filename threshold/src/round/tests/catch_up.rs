//! Catching up on kept epochs from what peers show, while some of them lie. Nothing is read of the record here: of no epoch is
//! there a `KeyEpoch`.

use std::collections::BTreeSet;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::returns::{Away, outbox};
use super::{CLUSTER, Table, identity, index, prove_from};
use crate::coordination::planning;
use crate::curve::{G1, HashDomain, Scalar};
use crate::feed::{self, Feed, Input};
use crate::identifiers::{ClusterId, Digest, EpochNumber, PrekeyNumber};
use crate::plan::{FrozenDigests, Plan};
use crate::prekey::PrekeySecret;
use crate::round::*;

fn epoch(number: u64) -> EpochNumber {
    EpochNumber(number)
}

/// Runs the rounds up to `last` without node 4.
fn away_until(last: u64) -> Away {
    let mut away = Away::begin(None);
    (2..=last).for_each(|number| away.round(number));
    away
}

/// Returns the truth about an epoch, as node 1 shows it.
fn shown(away: &Away, number: u64) -> ShownEpoch {
    ShownEpoch::of(&away.table.nodes[&index(1)].state.attempts[&epoch(number)]).expect("node 1 keeps it")
}

/// Shows it to the node that is back. Returns what came of it.
fn show(away: &mut Away, from: u32, shown: &ShownEpoch) -> Result<Outputs, ShownError> {
    away.node.show(index(from), shown, &mut away.rng)
}

fn notices(outputs: &[Outputs]) -> Vec<&Notice> {
    outputs.iter().flat_map(|outputs| &outputs.notices).collect()
}

/// Names another bundle of a dealer in a list.
fn with_bundle(list: &FrozenDigests, dealer: u32, bundle: Digest) -> FrozenDigests {
    let changed = list.iter().map(|(of, digest)| (of, if of == index(dealer) { bundle } else { digest }));
    FrozenDigests::new(changed.collect()).unwrap()
}

/// A second bundle of dealer 2 in a round of the table, valid in itself.
fn second_bundle(away: &Away, number: u64) -> SignedMessage {
    let plan = &away.rounds[&epoch(number)].plan;
    let source = plan.source().expect("a reshare").number;
    let share = away.table.nodes[&index(2)].share(source);
    let dealing = Dealing::deal(plan, index(2), share, &DealerSeed::restore(&[0x5a; 32]));
    SignedMessage::sign(plan.digest(), index(2), Body::Dealing(dealing), &identity(2))
}

/// A node is back after one, two and five epochs. One honest holder shows what it keeps; the others show false lists first:
/// a dealer less, digests that are nobody's, a second bundle of their own, another's bundle, a stranger as a dealer. They hand out
/// bundles under bad signatures.
#[test]
fn one_honest_holder_is_enough_after_any_absence() {
    for missed in [1, 2, 5] {
        let mut away = away_until(1 + missed);
        let newest = 1 + missed;
        let honest = shown(&away, newest);
        let second = second_bundle(&away, newest);
        let lists = [
            FrozenDigests::new(honest.qualified.iter().skip(1).collect()).unwrap(),
            with_bundle(&honest.qualified, 3, Digest([9; 32])),
            with_bundle(&honest.qualified, 2, second.digest()),
            with_bundle(&honest.qualified, 2, honest.qualified.get(index(3)).unwrap()),
            FrozenDigests::new(honest.qualified.iter().chain([(index(77), Digest([7; 32]))]).collect()).unwrap(),
        ];
        let mut outputs = Vec::new();
        for (liar, qualified) in [1, 3, 2, 6, 7].into_iter().zip(lists) {
            outputs.push(show(&mut away, liar, &ShownEpoch { qualified, ..honest.clone() }).unwrap());
        }
        outputs.push(show(&mut away, 9, &honest).unwrap());
        outputs.push(away.node.learn(&Blob::Message(second), &mut away.rng).unwrap());
        for message in away.table.nodes.values().flat_map(outbox).cloned().collect::<Vec<_>>() {
            let forged = SignedMessage::sign(message.plan, message.sender, message.body.clone(), &identity(9));
            if let Ok(heard) = away.node.learn(&Blob::Message(forged), &mut away.rng) {
                assert!(heard.keep.is_empty(), "missed {missed}: a bundle under a bad signature is kept");
            }
        }
        assert!(away.node.share(epoch(newest)).is_none(), "missed {missed}: a share came of forged bundles");
        outputs.extend(away.fetch(|_| true));
        assert!(away.node.share(epoch(newest)).is_some(), "missed {missed}: the newest share is out of reach");
        assert_eq!(away.node.state.active, Some(epoch(newest)), "missed {missed}");
        let attempt = &away.node.state.attempts[&epoch(newest)];
        assert_eq!(attempt.qualified.as_ref(), Some(&honest.qualified), "missed {missed}: it keeps a false list");
        let named = |peer: u32| notices(&outputs).contains(&&Notice::FalseList(epoch(newest), index(peer)));
        assert!(
            [1, 2, 6, 7].into_iter().all(named),
            "missed {missed}: who showed bundles that make another epoch is not named"
        );
        assert!(!named(9), "missed {missed}: the honest holder is named");
        let said: Vec<_> = outbox(&away.node).filter(|message| message.plan == attempt.plan.digest()).collect();
        let kinds: Vec<_> = said.iter().map(|message| message.body.kind()).collect();
        assert_eq!(kinds, [MessageKind::Holds], "missed {missed}: it says more than that it holds its share");
    }
}

/// Whatever a node remembers of numbers, first plans and prekeys, an epoch that the key certified is one.
#[test]
fn a_certificate_counts_above_what_a_node_remembers() {
    let mut away = away_until(3);
    let mut other: Plan = (*away.rounds[&epoch(3)].plan).clone();
    other.block.0 += 1;
    let _ = away.node.accept(other, &mut away.rng).expect("it is the first plan that it sees under the number");
    away.node.state.highest = epoch(99);
    for (receiver, accepted) in &mut away.node.state.accepted_prekeys {
        let secret = PrekeySecret::restore(PrekeyNumber(1_000), &[7; 32]).unwrap();
        *accepted = secret.offer(CLUSTER, *receiver, &identity(receiver.value()));
    }
    let truth = shown(&away, 3);
    let _ = show(&mut away, 1, &truth).expect("the cluster's key signed it");
    let _ = away.fetch(|_| true);
    assert!(away.node.share(epoch(3)).is_some(), "its memory keeps it from the newest epoch");
    assert_eq!(away.node.state.highest, epoch(99), "the highest number fell");
    let newest = away.node.state.accepted_prekeys[&index(1)].number;
    assert_eq!(newest, PrekeyNumber(1_000), "an accepted prekey was replaced by an older one");
}

#[test]
fn a_false_certificate_leaves_no_trace() {
    let mut away = away_until(3);
    let truth = shown(&away, 3);
    let before = away.node.state.clone();
    let mut refused = |change: &dyn Fn(&mut ShownEpoch)| {
        let mut false_one = truth.clone();
        change(&mut false_one);
        let error = show(&mut away, 2, &false_one).expect_err("it must be refused");
        assert!(away.node.state == before && away.node.wants().iter().all(|want| want.number == epoch(1)));
        error
    };
    let bad = ShownError::BadCertificate(epoch(3));
    assert_eq!(refused(&|it| it.certificate.signature = G1::hash(b"nonsense", HashDomain::Signature)), bad);
    assert_eq!(refused(&|it| it.certificate.vector = Digest([1; 32])), bad);
    assert_eq!(refused(&|it| it.plan[30] ^= 1), bad, "another plan than the certified one");
    let renumbered = refused(&|it| it.certificate.number = epoch(900));
    assert_eq!(renumbered, ShownError::BadCertificate(epoch(900)));
    let elsewhere = refused(&|it| it.certificate.cluster = ClusterId([9; 16]));
    assert_eq!(elsewhere, ShownError::OtherCluster(epoch(3)));
}

/// Each certificate costs a pairing to refuse, and a liar has many.
#[test]
fn a_peer_that_shows_nonsense_is_not_listened_to_for_ever() {
    let mut away = away_until(2);
    let truth = shown(&away, 2);
    for number in 100..200 {
        let mut nonsense = truth.clone();
        nonsense.certificate.number = epoch(number);
        show(&mut away, 2, &nonsense).expect_err("nobody signed it");
    }
    show(&mut away, 2, &truth).expect_err("it is still looked at, at a pairing each time");
    assert!(show(&mut away, 1, &truth).is_ok(), "another's lies count against the honest holder");
}

/// A liar that could show one list after the other would make a node fetch and add up for ever.
#[test]
fn of_each_peer_the_first_list_alone_is_looked_at() {
    let mut away = away_until(2);
    let truth = shown(&away, 2);
    for byte in [8, 9] {
        let qualified = with_bundle(&truth.qualified, 2, Digest([byte; 32]));
        let _ = show(&mut away, 3, &ShownEpoch { qualified, ..truth.clone() }).unwrap();
    }
    let wanted = away.node.wants();
    let wants = |byte| wanted.iter().any(|want| want.digest == Digest([byte; 32]));
    assert!(wants(8) && !wants(9), "the second list of a peer is fetched, too");
}

/// Certificates of long ago are public, and whoever kept them could fill a node's state with what nobody keeps.
#[test]
fn an_epoch_far_below_those_that_are_kept_is_not_taken_up() {
    let mut away = away_until(3);
    let (old, newest) = (shown(&away, 2), shown(&away, 3));
    let _ = show(&mut away, 1, &newest).unwrap();
    let kept = away.node.state.attempts[&epoch(3)].clone();
    away.node.state.attempts.extend((100..140).map(|number| (epoch(number), kept.clone())));
    assert_eq!(show(&mut away, 1, &old).expect_err("40 newer ones are kept"), ShownError::TooOld(epoch(2)));
    assert!(!away.node.state.attempts.contains_key(&epoch(2)));
}

/// Responses and the vector of the source are needed to judge a round, and nobody judges a certified one.
#[test]
fn a_certified_epoch_needs_its_qualified_bundles_alone() {
    let mut away = away_until(3);
    away.feed(&mut Feed::default());
    for number in [2, 3] {
        let truth = shown(&away, number);
        let _ = show(&mut away, 1, &truth).unwrap();
    }
    let wanted = away.node.wants();
    let bundles =
        |number: u64| shown(&away, number).qualified.iter().map(|(_, bundle)| bundle).collect::<BTreeSet<_>>();
    let of = |number: u64| wanted.iter().filter(move |want| want.number == epoch(number)).map(|want| want.digest);
    for number in [2, 3] {
        assert_eq!(of(number).collect::<BTreeSet<_>>(), bundles(number), "epoch {number}: it wants something else");
    }
    assert!(wanted.is_sorted_by(|a, b| a.number >= b.number), "the newest epoch does not come first");
}

/// Each epoch on its own: the older one, of which nobody has a bundle, keeps the node from nothing.
#[test]
fn an_epoch_that_nobody_serves_delays_no_other() {
    let mut away = away_until(3);
    for number in [2, 3] {
        let truth = shown(&away, number);
        let _ = show(&mut away, 1, &truth).unwrap();
    }
    let older = away.rounds[&epoch(2)].plan.digest();
    let _ = away.fetch(|blob| !matches!(blob, Blob::Message(message) if message.plan == older));
    assert!(away.node.share(epoch(3)).is_some(), "the newest epoch waits for the one before");
    assert!(away.node.share(epoch(2)).is_none());
    let _ = away.fetch(|_| true);
    assert!(away.node.share(epoch(2)).is_some(), "once somebody serves the older one, it is not taken up");
}

/// A stream begins before the API server is read: the newcomer cannot tell yet whose certificates these are.
#[test]
fn what_is_shown_before_the_key_is_known_is_not_lost() {
    let (newcomer, _) = Participant::new(CLUSTER, index(5), identity(5), &mut ChaCha20Rng::seed_from_u64(4));
    let mut away = Away::begin(Some(newcomer));
    (2..=3).for_each(|number| away.round(number));
    for number in [2, 3] {
        let truth = shown(&away, number);
        let _ = show(&mut away, 1, &truth).unwrap();
    }
    assert!(away.node.state.attempts.is_empty(), "it believes in a key that nobody vouches for");
    let plan = away.rounds[&epoch(3)].plan.clone();
    let _ = away.node.accept((*plan).clone(), &mut away.rng).unwrap();
    let _ = away.fetch(|_| true);
    for number in [2, 3] {
        assert!(away.node.share(epoch(number)).is_some(), "epoch {number} was shown too early");
    }
}

/// A dealer cheats the absent node. The complaint says so, and only once the bundles are proven to be those of the epoch.
#[test]
fn a_cheated_absent_node_complains_once_the_vector_matches() {
    let mut away = Away::begin(None);
    let (plan, cheating) = round_with_a_cheat(&mut away, true);
    let truth = shown(&away, 2);
    let false_list = with_bundle(&truth.qualified, 3, Digest([9; 32]));
    let _ = show(&mut away, 3, &ShownEpoch { qualified: false_list, ..truth.clone() }).unwrap();
    let _ = away.node.learn(&Blob::Message(cheating.clone()), &mut away.rng).unwrap();
    assert_eq!(outbox(&away.node).filter(|message| message.plan == plan.digest()).count(), 0, "it accuses too early");
    let _ = show(&mut away, 1, &truth).unwrap();
    let outputs = away.fetch(|_| true);
    assert!(away.node.share(plan.number).is_none() && away.node.state.attempts[&plan.number].unable);
    assert!(notices(&outputs).contains(&&Notice::Unable(plan.number)));
    let late = outbox(&away.node).find_map(|message| match &message.body {
        Body::Late(complaints) => Some(complaints.iter().map(|one| (one.dealer, one.bundle)).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(late, Some(vec![(index(2), cheating.digest())]), "it does not prove who cheated it");
}

/// A dealer signs two bundles with the same commitments. Both add up to the certified vector; one seals rubbish to the absent node,
/// and the liar shows that one first.
#[test]
fn a_list_that_adds_up_and_opens_badly_is_not_the_last_word() {
    let mut away = Away::begin(None);
    let (plan, cheating) = round_with_a_cheat(&mut away, false);
    let truth = shown(&away, 2);
    let false_list = with_bundle(&truth.qualified, 2, cheating.digest());
    let _ = show(&mut away, 2, &ShownEpoch { qualified: false_list, ..truth.clone() }).unwrap();
    let _ = away.node.learn(&Blob::Message(cheating), &mut away.rng).unwrap();
    let _ = away.fetch(|_| true);
    assert!(away.node.share(plan.number).is_none() && away.node.state.attempts[&plan.number].unable);
    let _ = show(&mut away, 1, &truth).unwrap();
    let _ = away.fetch(|_| true);
    let attempt = &away.node.state.attempts[&plan.number];
    assert!(away.node.share(plan.number).is_some() && !attempt.unable, "the good bundle came second, and counts not");
    assert_eq!(attempt.qualified.as_ref(), Some(&truth.qualified));
}

/// Runs round 2 without node 4, to whom dealer 2 seals rubbish in one bundle and a good share in another with the same
/// commitments. The table hears the bad one where `cheats`, the good one otherwise. Returns the bad one.
fn round_with_a_cheat(away: &mut Away, cheats: bool) -> (crate::plan::ValidPlan, SignedMessage) {
    let plan = away.plan(2);
    away.table.begin(&plan);
    let honest = away
        .table
        .said
        .iter()
        .position(|message| message.sender == index(2) && message.body.kind() == MessageKind::Dealing);
    let honest = honest.expect("node 2 deals");
    let Body::Dealing(dealing) = &away.table.said[honest].body else { panic!("just seen") };
    let mut bad = dealing.clone();
    let at = plan.receivers.iter().position(|receiver| receiver.index == index(4)).unwrap();
    bad.shares[at] = bad.shares[at].map(|share| share + Scalar::one());
    let seed = away.table.nodes[&index(2)].expose(SecretName::DealerSeed(plan.number)).unwrap();
    prove_from(&plan, 2, &DealerSeed::restore(&seed), &mut bad);
    let cheating = SignedMessage::sign(plan.digest(), index(2), Body::Dealing(bad), &identity(2));
    if cheats {
        let node = away.table.nodes.get_mut(&index(2)).unwrap();
        node.state.attempts.get_mut(&plan.number).unwrap().outbox[0] = cheating.clone();
        away.table.said[honest] = cheating.clone();
    }
    away.table.settle();
    away.close(&plan);
    (plan, cheating)
}

/// A failed attempt is failed, though one node kept a certificate of it to itself.
#[test]
fn a_certificate_revives_no_failed_attempt() {
    let mut away = away_until(2);
    away.feed(&mut Feed::default());
    let truth = shown(&away, 2);
    let plan = away.plan(3);
    let _ = away.node.accept((*plan).clone(), &mut away.rng).unwrap();
    let failed = RoundRecord { phase: Phase::Failed, ..RoundRecord::opened() };
    let _ = away.node.observe(plan.number, &failed, &mut away.rng).unwrap();
    away.table.accept(&plan);
    away.close(&plan);
    let certified = shown(&away, 3);
    let error = show(&mut away, 1, &certified).expect_err("it failed here");
    assert_eq!(error, ShownError::Failed(plan.number));
    assert_eq!(away.node.state.newest_certified().map(|newest| newest.number), Some(epoch(2)));
    assert!(show(&mut away, 1, &truth).is_ok(), "what it knows is shown to it again");
}

/// Peers that lag behind, and liars that keep old certificates, show what has long gone.
#[test]
fn a_retired_epoch_is_not_taken_up_again() {
    let mut away = away_until(4);
    away.feed(&mut Feed::default());
    let _ = away.fetch(|_| true);
    let said: Vec<_> = away.table.nodes.values().flat_map(outbox).cloned().collect();
    for message in said {
        let _ = away.node.learn(&Blob::Message(message), &mut away.rng);
    }
    let old = shown(&away, 2);
    assert!(away.node.share(epoch(2)).is_some());
    let _ = away.retire_here(epoch(2)).expect("epoch 4 is held by all others");
    let _ = show(&mut away, 1, &old).unwrap();
    let _ = away.fetch(|_| true);
    assert!(away.node.share(epoch(2)).is_none(), "the share of a retired epoch came back");
    assert!(away.node.wants().iter().all(|want| want.number != epoch(2)), "its bundles are fetched again");
    assert!(ShownEpoch::of(&away.node.state.attempts[&epoch(2)]).is_none(), "it shows what it does not keep");
}

/// A receiver that cannot judge bundles vouches for none, and asks for the one vector that it lacks.
#[test]
fn a_receiver_without_the_source_vector_says_nothing() {
    let (mut newcomer, _) = Participant::new(CLUSTER, index(5), identity(5), &mut ChaCha20Rng::seed_from_u64(4));
    let mut table = Table::new();
    table.genesis();
    let mut view = table.view(2);
    let prekey = newcomer.state.shown_prekey().copied();
    view.receivers.push(planning::NodeView { index: index(5), identity: newcomer.identity.public(), prekey });
    let plan = planning::reshare(&view, &table.kept(1)).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    table.accept(&plan);
    let _ = newcomer.accept((*plan).clone(), &mut rng).unwrap();
    let _ = newcomer.observe(plan.number, &RoundRecord::opened(), &mut rng).unwrap();
    for message in table.nodes.values().flat_map(outbox).filter(|message| message.plan == plan.digest()) {
        let outputs = newcomer.learn(&Blob::Message(message.clone()), &mut rng).unwrap();
        assert!(outputs.say.is_empty(), "it vouches for a bundle that it cannot judge");
    }
    let vector = plan.source().unwrap().vector;
    let wanted: Vec<_> = newcomer.wants().into_iter().map(|want| want.digest).collect();
    assert_eq!(wanted, [vector], "it does not ask for what it lacks, or for more");
    let found = table.nodes[&index(1)].vector(&vector).cloned().unwrap();
    let said = newcomer.learn(&Blob::Vector(found), &mut rng).unwrap().say;
    let vouched = said.iter().filter(|message| message.body.kind() == MessageKind::Have).count();
    assert_eq!(vouched, 4, "the vector is there, and what was heard before is not judged");
}

/// A stream shows each epoch once, the newest first, until it retires.
#[test]
fn a_stream_shows_every_kept_epoch_once() {
    let mut away = away_until(4);
    let mut showing = feed::Showing::default();
    let mut shows = |away: &Away| {
        let shown = showing.next(&away.table.nodes[&index(1)].state);
        shown.iter().map(|shown| shown.number().0).collect::<Vec<_>>()
    };
    assert_eq!(shows(&away), [4, 3, 2, 1]);
    assert!(shows(&away).is_empty(), "nothing of it changed");
    away.round(5);
    assert_eq!(shows(&away), [5], "a later epoch is not shown");
    away.retire_at_table(1);
    assert!(shows(&away).is_empty());
    let again = feed::Showing::default().next(&away.table.nodes[&index(1)].state);
    assert!(again.iter().all(|shown| shown.number() != epoch(1)), "a retired epoch is shown on a new stream");
}

/// A list that was shown and proven survives a restart, so that the node shows it to others.
#[test]
fn a_node_that_caught_up_shows_the_epoch_itself() {
    let mut away = away_until(3);
    let truth = shown(&away, 3);
    let input = Input::Shown(index(1), truth.clone());
    let _ = feed::take(&input, &mut away.node, 0, &mut away.rng).unwrap();
    assert!(ShownEpoch::of(&away.node.state.attempts[&epoch(3)]).is_none(), "it shows a list that it has not checked");
    let _ = away.fetch(|_| true);
    let again = PersistentState::decode(&away.node.state.encode()).unwrap();
    assert!(again == away.node.state, "the state does not survive its encoding");
    assert_eq!(ShownEpoch::of(&again.attempts[&epoch(3)]), Some(truth));
}
