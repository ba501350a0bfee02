//! `KeyEpoch`: one attempt at a DKG or reshare. Its spec is the plan; its status the agreement record.
//!
//! - [`status`]: the record

pub mod status;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::cluster::schedule::Deadlines as ClusterDeadlines;
use crate::prekey::Prekey;
use crate::rules::{only_rises, written_once};
use crate::values::{ClusterId, Digest, PinnedKey, PublicKey};
pub use status::{KeyEpochStatus, Phase};

/// One attempt at a round. Its spec is the plan: immutable, complete, without defaults.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[kube(
    group = "keyfleet.dev",
    version = "v1alpha1",
    kind = "KeyEpoch",
    plural = "keyepochs",
    namespaced,
    status = "KeyEpochStatus",
    shortname = "ke",
    category = "keyfleet",
    derive = "PartialEq",
    doc = "One attempt to generate or reshare a fleet's key, and the record of what its nodes agreed on. Made by the operator; \
           to be read, not written.",
    printcolumn(name = "Number", type_ = "integer", json_path = ".spec.number"),
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "Block", type_ = "integer", json_path = ".spec.block"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Threshold", type_ = "integer", json_path = ".spec.threshold"),
    printcolumn(name = "Holders", type_ = "string", json_path = ".status.held", description = "Nodes that hold their share"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.failure.reason"),
    printcolumn(name = "Vector", type_ = "string", json_path = ".status.vectorDigest", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new(
        "self.metadata.name.matches('-[1-9][0-9]{0,15}$') \
         && int(self.metadata.name.substring(self.metadata.name.lastIndexOf('-') + 1)) == self.spec.number"
    ).message(
        "metadata.name does not end in the epoch's number: KeyEpochs are made by the operator. To start a round, annotate the \
         KmsCluster with keyfleet.dev/reshare"
    ),
    validation = Rule::new("self.spec == oldSelf.spec").message(
        "a KeyEpoch's spec never changes: every message of the round is bound to it. To start a round, annotate the KmsCluster \
         with keyfleet.dev/reshare"
    ),
    validation = written_once("status.dealers", "nodes compute their shares from exactly this set"),
    validation = written_once("status.responses", "who qualified is computed from exactly these"),
    validation = written_once("status.qualified", "nodes compute their shares from exactly these dealers"),
    validation = written_once("status.holders", "the public shares belong to the certified vector"),
    validation = written_once("status.vectorDigest", "it names the one polynomial of this epoch"),
    validation = written_once("status.certificate", "it proves the one polynomial of this epoch"),
    validation = only_rises("status.phaseBlock", "deadlines count from it"),
    validation = Rule::new(
        "!has(oldSelf.status) || !has(oldSelf.status.phase) || (has(self.status) && has(self.status.phase))"
    ).message("status.phase cannot be removed: a round's verdict stands"),
    validation = Rule::new(
        "!has(oldSelf.status) || !has(oldSelf.status.phase) || !has(self.status) || !has(self.status.phase) \
         || self.status.phase == oldSelf.status.phase || (!(oldSelf.status.phase in ['Failed', 'Retired']) \
         && {'Dealing': 1, 'Verifying': 2, 'Preparing': 3, 'Certifying': 4, 'Failed': 5, 'Active': 6, 'Confirmed': 7, \
         'Retired': 8}[self.status.phase] > {'Dealing': 1, 'Verifying': 2, 'Preparing': 3, 'Certifying': 4, 'Failed': 5, \
         'Active': 6, 'Confirmed': 7, 'Retired': 8}[oldSelf.status.phase])"
    ).message(
        "status.phase only moves forward (Dealing, Verifying, Preparing, Certifying, then Active, Confirmed, Retired), and a \
         round that Failed or Retired stays so: its secrets are destroyed"
    ),
    validation = Rule::new(
        "!has(self.status) || !has(self.status.phase) || !(self.status.phase in ['Active', 'Confirmed', 'Retired']) \
         || (has(self.status.dealers) && has(self.status.responses) && has(self.status.qualified) \
         && has(self.status.holders) && has(self.status.vectorDigest) && has(self.status.certificate))"
    ).message(
        "an epoch is Active only with dealers, responses, qualified, holders, vectorDigest and certificate in its status: write \
         them first"
    ),
    validation = Rule::new(
        "!has(self.status) || !has(self.status.kept) || (has(self.status.certificate) && self.status.kept.isSorted() \
         && self.status.kept.all(number, number < self.spec.number))"
    ).message(
        "status.kept does not ascend, names a number at or above the epoch's own, or stands where there is no certificate: list \
         only older epochs, in an epoch that is active"
    ),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "self.kind == 'Genesis' ? !has(self.source) && !has(self.oldThreshold) && !has(self.expectedPublicKey) \
     : has(self.source) && has(self.oldThreshold) && has(self.expectedPublicKey)"
).message("a Reshare has source, oldThreshold and expectedPublicKey; a Genesis has none of them"))]
#[x_kube(validation = Rule::new("2 * self.threshold > self.receivers.size()").message(
    "threshold is not more than half of the receivers"
))]
#[x_kube(validation = Rule::new("self.threshold <= self.minHolders && self.minHolders <= self.receivers.size()").message(
    "minHolders is not between threshold and the number of receivers"
))]
#[x_kube(validation = Rule::new("self.kind != 'Genesis' || self.dealers.size() == self.receivers.size()").message(
    "at genesis every receiver deals"
))]
#[x_kube(validation = Rule::new("!has(self.source) || self.source.number < self.number").message(
    "source.number is not below number: a round starts from an earlier epoch"
))]
#[x_kube(validation = Rule::new(
    "self.dealers.map(dealer, dealer.index).isSorted() && self.receivers.map(receiver, receiver.index).isSorted() \
     && self.expected.isSorted()"
).message("dealers, receivers and expected ascend by index: their order is part of the plan's digest"))]
pub struct KeyEpochSpec {
    /// Version of the plan's encoding: it names the fields. The operator writes the highest version that all nodes know;
    /// nodes refuse one they do not know.
    #[schemars(range(min = 1, max = 65_535))]
    pub plan_version: u16,
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// The attempt's number: above every number before it, failed attempts included.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_u64))]
    pub number: u64,
    /// `Genesis` generates the key, `Reshare` shares it anew.
    pub kind: RoundKind,
    /// The block for which the round was started: a boundary, or the current block of a round that starts at once.
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub block: u64,
    /// The epoch whose shares are dealt on. Reshare only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The source's threshold: the number of dealers that must qualify. Reshare only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 100))]
    pub old_threshold: Option<u32>,
    /// Number of receivers that together can use the key.
    #[schemars(range(min = 2, max = 100))]
    pub threshold: u32,
    /// Number of receivers that must have stored their share before the epoch becomes active. At genesis: all.
    #[schemars(range(min = 2, max = 100))]
    pub min_holders: u32,
    /// Nodes that may deal, ascending by index: at a reshare all receivers of the source.
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["index".into()]))]
    pub dealers: Vec<Dealer>,
    /// Nodes that get a share, ascending by index; nodes that are away included.
    #[schemars(length(min = 3, max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["index".into()]))]
    pub receivers: Vec<Receiver>,
    /// Indexes of those whom phases wait for, ascending: at genesis all, otherwise who was connected.
    #[schemars(length(max = 200))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub expected: Vec<u32>,
    /// Longest duration of each phase, in blocks.
    pub deadlines: Deadlines,
    /// The fleet's public key, which the round must not change. Reshare only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_public_key: Option<PublicKey>,
}

