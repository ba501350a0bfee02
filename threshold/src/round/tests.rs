//! Rounds at a table: participants in one room, hand by hand, so that a test can do what no network would.

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;
use crate::coordination::planning::{self, FleetView, KeptEpoch, NodeView, Offer};
use crate::coordination::{Decision, RoundView, decide};
use crate::curve::{G2, Scalar, SecretScalar};
use crate::encoding::Writer;
use crate::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, PrekeySetNumber, Threshold};
use crate::identity::IdentityKey;
use crate::plan::frozen::dealers_digest;
use crate::plan::{Deadlines, FrozenDigests, Plan, ValidPlan};
use crate::polynomial::{Polynomial, VerificationVector, lagrange_at_zero};
use crate::prekey::{self, PrekeySecret, SealedShare, SignedPrekeySet};

const CLUSTER: ClusterId = ClusterId([0x42; 16]);

fn index(i: u32) -> NodeIndex {
    NodeIndex::new(i).unwrap()
}

fn identity(i: u32) -> IdentityKey {
    IdentityKey::from_seed(&[u8::try_from(i).unwrap(); 32])
}

/// Four nodes, threshold three, and everyone hears everything at once.
struct Table {
    rng: ChaCha20Rng,
    nodes: BTreeMap<NodeIndex, Participant>,
    said: Vec<SignedMessage>,
}

impl Table {
    fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(11);
        let nodes = (1..=4).map(|i| (index(i), Participant::new(CLUSTER, index(i), identity(i), &mut rng).0)).collect();
        Self { rng, nodes, said: Vec::new() }
    }

    fn view(&self, number: u64) -> FleetView {
        let node = |(index, participant): (&NodeIndex, &Participant)| NodeView {
            index: *index,
            identity: participant.identity.public(),
            offers: participant.offers().map(|signed| offer(signed, participant)).collect(),
            named: participant.state.accepted_sets.get(index).copied(),
        };
        FleetView {
            cluster: CLUSTER,
            number: EpochNumber(number),
            block: Block(100 * number),
            threshold: Threshold(3),
            min_holders: 3,
            deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
            roster: None,
            receivers: self.nodes.iter().map(node).collect(),
            connected: self.nodes.keys().copied().collect(),
            avoid: Default::default(),
        }
    }

    fn reshare_plan(&self, number: u64, source: u64) -> ValidPlan {
        let attempt = &self.nodes[&index(1)].state.attempts[&EpochNumber(source)];
        let vector = attempt.vector.as_ref().unwrap();
        let source = KeptEpoch {
            number: EpochNumber(source),
            plan: attempt.plan.clone(),
            vector: vector.digest(),
            public_key: vector.constant(),
            holders: self.nodes.keys().copied().collect(),
        };
        planning::reshare(&self.view(number), &source).unwrap()
    }

    /// Everyone accepts the plan, knows all prekeys, and what they say goes round until nobody adds anything.
    fn accept(&mut self, plan: &ValidPlan) {
        let offers: Vec<_> = self.nodes.values().flat_map(|node| node.state.offers.values().cloned()).collect();
        for node in self.nodes.values_mut() {
            let outputs = node.accept((**plan).clone(), &mut self.rng).unwrap();
            self.said.extend(outputs.say);
        }
        for set in offers {
            self.tell(&Blob::Prekeys(set));
        }
        self.settle();
    }

    fn tell(&mut self, blob: &Blob) {
        for node in self.nodes.values_mut() {
            if let Ok(outputs) = node.learn(blob, &mut self.rng) {
                self.said.extend(outputs.say);
            }
        }
    }

    fn settle(&mut self) {
        while let Some(message) = self.said.pop() {
            self.tell(&Blob::Message(message));
        }
    }

    fn observe(&mut self, number: EpochNumber, record: &RoundRecord) {
        for node in self.nodes.values_mut() {
            let outputs = node.observe(number, record, &mut self.rng).unwrap();
            self.said.extend(outputs.say);
        }
        self.settle();
    }

    /// Runs a round to its end with the operator's decisions, seen with node 1's eyes.
    fn finish(&mut self, plan: &ValidPlan) -> RoundRecord {
        let mut record = RoundRecord::opened();
        for _ in 0..5 {
            let transcript = self.nodes[&index(1)].transcript(plan.number).unwrap();
            let view = RoundView { transcript, record: &record, opened: Block(0), now: Block(1), overdue: false };
            match decide(&view) {
                Some(Decision::FreezeDealers(dealers)) => {
                    record.dealers = Some(dealers);
                    record.phase = Phase::Verifying;
                }
                Some(Decision::FreezeResponses { responses, qualified }) => {
                    (record.responses, record.qualified) = (Some(responses), Some(qualified));
                    record.phase = Phase::Preparing;
                }
                Some(Decision::Certify) => record.phase = Phase::Certifying,
                Some(Decision::Activate { certificate, .. }) => {
                    record.certificate = Some(certificate);
                    record.phase = Phase::Active;
                }
                Some(Decision::Confirm) => return record,
                other => panic!("the round stands still in {:?}: {other:?}", record.phase),
            }
            self.observe(plan.number, &record);
        }
        record
    }

    fn genesis(&mut self) -> ValidPlan {
        let plan = planning::genesis(&self.view(1)).unwrap();
        self.accept(&plan);
        let record = self.finish(&plan);
        assert_eq!(record.phase, Phase::Active);
        plan
    }
}

