//! `status.node`: what a node says of itself.
//!
//! Written with every new piece of key material, otherwise at most every ten minutes. The readable fields are for people
//! and for scheduling; what others rely on is signed (`offer`, `prekey`, `signedReport`).

use k8s_openapi::ByteString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::prekey::Prekey;
use crate::values::{Digest, IdentitySignature, PinnedKey};

/// Report of a node on itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// The identity key that the node offers to be pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<IdentityOffer>,
    /// The node's newest prekey: the next plan carries it, so that a share can be sealed to a node that is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prekey: Option<Prekey>,
    /// The epochs whose share it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["number".into()]))]
    pub epochs: Vec<HeldEpoch>,
    /// The epoch that it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_epoch: Option<u64>,
    /// The highest attempt number it has ever seen. Only rises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_number: Option<u64>,
    /// Position of the node's replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationPosition>,
    /// The id of the key-encryption key that it wraps under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub key_encryption_id: Option<String>,
    /// Ids of key-encryption keys that its data still need.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63)))]
    pub needed_key_encryption_ids: Vec<String>,
    /// Faults of what the node was given: keys, bucket, certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["about".into()]))]
    pub problems: Vec<Problem>,
    /// The plan versions that it understands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub plan_versions: Vec<u16>,
    /// The node's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub version: Option<String>,
    /// The node's last statement, under `deletionPolicy: Destroy`: a signature of the identity key over "volume and seal
    /// are erased".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased: Option<IdentitySignature>,
    /// The newest signed report, the same that opens its stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_report: Option<Signed>,
}

/// An identity key on offer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct IdentityOffer {
    /// The Ed25519 public key.
    pub key: PinnedKey,
    /// A signature of the key over cluster id, index and itself: the node has the private half.
    pub proof: IdentitySignature,
}

/// An epoch whose share a node holds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct HeldEpoch {
    /// Number of the epoch.
    pub number: u64,
    /// Digest of the epoch's plan.
    pub plan_digest: Digest,
    /// Digest of the epoch's verification vector.
    pub vector_digest: Digest,
}

/// Position of a node's replica.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationPosition {
    /// The writer's term.
    pub term: u64,
    /// The newest sequence number that S3 acknowledged.
    pub sequence: u64,
    /// The hash of that object.
    pub hash: Digest,
    /// Commits that S3 had not acknowledged when this was written; 0: everything is there.
    #[serde(default)]
    pub lag_commits: u64,
    /// Age of the oldest of them, in seconds.
    #[serde(default)]
    pub lag_seconds: u64,
    /// True once the pod has ended in order after this position, with nothing left to upload: the volume may go. Default
    /// false.
    #[serde(default)]
    pub flushed: bool,
}

/// Something wrong with what a node was given.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Subject of the problem.
    pub about: ProblemAbout,
    /// A condition reason, like `BucketMissing`.
    #[schemars(length(min = 1, max = 64))]
    pub reason: String,
    /// The fault, and the next step.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// Subject of a problem.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ProblemAbout {
    /// The key-encryption key.
    KeyEncryption,
    /// The two key stores.
    Seal,
    /// Replication.
    Replication,
    /// Certificates.
    Tls,
    /// Peers.
    Peers,
    /// The API server's record of epochs.
    Record,
}

/// Bytes and the node's signature over them, as `Round.Follow` sends them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// The canonical bytes, base64.
    #[schemars(with = "String", length(max = 65_536), extend("format" = "byte"))]
    pub payload: ByteString,
    /// The signature of the node's identity key.
    pub signature: IdentitySignature,
}
