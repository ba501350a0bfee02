//! Checks on messages and bundles that `docs/protocol-checks.md` lists and no attack of `attacks` alone would miss.

use super::complaints::judged;
use super::{CLUSTER, Table, deal, dealt, freeze, genesis_plan, identity, index, prekeys_for, prove, say};
use crate::curve::{G1, G2, Scalar, SecretScalar};
use crate::encoding::DecodeError;
use crate::identifiers::{Digest, EpochNumber, PrekeyNumber};
use crate::plan::Plan;
use crate::plan::frozen::dealers_digest;
use crate::polynomial::VerificationVector;
use crate::prekey::PrekeySecret;
use crate::round::dealing::constant_statement;
use crate::round::*;

const DIGEST: Digest = Digest([1; 32]);

/// Tells whether bytes are read as nothing that a node may say.
fn is_no_message(bytes: &[u8]) -> bool {
    SignedMessage::decode(bytes).map_or(true, |message| matches!(message.body, Body::Malformed(_)))
}

/// Puts `to` in the place of `from`, which stands once or more in `bytes`.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).expect("the field is encoded");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

fn bad_points<const N: usize>(x: u8) -> [(&'static str, [u8; N]); 3] {
    let (mut infinity, mut outside) = ([0; N], [0; N]);
    infinity[0] = 0xc0;
    // An x that lies on the curve, but not in the subgroup.
    (outside[0], outside[N - 1]) = (0x80, x);
    let mut second_encoding = [0xff; N];
    second_encoding[0] = 0x9f;
    [("infinity", infinity), ("outside the subgroup", outside), ("not canonical", second_encoding)]
}

/// Infinity, a point outside its subgroup and a second encoding are refused wherever a point stands.
#[test]
fn a_message_with_a_dishonest_point_does_not_decode() {
    let (plan, _) = genesis_plan();
    let dealing = deal(&plan, 2);
    let firsts = [("P", dealing.proof.unwrap()), ("E1", dealing.ephemeral.g1), ("possession", dealing.possession)];
    let seconds = [("C", dealing.vector.commitments()[1]), ("E2", dealing.ephemeral.g2)];
    let sealed = dealing.shares[1].unwrap().encode();
    let bundle = say(&plan, 2, Body::Dealing(dealing)).encode();
    let key = G1::hash(b"any", crate::curve::HashDomain::Signature);
    let response = Response {
        dealers: DIGEST,
        unopened: false,
        complaints: vec![Complaint { dealer: index(3), bundle: DIGEST, key }],
    };
    let response = say(&plan, 2, Body::Response(response)).encode();
    let partial = say(&plan, 2, Body::Partial(key)).encode();
    let mut messages: Vec<_> = firsts.map(|(name, point)| (name, &bundle, point)).into();
    messages.extend([("K", &response, key), ("a partial signature", &partial, key)]);
    for (name, bytes, point) in messages {
        for (fault, bad) in bad_points::<48>(4) {
            let changed = replaced(bytes, &point.encode(), &bad);
            assert!(is_no_message(&changed), "{name} that is {fault}");
        }
    }
    for (name, point) in seconds {
        for (fault, bad) in bad_points::<96>(2) {
            let changed = replaced(&bundle, &point.encode(), &bad);
            assert!(is_no_message(&changed), "{name} that is {fault}");
        }
    }
    assert!(is_no_message(&replaced(&bundle, &sealed, &[0xff; 32])), "a ciphertext above the order");
    let prekey = plan.receivers[0].prekey.unwrap().key.encode();
    for (fault, bad) in bad_points::<48>(4) {
        assert!(Plan::decode(&replaced(&plan.encode(), &prekey, &bad)).is_err(), "a prekey that is {fault}");
    }
}

/// A list that is longer than a fleet is refused before one of its items is looked at.
#[test]
fn lists_longer_than_a_fleet_are_refused_unread() {
    let (plan, _) = genesis_plan();
    let bytes = say(&plan, 2, Body::Dealing(deal(&plan, 2))).encode();
    let too_many = |bytes: &[u8]| is_no_message(bytes);
    // The count of commitments follows plan digest, sender and kind.
    let counts = [("commitments", 37)];
    for (name, at) in counts {
        let mut changed = bytes.clone();
        changed[at..at + 2].copy_from_slice(&101u16.to_be_bytes());
        assert!(too_many(&changed), "{name}");
    }
    let mut long = deal(&plan, 2);
    long.shares = vec![long.shares[0]; 101];
    assert!(too_many(&say(&plan, 2, Body::Dealing(long)).encode()), "sealed shares");
    let complaint = |dealer| Complaint { dealer: index(dealer), bundle: DIGEST, key: G1::generator() };
    assert!(too_many(&say(&plan, 2, Body::Late((1..=101).map(complaint).collect())).encode()), "late complaints");
    for list in ["dealers", "receivers"] {
        let mut long: Plan = (*plan).clone();
        if list == "dealers" {
            long.dealers = vec![long.dealers[0]; 101];
        } else {
            long.receivers = vec![long.receivers[0]; 101];
        }
        let decoded = Plan::decode(&long.encode());
        assert!(matches!(decoded, Err(DecodeError::TooMany { max: 100, .. })), "{list} of a plan");
    }
}

/// Dealers deal, receivers say everything else; whoever has one part is not heard in the other.
#[test]
fn nobody_is_heard_in_a_part_that_is_not_its_own() {
    let mut table = Table::new();
    table.genesis();
    let mut plan: Plan = (*table.reshare_plan(2, 1)).clone();
    let newcomer = PrekeySecret::restore(PrekeyNumber(1), &[5; 32]).unwrap();
    plan.receivers.remove(0);
    plan.receivers.push(crate::plan::Receiver {
        index: index(5),
        identity: identity(5).public(),
        prekey: Some(newcomer.offer(CLUSTER, index(5), &identity(5))),
    });
    let plan = plan.validate().unwrap();
    let mut transcript = Transcript::new(plan.clone(), None);
    let have = Body::Have { dealer: index(2), bundle: DIGEST };
    let heard = transcript.hear(&say(&plan, 1, have.clone()));
    assert_eq!(heard, Err(MessageError::NotItsPart(index(1))), "1 deals and receives nothing");
    assert_eq!(transcript.hear(&say(&plan, 5, have)), Ok(()));
    let share = table.nodes[&index(2)].share(EpochNumber(1)).unwrap();
    let dealing = Dealing::deal(&plan, index(5), Some(share), &DealerSeed::restore(&[1; 32]));
    let heard = transcript.hear(&say(&plan, 5, Body::Dealing(dealing)));
    assert_eq!(heard, Err(MessageError::NotItsPart(index(5))), "5 receives and deals nothing");
    assert_eq!(transcript.culprits().count(), 0, "nobody is blamed");
}

/// Whoever names a node that has no such part signed a message that no node may send.
#[test]
fn words_about_strangers_convict_their_sender() {
    let (plan, _) = genesis_plan();
    let complaint = Complaint { dealer: index(77), bundle: DIGEST, key: G1::generator() };
    let response = Response { dealers: DIGEST, unopened: false, complaints: vec![complaint] };
    let words =
        [Body::Have { dealer: index(77), bundle: DIGEST }, Body::Response(response), Body::Late(vec![complaint])];
    for body in words {
        let mut transcript = Transcript::new(plan.clone(), None);
        let message = say(&plan, 3, body);
        assert_eq!(transcript.hear(&message), Err(MessageError::Malformed(index(3))));
        let culprits: Vec<_> = transcript.culprits().cloned().collect();
        let expected = Culprit { index: index(3), offence: Offence::Malformed, evidence: vec![message.digest()] };
        assert_eq!(culprits, [expected], "the message is the exhibit");
    }
}

/// Two different messages where one is allowed convict their sender, and are the exhibit. Words of which the first counts do not.
#[test]
fn two_different_words_convict_who_signed_both() {
    let (plan, _) = genesis_plan();
    let other = Digest([2; 32]);
    let response = |dealers| Body::Response(Response { dealers, unopened: false, complaints: Vec::new() });
    let have = |dealer, bundle| Body::Have { dealer: index(dealer), bundle };
    let second = Dealing::deal(&plan, index(3), None, &DealerSeed::restore(&[99; 32]));
    let twice = [
        (Body::Dealing(deal(&plan, 3)), Body::Dealing(second)),
        (have(2, DIGEST), have(2, other)),
        (response(DIGEST), response(other)),
        (Body::Prepared { vector: DIGEST, frozen: DIGEST }, Body::Prepared { vector: DIGEST, frozen: other }),
    ];
    for (one, two) in twice {
        let (one, two) = (say(&plan, 3, one), say(&plan, 3, two));
        let mut transcript = Transcript::new(plan.clone(), None);
        assert_eq!(transcript.hear(&one), Ok(()));
        assert_eq!(transcript.hear(&one), Ok(()), "the same message again is no second one");
        assert_eq!(transcript.hear(&two), Err(MessageError::Contradicts(index(3))));
        let [culprit] = &transcript.culprits().cloned().collect::<Vec<_>>()[..] else { panic!("one culprit") };
        assert_eq!(culprit.offence, Offence::Equivocation);
        assert_eq!(culprit.evidence, [one.digest(), two.digest()]);
    }
    let once = [
        (have(2, DIGEST), have(4, other)),
        (Body::Partial(G1::generator()), Body::Partial(G1::generator().times(&Scalar::from_u64(2)))),
        (Body::Holds { vector: DIGEST }, Body::Holds { vector: other }),
    ];
    for (one, two) in once {
        let mut transcript = Transcript::new(plan.clone(), None);
        assert_eq!(transcript.hear(&say(&plan, 3, one)), Ok(()));
        assert_eq!(transcript.hear(&say(&plan, 3, two)), Ok(()));
        assert_eq!(transcript.culprits().count(), 0, "they name nobody");
    }
}

/// Everything that the plan fixes about a bundle's shape is checked, and its dealer answers for it.
#[test]
fn a_bundle_of_the_wrong_shape_convicts_its_dealer() {
    let mut table = Table::new();
    table.genesis();
    let reshare = table.reshare_plan(2, 1);
    let share = table.nodes[&index(2)].share(EpochNumber(1)).unwrap().duplicate();
    let handed_on = Dealing::deal(&reshare, index(2), Some(&share), &DealerSeed::restore(&[2; 32]));
    let (genesis, _) = genesis_plan();
    let good = deal(&genesis, 2);
    let cut = |count| VerificationVector::new(good.vector.commitments()[..count].to_vec()).unwrap();
    let long = VerificationVector::new([good.vector.commitments(), &[G2::generator()]].concat()).unwrap();
    let mut unsealed = good.clone();
    unsealed.shares[1] = None;
    let cases = [
        (&genesis, Dealing { vector: cut(2), ..good.clone() }, DealingError::Threshold { found: 2, expected: 3 }),
        (&genesis, Dealing { vector: long, ..good.clone() }, DealingError::Threshold { found: 4, expected: 3 }),
        (&genesis, Dealing { shares: good.shares[..3].to_vec(), ..good.clone() }, DealingError::Shares),
        (&genesis, unsealed, DealingError::Shares),
        (&genesis, Dealing { proof: None, ..good.clone() }, DealingError::Proof),
        (&reshare, Dealing { proof: good.proof, ..handed_on }, DealingError::Proof),
    ];
    for (plan, mut dealing, error) in cases {
        let seed = DealerSeed::restore(&[2; 32]);
        let secret = seed.ephemeral(&plan.digest(), index(2));
        dealing.possession = dealing.statement(&plan.digest(), index(2)).times_secret(&secret);
        let message = say(plan, 2, Body::Dealing(dealing));
        let mut transcript = Transcript::new(plan.clone(), None);
        assert_eq!(transcript.hear(&message), Err(MessageError::BadBundle(index(2), error)));
        let culprits: Vec<_> = transcript.culprits().cloned().collect();
        let evidence = vec![message.digest()];
        assert_eq!(culprits, [Culprit { index: index(2), offence: Offence::BadBundle(error), evidence }]);
        assert_eq!(transcript.bundles().count(), 0, "it could be opened");
    }
    let mut without = (*genesis).clone();
    without.receivers[1].prekey = None;
    without.number = EpochNumber(9);
    assert!(without.validate().is_err(), "and at a genesis nobody is without a prekey");
}

/// A dealer of a reshare hands on its share of the source and nothing else; whoever lacks the source vouches for no bundle.
#[test]
fn a_dealer_that_hands_on_another_secret_is_convicted() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    let source = table.nodes[&index(1)].state.attempts[&EpochNumber(1)].vector.clone().unwrap();
    let share = table.nodes[&index(3)].share(EpochNumber(1)).unwrap().duplicate();
    let deal = |share| Dealing::deal(&plan, index(2), Some(share), &DealerSeed::restore(&[2; 32]));
    let right = table.nodes[&index(2)].share(EpochNumber(1)).unwrap().duplicate();
    let wrong = say(&plan, 2, Body::Dealing(deal(&share)));
    let bad = MessageError::BadBundle(index(2), DealingError::NotItsShare);
    let mut transcript = Transcript::new(plan.clone(), Some(source.clone()));
    assert_eq!(transcript.hear(&wrong), Err(bad));
    assert!(transcript.bundle_of(index(2)).is_none(), "it counts as sound");
    // Without the source nobody is blamed yet, and nobody vouches.
    let mut early = Transcript::new(plan.clone(), None);
    assert_eq!(early.hear(&wrong), Ok(()));
    assert!(early.bundle_of(index(2)).is_none() && early.culprits().count() == 0);
    assert!(early.learn_source(source.clone()));
    assert!(early.culprits().any(|culprit| culprit.offence == Offence::BadBundle(DealingError::NotItsShare)));
    let mut honest = Transcript::new(plan.clone(), Some(source));
    assert_eq!(honest.hear(&say(&plan, 2, Body::Dealing(deal(&right)))), Ok(()));
    assert!(honest.bundle_of(index(2)).is_some());
}

