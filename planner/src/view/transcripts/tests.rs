use std::collections::BTreeSet;

use keyfleet_crds::epoch::status::Timings;
use keyfleet_threshold::coordination::{Decision, FleetView, KeptEpoch, NodeView, planning};
use keyfleet_threshold::curve::{G1, SecretScalar};
use keyfleet_threshold::identifiers::{ClusterId, EpochNumber, PrekeyNumber, Threshold};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::plan::{Deadlines, FrozenDigests, ValidPlan};
use keyfleet_threshold::polynomial::Polynomial;
use keyfleet_threshold::possession::{Asked, Claimed};
use keyfleet_threshold::prekey::PrekeySecret;
use keyfleet_threshold::purpose::{Certificate, Purpose};
use keyfleet_threshold::round::{Body, Complaint, SignedMessage, VerifiedMessage};
use keyfleet_threshold::serving::signature;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn index(index: u32) -> NodeIndex {
    NodeIndex::new(index).unwrap()
}

fn identity(index: u32) -> IdentitySecretKey {
    IdentitySecretKey::from_seed(&[u8::try_from(index).unwrap(); 32])
}

fn plan(number: u64) -> ValidPlan {
    planning::genesis(&fleet(number)).unwrap()
}

/// Returns a fleet of four of which all are there, with what attempt `number` needs.
fn fleet(number: u64) -> FleetView {
    let node = |i: u32| {
        let secret = PrekeySecret::restore(PrekeyNumber(number), &[u8::try_from(i).unwrap(); 32]).unwrap();
        let prekey = Some(secret.offer(CLUSTER, index(i), &identity(i)));
        NodeView { index: index(i), identity: identity(i).public(), prekey }
    };
    FleetView {
        cluster: CLUSTER,
        number: EpochNumber(number),
        block: Block(100),
        threshold: Threshold(3),
        min_holders: 3,
        deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
        receivers: (1..=4).map(node).collect(),
        connected: (1..=4).map(index).collect(),
        unawaited: BTreeSet::new(),
    }
}

fn watched(number: u64, phase: Phase) -> Watched {
    let status = KeyEpochStatus { phase: Some(phase), timings: Some(Timings::default()), ..KeyEpochStatus::default() };
    let now = jiff::Timestamp::UNIX_EPOCH;
    Watched { spec: convert::spec_of(&plan(number)), status: Some(status), block: 100, now, overdue: false }
}

/// The report of a node that claims nothing.
fn nothing(prover: u32) -> Claims {
    let asked = Asked { challenge: [0; 32], at_ms: 0 };
    Claims::of(CLUSTER, index(prover), [], &asked.challenge, asked)
}

fn have(number: u64, sender: u32, dealer: u32, byte: u8) -> VerifiedMessage {
    let body = Body::Have { dealer: index(dealer), bundle: Digest([byte; 32]) };
    said(number, sender, body)
}

fn said(number: u64, sender: u32, body: Body) -> VerifiedMessage {
    let message = SignedMessage::sign(plan(number).digest(), index(sender), body, &identity(sender));
    message.verify(&identity(sender).public()).unwrap()
}

fn haves(transcripts: &Transcripts, number: u64) -> usize {
    transcripts.rounds.get(&number).map_or(0, |transcript| transcript.haves().count())
}

/// A process that starts behind a deadline has heard nothing yet of what nodes said in time.
#[test]
fn a_deadline_passes_only_for_a_process_that_listened() {
    let mut round = watched(1, Phase::Dealing);
    round.status.as_mut().unwrap().phase_block = Some(100);
    (round.block, round.overdue) = (1_000, true);
    let mut transcripts = Transcripts::default();
    let decision = |transcripts: &mut Transcripts, round: &Watched| {
        transcripts.view(None, std::slice::from_ref(round)).closing[&1].decision.clone()
    };
    assert_eq!(decision(&mut transcripts, &round), None, "it fails a round that it knows nothing of");
    round.now = jiff::Timestamp::from_second(LISTEN_SECONDS).unwrap();
    let after = decision(&mut transcripts, &round);
    assert!(matches!(after, Some(Decision::Fail(_))), "nobody dealt, and the deadline is over: {after:?}");
}

