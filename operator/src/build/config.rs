//! The node's configuration: one strict YAML file, rendered from the kinds. Secrets are never in it, only their places.

use k8s_openapi::api::core::v1::ConfigMap;
use keyfleet_crds::cluster::{KeyEncryption, Recovery, Replication};
use keyfleet_crds::{KmsNode, names, wire};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Fleet;

/// The file's name in its ConfigMap.
pub const FILE: &str = "node.yaml";

/// The file, as it is written. Fields that a node can follow without a restart (access rules) are read from the API server.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeConfig<'a> {
    format: u32,
    cluster: &'a str,
    namespace: &'a str,
    cluster_id: String,
    index: u32,
    host: String,
    state_folder: &'static str,
    round_port: u16,
    kms_port: u16,
    http_port: u16,
    key_encryption: &'a KeyEncryption,
    #[serde(skip_serializing_if = "Option::is_none")]
    replication: Option<&'a Replication>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<&'a Recovery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_certificate_folder: Option<&'static str>,
    log: &'a str,
}

/// Where the node's volume is mounted.
pub const STATE_FOLDER: &str = "/var/lib/keyfleet";
/// Where configuration and Secrets are mounted.
pub const CONFIG_FOLDER: &str = "/etc/keyfleet";
/// Where the platform's certificate is mounted.
pub const TLS_FOLDER: &str = "/etc/keyfleet/tls";

/// The ConfigMap with a node's configuration.
#[must_use]
pub fn config_map(fleet: &Fleet<'_>, node: &KmsNode) -> ConfigMap {
    let text = render(fleet, node.spec.index);
    ConfigMap {
        metadata: fleet.node_metadata(node, names::node_config(fleet.name, node.spec.index)),
        data: Some([(FILE.to_owned(), text)].into()),
        ..ConfigMap::default()
    }
}

/// SHA-256 of what a pod was made from: a difference is why it is rolled.
#[must_use]
pub fn digest(fleet: &Fleet<'_>, index: u32) -> String {
    let template = serde_json::to_string(&fleet.cluster.spec.pod_template).expect("a template is plain data");
    Sha256::digest(render(fleet, index) + &template + fleet.image).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn render(fleet: &Fleet<'_>, index: u32) -> String {
    let spec = &fleet.cluster.spec;
    let config = NodeConfig {
        format: 1,
        cluster: fleet.name,
        namespace: fleet.namespace,
        cluster_id: fleet.id.to_string(),
        index,
        host: names::node_host(fleet.name, index, fleet.namespace),
        state_folder: STATE_FOLDER,
        round_port: wire::ROUND_PORT,
        kms_port: wire::KMS_PORT,
        http_port: wire::HTTP_PORT,
        key_encryption: &spec.key_encryption,
        replication: spec.replication.as_ref(),
        recovery: spec.recovery.as_ref(),
        kms_certificate_folder: spec.tls.as_ref().map(|_| TLS_FOLDER),
        log: &spec.pod_template.log,
    };
    serde_yaml::to_string(&config).expect("a configuration is plain data")
}
