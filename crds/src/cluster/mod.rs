//! `KmsCluster`: what the user writes, and what the operator answers.
//!
//! - [`schedule`]: blocks, boundaries, deadlines
//! - [`storage`]: volumes, replication to S3, retention
//! - [`keys`]: the key-encryption key
//! - [`access`]: who may derive and sign
//! - [`pods`]: what users may shape of the pods
//! - [`status`]: what the operator reports

pub mod access;
pub mod keys;
pub mod pods;
pub mod schedule;
pub mod status;
pub mod storage;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules::{only_rises, written_once};
use crate::values::PublicKey;
pub use access::Access;
pub use keys::KeyEncryption;
pub use pods::{NetworkPolicy, PodTemplate};
pub use schedule::Schedule;
pub use status::{KmsClusterStatus, Phase};
pub use storage::{Replication, Storage};

/// The largest number of nodes.
pub const NODES_MAX: u32 = 100;

/// One fleet of key-management nodes that together hold one key, and no one of them alone.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[kube(
    group = "keyfleet.dev",
    version = "v1alpha1",
    kind = "KmsCluster",
    namespaced,
    status = "KmsClusterStatus",
    shortname = "kmsc",
    category = "keyfleet",
    derive = "PartialEq",
    doc = "A fleet of key-management nodes that together hold one key, and none of them alone. Applying one starts the \
           nodes, which generate a key no one ever holds and reshare it on block boundaries; the public key never changes.",
    scale(
        spec_replicas_path = ".spec.nodes",
        status_replicas_path = ".status.nodes",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Ready nodes of all nodes"),
    printcolumn(name = "Threshold", type_ = "integer", json_path = ".status.threshold"),
    printcolumn(name = "Key", type_ = "string", json_path = ".status.keyFingerprint", description = "First 16 digits of the public key"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.activeEpoch", description = "The active epoch"),
    printcolumn(name = "Next boundary", type_ = "integer", json_path = ".status.nextBoundary", description = "Block of the next round"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = "1"),
    printcolumn(name = "Cluster id", type_ = "string", json_path = ".status.clusterId", priority = "1"),
    printcolumn(name = "Public key", type_ = "string", json_path = ".status.publicKey", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40").message(
        "metadata.name has more than 40 characters: names of nodes, epochs and hosts are made from it. Choose a shorter name"
    ),
    validation = written_once("status.clusterId", "volumes, seals, S3 objects and tokens name the cluster by it"),
    validation = written_once("status.publicKey", "everything ever encrypted or signed depends on it"),
    validation = only_rises("status.nextNumber", "an epoch number is never used twice"),
    validation = only_rises("status.nextIndex", "a node's index is given once and never again"),
    validation = only_rises("status.lastProcessedBoundary", "a boundary is processed once"),
    validation = Rule::new(
        "!has(self.status) || !has(self.status.reservation) \
         || (has(self.status.nextNumber) && self.status.reservation.number < self.status.nextNumber)"
    ).message("status.reservation.number is not below status.nextNumber: write both in one update"),
    validation = Rule::new(
        "!has(self.status) || !has(self.status.reservation) || !has(oldSelf.status) || !has(oldSelf.status.nextNumber) \
         || self.status.reservation.number >= oldSelf.status.nextNumber || (has(oldSelf.status.reservation) \
         && self.status.reservation.number == oldSelf.status.reservation.number)"
    ).message(
        "status.reservation takes a number that was reserved before: take the status.nextNumber that was read, and raise it"
    ),
    validation = Rule::new(
        "!has(self.spec.expectedPublicKey) || !has(self.status) || !has(self.status.publicKey) \
         || self.spec.expectedPublicKey == self.status.publicKey"
    ).message(
        "spec.expectedPublicKey is not this fleet's public key (status.publicKey): a fleet never changes its key. Correct or \
         remove the field, or apply the manifest under another name"
    ),
    validation = Rule::new(
        "self.spec.schedule.source == oldSelf.spec.schedule.source || (has(self.spec.schedule.source.ethereum) \
         && has(oldSelf.spec.schedule.source.ethereum) \
         && self.spec.schedule.source.ethereum.chainId == oldSelf.spec.schedule.source.ethereum.chainId)"
    ).message(
        "spec.schedule.source cannot move to another chain or clock (of an Ethereum source everything but chainId may \
         change): heights of one say nothing about heights of another, and boundaries would be repeated or never come. Put \
         the old source back, or make a new cluster"
    ),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.threshold) || 2 * self.threshold > self.nodes").message(
    "threshold is not more than half of nodes: two halves of the fleet could act without knowing of each other. Raise \
     threshold above half of nodes, or leave it out to get two thirds"
))]
#[x_kube(validation = Rule::new("!has(self.threshold) || self.threshold <= self.nodes").message(
    "threshold is more than nodes: the key could never be used. Lower threshold below nodes, or leave it out to get two thirds"
))]
#[x_kube(validation = Rule::new("!has(self.threshold) || self.threshold != self.nodes || self.allowDowntime").message(
    "threshold equals nodes: one node away stops the whole fleet, and one node lost loses the key for good. Choose a lower \
     threshold or more nodes, or set allowDowntime: true to accept that"
))]
#[x_kube(validation = Rule::new(
    "!has(self.minHolders) || self.minHolders >= (has(self.threshold) ? self.threshold : (2 * self.nodes + 2) / 3)"
).message(
    "minHolders is below the threshold (absent: two thirds of nodes, rounded up): a round could end with fewer shares than \
     open the key. Raise minHolders, or leave it out"
))]
#[x_kube(validation = Rule::new("!has(self.minHolders) || self.minHolders <= self.nodes").message(
    "minHolders is more than nodes: no round could ever end. Choose at most the number of nodes"
))]
#[x_kube(validation = Rule::new("!has(self.removeNodes) || self.removeNodes.size() < self.nodes").message(
    "removeNodes names as many nodes as the fleet has: nobody would be left to hand the key on. Remove them in several steps"
))]
pub struct KmsClusterSpec {
    /// Number of nodes that hold a share of the key, 3 to 100. Default 4. Raising it adds nodes; lowering it removes those
    /// with the highest indexes, unless `removeNodes` names others. Either starts a reshare at once; the public key stays.
    #[serde(default = "defaults::nodes")]
    #[schemars(range(min = 3, max = 100))]
    pub nodes: u32,