/// Nodes are faster than the operator's own look at the plan that it made.
#[test]
fn what_is_said_before_the_plan_is_looked_at_is_not_lost() {
    let mut transcripts = Transcripts::default();
    assert!(transcripts.say(2, 1, have(1, 2, 3, 5)), "a first message is news");
    assert!(!transcripts.say(2, 1, have(1, 2, 3, 5)), "the same again is no news");
    transcripts.view(None, &[watched(1, Phase::Dealing)]);
    assert_eq!(haves(&transcripts, 1), 1);
    assert!(transcripts.say(4, 1, have(1, 4, 3, 5)));
    assert_eq!(haves(&transcripts, 1), 2, "what comes later is heard at once");
}

/// A bundle that enough receivers have is fetched from them when its dealer is out of the operator's reach.
#[test]
fn a_bundle_is_wanted_once_enough_receivers_say_that_they_have_it() {
    let mut transcripts = Transcripts::default();
    let rounds = [watched(1, Phase::Dealing)];
    transcripts.view(None, &rounds);
    let wants = |transcripts: &Transcripts| transcripts.wanted(&rounds).contains(&Digest([5; 32]));
    transcripts.say(1, 1, have(1, 1, 3, 5));
    assert!(!wants(&transcripts), "one receiver may lie");
    transcripts.say(2, 1, have(1, 2, 3, 5));
    assert!(wants(&transcripts), "n - t + 1 = 2 receivers have it");
}

/// A node that talks too much loses its oldest words and nobody elses.
#[test]
fn a_node_that_talks_too_much_loses_its_oldest_words() {
    let mut transcripts = Transcripts::default();
    transcripts.say(2, 1, have(1, 2, 3, 5));
    transcripts.say(1, 1, have(1, 1, 3, 5));
    let chatter = |seed: u32| {
        let complaint = |i| Complaint { dealer: index(seed * 200 + i), bundle: Digest([0; 32]), key: G1::generator() };
        let body = Body::Late((1..=100).map(complaint).collect());
        said(9, 1, body)
    };
    let sent = (0..1000).take_while(|seed| transcripts.say(1, 9, chatter(*seed))).count();
    assert!(sent > 10 && sent < 1000, "{sent} messages were taken up before it was too much");
    assert!(transcripts.nodes[&1].bytes <= NODE_BYTES_MAX);
    let rounds = |node: u32| transcripts.nodes[&node].messages.keys().map(|key| key.0).collect::<Vec<_>>();
    assert_eq!(rounds(1), [9], "its oldest round went first");
    assert_eq!(rounds(2), [1], "another node lost its words");
}

#[test]
fn words_of_rounds_that_ended_are_dropped_and_taken_up_no_more() {
    let mut transcripts = Transcripts::default();
    for number in 1..=3 {
        transcripts.say(1, number, have(number, 1, 2, 5));
    }
    transcripts.view(None, &[watched(1, Phase::Failed), watched(2, Phase::Dealing)]);
    let kept: Vec<u64> = transcripts.nodes[&1].messages.keys().map(|key| key.0).collect();
    assert_eq!(kept, [2, 3], "1 has failed, 2 is under way, of 3 the plan may yet come");
    assert!(!transcripts.say(1, 1, have(1, 1, 3, 5)), "nobody needs words of a failed attempt");
    transcripts.view(None, &[]);
    assert_eq!(transcripts.nodes[&1].messages.len(), 1);
    assert!(transcripts.rounds.is_empty());
}

