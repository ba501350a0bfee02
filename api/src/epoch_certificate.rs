//! An epoch's certificate as nodes show it, decoded and verified.

use keyfleet_threshold::curve::{G1, G2};
use keyfleet_threshold::identifiers::{ClusterId, Digest, EpochNumber};
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::purpose::Certificate;

use crate::messages;

/// A certificate with the vector that it is about, as received: nothing in it is checked yet.
#[derive(Clone, Copy, Debug)]
pub struct ShownCertificate<'a> {
    /// The cluster whose certificate it must be.
    pub cluster: ClusterId,
    /// Number of the epoch.
    pub number: EpochNumber,
    /// Digest of the epoch's plan: 32 bytes.
    pub plan_digest: &'a [u8],
    /// The verification vector: compressed points of G2, 96 bytes each.
    pub verification_vector: &'a [Vec<u8>],
    /// The fleet's signature: a compressed point of G1, 48 bytes.
    pub signature: &'a [u8],
}

/// Why a certificate proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EpochCertificateError {
    /// The vector is empty or too long, or one of its points is not a point of G2.
    #[error("its verification vector is malformed")]
    Vector,
    /// The digest has another length than 32 bytes.
    #[error("its plan digest is malformed")]
    PlanDigest,
    /// The signature is not a point of G1.
    #[error("its certificate is malformed")]
    Signature,
    /// The signature is not that of the vector's own public key over this epoch.
    #[error("its certificate does not verify under its public key")]
    NotSigned,
    /// The vector belongs to another public key than the reader expects.
    #[error("its verification vector is that of another public key")]
    OtherKey,
}

impl ShownCertificate<'_> {
    /// Returns the vector when `public_key` has signed it.
    ///
    /// # Errors
    /// When a part is malformed, the signature does not verify, or the vector is that of another key.
    pub fn verify_under(&self, public_key: &G2) -> Result<VerificationVector, EpochCertificateError> {
        let vector = messages::read_vector(self.verification_vector).ok_or(EpochCertificateError::Vector)?;
        let plan = self.plan_digest.try_into().map_err(|_| EpochCertificateError::PlanDigest)?;
        let signature = self.signature.try_into().ok().and_then(|bytes| G1::decode(bytes).ok());
        let certificate = Certificate {
            cluster: self.cluster,
            number: self.number,
            plan: Digest(plan),
            vector: vector.digest(),
            signature: signature.ok_or(EpochCertificateError::Signature)?,
        };
        if !certificate.verify(&vector.constant()) {
            return Err(EpochCertificateError::NotSigned);
        }
        if vector.constant() == *public_key { Ok(vector) } else { Err(EpochCertificateError::OtherKey) }
    }
}
