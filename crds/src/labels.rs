//! Labels, annotations, finalizers and field managers.

/// Label: the cluster's name.
pub const CLUSTER: &str = "keyfleet.dev/cluster";
/// Label on volumes, seals and `KmsNode`s: the cluster id, which adoption compares (a UID changes when objects are re-applied).
pub const CLUSTER_ID: &str = "keyfleet.dev/cluster-id";
/// Label: the node's index.
pub const NODE_INDEX: &str = "keyfleet.dev/node-index";
/// Label on `KeyEpoch`s: the epoch's number.
pub const EPOCH_NUMBER: &str = "keyfleet.dev/epoch-number";
/// Label: what an object is for, one of [`component`].
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Label: who applied an object; always [`FIELD_MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: always `keyfleet`.
pub const APP_NAME: &str = "app.kubernetes.io/name";
/// Label: the cluster's name, in the spelling that dashboards know.
pub const APP_INSTANCE: &str = "app.kubernetes.io/instance";

/// Values of [`COMPONENT`].
pub mod component {
    /// A node's pod and what belongs to it.
    pub const NODE: &str = "node";
    /// The job that deletes what is past retention.
    pub const RETENTION: &str = "retention";
}

/// Annotation on a Pod: SHA-256 of the configuration it was made from; a difference is why it is rolled.
pub const CONFIG_DIGEST: &str = "keyfleet.dev/config-digest";
/// Annotation on a `KmsCluster`: any new value starts a round at once, once per value.
pub const RESHARE_REQUEST: &str = "keyfleet.dev/reshare";

/// Finalizer on `KmsCluster`: flush, stop, and by policy keep or destroy.
pub const CLUSTER_FINALIZER: &str = "keyfleet.dev/cluster";
/// Finalizer on `KmsNode`: released at once; it exists so that the deletion is seen and the node comes back.
pub const NODE_FINALIZER: &str = "keyfleet.dev/node";
/// Finalizer on the active `KeyEpoch`: the record of the key in use.
pub const EPOCH_FINALIZER: &str = "keyfleet.dev/active-epoch";

/// Field manager of the operator's applies.
pub const FIELD_MANAGER: &str = "keyfleet-operator";
/// Field manager of a node's writes to its `status.node`.
pub const NODE_FIELD_MANAGER: &str = "keyfleet-node";

/// The selector of a cluster's nodes, as `kubectl --selector` and the scale subresource take it.
#[must_use]
pub fn node_selector(cluster: &str) -> String {
    format!("{CLUSTER}={cluster},{COMPONENT}={}", component::NODE)
}
