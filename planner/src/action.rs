//! One write of the operator.

use keyfleet_crds::record::Record;
use keyfleet_crds::{KeyEpochSpec, KeyEpochStatus, KmsClusterStatus, KmsNodeSpec};

use crate::State;

/// One write.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Sets or removes the operator's finalizer on the `KmsCluster`.
    SetClusterFinalizer {
        /// True when the finalizer shall be set, false when it shall be gone.
        present: bool,
    },
    /// Mints a cluster id: the shell puts sixteen random bytes into this status and updates it.
    MintClusterId {
        /// The version read.
        resource_version: String,
        /// The status, but for the id.
        status: Box<KmsClusterStatus>,
    },
    /// Updates the `KmsCluster`'s status.
    UpdateCluster {
        /// The version read.
        resource_version: String,
        /// The status after.
        status: Box<KmsClusterStatus>,
    },
    /// Posts a `KeyEpoch`. An object of that name that exists is taken for it: the number was reserved.
    CreateEpoch(Box<KeyEpochSpec>),
    /// Updates a `KeyEpoch`'s status.
    UpdateEpoch {
        /// The epoch's number.
        number: u64,
        /// The version read.
        resource_version: String,
        /// The status after.
        status: Box<KeyEpochStatus>,
    },
    /// Sets or removes the finalizer of the active epoch.
    SetEpochFinalizer {
        /// The epoch's number.
        number: u64,
        /// True when the finalizer shall be set, false when it shall be gone.
        present: bool,
    },
    /// Deletes the record of an epoch.
    DeleteEpoch {
        /// The epoch's number.
        number: u64,
    },
    /// Posts a `KmsNode`.
    CreateNode(Box<KmsNodeSpec>),
    /// Updates a `KmsNode`'s spec: pins its identity, or marks it removed.
    UpdateNode {
        /// The version read.
        resource_version: String,
        /// The spec after.
        spec: Box<KmsNodeSpec>,
    },
    /// Writes into a `KmsNode`'s status how far it erased, and how far it has to.
    NoteErasure {
        /// The node's index.
        index: u32,
        /// The version read.
        resource_version: String,
        /// The newest epoch of which it signed that its secrets are gone.
        erased_through: Option<u64>,
        /// The newest epoch that gave it a share, once it is removed.
        last_epoch: Option<u64>,
    },
    /// Takes the finalizer off a `KmsNode` that is being deleted.
    ReleaseNode {
        /// The node's index.
        index: u32,
    },
    /// Deletes the `KmsNode` of a node whose secrets are gone.
    DeleteNode {
        /// The node's index.
        index: u32,
    },
    /// Evicts a node's pod, which comes back as the spec wants it. The disruption budget may refuse.
    Evict {
        /// The node's index.
        index: u32,
    },
    /// Writes the ConfigMap `<cluster>-record`.
    WriteRecord {
        /// The version read; `None` creates it.
        resource_version: Option<String>,
        /// Content of the record.
        record: Box<Record>,
    },
    /// Deletes the ConfigMap `<cluster>-record`, when a fleet was destroyed.
    DeleteRecord,
}

impl Action {
    /// An update of the cluster's status, decided on the version that was read.
    #[must_use]
    pub fn update_cluster(state: &State, status: KmsClusterStatus) -> Self {
        Self::UpdateCluster { resource_version: state.cluster.resource_version.clone(), status: Box::new(status) }
    }
}
