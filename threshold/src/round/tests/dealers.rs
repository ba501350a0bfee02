//! Dealers that cheat, and what comes of it.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{Table, genesis_with_prekeys, index, offer, say, transcript};
use crate::coordination::{Decision, RoundView, decide};
use crate::curve::{G2, Scalar, SecretScalar};
use crate::encoding::Writer;
use crate::identifiers::{Block, Threshold};
use crate::plan::frozen::dealers_digest;
use crate::plan::{FrozenDigests, Plan, ValidPlan};
use crate::polynomial::{Polynomial, VerificationVector, lagrange_at_zero};
use crate::prekey::{self, SealedShare};
use crate::round::*;

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
            Err(MessageError::BadBundle(index(5), DealingError::Proof)),
            "a key that cancels the others cannot be proven known, neither by an own proof nor by a copied one"
        );
    }
}

/// Two dealers shift their shares to one receiver by errors that cancel in the weighted sum, so that the result would be
/// right and an aggregate check sees nothing. Each is named all the same.
#[test]
fn errors_that_cancel_are_found_and_both_dealers_named() {
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
    let too_few = CombineError::TooFewQualified { qualified: 2, needed: 3 };
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
fn a_restarted_dealer_sends_the_same_bytes() {
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

/// A share sealed to a last resort is bad. The keys of that set open shares of other rounds too, so nothing is revealed.
#[test]
fn a_last_resort_key_is_never_revealed() {
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
        let _ = node.observe(plan.number, &RoundRecord::opened(), &mut table.rng).unwrap();
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
    assert!(!cheated.has_said(MessageKind::Response), "and reveals nothing");
}

/// The dealer shows others another bundle than its own machine made, and has that one alone: nobody waits for it.
#[test]
fn a_dealer_with_two_bundles_keeps_nobody_waiting() {
    let (plan, _, offers) = genesis_with_prekeys();
    let mut transcript = transcript(&plan, &offers);
    let deal = |dealer: u32, seed: u8, transcript: &Transcript| {
        let seed = DealerSeed::restore(&[seed; 32]);
        say(&plan, dealer, Body::Dealing(Dealing::deal(&plan, index(dealer), None, transcript.prekeys(), &seed)))
    };
    let own = deal(5, 99, &transcript);
    let shown: Vec<_> = [2, 3, 4, 5].map(|dealer| deal(dealer, u8::try_from(dealer).unwrap(), &transcript)).into();
    for message in &shown {
        transcript.hear(message).unwrap();
    }
    for receiver in plan.receivers.iter().map(|receiver| receiver.index) {
        for message in &shown {
            let liar = receiver == index(5) && message.sender == index(5);
            let bundle = if liar { own.digest() } else { message.digest() };
            let have = Body::Have { dealer: message.sender, bundle };
            transcript.hear(&say(&plan, receiver.value(), have)).unwrap();
        }
    }
    let record = RoundRecord::opened();
    let view = RoundView { transcript: &transcript, record: &record, opened: Block(0), now: Block(0), overdue: false };
    let Some(Decision::FreezeDealers(dealers)) = decide(&view) else { panic!("the phase waits for its deadline") };
    let frozen: Vec<_> = dealers.iter().map(|(_, digest)| digest).collect();
    assert_eq!(frozen, shown.iter().map(SignedMessage::digest).collect::<Vec<_>>(), "not what the others have");
}
