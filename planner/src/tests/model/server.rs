//! The objects as the API server keeps them.

use std::collections::BTreeMap;

use keyfleet_crds::KmsNodeSpec;
use keyfleet_crds::record::Record;
use keyfleet_crds::values::ClusterId;

use crate::Action;
use crate::key_epoch;
use crate::state::{Cluster, Epoch, Lag, Node};

/// Objects with versions, and what the real server refuses.
#[derive(Clone)]
pub(in crate::tests) struct Server {
    pub(in crate::tests) cluster: Cluster,
    pub(in crate::tests) nodes: BTreeMap<u32, Node>,
    pub(in crate::tests) epochs: BTreeMap<u64, Epoch>,
    pub(in crate::tests) record: Option<(u64, Record)>,
    pub(super) version: u64,
    pub(in crate::tests) writes: u64,
}

impl Server {
    pub(super) fn served(&self) -> impl Iterator<Item = (&u64, &Epoch)> {
        self.epochs.iter().filter(|(_, epoch)| key_epoch::serves(epoch.status.as_ref()))
    }

    pub(in crate::tests) fn bump_cluster(&mut self) {
        self.version += 1;
        self.cluster.resource_version = self.version.to_string();
    }

    /// All objects deleted and put back as a backup of manifests would: specs, no status.
    pub(in crate::tests) fn lose_status(&mut self) {
        self.cluster.status = keyfleet_crds::KmsClusterStatus::default();
        self.cluster.finalizer = false;
        self.bump_cluster();
        for epoch in self.epochs.values_mut() {
            self.version += 1;
            epoch.status = None;
            epoch.resource_version = self.version.to_string();
        }
    }

    /// Carries out one write, or refuses it as the real server would: by the version, by the rules.
    pub(super) fn carry_out(&mut self, action: Action, id: ClusterId) -> bool {
        self.version += 1;
        let version = self.version.to_string();
        let done = match action {
            Action::SetClusterFinalizer { present } => {
                self.cluster.finalizer = present;
                self.cluster.resource_version = version;
                true
            }
            Action::MintClusterId { resource_version, mut status } => {
                status.cluster_id = Some(id);
                self.update_cluster(&resource_version, *status, version)
            }
            Action::UpdateCluster { resource_version, status } => {
                self.update_cluster(&resource_version, *status, version)
            }
            Action::CreateEpoch(spec) => {
                let epoch = Epoch { resource_version: version, finalizer: false, spec: *spec, status: None };
                self.epochs.entry(epoch.spec.number).or_insert(epoch);
                true
            }
            Action::UpdateEpoch { number, resource_version, status } => match self.epochs.get_mut(&number) {
                Some(epoch) if epoch.resource_version == resource_version => {
                    epoch.status = Some(*status);
                    epoch.resource_version = version;
                    true
                }
                _ => false,
            },
            Action::SetEpochFinalizer { number, present } => match self.epochs.get_mut(&number) {
                Some(epoch) => {
                    epoch.finalizer = present;
                    // A merge patch without a version moves the version all the same.
                    epoch.resource_version = version;
                    true
                }
                None => false,
            },
            Action::DeleteEpoch { number } => {
                if self.epochs.get(&number).is_some_and(|epoch| !epoch.finalizer) {
                    self.epochs.remove(&number);
                }
                true
            }
            Action::CreateNode(spec) => {
                let node = node(*spec, version);
                self.nodes.entry(node.spec.index).or_insert(node);
                true
            }
            Action::UpdateNode { resource_version, spec } => match self.nodes.get_mut(&spec.index) {
                Some(node) if node.resource_version == resource_version => {
                    let repinned = node.spec.identity_key.is_some() && node.spec.identity_key != spec.identity_key;
                    assert!(!repinned, "a pin would change: the real server refuses that, so the operator is broken");
                    node.spec = *spec;
                    node.resource_version = version;
                    true
                }
                _ => false,
            },
            Action::ReleaseNode { index } => {
                if self.nodes.get(&index).is_some_and(|node| node.deleting) {
                    self.nodes.remove(&index);
                }
                true
            }
            Action::DeleteNode { index } => {
                self.nodes.remove(&index);
                true
            }
            Action::Evict { index } => self.nodes.get(&index).is_some_and(|node| node.outdated),
            Action::WriteRecord { resource_version, record } => {
                let current = self.record.as_ref().map(|(version, _)| version.to_string());
                if current != resource_version {
                    return false;
                }
                self.record = Some((self.version, *record));
                true
            }
            Action::DeleteRecord => {
                self.record = None;
                true
            }
        };
        if done {
            self.writes += 1;
        }
        done
    }

    fn update_cluster(&mut self, read: &str, status: keyfleet_crds::KmsClusterStatus, version: String) -> bool {
        if self.cluster.resource_version != read {
            return false;
        }
        self.cluster.status = status;
        self.cluster.resource_version = version;
        true
    }
}

fn node(spec: KmsNodeSpec, version: String) -> Node {
    Node {
        resource_version: version,
        deleting: false,
        spec,
        offered: None,
        offers: Vec::new(),
        ready: false,
        outdated: false,
        problems: Vec::new(),
        worker: None,
        zone: None,
        volume_handle: None,
        position: None,
        lag: Lag::default(),
        erased: false,
        plan_versions: vec![1],
    }
}