/// Only the vector that the plan names by digest, threshold and key is taken for the source.
#[test]
fn a_vector_that_the_plan_does_not_name_is_no_source() {
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    let source = table.nodes[&index(1)].state.attempts[&EpochNumber(1)].vector.clone().unwrap();
    let mut others = source.commitments().to_vec();
    others[1] = G2::generator();
    let mut transcript = Transcript::new(plan.clone(), None);
    assert!(!transcript.learn_source(VerificationVector::new(others).unwrap()) && transcript.lacks_source());
    let renamed = |change: &dyn Fn(&mut Plan)| {
        let mut other: Plan = (*plan).clone();
        change(&mut other);
        Transcript::new(other.validate().unwrap(), Some(source.clone())).lacks_source()
    };
    let of_threshold = |plan: &mut Plan| {
        if let crate::plan::Origin::Reshare { source, .. } = &mut plan.origin {
            source.threshold = crate::identifiers::Threshold(2);
        }
    };
    let of_key = |plan: &mut Plan| {
        if let crate::plan::Origin::Reshare { public_key, .. } = &mut plan.origin {
            *public_key = G2::generator();
        }
    };
    assert!(renamed(&of_threshold), "a source of another threshold");
    assert!(renamed(&of_key), "a source of another key");
    assert!(transcript.learn_source(source) && !transcript.lacks_source());
}

