//! Checks on records and phases that `docs/protocol-checks.md` lists: what a node acts on, and what closes a phase.

use super::{Table, deal, dealt, genesis_plan, index, say, view};
use crate::coordination::{Decision, FailReason, decide};
use crate::curve::G1;
use crate::identifiers::{Digest, EpochNumber};
use crate::plan::{FrozenDigests, Origin, Plan, ValidPlan};
use crate::polynomial::lagrange_at_zero;
use crate::purpose::{Certificate, Purpose};
use crate::round::*;
use crate::serving::signature;

const DIGEST: Digest = Digest([1; 32]);

fn kinds(node: &Participant, number: EpochNumber) -> Vec<MessageKind> {
    node.state.attempts[&number].outbox.iter().map(|message| message.body.kind()).collect()
}

/// Writes the operator's next decision, seen with the eyes of node 1, into a copy of the record.
fn step(table: &Table, plan: &ValidPlan, record: &RoundRecord) -> RoundRecord {
    let transcript = table.nodes[&index(1)].transcript(plan.number).unwrap();
    let decision = decide(&view(transcript, record, 0)).expect("everyone has spoken");
    let mut next = record.clone();
    next.apply(&decision).unwrap();
    next
}

/// Dealers or receivers that the plan does not have, fewer dealers than must qualify, fields that change: a node acts on none.
#[test]
fn a_record_that_cannot_be_of_its_plan_is_not_acted_on() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let frozen = step(&table, &plan, &RoundRecord::opened());
    let pairs: Vec<_> = frozen.dealers.as_ref().unwrap().iter().collect();
    let with = |pairs: Vec<_>| RoundRecord { dealers: Some(FrozenDigests::new(pairs).unwrap()), ..frozen.clone() };
    let stranger = with([&pairs[..], &[(index(77), DIGEST)]].concat());
    let too_few = with(pairs[..2].to_vec());
    let node = table.nodes.get_mut(&index(2)).unwrap();
    let unknown = node.observe(EpochNumber(9), &frozen, &mut table.rng).unwrap_err();
    assert_eq!(unknown, Contradiction::Unknown(EpochNumber(9)));
    for (name, record) in [("a stranger deals", stranger), ("two dealers of three", too_few)] {
        let before = node.state.clone();
        let refused = node.observe(plan.number, &record, &mut table.rng).unwrap_err();
        assert_eq!(refused, Contradiction::Frozen(plan.number, "dealers"), "{name}");
        assert!(node.state == before, "{name}: it leaves a trace");
    }
    table.observe(plan.number, &frozen);
    let judged = step(&table, &plan, &frozen);
    let responses: Vec<_> = judged.responses.as_ref().unwrap().iter().collect();
    let of_stranger = [&responses[..], &[(index(77), DIGEST)]].concat();
    let of_stranger = RoundRecord { responses: Some(FrozenDigests::new(of_stranger).unwrap()), ..judged.clone() };
    let node = table.nodes.get_mut(&index(2)).unwrap();
    let changed = Contradiction::Frozen(plan.number, "responses");
    assert_eq!(node.observe(plan.number, &of_stranger, &mut table.rng).unwrap_err(), changed, "a stranger responds");
    let _ = node.observe(plan.number, &judged, &mut table.rng).unwrap();
    let mut other = judged;
    other.qualified.as_mut().unwrap().pop();
    assert_eq!(node.observe(plan.number, &other, &mut table.rng).unwrap_err(), changed, "the qualified change");
}