/// Kind of a round.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RoundKind {
    /// Generates a key.
    Genesis,
    /// Shares the key anew.
    Reshare,
}

/// The epoch whose shares are dealt on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// Number of the source epoch.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_u64))]
    pub number: u64,
    /// Digest of the source's plan.
    pub plan_digest: Digest,
    /// The digest of its verification vector.
    pub vector_digest: Digest,
}

/// A node that may deal.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dealer {
    /// Index of the node.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub index: u32,
    /// Pinned identity key of the node.
    pub identity_key: PinnedKey,
}

/// A node that gets a share.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Receiver {
    /// Index of the node.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub index: u32,
    /// Pinned identity key of the node.
    pub identity_key: PinnedKey,
    /// The prekey that its share is sealed to. Absent if the node had shown none: it gets no share of this epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prekey: Option<Prekey>,
}

/// Longest duration of each phase, in blocks from the block at which it was opened. All are written out.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Deadlines {
    /// Blocks for dealing, freezing included.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub dealing_blocks: u32,
    /// Blocks for verifying.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub verifying_blocks: u32,
    /// Blocks for preparing.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub preparing_blocks: u32,
    /// Blocks for certifying.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub certifying_blocks: u32,
}

impl From<ClusterDeadlines> for Deadlines {
    fn from(cluster: ClusterDeadlines) -> Self {
        let ClusterDeadlines { dealing_blocks, verifying_blocks, preparing_blocks, certifying_blocks } = cluster;
        Self { dealing_blocks, verifying_blocks, preparing_blocks, certifying_blocks }
    }
}