/// Responses that do not answer the frozen dealers, or stand under another's name, prove nothing and count for nothing.
#[test]
fn a_response_to_other_dealers_counts_for_nothing() {
    let (plan, secrets) = genesis_plan();
    let mut bundles: Vec<_> = [2, 4, 5].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer)))).into();
    bundles.insert(1, say(&plan, 3, Body::Dealing(super::shifted(&plan, 3, index(5), Scalar::one()))));
    let mut transcript = dealt(&plan, &bundles);
    let dealers = freeze(&bundles.iter().collect::<Vec<_>>());
    let real = transcript.bundle_of(index(3)).unwrap().complain(&plan, index(5), &secrets[&index(5)]).unwrap();
    let false_one = Complaint { dealer: index(2), bundle: bundles[0].digest(), key: G1::generator() };
    let respond = |sender, dealers, complaint| {
        say(&plan, sender, Body::Response(Response { dealers, unopened: false, complaints: vec![complaint] }))
    };
    let expected = dealers_digest(&plan.digest(), &dealers);
    let elsewhere = respond(5, DIGEST, real);
    let of_five = respond(5, expected, real);
    let of_four = respond(4, expected, false_one);
    for message in [&elsewhere, &of_four] {
        transcript.hear(message).unwrap();
    }
    let _ = transcript.hear(&of_five);
    let judge = |responses: &[(u32, Digest)]| {
        let pairs = responses.iter().map(|(receiver, digest)| (index(*receiver), *digest)).collect();
        let judgement = transcript.judge(&dealers, &crate::plan::FrozenDigests::new(pairs).unwrap()).unwrap();
        judgement.culprits.iter().map(|culprit| culprit.index.value()).collect::<Vec<_>>()
    };
    assert_eq!(judge(&[(5, elsewhere.digest())]), [0; 0], "an answer to other dealers");
    assert_eq!(judge(&[(3, of_five.digest())]), [0; 0], "an answer listed under another's name");
    assert_eq!(judge(&[(5, of_five.digest())]), [3], "and in its own place it convicts");
    assert_eq!(judge(&[(4, of_four.digest()), (5, of_five.digest())]), [3, 4], "each convicts its own");
}

