//! Vectors of another program: a fleet that `threshold/fixtures/fleet.py` ran with other people's curves, value by value, and
//! played again through this crate.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::Value;

use super::{identity, index, say, view};
use crate::coordination::{Decision, decide};
use crate::curve::{G1, G2, Scalar, SecretPoint, SecretScalar};
use crate::identifiers::{ClusterId, Digest, NodeIndex, PrekeyNumber};
use crate::plan::frozen::dealers_digest;
use crate::plan::{FrozenDigests, Plan, ValidPlan};
use crate::polynomial::{VerificationVector, lagrange_at_zero};
use crate::prekey::PrekeySecret;
use crate::purpose::{Certificate, Purpose};
use crate::round::bundle::Guilt;
use crate::round::dealing::constant_statement;
use crate::round::pad::PadContext;
use crate::round::*;
use crate::serving::signature;

fn fleet() -> Value {
    serde_json::from_str(include_str!("../../../fixtures/fleet-v2.json")).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn node(value: &Value) -> NodeIndex {
    index(number(value).try_into().unwrap())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

fn secret(value: &Value) -> SecretScalar {
    SecretScalar::decode(&array(value)).unwrap()
}

fn scalar(value: &Value) -> Scalar {
    Scalar::decode(&array(value)).unwrap()
}

fn first(value: &Value) -> G1 {
    G1::decode(&array(value)).unwrap()
}

fn second(value: &Value) -> G2 {
    G2::decode(&array(value)).unwrap()
}

fn vector(value: &Value) -> VerificationVector {
    VerificationVector::new(items(value).map(second).collect()).unwrap()
}

fn plan(round: &Value) -> ValidPlan {
    Plan::decode(&bytes(&round["plan"])).unwrap().validate().unwrap()
}

fn message(said: &Value) -> SignedMessage {
    SignedMessage::decode(&bytes(&said["message"])).unwrap()
}

fn digests(value: &Value) -> FrozenDigests {
    FrozenDigests::new(items(value).map(|one| (node(&one["index"]), Digest(array(&one["digest"])))).collect()).unwrap()
}

/// Returns the secret of the prekey that a plan of the fleet names for a node.
fn prekey_of(fleet: &Value, plan: &ValidPlan, receiver: NodeIndex) -> PrekeySecret {
    let named = plan.receiver(receiver).unwrap().prekey.unwrap();
    let of_node = items(&fleet["nodes"]).find(|one| node(&one["index"]) == receiver).unwrap();
    let shown = items(&of_node["prekeys"]).find(|prekey| number(&prekey["number"]) == named.number.0).unwrap();
    let secret = PrekeySecret::restore(named.number, &array(&shown["secret"])).unwrap();
    let offer = secret.offer(plan.cluster, receiver, &identity(receiver.value()));
    assert_eq!(offer.encode(), bytes(&shown["encoding"]), "the prekey {} of {receiver}", named.number);
    assert_eq!(offer, named, "the plan carries it");
    secret
}

/// Hears all messages of a round of the fleet, with the source that it reshares.
fn transcript(fleet: &Value, round: &Value) -> Transcript {
    let plan = plan(round);
    let source = plan.source().map(|_| vector(&fleet["rounds"][0]["vector"]));
    let mut transcript = Transcript::new(plan, source);
    for said in items(&round["messages"]) {
        let message = message(said);
        assert_eq!(message.digest(), Digest(array(&said["digest"])), "a message of {}", message.sender);
        transcript.hear(&message).unwrap_or_else(|error| panic!("{error}"));
    }
    transcript
}

/// Checks every value on the way to a bundle. What a dealer lies is in `sealed` alone.
fn check_dealing(
    plan: &ValidPlan,
    prekey_of: impl Fn(NodeIndex) -> PrekeySecret,
    fixture: &Value,
    constant: Option<&SecretScalar>,
    said: &[u8],
) {
    let dealer = node(&fixture["dealer"]);
    let seed = DealerSeed::restore(&array(&fixture["seed"]));
    let mut dealing = Dealing::deal(plan, dealer, constant, &seed);
    let coefficients: Vec<_> = items(&fixture["coefficients"]).map(|one| G2::of_secret(&secret(one))).collect();
    assert!(dealing.vector.commitments() == coefficients, "{dealer}: derived coefficients");
    assert!(dealing.vector == vector(&fixture["commitments"]), "{dealer}: commitments");
    assert_eq!(dealing.vector.digest(), Digest(array(&fixture["vectorDigest"])), "{dealer}: vector digest");
    let ephemeral = seed.ephemeral(&plan.digest(), dealer);
    assert_eq!(ephemeral.expose(), secret(&fixture["ephemeralSecret"]).expose(), "{dealer}: e");
    assert_eq!(dealing.ephemeral.g1, first(&fixture["e1"]), "{dealer}: E1");
    assert!(dealing.ephemeral.g2 == second(&fixture["e2"]), "{dealer}: E2");
    assert_eq!(dealing.proof.is_some(), constant.is_none(), "{dealer}: P stands at a genesis alone");
    if let Some(proof) = dealing.proof {
        let point = constant_statement(&plan.digest(), dealer, &dealing.vector);
        assert_eq!(point, first(&fixture["constantPoint"]), "{dealer}: H_deal");
        assert_eq!(proof, first(&fixture["proof"]), "{dealer}: P");
    }
    let context = PadContext {
        plan: plan.digest(),
        dealer,
        commitments: dealing.vector.digest(),
        ephemeral: dealing.ephemeral.g1,
    };
    for (at, sealed) in items(&fixture["receivers"]).enumerate() {
        let receiver = node(&sealed["receiver"]);
        let secret_of_receiver = prekey_of(receiver);
        let shared = SecretPoint::shared(&secret_of_receiver.public(), &ephemeral);
        assert_eq!(shared.expose().to_vec(), bytes(&sealed["shared"]), "{dealer} to {receiver}: K");
        let of_receiver = secret_of_receiver.shared_with(&dealing.ephemeral.g1);
        assert_eq!(of_receiver.expose(), shared.expose(), "{dealer} to {receiver}: K at the other end");
        let pad = context.seal(&SecretScalar::zero(), receiver, &secret_of_receiver.public(), &shared);
        assert_eq!(pad, scalar(&sealed["pad"]), "{dealer} to {receiver}: pad");
        assert_eq!(dealing.shares[at], Some(scalar(&sealed["share"]) + pad), "{dealer} to {receiver}: share");
        dealing.shares[at] = Some(scalar(&sealed["sealed"]));
    }
    let point = dealing.statement(&plan.digest(), dealer);
    assert_eq!(point, first(&fixture["sealPoint"]), "{dealer}: H_seal");
    dealing.possession = point.times_secret(&ephemeral);
    assert_eq!(dealing.possession, first(&fixture["possession"]), "{dealer}: Ē");
    let message = say(plan, dealer.value(), Body::Dealing(dealing));
    assert_eq!(message.digest(), Digest(array(&fixture["digest"])), "{dealer}: digest");
    assert_eq!(message.encode(), said, "{dealer}: message");
}

/// Every value from a seed to a signed bundle is what another program computes: of an honest dealer, of one that lies, and of
/// dealers that hand on a share.
#[test]
fn bundles_agree_with_another_program_value_by_value() {
    let fleet = fleet();
    for (at, round) in items(&fleet["rounds"]).enumerate() {
        let plan = plan(round);
        assert_eq!(plan.digest(), Digest(array(&round["planDigest"])));
        for dealing in items(&round["dealings"]) {
            let dealer = node(&dealing["dealer"]);
            let mut held = items(&fleet["rounds"][0]["receivers"]);
            let held = held.find(|one| at > 0 && node(&one["receiver"]) == dealer).map(|one| secret(&one["share"]));
            let mut said = items(&round["messages"]);
            let said = said.find(|said| said["digest"] == dealing["digest"]).unwrap();
            let prekeys = |receiver| prekey_of(&fleet, &plan, receiver);
            check_dealing(&plan, prekeys, dealing, held.as_ref(), &bytes(&said["message"]));
        }
    }
    let alone: Value = serde_json::from_str(include_str!("../../../fixtures/bundle-v2.json")).unwrap();
    let plan = crate::plan::tests::genesis_example().validate().unwrap();
    let prekeys = |receiver: NodeIndex| {
        PrekeySecret::restore(PrekeyNumber(1), &[u8::try_from(receiver.value()).unwrap(); 32]).unwrap()
    };
    check_dealing(&plan, prekeys, &alone, None, &bytes(&alone["message"]));
}

/// A complaint opens to the scalar that another program finds, which fits its commitments or not, and the guilty one follows.
#[test]
fn complaints_are_judged_as_another_program_judges_them() {
    let fleet = fleet();
    let mut offences = BTreeSet::new();
    for round in items(&fleet["rounds"]) {
        let (plan, transcript) = (plan(round), transcript(&fleet, round));
        for judged in items(&round["judgements"]) {
            let (receiver, dealer) = (node(&judged["receiver"]), node(&judged["dealer"]));
            let bundle = transcript.bundle(&Digest(array(&judged["bundle"]))).unwrap();
            let secret_of_receiver = prekey_of(&fleet, &plan, receiver);
            let key = secret_of_receiver.shared_with(&bundle.ephemeral().g1).disclose();
            assert_eq!(key, first(&judged["key"]), "K of {receiver} and {dealer}");
            let context = PadContext {
                plan: plan.digest(),
                dealer,
                commitments: bundle.vector().digest(),
                ephemeral: bundle.ephemeral().g1,
            };
            let dealt = items(&round["dealings"]).find(|one| node(&one["dealer"]) == dealer).unwrap();
            let sealed = items(&dealt["receivers"]).find(|one| node(&one["receiver"]) == receiver).unwrap();
            let sealed = scalar(&sealed["sealed"]);
            let opened = context.open_disclosed(&sealed, receiver, &secret_of_receiver.public(), &key);
            assert_eq!(opened.expose(), secret(&judged["opened"]).expose(), "what K opens");
            assert!(G2::of_secret(&opened) == second(&judged["openedPoint"]));
            assert!(bundle.vector().public_share(receiver) == second(&judged["committed"]));
            let complaint = Complaint { dealer, bundle: bundle.digest(), key };
            let guilt = bundle.judge(&plan, receiver, &complaint);
            let guilty = if guilt == Guilt::Dealer { dealer } else { receiver };
            assert_eq!(guilty, node(&judged["guilty"]), "{receiver} about {dealer}");
            let said = bundle.complain(&plan, receiver, &secret_of_receiver);
            assert_eq!(said, (guilt == Guilt::Dealer).then_some(complaint), "an honest node says it where it is true");
            offences.insert(judged["offence"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(offences.len(), 2, "a true complaint and a false one: {offences:?}");
}

/// Frozen fields, weights, the joint vector, shares, partial signatures and the certificate are another program's.
#[test]
fn sharing_and_certificate_agree_with_another_program() {
    let fleet = fleet();
    for round in items(&fleet["rounds"]) {
        let (plan, transcript) = (plan(round), transcript(&fleet, round));
        let frozen = &round["frozen"];
        let (dealers, responses) = (digests(&frozen["dealers"]), digests(&frozen["responses"]));
        assert_eq!(dealers_digest(&plan.digest(), &dealers), Digest(array(&frozen["dealersDigest"])));
        let judgement = transcript.judge(&dealers, &responses).unwrap();
        let qualified: Vec<_> = items(&frozen["qualified"]).map(node).collect();
        assert_eq!(judgement.frozen.qualified, qualified);
        assert_eq!(judgement.frozen.digest(&plan.digest()), Digest(array(&frozen["frozenDigest"])));
        let combined = judgement.combine(&transcript).unwrap();
        let weights: Vec<_> =
            items(&round["weights"]).map(|one| (node(&one["dealer"]), scalar(&one["weight"]))).collect();
        assert!(combined.weights == weights, "the weights of the qualified");
        assert!(combined.vector == vector(&round["vector"]), "the joint vector");
        assert_eq!(combined.vector.digest(), Digest(array(&round["vectorDigest"])));
        for one in items(&round["receivers"]) {
            let receiver = node(&one["receiver"]);
            let secret_of_receiver = prekey_of(&fleet, &plan, receiver);
            let bundles = qualified.iter().map(|dealer| transcript.bundle_of(*dealer).unwrap());
            let opened: Vec<_> =
                bundles.map(|bundle| bundle.open(&plan, receiver, &secret_of_receiver).unwrap()).collect();
            for (opened, fixture) in opened.iter().zip(items(&one["opened"])) {
                assert_eq!(opened.expose(), secret(&fixture["share"]).expose(), "what is sealed to {receiver}");
            }
            let share = combined.share(receiver, &opened);
            assert_eq!(share.expose(), secret(&one["share"]).expose(), "the share of {receiver}");
            assert!(combined.vector.public_share(receiver) == second(&one["publicShare"]));
        }
        let fixture = &round["certificate"];
        let purpose = Purpose::certificate(plan.cluster, &plan.digest(), &combined.vector.digest(), plan.number);
        assert_eq!(purpose.bytes(), bytes(&fixture["signs"]));
        assert_eq!(purpose.point(), first(&fixture["point"]));
        let partials: BTreeMap<_, _> =
            items(&fixture["partials"]).map(|one| (node(&one["receiver"]), first(&one["partial"]))).collect();
        for one in items(&round["receivers"]).filter(|one| partials.contains_key(&node(&one["receiver"]))) {
            let signed = purpose.point().times_secret(&secret(&one["share"]));
            assert_eq!(signed, partials[&node(&one["receiver"])], "a partial signature");
        }
        let signers: Vec<_> = items(&fixture["weights"]).map(|one| node(&one["receiver"])).collect();
        let signer_weights: Vec<_> = items(&fixture["weights"]).map(|one| scalar(&one["weight"])).collect();
        assert!(lagrange_at_zero(&signers) == signer_weights, "the weights of the signers");
        let signed = signature::combine(&purpose.point(), &combined.vector, &partials).unwrap();
        assert_eq!(signed.signature, first(&fixture["signature"]));
        let certificate = Certificate::decode(&bytes(&fixture["encoding"])).unwrap();
        assert_eq!(certificate.signature, signed.signature);
        assert!(certificate.verify(&vector(&fleet["rounds"][0]["vector"]).constant()), "under the key of the genesis");
    }
}

/// Nodes of this crate among nodes of another program: what each says is byte for byte what the other says in its place, and the
/// record goes the same way.
#[test]
fn a_fleet_of_another_program_plays_the_same_rounds() {
    let fleet = fleet();
    let cluster = ClusterId(array(&fleet["clusterId"]));
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut nodes: BTreeMap<NodeIndex, Participant> = BTreeMap::new();
    // The one that lies in a round is the other program's alone, from then on.
    for (round, own) in items(&fleet["rounds"]).zip([&[1, 3, 4][..], &[1, 3]]) {
        let (plan, fixture) = (plan(round), &round["frozen"]);
        nodes.retain(|number, _| own.contains(&number.value()));
        for number in own.iter().copied().map(index) {
            let new = || Participant::new(cluster, number, identity(number.value()), &mut rng).0;
            let node = nodes.entry(number).or_insert_with(new);
            if plan.receiver(number).is_some() {
                show(node, prekey_of(&fleet, &plan, number));
            }
        }
        for node in nodes.values_mut() {
            let _ = node.accept((*plan).clone(), &mut rng).unwrap();
            let dealt = items(&round["dealings"]).find(|one| self::node(&one["dealer"]) == node.state.index).unwrap();
            node.secrets.seeds.insert(plan.number, Box::new(DealerSeed::restore(&array(&dealt["seed"]))));
        }
        let source = plan.source().map(|_| vector(&fleet["rounds"][0]["vector"]));
        let mut operator = Transcript::new(plan.clone(), source);
        let mut record = RoundRecord::opened();
        for kinds in [&[1, 2][..], &[3, 9], &[4], &[5], &[7]] {
            for node in nodes.values_mut() {
                let _ = node.observe(plan.number, &record, &mut rng).unwrap();
            }
            for said in items(&round["messages"]).filter(|said| kinds.contains(&number(&said["kind"]))) {
                operator.hear(&message(said)).unwrap();
                for node in nodes.values_mut() {
                    let _ = node.learn(&Blob::Message(message(said)), &mut rng).unwrap();
                }
            }
            match decide(&view(&operator, &record, 0)) {
                Some(Decision::Confirm) | None if kinds == [7] => break,
                Some(decision) => record.apply(&decision).unwrap(),
                None => panic!("the round stands still in {:?}", record.phase),
            }
        }
        assert_eq!(record.dealers, Some(digests(&fixture["dealers"])), "frozen dealers");
        assert_eq!(record.responses, Some(digests(&fixture["responses"])), "frozen responses");
        assert_eq!(record.qualified, Some(items(&fixture["qualified"]).map(node).collect()), "qualified dealers");
        let certificate = Certificate::decode(&bytes(&round["certificate"]["encoding"])).unwrap();
        assert_eq!(record.certificate, Some(certificate), "the certificate");
        for (number, node) in &nodes {
            let attempt = &node.state.attempts[&plan.number];
            let said: BTreeSet<_> = attempt.outbox.iter().map(SignedMessage::encode).collect();
            let expected = items(&round["messages"]).filter(|said| self::node(&said["sender"]) == *number);
            assert_eq!(said, expected.map(|said| bytes(&said["message"])).collect(), "what {number} says");
            let share = items(&round["receivers"]).find(|one| self::node(&one["receiver"]) == *number);
            let held = node.share(plan.number).map(|share| share.expose().to_vec());
            assert_eq!(held, share.map(|one| bytes(&one["share"])), "the share of {number}");
        }
    }
}

/// A node that missed a round computes its share from plan, certificate, qualified list and bundles: nothing else is needed, no
/// response and no vector of the source.
#[test]
fn a_certificate_and_qualified_bundles_give_a_share() {
    let fleet = fleet();
    let fixture = &fleet["catchUp"];
    let plan = plan(fixture);
    let receiver = node(&fixture["receiver"]);
    let key = vector(&fleet["rounds"][0]["vector"]).constant();
    let certificate = Certificate::decode(&bytes(&fixture["certificate"])).unwrap();
    assert!(certificate.verify(&key) && certificate.plan == plan.digest(), "the certificate is of this plan");
    let mut transcript = Transcript::new(plan.clone(), None);
    for bundle in items(&fixture["bundles"]) {
        transcript.hear(&SignedMessage::decode(&bytes(bundle)).unwrap()).unwrap();
    }
    let qualified = digests(&fixture["qualified"]);
    let bundle = |digest: &Digest| transcript.bundle(digest);
    let sharing =
        catch_up(&plan, &certificate, &qualified, bundle).expect("the sum of the bundles is the certified vector");
    assert_eq!(sharing.combined().vector.digest(), Digest(array(&fixture["vectorDigest"])));
    let share = sharing.share(&plan, receiver, &prekey_of(&fleet, &plan, receiver)).unwrap();
    assert_eq!(share.expose(), secret(&fixture["share"]).expose());
    let fewer = FrozenDigests::new(qualified.iter().skip(1).collect()).unwrap();
    let refused = catch_up(&plan, &certificate, &fewer, bundle).expect_err("a list without one dealer");
    let too_few = CombineError::TooFewQualified { qualified: fewer.len(), needed: plan.dealers_needed() };
    let expected = if fewer.len() < plan.dealers_needed() { too_few.into() } else { CatchUpError::OtherVector };
    assert_eq!(refused, expected, "a false list reaches the certified vector");
}

/// Has a node show this prekey.
fn show(node: &mut Participant, secret: PrekeySecret) {
    let number = secret.number();
    let offer = secret.offer(node.state.cluster, node.state.index, &node.identity);
    node.state.prekeys.insert(number, offer);
    node.secrets.prekeys.insert(number, Box::new(secret));
    node.state.next_prekey = node.state.next_prekey.max(PrekeyNumber(number.0 + 1));
}