fn offer(signed: &SignedPrekeySet, node: &Participant) -> Offer {
    let set = signed.verify(&node.identity.public()).unwrap();
    Offer { number: set.number, digest: signed.digest(), last_resort: set.last_resort, slots: set.slots.len() }
}

/// Prekey sets of four nodes, and a genesis plan that names them.
fn genesis_with_prekeys() -> (ValidPlan, BTreeMap<NodeIndex, PrekeySecret>, Vec<SignedPrekeySet>) {
    let mut rng = ChaCha20Rng::seed_from_u64(12);
    let mut plan = crate::plan::tests::genesis_example();
    let mut secrets = BTreeMap::new();
    let mut offers = Vec::new();
    for (position, receiver) in plan.receivers.iter_mut().enumerate() {
        let key = identity(receiver.index.value());
        let secret = PrekeySecret::generate(plan.cluster, receiver.index, receiver.prekey_set, false, &mut rng);
        let signed = secret.offer(8, &key);
        receiver.identity = key.public();
        receiver.prekey_digest = signed.digest();
        plan.dealers[position].identity = key.public();
        secrets.insert(receiver.index, secret);
        offers.push(signed);
    }
    (plan.validate().unwrap(), secrets, offers)
}

fn say(plan: &ValidPlan, sender: u32, body: Body) -> SignedMessage {
    SignedMessage::sign(plan.digest(), index(sender), body, &identity(sender))
}

fn transcript(plan: &ValidPlan, offers: &[SignedPrekeySet]) -> Transcript {
    let mut transcript = Transcript::new(plan.clone(), None);
    for offer in offers {
        transcript.learn_prekeys(offer).unwrap();
    }
    transcript
}

fn freeze(messages: &[&SignedMessage]) -> FrozenDigests {
    FrozenDigests::new(messages.iter().map(|message| (message.sender, message.digest())).collect()).unwrap()
}

/// A dealer that waits for the others' commitments and chooses C\[0\] so that the sum is a key that it knows alone.
#[test]
fn a_rushing_dealer_at_genesis_cannot_cancel_the_others() {
    let (plan, _, offers) = genesis_with_prekeys();
    let mut transcript = transcript(&plan, &offers);
    let mut honest = Vec::new();
    for dealer in [2, 3, 4] {
        let seed = DealerSeed::restore(&[u8::try_from(dealer).unwrap(); 32]);
        let dealing = Dealing::deal(&plan, index(dealer), None, transcript.prekeys(), &seed);
        transcript.hear(&say(&plan, dealer, Body::Dealing(dealing.clone()))).unwrap();
        honest.push(dealing);
    }
    let seed = DealerSeed::restore(&[5; 32]);
    let mut own = Dealing::deal(&plan, index(5), None, transcript.prekeys(), &seed);
    let others = honest.iter().map(|dealing| dealing.vector.constant()).collect::<Vec<_>>();
    let cancelling = own.vector.constant().plus(&G2::sum(&others).times(&-Scalar::one()));
    let mut commitments = own.vector.commitments().to_vec();
    commitments[0] = cancelling;
    own.vector = VerificationVector::new(commitments).unwrap();
    let total = G2::sum(&[&others[..], &[cancelling]].concat());
    assert!(total == Dealing::deal(&plan, index(5), None, transcript.prekeys(), &seed).vector.constant());
    let proofs = [own.proof, honest[0].proof, None];
    for proof in proofs {
        let rushed = say(&plan, 5, Body::Dealing(Dealing { proof, ..own.clone() }));
        assert_eq!(
            transcript.hear(&rushed),
            Err(MessageFault::BadBundle(index(5), DealingFault::Proof)),
            "a key that cancels the others cannot be proven known, neither by an own proof nor by a copied one"
        );
    }
}

