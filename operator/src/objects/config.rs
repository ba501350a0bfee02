//! The node's configuration: one strict YAML file, rendered from the kinds. Secrets are never in it, only their places.

use k8s_openapi::api::core::v1::ConfigMap;
use keyfleet_api::wire;
use keyfleet_crds::cluster::Replication;
use keyfleet_crds::config_file::LogFormat;
use keyfleet_crds::node_config::{FORMAT, NodeConfig};
use keyfleet_crds::{KmsNode, names};
use sha2::{Digest, Sha256};

pub(crate) use keyfleet_crds::node_config::{CONFIG_FOLDER, FILE, STATE_FOLDER, TLS_FOLDER};

use super::Fleet;

/// The ConfigMap with a node's configuration.
#[must_use]
pub(crate) fn config_map(fleet: &Fleet<'_>, node: &KmsNode) -> ConfigMap {
    let text = render(fleet, node.spec.index);
    ConfigMap {
        metadata: fleet.node_metadata(node, names::node_config(fleet.name, node.spec.index)),
        data: Some([(FILE.to_owned(), text)].into()),
        ..ConfigMap::default()
    }
}

/// SHA-256 of what a pod was made from: a difference is why it is rolled.
#[must_use]
pub(crate) fn digest(fleet: &Fleet<'_>, index: u32) -> String {
    let template = serde_json::to_string(&fleet.cluster.spec.pod_template).expect("a template is plain data");
    // The Secret's name is in no file of the node: another one is another mount.
    let certificate = fleet.cluster.spec.tls.as_ref().map_or("", |tls| tls.kms_certificate_secret.as_str());
    Sha256::digest(render(fleet, index) + &template + fleet.image + certificate)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn render(fleet: &Fleet<'_>, index: u32) -> String {
    let spec = &fleet.cluster.spec;
    let config = NodeConfig {
        format: FORMAT,
        cluster: fleet.name.to_owned(),
        namespace: fleet.namespace.to_owned(),
        cluster_id: fleet.id,
        index,
        host: wire::node_host(fleet.name, index, fleet.namespace),
        operator: fleet.operator.to_owned(),
        state_folder: STATE_FOLDER.into(),
        round_port: wire::ROUND_PORT,
        kms_port: wire::KMS_PORT,
        http_port: wire::HTTP_PORT,
        key_encryption: spec.key_encryption.clone(),
        // A node does not need to know when old objects are deleted, and by whom. A change of it must not roll the pod.
        replication: spec.replication.clone().map(|replication| Replication { retention: None, ..replication }),
        kms_certificate_folder: spec.tls.as_ref().map(|_| TLS_FOLDER.into()),
        log: spec.pod_template.log.clone(),
        log_format: LogFormat::Json,
        second_home: None,
    };
    config.render()
}
