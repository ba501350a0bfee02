//! Attacks on a round, each with its actors, and their outcome.

use std::collections::BTreeSet;

use super::complaints::judged;
use super::{Table, deal, dealt, genesis_plan, identity, index, prekeys_for, prove, say, view};
use crate::coordination::{Decision, FailReason, decide};
use crate::curve::{G1, G2, Scalar};
use crate::identifiers::{Digest, EpochNumber, PrekeyNumber};
use crate::plan::{FrozenDigests, Plan};
use crate::prekey::PrekeySecret;
use crate::round::dealing::Ephemeral;
use crate::round::*;

/// Liars say that they have other bundles than the dealers', which are late. A digest counts for the dealer that signed it.
#[test]
fn a_foreign_digest_counts_as_nothing_even_at_the_deadline() {
    let (plan, _) = genesis_plan();
    let bundles = [2, 3, 4, 5].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer))));
    // The honest nodes are 2 and 3; 4 and 5 have their own bundles everywhere, and vouch for them under the honest names.
    let mut transcript = dealt(&plan, &bundles[2..]);
    for receiver in [4, 5] {
        for (dealer, bundle) in [(2, &bundles[2]), (3, &bundles[3]), (4, &bundles[2]), (5, &bundles[3])] {
            let have = Body::Have { dealer: index(dealer), bundle: bundle.digest() };
            transcript.hear(&say(&plan, receiver, have)).unwrap();
        }
    }
    let record = RoundRecord::opened();
    assert_eq!(decide(&view(&transcript, &record, 0)), None, "the phase is open");
    let failed = FailReason::TooFewDealers { dealt: 2, needed: 3 };
    assert_eq!(decide(&view(&transcript, &record, 2)), Some(Decision::Fail(failed)));
    assert_eq!(transcript.culprits().count(), 0, "nobody is named");
}

/// Enough liars vouch for a second digest of one dealer. At the deadline the phase closes all the same.
#[test]
fn liars_cannot_keep_a_phase_open_after_its_deadline() {
    let (plan, _) = genesis_plan();
    let mut bundles = [2, 3, 4, 5].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer)))).to_vec();
    let second = Dealing::deal(&plan, index(5), None, &DealerSeed::restore(&[99; 32]));
    bundles.push(say(&plan, 5, Body::Dealing(second)));
    let mut transcript = Transcript::new(plan.clone(), None);
    for bundle in &bundles {
        let _ = transcript.hear(bundle);
        // The honest 2 and 3 vouch for the first bundle of each dealer; the liars 4 and 5 for dealer 5's second.
        let second = bundle.digest() == bundles[4].digest();
        let receivers = if second {
            4..=5
        } else if bundle.sender == index(5) {
            2..=3
        } else {
            2..=5
        };
        for receiver in receivers {
            let have = Body::Have { dealer: bundle.sender, bundle: bundle.digest() };
            let _ = transcript.hear(&say(&plan, receiver, have));
        }
    }
    let record = RoundRecord::opened();
    let decision = decide(&view(&transcript, &record, 2));
    let Some(Decision::FreezeDealers(dealers)) = decision else { panic!("it stays open: {decision:?}") };
    assert_eq!(dealers.iter().map(|(dealer, _)| dealer.value()).collect::<Vec<_>>(), [2, 3, 4], "5 signed two bundles");
    assert!(transcript.culprits().any(|culprit| culprit.offence == Offence::Equivocation));
}

/// Whoever writes the record freezes honest bundles under other honest names. Each node sees that the signer is another, and says
/// nothing; and were a node to complain all the same, there is nothing to complain about.
#[test]
fn permuted_digests_in_the_record_reveal_nothing() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    table.accept(&plan);
    let transcript = table.nodes[&index(1)].transcript(plan.number).unwrap();
    let record = RoundRecord::opened();
    let Some(Decision::FreezeDealers(dealers)) = decide(&view(transcript, &record, 1)) else {
        panic!("all have dealt")
    };
    let digests: Vec<_> = dealers.iter().map(|(_, digest)| digest).collect();
    let permuted = dealers.iter().zip(digests.iter().cycle().skip(1)).map(|((dealer, _), digest)| (dealer, *digest));
    let permuted = FrozenDigests::new(permuted.collect()).unwrap();
    let record = RoundRecord { phase: Phase::Verifying, dealers: Some(permuted), ..record };
    for (number, node) in &mut table.nodes {
        let secret = node.own_prekey(&plan).unwrap();
        for bundle in node.transcript(plan.number).unwrap().bundles() {
            assert_eq!(bundle.complain(&plan, *number, secret), None, "{number} complains about {}", bundle.dealer());
        }
        let outputs = node.observe(plan.number, &record, &mut table.rng).unwrap();
        assert!(matches!(outputs.notices[..], [Notice::ForeignBundle(..)]), "{number} does not notice");
        assert!(outputs.say.is_empty(), "{number} answers to a record that lies");
        assert_eq!(node.transcript(plan.number).unwrap().culprits().count(), 0);
    }
}

