//! Ports and token audiences.

use crate::values::ClusterId;

/// gRPC `Round`: between nodes (mutual TLS by pinned identity) and to the operator (TLS by pin, and a token).
pub const ROUND_PORT: u16 = 7400;
/// gRPC `Kms` for callers (TLS and a token), with health and reflection.
pub const KMS_PORT: u16 = 7443;
/// HTTP `/health`, `/ready`, `/status`, `/metrics`.
pub const HTTP_PORT: u16 = 9090;

/// Names of the ports in Services and Pods.
pub const ROUND_PORT_NAME: &str = "round";
/// See [`KMS_PORT`].
pub const KMS_PORT_NAME: &str = "kms";
/// See [`HTTP_PORT`].
pub const HTTP_PORT_NAME: &str = "http";

const AUDIENCE_PREFIX: &str = "keyfleet.dev/";

/// The audience of a token for one node: `keyfleet.dev/<cluster id>/<node index>`. What one node sees opens no other.
#[must_use]
pub fn audience(cluster: &ClusterId, node_index: u32) -> String {
    format!("{AUDIENCE_PREFIX}{cluster}/{node_index}")
}

/// Returns true for a token that is for exactly this node: its only Keyfleet audience is the node's.
#[must_use]
pub fn is_audience_of<'a>(audiences: impl IntoIterator<Item = &'a str>, cluster: &ClusterId, node_index: u32) -> bool {
    let own = audience(cluster, node_index);
    let mut keyfleet = audiences.into_iter().filter(|audience| audience.starts_with(AUDIENCE_PREFIX)).peekable();
    keyfleet.peek().is_some() && keyfleet.all(|audience| audience == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_one_node_only() {
        let (id, other) = (ClusterId([7; 16]), ClusterId([8; 16]));
        let own = audience(&id, 3);
        assert_eq!(own, "keyfleet.dev/07070707070707070707070707070707/3");
        assert!(is_audience_of([own.as_str()], &id, 3));
        assert!(
            is_audience_of([own.as_str(), "https://kubernetes.default.svc"], &id, 3),
            "audiences of other services do not count"
        );
        assert!(!is_audience_of([own.as_str(), &audience(&id, 4)], &id, 3), "node 3 could use it at node 4");
        assert!(!is_audience_of([audience(&other, 3).as_str()], &id, 3), "another cluster's");
        assert!(!is_audience_of(["https://kubernetes.default.svc"], &id, 3), "no Keyfleet audience");
        assert!(!is_audience_of([], &id, 3));
    }
}