/// A receiver answers for all frozen bundles or not at all, and not before it can tell whether each deals what it has to.
#[test]
fn a_receiver_answers_only_with_every_bundle_and_the_source() {
    for source_comes_last in [false, true] {
        let mut table = Table::new();
        table.genesis();
        let plan = table.reshare_plan(2, 1);
        let mut node = table.nodes.remove(&index(4)).unwrap();
        table.accept(&plan);
        let transcript = table.nodes[&index(1)].transcript(plan.number).unwrap();
        let decision = decide(&view(transcript, &RoundRecord::opened(), 2)).expect("the deadline has passed");
        let mut record = RoundRecord::opened();
        record.apply(&decision).unwrap();
        // It knows of epoch 1 and has nothing of it: neither vector nor share.
        let first = node.state.attempts.get_mut(&EpochNumber(1)).unwrap();
        (first.holds_share, first.qualified) = (false, None);
        let source = first.vector.take().unwrap();
        node.transcripts.clear();
        node.secrets.shares.clear();
        let dealt = table.nodes.values().flat_map(|node| node.state.attempts[&plan.number].outbox.clone());
        let dealt = dealt.filter(|said| said.body.kind() == MessageKind::Dealing).map(Blob::Message);
        let mut blobs: Vec<_> = std::iter::once(Blob::Vector(source)).chain(dealt).collect();
        assert_eq!(blobs.len(), 4, "three have dealt");
        if source_comes_last {
            blobs.reverse();
        }
        let _ = node.accept((*plan).clone(), &mut table.rng).unwrap();
        let _ = node.observe(plan.number, &record, &mut table.rng).unwrap();
        let last = blobs.pop().unwrap();
        for blob in blobs {
            let _ = node.learn(&blob, &mut table.rng);
        }
        let answers = |node: &Participant| kinds(node, plan.number).contains(&MessageKind::Response);
        assert!(!answers(&node), "it answers for what it has not seen (source last: {source_comes_last})");
        let _ = node.learn(&last, &mut table.rng);
        assert!(answers(&node), "with all of it, it answers");
    }
}

/// Partial signatures bind t shares to the vector: a node gives its own once the record asks and enough have named the same.
#[test]
fn nobody_signs_before_enough_are_prepared() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let mut record = RoundRecord::opened();
    for _ in 0..2 {
        record = step(&table, &plan, &record);
        if record.phase == Phase::Verifying {
            table.observe(plan.number, &record);
        }
    }
    // Preparing: each node reads of it, and hears of nobody else.
    for node in table.nodes.values_mut() {
        let _ = node.observe(plan.number, &record, &mut table.rng).unwrap();
    }
    let node = table.nodes.get_mut(&index(1)).unwrap();
    assert!(kinds(node, plan.number).contains(&MessageKind::Prepared));
    let asked = RoundRecord { phase: Phase::Certifying, ..record };
    let _ = node.observe(plan.number, &asked, &mut table.rng).unwrap();
    assert!(!kinds(node, plan.number).contains(&MessageKind::Partial), "it signs alone");
    let prepared = |node: &Participant| {
        let mut said = node.state.attempts[&plan.number].outbox.iter();
        said.find(|said| said.body.kind() == MessageKind::Prepared).cloned().unwrap()
    };
    let others = [2, 3].map(|number| prepared(&table.nodes[&index(number)]));
    let elsewhere = say(&plan, 4, Body::Prepared { vector: DIGEST, frozen: DIGEST });
    let [second, third] = others;
    let node = table.nodes.get_mut(&index(1)).unwrap();
    for (message, signs) in [(elsewhere, false), (second, false), (third, true)] {
        let sender = message.sender;
        let _ = node.learn(&Blob::Message(message), &mut table.rng).unwrap();
        let signed = kinds(node, plan.number).contains(&MessageKind::Partial);
        assert_eq!(signed, signs, "after {sender} prepared");
    }
}

/// A certificate counts for the cluster, plan, number and vector that it signs, under the key that the node knows.
#[test]
fn a_certificate_of_another_round_or_key_activates_nothing() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let mut record = RoundRecord::opened();
    while record.phase != Phase::Certifying {
        record = step(&table, &plan, &record);
        table.observe(plan.number, &record);
    }
    let active = step(&table, &plan, &record);
    let good = active.certificate.unwrap();
    // Whatever the names are, the cluster's own key has signed them.
    let signed = |certificate: Certificate| {
        let Certificate { cluster, number, plan: of, vector, .. } = certificate;
        let point = Purpose::certificate(cluster, &of, &vector, number).point();
        let signers = [1, 2, 3].map(index);
        let partials = signers.map(|signer| point.times_secret(table.nodes[&signer].share(plan.number).unwrap()));
        Certificate { signature: G1::sum_of_products(&partials, &lagrange_at_zero(&signers)), ..certificate }
    };
    assert_eq!(signed(good), good);
    let others = [
        ("cluster", signed(Certificate { cluster: crate::identifiers::ClusterId([9; 16]), ..good })),
        ("number", signed(Certificate { number: EpochNumber(3), ..good })),
        ("plan", signed(Certificate { plan: DIGEST, ..good })),
        ("vector", signed(Certificate { vector: DIGEST, ..good })),
        ("signature", Certificate { signature: G1::generator(), ..good }),
    ];
    let node = table.nodes.get_mut(&index(3)).unwrap();
    for (name, certificate) in others {
        let lie = RoundRecord { certificate: Some(certificate), ..active.clone() };
        let outputs = node.observe(plan.number, &lie, &mut table.rng).unwrap();
        assert_eq!(outputs.notices, [Notice::BadCertificate(plan.number)], "another {name}");
        assert!(node.state.attempts[&plan.number].is_open(), "another {name} activates it");
    }
    let _ = node.observe(plan.number, &active, &mut table.rng).unwrap();
    assert_eq!(node.state.attempts[&plan.number].certificate(), Some(&good));
}

