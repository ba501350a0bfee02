//! Objects of a `KmsCluster` and its `KmsNode`s: pure functions from kinds to objects.
//!
//! - `pod`: a node's Pod
//! - [`storage`]: its volume claim and its empty seal
//! - `network`: Services, NetworkPolicy, PodDisruptionBudget
//! - [`access`]: ServiceAccounts, Roles, bindings
//! - `config`: the node's configuration file
//! - `retention`: the CronJob that deletes what no replica needs any more
//!
//! Volume claims and seals have no owner: they outlive everything but the node's own erasure. All else belongs to the
//! `KmsNode` or the `KmsCluster` and goes with it. Golden files of every object lie in `golden/`.

pub mod access;
pub(crate) mod config;
pub(crate) mod network;
pub(crate) mod pod;
pub(crate) mod retention;
pub mod storage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keyfleet_crds::values::ClusterId;
use keyfleet_crds::{KmsCluster, KmsNode, labels};
use kube::{Resource, ResourceExt};

/// Validated input of all builders: a cluster with its id, in a namespace.
#[derive(Clone, Copy, Debug)]
pub struct Fleet<'a> {
    /// The `KmsCluster`.
    pub cluster: &'a KmsCluster,
    /// Id of the cluster.
    pub id: ClusterId,
    /// Namespace of the cluster.
    pub namespace: &'a str,
    /// Name of the cluster.
    pub name: &'a str,
    /// The node image in force.
    pub image: &'a str,
    /// The subject of the operator's own tokens.
    pub operator: &'a str,
}

/// A cluster that nothing can be built from yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotReadyError {
    /// The cluster has no id yet.
    #[error("the cluster has no id yet")]
    NoId,
    /// The API server gave an object without name or namespace.
    #[error("the object has no name or namespace")]
    Nameless,
}

impl<'a> Fleet<'a> {
    /// Validates.
    ///
    /// # Errors
    /// When the cluster has no id, name or namespace.
    pub fn of(cluster: &'a KmsCluster, default_image: &'a str, operator: &'a str) -> Result<Self, NotReadyError> {
        let status = cluster.status.as_ref();
        Ok(Self {
            cluster,
            id: status.and_then(|status| status.cluster_id).ok_or(NotReadyError::NoId)?,
            namespace: cluster.metadata.namespace.as_deref().ok_or(NotReadyError::Nameless)?,
            name: cluster.metadata.name.as_deref().ok_or(NotReadyError::Nameless)?,
            image: cluster
                .spec
                .image
                .as_deref()
                .or_else(|| status.and_then(|status| status.image.as_deref()))
                .unwrap_or(default_image),
            operator,
        })
    }

    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (labels::APP_NAME.into(), "keyfleet".into()),
            (labels::APP_INSTANCE.into(), self.name.into()),
            (labels::MANAGED_BY.into(), labels::FIELD_MANAGER.into()),
            (labels::CLUSTER.into(), self.name.into()),
        ])
    }

    fn node_labels(&self, index: u32) -> BTreeMap<String, String> {
        let mut all = self.labels();
        all.extend([
            (labels::COMPONENT.into(), labels::component::NODE.into()),
            (labels::NODE_INDEX.into(), index.to_string()),
            (labels::CLUSTER_ID.into(), self.id.to_string()),
        ]);
        all
    }

    /// The labels by which policies, budgets and Services select a cluster's nodes.
    fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (labels::CLUSTER.into(), self.name.into()),
            (labels::COMPONENT.into(), labels::component::NODE.into()),
        ])
    }

    fn metadata(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.into()),
            labels: Some(self.labels()),
            owner_references: owner(self.cluster).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }

    /// Without an owner: what stays when the cluster is deleted.
    fn kept(&self, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.into()),
            labels: Some(labels),
            ..ObjectMeta::default()
        }
    }

    fn node_metadata(&self, node: &KmsNode, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.into()),
            labels: Some(self.node_labels(node.spec.index)),
            owner_references: owner(node).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }
}

/// The controlling owner reference; none before the API server has given a UID.
fn owner<K: Resource<DynamicType = ()>>(object: &K) -> Option<OwnerReference> {
    object.controller_owner_ref(&()).map(|owner| OwnerReference { block_owner_deletion: None, ..owner })
}

/// The name of a `KmsNode`, which is the node's.
#[must_use]
pub fn node_name(node: &KmsNode) -> String {
    node.name_any()
}
