//! A `KeyEpoch`'s status as the operator moves it on.
//!
//! When a phase closes is decided by [`keyfleet_threshold::coordination::closing`]; how a decision changes the record, by the one
//! fold [`RoundRecord::apply`]. Here the record becomes a status again, with what people read beside it: holders, reasons,
//! culprits and times.
//!
//! - [`public_key`]: the public key of an active epoch

pub mod public_key;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet};

use keyfleet_crds::conditions::Reason;
use keyfleet_crds::convert::{self, ConvertError};
use keyfleet_crds::epoch::Phase;
use keyfleet_crds::epoch::status::{Certificate, Culprit, Failure, Fault, Holder, Timings};
use keyfleet_crds::record::CertifiedEpoch;
use keyfleet_crds::values::{BlsSignature, PublicKey};
use keyfleet_crds::{KeyEpochSpec, KeyEpochStatus};
use keyfleet_threshold::coordination::{ApplyError, Decision, FailReason};
use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};
use keyfleet_threshold::plan::ValidPlan;
use keyfleet_threshold::round::{self as core, DealingError, Offence, RoundRecord};

/// When and at which block something is written.
#[derive(Clone, PartialEq, Debug)]
pub struct Moment {
    /// The block: the next phase's deadline counts from it.
    pub block: u64,
    /// The wall clock, for people and for the cap on a phase.
    pub time: Time,
}