/// A forged message under a digest that was fetched is the transcript's to refuse.
#[test]
fn a_fetched_message_counts_only_with_the_signature_of_its_sender() {
    let mut transcripts = Transcripts::default();
    transcripts.view(None, &[watched(1, Phase::Dealing)]);
    let body = Body::Have { dealer: index(3), bundle: Digest([5; 32]) };
    transcripts.fetched(&Blob::Message(SignedMessage::sign(plan(1).digest(), index(2), body, &identity(4))));
    assert_eq!(haves(&transcripts, 1), 0, "node 4 spoke in the name of node 2");
    transcripts.fetched(&Blob::Message(have(1, 2, 3, 5).message().clone()));
    assert_eq!(haves(&transcripts, 1), 1);
}

/// An operator that has just started knows no vector; nodes may show a newer certificate than that of the epoch that a round
/// reshares, so that its vector has to be asked for by the digest in the plan.
#[test]
fn the_vector_that_a_round_reshares_is_asked_for_by_digest() {
    let mut rng = ChaCha20Rng::from_seed([3; 32]);
    let mut vector = || Polynomial::random(SecretScalar::random(&mut rng), Threshold(3), &mut rng).vector();
    let (source, other) = (vector(), vector());
    let kept = [KeptEpoch {
        number: EpochNumber(1),
        plan: plan(1),
        vector: source.digest(),
        public_key: source.constant(),
        holders: (1..=4).map(index).collect(),
    }];
    let view = fleet(2);
    let chosen = planning::choose_source(&kept, &view.connected, false).unwrap();
    let reshare = planning::reshare(&view, chosen).unwrap();
    let rounds = [Watched { spec: convert::spec_of(&reshare), ..watched(2, Phase::Dealing) }];
    let mut transcripts = Transcripts::default();
    transcripts.view(None, &rounds);
    assert!(transcripts.wanted(&rounds).contains(&source.digest()), "without it no bundle of the round can be judged");
    transcripts.fetched(&Blob::Vector(other));
    assert!(transcripts.rounds[&2].lacks_source(), "another vector than the plan's was taken");
    transcripts.fetched(&Blob::Vector(source.clone()));
    assert!(!transcripts.rounds[&2].lacks_source(), "the vector that came is dropped");
    assert!(!transcripts.wanted(&rounds).contains(&source.digest()), "what is there is asked for again");
}

/// A key of one holder, and an epoch that it certified: a genesis of the fleet of four.
struct Certifier {
    polynomial: Polynomial,
    vector: VerificationVector,
}

impl Certifier {
    fn new(seed: u8) -> Self {
        let mut rng = ChaCha20Rng::from_seed([seed; 32]);
        let polynomial = Polynomial::random(SecretScalar::random(&mut rng), Threshold(3), &mut rng);
        let vector = polynomial.vector();
        Self { polynomial, vector }
    }

    fn key(&self) -> PublicKey {
        convert::public_key(&self.vector.constant())
    }

    fn epoch(&self, number: u64) -> ShownEpoch {
        let (plan, vector) = (plan(number), self.vector.digest());
        let purpose = Purpose::certificate(CLUSTER, &plan.digest(), &vector, plan.number);
        let partials = (1..=3).map(|i| (index(i), signature::sign(&purpose, &self.polynomial.share_of(index(i)))));
        let signed = signature::combine(&purpose.point(), &self.vector, &partials.collect()).unwrap();
        let certificate = Certificate {
            cluster: CLUSTER,
            number: plan.number,
            plan: plan.digest(),
            vector,
            signature: signed.signature,
        };
        ShownEpoch { plan: plan.encode(), certificate, qualified: FrozenDigests::default() }
    }

    /// Claims of epoch 4 by `prover`, in answer to a challenge that was sent then, with the share of `signer`.
    fn claims(&self, prover: u32, signer: u32, at_ms: u64) -> Claims {
        let (vector, asked) = (self.vector.digest(), Asked { challenge: [8; 32], at_ms });
        let purpose = Purpose::possession(CLUSTER, EpochNumber(4), index(prover), &vector, &asked.challenge);
        let proof = signature::sign(&purpose, &self.polynomial.share_of(index(signer))).encode().to_vec();
        let claimed = Claimed { number: EpochNumber(4), vector: Some(vector), possession: proof };
        Claims::of(CLUSTER, index(prover), [claimed], &asked.challenge, asked)
    }

