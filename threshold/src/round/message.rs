//! Messages of a round. Each is signed under the sender's pinned identity and bound to the plan's digest.
//!
//! A [`SignedMessage`] is whatever the network brought; [`Transcript::hear`](super::Transcript::hear) checks it. Whoever checked
//! its signature before has a [`VerifiedMessage`], which [`Transcript::hear_verified`](super::Transcript::hear_verified) takes. A
//! message's digest covers sender, plan and content but not the signature, so a second signature over the same content is
//! not a second message. Digest and signature are over the bytes as they came: content that does not decode is
//! [`Body::Malformed`], stays what it was, and proves its sender guilty.

use crate::curve::G1;
use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::{Digest, NodeIndex};
use crate::identity::{IdentityPublicKey, IdentitySecretKey, Signature};

use super::complaint::Complaint;
use super::dealing::Dealing;

/// Length of the signature that ends a message's canonical bytes.
const SIGNATURE_BYTES: usize = 64;

/// Kind of a message: the phase in which it is said, and the tag of its encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum MessageKind {
    /// [`Body::Dealing`].
    Dealing = 1,
    /// [`Body::Have`].
    Have = 2,
    /// [`Body::Response`].
    Response = 3,
    /// [`Body::Prepared`].
    Prepared = 4,
    /// [`Body::Partial`].
    Partial = 5,
    /// [`Body::Late`].
    Late = 6,
    /// [`Body::Holds`].
    Holds = 7,
    /// [`Body::Erased`].
    Erased = 8,
    /// [`Body::Heard`].
    Heard = 9,
    /// [`Body::Malformed`], whatever kind it claims.
    Malformed = 0,
}

impl MessageKind {
    /// All kinds that nodes say, ascending by the number that encodings give them.
    pub const ALL: [Self; 9] = [
        Self::Dealing,
        Self::Have,
        Self::Response,
        Self::Prepared,
        Self::Partial,
        Self::Late,
        Self::Holds,
        Self::Erased,
        Self::Heard,
    ];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The content of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "messages are kept behind their digest, and a bundle is the one that counts"
)]
pub enum Body {
    /// Dealing: a dealer's bundle.
    Dealing(Dealing),
    /// Freezing: a receiver has a valid-looking bundle.
    Have {
        /// The bundle's dealer.
        dealer: NodeIndex,
        /// The bundle's digest.
        bundle: Digest,
    },
    /// Verifying: what a receiver found in the frozen bundles.
    Response(Response),
    /// Preparing: the receiver's share is durable.
    Prepared {
        /// Digest of the epoch's verification vector.
        vector: Digest,
        /// Digest of all frozen fields.
        frozen: Digest,
    },
    /// Certifying: a partial signature with the new share over the certificate's purpose.
    Partial(G1),
    /// A receiver that was away found bad shares in frozen bundles: evidence against their dealers, which changes nothing about
    /// the epoch.
    Late(Vec<Complaint>),
    /// After activation: the receiver holds its share of the epoch.
    Holds {
        /// Digest of the epoch's verification vector.
        vector: Digest,
    },
    /// After retirement: the node has destroyed its secrets of the epoch.
    Erased,
    /// Verifying: a receiver has another's response with complaints. Only what enough receivers have is frozen, so that everyone
    /// can fetch it.
    Heard {
        /// The receiver that responded.
        receiver: NodeIndex,
        /// The response's digest.
        response: Digest,
    },
    /// Content that is not exactly one of the above. Nobody honest says it; signed, it is the proof.
    Malformed(MalformedBody),
}

/// Content that does not decode, as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MalformedBody {
    /// The number of the kind that it claims.
    kind: u8,
    fields: Box<[u8]>,
}

/// A receiver's answer to the frozen bundles.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// Digest of the frozen dealers that were checked ([`crate::plan::frozen::dealers_digest`]).
    pub dealers: Digest,
    /// True if the receiver could not open its shares, which says nothing about anyone: nobody waits for it in this round.
    pub unopened: bool,
    /// The complaints, ascending by dealer; empty when every share was good, and when none could be opened.
    pub complaints: Vec<Complaint>,
}

