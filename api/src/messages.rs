//! Messages between their canonical bytes, which are signed, and protobuf, which carries them.

use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::Digest;
use keyfleet_threshold::plan::MEMBERS_MAX;
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::round::{Blob, SignedMessage};

use crate::limits::PAYLOAD_BYTES_MAX;
use crate::v1;

const SIGNATURE_BYTES: usize = 64;

/// A message as it travels: its own bytes, also where they are malformed.
#[must_use]
pub fn message(message: &SignedMessage) -> v1::SignedMessage {
    let (payload, signature) = split(message.encode());
    v1::SignedMessage { kind: message.body.number().into(), payload, signature }
}

/// A message as it travels, from the bytes that were kept of it; `None` when they are too short to be one.
#[must_use]
pub fn message_of_bytes(bytes: Vec<u8>) -> Option<v1::SignedMessage> {
    let kind = i32::from(SignedMessage::kind_named_by(&bytes)?);
    let (payload, signature) = split(bytes);
    (signature.len() == SIGNATURE_BYTES).then_some(v1::SignedMessage { kind, payload, signature })
}

/// A verification vector as it travels.
#[must_use]
pub fn vector(vector: &VerificationVector) -> v1::VerificationVector {
    v1::VerificationVector { points: vector.commitments().iter().map(|point| point.encode().to_vec()).collect() }
}

/// Encodes what was found for a digest.
#[must_use]
pub fn found(blob: &Blob) -> v1::fetch_item::Found {
    match blob {
        Blob::Message(said) => v1::fetch_item::Found::Message(message(said)),
        Blob::Vector(known) => v1::fetch_item::Found::Vector(vector(known)),
    }
}

/// Decodes a row of an outbox; `None` when it is malformed. Signatures are not checked.
#[must_use]
pub fn read_row(row: &v1::OutboxRow) -> Option<Blob> {
    match row.said.as_ref()? {
        v1::outbox_row::Said::Message(message) => read_message(message),
    }
}

/// Decodes a fetched item; `None` when it is malformed. Signatures are not checked.
#[must_use]
pub fn read_found(item: &v1::FetchItem) -> Option<Blob> {
    match item.found.as_ref()? {
        v1::fetch_item::Found::Message(message) => read_message(message),
        v1::fetch_item::Found::Vector(vector) => read_vector(&vector.points).map(Blob::Vector),
    }
}

/// Reads the points of a vector; `None` when one is malformed, or there are more than a fleet has members.
#[must_use]
pub fn read_vector(points: &[Vec<u8>]) -> Option<VerificationVector> {
    // Before any is read: to check one that is in the subgroup takes a tenth of a millisecond.
    if points.len() > MEMBERS_MAX {
        return None;
    }
    let points = points.iter().map(|point| G2::decode(point.as_slice().try_into().ok()?).ok());
    VerificationVector::new(points.collect::<Option<_>>()?).ok()
}

/// `None` when it is too long, names no plan or sender, or when its kind is not the one announced: anyone may have made that up. What
/// somebody signed is read whatever it says.
fn read_message(message: &v1::SignedMessage) -> Option<Blob> {
    if message.payload.len() > PAYLOAD_BYTES_MAX {
        return None;
    }
    let bytes = join(&message.payload, &message.signature)?;
    let read = SignedMessage::decode(&bytes).ok()?;
    (i32::from(read.body.number()) == message.kind).then_some(Blob::Message(read))
}

/// Reads a digest.
#[must_use]
pub fn digest(bytes: &[u8]) -> Option<Digest> {
    bytes.try_into().ok().map(Digest)
}

fn split(mut bytes: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let signature = bytes.split_off(bytes.len().saturating_sub(SIGNATURE_BYTES));
    (bytes, signature)
}

fn join(payload: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
    (signature.len() == SIGNATURE_BYTES).then(|| [payload, signature].concat())
}

#[cfg(test)]
mod tests {
    use keyfleet_threshold::identifiers::NodeIndex;
    use keyfleet_threshold::identity::IdentitySecretKey;
    use keyfleet_threshold::round::{Body, MessageKind};

    use super::*;

    /// A message whose payload ends with these bytes, as the network brings it.
    fn arriving(kind: i32, payload_kind: u8, fields: &[u8]) -> v1::SignedMessage {
        let sender = NodeIndex::new(2).unwrap().value().to_be_bytes();
        let payload = [&[5; 32][..], &sender, &[payload_kind], fields].concat();
        let digest = Digest::of("KEYFLEET-V1-MESSAGE", &[&payload]);
        let signature = IdentitySecretKey::from_seed(&[2; 32]).sign(&digest).0.to_vec();
        v1::SignedMessage { kind, payload, signature }
    }

    /// Bytes that a node signed and that do not decode are passed on as they came, under the kind that they claim.
    #[test]
    fn malformed_messages_travel_as_they_were_signed() {
        for (kind, fields) in [(8, &[1][..]), (3, &[]), (10, &[7; 50]), (0, &[])] {
            let came = arriving(i32::from(kind), kind, fields);
            let Some(Blob::Message(read)) = read_message(&came) else { panic!("kind {kind} is dropped") };
            assert!(matches!(read.body, Body::Malformed(_)), "kind {kind} with {} bytes was read", fields.len());
            assert!(read.is_signed_by(&IdentitySecretKey::from_seed(&[2; 32]).public()), "kind {kind}");
            assert_eq!(message(&read), came, "kind {kind} leaves as something else");
        }
        assert_eq!(read_message(&arriving(3, 8, &[])), None, "announced as another kind");
        assert_eq!(read_message(&arriving(10, 10, &vec![0; PAYLOAD_BYTES_MAX])), None, "longer than any payload");
    }

    #[test]
    fn kinds_have_one_number_in_payload_and_envelope() {
        for kind in MessageKind::ALL {
            let announced = v1::MessageKind::try_from(i32::from(kind as u8)).unwrap();
            assert_eq!(announced.as_str_name(), format!("MESSAGE_KIND_{}", format!("{kind:?}").to_uppercase()));
        }
    }

    /// A sender of a longer list would keep whoever reads it from its work.
    #[test]
    fn a_vector_of_more_points_than_members_is_refused() {
        let point = G2::generator().encode().to_vec();
        assert!(read_vector(&vec![point.clone(); MEMBERS_MAX]).is_some());
        assert!(read_vector(&vec![point; MEMBERS_MAX + 1]).is_none(), "all points were read");
    }
}