    /// Shows epoch 4, as node 1 does, and gives its vector.
    fn show(&self, transcripts: &mut Transcripts) {
        transcripts.show(1, &self.epoch(4));
        transcripts.view(None, &[]);
        transcripts.fetched(&Blob::Vector(self.vector.clone()));
    }
}

#[test]
fn a_certificate_under_another_key_than_the_fleets_says_nothing() {
    let (own, other) = (Certifier::new(3), Certifier::new(4));
    let mut transcripts = Transcripts::default();
    assert!(transcripts.show(1, &own.epoch(4)));
    assert!(!transcripts.show(1, &own.epoch(4)), "the same epoch is no news");
    transcripts.show(2, &other.epoch(900));
    assert!(
        transcripts.view(None, &[]).certified.is_empty(),
        "of a genesis the vector names the key, and it is not here"
    );
    assert_eq!(transcripts.wanted(&[]), [own.vector.digest(), other.vector.digest()].into(), "nobody is asked for it");
    for vector in [&own.vector, &other.vector] {
        transcripts.fetched(&Blob::Vector(vector.clone()));
    }
    assert_eq!(transcripts.view(None, &[]).certified.len(), 2, "while no key is known, both may be right");
    let view = transcripts.view(Some(own.key()), &[]);
    assert_eq!(view.certified, [(1, 4)].into(), "a node made up a fleet of its own");
    assert_eq!(view.thresholds, [(4, 3)].into());
    assert!(!transcripts.show(3, &other.epoch(901)), "a certificate that does not verify is taken up");
    assert!(transcripts.wanted(&[]).is_empty(), "a vector is asked for that is here, or of use to nobody");
}

/// A number without a signature of the key proves nothing.
#[test]
fn a_made_up_certificate_is_none() {
    let own = Certifier::new(3);
    let mut transcripts = Transcripts::default();
    let made_up = |change: &dyn Fn(&mut ShownEpoch)| {
        let mut shown = own.epoch(900);
        change(&mut shown);
        shown
    };
    transcripts.show(1, &made_up(&|it| it.certificate.signature = G1::generator()));
    assert!(!transcripts.show(2, &made_up(&|it| it.plan = vec![1; 400])), "a malformed plan");
    assert!(
        !transcripts.show(2, &made_up(&|it| it.certificate.number = EpochNumber(901))),
        "another number than the plan's"
    );
    transcripts.view(None, &[]);
    transcripts.fetched(&Blob::Vector(own.vector.clone()));
    assert!(transcripts.view(None, &[]).certified.is_empty(), "without a key");
    assert!(transcripts.view(Some(own.key()), &[]).certified.is_empty(), "under the fleet's key");
}

/// A record may be gone; the vector of an epoch that nodes show is asked for, and their proofs are judged by it.
#[test]
fn proofs_are_judged_by_the_vector_of_a_shown_epoch() {
    let own = Certifier::new(5);
    let mut transcripts = Transcripts::default();
    transcripts.report(1, 4, own.claims(1, 1, 1_000));
    transcripts.report(2, 4, own.claims(2, 3, 1_000));
    transcripts.show(2, &own.epoch(4));
    (1..=2).for_each(|index| transcripts.caught_up(index, 1_000));
    let key = Some(own.key());
    assert!(transcripts.view(key, &[]).holds.is_empty(), "nothing is known to judge it by");
    assert_eq!(transcripts.wanted(&[]), [own.vector.digest()].into());
    transcripts.fetched(&Blob::Vector(own.vector.clone()));
    let view = transcripts.view(key, &[]);
    assert_eq!(view.holds, [(4, [(1, 1_000)].into())].into(), "its proof is good");
    assert_eq!(view.unproven[&4].keys().collect::<Vec<_>>(), [&2], "it shows another's share");
}

