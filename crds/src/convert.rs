//! Between the kinds, which people read, and the plain types of the threshold core, which the protocol computes with.

use crate::cluster::RETENTION_MAX;
use crate::epoch::status::{FrozenDealer, FrozenResponse};
use crate::epoch::{Deadlines, Dealer, Phase, Receiver, RoundKind, Source};
use crate::prekey::Prekey;
use crate::values;
use crate::{KeyEpochSpec, KeyEpochStatus};
use keyfleet_threshold::coordination::retention::listed_max;
use keyfleet_threshold::curve::{G1, G2};
use keyfleet_threshold::identifiers::{Block, ClusterId, Digest, EpochNumber, NodeIndex, PrekeyNumber, Threshold};
use keyfleet_threshold::identity::{IdentityPublicKey, Signature};
use keyfleet_threshold::plan::{self, FrozenDigests, Member, Origin, Plan, PlanError, PlanVersion, ValidPlan};
use keyfleet_threshold::prekey::SignedPrekey;
use keyfleet_threshold::purpose::Certificate;
use keyfleet_threshold::round::{self, RoundRecord};

/// An object that is not a plan or record which this release understands.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Another release wrote it.
    #[error("planVersion {0} is not known to this release: upgrade the operator")]
    PlanVersion(u16),
    /// A field holds what it cannot hold.
    #[error("{0} is out of range or not a point of its group")]
    Field(&'static str),
    /// A list does not ascend, or goes past its end.
    #[error("{0} does not ascend as it has to")]
    Order(&'static str),
    /// The plan's shape is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// The plan of a `KeyEpoch`.
///
/// # Errors
/// When it is of another version, or nodes would refuse it.
pub fn plan_of(spec: &KeyEpochSpec) -> Result<ValidPlan, ConvertError> {
    if spec.plan_version != PlanVersion::NEWEST.number() {
        return Err(ConvertError::PlanVersion(spec.plan_version));
    }
    let origin = match (&spec.source, spec.old_threshold, spec.expected_public_key) {
        (None, None, None) => Origin::Genesis,
        (Some(source), Some(old), Some(key)) => Origin::Reshare {
            source: plan::Source {
                number: EpochNumber(source.number),
                plan: Digest(source.plan_digest.0),
                vector: Digest(source.vector_digest.0),
                threshold: threshold(old, "oldThreshold")?,
            },
            public_key: point(&key)?,
        },
        _ => return Err(ConvertError::Field("source, oldThreshold or expectedPublicKey")),
    };
    let plan = Plan {
        version: PlanVersion::V2,
        cluster: ClusterId(spec.cluster_id.0),
        number: EpochNumber(spec.number),
        origin,
        block: Block(spec.block),
        threshold: threshold(spec.threshold, "threshold")?,
        min_holders: small(spec.min_holders, "minHolders")?,
        dealers: spec
            .dealers
            .iter()
            .map(|dealer| {
                Ok(Member { index: index(dealer.index)?, identity: IdentityPublicKey(dealer.identity_key.0) })
            })
            .collect::<Result<_, ConvertError>>()?,
        receivers: spec
            .receivers
            .iter()
            .map(|receiver| {
                Ok(plan::Receiver {
                    index: index(receiver.index)?,
                    identity: IdentityPublicKey(receiver.identity_key.0),
                    prekey: receiver.prekey.as_ref().map(signed_prekey).transpose()?,
                })
            })
            .collect::<Result<_, ConvertError>>()?,
        expected: spec.expected.iter().map(|expected| index(*expected)).collect::<Result<_, _>>()?,
        deadlines: deadlines(&spec.deadlines),
        // Rosters are not built: the field is reserved in the plan's bytes.
        roster: None,
    };
    Ok(plan.validate()?)
}

/// The spec of a plan: [`plan_of`] gives the plan back.
#[must_use]
pub fn spec_of(plan: &ValidPlan) -> KeyEpochSpec {
    let source = plan.source();
    KeyEpochSpec {
        plan_version: plan.version.number(),
        cluster_id: values::ClusterId(plan.cluster.0),
        number: plan.number.0,
        kind: if source.is_some() { RoundKind::Reshare } else { RoundKind::Genesis },
        block: plan.block.0,
        source: source.map(|source| Source {
            number: source.number.0,
            plan_digest: digest(&source.plan),
            vector_digest: digest(&source.vector),
        }),
        old_threshold: source.map(|source| u32::from(source.threshold.0)),
        threshold: u32::from(plan.threshold.0),
        min_holders: u32::from(plan.min_holders),
        dealers: plan
            .dealers
            .iter()
            .map(|dealer| Dealer { index: dealer.index.value(), identity_key: values::PinnedKey(dealer.identity.0) })
            .collect(),
        receivers: plan
            .receivers
            .iter()
            .map(|receiver| Receiver {
                index: receiver.index.value(),
                identity_key: values::PinnedKey(receiver.identity.0),
                prekey: receiver.prekey.as_ref().map(prekey),
            })
            .collect(),
        expected: plan.expected.iter().map(|index| index.value()).collect(),
        deadlines: Deadlines {
            dealing_blocks: plan.deadlines.dealing_blocks,
            verifying_blocks: plan.deadlines.verifying_blocks,
            preparing_blocks: plan.deadlines.preparing_blocks,
            certifying_blocks: plan.deadlines.certifying_blocks,
        },
        expected_public_key: plan.expected_public_key().map(|key| public_key(&key)),
    }
}

/// The record of a round, as nodes read it; `None` before the operator has opened it. An object that was put back without its
/// status says nothing of its round, which may have ended long ago.
///
/// # Errors
/// When a field cannot be what it says.
pub fn record_of(plan: &ValidPlan, status: Option<&KeyEpochStatus>) -> Result<Option<RoundRecord>, ConvertError> {
    let Some((status, of)) = status.and_then(|status| Some((status, status.phase?))) else { return Ok(None) };
    let dealers = status
        .dealers
        .as_ref()
        .map(|list| digests(list.iter().map(|dealer| (dealer.index, dealer.bundle_digest)), "status.dealers"));
    let responses = status.responses.as_ref().map(|list| {
        digests(list.iter().map(|response| (response.index, response.response_digest)), "status.responses")
    });
    let qualified = status.qualified.as_ref().map(|list| list.iter().map(|i| index(*i)).collect::<Result<_, _>>());
    Ok(Some(RoundRecord {
        phase: phase(of),
        dealers: dealers.transpose()?,
        responses: responses.transpose()?,
        qualified: qualified.transpose()?,
        certificate: certificate_of(plan, status)?,
        kept: status.kept.as_deref().map(|kept| kept_numbers(kept, plan.number)).transpose()?,
    }))
}

/// The kept epochs that a record lists: older than its own, ascending, and no more than any retention allows.
fn kept_numbers(kept: &[u64], own: EpochNumber) -> Result<Vec<EpochNumber>, ConvertError> {
    if kept.len() > listed_max(RETENTION_MAX as usize) {
        return Err(ConvertError::Field("the number of kept epochs"));
    }
    if !kept.is_sorted_by(|a, b| a < b) || kept.last().is_some_and(|last| *last >= own.0) {
        return Err(ConvertError::Order("status.kept"));
    }
    Ok(kept.iter().copied().map(EpochNumber).collect())
}

/// The certificate in a record, unverified.
///
/// # Errors
/// When the signature is not a point of G1.
pub fn certificate_of(plan: &ValidPlan, status: &KeyEpochStatus) -> Result<Option<Certificate>, ConvertError> {
    let (Some(certificate), Some(vector)) = (&status.certificate, status.vector_digest) else { return Ok(None) };
    let signature = G1::decode(&certificate.signature.0).map_err(|_| ConvertError::Field("status.certificate"))?;
    Ok(Some(Certificate {
        cluster: plan.cluster,
        number: plan.number,
        plan: plan.digest(),
        vector: Digest(vector.0),
        signature,
    }))
}

/// A node's index.
///
/// # Errors
/// When it is zero.
pub fn index(index: u32) -> Result<NodeIndex, ConvertError> {
    NodeIndex::new(index).ok_or(ConvertError::Field("an index"))
}

/// A threshold.
///
/// # Errors
/// When it does not fit.
pub fn threshold(value: u32, field: &'static str) -> Result<Threshold, ConvertError> {
    small(value, field).map(Threshold)
}

/// The key as a point.
///
/// # Errors
/// When the bytes are no point of G2.
pub fn point(key: &values::PublicKey) -> Result<G2, ConvertError> {
    G2::decode(&key.0).map_err(|_| ConvertError::Field("a public key"))
}

/// Deadlines of a plan.
#[must_use]
pub fn deadlines(of: &Deadlines) -> plan::Deadlines {
    plan::Deadlines {
        dealing_blocks: of.dealing_blocks,
        verifying_blocks: of.verifying_blocks,
        preparing_blocks: of.preparing_blocks,
        certifying_blocks: of.certifying_blocks,
    }
}

/// A count of nodes as plans carry it.
///
/// # Errors
/// When it does not fit.
pub fn small(value: u32, field: &'static str) -> Result<u16, ConvertError> {
    u16::try_from(value).map_err(|_| ConvertError::Field(field))
}

/// A digest, for a kind.
#[must_use]
pub fn digest(of: &Digest) -> values::Digest {
    values::Digest(of.0)
}

/// A public key or public share, for a kind.
#[must_use]
pub fn public_key(of: &G2) -> values::PublicKey {
    values::PublicKey(of.encode())
}

/// A prekey, for a kind.
#[must_use]
pub fn prekey(of: &SignedPrekey) -> Prekey {
    Prekey {
        number: of.number.0,
        public_key: values::PrekeyPoint(of.key.encode()),
        signature: values::IdentitySignature(of.signature.0),
    }
}

/// A prekey as the protocol takes it, its signature unchecked.
///
/// # Errors
/// When the key is not a point of G1.
pub fn signed_prekey(of: &Prekey) -> Result<SignedPrekey, ConvertError> {
    let key = G1::decode(&of.public_key.0).map_err(|_| ConvertError::Field("a prekey"))?;
    Ok(SignedPrekey { number: PrekeyNumber(of.number), key, signature: Signature(of.signature.0) })
}

/// `status.dealers` of a frozen list.
#[must_use]
pub fn frozen_dealers(list: &FrozenDigests) -> Vec<FrozenDealer> {
    list.iter().map(|(index, of)| FrozenDealer { index: index.value(), bundle_digest: digest(&of) }).collect()
}

/// `status.responses` of a frozen list.
#[must_use]
pub fn frozen_responses(list: &FrozenDigests) -> Vec<FrozenResponse> {
    list.iter().map(|(index, of)| FrozenResponse { index: index.value(), response_digest: digest(&of) }).collect()
}

fn digests(
    list: impl Iterator<Item = (u32, values::Digest)>,
    field: &'static str,
) -> Result<FrozenDigests, ConvertError> {
    let list = list.map(|(i, of)| Ok((index(i)?, Digest(of.0)))).collect::<Result<_, ConvertError>>()?;
    FrozenDigests::new(list).map_err(|_| ConvertError::Order(field))
}

/// A round's phase, for a kind.
#[must_use]
pub fn phase_of(of: round::Phase) -> Phase {
    match of {
        round::Phase::Dealing => Phase::Dealing,
        round::Phase::Verifying => Phase::Verifying,
        round::Phase::Preparing => Phase::Preparing,
        round::Phase::Certifying => Phase::Certifying,
        round::Phase::Failed => Phase::Failed,
        round::Phase::Active => Phase::Active,
        round::Phase::Confirmed => Phase::Confirmed,
        round::Phase::Retired => Phase::Retired,
    }
}

fn phase(of: Phase) -> round::Phase {
    match of {
        Phase::Dealing => round::Phase::Dealing,
        Phase::Verifying => round::Phase::Verifying,
        Phase::Preparing => round::Phase::Preparing,
        Phase::Certifying => round::Phase::Certifying,
        Phase::Failed => round::Phase::Failed,
        Phase::Active => round::Phase::Active,
        Phase::Confirmed => round::Phase::Confirmed,
        Phase::Retired => round::Phase::Retired,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The core's frozen plans, through the kind and back: the digest that everyone signs survives.
    #[test]
    fn a_plan_survives_the_way_through_the_kind() {
        let fixtures: serde_json::Value =
            serde_json::from_str(include_str!("../../threshold/fixtures/plan-v2.json")).unwrap();
        for name in ["genesis", "reshare"] {
            let text = fixtures[name]["encoding"].as_str().unwrap();
            let bytes: Vec<u8> =
                (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
            // The encoding has a place for the digest of a roster; kinds have none, since no code carries a roster out.
            let plan = Plan { roster: None, ..Plan::decode(&bytes).unwrap() }.validate().unwrap();
            let json = serde_json::to_string(&spec_of(&plan)).unwrap();
            let spec: KeyEpochSpec = serde_json::from_str(&json).unwrap();
            assert_eq!(plan_of(&spec).unwrap().digest(), plan.digest(), "{name}: the plan changed on its way");
            for plan_version in [1, 3] {
                let other = KeyEpochSpec { plan_version, ..spec.clone() };
                assert_eq!(plan_of(&other).unwrap_err(), ConvertError::PlanVersion(plan_version));
            }
        }
    }
}
