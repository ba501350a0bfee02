//! Invariants of what the operator writes, asserted in pairs: of a write before it is sent, against what was read, and of the
//! object that the API server gives back.
//!
//! The kinds' CEL rules refuse a write that breaks them. Here the operator asserts that it never asks for one, that an object is
//! written only after what it rests on, and that what it relies on later was stored as it was sent: a schema of an earlier release
//! drops fields without a word.

use k8s_openapi::api::core::v1::ConfigMap;
use keyfleet_crds::cluster::status::Erasure;
use keyfleet_crds::record::Record;
use keyfleet_crds::{
    KeyEpoch, KeyEpochSpec, KeyEpochStatus, KmsCluster, KmsClusterStatus, KmsNode, KmsNodeSpec, KmsNodeStatus,
};
use keyfleet_planner::{State, rules};

/// Asserts that numbers rise and that what is written once stays, in the status of a cluster.
pub(super) fn invariant_cluster_keeps_its_rules(read: &KmsClusterStatus, written: &KmsClusterStatus) {
    assert_eq!(rules::cluster(read, written), Ok(()), "a write of the cluster's status breaks a rule of the kind");
    assert!(read.active_epoch <= written.active_epoch, "the active epoch falls below {:?}", read.active_epoch);
}

/// Asserts that the fields that later decisions rest on were stored.
pub(super) fn invariant_cluster_is_stored(written: &KmsClusterStatus, stored: &KmsCluster) {
    let stored = stored.status.as_ref().expect("the API server keeps a status that was written");
    assert_eq!(written.cluster_id, stored.cluster_id, "the cluster's id was not stored");
    assert_eq!(written.public_key, stored.public_key, "the public key was not stored");
    assert_eq!(written.next_number, stored.next_number, "the next number was not stored");
    assert_eq!(written.next_index, stored.next_index, "the next index was not stored");
    assert_eq!(written.active_epoch, stored.active_epoch, "the active epoch was not stored");
    assert_eq!(written.reservation, stored.reservation, "the reservation was not stored");
    let (sent, found) = (written.last_processed_boundary, stored.last_processed_boundary);
    assert_eq!(sent, found, "the boundary was not stored");
}

/// Asserts the order of durability: the cluster's status has given a number away before its `KeyEpoch` is posted. Of rounds
/// one alone is open.
pub(super) fn invariant_number_is_reserved_before_it_is_posted(state: &State, number: u64) {
    let status = &state.cluster.status;
    let next = status.next_number.unwrap_or(1);
    assert!(number < next, "epoch {number} is posted, and {next} is the next number to be given away");
    let is_round = status.reservation.is_some_and(|reservation| reservation.number == number);
    let open = state.open().map(|(open, _)| open);
    assert!(!is_round || open.is_none(), "round {number} begins while {open:?} is open");
}

/// Asserts that a plan was stored as it was made: its digest is bound into every message of the round.
pub(super) fn invariant_plan_is_stored(written: &KeyEpochSpec, stored: &KeyEpoch) {
    assert_eq!(*written, stored.spec, "the plan of epoch {} was not stored as it was made", written.number);
}

/// Asserts that a record moves forward and that its frozen fields stay. The `KeyEpoch` is there before its status.
pub(super) fn invariant_epoch_keeps_its_rules(state: &State, number: u64, written: &KeyEpochStatus) {
    let read = state.epochs.get(&number).expect("a status is written of an epoch that was read");
    assert_eq!(
        rules::epoch(read.status.as_ref(), written),
        Ok(()),
        "a write of epoch {number} breaks a rule of the kind"
    );
}

/// Asserts that a record's frozen fields were stored.
pub(super) fn invariant_epoch_is_stored(number: u64, written: &KeyEpochStatus, stored: &KeyEpoch) {
    assert_eq!(stored.spec.number, number, "the status of another epoch was written");
    let stored = stored.status.as_ref().expect("the API server keeps a status that was written");
    assert_eq!(written.phase, stored.phase, "the phase of epoch {number} was not stored");
    let frozen = written.dealers == stored.dealers
        && written.responses == stored.responses
        && written.qualified == stored.qualified
        && written.holders == stored.holders
        && written.vector_digest == stored.vector_digest
        && written.certificate == stored.certificate;
    assert!(frozen, "the frozen fields of epoch {number} were not stored");
}

/// Asserts that a node keeps its index and its pin, and that nothing brings back one that was removed.
pub(super) fn invariant_node_keeps_its_rules(state: &State, written: &KmsNodeSpec) {
    let read = state.nodes.get(&written.index).expect("a node is updated that was read");
    assert_eq!(rules::node(&read.spec, written), Ok(()), "a write of node {} breaks a rule of the kind", written.index);
}

/// Asserts that a node's pin and what else was decided of it were stored.
pub(super) fn invariant_node_is_stored(written: &KmsNodeSpec, stored: &KmsNode) {
    assert_eq!(*written, stored.spec, "the spec of node {} was not stored", written.index);
}

