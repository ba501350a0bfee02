//! Messages: their bytes, who may send them, and what they prove to observers.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{Table, genesis_with_prekeys, identity, index, say, transcript};
use crate::identifiers::{ClusterId, Digest, EpochNumber, PrekeySetNumber};
use crate::plan::FrozenDigests;
use crate::plan::frozen::dealers_digest;
use crate::prekey;
use crate::round::*;

/// seed: 004-25
#[test]
fn messages_of_strangers_and_of_other_plans_are_not_taken_up() {
    let (plan, _, offers) = genesis_with_prekeys();
    let mut transcript = transcript(&plan, &offers);
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
        matches!(missing, Some(audit::AuditError::Missing(digests)) if digests.len() == 8),
        "4 bundles, 4 responses"
    );
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
    let fixtures: serde_json::Value = serde_json::from_str(include_str!("../../../fixtures/round-v1.json")).unwrap();
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
