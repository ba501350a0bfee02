//! Agreements of callers, nodes and operator beside the messages: ports, host names and token audiences.
//!
//! [`record`] is the fleet's public record, `client.json`.

pub mod record;

use keyfleet_threshold::identifiers::ClusterId;

pub use record::{FleetRecord, Hex, RecordError, RecordNode};

/// Port of gRPC `Round`: between nodes (mutual TLS by pinned identity) and to the operator (TLS by pin, and a token).
pub const ROUND_PORT: u16 = 7400;
/// Port of gRPC `Kms` for callers (TLS and a token), with health and reflection.
pub const KMS_PORT: u16 = 7443;
/// Port of HTTP `/health`, `/ready`, `/status`, `/metrics`.
pub const HTTP_PORT: u16 = 9090;

/// Name of [`ROUND_PORT`] in Services and Pods.
pub const ROUND_PORT_NAME: &str = "round";
/// Name of [`KMS_PORT`] in Services and Pods.
pub const KMS_PORT_NAME: &str = "kms";
/// Name of [`HTTP_PORT`] in Services and Pods.
pub const HTTP_PORT_NAME: &str = "http";

const AUDIENCE_PREFIX: &str = "keyfleet.dev/";

/// Returns the audience of tokens for one node, `keyfleet.dev/<cluster id>/<node index>`. A token that one node has seen
/// is refused by every other.
#[must_use]
pub fn audience(cluster: ClusterId, node_index: u32) -> String {
    format!("{AUDIENCE_PREFIX}{cluster}/{node_index}")
}

/// Checks that a token with these audiences is for exactly this node: its only Keyfleet audience is the node's.
#[must_use]
pub fn is_audience_of<'a>(audiences: impl IntoIterator<Item = &'a str>, cluster: ClusterId, node_index: u32) -> bool {
    let own = audience(cluster, node_index);
    let mut keyfleet = audiences.into_iter().filter(|audience| audience.starts_with(AUDIENCE_PREFIX)).peekable();
    keyfleet.peek().is_some() && keyfleet.all(|audience| audience == own)
}

/// Returns a node's host name inside the Kubernetes cluster, without the cluster domain.
#[must_use]
pub fn node_host(cluster: &str, node_index: u32, namespace: &str) -> String {
    format!("{cluster}-{node_index}.{cluster}-nodes.{namespace}.svc")
}

/// Returns the host name of the Service that leads to any node, without the cluster domain.
#[must_use]
pub fn service_host(cluster: &str, namespace: &str) -> String {
    format!("{cluster}.{namespace}.svc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_one_node_only() {
        let (id, other) = (ClusterId([7; 16]), ClusterId([8; 16]));
        let own = audience(id, 3);
        assert_eq!(own, "keyfleet.dev/07070707070707070707070707070707/3");
        assert!(is_audience_of([own.as_str()], id, 3));
        assert!(
            is_audience_of([own.as_str(), "https://kubernetes.default.svc"], id, 3),
            "other audiences are no hindrance"
        );
        assert!(!is_audience_of([own.as_str(), &audience(id, 4)], id, 3), "node 3 could use it at node 4");
        assert!(!is_audience_of([audience(other, 3).as_str()], id, 3), "another cluster's");
        assert!(!is_audience_of(["https://kubernetes.default.svc"], id, 3), "no Keyfleet audience");
        assert!(!is_audience_of([], id, 3));
    }

    #[test]
    fn host_names_are_those_of_the_contract() {
        assert_eq!(node_host("keys", 3, "prod"), "keys-3.keys-nodes.prod.svc");
        assert_eq!(service_host("keys", "prod"), "keys.prod.svc");
    }
}