/// A corrupt dealer's bundle with ephemeral points that are not its own: copied, multiplied, shifted, or a receiver's prekey.
#[test]
fn an_ephemeral_point_that_is_not_the_dealers_own_is_refused() {
    let (plan, secrets) = genesis_plan();
    let honest = deal(&plan, 2).ephemeral;
    let five = Scalar::from_u64(5);
    let points = [
        ("copied", honest),
        ("multiplied", Ephemeral { g1: honest.g1.times(&five), g2: honest.g2.times(&five) }),
        (
            "shifted",
            Ephemeral {
                g1: honest.g1.plus(&G1::generator().times(&five)),
                g2: honest.g2.plus(&G2::generator().times(&five)),
            },
        ),
        ("a prekey", Ephemeral { g1: secrets[&index(3)].public(), g2: honest.g2 }),
        ("of two secrets", Ephemeral { g1: honest.g1, g2: deal(&plan, 5).ephemeral.g2 }),
        ("half its own", Ephemeral { g1: deal(&plan, 5).ephemeral.g1, g2: honest.g2 }),
    ];
    for (name, ephemeral) in points {
        let mut dealing = Dealing { ephemeral, ..deal(&plan, 5) };
        prove(&plan, 5, &mut dealing);
        let mut transcript = Transcript::new(plan.clone(), None);
        let heard = transcript.hear(&say(&plan, 5, Body::Dealing(dealing)));
        assert_eq!(heard, Err(MessageError::BadBundle(index(5), DealingError::Possession)), "{name}");
        assert_eq!(transcript.bundles().count(), 0, "{name}: it could be opened");
    }
}

/// Bundles that arrive together are checked together. One bad one among them is found, and the others are heard.
#[test]
fn a_bad_bundle_among_good_ones_is_the_only_one_refused() {
    let (plan, _) = genesis_plan();
    let mut bundles: Vec<_> = [2, 3, 4].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer)))).into();
    let good: Vec<_> = bundles.iter().collect();
    assert!(Transcript::new(plan.clone(), None).hear_all(&good).iter().all(Result::is_ok));
    let stolen = Dealing { ephemeral: deal(&plan, 2).ephemeral, ..deal(&plan, 5) };
    bundles.push(say(&plan, 5, Body::Dealing(stolen)));
    bundles.push(SignedMessage::sign(plan.digest(), index(4), Body::Dealing(deal(&plan, 4)), &identity(9)));
    let mut transcript = Transcript::new(plan, None);
    let heard = transcript.hear_all(&bundles.iter().collect::<Vec<_>>());
    assert!(heard[..3].iter().all(Result::is_ok));
    assert_eq!(heard[3], Err(MessageError::BadBundle(index(5), DealingError::Possession)));
    assert_eq!(transcript.bundles().count(), 3);
}

/// Proofs of another plan, number or dealer do not fit: everything of a bundle is bound to all three.
#[test]
fn a_replayed_bundle_or_proof_does_not_fit_another_plan_or_dealer() {
    let (plan, _) = genesis_plan();
    let mut other: Plan = (*plan).clone();
    other.number = EpochNumber(2);
    let other = other.validate().unwrap();
    let old = deal(&plan, 4);
    let mut of_another = Dealing { proof: deal(&other, 2).proof, ..deal(&other, 4) };
    prove(&other, 4, &mut of_another);
    let replays = [
        (4, old.clone(), "of another plan"),
        (5, deal(&other, 4), "of another dealer"),
        (4, Dealing { possession: old.possession, ..deal(&other, 4) }, "with the possession of another plan"),
        (4, of_another, "with the proof of another dealer"),
    ];
    for (dealer, dealing, name) in replays {
        let mut transcript = Transcript::new(other.clone(), None);
        let heard = transcript.hear(&say(&other, dealer, Body::Dealing(dealing)));
        assert_eq!(heard, Err(MessageError::BadBundle(index(dealer), DealingError::Possession)), "{name}");
    }
    let foreign = say(&plan, 4, Body::Dealing(old));
    assert_eq!(Transcript::new(other, None).hear(&foreign), Err(MessageError::OtherPlan));
}