/// Two dealers shift their shares to one receiver by errors that cancel in the weighted sum, so that the result would be
/// right and an aggregate check sees nothing. Each is named all the same.
#[test]
fn a_pair_of_errors_that_cancel_is_found_and_both_dealers_are_named() {
    let (plan, secrets, offers) = genesis_with_prekeys();
    let mut transcript = transcript(&plan, &offers);
    let victim = index(5);
    let error = SecretScalar::decode(&[3; 32]).unwrap();
    let mut bundles = Vec::new();
    for dealer in [2u32, 3, 4, 5] {
        let seed = DealerSeed::restore(&[u8::try_from(dealer).unwrap(); 32]);
        let mut dealing = Dealing::deal(&plan, index(dealer), None, transcript.prekeys(), &seed);
        let sign = match dealer {
            2 => Some(Scalar::one()),
            3 => Some(-Scalar::one()),
            _ => None,
        };
        if let Some(sign) = sign {
            let slot = plan.slot_of(index(dealer)).unwrap();
            let key = secrets[&victim].slot_key(slot);
            let share = dealing.open(&plan, &plan.digest(), index(dealer), victim, &key).unwrap();
            let shifted = share.plus(&error.scaled(&sign)).expose();
            let mut context = Writer::default();
            context.digest(&plan.digest()).index(index(dealer)).index(victim);
            let mut rng = ChaCha20Rng::seed_from_u64(u64::from(dealer));
            dealing.shares[3] = prekey::seal(&key.public(), &shifted, &context.finish(), &mut rng).unwrap();
        }
        let message = say(&plan, dealer, Body::Dealing(dealing));
        transcript.hear(&message).unwrap();
        bundles.push(message);
    }
    let dealers = freeze(&bundles.iter().collect::<Vec<_>>());
    let complaints = [2, 3].map(|dealer| {
        let slot = plan.slot_of(index(dealer)).unwrap();
        Complaint { dealer: index(dealer), key: secrets[&victim].slot_key(slot).reveal() }
    });
    let response = Response { dealers: dealers_digest(&plan.digest(), &dealers), complaints: complaints.to_vec() };
    let response = say(&plan, 5, Body::Response(response));
    transcript.hear(&response).unwrap();
    let judgement = transcript.judge(&dealers, &freeze(&[&response])).unwrap();
    assert_eq!(judgement.frozen.qualified, [index(4), index(5)], "neither of the pair qualifies");
    let named: Vec<_> = judgement.culprits.iter().map(|culprit| (culprit.index.value(), culprit.offence)).collect();
    assert_eq!(named, [(2, Offence::BadShare(victim)), (3, Offence::BadShare(victim))]);
    let too_few = CombineFault::TooFewQualified { qualified: 2, needed: 3 };
    assert_eq!(judgement.combine(&transcript), Err(too_few), "and two dealers are not enough");
}

/// A complaint is judged against its author when the key is another slot's, or when nobody could have sealed to it.
/// seed: 004-33
#[test]
fn a_complaint_that_proves_nothing_is_its_authors_offence() {
    let (plan, secrets, offers) = genesis_with_prekeys();
    let mut transcript = transcript(&plan, &offers);
    let mut bundles = Vec::new();
    for dealer in [2u32, 3, 4, 5] {
        let seed = DealerSeed::restore(&[u8::try_from(dealer).unwrap(); 32]);
        let mut dealing = Dealing::deal(&plan, index(dealer), None, transcript.prekeys(), &seed);
        if dealer == 2 {
            dealing.shares[3] = SealedShare::IMPOSSIBLE;
        }
        let message = say(&plan, dealer, Body::Dealing(dealing));
        transcript.hear(&message).unwrap();
        bundles.push(message);
    }
    let dealers = freeze(&bundles.iter().collect::<Vec<_>>());
    let frozen = dealers_digest(&plan.digest(), &dealers);
    let verdict = |accused: u32, slot: usize| {
        let complaint = Complaint { dealer: index(accused), key: secrets[&index(5)].slot_key(slot).reveal() };
        let response = say(&plan, 5, Body::Response(Response { dealers: frozen, complaints: vec![complaint] }));
        let mut heard = transcript.clone();
        heard.hear(&response).unwrap();
        heard.judge(&dealers, &freeze(&[&response])).unwrap()
    };
    let just = verdict(2, 0);
    assert_eq!(
        just.culprits[0].offence,
        Offence::BadShare(index(5)),
        "a share that opens for nobody is the dealer's fault"
    );
    assert_eq!(just.frozen.qualified.len(), 3);
    for (accused, slot) in [(2, 1), (3, 1)] {
        let judgement = verdict(accused, slot);
        assert_eq!(judgement.frozen.qualified.len(), 4, "accused {accused} by the key of slot {slot}: nobody is out");
        assert_eq!(judgement.culprits[0].index, index(5));
        assert_eq!(judgement.culprits[0].offence, Offence::FalseComplaint(index(accused)));
    }
}

