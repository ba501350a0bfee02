//! A prekey, as a node shows it and a plan carries it.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::values::{IdentitySignature, PrekeyPoint};

/// The key under which shares are sealed to a node, signed by the node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prekey {
    /// Number of the prekey. Grows with every prekey of the node.
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub number: u64,
    /// The key.
    pub public_key: PrekeyPoint,
    /// The node's signature over cluster id, index, number and key.
    pub signature: IdentitySignature,
}

impl Prekey {
    /// The highest number that a kind can hold: above it JSON's readers differ.
    pub const NUMBER_MAX: u64 = 9_007_199_254_740_991;
}
