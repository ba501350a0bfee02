//! The kinds' rules between an object as it is and as it would become. The real ones are CEL, beside the fields in
//! `keyfleet-crds`; what is refused there is refused here.

use keyfleet_crds::epoch::Phase;
use keyfleet_crds::{KeyEpochStatus, KmsClusterStatus, KmsNodeSpec};

use crate::state::Node;

/// Checks an update of a `KmsCluster`'s status.
///
/// # Errors
/// The rule that refuses it.
pub fn cluster(old: &KmsClusterStatus, new: &KmsClusterStatus) -> Result<(), &'static str> {
    written_once("status.clusterId", old.cluster_id.as_ref(), new.cluster_id.as_ref())?;
    written_once("status.publicKey", old.public_key.as_ref(), new.public_key.as_ref())?;
    only_rises("status.nextNumber", old.next_number, new.next_number)?;
    only_rises("status.nextIndex", old.next_index, new.next_index)?;
    only_rises("status.lastProcessedBoundary", old.last_processed_boundary, new.last_processed_boundary)?;
    let Some(reservation) = new.reservation else { return Ok(()) };
    let same = old.reservation.is_some_and(|before| before.number == reservation.number);
    let is_new = old.next_number.is_none_or(|next| reservation.number >= next);
    ensure(new.next_number.is_some_and(|next| reservation.number < next), "status.reservation is below nextNumber")?;
    ensure(same || is_new, "status.reservation takes a number that was not reserved before")
}

/// Checks an update of a `KeyEpoch`'s status.
///
/// # Errors
/// The rule that refuses it.
pub fn epoch(old: Option<&KeyEpochStatus>, new: &KeyEpochStatus) -> Result<(), &'static str> {
    if let Some(old) = old {
        written_once("status.dealers", old.dealers.as_ref(), new.dealers.as_ref())?;
        written_once("status.responses", old.responses.as_ref(), new.responses.as_ref())?;
        written_once("status.qualified", old.qualified.as_ref(), new.qualified.as_ref())?;
        written_once("status.holders", old.holders.as_ref(), new.holders.as_ref())?;
        written_once("status.vectorDigest", old.vector_digest.as_ref(), new.vector_digest.as_ref())?;
        written_once("status.certificate", old.certificate.as_ref(), new.certificate.as_ref())?;
        only_rises("status.phaseBlock", old.phase_block, new.phase_block)?;
        ensure(old.phase.is_none() || new.phase.is_some(), "status.phase is removed")?;
        if let (Some(before), Some(after)) = (old.phase, new.phase) {
            let ended = matches!(before, Phase::Failed | Phase::Retired);
            ensure(before == after || (!ended && place(after) > place(before)), "status.phase only moves forward")?;
        }
    }
    let is_listed = new.kept.as_ref().is_none_or(|kept| new.certificate.is_some() && kept.is_sorted_by(|a, b| a < b));
    ensure(is_listed, "status.kept ascends, beside a certificate")?;
    let serves = matches!(new.phase, Some(Phase::Active | Phase::Confirmed | Phase::Retired));
    let complete = new.dealers.is_some()
        && new.responses.is_some()
        && new.qualified.is_some()
        && new.holders.is_some()
        && new.vector_digest.is_some()
        && new.certificate.is_some();
    ensure(!serves || complete, "an epoch is Active only with all frozen fields in its status")
}

/// Checks an update of a `KmsNode`'s spec.
///
/// # Errors
/// The rule that refuses it.
pub fn node(old: &KmsNodeSpec, new: &KmsNodeSpec) -> Result<(), &'static str> {
    let same = (&old.cluster_name, old.cluster_id, old.index) == (&new.cluster_name, new.cluster_id, new.index);
    ensure(same, "spec.clusterName, spec.clusterId and spec.index never change")?;
    written_once("spec.identityKey", old.identity_key.as_ref(), new.identity_key.as_ref())?;
    ensure(!old.removed || new.removed, "spec.removed cannot be taken back")?;
    ensure(!new.lost || new.removed, "spec.lost needs spec.removed")
}

/// Checks an update of how far a node erased.
///
/// # Errors
/// The rule that refuses it.
pub fn erasure(old: &Node, through: Option<u64>, last_epoch: Option<u64>) -> Result<(), &'static str> {
    only_rises("status.erasedThrough", old.erased_through, through)?;
    only_rises("status.lastEpoch", old.last_epoch, last_epoch)
}

fn place(phase: Phase) -> u8 {
    match phase {
        Phase::Dealing => 1,
        Phase::Verifying => 2,
        Phase::Preparing => 3,
        Phase::Certifying => 4,
        Phase::Failed => 5,
        Phase::Active => 6,
        Phase::Confirmed => 7,
        Phase::Retired => 8,
    }
}

fn written_once<T: PartialEq>(path: &'static str, old: Option<&T>, new: Option<&T>) -> Result<(), &'static str> {
    ensure(old.is_none() || old == new, path)
}

fn only_rises(path: &'static str, old: Option<u64>, new: Option<u64>) -> Result<(), &'static str> {
    ensure(old.is_none() || new >= old, path)
}

fn ensure(holds: bool, rule: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(rule) }
}
