//! Messages between their canonical bytes, which are signed, and protobuf, which carries them.

use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::Digest;
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::round::{Blob, MessageKind, SignedMessage};

use crate::v1;

const SIGNATURE_BYTES: usize = 64;

/// A message as it travels.
#[must_use]
pub fn message(message: &SignedMessage) -> v1::SignedMessage {
    let (payload, signature) = split(message.encode());
    v1::SignedMessage { kind: kind(message.body.kind()).into(), payload, signature }
}

fn kind(kind: MessageKind) -> v1::MessageKind {
    match kind {
        MessageKind::Dealing => v1::MessageKind::Dealing,
        MessageKind::Have => v1::MessageKind::Have,
        MessageKind::Response => v1::MessageKind::Response,
        MessageKind::Prepared => v1::MessageKind::Prepared,
        MessageKind::Partial => v1::MessageKind::Partial,
        MessageKind::Late => v1::MessageKind::Late,
        MessageKind::Holds => v1::MessageKind::Holds,
        MessageKind::Erased => v1::MessageKind::Erased,
    }
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

/// Reads the points of a vector; `None` when one is malformed.
#[must_use]
pub fn read_vector(points: &[Vec<u8>]) -> Option<VerificationVector> {
    let points = points.iter().map(|point| G2::decode(point.as_slice().try_into().ok()?).ok());
    VerificationVector::new(points.collect::<Option<_>>()?).ok()
}

/// `None` when it is malformed, or its kind is not the one announced.
fn read_message(message: &v1::SignedMessage) -> Option<Blob> {
    let bytes = join(&message.payload, &message.signature)?;
    let read = SignedMessage::decode(&bytes).ok()?;
    (kind(read.body.kind()) == message.kind()).then_some(Blob::Message(read))
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