/// A corrupt receiver shows a prekey made of an honest one, or an honest dealer's old ephemeral point. Its pads are others all the
/// same, so it can open nothing, and has nothing valid to complain with.
#[test]
fn a_prekey_made_of_anothers_opens_nothing() {
    let (mut plan, secrets) = {
        let (plan, secrets) = genesis_plan();
        ((*plan).clone(), secrets)
    };
    let victim = secrets[&index(2)].public();
    let related = [
        victim,
        victim.times(&Scalar::from_u64(3)),
        victim.times(&-Scalar::one()),
        victim.plus(&G1::generator()),
        deal(&plan.clone().validate().unwrap(), 4).ephemeral.g1,
    ];
    for key in related {
        plan.receivers[3].prekey =
            Some(crate::prekey::tests::forge(PrekeyNumber(9), key, plan.cluster, index(5), &identity(5)));
        let plan = plan.clone().validate().unwrap();
        let bundle = say(&plan, 3, Body::Dealing(deal(&plan, 3)));
        let transcript = dealt(&plan, &[bundle]);
        let bundle = transcript.bundle_of(index(3)).unwrap();
        // The best that it has: what the victim shares with the dealer, which the victim never discloses.
        let shared = secrets[&index(2)].shared_with(&deal(&plan, 3).ephemeral.g1).disclose();
        let complaint = Complaint { dealer: index(3), bundle: bundle.digest(), key: shared };
        let response = Response { dealers: Digest([0; 32]), unopened: false, complaints: vec![complaint] };
        assert!(bundle.open(&plan, index(2), &secrets[&index(2)]).is_ok(), "the victim opens its own");
        assert!(bundle.open(&plan, index(5), &secrets[&index(2)]).is_err() || key == victim);
        let judged = judged(&plan, &transcript, 5, response);
        assert_eq!(judged, [(5, Offence::FalseComplaint(index(3)))], "a share is good, and whoever denies it lies");
    }
}

/// Complaints twice, in the wrong order, about strangers, or far too many: refused before any point is looked at twice.
#[test]
fn malformed_responses_are_refused_and_cost_nothing() {
    let (plan, _) = genesis_plan();
    let complaint = |dealer: u32| Complaint { dealer: index(dealer), bundle: Digest([1; 32]), key: G1::generator() };
    let encoded = |complaints: Vec<Complaint>, unopened: bool| {
        let response = Response { dealers: Digest([0; 32]), unopened, complaints };
        SignedMessage::decode(&say(&plan, 5, Body::Response(response)).encode()).unwrap()
    };
    let good = encoded(vec![complaint(2), complaint(3)], false);
    assert_eq!(Transcript::new(plan.clone(), None).hear(&good), Ok(()));
    let refused = [
        ("twice about one dealer", encoded(vec![complaint(2), complaint(2)], false)),
        ("descending", encoded(vec![complaint(3), complaint(2)], false)),
        ("a complaint about what was not opened", encoded(vec![complaint(2)], true)),
        ("more complaints than a fleet has nodes", encoded((1..=1_700).map(complaint).collect(), false)),
    ];
    for (what, message) in refused {
        assert!(matches!(message.body, Body::Malformed(_)), "{what}: it was read");
        let mut transcript = Transcript::new(plan.clone(), None);
        assert_eq!(transcript.hear(&message), Err(MessageError::Malformed(index(5))), "{what}");
        assert!(transcript.culprits().any(|culprit| culprit.offence == Offence::Malformed), "{what}");
    }
    let stranger = encoded(vec![complaint(77)], false);
    let mut transcript = Transcript::new(plan.clone(), None);
    assert_eq!(transcript.hear(&stranger), Err(MessageError::Malformed(index(5))));
    assert!(transcript.culprits().any(|culprit| culprit.offence == Offence::Malformed));
}

