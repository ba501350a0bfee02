//! Names of the objects of a cluster: pure functions, so that no two parts of Keyfleet spell one differently.

/// The headless Service under which each node has a host name.
#[must_use]
pub fn headless_service(cluster: &str) -> String {
    format!("{cluster}-nodes")
}

/// The Service that callers reach any node by.
#[must_use]
pub fn service(cluster: &str) -> String {
    cluster.to_owned()
}

/// A node: its `KmsNode`, Pod, ServiceAccount and host name.
#[must_use]
pub fn node(cluster: &str, index: u32) -> String {
    format!("{cluster}-{index}")
}

/// A node's volume claim.
#[must_use]
pub fn volume_claim(cluster: &str, index: u32) -> String {
    format!("{}-state", node(cluster, index))
}

/// The Secret that holds a node's wrapped key material: one of its two key stores.
#[must_use]
pub fn seal_secret(cluster: &str, index: u32) -> String {
    format!("{}-seal", node(cluster, index))
}

/// The `KeyEpoch` of one attempt.
#[must_use]
pub fn epoch(cluster: &str, number: u64) -> String {
    format!("{cluster}-{number}")
}

/// The ConfigMap that outlives the `KmsCluster` ([`crate::record`]).
#[must_use]
pub fn record(cluster: &str) -> String {
    format!("{cluster}-record")
}

/// The Role that lets callers read the record, and the name of bindings to it.
#[must_use]
pub fn client_role(cluster: &str) -> String {
    format!("{cluster}-client")
}

/// The CronJob that deletes what nodes may not, replica objects past retention, with its ServiceAccount and ConfigMap.
#[must_use]
pub fn retention(cluster: &str) -> String {
    format!("{cluster}-retention")
}

/// The ConfigMap with a node's configuration file.
#[must_use]
pub fn node_config(cluster: &str, index: u32) -> String {
    format!("{}-config", node(cluster, index))
}

/// The object in the bucket that claims a cluster's name for one cluster id, relative to the bucket's prefix.
#[must_use]
pub fn name_claim_object(namespace: &str, cluster: &str) -> String {
    format!("by-name/{namespace}/{cluster}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster's name has at most this many characters: `<name>-4294967295`, `-retention` and the host names of nodes must
    /// stay within the 63 characters of a DNS label.
    const CLUSTER_NAME_MAX_CHARS: usize = 40;

    #[test]
    fn names_are_those_of_the_contract() {
        assert_eq!(service("keys"), "keys");
        assert_eq!(headless_service("keys"), "keys-nodes");
        assert_eq!(node("keys", 3), "keys-3");
        assert_eq!(seal_secret("keys", 3), "keys-3-seal");
        assert_eq!(epoch("keys", 12), "keys-12");
        assert_eq!(record("keys"), "keys-record");
        assert_eq!(client_role("keys"), "keys-client");
        assert_eq!(retention("keys"), "keys-retention");
        assert_eq!(name_claim_object("prod", "keys"), "by-name/prod/keys");
    }

    #[test]
    fn names_of_the_longest_cluster_fit_a_dns_label() {
        let cluster = "a".repeat(CLUSTER_NAME_MAX_CHARS);
        let names = [
            node(&cluster, u32::MAX),
            headless_service(&cluster),
            seal_secret(&cluster, u32::MAX),
            volume_claim(&cluster, u32::MAX),
            node_config(&cluster, u32::MAX),
            epoch(&cluster, u64::MAX),
            record(&cluster),
            client_role(&cluster),
        ];
        for name in names {
            assert!(name.len() <= 63, "{name} has {} characters", name.len());
        }
        assert!(retention(&cluster).len() <= 52, "a CronJob's name leaves room for the suffix of its Jobs");
    }
}