    /// Number of nodes that together can use the key. Absent: two thirds of `nodes`, rounded up (3 of 4);
    /// `status.threshold` shows it. More than half of `nodes`, and less than all of them unless `allowDowntime`. Fewer than
    /// this many nodes learn nothing; the fleet serves while this many are up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 100))]
    pub threshold: Option<u32>,

    /// Number of nodes that must have stored their new share before a reshare becomes active. Absent: the threshold. Higher
    /// values trade rounds that fail while nodes are away for more nodes that serve right after a round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 100))]
    pub min_holders: Option<u32>,

    /// Accepts a threshold equal to `nodes`: any node away then stops the fleet, and any node lost loses the key. Default
    /// false.
    #[serde(default)]
    pub allow_downtime: bool,

    /// When the key is reshared, in blocks. Default: every 50 blocks of a clock with 12-second blocks, which is 10 minutes.
    #[serde(default)]
    pub schedule: Schedule,

    /// Number and age of the epochs that are kept. Superseded epochs are destroyed: shares of any old epoch open the key
    /// too.
    #[serde(default)]
    pub epochs: Epochs,

    /// The volume of each node. Default: 1Gi of the default storage class.
    #[serde(default)]
    pub storage: Storage,

    /// Continuous, sealed replication of each node's state to S3. Absent: a node that loses its volume has to be
    /// replaced, and the condition `Replicated` is False.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,

    /// The key-encryption key, under which everything secret is wrapped before it is stored anywhere.
    pub key_encryption: KeyEncryption,

    /// Callers that may use the key, and for what. Default: nobody.
    #[serde(default)]
    pub access: Access,

    /// Certificates. Default: the nodes' own, compared by pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// Nodes to be removed, by index. With `nodes` unchanged, each is replaced by a new node under a new index; with `nodes`
    /// lowered by as many, the fleet shrinks by exactly these. An entry may stay when the node is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["index".into()]))]
    pub remove_nodes: Vec<RemoveNode>,

