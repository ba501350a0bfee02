//! Who decides which nodes belong to the fleet.

use k8s_openapi::ByteString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::{IdentitySignature, PinnedKey};

/// Who decides which nodes belong to the fleet.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Membership {
    /// `Operator` (default): the operator, and whoever controls it or the API server, can take the key. `Approved`: nodes deal
    /// only to members of a roster that offline keys have signed. There is no way back to `Operator`.
    #[serde(default)]
    pub mode: MembershipMode,
    /// The roster in force, with mode `Approved`. Made and signed with `keyfleet roster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roster: Option<SignedRoster>,
}

/// Who decides on members.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MembershipMode {
    /// The operator.
    #[default]
    Operator,
    /// The approvers, by a signed roster.
    Approved,
}

/// A roster with its approvers' signatures.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedRoster {
    /// The roster's sequence number, for people: what counts is the one inside the payload. Must not fall.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_u64))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message(
        "the roster's sequence falls: nodes refuse a roster older than one they have seen. Apply the newest roster"
    ))]
    pub sequence: u64,
    /// The roster's canonical bytes, base64 (see the formats page): members, threshold, recovery recipients, key-encryption
    /// source, digest of the access rules, image digests, next approvers.
    #[schemars(with = "String", length(max = 65_536), extend("format" = "byte"))]
    pub payload: ByteString,
    /// The approvers' signatures over the payload's digest.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["approver".into()]))]
    pub signatures: Vec<RosterSignature>,
}

/// One approver's signature.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RosterSignature {
    /// The approver's Ed25519 public key.
    pub approver: PinnedKey,
    /// Its signature.
    pub signature: IdentitySignature,
}
