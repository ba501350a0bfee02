//! Status of a cluster, as the operator reports it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::{ClusterId, PublicKey};

/// Report of the operator. The live block height is a metric, not a field: an idle fleet costs no writes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct KmsClusterStatus {
    /// The `metadata.generation` that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The fleet's activity, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why, and what to do next where there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub reason: Option<String>,
    /// The cluster's id: 16 random bytes, minted once, that survive every restore. Written once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<ClusterId>,
    /// The fleet's public key, a compressed point of BLS12-381's G2 (96 bytes). Written once, at the end of genesis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
    /// The public key's first 16 digits, for tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub key_fingerprint: Option<String>,
    /// Number of nodes that together can use the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u32>,
    /// Number of nodes that must have stored their share before a reshare becomes active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_holders: Option<u32>,
    /// Number of `KmsNode`s of the fleet, without those that are being removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// Number of nodes that serve the active epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_nodes: Option<u32>,
    /// Both as text, like `3/4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub ready: Option<String>,
    /// The label selector of the nodes' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub selector: Option<String>,
    /// The number of the active epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_epoch: Option<u64>,
    /// The newest boundary for which a round was decided on. Only rises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_processed_boundary: Option<u64>,
    /// The block of the next round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_boundary: Option<u64>,
    /// The block at which the operator last decided something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_decision_block: Option<u64>,
    /// The number that the next attempt takes. Only rises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_number: Option<u64>,
    /// The index that the next node takes. Only rises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_index: Option<u64>,
    /// The round under way: its number was taken before its `KeyEpoch` was made, so that two operators cannot start two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Reservation>,
    /// Number of failed rounds since the last success. The more there are, the longer the next attempt waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_in_row: Option<u32>,
    /// The block before which no new attempt is made, after failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at_block: Option<u64>,
    /// The nodes in short.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["index".into()]))]
    pub node_summary: Vec<NodeSummary>,
    /// Nodes that were removed, the newest 100, and the state of their secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["index".into()]))]
    pub removed_nodes: Vec<RemovedNode>,
    /// The node image in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// The value of the annotation `keyfleet.dev/reshare` that was last answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub answered_reshare_request: Option<String>,
    /// The conditions: `Ready`, `Progressing`, `Degraded`, `EpochCurrent`, `Replicated`, `PlacementAtRisk`, `QuorumAtRisk`,
    /// `QuorumLost`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Activity of a fleet.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Phase {
    /// Nodes are being made; there is no key yet.
    Starting,
    /// The key is being generated.
    Genesis,
    /// The fleet serves.
    Ready,
    /// The fleet serves, and nodes are being added, removed or replaced.
    Changing,
    /// The fleet serves, and something needs a look.
    Degraded,
    /// Too few nodes are up: nothing is served.
    Unavailable,
    /// Nothing is decided until someone has answered what `reason` asks.
    Blocked,
    /// `spec.paused` is set.
    Paused,
    /// The object is being deleted.
    Deleting,
}

/// The round under way.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// The number that its `KeyEpoch` has or will have.
    pub number: u64,
    /// The boundary it is for; absent for rounds that start at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<u64>,
    /// The block at which it was decided.
    pub block: u64,
    /// The generation of the spec it was decided by.
    pub generation: i64,
}

/// One node in short.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct NodeSummary {
    /// Index of the node.
    pub index: u32,
    /// True while the node serves the active epoch.
    pub ready: bool,
    /// The newest epoch it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The worker it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub worker: Option<String>,
    /// The worker's zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub zone: Option<String>,
    /// The fault, and the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub problem: Option<String>,
}

/// A node that was removed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct RemovedNode {
    /// Index of the node. No other node will have it.
    pub index: u32,
    /// State of the node's secrets.
    pub erasure: Erasure,
    /// The first epoch without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_epoch: Option<u64>,
}

/// State of a removed node's secrets.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Erasure {
    /// The node destroys its shares as their epochs retire. It has not signed that everything secret is gone.
    Pending,
    /// The node has signed that everything secret it had is destroyed.
    Proven,
    /// The node was given up as lost: nothing proves that its secrets are gone. Delete its volume and its seal Secret.
    Unproven,
}
