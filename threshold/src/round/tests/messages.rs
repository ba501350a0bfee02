//! Messages: their bytes, who may send them, and what they prove to observers.

use std::collections::BTreeSet;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{Table, deal, genesis_plan, identity, index, say};
use crate::coordination::planning;
use crate::identifiers::{ClusterId, Digest, EpochNumber, PrekeyNumber};
use crate::plan::FrozenDigests;
use crate::plan::frozen::dealers_digest;
use crate::prekey::PrekeySecret;
use crate::round::*;

/// seed: 004-25
#[test]
fn messages_of_strangers_and_of_other_plans_are_not_taken_up() {
    let (plan, _) = genesis_plan();
    let mut transcript = Transcript::new(plan.clone(), None);
    let erased = |sender: u32, key: u32, plan: Digest| {
        SignedMessage::sign(plan, index(sender), Body::Holds { vector: Digest([1; 32]) }, &identity(key))
    };
    assert_eq!(transcript.hear(&erased(2, 2, Digest([0; 32]))), Err(MessageError::OtherPlan));
    assert_eq!(transcript.hear(&erased(9, 9, plan.digest())), Err(MessageError::NotItsPart(index(9))));
    assert_eq!(transcript.hear(&erased(2, 3, plan.digest())), Err(MessageError::Forged(index(2))));
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
    assert_eq!(audit::audit(transcript, &doctored), Err(audit::AuditError::Qualified));
    let mut doctored = record.clone();
    doctored.certificate =
        record.certificate.map(|certificate| crate::purpose::Certificate { number: EpochNumber(2), ..certificate });
    assert_eq!(audit::audit(transcript, &doctored), Err(audit::AuditError::Certificate));
    let empty = Transcript::new(plan, None);
    let missing = audit::audit(&empty, &record).err();
    assert!(
        matches!(missing, Some(audit::AuditError::Missing(digests)) if digests.len() == 4),
        "4 bundles; responses without complaints follow from what is known"
    );
}

/// Messages that arrive together lead to what they lead to one by one. A copy with a wrong signature is never what is kept.
#[test]
fn messages_that_arrive_together_are_heard_like_any_other() {
    let (mut one_by_one, mut together) = (Table::new(), Table::new());
    let plan = planning::genesis(&together.view(1)).unwrap();
    one_by_one.begin(&plan);
    together.begin(&plan);
    let mut bundles = together.said.clone();
    bundles.retain(|message| message.sender != index(1) && message.body.kind() == MessageKind::Dealing);
    let copy = SignedMessage::sign(plan.digest(), bundles[0].sender, bundles[0].body.clone(), &identity(9));
    let all: Vec<_> = std::iter::once(&copy).chain(&bundles).chain([&copy]).collect();
    let (mut out, mut expected) = (Outputs::default(), Outputs::default());
    let node = together.nodes.get_mut(&index(1)).unwrap();
    let heard = node.learn_all(&all, &mut together.rng, &mut out);
    assert_eq!(heard, [Err(MessageError::Forged(copy.sender)), Ok(()), Ok(()), Ok(()), Ok(())]);
    let node = one_by_one.nodes.get_mut(&index(1)).unwrap();
    for bundle in &bundles {
        expected.extend(node.learn(&Blob::Message(bundle.clone()), &mut one_by_one.rng).unwrap());
    }
    assert_eq!(out.keep, expected.keep);
    assert_eq!(out.keep, bundles.into_iter().map(Blob::Message).collect::<Vec<_>>());
    let said = |out: &Outputs| out.say.iter().map(SignedMessage::digest).collect::<BTreeSet<_>>();
    assert_eq!(said(&out), said(&expected));
    assert_eq!(out.say.len(), 3, "one Have for each");
}

/// Frozen bytes with every value on the way, made by another program: a stranger's dealer says exactly this.
#[test]
fn a_bundle_is_the_one_that_the_fixture_says() {
    let fixture: serde_json::Value = serde_json::from_str(include_str!("../../../fixtures/bundle-v2.json")).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let plan = crate::plan::tests::genesis_example().validate().unwrap();
    assert_eq!(plan.digest().to_string(), text(&fixture["planDigest"]));
    let seed = DealerSeed::restore(&[7; 32]);
    assert_eq!(hex::encode(*seed.ephemeral(&plan.digest(), index(2)).expose()), text(&fixture["ephemeralSecret"]));
    let dealing = Dealing::deal(&plan, index(2), None, &seed);
    assert_eq!(dealing.vector.digest().to_string(), text(&fixture["vectorDigest"]));
    assert_eq!(hex::encode(dealing.possession.encode()), text(&fixture["possession"]));
    let message = say(&plan, 2, Body::Dealing(dealing));
    assert_eq!(message.digest().to_string(), text(&fixture["digest"]));
    assert_eq!(hex::encode(message.encode()), text(&fixture["message"]));
    let mut transcript = Transcript::new(plan.clone(), None);
    transcript.hear(&message).unwrap();
    let bundle = transcript.bundle_of(index(2)).unwrap();
    for receiver in fixture["receivers"].as_array().unwrap() {
        let i = u32::try_from(receiver["receiver"].as_u64().unwrap()).unwrap();
        let secret = PrekeySecret::restore(PrekeyNumber(1), &[u8::try_from(i).unwrap(); 32]).unwrap();
        let share = bundle.open(&plan, index(i), &secret).unwrap();
        assert_eq!(hex::encode(*share.expose()), text(&receiver["share"]), "the share of {i}");
    }
}

/// Hostile bytes: whatever decodes is canonical, and nothing panics.
#[test]
fn changed_bundles_decode_to_themselves_or_not_at_all() {
    use rand_core::Rng;
    let (plan, _) = genesis_plan();
    let bytes = say(&plan, 2, Body::Dealing(deal(&plan, 2))).encode();
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
    let fixtures: serde_json::Value = serde_json::from_str(include_str!("../../../fixtures/round-v2.json")).unwrap();
    let digest = |byte: u8| Digest([byte; 32]);
    let plan = digest(0x11);
    let key = crate::curve::G1::generator();
    let complaint = |dealer| Complaint { dealer: index(dealer), bundle: digest(0x24), key };
    let bodies = [
        ("have", Body::Have { dealer: index(2), bundle: digest(0x22) }),
        (
            "response",
            Body::Response(Response { dealers: digest(0x22), unopened: false, complaints: vec![complaint(1)] }),
        ),
        ("unopened", Body::Response(Response { dealers: digest(0x22), unopened: true, complaints: Vec::new() })),
        ("prepared", Body::Prepared { vector: digest(0x22), frozen: digest(0x23) }),
        ("late", Body::Late(vec![complaint(1), complaint(4)])),
        ("holds", Body::Holds { vector: digest(0x22) }),
        ("erased", Body::Erased),
        ("heard", Body::Heard { receiver: index(4), response: digest(0x25) }),
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
    let purposes = [
        ("beacon", Purpose::beacon(7)),
        ("signature", Purpose::signature("release", b"hello")),
        ("certificate", Purpose::certificate(cluster, &plan, &digest(0x22), EpochNumber(8))),
        ("possession", Purpose::possession(cluster, EpochNumber(8), index(3), &digest(0x22), &[0x61; 32])),
    ];
    for (name, purpose) in purposes {
        assert_eq!(hex::encode(purpose.bytes()), fixtures["purposes"][name].as_str().unwrap(), "{name}");
    }
}