/// Refusal to move a record on. It stays as it is, and is read again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// The decision belongs to another phase, or the record was not written by an operator.
    #[error(transparent)]
    Record(#[from] ApplyError),
    /// A field of the object is not what it says.
    #[error(transparent)]
    Object(#[from] ConvertError),
    /// The certificate is under another key than the fleet has, or than the spec expects.
    #[error("its certificate is under another public key than the KmsCluster has or expects")]
    OtherKey,
}

/// Returns the status of a round whose plan was just made.
#[must_use]
pub fn opened(plan: &ValidPlan, now: &Moment) -> KeyEpochStatus {
    let plan_digest = Some(convert::digest(&plan.digest()));
    enter(KeyEpochStatus { plan_digest, ..KeyEpochStatus::default() }, Phase::Dealing, now)
}

/// Checks that a status can be moved on: an operator wrote its fields, and exactly those of its phase.
///
/// # Errors
/// When a field is not what it says, is missing, or is there too early.
pub fn check(plan: &ValidPlan, status: &KeyEpochStatus) -> Result<(), MoveError> {
    complete(record_of(plan, status)?).map(|_| ())
}

/// The record in a status that the operator moves on. One without a phase is that of a round which was not opened.
fn record_of(plan: &ValidPlan, status: &KeyEpochStatus) -> Result<RoundRecord, ConvertError> {
    Ok(convert::record_of(plan, Some(status))?.unwrap_or_else(RoundRecord::opened))
}

fn complete(record: RoundRecord) -> Result<RoundRecord, MoveError> {
    if record.has_the_fields_of_its_phase() { Ok(record) } else { Err(ApplyError::Malformed(record.phase).into()) }
}

/// Returns the status of a certified epoch as the fleet's record has it. Its `KeyEpoch` was put back without one.
///
/// # Errors
/// When the record of the fleet lacks a field, or a field is not what it says.
pub fn restored(recorded: &CertifiedEpoch, time: Time) -> Result<KeyEpochStatus, MoveError> {
    let plan = convert::plan_of(&recorded.plan)?;
    let status = KeyEpochStatus {
        phase: Some(Phase::Active),
        plan_digest: Some(recorded.plan_digest),
        dealers: Some(recorded.dealers.clone()),
        responses: Some(recorded.responses.clone()),
        qualified: Some(recorded.qualified.clone()),
        possessors: recorded.holders.iter().map(|holder| holder.index).collect(),
        holders: Some(recorded.holders.clone()),
        vector_digest: Some(recorded.vector_digest),
        certificate: Some(recorded.certificate.clone()),
        ..KeyEpochStatus::default()
    };
    let record = complete(record_of(&plan, &status)?)?;
    let then = Moment { block: recorded.plan.block, time };
    Ok(enter(with_record(&status, &record), convert::phase_of(record.phase), &then))
}

/// Carries a decision out on a status.
///
/// # Errors
/// When the decision is not for this record.
pub fn apply(
    plan: &ValidPlan,
    status: &KeyEpochStatus,
    decision: &Decision,
    now: &Moment,
) -> Result<KeyEpochStatus, MoveError> {
    let mut record = record_of(plan, status)?;
    record.apply(decision)?;
    let mut status = with_record(status, &record);
    match decision {
        Decision::Activate { holders, .. } => {
            let holders: Vec<Holder> = holders.iter().map(holder).collect();
            let signers: Vec<u32> = holders.iter().map(|holder| holder.index).collect();
            if let Some(certificate) = &mut status.certificate {
                certificate.signers.clone_from(&signers);
            }
            (status.possessors, status.holders) = (signers, Some(holders));
        }
        Decision::Fail(reason) => status.failure = Some(failure(reason, plan)),
        _ => {}
    }
    Ok(enter(status, convert::phase_of(record.phase), now))
}

/// Retires an epoch: nodes destroy its secrets.
///
/// # Errors
/// When the round failed or is retired already: there is nothing to destroy.
pub fn retire(plan: &ValidPlan, status: &KeyEpochStatus, now: &Moment) -> Result<KeyEpochStatus, MoveError> {
    let mut record = record_of(plan, status)?;
    record.retire()?;
    Ok(enter(with_record(status, &record), convert::phase_of(record.phase), now))
}

/// The record's frozen fields, as the object has them.
fn with_record(status: &KeyEpochStatus, record: &RoundRecord) -> KeyEpochStatus {
    let certificate = record.certificate.as_ref().map(|certificate| Certificate {
        signature: BlsSignature(certificate.signature.encode()),
        signers: status.certificate.as_ref().map(|before| before.signers.clone()).unwrap_or_default(),
    });
    KeyEpochStatus {
        dealers: record.dealers.as_ref().map(convert::frozen_dealers),
        responses: record.responses.as_ref().map(convert::frozen_responses),
        qualified: record.qualified.as_ref().map(|list| list.iter().map(|index| index.value()).collect()),
        vector_digest: record.certificate.as_ref().map(|certificate| convert::digest(&certificate.vector)),
        certificate,
        ..status.clone()
    }
}

fn holder((index, share): (&NodeIndex, &keyfleet_threshold::curve::G2)) -> Holder {
    Holder { index: index.value(), public_share: convert::public_key(share) }
}

/// Gives up a round that can no longer be the next epoch.
///
/// # Errors
/// When its record cannot be moved on.
pub fn supersede(
    spec: &KeyEpochSpec,
    status: &KeyEpochStatus,
    by: u64,
    now: &Moment,
) -> Result<KeyEpochStatus, MoveError> {
    let reason = FailReason::Superseded { by: EpochNumber(by) };
    apply(&convert::plan_of(spec)?, status, &Decision::Fail(reason), now)
}

/// The failure of a round as people read it. No epoch serves on where a genesis failed.
fn failure(reason: &FailReason, plan: &ValidPlan) -> Failure {
    let word = match reason {
        FailReason::Superseded { .. } => Reason::Superseded,
        FailReason::TooFewDealers { .. } | FailReason::NoSharing(_) => Reason::TooFewDealers,
        FailReason::TooFewHolders { .. } => Reason::TooFewHolders,
        FailReason::TooFewPartials { .. } => Reason::CertificateMissing,
        _ => Reason::NodesDown,
    };
    let next = match (reason, plan.source()) {
        (FailReason::Superseded { .. }, _) => "nothing needs to be done",
        (_, Some(_)) => "the epoch before serves on, and the next attempt is made by itself",
        (_, None) => "there is no key yet, and the next attempt is made by itself",
    };
    failed(word, format!("{reason}; {next}"))
}

fn failed(reason: Reason, message: String) -> Failure {
    Failure { reason: reason.to_string(), message }
}

/// Returns true for a round that was given up for a newer one.
#[must_use]
pub fn is_superseded(status: Option<&KeyEpochStatus>) -> bool {
    let failure = status.and_then(|status| status.failure.as_ref());
    failure.and_then(|failure| Reason::of(&failure.reason)) == Some(Reason::Superseded)
}

/// A round that failed because too few nodes could make durable what they had to say: the bucket is to blame, and not they.
#[must_use]
pub fn fails_for_want_of_the_bucket(status: KeyEpochStatus, why: &str) -> KeyEpochStatus {
    let Some(failure) = status.failure.clone().filter(|_| status.phase == Some(Phase::Failed)) else { return status };
    let message = format!("{} ({why})", failure.message);
    KeyEpochStatus { failure: Some(failed(Reason::ReplicaUnavailable, message)), ..status }
}

fn enter(mut status: KeyEpochStatus, phase: Phase, now: &Moment) -> KeyEpochStatus {
    status.phase = Some(phase);
    // A block source may have gone back; deadlines never do.
    status.phase_block = Some(status.phase_block.map_or(now.block, |before| before.max(now.block)));
    let timings = status.timings.get_or_insert_with(Timings::default);
    let entry = match phase {
        Phase::Dealing => &mut timings.dealing,
        Phase::Verifying => &mut timings.verifying,
        Phase::Preparing => &mut timings.preparing,
        Phase::Certifying => &mut timings.certifying,
        Phase::Failed | Phase::Active => &mut timings.ended,
        Phase::Confirmed => &mut timings.confirmed,
        Phase::Retired => &mut timings.retired,
    };
    *entry = Some(now.time.clone());
    status
}

/// Culprits as the record names them, with the digests that prove it.
#[must_use]
pub fn culprits(found: &[core::Culprit]) -> Vec<Culprit> {
    found
        .iter()
        .map(|culprit| Culprit {
            index: culprit.index.value(),
            fault: fault(culprit.offence),
            evidence_digests: culprit.evidence.iter().take(4).map(convert::digest).collect(),
        })
        .collect()
}

fn fault(offence: Offence) -> Fault {
    match offence {
        Offence::Equivocation => Fault::Equivocation,
        Offence::BadShare(_) => Fault::InvalidShare,
        Offence::FalseComplaint(_) => Fault::FalseComplaint,
        Offence::Malformed => Fault::Malformed,
        Offence::BadBundle(DealingError::NotItsShare) => Fault::WrongSource,
        _ => Fault::InvalidDealing,
    }
}

/// Culprits with those that the record proves already: an operator that has just started may not have heard again what proves it.
#[must_use]
pub fn with_the_proven_before(mut found: Vec<Culprit>, before: &[Culprit]) -> Vec<Culprit> {
    let proven = before.iter().filter(|culprit| !culprit.evidence_digests.is_empty());
    let forgotten: Vec<_> =
        proven.filter(|known| !found.iter().any(|culprit| culprit.index == known.index)).cloned().collect();
    found.extend(forgotten);
    found.sort_by_key(|culprit| culprit.index);
    found
}

/// Culprits with those that were expected and whose bundle or response is not among the frozen ones. Silence leaves no evidence.
#[must_use]
pub fn with_the_silent(proven: Vec<Culprit>, spec: &KeyEpochSpec, status: &KeyEpochStatus) -> Vec<Culprit> {
    let mut named: BTreeMap<u32, Culprit> = proven.into_iter().map(|culprit| (culprit.index, culprit)).collect();
    let mut name = |expected: &mut dyn Iterator<Item = u32>, fault| {
        for index in expected.filter(|index| spec.expected.contains(index)) {
            named.entry(index).or_insert(Culprit { index, fault, evidence_digests: Vec::new() });
        }
    };
    if let Some(frozen) = &status.dealers {
        let dealt: BTreeSet<_> = frozen.iter().map(|dealer| dealer.index).collect();
        name(&mut spec.dealers.iter().map(|it| it.index).filter(|index| !dealt.contains(index)), Fault::NoDealing);
    }
    if let Some(frozen) = &status.responses {
        let spoke: BTreeSet<_> = frozen.iter().map(|response| response.index).collect();
        name(&mut spec.receivers.iter().map(|it| it.index).filter(|index| !spoke.contains(index)), Fault::NoResponse);
    }
    named.into_values().collect()
}

/// When the present phase was entered, if the record says so.
#[must_use]
pub fn entered(status: &KeyEpochStatus) -> Option<&Time> {
    let timings = status.timings.as_ref()?;
    match status.phase? {
        Phase::Dealing => timings.dealing.as_ref(),
        Phase::Verifying => timings.verifying.as_ref(),
        Phase::Preparing => timings.preparing.as_ref(),
        Phase::Certifying => timings.certifying.as_ref(),
        Phase::Failed | Phase::Active => timings.ended.as_ref(),
        Phase::Confirmed => timings.confirmed.as_ref(),
        Phase::Retired => timings.retired.as_ref(),
    }
}

/// Returns true while the round can still end either way.
#[must_use]
pub fn is_open(status: Option<&KeyEpochStatus>) -> bool {
    let phase = status.and_then(|status| status.phase);
    matches!(phase, None | Some(Phase::Dealing | Phase::Verifying | Phase::Preparing | Phase::Certifying))
}

/// Returns true when the epoch serves, or is kept beside the one that does.
#[must_use]
pub fn serves(status: Option<&KeyEpochStatus>) -> bool {
    matches!(status.and_then(|status| status.phase), Some(Phase::Active | Phase::Confirmed))
}

/// Returns true when enough receivers proved to hold the epoch, so that older ones may go.
#[must_use]
pub fn is_confirmed(status: Option<&KeyEpochStatus>) -> bool {
    status.and_then(|status| status.phase) == Some(Phase::Confirmed)
}

/// The public key that a decision activates.
#[must_use]
pub fn activated_key(decision: &Decision) -> Option<PublicKey> {
    match decision {
        Decision::Activate { public_key, .. } => Some(convert::public_key(public_key)),
        _ => None,
    }
}