    /// Decides what stays when this object is deleted. `Retain` (default) stops the pods and keeps key, volumes and record:
    /// applying the same manifest again brings the fleet back. `Destroy` erases the key for good.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// The public key that this fleet must have, 192 hexadecimal digits. Forbids generating a key: the fleet is adopted or
    /// restored, or it stays down and says why. Put it into manifests that are kept for disaster recovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_public_key: Option<PublicKey>,

    /// Stops the operator from starting rounds and changing pods; nodes serve on, and a round under way ends. Default
    /// false.
    #[serde(default)]
    pub paused: bool,

    /// The node image, with tag or digest. Absent: the one that the operator brings, fixed when the cluster is made, so
    /// that an upgrade of the operator rolls no pod; `status.image` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Settings of the nodes' pods that you may choose. Their security settings are fixed.
    #[serde(default)]
    pub pod_template: PodTemplate,

    /// The NetworkPolicy that the operator makes for the nodes.
    #[serde(default)]
    pub network_policy: NetworkPolicy,
}

/// The most confirmed epochs that a fleet may be told to keep.
pub(crate) const RETENTION_MAX: u32 = 10;

/// Number and age of the epochs that are kept.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Epochs {
    /// Number of confirmed epochs that are kept, 1 to 10, besides the active one and the one before it. Default 2.
    #[serde(default = "defaults::retention")]
    #[schemars(range(min = 1, max = RETENTION_MAX))]
    pub retention: u32,
    /// Seconds after which an active epoch is confirmed by those that answer, where not enough nodes hold it to confirm it
    /// at once. Default 86400 (a day).
    #[serde(default = "defaults::confirm_after_seconds")]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub confirm_after_seconds: u32,
    /// Number of failed `KeyEpoch`s that stay to be read, and of retired ones, 0 to 50 each, whatever a node still owes of them.
    /// Default 5.
    #[serde(default = "defaults::failed_history_limit")]
    #[schemars(range(max = 50))]
    pub failed_history_limit: u32,
}

impl Default for Epochs {
    fn default() -> Self {
        Self {
            retention: defaults::retention(),
            confirm_after_seconds: defaults::confirm_after_seconds(),
            failed_history_limit: defaults::failed_history_limit(),
        }
    }
}

/// Certificates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// A Secret of type `kubernetes.io/tls` (keys `tls.crt`, `tls.key`) with your own certificate for port 7443. Nodes read
    /// it anew when it changes. Absent: the nodes' own certificates.
    #[schemars(length(min = 1, max = 253))]
    pub kms_certificate_secret: String,
}

/// A node to be removed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoveNode {
    /// The node's index: the number at the end of its name.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub index: u32,
    /// Says that the node will not come back: `status.removedNodes` then shows its erasure as `Unproven` instead of
    /// `Pending`. Delete its volume and its seal Secret yourself. Default false.
    #[serde(default)]
    pub lost: bool,
}

/// Decides what stays of a deleted `KmsCluster`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DeletionPolicy {
    /// Pods stop; key, volumes, seals and record stay.
    #[default]
    Retain,
    /// Every node erases its volume and its seal; the key is gone for good.
    Destroy,
}

impl KmsClusterSpec {
    /// The threshold in force: as written, or two thirds of the nodes, rounded up.
    #[must_use]
    pub fn effective_threshold(&self) -> u32 {
        self.threshold.unwrap_or_else(|| (2 * self.nodes).div_ceil(3))
    }

    /// The number of holders in force: as written, or the threshold.
    #[must_use]
    pub fn effective_min_holders(&self) -> u32 {
        self.min_holders.unwrap_or_else(|| self.effective_threshold())
    }
}

/// Defaults that have no type of their own.
pub(crate) mod defaults {
    pub(crate) fn nodes() -> u32 {
        4
    }
    pub(crate) fn retention() -> u32 {
        2
    }
    pub(crate) fn confirm_after_seconds() -> u32 {
        86_400
    }
    pub(crate) fn failed_history_limit() -> u32 {
        5
    }
    pub(crate) fn yes() -> bool {
        true
    }
}
