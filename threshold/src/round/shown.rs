//! Kept epochs as nodes show them to each other: a certificate, the plan that it certifies, and the bundles that made it.
//!
//! The cluster's key signed plan and vector, so both need nobody's word. The list of qualified bundles is the word of whoever
//! shows it, until the bundles add up to the certified vector: [`catch_up`](super::catch_up()) finds that out.

use crate::curve::G2;
use crate::encoding::DecodeError;
use crate::identifiers::{ClusterId, EpochNumber};
use crate::plan::{FrozenDigests, Plan, PlanError, ValidPlan};
use crate::purpose::Certificate;

use super::state::Attempt;

/// A kept epoch as it travels; unchecked until [`ShownEpoch::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShownEpoch {
    /// The canonical bytes of the epoch's plan. Its points are costly to read, so they are read once the certificate is checked.
    pub plan: Vec<u8>,
    /// The epoch's certificate, which names the plan by digest.
    pub certificate: Certificate,
    /// The qualified dealers with their bundles' digests, as whoever shows the epoch has them.
    pub qualified: FrozenDigests,
}

/// Reason not to take a shown epoch up. Who shows it is at fault, unless noted otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShownError {
    /// The certificate is of another cluster.
    #[error("the certificate of epoch {0} is another cluster's")]
    OtherCluster(EpochNumber),
    /// The certificate does not certify what is shown with it.
    #[error("the certificate of epoch {0} does not verify, or certifies another plan")]
    BadCertificate(EpochNumber),
    /// The plan is not one, though the cluster's key signed its digest.
    #[error("the certified plan of epoch {0} does not decode: {1}")]
    Undecodable(EpochNumber, DecodeError),
    /// The plan contradicts itself, though the cluster's key signed its digest.
    #[error("the certified plan of epoch {0}: {1}")]
    Plan(EpochNumber, PlanError),
    /// This node acted on the attempt's failure. Nobody is at fault.
    #[error("attempt {0} failed here: its certificate changes nothing")]
    Failed(EpochNumber),
    /// The cluster's key certified two vectors under one number, or another than this node prepared: a record showed different
    /// things to different nodes.
    #[error("epoch {0}: another plan or vector is certified than the one that this node knows")]
    OtherVector(EpochNumber),
    /// Many newer epochs are kept: one so old is kept by nobody.
    #[error("epoch {0} is far below those that are kept")]
    TooOld(EpochNumber),
}

impl ShownEpoch {
    /// Returns what a node shows of an attempt: of a certified epoch that is kept, once its bundles are known to make it.
    #[must_use]
    pub fn of(attempt: &Attempt) -> Option<Self> {
        let (certificate, qualified) = (attempt.certificate()?, attempt.qualified.as_ref()?);
        (!attempt.retired).then(|| Self {
            plan: attempt.plan.encode(),
            certificate: *certificate,
            qualified: qualified.clone(),
        })
    }

    /// Returns the number that the epoch claims.
    #[must_use]
    pub fn number(&self) -> EpochNumber {
        self.certificate.number
    }

    /// Returns the plan that the key of `cluster` certified. Cheap checks come first; the list of bundles stays unchecked.
    ///
    /// # Errors
    /// When the certificate is not this cluster's, or not over this plan.
    pub fn verify(&self, cluster: ClusterId, public_key: &G2) -> Result<ValidPlan, ShownError> {
        let number = self.number();
        if self.certificate.cluster != cluster {
            return Err(ShownError::OtherCluster(number));
        }
        if Plan::digest_of(&self.plan) != self.certificate.plan || !self.certificate.verify(public_key) {
            return Err(ShownError::BadCertificate(number));
        }
        let plan = Plan::decode(&self.plan).map_err(|error| ShownError::Undecodable(number, error))?;
        if plan.number != number || plan.cluster != cluster {
            return Err(ShownError::BadCertificate(number));
        }
        plan.validate().map_err(|error| ShownError::Plan(number, error))
    }
}