#[test]
fn a_dealer_that_restarts_says_the_same_bytes_and_in_another_plan_others() {
    let (plan, _, offers) = genesis_with_prekeys();
    let transcript = transcript(&plan, &offers);
    let deal = |plan: &ValidPlan, seed: u8| {
        let seed = DealerSeed::restore(&[seed; 32]);
        say(plan, 2, Body::Dealing(Dealing::deal(plan, index(2), None, transcript.prekeys(), &seed))).encode()
    };
    assert!(deal(&plan, 1) == deal(&plan, 1), "the same seed and plan give the same bytes");
    assert!(deal(&plan, 1) != deal(&plan, 2), "another seed gives others");
    let mut other: Plan = (*plan).clone();
    other.block = Block(other.block.0 + 1);
    let other = other.validate().unwrap();
    let vector = |bytes: &[u8]| match SignedMessage::decode(bytes).unwrap().body {
        Body::Dealing(dealing) => dealing.vector,
        _ => unreachable!("a dealing was encoded"),
    };
    assert!(vector(&deal(&plan, 1)) != vector(&deal(&other, 1)), "one seed never deals the same polynomial twice");
}

/// Resharing is redistribution: the combined polynomial has the old constant term, whatever t and the sets are.
#[test]
fn reshared_polynomials_combine_to_the_old_secret() {
    let mut rng = ChaCha20Rng::seed_from_u64(13);
    let old = Polynomial::random(SecretScalar::random(&mut rng), Threshold(3), &mut rng);
    let dealers = [index(1), index(4), index(9)];
    let dealt: Vec<_> =
        dealers.iter().map(|dealer| Polynomial::random(old.share_of(*dealer), Threshold(5), &mut rng)).collect();
    let vectors: Vec<_> = dealt.iter().map(Polynomial::vector).collect();
    let weights = lagrange_at_zero(&dealers);
    let new = VerificationVector::combine(&vectors.iter().collect::<Vec<_>>(), &weights).unwrap();
    assert!(new.constant() == old.vector().constant(), "the public key stays");
    assert_eq!(new.threshold(), Threshold(5));
    for receiver in [2, 4, 77].map(index) {
        let shares =
            dealt.iter().zip(&weights).map(|(polynomial, weight)| polynomial.share_of(receiver).scaled(weight));
        let share = shares.fold(SecretScalar::zero(), |sum, share| sum.plus(&share));
        assert!(new.matches(receiver, &share), "the share of {receiver} lies on the combined vector");
    }
}

/// seed: 001-39, 004-01
#[test]
fn a_genesis_and_a_reshare_at_one_table_keep_the_key() {
    let mut table = Table::new();
    let first = table.genesis();
    let key = table.nodes[&index(1)].state.public_key.unwrap();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    assert_eq!(table.finish(&plan).phase, Phase::Active);
    for node in table.nodes.values() {
        assert!(node.state.public_key == Some(key), "{} believes in another key", node.state.index);
        assert_eq!(node.state.active, Some(EpochNumber(2)));
        let vectors: Vec<_> = node.state.attempts.values().filter_map(|attempt| attempt.vector.clone()).collect();
        assert!(vectors[0] != vectors[1], "the shares are new");
        assert!(node.share(first.number).is_some(), "the epoch before is kept for the grace window");
    }
}