/// Asserts that how far a node erased, and how far it has to, only rises.
pub(super) fn invariant_erasure_only_rises(state: &State, index: u32, through: Option<u64>, last_epoch: Option<u64>) {
    let read = state.nodes.get(&index).expect("a node is updated that was read");
    assert_eq!(rules::erasure(read, through, last_epoch), Ok(()), "a write of node {index} breaks a rule of the kind");
}

/// Asserts that an erasure that was proven once stays proven.
pub(super) fn invariant_erasure_stays_proven(read: Option<&KmsNodeStatus>, written: &KmsNodeStatus) {
    let was_proven = read.is_some_and(|read| read.erasure == Some(Erasure::Proven));
    assert!(!was_proven || written.erasure == Some(Erasure::Proven), "a proven erasure is taken back");
}

/// Asserts that the operator's part of a node's status was stored, and that the node's own part is as the node wrote it.
pub(super) fn invariant_node_status_is_stored(read: &KmsNode, written: &KmsNodeStatus, stored: &KmsNode) {
    let before = read.status.as_ref().and_then(|status| status.node.as_ref());
    let stored = stored.status.as_ref().expect("the API server keeps a status that was written");
    assert_eq!(before, stored.node.as_ref(), "the operator wrote the part of node {} itself", read.spec.index);
    assert_eq!(written.erasure, stored.erasure, "the erasure of node {} was not stored", read.spec.index);
}

/// Asserts that the record that outlives the cluster is of this cluster, and that its numbers rise.
pub(super) fn invariant_record_never_falls(state: &State, written: &Record) {
    assert_eq!(Some(written.cluster_id), state.cluster.status.cluster_id, "the record of another cluster is written");
    let Some(read) = state.recorded() else { return };
    assert_eq!(read.cluster_id, written.cluster_id, "the record of an earlier life is overwritten");
    assert!(read.public_key.is_none() || read.public_key == written.public_key, "the recorded public key changes");
    assert!(read.next_number <= written.next_number, "the recorded next number falls below {}", read.next_number);
    assert!(read.next_index <= written.next_index, "the recorded next index falls below {}", read.next_index);
    let (before, after) = (read.last_processed_boundary, written.last_processed_boundary);
    assert!(before <= after, "the recorded boundary falls below {before:?}");
}

/// Asserts that the record reads back as it was written.
pub(super) fn invariant_record_is_stored(written: &Record, stored: &ConfigMap) {
    let read = stored.data.as_ref().and_then(|data| Record::from_data(data).ok());
    assert_eq!(Some(written), read.as_ref(), "the record does not read back as it was written");
}

#[cfg(test)]
mod tests {
    use keyfleet_crds::values::{ClusterId, PublicKey};

    use super::*;

    fn status(next_number: u64) -> KmsClusterStatus {
        KmsClusterStatus {
            cluster_id: Some(ClusterId([7; 16])),
            next_number: Some(next_number),
            active_epoch: Some(3),
            ..KmsClusterStatus::default()
        }
    }

    fn stored(status: KmsClusterStatus) -> KmsCluster {
        let sample = include_str!("../../../manifests/samples/smallest.yaml");
        KmsCluster { status: Some(status), ..serde_yaml::from_str(sample).expect("a sample") }
    }

    #[test]
    fn a_status_that_rises_and_comes_back_whole_is_fine() {
        invariant_cluster_keeps_its_rules(&status(4), &status(5));
        invariant_cluster_is_stored(&status(5), &stored(status(5)));
    }

    #[test]
    #[should_panic(expected = "status.nextNumber")]
    fn a_number_that_falls_is_never_sent() {
        invariant_cluster_keeps_its_rules(&status(5), &status(4));
    }

    #[test]
    #[should_panic(expected = "the active epoch falls")]
    fn an_active_epoch_that_falls_is_never_sent() {
        let fallen = KmsClusterStatus { active_epoch: Some(2), ..status(5) };
        invariant_cluster_keeps_its_rules(&status(5), &fallen);
    }

    #[test]
    #[should_panic(expected = "a proven erasure is taken back")]
    fn a_proven_erasure_is_never_taken_back() {
        let of = |erasure| KmsNodeStatus { erasure: Some(erasure), ..KmsNodeStatus::default() };
        invariant_erasure_stays_proven(Some(&of(Erasure::Pending)), &of(Erasure::Proven));
        invariant_erasure_stays_proven(Some(&of(Erasure::Proven)), &of(Erasure::Unproven));
    }

    #[test]
    #[should_panic(expected = "the public key was not stored")]
    fn a_key_that_is_not_stored_is_noticed() {
        let written = KmsClusterStatus { public_key: Some(PublicKey([1; 96])), ..status(5) };
        invariant_cluster_is_stored(&written, &stored(status(5)));
    }
}