impl Body {
    /// Returns the kind of the content.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        match self {
            Self::Dealing(_) => MessageKind::Dealing,
            Self::Have { .. } => MessageKind::Have,
            Self::Response(_) => MessageKind::Response,
            Self::Prepared { .. } => MessageKind::Prepared,
            Self::Partial(_) => MessageKind::Partial,
            Self::Late(_) => MessageKind::Late,
            Self::Holds { .. } => MessageKind::Holds,
            Self::Erased => MessageKind::Erased,
            Self::Heard { .. } => MessageKind::Heard,
            Self::Malformed(_) => MessageKind::Malformed,
        }
    }

    /// Returns the number of the kind in the message's bytes.
    #[must_use]
    pub fn number(&self) -> u8 {
        match self {
            Self::Malformed(malformed) => malformed.kind,
            body => body.kind() as u8,
        }
    }

    /// Returns the complaints in it.
    #[must_use]
    pub fn complaints(&self) -> &[Complaint] {
        match self {
            Self::Response(response) => &response.complaints,
            Self::Late(complaints) => complaints,
            _ => &[],
        }
    }

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Dealing(dealing) => dealing.write(out),
            Self::Have { dealer, bundle } => {
                out.index(*dealer).digest(bundle);
            }
            Self::Response(response) => {
                out.digest(&response.dealers).u8(response.unopened.into());
                out.list(&response.complaints, |out, complaint| complaint.write(out));
            }
            Self::Prepared { vector, frozen } => {
                out.digest(vector).digest(frozen);
            }
            Self::Partial(signature) => {
                out.raw(&signature.encode());
            }
            Self::Late(complaints) => {
                out.list(complaints, |out, complaint| complaint.write(out));
            }
            Self::Holds { vector } => {
                out.digest(vector);
            }
            Self::Erased => {}
            Self::Heard { receiver, response } => {
                out.index(*receiver).digest(response);
            }
            Self::Malformed(malformed) => {
                out.raw(&malformed.fields);
            }
        }
    }

    /// Decodes the fields that follow the kind's number. Another encoding of the same content is as malformed as any other bytes.
    fn decode(kind: u8, fields: &[u8]) -> Self {
        let read = MessageKind::of(kind).and_then(|kind| Reader::whole(fields, |reader| Self::read(kind, reader)).ok());
        read.filter(|body| body.fields() == fields)
            .unwrap_or_else(|| Self::Malformed(MalformedBody { kind, fields: fields.into() }))
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.finish()
    }

    fn read(kind: MessageKind, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            MessageKind::Dealing => Self::Dealing(Dealing::read(reader)?),
            MessageKind::Have => {
                Self::Have { dealer: reader.index("dealer")?, bundle: reader.digest("bundle digest")? }
            }
            MessageKind::Response => {
                let (dealers, unopened) = (reader.digest("dealers digest")?, reader.bool("unopened")?);
                let complaints = Complaint::read_list(reader)?;
                if unopened && !complaints.is_empty() {
                    return Err(DecodeError::Invalid { field: "complaints" });
                }
                Self::Response(Response { dealers, unopened, complaints })
            }
            MessageKind::Prepared => {
                Self::Prepared { vector: reader.digest("vector digest")?, frozen: reader.digest("frozen digest")? }
            }
            MessageKind::Partial => Self::Partial(reader.g1("partial signature")?),
            MessageKind::Late => Self::Late(Complaint::read_list(reader)?),
            MessageKind::Holds => Self::Holds { vector: reader.digest("vector digest")? },
            MessageKind::Erased => Self::Erased,
            MessageKind::Heard => {
                Self::Heard { receiver: reader.index("receiver")?, response: reader.digest("response digest")? }
            }
            MessageKind::Malformed => return Err(DecodeError::Invalid { field: "message kind" }),
        })
    }
}

/// A message as it travels; unchecked until a [`Transcript`](super::Transcript) hears it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedMessage {
    /// Digest of the round's plan.
    pub plan: Digest,
    /// Index of the node that claims to have signed it.
    pub sender: NodeIndex,
    /// The content.
    pub body: Body,
    signature: Signature,
    /// Digest of all of the above but the signature, kept because a bundle is long and hashed often.
    digest: Digest,
}

/// A message whose signature verifies under the key of `signer`. Whether that key is the sender's in a round is for the
/// round's plan to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedMessage {
    message: SignedMessage,
    signer: IdentityPublicKey,
}

impl VerifiedMessage {
    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &SignedMessage {
        &self.message
    }

    /// Returns the key that signed it.
    #[must_use]
    pub fn signer(&self) -> &IdentityPublicKey {
        &self.signer
    }
}

impl SignedMessage {
    /// Signs `body` as `sender` in the round of the plan with digest `plan`.
    #[must_use]
    pub fn sign(plan: Digest, sender: NodeIndex, body: Body, identity: &IdentitySecretKey) -> Self {
        let digest = digest_of_signed(&signed(&plan, sender, &body));
        Self { plan, sender, body, signature: identity.sign(&digest), digest }
    }

    /// Verifies that `identity` signed this message.
    #[must_use]
    pub fn is_signed_by(&self, identity: &IdentityPublicKey) -> bool {
        identity.verifies(&self.digest(), &self.signature)
    }

    /// Returns the message as one that `signer` signed; `None` where it did not.
    #[must_use]
    pub fn verify(self, signer: &IdentityPublicKey) -> Option<VerifiedMessage> {
        self.is_signed_by(signer).then_some(VerifiedMessage { message: self, signer: *signer })
    }

