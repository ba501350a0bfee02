//! Dealers that cheat, and what comes of it.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{deal, freeze, genesis_plan, index, say};
use crate::coordination::{Decision, RoundView, decide};
use crate::curve::{G2, Scalar, SecretScalar};
use crate::identifiers::{Block, Threshold};
use crate::plan::frozen::dealers_digest;
use crate::plan::{Plan, ValidPlan};
use crate::polynomial::{Polynomial, VerificationVector, lagrange_at_zero};
use crate::round::*;

/// A dealer that waits for the others' commitments and chooses C\[0\] so that the sum is a key that it knows alone.
#[test]
fn a_rushing_dealer_at_genesis_cannot_cancel_the_others() {
    let (plan, _) = genesis_plan();
    let mut transcript = Transcript::new(plan.clone(), None);
    let honest = [2, 3, 4].map(|dealer| deal(&plan, dealer));
    for (dealer, dealing) in (2..).zip(&honest) {
        transcript.hear(&say(&plan, dealer, Body::Dealing(dealing.clone()))).unwrap();
    }
    let mut own = deal(&plan, 5);
    let others = honest.iter().map(|dealing| dealing.vector.constant()).collect::<Vec<_>>();
    let known = own.vector.constant();
    let cancelling = known.plus(&G2::sum(&others).times(&-Scalar::one()));
    let mut commitments = own.vector.commitments().to_vec();
    commitments[0] = cancelling;
    own.vector = VerificationVector::new(commitments).unwrap();
    assert!(G2::sum(&[&others[..], &[cancelling]].concat()) == known, "the adversary would know the whole key");
    for proof in [own.proof, honest[0].proof] {
        // It knows the secret under which its shares are sealed; the constant term is what it does not know.
        let mut rushed = Dealing { proof, ..own.clone() };
        super::prove(&plan, 5, &mut rushed);
        let rushed = say(&plan, 5, Body::Dealing(rushed));
        assert_eq!(
            transcript.clone().hear(&rushed),
            Err(MessageError::BadBundle(index(5), DealingError::Possession)),
            "a key that cancels the others cannot be proven known, neither by an own proof nor by a copied one"
        );
    }
    let unproven = say(&plan, 5, Body::Dealing(Dealing { proof: None, ..own }));
    assert_eq!(transcript.hear(&unproven), Err(MessageError::BadBundle(index(5), DealingError::Proof)));
}

/// Two dealers shift their shares to one receiver by errors that cancel in the weighted sum, so that the result would be
/// right and a plain sum sees nothing. Each is named all the same.
#[test]
fn errors_that_cancel_are_found_and_both_dealers_named() {
    let (plan, secrets) = genesis_plan();
    let mut transcript = Transcript::new(plan.clone(), None);
    let victim = index(5);
    let error = Scalar::from_u64(3);
    let mut bundles = Vec::new();
    for dealer in [2u32, 3, 4, 5] {
        let shift = match dealer {
            2 => error,
            3 => -error,
            _ => Scalar::default(),
        };
        let message = say(&plan, dealer, Body::Dealing(super::shifted(&plan, dealer, victim, shift)));
        transcript.hear(&message).unwrap();
        bundles.push(message);
    }
    let dealers = freeze(&bundles.iter().collect::<Vec<_>>());
    let complaints: Vec<_> =
        transcript.bundles().filter_map(|b| b.complain(&plan, victim, &secrets[&victim])).collect();
    let mut complaints = complaints;
    complaints.sort_by_key(|complaint| complaint.dealer);
    let frozen = dealers_digest(&plan.digest(), &dealers);
    let response = say(&plan, 5, Body::Response(Response { dealers: frozen, unopened: false, complaints }));
    transcript.hear(&response).unwrap();
    let judgement = transcript.judge(&dealers, &freeze(&[&response])).unwrap();
    assert_eq!(judgement.frozen.qualified, [index(4), index(5)], "neither of the pair qualifies");
    let named: Vec<_> = judgement.culprits.iter().map(|culprit| (culprit.index.value(), culprit.offence)).collect();
    assert_eq!(named, [(2, Offence::BadShare(victim)), (3, Offence::BadShare(victim))]);
    let too_few = CombineError::TooFewQualified { qualified: 2, needed: 3 };
    assert_eq!(judgement.combine(&transcript), Err(too_few), "and two dealers are not enough");
}

#[test]
fn a_restarted_dealer_sends_the_same_bytes() {
    let (plan, _) = genesis_plan();
    let deal = |plan: &ValidPlan, seed: u8| {
        let seed = DealerSeed::restore(&[seed; 32]);
        say(plan, 2, Body::Dealing(Dealing::deal(plan, index(2), None, &seed))).encode()
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

/// The dealer shows others another bundle than its own machine made, and has that one alone: nobody waits for it.
#[test]
fn a_dealer_with_two_bundles_keeps_nobody_waiting() {
    let (plan, _) = genesis_plan();
    let mut transcript = Transcript::new(plan.clone(), None);
    let deal = |dealer: u32, seed: u8| {
        let seed = DealerSeed::restore(&[seed; 32]);
        say(&plan, dealer, Body::Dealing(Dealing::deal(&plan, index(dealer), None, &seed)))
    };
    let own = deal(5, 99);
    let shown: Vec<_> = [2, 3, 4, 5].map(|dealer| deal(dealer, u8::try_from(dealer).unwrap())).into();
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