/// A dealer makes others look at two bundles of its own, and at no third.
#[test]
fn a_third_bundle_of_one_dealer_is_not_even_checked() {
    let (plan, _) = genesis_plan();
    let mut transcript = Transcript::new(plan.clone(), None);
    let bundle = |seed: u8| {
        say(&plan, 2, Body::Dealing(Dealing::deal(&plan, index(2), None, &DealerSeed::restore(&[seed; 32]))))
    };
    transcript.hear(&bundle(1)).unwrap();
    assert_eq!(transcript.hear(&bundle(2)), Err(MessageError::Contradicts(index(2))));
    let third = bundle(3);
    assert_eq!(transcript.hear(&third), Err(MessageError::Contradicts(index(2))));
    assert!(transcript.bundle(&third.digest()).is_none());
    transcript.want([third.digest()].into_iter());
    assert_eq!(transcript.hear(&third), Err(MessageError::Contradicts(index(2))));
    assert!(transcript.bundle(&third.digest()).is_some(), "what the record names is taken up whoever said how much");
}

/// A receiver that shows no prekey, or a wrong one, or mute nodes, cost nobody else a plan or a share.
#[test]
fn a_receiver_without_a_prekey_costs_nobody_else_anything() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.plan_without_the_prekey_of_4();
    table.accept(&plan);
    let record = table.finish_without(&plan, index(4));
    assert_eq!(record.phase, Phase::Active);
    let holders: BTreeSet<_> =
        table.nodes.values().filter(|node| node.share(plan.number).is_some()).map(|node| node.state.index).collect();
    assert_eq!(holders, [1, 2, 3].map(index).into(), "and the one without a prekey holds nothing");
    let outbox = &table.nodes[&index(4)].state.attempts[&plan.number].outbox;
    let unopened = outbox.iter().any(|message| matches!(&message.body, Body::Response(response) if response.unopened));
    assert!(unopened, "it says so, and blames nobody");
}

/// A plan that names a prekey whose secret went with a volume: the node makes another above it, and the next plan names that.
#[test]
fn a_node_that_lost_its_prekey_shows_a_newer_one() {
    let mut table = Table::new();
    table.genesis();
    let node = &table.nodes[&index(4)];
    let shown = *node.state.shown_prekey().unwrap();
    let stored = node.state.live_secrets().into_iter().filter(|name| *name != SecretName::Prekey(shown.number));
    let stored: Vec<_> = stored.map(|name| (name, node.expose(name).unwrap())).collect();
    let (restored, _) = Participant::restore(identity(4), &node.state.encode(), stored).unwrap();
    table.nodes.insert(index(4), restored);
    let mut plan: Plan = (*table.reshare_plan(2, 1)).clone();
    plan.receivers[3].prekey = Some(shown);
    let plan = plan.validate().unwrap();
    table.accept(&plan);
    let newer = table.nodes[&index(4)].state.shown_prekey().unwrap();
    assert!(newer.number > shown.number, "it shows {:?} again", newer.number);
    let next = table.reshare_plan(3, 1);
    table.accept(&next);
    let record = table.finish_without(&next, index(4));
    assert_eq!(record.phase, Phase::Active);
    assert!(table.nodes[&index(4)].share(next.number).is_some(), "the next plan gives it its share");
}

/// A record of version 1 is refused, and so is a state: there, a complaint revealed a key.
#[test]
fn version_1_is_refused() {
    let (plan, _) = genesis_plan();
    let mut bytes = plan.encode();
    bytes[..2].copy_from_slice(&1u16.to_be_bytes());
    assert!(Plan::decode(&bytes).is_err(), "a plan of version 1");
    let table = Table::new();
    let mut bytes = table.nodes[&index(1)].state.encode();
    bytes[..2].copy_from_slice(&1u16.to_be_bytes());
    assert!(Participant::restore(identity(1), &bytes, []).is_err(), "a state of version 1");
    let mut other = (*plan).clone();
    let secrets = prekeys_for(&mut other);
    assert!(PrekeySecret::restore(PrekeyNumber(1), &secrets[&index(2)].expose()).is_ok());
}
