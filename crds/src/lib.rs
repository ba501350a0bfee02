//! Keyfleet's kinds, and everything else that operator, node and command line must spell alike.
//!
//! | Kind | Short | Written by | Is |
//! |---|---|---|---|
//! | [`KmsCluster`] | `kmsc` | people; its status by the operator | one fleet |
//! | [`KmsNode`] | `kmsn` | the operator; `status.node` by the node | one node |
//! | [`KeyEpoch`] | `ke` | the operator | one round's agreement record |
//!
//! - [`cluster`], [`node`], [`epoch`]: the kinds, a folder each; CEL rules stand beside the fields
//! - [`rules`]: the form of the rules that keep a field written once, or only rising
//! - [`values`]: keys, digests and ids as they are written in objects
//! - [`conditions`]: condition types and reasons, and how a condition is set
//! - [`convert`]: between a KeyEpoch, which people read, and the plan, which the protocol computes with
//! - [`names`], [`labels`]: names of objects, labels and finalizers
//! - [`record`]: the ConfigMap `<cluster>-record`
//! - [`node_config`], [`retention_config`]: the files that the operator renders and a node, or the retention job, reads;
//!   [`config_file`]: what they have in common
//! - [`patterns`]: the `*` patterns of access rules
//! - [`generate`]: the checked-in YAML and `docs/kinds.md`

#![warn(missing_docs)]
// `KubeSchema` copies each struct, `pub` included, into the body of a function.
#![expect(unreachable_pub)]

pub mod cluster;
pub mod conditions;
pub mod config_file;
pub mod convert;
pub mod epoch;
pub mod generate;
pub mod labels;
pub mod names;
pub mod node;
pub mod node_config;
pub mod patterns;
pub mod prekey;
pub mod record;
pub mod retention_config;
pub mod rules;
pub mod values;

pub use cluster::{KmsCluster, KmsClusterSpec, KmsClusterStatus};
pub use epoch::{KeyEpoch, KeyEpochSpec, KeyEpochStatus};
pub use node::{KmsNode, KmsNodeSpec, KmsNodeStatus};

/// The API group of all kinds.
pub const GROUP: &str = "keyfleet.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";