/// seed: 004-14
#[test]
fn plans_that_would_cost_the_key_are_refused_by_every_node() {
    let mut table = Table::new();
    let first = table.genesis();
    let good = table.reshare_plan(5, 1);
    let node = table.nodes.get_mut(&index(1)).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut refusal = |change: &dyn Fn(&mut Plan)| {
        let mut plan: Plan = (*good).clone();
        change(&mut plan);
        let before = node.state.clone();
        let refusal = node.accept(plan, &mut rng).expect_err("the plan must be refused");
        assert!(node.state == before, "a refused plan leaves no trace");
        refusal
    };
    assert!(matches!(refusal(&|p| p.cluster = ClusterId([9; 16])), Refusal::OtherCluster(_)));
    let second_genesis_plan = |p: &mut Plan| {
        *p = (*first).clone();
        p.block = Block(p.block.0 + 1);
    };
    assert_eq!(refusal(&second_genesis_plan), Refusal::OtherPlan(EpochNumber(1)), "one plan per number");
    let genesis = |p: &mut Plan| {
        p.origin = first.origin.clone();
        p.expected = p.receivers.iter().map(|receiver| receiver.index).collect();
    };
    assert_eq!(refusal(&genesis), Refusal::GenesisRefused, "never a second genesis");
    let other_key = |p: &mut Plan| {
        if let crate::plan::Origin::Reshare { public_key, .. } = &mut p.origin {
            *public_key = G2::generator();
        }
    };
    assert_eq!(refusal(&other_key), Refusal::PublicKey);
    let new_identity = |p: &mut Plan| {
        (p.receivers[2].identity, p.dealers[2].identity) = (identity(99).public(), identity(99).public());
    };
    assert_eq!(refusal(&new_identity), Refusal::Identity(index(3)));
    let used_set = |p: &mut Plan| p.receivers[1].prekey_set = PrekeySetNumber(0);
    assert_eq!(refusal(&used_set), Refusal::Prekeys(index(2)));
    let _ = node.accept((*good).clone(), &mut rng).expect("unchanged, the plan is accepted");
    let mut late: Plan = (*good).clone();
    late.number = EpochNumber(4);
    let expected = Refusal::NumberNotAbove { number: EpochNumber(4), highest: EpochNumber(5) };
    assert_eq!(node.accept(late, &mut rng).expect_err("numbers only rise"), expected);
}

/// seed: 002-21
#[test]
fn frozen_fields_and_verdicts_are_written_once_or_not_acted_on() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let record = table.finish(&plan);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let node = table.nodes.get_mut(&index(2)).unwrap();
    let mut other = record.clone();
    let fewer: Vec<_> = record.dealers.as_ref().unwrap().iter().take(3).collect();
    other.dealers = Some(FrozenDigests::new(fewer).unwrap());
    let changed = node.observe(plan.number, &other, &mut rng).expect_err("other frozen dealers");
    assert_eq!(changed, Contradiction::Frozen(plan.number, "dealers"));
    let failed = RoundRecord { phase: Phase::Failed, ..record };
    let verdict = node.observe(plan.number, &failed, &mut rng).expect_err("an active epoch cannot fail");
    assert_eq!(verdict, Contradiction::Verdict(plan.number));
    assert!(node.share(plan.number).is_some(), "nothing that it says is acted on");
    assert_eq!(node.retire(plan.number).expect_err("it serves"), RetireFault::StillServed(plan.number));
    assert_eq!(node.retire(EpochNumber(1)).expect_err("grace"), RetireFault::StillServed(EpochNumber(1)));
}

/// seed: 004-16
#[test]
fn a_qualified_list_that_does_not_follow_from_the_messages_is_not_acted_on() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let transcript = table.nodes[&index(1)].transcript(plan.number).unwrap();
    let record = RoundRecord::opened();
    let view = RoundView { transcript, record: &record, opened: Block(0), now: Block(1), overdue: false };
    let Some(Decision::FreezeDealers(dealers)) = decide(&view) else { panic!("dealing is complete") };
    let mut record = RoundRecord { phase: Phase::Verifying, dealers: Some(dealers), ..record };
    table.observe(plan.number, &record);
    let transcript = table.nodes[&index(1)].transcript(plan.number).unwrap();
    let view = RoundView { transcript, record: &record, opened: Block(0), now: Block(1), overdue: false };
    let Some(Decision::FreezeResponses { responses, mut qualified }) = decide(&view) else { panic!("all answered") };
    qualified.pop();
    (record.responses, record.qualified, record.phase) = (Some(responses), Some(qualified), Phase::Preparing);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let node = table.nodes.get_mut(&index(3)).unwrap();
    let outputs = node.observe(plan.number, &record, &mut rng).unwrap();
    assert!(outputs.notices.contains(&Notice::RecordContradictsMessages(plan.number)));
    assert!(outputs.say.is_empty() && node.share(plan.number).is_none(), "no share is made of a set that lies");
}

