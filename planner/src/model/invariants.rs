//! Invariants that hold after every write, whoever made it.

use std::collections::BTreeMap;

use super::Objects;
use crate::key_epoch;

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BrokenError {
    /// A boundary is reserved again.
    #[error("boundary {0} is reserved a second time")]
    BoundaryReservedTwice(u64),
    /// Two epochs of the same receivers are for one boundary.
    #[error("epochs {0} and {1} are both for boundary {2}")]
    TwoEpochsForOneBoundary(u64, u64, u64),
    /// More than one round is open.
    #[error("rounds {0:?} are open at once")]
    OpenAtOnce(Vec<u64>),
    /// The fleet has another key than before.
    #[error("the public key changed")]
    PublicKeyChanged,
    /// The cluster has another id than before.
    #[error("the cluster id changed")]
    ClusterIdChanged,
    /// A plan is not what it was.
    #[error("the plan of epoch {0} changed")]
    PlanChanged(u64),
    /// A record's frozen fields are not what they were.
    #[error("frozen fields of epoch {0} changed")]
    FrozenFieldsChanged(u64),
    /// A number that only rises fell.
    #[error("a number of the cluster's status fell")]
    NumberFell,
    /// A `KeyEpoch` has a number that was not given away before.
    #[error("epoch {number} was posted, and {next} is the next number to be reserved")]
    PostedBeforeReserved {
        /// Number of the epoch.
        number: u64,
        /// The next number to be reserved.
        next: u64,
    },
    /// Epochs served before, and none does now.
    #[error("no epoch serves any more")]
    NothingServes,
}

/// Checks all invariants, on the objects before and after one write.
///
/// # Errors
/// The first that is broken.
pub fn check(before: &Objects, after: &Objects) -> Result<(), BrokenError> {
    invariant_a_boundary_is_reserved_once(before, after)?;
    invariant_one_open_round(after)?;
    invariant_written_once(before, after)?;
    invariant_numbers_only_rise(before, after)?;
    invariant_numbers_are_reserved_before_they_are_posted(before, after)?;
    invariant_an_epoch_serves_once_one_did(before, after)
}

/// A boundary is reserved once; a newer spec may take its reservation over under a higher number.
fn invariant_a_boundary_is_reserved_once(before: &Objects, after: &Objects) -> Result<(), BrokenError> {
    let (old, new) = (&before.cluster.status, &after.cluster.status);
    let Some(boundary) = new.reservation.filter(|_| new.reservation != old.reservation).and_then(|new| new.boundary)
    else {
        return Ok(());
    };
    let taken_over = old.reservation.is_some_and(|old| old.boundary == Some(boundary));
    if taken_over || old.last_processed_boundary.is_none_or(|last| last < boundary) {
        Ok(())
    } else {
        Err(BrokenError::BoundaryReservedTwice(boundary))
    }
}

/// A boundary has one epoch that did not fail, and a failed one is not tried again at the same boundary.
///
/// # Errors
/// When two epochs are for one boundary. A round that a person asked for, or that a changed spec started, may begin at a
/// boundary's block by chance: this holds only where neither happens there.
pub fn invariant_one_epoch_per_boundary(objects: &Objects) -> Result<(), BrokenError> {
    let interval = u64::from(objects.cluster.spec.schedule.interval_blocks);
    let mut seen = BTreeMap::new();
    for epoch in objects.epochs.values().filter(|epoch| !key_epoch::is_superseded(epoch.status.as_ref())) {
        // Rounds that start at once carry the current block, which may be a boundary by chance.
        let at_boundary = epoch.spec.block % interval == 0 && epoch.spec.source.is_some();
        if let Some(other) = at_boundary.then(|| seen.insert(epoch.spec.block, epoch)).flatten() {
            let same = other.spec.receivers.iter().map(|r| r.index).eq(epoch.spec.receivers.iter().map(|r| r.index));
            if same {
                let (a, b) = (other.spec.number, epoch.spec.number);
                return Err(BrokenError::TwoEpochsForOneBoundary(a, b, epoch.spec.block));
            }
        }
    }
    Ok(())
}

/// At most one round that stands under the reservation is open; strays are on their way out.
fn invariant_one_open_round(objects: &Objects) -> Result<(), BrokenError> {
    let started = objects.epochs.values().filter(|epoch| {
        let phase = epoch.status.as_ref().and_then(|status| status.phase);
        phase.is_some() && key_epoch::is_open(epoch.status.as_ref())
    });
    let numbers: Vec<u64> = started.map(|epoch| epoch.spec.number).collect();
    if numbers.len() > 1 { Err(BrokenError::OpenAtOnce(numbers)) } else { Ok(()) }
}

fn invariant_written_once(before: &Objects, after: &Objects) -> Result<(), BrokenError> {
    let (old, new) = (&before.cluster.status, &after.cluster.status);
    if old.public_key.is_some() && old.public_key != new.public_key {
        return Err(BrokenError::PublicKeyChanged);
    }
    if old.cluster_id.is_some() && old.cluster_id != new.cluster_id {
        return Err(BrokenError::ClusterIdChanged);
    }
    for (number, epoch) in &after.epochs {
        let Some(old) = before.epochs.get(number) else { continue };
        if old.spec != epoch.spec {
            return Err(BrokenError::PlanChanged(*number));
        }
        let (Some(old), Some(new)) = (&old.status, &epoch.status) else { continue };
        let kept = (old.dealers.is_none() || old.dealers == new.dealers)
            && (old.responses.is_none() || old.responses == new.responses)
            && (old.certificate.is_none() || old.certificate == new.certificate)
            && (old.phase != Some(keyfleet_crds::epoch::Phase::Failed) || new.phase == old.phase);
        if !kept {
            return Err(BrokenError::FrozenFieldsChanged(*number));
        }
    }
    Ok(())
}

fn invariant_numbers_only_rise(before: &Objects, after: &Objects) -> Result<(), BrokenError> {
    let (old, new) = (&before.cluster.status, &after.cluster.status);
    let falls = old.next_number > new.next_number
        || old.next_index > new.next_index
        || old.last_processed_boundary > new.last_processed_boundary
        || old.active_epoch > new.active_epoch;
    if falls { Err(BrokenError::NumberFell) } else { Ok(()) }
}

/// A `KeyEpoch` is posted under a number that the status, or the record, had given away before.
fn invariant_numbers_are_reserved_before_they_are_posted(before: &Objects, after: &Objects) -> Result<(), BrokenError> {
    let recorded = before.record.as_ref().map_or(1, |(_, record)| record.next_number);
    let next = before.cluster.status.next_number.unwrap_or(1).max(recorded);
    match after.epochs.keys().find(|number| !before.epochs.contains_key(number) && **number >= next) {
        Some(number) => Err(BrokenError::PostedBeforeReserved { number: *number, next }),
        None => Ok(()),
    }
}

fn invariant_an_epoch_serves_once_one_did(before: &Objects, after: &Objects) -> Result<(), BrokenError> {
    if before.served().next().is_some() && after.served().next().is_none() {
        return Err(BrokenError::NothingServes);
    }
    Ok(())
}
