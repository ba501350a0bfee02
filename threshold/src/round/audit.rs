//! Audits of a finished round, from its public transcript or from its record alone: anyone can verify an epoch.

use super::culprit::Culprit;
use super::judgement::{CombineError, JudgeError};
use super::record::RoundRecord;
use super::transcript::Transcript;
use crate::curve::G2;
use crate::identifiers::{Digest, NodeIndex};
use crate::plan::ValidPlan;
use crate::polynomial::{VerificationVector, interpolate_vector};
use crate::purpose::Certificate;

/// Findings of an audit: what the transcript proves about an active epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Audit {
    /// The epoch's verification vector, recomputed from the qualified bundles; its constant term is the public key.
    pub vector: VerificationVector,
    /// Receivers that signed that their share of exactly this vector was durable.
    pub prepared: Vec<NodeIndex>,
    /// Nodes that provably broke the protocol.
    pub culprits: Vec<Culprit>,
}

/// Contradiction between a record and its transcript.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The record is not that of an active epoch.
    #[error("the record is not complete: the round has not become active")]
    NotActive,
    /// Messages that the record names are not in the transcript.
    #[error("{} messages that the record names are missing from the transcript", .0.len())]
    Missing(Vec<Digest>),
    /// A frozen bundle is not that of the dealer under which it is listed.
    #[error("the record freezes a bundle under {0} that is not its own")]
    ForeignBundle(NodeIndex),
    /// The qualified dealers do not follow from the frozen fields.
    #[error("the record's qualified dealers do not follow from the signed messages")]
    Qualified,
    /// The frozen fields give no sharing of the expected key.
    #[error(transparent)]
    NoSharing(#[from] CombineError),
    /// The certificate names another plan, vector or number, or its signature is wrong.
    #[error("the certificate does not certify this round under the cluster's key")]
    Certificate,
    /// Fewer receivers were prepared than the plan demands.
    #[error("{prepared} receivers said that their share is durable, the plan demands {needed}")]
    TooFewPrepared {
        /// Number of receivers that signed so.
        prepared: usize,
        /// Number that the plan demands.
        needed: usize,
    },
}

/// Recomputes a round from its transcript and compares it with its record.
///
/// # Errors
/// The first contradiction found, or what is missing to decide.
pub fn audit(transcript: &Transcript, record: &RoundRecord) -> Result<Audit, AuditError> {
    let (Some(dealers), Some(responses), Some(qualified), Some(certificate)) =
        (&record.dealers, &record.responses, &record.qualified, &record.certificate)
    else {
        return Err(AuditError::NotActive);
    };
    let judgement = transcript.judge(dealers, responses).map_err(|error| match error {
        JudgeError::Missing(digests) => AuditError::Missing(digests),
        JudgeError::ForeignBundle(dealer) => AuditError::ForeignBundle(dealer),
    })?;
    if judgement.frozen.qualified != *qualified {
        return Err(AuditError::Qualified);
    }
    let vector = judgement.combine(transcript)?.vector;
    let plan = transcript.plan();
    let certifies = certificate.cluster == plan.cluster
        && certificate.number == plan.number
        && certificate.plan == *transcript.plan_digest()
        && certificate.vector == vector.digest()
        && certificate.verify(&vector.constant());
    if !certifies {
        return Err(AuditError::Certificate);
    }
    let agreed = (certificate.vector, judgement.frozen.digest(transcript.plan_digest()));
    let prepared: Vec<_> =
        transcript.prepared().iter().filter(|(_, named)| **named == agreed).map(|(index, _)| *index).collect();
    if prepared.len() < plan.holders_needed() {
        return Err(AuditError::TooFewPrepared { prepared: prepared.len(), needed: plan.holders_needed() });
    }
    let mut culprits = judgement.culprits;
    culprits.extend(transcript.culprits().cloned());
    Ok(Audit { vector, prepared, culprits })
}

/// Public facts of an active epoch, as its record states them: enough to verify it without a single message.
#[derive(Clone, Copy, Debug)]
pub struct RecordedEpoch<'a> {
    /// The epoch's plan.
    pub plan: &'a ValidPlan,
    /// The plan's digest that the record states.
    pub plan_digest: Option<Digest>,
    /// The receivers that had stored their share at activation, with their public shares.
    pub holders: &'a [(NodeIndex, G2)],
    /// The vector's digest that the record states.
    pub vector_digest: Option<Digest>,
    /// The epoch's certificate.
    pub certificate: &'a Certificate,
}

/// Findings on a [`RecordedEpoch`] under a public key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EpochFindings {
    /// The plan has the digest that the record states.
    pub plan_is_the_agreed_one: bool,
    /// At least the plan's minimum of holders, all of them receivers.
    pub holders_are_enough: bool,
    /// The vector on which all holders' public shares lie, where they lie on one.
    pub vector: Option<VerificationVector>,
    /// The vector's constant term is the public key.
    pub shares_are_of_the_key: bool,
    /// The vector has the digest that the record states.
    pub vector_is_the_recorded_one: bool,
    /// The certificate names that vector and verifies under the public key.
    pub is_certified: bool,
}

/// Checks an epoch's record under the cluster's public key, from the record alone.
#[must_use]
pub fn audit_record(epoch: &RecordedEpoch<'_>, public_key: &G2) -> EpochFindings {
    let RecordedEpoch { plan, plan_digest, holders, vector_digest, certificate } = *epoch;
    let vector = interpolate_vector(holders, plan.threshold);
    let digest = vector.as_ref().map(VerificationVector::digest);
    EpochFindings {
        plan_is_the_agreed_one: plan_digest == Some(plan.digest()),
        holders_are_enough: holders.len() >= usize::from(plan.min_holders)
            && holders.iter().all(|(index, _)| plan.receiver(*index).is_some()),
        shares_are_of_the_key: vector.as_ref().is_some_and(|vector| vector.constant() == *public_key),
        vector_is_the_recorded_one: digest.is_some() && digest == vector_digest,
        is_certified: digest == Some(certificate.vector) && certificate.verify(public_key),
        vector,
    }
}