/// seed: 000-11, 001-31, 003-12, 003-17, 003-53, 003-61
#[test]
fn a_restart_restores_what_was_committed_and_destroys_what_nothing_names() {
    let mut table = Table::new();
    table.genesis();
    let node = &table.nodes[&index(2)];
    let mut stored: Vec<_> =
        node.state.live_secrets().into_iter().map(|name| (name, node.expose(name).unwrap())).collect();
    let orphan = SecretName::Share(EpochNumber(77));
    stored.push((orphan, zeroize::Zeroizing::new([1; 32])));
    let bytes = node.state.encode();
    let (again, outputs) = Participant::restore(identity(2), &bytes, stored.clone()).unwrap();
    assert!(again.state == node.state, "the state comes back as it was");
    assert_eq!(outputs.destroy, [orphan], "what the ledger does not name is destroyed");
    assert!(again.share(EpochNumber(1)).is_some());
    for (name, bytes) in &mut stored {
        if matches!(name, SecretName::Share(EpochNumber(1))) {
            bytes[31] ^= 1;
        }
    }
    let fault = Participant::restore(identity(2), &bytes, stored).err().unwrap();
    assert_eq!(fault, RestoreFault::Secret(SecretName::Share(EpochNumber(1))), "a damaged share is never served");
    assert!(matches!(Participant::restore(identity(2), &bytes[..40], []), Err(RestoreFault::State(_))));
}

/// A node restored from a replica may have said, in its other life, what the replica does not hold.
/// seed: 000-22
#[test]
fn a_node_restored_from_a_replica_does_not_deal_or_certify_in_older_plans() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    let node = table.nodes.get_mut(&index(4)).unwrap();
    let _ = node.abstain_through(plan.block);
    table.accept(&plan);
    let record = table.finish_without(&plan, index(4));
    assert_eq!(record.phase, Phase::Active, "three of four are enough");
    let kinds: Vec<_> =
        table.nodes[&index(4)].state.attempts[&EpochNumber(2)].outbox.iter().map(|m| m.body.kind()).collect();
    assert!(![1, 4, 5].iter().any(|kind| kinds.contains(kind)), "it neither deals, prepares nor certifies: {kinds:?}");
    assert!(table.nodes[&index(4)].share(EpochNumber(2)).is_some(), "and holds its share all the same");
}

impl Table {
    /// As [`Table::finish`], with the deadlines passed: `absent` does not speak.
    fn finish_without(&mut self, plan: &ValidPlan, absent: NodeIndex) -> RoundRecord {
        assert!(plan.receiver(absent).is_some());
        let mut record = RoundRecord::opened();
        for _ in 0..4 {
            let transcript = self.nodes[&index(1)].transcript(plan.number).unwrap();
            let view = RoundView { transcript, record: &record, opened: Block(0), now: Block(2), overdue: false };
            match decide(&view).expect("a phase whose deadline has passed closes") {
                Decision::FreezeDealers(dealers) => {
                    record = RoundRecord { dealers: Some(dealers), phase: Phase::Verifying, ..record };
                }
                Decision::FreezeResponses { responses, qualified } => {
                    let (responses, qualified) = (Some(responses), Some(qualified));
                    record = RoundRecord { responses, qualified, phase: Phase::Preparing, ..record };
                }
                Decision::Certify => record.phase = Phase::Certifying,
                Decision::Activate { certificate, .. } => {
                    record = RoundRecord { certificate: Some(certificate), phase: Phase::Active, ..record };
                }
                other => panic!("unexpected: {other:?}"),
            }
            self.observe(plan.number, &record);
        }
        record
    }
}

/// seed: 004-25
#[test]
fn messages_of_strangers_and_of_other_plans_are_not_taken_up() {
    let (plan, _, offers) = genesis_with_prekeys();
    let mut transcript = transcript(&plan, &offers);
    let erased = |sender: u32, key: u32, plan: Digest| {
        SignedMessage::sign(plan, index(sender), Body::Holds { vector: Digest([1; 32]) }, &identity(key))
    };
    assert_eq!(transcript.hear(&erased(2, 2, Digest([0; 32]))), Err(MessageFault::OtherPlan));
    assert_eq!(transcript.hear(&erased(9, 9, plan.digest())), Err(MessageFault::NotItsPart(index(9))));
    assert_eq!(transcript.hear(&erased(2, 3, plan.digest())), Err(MessageFault::Forged(index(2))));
    assert_eq!(transcript.culprits().count(), 0, "nobody is blamed for what anyone could have made up");
    assert_eq!(transcript.hear(&erased(2, 2, plan.digest())), Ok(()));
}