/// Two receivers accuse one dealer that cheated the first: the second lies, and is not even judged.
#[test]
fn a_complaint_about_a_guilty_dealer_is_skipped() {
    let (plan, secrets) = genesis_plan();
    let mut bundles: Vec<_> = [2, 4, 5].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer)))).into();
    bundles.insert(1, say(&plan, 3, Body::Dealing(super::shifted(&plan, 3, index(4), Scalar::one()))));
    let mut transcript = dealt(&plan, &bundles);
    let dealers = freeze(&bundles.iter().collect::<Vec<_>>());
    let real = transcript.bundle_of(index(3)).unwrap().complain(&plan, index(4), &secrets[&index(4)]).unwrap();
    let expected = dealers_digest(&plan.digest(), &dealers);
    let respond = |sender: u32, complaint| {
        let complaints = vec![complaint];
        say(&plan, sender, Body::Response(Response { dealers: expected, unopened: false, complaints }))
    };
    let (of_four, of_five) = (respond(4, real), respond(5, Complaint { key: G1::generator(), ..real }));
    transcript.hear(&of_four).unwrap();
    transcript.hear(&of_five).unwrap();
    let judgement = transcript.judge(&dealers, &freeze(&[&of_four, &of_five])).unwrap();
    let named: Vec<_> = judgement.culprits.iter().map(|culprit| culprit.index.value()).collect();
    assert_eq!(named, [3], "one judgement for one dealer");
}