/// A share leaves its holder, in a polynomial, only for the epoch that the node saw certified and that the plan names.
#[test]
fn a_dealer_hands_on_only_the_epoch_that_the_plan_names() {
    let mut table = Table::new();
    table.genesis();
    let good = table.reshare_plan(2, 1);
    let lies: [&dyn Fn(&mut crate::plan::Source); 3] =
        [&|source| source.vector = DIGEST, &|source| source.plan = DIGEST, &|source| source.number = EpochNumber(0)];
    for (at, lie) in lies.into_iter().enumerate() {
        let mut plan: Plan = (*good).clone();
        plan.number = EpochNumber(2 + u64::try_from(at).unwrap());
        let Origin::Reshare { source, .. } = &mut plan.origin else { panic!("a reshare") };
        lie(source);
        let node = table.nodes.get_mut(&index(2)).unwrap();
        let _ = node.accept(plan.clone(), &mut table.rng).unwrap();
        let _ = node.observe(plan.number, &RoundRecord::opened(), &mut table.rng).unwrap();
        assert!(!kinds(node, plan.number).contains(&MessageKind::Dealing), "lie {at}: it deals");
    }
    let node = table.nodes.get_mut(&index(2)).unwrap();
    let plan = Plan { number: EpochNumber(9), ..(*good).clone() };
    let _ = node.accept(plan.clone(), &mut table.rng).unwrap();
    let _ = node.observe(plan.number, &RoundRecord::opened(), &mut table.rng).unwrap();
    assert!(kinds(node, plan.number).contains(&MessageKind::Dealing), "the right one it deals");
}

/// A bundle is frozen once n−t+1 receivers say that they have it, its author's, sound: one fewer is not enough at any deadline.
#[test]
fn a_bundle_that_too_few_have_is_not_frozen() {
    let (plan, _) = genesis_plan();
    let bundles = [2, 3, 4, 5].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer))));
    let mut transcript = dealt(&plan, &bundles);
    let have = |receiver, bundle: &SignedMessage| {
        say(&plan, receiver, Body::Have { dealer: bundle.sender, bundle: bundle.digest() })
    };
    assert_eq!(plan.copies_needed(), 2);
    for bundle in &bundles {
        transcript.hear(&have(2, bundle)).unwrap();
    }
    for bundle in &bundles[..2] {
        transcript.hear(&have(3, bundle)).unwrap();
    }
    // What others say of dealer 5 is about another bundle than its own.
    for receiver in [3, 4, 5] {
        transcript.hear(&say(&plan, receiver, Body::Have { dealer: index(5), bundle: DIGEST })).unwrap();
    }
    let record = RoundRecord::opened();
    let few = Decision::Fail(FailReason::TooFewDealers { dealt: 2, needed: 3 });
    assert_eq!(decide(&view(&transcript, &record, 2)), Some(few));
    transcript.hear(&have(3, &bundles[2])).unwrap();
    let Some(Decision::FreezeDealers(dealers)) = decide(&view(&transcript, &record, 2)) else {
        panic!("three are enough")
    };
    assert_eq!(dealers.iter().map(|(dealer, _)| dealer.value()).collect::<Vec<_>>(), [2, 3, 4]);
}

