//! The agreement record of a round. The operator alone writes it; frozen fields are written once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::{BlsSignature, Digest, PublicKey};

/// The record of a round. Bundles, answers and evidence are named by digest: nodes serve what the digests stand for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct KeyEpochStatus {
    /// Where the round stands. Moves forward only; `Failed` and `Retired` are final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The block at which the phase was opened: its deadline counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_block: Option<u64>,
    /// The plan's digest: SHA-256 of its canonical encoding, bound into every message of the round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_digest: Option<Digest>,
    /// The dealers whose bundles count, ascending, frozen when dealing ended. Written once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub dealers: Option<Vec<FrozenDealer>>,
    /// The answers that count, ascending, frozen when verifying ended. Written once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub responses: Option<Vec<FrozenResponse>>,
    /// The dealers that qualified, ascending: what the answers make of the dealers. Written once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub qualified: Option<Vec<u32>>,
    /// The nodes that held their share at activation, ascending, with the public half of each share. Written once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub holders: Option<Vec<Holder>>,
    /// The digest of the epoch's verification vector: the commitments to the polynomial that shares lie on. Written once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_digest: Option<Digest>,
    /// The proof that threshold new shares together sign under the unchanged public key. Written once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// Nodes known to hold their share now: holders, and those that caught up, without any that claims its share and cannot
    /// prove it to the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub possessors: Vec<u32>,
    /// Number of nodes that hold their share, of all receivers, like `4/4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub held: Option<String>,
    /// Nodes that broke the protocol, with the digest of the evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub culprits: Vec<Culprit>,
    /// Why the round failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Numbers of the epochs below this one whose secrets are kept, ascending. Nodes destroy what the newest active epoch does not
    /// list here, once they know that enough nodes hold a newer one; what an older epoch lists is of its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 14), inner(range(min = 1, max = 9_007_199_254_740_991_u64)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub kept: Option<Vec<u64>>,
    /// When each phase began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// Where a round stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Dealers send their bundles; receivers say which they have.
    Dealing,
    /// Receivers check the frozen bundles and answer.
    Verifying,
    /// Receivers compute and store their shares.
    Preparing,
    /// Holders sign with their new shares.
    Certifying,
    /// The round ended without an epoch; the one before serves on.
    Failed,
    /// The epoch serves.
    Active,
    /// Enough nodes hold it that older epochs may be retired.
    Confirmed,
    /// The epoch's secrets are destroyed.
    Retired,
}

/// A dealer whose bundle counts.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct FrozenDealer {
    /// Index of the node.
    pub index: u32,
    /// The digest of its bundle.
    pub bundle_digest: Digest,
}

/// A receiver's answer that counts.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct FrozenResponse {
    /// The receiver's index.
    pub index: u32,
    /// The digest of its answer.
    pub response_digest: Digest,
}

/// A node that held its share at activation.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Index of the node.
    pub index: u32,
    /// The public half of its share: partial signatures are checked against it.
    pub public_share: PublicKey,
}

/// The proof that an epoch's shares sign under the fleet's public key.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// The combined signature over the certificate message (cluster id, plan digest, vector digest, number).
    pub signature: BlsSignature,
    /// Indexes of the holders whose partial signatures were combined.
    #[schemars(length(min = 2, max = 100))]
    pub signers: Vec<u32>,
}

/// A node that broke the protocol.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Culprit {
    /// Index of the node.
    pub index: u32,
    /// The node's fault.
    pub fault: Fault,
    /// Digests of the signed messages that prove it. Empty where silence is the fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub evidence_digests: Vec<Digest>,
}

/// Fault of a culprit.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The node was expected and sent no bundle in time.
    NoDealing,
    /// The node was expected and gave no answer to the frozen bundles in time that others have.
    NoResponse,
    /// The node signed two different messages where one is allowed.
    Equivocation,
    /// The bundle is not one of this plan, or a proof in it is wrong.
    InvalidDealing,
    /// The node dealt a share that does not fit its commitments.
    InvalidShare,
    /// The node dealt another share than the one it holds of the source epoch.
    WrongSource,
    /// The node complained about a good share.
    FalseComplaint,
    /// The node signed a message that no node may send.
    Malformed,
}

/// Why a round failed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// A condition reason, like `TooFewHolders`.
    #[schemars(length(min = 1, max = 64))]
    pub reason: String,
    /// Number of messages that came in time, number needed, and what happens next.
    #[schemars(length(max = 2048))]
    pub message: String,
}

/// When each phase began.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// Dealing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dealing: Option<Time>,
    /// Verifying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifying: Option<Time>,
    /// Preparing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparing: Option<Time>,
    /// Certifying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certifying: Option<Time>,
    /// The round ended: active, or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Time>,
    /// Confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<Time>,
    /// Retired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Time>,
}
