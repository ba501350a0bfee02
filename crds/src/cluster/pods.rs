//! Parts of the nodes' pods that users may shape. The security context is not among it: nodes run restricted, always.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the nodes' pods that you may choose. A change rolls them one at a time, never below the threshold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodTemplate {
    /// Labels added to each pod. Labels of `keyfleet.dev/` and `app.kubernetes.io/` are the operator's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations added to each pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Annotations of each node's ServiceAccount: where a cloud binds an identity to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service_account_annotations: BTreeMap<String, String>,
    /// CPU and memory of the node's container. Absent: 100m and 128Mi requested, 512Mi as the limit of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a worker must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Affinity beside the spread over workers and zones that the operator asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// The priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class: Option<String>,
    /// Secrets for pulling the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub image_pull_secrets: Vec<String>,
    /// Environment variables taken from Secrets: for the key-encryption key, and proxies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<Variable>,
    /// Files put into the pod, read-only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub mounts: Vec<Mount>,
    /// Filter of the log: a level, or levels by module as `RUST_LOG` writes them. Default `info`.
    #[serde(default = "log")]
    #[schemars(length(min = 1, max = 512))]
    pub log: String,
}

impl Default for PodTemplate {
    fn default() -> Self {
        Self {
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            service_account_annotations: BTreeMap::new(),
            resources: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            priority_class: None,
            image_pull_secrets: Vec::new(),
            env: Vec::new(),
            mounts: Vec::new(),
            log: log(),
        }
    }
}

/// An environment variable.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.value) != has(self.secret)").message(
    "an environment variable has a value, or a secret to take it from: set exactly one of them"
))]
pub struct Variable {
    /// Name of the variable.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,
    /// Value, where it is no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
    /// The Secret's key to take it from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<super::keys::SecretKey>,
}

/// Files in the pod, from exactly one place.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "[has(self.secret), has(self.configMap), has(self.csi)].filter(present, present).size() == 1"
).message("a mount comes from exactly one of secret, configMap and csi: set one of them"))]
pub struct Mount {
    /// The volume's name.
    #[schemars(length(min = 1, max = 48), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// Where it appears: an absolute path outside `/var/lib/keyfleet` and `/etc/keyfleet`.
    #[schemars(length(min = 2, max = 1024), regex(pattern = r"^/"))]
    #[x_kube(validation = Rule::new("!self.startsWith('/var/lib/keyfleet') && !self.startsWith('/etc/keyfleet')").message(
        "a mount must not cover /var/lib/keyfleet or /etc/keyfleet, where the node's own files are: choose another path"
    ))]
    pub path: String,
    /// A Secret's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret: Option<String>,
    /// A ConfigMap's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub config_map: Option<String>,
    /// A CSI driver's ephemeral volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csi: Option<Csi>,
}

/// A CSI driver's ephemeral volume.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Csi {
    /// The driver's name, like `secrets-store.csi.k8s.io`.
    #[schemars(length(min = 1, max = 253))]
    pub driver: String,
    /// Attributes for the driver.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// The NetworkPolicy made for the nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.mode == 'IngressAndEgress' || !has(self.egressTo)").message(
    "networkPolicy.egressTo has no effect without mode IngressAndEgress: set the mode, or remove egressTo"
))]
pub struct NetworkPolicy {
    /// `Ingress` (default): only nodes and the operator reach port 7400; 7443 and 9090 stay open within the cluster.
    /// `IngressAndEgress`: nodes also reach only each other, DNS and `egressTo`. `None`: no policy.
    #[serde(default)]
    pub mode: NetworkPolicyMode,
    /// With `IngressAndEgress`: destinations that nodes may reach. List the API server, S3 and token issuers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub egress_to: Vec<Egress>,
}

/// Reach of the NetworkPolicy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NetworkPolicyMode {
    /// No policy.
    None,
    /// Incoming traffic is limited.
    #[default]
    Ingress,
    /// Incoming and outgoing traffic is limited.
    IngressAndEgress,
}

/// A destination that nodes may reach.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// Addresses, like `10.0.0.0/8`.
    #[schemars(length(min = 3, max = 64))]
    #[x_kube(validation = Rule::new("isCIDR(self)").message("cidr must be addresses in CIDR form, like 10.0.0.0/8"))]
    pub cidr: String,
    /// The TCP port. Absent: all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
}

fn log() -> String {
    "info".to_owned()
}
