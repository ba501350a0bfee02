//! The ConfigMap `<cluster>-record`: adoption of an earlier life, and what is written for a later one.

use keyfleet_crds::KmsClusterStatus;
use keyfleet_crds::record::{CertifiedEpoch, Record, RecordedNode};
use keyfleet_crds::values::ClusterId;

use crate::key_epoch;
use crate::membership::known_pin;
use crate::rounds::{NotStartedError, moment};
use crate::state::{Epoch, Recorded, State};
use crate::{Action, Facts};

/// Gives a cluster without an id the record's, or a new one.
#[must_use]
pub(crate) fn adopt_or_mint(state: &State) -> Action {
    let status = &state.cluster.status;
    if let Some(record) = state.recorded() {
        let after = KmsClusterStatus { cluster_id: Some(record.cluster_id), ..with_record(status, record) };
        return Action::update_cluster(state, after);
    }
    let nodes = u64::from(state.cluster.spec.nodes);
    let after = KmsClusterStatus {
        next_number: Some(status.next_number.unwrap_or(1)),
        next_index: Some(status.next_index.unwrap_or(nodes + 1)),
        image: status.image.clone().or_else(|| state.cluster.spec.image.clone()),
        ..status.clone()
    };
    Action::MintClusterId { resource_version: state.cluster.resource_version.clone(), status: Box::new(after) }
}

/// Puts back what the record knows and the objects lack, after they were restored without their status.
///
/// # Errors
/// When the certified epoch that the record has cannot be put back as it was.
pub(crate) fn restore(facts: &Facts<'_>) -> Result<Option<Action>, NotStartedError> {
    let state = facts.state;
    let Some(record) = state.recorded() else { return Ok(None) };
    let after = with_record(&state.cluster.status, record);
    if after != state.cluster.status {
        return Ok(Some(Action::update_cluster(state, after)));
    }
    // Like every write to a KeyEpoch: only once the nodes that hold the key have said that nothing is newer.
    match &record.epoch {
        Some(recorded) if facts.gates.reports.is_ok() => restore_epoch(facts, recorded),
        _ => Ok(None),
    }
}

/// Puts the certified epoch back, where its `KeyEpoch` is gone or has no status.
fn restore_epoch(facts: &Facts<'_>, recorded: &CertifiedEpoch) -> Result<Option<Action>, NotStartedError> {
    let state = facts.state;
    let number = recorded.plan.number;
    if facts.active.is_some_and(|(active, _)| active >= number) {
        return Ok(None);
    }
    let Some(epoch) = state.epochs.get(&number) else {
        return Ok(Some(Action::CreateEpoch(Box::new(recorded.plan.clone()))));
    };
    if epoch.phase().is_some() {
        return Ok(None);
    }
    let status = key_epoch::restored(recorded, moment(state).time)
        .map_err(|error| NotStartedError::halted(state, number, error))?;
    let resource_version = epoch.resource_version.clone();
    Ok(Some(Action::UpdateEpoch { number, resource_version, status: Box::new(status) }))
}

fn with_record(status: &KmsClusterStatus, record: &Record) -> KmsClusterStatus {
    // The number of an epoch that is there was given away, whatever somebody wrote into the ConfigMap.
    let certified = record.epoch.as_ref().map(|epoch| epoch.plan.number);
    KmsClusterStatus {
        public_key: status.public_key.or(record.public_key),
        next_number: status
            .next_number
            .max(Some(record.next_number))
            .max(certified.map(|number| number.saturating_add(1))),
        next_index: status.next_index.max(Some(record.next_index)),
        last_processed_boundary: status.last_processed_boundary.max(record.last_processed_boundary),
        ..status.clone()
    }
}

/// The write of this fleet's record, when anything but replica positions differs: those move all the time.
#[must_use]
pub(crate) fn write(facts: &Facts<'_>, id: ClusterId) -> Option<Action> {
    if facts.state.has_record_of_another(id) {
        return None;
    }
    let record = record(facts, id);
    let version = match &facts.state.record {
        Recorded::Absent => None,
        Recorded::Unreadable(_) => return None,
        Recorded::Present { resource_version, record: before } => {
            if without_positions(before) == without_positions(&record) {
                return None;
            }
            Some(resource_version.clone())
        }
    };
    Some(Action::WriteRecord { resource_version: version, record: Box::new(record) })
}

fn without_positions(record: &Record) -> Record {
    let mut record = record.clone();
    record.nodes.iter_mut().for_each(|node| node.position = None);
    record
}

fn record(facts: &Facts<'_>, id: ClusterId) -> Record {
    let Facts { state, members, .. } = facts;
    // A deleted cluster's status may be older than the record, which was not taken into it any more.
    let status = &state
        .recorded()
        .map_or_else(|| state.cluster.status.clone(), |record| with_record(&state.cluster.status, record));
    let stay = members.stay.iter().map(|index| recorded_node(state, *index, false));
    // Removed, and not yet gone: whoever adopts the fleet has to see to it that its secrets die.
    let leave = members.leave.keys().filter(|index| state.nodes.contains_key(index));
    let mut nodes: Vec<_> = stay.chain(leave.map(|index| recorded_node(state, *index, true))).collect();
    nodes.sort_by_key(|node| node.index);
    let newest = facts.active.and_then(|(_, epoch)| certified(epoch));
    Record {
        cluster: state.cluster.name.clone(),
        cluster_id: id,
        public_key: status.public_key,
        next_number: status.next_number.unwrap_or(1),
        next_index: status.next_index.unwrap_or(1),
        last_processed_boundary: status.last_processed_boundary,
        nodes,
        epoch: newest.or_else(|| state.recorded()?.epoch.clone()),
    }
}

/// A node as its object shows it; what the object does not know is taken over from the record before.
fn recorded_node(state: &State, index: u32, removed: bool) -> RecordedNode {
    let node = state.nodes.get(&index);
    let before = state.recorded().and_then(|record| record.nodes.iter().find(|node| node.index == index));
    RecordedNode {
        index,
        identity_key: node.and_then(|node| node.spec.identity_key).or_else(|| known_pin(state, index)),
        volume_handle: node
            .and_then(|node| node.volume_handle.clone())
            .or_else(|| before.and_then(|node| node.volume_handle.clone())),
        removed,
        position: node.and_then(|node| node.position.clone()).or_else(|| before.and_then(|node| node.position.clone())),
    }
}

fn certified(epoch: &Epoch) -> Option<CertifiedEpoch> {
    let status = epoch.status.clone()?;
    Some(CertifiedEpoch {
        plan: epoch.spec.clone(),
        plan_digest: status.plan_digest?,
        dealers: status.dealers?,
        responses: status.responses?,
        qualified: status.qualified?,
        holders: status.holders?,
        vector_digest: status.vector_digest?,
        certificate: status.certificate?,
    })
}