/// A record that lists a bundle under another than its signer, or one that does not deal its share, is not judged at all.
#[test]
fn a_foreign_bundle_is_not_judged() {
    let (plan, _) = genesis_plan();
    let bundles = [2, 3, 4, 5].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer))));
    let transcript = dealt(&plan, &bundles);
    let swapped = [1, 0, 2, 3].map(|at: usize| bundles[at].digest());
    let pairs = bundles.iter().zip(swapped).map(|(bundle, digest)| (bundle.sender, digest)).collect();
    let dealers = crate::plan::FrozenDigests::new(pairs).unwrap();
    assert_eq!(transcript.judge(&dealers, &freeze(&[])), Err(JudgeError::ForeignBundle(index(2))));
    let mut table = Table::new();
    table.genesis();
    let plan = table.reshare_plan(2, 1);
    let source = table.nodes[&index(1)].state.attempts[&EpochNumber(1)].vector.clone();
    let share = table.nodes[&index(3)].share(EpochNumber(1)).unwrap();
    let dealing = Dealing::deal(&plan, index(2), Some(share), &DealerSeed::restore(&[2; 32]));
    let message = say(&plan, 2, Body::Dealing(dealing));
    let mut transcript = Transcript::new(plan, source);
    let _ = transcript.hear(&message);
    let judged = transcript.judge(&freeze(&[&message]), &freeze(&[]));
    assert_eq!(judged, Err(JudgeError::ForeignBundle(index(2))));
}

/// Nothing is sealed to a receiver without a prekey, so it has nothing to complain about; nor has one whose secret is another.
#[test]
fn who_cannot_open_has_nothing_to_complain_about() {
    let mut table = Table::new();
    table.genesis();
    let mut plan: Plan = (*table.reshare_plan(2, 1)).clone();
    let secrets = prekeys_for(&mut plan);
    plan.receivers[3].prekey = None;
    let plan = plan.validate().unwrap();
    let share = table.nodes[&index(2)].share(EpochNumber(1)).unwrap().duplicate();
    let source = table.nodes[&index(1)].state.attempts[&EpochNumber(1)].vector.clone().unwrap();
    let dealing = Dealing::deal(&plan, index(2), Some(&share), &DealerSeed::restore(&[2; 32]));
    let mut transcript = Transcript::new(plan.clone(), Some(source));
    transcript.hear(&say(&plan, 2, Body::Dealing(dealing))).unwrap();
    let bundle = transcript.bundle_of(index(2)).unwrap();
    let none = bundle.open(&plan, index(4), &secrets[&index(4)]).err();
    assert_eq!(none, Some(OpenError::NoPrekey));
    let other = bundle.open(&plan, index(3), &secrets[&index(1)]).err();
    assert_eq!(other, Some(OpenError::OtherSecret), "a flipped bit in its own secret accuses nobody");
    assert_eq!(bundle.complain(&plan, index(3), &secrets[&index(1)]), None);
    assert_eq!(VerifiedBundle::open_all(&[bundle], &plan, index(4), &secrets[&index(4)]).err(), Some(Vec::new()));
    let key = secrets[&index(4)].shared_with(&bundle.ephemeral().g1).disclose();
    let complaint = Complaint { dealer: index(2), bundle: bundle.digest(), key };
    let response = Response { dealers: DIGEST, unopened: false, complaints: vec![complaint] };
    let judged = judged(&plan, &transcript, 4, response);
    assert_eq!(judged, [(4, Offence::FalseComplaint(index(2)))], "and if it complains all the same, it is guilty");
}

