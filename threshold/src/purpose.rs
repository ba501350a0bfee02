//! Purposes: all that the key signs, each kept apart from the others, and nothing else.
//!
//! Nodes hash; callers never hand over a digest. Under drand's tag only SHA-256(x) is hashed to the curve, x being either
//! the eight bytes of a beacon round or a string that begins with `KEYFLEET-V1`: eight bytes are too few for that, so no
//! purpose can produce another's signature. Identities have a tag of their own ([`HashDomain::Identity`]).

use sha2::{Digest as _, Sha256};

use crate::curve::{G1, G2, HashDomain, pairings_cancel};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::{ClusterId, Digest, EpochNumber, NodeIndex};

/// Something that the cluster's key, or one share of it, signs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Purpose(Vec<u8>);

impl Purpose {
    /// A beacon round: its signature verifies as drand's scheme `bls-unchained-g1-rfc9380` and opens timelock ciphertexts.
    #[must_use]
    pub fn beacon(round: u64) -> Self {
        Self(round.to_be_bytes().to_vec())
    }

    /// An application's `message` under `key_name`.
    #[must_use]
    pub fn signature(key_name: &str, message: &[u8]) -> Self {
        Self::tagged(1, &[key_name.as_bytes(), message])
    }

    /// An epoch's certificate: t new shares demonstrably sign.
    #[must_use]
    pub fn certificate(cluster: ClusterId, plan: &Digest, vector: &Digest, number: EpochNumber) -> Self {
        Self::tagged(2, &[&cluster.0, &plan.0, &vector.0, &number.0.to_be_bytes()])
    }

    /// Proof that node `prover` still holds its share of the epoch with this `vector`, over a fresh `challenge`.
    ///
    /// It names the prover: signatures of others over a challenge that it passes on do not combine to its own.
    #[must_use]
    pub fn possession(
        cluster: ClusterId,
        number: EpochNumber,
        prover: NodeIndex,
        vector: &Digest,
        challenge: &[u8; 32],
    ) -> Self {
        Self::tagged(3, &[&cluster.0, &number.0.to_be_bytes(), &prover.value().to_be_bytes(), &vector.0, challenge])
    }

    fn tagged(purpose: u8, fields: &[&[u8]]) -> Self {
        let mut out = Writer::default();
        out.raw(b"KEYFLEET-V1").u8(purpose);
        for field in fields {
            out.bytes(field);
        }
        Self(out.finish())
    }

    /// x: the bytes that are hashed. Anyone can verify a signature from these, SHA-256 and RFC 9380.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The point of G1 that is multiplied with the key.
    #[must_use]
    pub fn point(&self) -> G1 {
        G1::hash(&Sha256::digest(&self.0), HashDomain::Signature)
    }
}

/// Verifies `signature` over `point` under `public_key`: e(signature, g2) = e(point, public key).
#[must_use]
pub fn verifies(public_key: &G2, point: &G1, signature: &G1) -> bool {
    let minus_one = -crate::curve::Scalar::one();
    pairings_cancel(&[(*signature, G2::generator()), (point.times(&minus_one), *public_key)])
}

/// The proof that an epoch became active: the cluster's own signature over what was agreed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The cluster.
    pub cluster: ClusterId,
    /// The epoch's number.
    pub number: EpochNumber,
    /// Digest of the plan that was carried out.
    pub plan: Digest,
    /// Digest of the epoch's verification vector.
    pub vector: Digest,
    /// Signature of the cluster's key over [`Purpose::certificate`].
    pub signature: G1,
}

impl Certificate {
    /// Verifies that the cluster's key signed exactly this.
    #[must_use]
    pub fn verify(&self, public_key: &G2) -> bool {
        let purpose = Purpose::certificate(self.cluster, &self.plan, &self.vector, self.number);
        verifies(public_key, &purpose.point(), &self.signature)
    }

    /// The canonical bytes: cluster id, u64 number, plan digest, vector digest, signature.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.finish()
    }

    /// Decodes canonical bytes. The result is unverified.
    ///
    /// # Errors
    /// When the bytes are not exactly one certificate.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::whole(bytes, Self::read)
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.raw(&self.cluster.0).epoch(self.number).digest(&self.plan).digest(&self.vector);
        out.raw(&self.signature.encode());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            cluster: reader.cluster()?,
            number: reader.epoch("number")?,
            plan: reader.digest("plan digest")?,
            vector: reader.digest("vector digest")?,
            signature: reader.g1("certificate signature")?,
        })
    }
}