/// Whoever names other fields is not prepared, and its partial signature is not counted.
#[test]
fn only_who_prepared_the_agreed_fields_counts_and_signs() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let mut record = RoundRecord::opened();
    while record.phase != Phase::Preparing {
        record = step(&table, &plan, &record);
        for node in table.nodes.values_mut() {
            table.said.extend(node.observe(plan.number, &record, &mut table.rng).unwrap().say);
        }
        if record.phase != Phase::Preparing {
            table.settle();
        }
    }
    let mut transcript = table.nodes[&index(1)].transcript(plan.number).unwrap().clone();
    let prepared: Vec<_> = table
        .said
        .drain(..)
        .filter(|said| said.body.kind() == MessageKind::Prepared && said.sender < index(3))
        .collect();
    for message in &prepared {
        transcript.hear(message).unwrap();
    }
    assert_eq!(transcript.prepared().len(), 2);
    for other in [3, 4] {
        transcript.hear(&say(&plan, other, Body::Prepared { vector: DIGEST, frozen: DIGEST })).unwrap();
    }
    let few = Decision::Fail(FailReason::TooFewHolders { prepared: 2, needed: 3 });
    assert_eq!(decide(&view(&transcript, &record, 2)), Some(few), "words about other fields count");
    let certifying = RoundRecord { phase: Phase::Certifying, ..record };
    for node in table.nodes.values() {
        let vector = node.state.attempts[&plan.number].vector.as_ref().unwrap().digest();
        let share = node.share(plan.number).unwrap();
        let partial = transcript.certificate_purpose(&vector).point().times_secret(share);
        transcript.hear(&say(&plan, node.state.index.value(), Body::Partial(partial))).unwrap();
    }
    let few = Decision::Fail(FailReason::TooFewPartials { valid: 2, needed: 3 });
    assert_eq!(decide(&view(&transcript, &certifying, 2)), Some(few.clone()), "who is not prepared signs");

    // Whoever withheld its signature made the certificate and shows it, beside false ones.
    let vector = table.nodes[&index(1)].state.attempts[&plan.number].vector.clone().unwrap();
    let purpose = transcript.certificate_purpose(&vector.digest());
    let signers = table.nodes.iter().map(|(index, node)| (*index, node.share(plan.number).unwrap()));
    let partials = signers.map(|(index, share)| (index, signature::sign(&purpose, share))).collect();
    let signed = signature::combine(&purpose.point(), &vector, &partials).unwrap();
    let (cluster, number) = (plan.cluster, plan.number);
    let made =
        Certificate { cluster, number, plan: plan.digest(), vector: vector.digest(), signature: signed.signature };
    for false_one in [Certificate { vector: DIGEST, ..made }, Certificate { signature: G1::generator(), ..made }] {
        transcript.learn_certificate(&false_one);
    }
    assert_eq!(decide(&view(&transcript, &certifying, 2)), Some(few), "a false certificate counts");
    transcript.learn_certificate(&made);
    let decision = decide(&view(&transcript, &certifying, 2));
    assert!(
        matches!(&decision, Some(Decision::Activate { certificate, .. }) if *certificate == made),
        "the record calls an epoch failed that nodes follow: {decision:?}"
    );
}

/// An audit counts the receivers that named vector and frozen fields themselves.
#[test]
fn an_audit_asks_who_was_prepared() {
    let mut table = Table::new();
    let plan = table.genesis();
    let record = table.nodes[&index(1)].records[&plan.number].clone();
    let said = table.nodes.values().flat_map(|node| node.state.attempts[&plan.number].outbox.clone());
    let mut without = Transcript::new(plan.clone(), None);
    let mut whole = without.clone();
    for message in said {
        whole.hear(&message).unwrap();
        if message.body.kind() != MessageKind::Prepared || message.sender != index(3) {
            without.hear(&message).unwrap();
        }
    }
    assert_eq!(audit::audit(&whole, &record).unwrap().prepared.len(), 4);
    let missing = audit::audit(&without, &record);
    assert_eq!(missing, Err(audit::AuditError::TooFewPrepared { prepared: 3, needed: 4 }));
}

/// A receiver that could not open its shares prepares nothing, and a phase closes without it before its deadline.
#[test]
fn nobody_waits_for_who_could_not_open() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.plan_without_the_prekey_of_4();
    table.accept(&plan);
    let mut record = RoundRecord::opened();
    while record.phase != Phase::Active {
        record = step(&table, &plan, &record);
        table.observe(plan.number, &record);
    }
    assert!(!kinds(&table.nodes[&index(4)], plan.number).contains(&MessageKind::Prepared));
}