/// After the freeze, too, a complaint convicts its dealer by its exhibit, or its author.
#[test]
fn a_late_complaint_convicts_its_dealer_or_its_author() {
    let (plan, secrets) = genesis_plan();
    let bad = say(&plan, 3, Body::Dealing(super::shifted(&plan, 3, index(5), Scalar::one())));
    let good = say(&plan, 2, Body::Dealing(deal(&plan, 2)));
    let mut base = dealt(&plan, &[bad.clone(), good.clone()]);
    base.want([&bad, &good].map(SignedMessage::digest).into_iter());
    let real = base.bundle_of(index(3)).unwrap().complain(&plan, index(5), &secrets[&index(5)]).unwrap();
    let about_good = Complaint { dealer: index(2), bundle: good.digest(), key: G1::generator() };
    let misnamed = Complaint { dealer: index(4), ..real };
    for (complaint, guilty, offence) in [
        (real, 3, Offence::BadShare(index(5))),
        (about_good, 5, Offence::FalseComplaint(index(2))),
        (misnamed, 5, Offence::FalseComplaint(index(4))),
    ] {
        let late = say(&plan, 5, Body::Late(vec![complaint]));
        let mut after = base.clone();
        after.hear(&late).unwrap();
        // The same whichever comes first.
        let mut before = Transcript::new(plan.clone(), None);
        before.hear(&late).unwrap();
        before.want([&bad, &good].map(SignedMessage::digest).into_iter());
        assert_eq!(before.culprits().count(), 0, "nothing is proven before the bundle is there");
        for bundle in [&bad, &good] {
            before.hear(bundle).unwrap();
        }
        for transcript in [after, before] {
            let [culprit] = &transcript.culprits().cloned().collect::<Vec<_>>()[..] else { panic!("one culprit") };
            assert_eq!((culprit.index, culprit.offence), (index(guilty), offence));
            assert!(culprit.evidence.contains(&late.digest()), "the complaint is in the exhibit");
        }
    }
    let mut once = base;
    once.hear(&say(&plan, 5, Body::Late(vec![Complaint { bundle: DIGEST, ..real }]))).unwrap();
    once.hear(&say(&plan, 5, Body::Late(vec![real]))).unwrap();
    assert_eq!(once.culprits().count(), 0, "a second one about the same dealer is taken up");
}

/// Dealers that know each other's polynomials can make a coefficient of the sum vanish. The round ends; no vector is built on it.
#[test]
fn a_coefficient_that_vanishes_ends_the_round() {
    let (plan, _) = genesis_plan();
    let mut bundles: Vec<_> = [2, 3, 4].map(|dealer| say(&plan, dealer, Body::Dealing(deal(&plan, dealer)))).into();
    let top = |dealer| deal(&plan, dealer).vector.commitments()[2];
    let constant = SecretScalar::decode(&Scalar::from_u64(7).encode()).unwrap();
    let mut rushed = deal(&plan, 5);
    let cancelling = G2::sum(&[top(2), top(3), top(4)]).times(&-Scalar::one());
    let commitments = vec![G2::of_secret(&constant), rushed.vector.commitments()[1], cancelling];
    rushed.vector = VerificationVector::new(commitments).unwrap();
    rushed.proof = Some(constant_statement(&plan.digest(), index(5), &rushed.vector).times_secret(&constant));
    prove(&plan, 5, &mut rushed);
    bundles.push(say(&plan, 5, Body::Dealing(rushed)));
    let transcript = dealt(&plan, &bundles);
    let judgement = transcript.judge(&freeze(&bundles.iter().collect::<Vec<_>>()), &freeze(&[])).unwrap();
    assert_eq!(judgement.combine(&transcript), Err(CombineError::Vanished));
}