/// seed: 004-29, 004-31
#[test]
fn a_finished_round_is_checked_from_its_public_transcript() {
    let mut table = Table::new();
    let plan = table.genesis();
    let record = table.nodes[&index(1)].records[&plan.number].clone();
    let transcript = table.nodes[&index(1)].transcript(plan.number).unwrap();
    let audit = audit::audit(transcript, &record).unwrap();
    assert!(Some(audit.vector.constant()) == table.nodes[&index(2)].state.public_key);
    assert_eq!((audit.prepared.len(), audit.culprits.len()), (4, 0));
    let mut doctored = record.clone();
    doctored.qualified = Some(vec![index(1), index(2), index(3)]);
    assert_eq!(audit::audit(transcript, &doctored), Err(audit::AuditFault::Qualified));
    let mut doctored = record.clone();
    doctored.certificate =
        record.certificate.map(|certificate| crate::purpose::Certificate { number: EpochNumber(2), ..certificate });
    assert_eq!(audit::audit(transcript, &doctored), Err(audit::AuditFault::Certificate));
    let empty = Transcript::new(plan, None);
    let missing = audit::audit(&empty, &record).err();
    assert!(
        matches!(missing, Some(audit::AuditFault::Missing(digests)) if digests.len() == 8),
        "4 bundles, 4 responses"
    );
}

/// seed: 002-20
#[test]
fn a_report_answers_its_challenge_under_the_pinned_key() {
    let mut table = Table::new();
    table.genesis();
    let node = &table.nodes[&index(3)];
    let bytes = node.report([7; 32]).encode();
    let signed = report::SignedReport::decode(&bytes).unwrap();
    let report = signed.verify(&identity(3).public(), &[7; 32]).expect("its own key and challenge");
    assert_eq!(report.highest, EpochNumber(1));
    assert_eq!(
        (report.held.as_slice(), report.verdicts.as_slice()),
        (&[EpochNumber(1)][..], &[(EpochNumber(1), true)][..])
    );
    assert_eq!(report.newest.map(|certificate| certificate.number), Some(EpochNumber(1)));
    assert!(signed.verify(&identity(3).public(), &[8; 32]).is_none(), "an old report answers no new challenge");
    assert!(signed.verify(&identity(2).public(), &[7; 32]).is_none(), "another node's key");
    let mut changed = bytes;
    changed[60] ^= 1;
    let accepted =
        report::SignedReport::decode(&changed).is_ok_and(|r| r.verify(&identity(3).public(), &[7; 32]).is_some());
    assert!(!accepted, "a changed report must not verify");
}

/// A share sealed to a last resort is bad. The keys of that set open shares of other rounds too, so nothing is revealed.
#[test]
fn a_last_resort_key_is_never_revealed_however_badly_a_dealer_cheats() {
    let mut table = Table::new();
    table.genesis();
    let last_resort = table.nodes[&index(4)].offers().last().unwrap().clone();
    let good = table.reshare_plan(2, 1);
    let mut plan: Plan = (*good).clone();
    plan.receivers[3].prekey_set = offer(&last_resort, &table.nodes[&index(4)]).number;
    plan.receivers[3].prekey_digest = last_resort.digest();
    let plan = plan.validate().unwrap();
    let offers: Vec<_> = table.nodes.values().flat_map(|node| node.state.offers.values().cloned()).collect();
    for node in table.nodes.values_mut() {
        let _ = node.accept((*plan).clone(), &mut table.rng).unwrap();
    }
    offers.into_iter().for_each(|set| table.tell(&Blob::Prekeys(set)));
    let honest = std::mem::take(&mut table.said);
    for message in honest {
        let said = match message.body {
            Body::Dealing(mut dealing) if message.sender == index(1) => {
                dealing.shares[3] = SealedShare::IMPOSSIBLE;
                say(&plan, 1, Body::Dealing(dealing))
            }
            Body::Have { dealer, .. } if dealer == index(1) => continue,
            _ => message,
        };
        table.said.push(said);
    }
    table.settle();
    let transcript = table.nodes[&index(2)].transcript(plan.number).unwrap();
    let record = RoundRecord::opened();
    let view = RoundView { transcript, record: &record, opened: Block(0), now: Block(2), overdue: false };
    let Some(Decision::FreezeDealers(dealers)) = decide(&view) else { panic!("the deadline has passed") };
    assert_eq!(dealers.len(), 4, "the lie is not visible from outside");
    let record = RoundRecord { phase: Phase::Verifying, dealers: Some(dealers), ..record };
    table.observe(plan.number, &record);
    let cheated = &table.nodes[&index(4)].state.attempts[&plan.number];
    let unable = Body::Unable { dealers: vec![index(1)] };
    assert!(
        cheated.outbox.iter().any(|message| message.body == unable),
        "it says that it is unable, and because of whom"
    );
    assert!(!cheated.has_said(3), "and reveals nothing");
}