    /// Returns the digest by which the record, evidence and peers name this message.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the bytes: plan digest, u32 sender, u8 kind, the body's fields, then the signature.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.finish()
    }

    /// Decodes bytes as they came, checking every point but no signature. Content that does not decode is [`Body::Malformed`]; the
    /// message encodes to the same bytes again.
    ///
    /// # Errors
    /// When not even plan, sender and signature are there: nobody is to blame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (signed, signature) = bytes.split_last_chunk().ok_or(DecodeError::Truncated { field: "signature" })?;
        Reader::whole(signed, |reader| {
            let (plan, sender) = (reader.digest("plan digest")?, reader.index("sender")?);
            let kind = reader.u8("message kind")?;
            let fields = reader.slice("fields", reader.remaining())?;
            let (body, digest) = (Body::decode(kind, fields), digest_of_signed(signed));
            Ok(Self { plan, sender, body, signature: Signature(*signature), digest })
        })
    }

    /// Returns the digest of the plan that a message's canonical bytes name, without reading the rest: points are costly to check.
    #[must_use]
    pub fn plan_named_by(bytes: &[u8]) -> Option<Digest> {
        bytes.first_chunk().copied().map(Digest)
    }

    /// Returns the index of the sender that a message's canonical bytes name, without reading the rest.
    #[must_use]
    pub fn sender_named_by(bytes: &[u8]) -> Option<NodeIndex> {
        let (_, rest) = bytes.split_first_chunk::<32>()?;
        NodeIndex::new(u32::from_be_bytes(*rest.first_chunk()?))
    }

    /// Returns the number of the kind that a message's canonical bytes name, without reading the rest. It may be no kind.
    #[must_use]
    pub fn kind_named_by(bytes: &[u8]) -> Option<u8> {
        bytes.get(36).copied()
    }

    /// Returns the [digest](Self::digest) of the message that these are the canonical bytes of, without reading its points. Bytes
    /// that are no message may have one, too.
    #[must_use]
    pub fn digest_of_bytes(bytes: &[u8]) -> Option<Digest> {
        let (signed, _) = bytes.split_last_chunk::<SIGNATURE_BYTES>()?;
        Some(digest_of_signed(signed))
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.raw(&signed(&self.plan, self.sender, &self.body)).raw(&self.signature.0);
    }

    /// Reads a message that this node wrote itself, one of several in a row.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (plan, sender) = (reader.digest("plan digest")?, reader.index("sender")?);
        let kind = MessageKind::of(reader.u8("message kind")?);
        let body = Body::read(kind.unwrap_or(MessageKind::Malformed), reader)?;
        let digest = digest_of_signed(&signed(&plan, sender, &body));
        Ok(Self { plan, sender, body, signature: Signature(reader.array("signature")?), digest })
    }
}

/// Digest of everything before the signature.
fn digest_of_signed(signed: &[u8]) -> Digest {
    Digest::of("KEYFLEET-V1-MESSAGE", &[signed])
}

/// Returns the digest of the message in which `sender` says `body`.
pub(super) fn digest_of(plan: &Digest, sender: NodeIndex, body: &Body) -> Digest {
    digest_of_signed(&signed(plan, sender, body))
}

fn signed(plan: &Digest, sender: NodeIndex, body: &Body) -> Vec<u8> {
    let mut out = Writer::default();
    out.digest(plan).index(sender).u8(body.number());
    body.write(&mut out);
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::HashDomain;

    /// seed: 002-28, 004-23
    #[test]
    fn every_kind_survives_its_encoding_and_no_bit_is_unsigned() {
        let identity = IdentitySecretKey::from_seed(&[5; 32]);
        let index = |i| NodeIndex::new(i).unwrap();
        let digest = Digest([0x22; 32]);
        let key = G1::hash(b"shared", HashDomain::Signature);
        let complaint = |dealer| Complaint { dealer: index(dealer), bundle: digest, key };
        let bodies = [
            Body::Have { dealer: index(2), bundle: digest },
            Body::Response(Response { dealers: digest, unopened: false, complaints: vec![complaint(1)] }),
            Body::Prepared { vector: digest, frozen: digest },
            Body::Partial(G1::hash(b"partial", HashDomain::Signature)),
            Body::Late(vec![complaint(1), complaint(4)]),
            Body::Holds { vector: digest },
            Body::Erased,
            Body::Heard { receiver: index(4), response: digest },
        ];
        for body in bodies {
            let message = SignedMessage::sign(Digest([0x11; 32]), index(3), body, &identity);
            let bytes = message.encode();
            assert_eq!(SignedMessage::decode(&bytes).unwrap(), message);
            assert_eq!(SignedMessage::sender_named_by(&bytes), Some(message.sender));
            assert_eq!(SignedMessage::kind_named_by(&bytes), Some(message.body.kind() as u8));
            assert_eq!(SignedMessage::digest_of_bytes(&bytes), Some(message.digest()));
            for position in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[position] ^= 1;
                let accepted = SignedMessage::decode(&changed).is_ok_and(|m| m.is_signed_by(&identity.public()));
                assert!(!accepted, "{:?}: a change in byte {position} went unnoticed", message.body.kind());
            }
        }
    }
}
