//! `KmsNode`: one node of a fleet. The operator writes it, except `status.node`, which the node itself writes.
//!
//! - [`report`]: `status.node`, what the node says of itself

pub mod report;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::rules::{only_rises, written_once};
use crate::values::{ClusterId, PinnedKey};
pub use report::NodeReport;

/// One node of a fleet.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[kube(
    group = "keyfleet.dev",
    version = "v1alpha1",
    kind = "KmsNode",
    namespaced,
    status = "KmsNodeStatus",
    shortname = "kmsn",
    category = "keyfleet",
    derive = "PartialEq",
    doc = "One node of a fleet. The operator makes it; deleting it does not remove the node, which comes back under the same \
           index. Nodes are added and removed through the KmsCluster's nodes and removeNodes.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterName"),
    printcolumn(name = "Index", type_ = "integer", json_path = ".spec.index"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.node.activeEpoch"),
    printcolumn(name = "Worker", type_ = "string", json_path = ".status.worker"),
    printcolumn(name = "Zone", type_ = "string", json_path = ".status.zone", priority = "1"),
    printcolumn(name = "Identity", type_ = "string", json_path = ".spec.identityKey", priority = "1"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new(
        "self.metadata.name.matches('-[1-9][0-9]{0,9}$') && self.metadata.name.startsWith(self.spec.clusterName) \
         && self.metadata.name.lastIndexOf('-') == self.spec.clusterName.size() \
         && int(self.metadata.name.substring(self.metadata.name.lastIndexOf('-') + 1)) == self.spec.index"
    ).message(
        "metadata.name is not <clusterName>-<index>: a node's name says which it is. KmsNodes are made by the operator; \
         change the KmsCluster instead"
    ),
    validation = Rule::new(
        "self.spec.clusterName == oldSelf.spec.clusterName && self.spec.clusterId == oldSelf.spec.clusterId \
         && self.spec.index == oldSelf.spec.index"
    ).message(
        "spec.clusterName, spec.clusterId and spec.index say which node this is and never change. To replace a node, name its \
         index in the KmsCluster's removeNodes"
    ),
    validation = written_once("spec.identityKey", "a node with another key is another node; to replace it, name its index in \
        the KmsCluster's removeNodes"),
    validation = Rule::new("!oldSelf.spec.removed || self.spec.removed").message(
        "spec.removed cannot be taken back: the node may have erased its secrets already. Raise the KmsCluster's nodes to get a \
         new node"
    ),
    validation = only_rises("status.node.highestNumber", "a node never forgets a number that it has seen"),
    validation = only_rises("status.erasedThrough", "what is erased never comes back"),
    validation = only_rises("status.lastEpoch", "a share that a removed node got has to be erased"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!self.lost || self.removed").message(
    "spec.lost is for removed nodes: set removed as well"
))]
pub struct KmsNodeSpec {
    /// The `KmsCluster`, in the same namespace. A `KmsNode` without a live one has no pod.
    #[schemars(length(min = 1, max = 40))]
    pub cluster_name: String,
    /// The cluster's id: what adoption compares, since a cluster that is applied anew has another UID.
    pub cluster_id: ClusterId,
    /// The node's index: given once, never reused. Also its place on every sharing polynomial.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub index: u32,
    /// The node's identity key, pinned by the operator once the node has offered it. Written once. Others deal and connect
    /// only to this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_key: Option<PinnedKey>,
    /// The node is to be removed: it gets no share of new epochs, and destroys the shares it has as their epochs retire.
    /// Default false.
    #[serde(default)]
    pub removed: bool,
    /// The node will not come back: nobody waits for it to say that its secrets are destroyed. Default false.
    #[serde(default)]
    pub lost: bool,
}

/// State of a node: the node itself writes `node`, the operator the rest.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct KmsNodeStatus {
    /// The `metadata.generation` that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The worker it runs on, or last ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub worker: Option<String>,
    /// The worker's zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub zone: Option<String>,
    /// The image it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// The volume it keeps its state on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
    /// The newest epoch of which the node has signed that its secrets are gone. That covers every older one, too, except those
    /// that the newest active `KeyEpoch` lists as kept. Only rises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased_through: Option<u64>,
    /// The newest epoch that gave a removed node a share: once erased through it, the node has nothing left. Only rises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_epoch: Option<u64>,
    /// Where a removed node stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erasure: Option<crate::cluster::status::Erasure>,
    /// The node's own report. Only the node's own ServiceAccount may write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeReport>,
    /// The conditions: `Ready`, `IdentityPinned`, `Replicated`, `Placed`, `Erased`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A node's volume.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// The PersistentVolumeClaim.
    #[schemars(length(max = 253))]
    pub claim: String,
    /// The PersistentVolume bound to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// The storage's own handle of it, by which it is found again when all objects are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub handle: Option<String>,
}