/// Hostile bytes: whatever decodes is canonical, and nothing panics.
#[test]
fn changed_bundles_decode_to_themselves_or_not_at_all() {
    use rand_core::Rng;
    let (plan, _, offers) = genesis_with_prekeys();
    let transcript = transcript(&plan, &offers);
    let dealing = Dealing::deal(&plan, index(2), None, transcript.prekeys(), &DealerSeed::restore(&[1; 32]));
    let bytes = say(&plan, 2, Body::Dealing(dealing)).encode();
    let mut rng = ChaCha20Rng::seed_from_u64(14);
    for _ in 0..2_000 {
        let mut changed = bytes.clone();
        for _ in 0..=rng.next_u32() % 3 {
            let at = rng.next_u32() as usize % changed.len();
            changed[at] = rng.next_u32().to_le_bytes()[0];
        }
        changed.truncate(changed.len() - (rng.next_u32() as usize % 8).saturating_sub(5));
        if let Ok(message) = SignedMessage::decode(&changed) {
            assert!(message.encode() == changed, "two encodings of one message");
            let genuine = message.is_signed_by(&identity(2).public());
            assert!(!genuine || changed == bytes, "a changed message verifies");
        }
    }
}

/// Frozen bytes, made by another program: a change here is a new version, not a new fixture.
/// seed: 003-15
#[test]
fn messages_and_digests_encode_as_the_fixtures_say() {
    use crate::purpose::Purpose;
    let fixtures: serde_json::Value = serde_json::from_str(include_str!("../../fixtures/round-v1.json")).unwrap();
    let digest = |byte: u8| Digest([byte; 32]);
    let plan = digest(0x11);
    let complaint = Complaint { dealer: index(1), key: prekey::RevealedKey([6; 32]) };
    let bodies = [
        ("have", Body::Have { dealer: index(2), bundle: digest(0x22) }),
        ("response", Body::Response(Response { dealers: digest(0x22), complaints: vec![complaint] })),
        ("prepared", Body::Prepared { vector: digest(0x22), frozen: digest(0x23) }),
        ("unable", Body::Unable { dealers: vec![index(1), index(4)] }),
        ("holds", Body::Holds { vector: digest(0x22) }),
        ("erased", Body::Erased),
    ];
    for (name, body) in bodies {
        let message = SignedMessage::sign(plan, index(3), body, &identity(3));
        let (bytes, fixture) = (message.encode(), &fixtures["messages"][name]);
        assert_eq!(hex::encode(&bytes[..bytes.len() - 64]), fixture["unsigned"].as_str().unwrap(), "{name}");
        assert_eq!(message.digest().to_string(), fixture["digest"].as_str().unwrap(), "{name}: digest");
    }
    let dealers = FrozenDigests::new(vec![(index(1), digest(0x31)), (index(3), digest(0x33))]).unwrap();
    assert_eq!(dealers_digest(&plan, &dealers).to_string(), fixtures["dealersDigest"].as_str().unwrap());
    let responses = FrozenDigests::new(vec![(index(2), digest(0x42))]).unwrap();
    let frozen = crate::plan::Frozen { dealers, responses, qualified: vec![index(1), index(3)] };
    assert_eq!(frozen.digest(&plan).to_string(), fixtures["frozenDigest"].as_str().unwrap());
    let cluster = ClusterId(*b"0123456789abcdef");
    let set = prekey::PrekeySet {
        cluster,
        node: index(3),
        number: PrekeySetNumber(7),
        last_resort: true,
        slots: vec![[0x51; 32], [0x52; 32]],
    };
    assert_eq!(set.digest().to_string(), fixtures["prekeySet"]["digest"].as_str().unwrap());
    let purposes = [
        ("beacon", Purpose::beacon(7)),
        ("signature", Purpose::signature("release", b"hello")),
        ("certificate", Purpose::certificate(cluster, &plan, &digest(0x22), EpochNumber(8))),
        ("possession", Purpose::possession(cluster, EpochNumber(8), &[0x61; 32])),
    ];
    for (name, purpose) in purposes {
        assert_eq!(hex::encode(purpose.bytes()), fixtures["purposes"][name].as_str().unwrap(), "{name}");
    }
}