/// A node counts as connected from the moment at which it is caught up until its stream ends.
#[test]
fn a_node_counts_as_connected_while_caught_up() {
    let mut transcripts = Transcripts::default();
    transcripts.report(1, 0, nothing(1));
    assert!(transcripts.view(None, &[]).connected.is_empty(), "what it said before is still to come");
    transcripts.caught_up(1, 1_000);
    assert_eq!(transcripts.view(None, &[]).connected, [1].into());
    transcripts.disconnect(1);
    let view = transcripts.view(None, &[]);
    assert!(view.connected.is_empty());
    assert_eq!(view.highest, [(1, 0)].into(), "what it reported stays said");
    transcripts.forget(1);
    assert!(transcripts.view(None, &[]).highest.is_empty(), "another identity begins with nothing");
}

/// A node that is destroyed says nothing more, and its stream ends.
#[test]
fn what_a_node_proved_counts_while_its_stream_is_open() {
    let node = Certifier::new(5);
    let mut transcripts = Transcripts::default();
    transcripts.report(1, 4, node.claims(1, 1, 1_000));
    node.show(&mut transcripts);
    transcripts.caught_up(1, 1_000);
    assert_eq!(transcripts.view(None, &[]).holds, [(4, [(1, 1_000)].into())].into(), "its proof is good");
    transcripts.disconnect(1);
    assert!(transcripts.view(None, &[]).holds.is_empty(), "nobody knows whether it still exists");
    transcripts.report(1, 4, node.claims(1, 1, 1_000));
    assert!(transcripts.view(None, &[]).holds.is_empty(), "a report that was under way counts after the disconnection");
    transcripts.answer(1, node.claims(1, 1, 2_000));
    transcripts.caught_up(1, 3_000);
    let view = transcripts.view(None, &[]);
    assert_eq!(view.holds, [(4, [(1, 1_000)].into())].into(), "it is back, and an answer of before counts");
    assert_eq!(view.known_since_ms, [(1, 1_000)].into(), "it was known before its stream ended");
}

/// The stream's own proof grows old; an answer to a newer challenge counts from when that was sent, and a bad one takes it back.
#[test]
fn a_node_that_is_asked_anew_counts_by_its_newest_answer() {
    let node = Certifier::new(5);
    let mut transcripts = Transcripts::default();
    transcripts.report(1, 4, node.claims(1, 1, 1_000));
    node.show(&mut transcripts);
    transcripts.caught_up(1, 1_000);
    transcripts.ask(90_000);
    assert_eq!(transcripts.view(None, &[]).asked_ms, Some(90_000));
    transcripts.answer(1, node.claims(1, 1, 90_000));
    assert_eq!(transcripts.view(None, &[]).holds, [(4, [(1, 90_000)].into())].into());
    transcripts.report(1, 4, node.claims(1, 1, 1_000));
    assert_eq!(
        transcripts.view(None, &[]).holds,
        [(4, [(1, 90_000)].into())].into(),
        "its stream takes the answer back"
    );
    transcripts.answer(1, node.claims(1, 2, 95_000));
    let view = transcripts.view(None, &[]);
    assert!(view.holds.is_empty(), "it cannot prove it any more");
    assert_eq!(view.unproven[&4].len(), 1);
}

/// Somebody deletes the record of an epoch, or it goes by its limit, before every node has erased it.
#[test]
fn erased_counts_though_the_record_of_its_epoch_is_gone() {
    let mut transcripts = Transcripts::default();
    transcripts.view(None, &[watched(9, Phase::Active)]);
    let erased = |number| said(number, 2, Body::Erased);
    assert!(transcripts.say(2, 4, erased(4)), "its first is news");
    assert!(transcripts.say(2, 5, erased(5)) && !transcripts.say(2, 4, erased(4)), "an older one says less");
    assert_eq!(transcripts.view(None, &[]).erased, [(2, 5)].into());
}
