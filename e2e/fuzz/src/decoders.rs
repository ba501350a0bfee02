//! Every decoder of bytes that come from outside: it refuses or accepts, and of one value it accepts one encoding.

use std::collections::BTreeMap;

use keyfleet_api::round_reader::RoundReader;
use keyfleet_api::v1;
use keyfleet_crds::convert::{certificate_of, plan_of, record_of, spec_of};
use keyfleet_crds::record::Record;
use keyfleet_crds::{KeyEpochSpec, KeyEpochStatus};
use keyfleet_litestream::format::{header, payload};
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::plan::Plan;
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::prekey::SignedPrekey;
use keyfleet_threshold::purpose::Certificate;
use keyfleet_threshold::round::{PersistentState, SignedMessage};
use keyfleet_threshold::serving::derivation::EncryptedKey;
use keyfleet_threshold::serving::ibe::Encapsulation;
use prost::Message as _;

fn one_encoding(decoded: Option<Vec<u8>>, bytes: &[u8]) {
    if let Some(again) = decoded {
        assert_eq!(again, bytes, "a value was decoded from two encodings");
    }
}

/// A plan: bytes, then the rules that it has to keep.
pub fn plan(bytes: &[u8]) {
    let Ok(plan) = Plan::decode(bytes) else { return };
    one_encoding(Some(plan.encode()), bytes);
    if let Ok(valid) = plan.validate() {
        let again = plan_of(&spec_of(&valid)).expect("a valid plan survives its kind");
        assert_eq!(again.digest(), valid.digest(), "a plan changed its digest on the way through its kind");
    }
}

/// A signed message of a round.
pub fn message(bytes: &[u8]) {
    one_encoding(SignedMessage::decode(bytes).ok().map(|message| message.encode()), bytes);
}

/// A node's state, as it lies in the state file.
pub fn state(bytes: &[u8]) {
    one_encoding(PersistentState::decode(bytes).ok().map(|state| state.encode()), bytes);
}

/// A verification vector.
pub fn vector(bytes: &[u8]) {
    one_encoding(VerificationVector::decode(bytes).ok().map(|vector| vector.encode()), bytes);
}

/// A certificate.
pub fn certificate(bytes: &[u8]) {
    one_encoding(Certificate::decode(bytes).ok().map(|certificate| certificate.encode()), bytes);
}

/// A prekey.
pub fn prekey(bytes: &[u8]) {
    one_encoding(SignedPrekey::decode(bytes).ok().map(|prekey| prekey.encode()), bytes);
}

/// The encapsulated key that begins a ciphertext.
pub fn ciphertext(bytes: &[u8]) {
    one_encoding(Encapsulation::<16>::decode(bytes).ok().map(|key| key.encode()), bytes);
    one_encoding(Encapsulation::<32>::decode(bytes).ok().map(|key| key.encode()), bytes);
}

/// A node's answer to a derivation.
pub fn encrypted_key(bytes: &[u8]) {
    one_encoding(EncryptedKey::decode(bytes).ok().map(|key| key.encode()), bytes);
}

/// A node's report, signed by the node: protobuf, which has many encodings of one value.
pub fn report(bytes: &[u8]) {
    let node = IdentitySecretKey::from_seed(&[1; 32]);
    let Ok(report) = v1::Report::decode(bytes) else { return };
    let signed = keyfleet_api::report::sign(&report, &node);
    follow(&v1::FollowItem { item: Some(v1::follow_item::Item::Report(signed)) });
}

/// An item of a node's stream.
pub fn follow_item(bytes: &[u8]) {
    if let Ok(item) = v1::FollowItem::decode(bytes) {
        follow(&item);
    }
}

fn follow(item: &v1::FollowItem) {
    let node = NodeIndex::new(1).expect("one is an index");
    let pin = IdentitySecretKey::from_seed(&[1; 32]).public();
    let mut reader = RoundReader::new(ClusterId([1; 16]), node, pin);
    let first = reader.take(item.clone());
    let second = reader.take(item.clone());
    assert_eq!(first.is_ok(), second.is_ok(), "an item that was taken is refused when it comes again");
}

/// A `KeyEpoch`: a JSON list of spec and status.
pub fn key_epoch(bytes: &[u8]) {
    let Ok((spec, status)) = serde_json::from_slice::<(KeyEpochSpec, KeyEpochStatus)>(bytes) else { return };
    let Ok(plan) = plan_of(&spec) else { return };
    // What is left out and what is empty are one value; compared is what the plan binds.
    let again = plan_of(&spec_of(&plan)).map(|plan| plan.digest());
    assert_eq!(again.ok(), Some(plan.digest()), "a plan changed on the way through its kind");
    let _ = record_of(&plan, Some(&status));
    let _ = certificate_of(&plan, &status);
}

/// The `<cluster>-record` ConfigMap: a JSON object of its data.
pub fn record(bytes: &[u8]) {
    let Ok(data) = serde_json::from_slice::<BTreeMap<String, String>>(bytes) else { return };
    let Ok(record) = Record::from_data(&data) else { return };
    let again = Record::from_data(&record.to_data()).expect("a record that was written is read");
    assert_eq!(again, record, "a record changed on the way through its ConfigMap");
}

/// An object of a replica: its header, and the operations of a segment.
pub fn replica_object(bytes: &[u8]) {
    if let Ok((header, length)) = header::Header::decode(bytes) {
        one_encoding(Some(header.encode()), &bytes[..length]);
    }
    if let Ok(commits) = payload::decode_commits(bytes) {
        let mut image = Vec::new();
        for commit in commits {
            // The file of the process is not this large; sparse lengths are refused where they are applied to a real one.
            let is_small = |op: &payload::Op| match op {
                payload::Op::SetLen(length) => *length < 1 << 20,
                payload::Op::Write(offset, _) => *offset < 1 << 20,
            };
            if commit.ops.iter().all(is_small) {
                payload::apply(&mut image, &commit.ops).expect("small operations apply");
            }
        }
    }
}
