//! The node at the API server: what it reads there, and the two objects that it writes.
//!
//! - [`seal`]: the Secret `<node>-seal`, one of the two key stores
//! - [`watching`]: the node's `KmsCluster`, the cluster's `KmsNode`s and `KeyEpoch`s, as they change
//! - [`last_known`]: what was read last, kept in the state file, so that a node that restarts meanwhile serves on
//! - [`rounds`]: plans and records as the round's facts, in the order that the protocol wants
//! - [`status`]: `status.node` of this node's `KmsNode`
//! - [`issuers`]: the keys that callers' tokens are signed with
//!
//! Nothing here is needed for serving: while the API server is away, what is known stays, and every task tries again.

pub(crate) mod issuers;
pub(crate) mod last_known;
pub(crate) mod rounds;
pub(crate) mod seal;
pub(crate) mod status;
pub(crate) mod watching;

use keyfleet_crds::node_config::NodeConfig;
use keyfleet_crds::values::ClusterId;
use keyfleet_crds::{KeyEpoch, KmsNode, names};
use kube::{Api, Client};

/// The API server, and who this node is there.
#[derive(Clone)]
pub(crate) struct ApiServer {
    client: Client,
    namespace: String,
    cluster: String,
    id: ClusterId,
    index: u32,
}

impl ApiServer {
    /// The API server behind `client`, for the node of a configuration.
    #[must_use]
    pub(crate) fn new(client: Client, config: &NodeConfig) -> Self {
        Self {
            client,
            namespace: config.namespace.clone(),
            cluster: config.cluster.clone(),
            id: config.cluster_id,
            index: config.index,
        }
    }

    /// The node's name: its `KmsNode`, Pod and ServiceAccount.
    #[must_use]
    pub(crate) fn node_name(&self) -> String {
        names::node(&self.cluster, self.index)
    }

    fn nodes(&self) -> Api<KmsNode> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn is_of_this_cluster(&self, node: &KmsNode) -> bool {
        node.spec.cluster_name == self.cluster && node.spec.cluster_id == self.id
    }

    fn is_epoch_of_this_cluster(&self, epoch: &KeyEpoch) -> bool {
        let named = epoch.metadata.name.as_deref() == Some(names::epoch(&self.cluster, epoch.spec.number).as_str());
        named && epoch.spec.cluster_id == self.id
    }
}
