//! Volumes, replication to S3, and the deletion of what is past retention.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The volume of each node: ReadWriteOncePod, so that no two pods ever write one.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storage {
    /// The volume's size, like `1Gi`. Default 1Gi, enough for 100 nodes. May grow where the storage class can, never
    /// shrink.
    #[serde(default = "size")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))").message(
        "size must be a quantity above zero, like 1Gi"
    ))]
    #[x_kube(validation = Rule::new("!isQuantity(self) || quantity(self).compareTo(quantity(oldSelf)) >= 0").message(
        "size cannot shrink: volumes cannot. Put the old size back"
    ))]
    pub size: String,
    /// The storage class. Absent: the default one. A change concerns volumes made from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class: Option<String>,
}

impl Default for Storage {
    fn default() -> Self {
        Self { size: size(), storage_class: None }
    }
}

impl Storage {
    /// The size as Kubernetes' own type.
    #[must_use]
    pub fn quantity(&self) -> Quantity {
        Quantity(self.size.clone())
    }
}

/// Replication of each node's sealed state.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "!has(self.retention) || !has(self.retention.credentialsSecret) || !has(self.s3.credentialsSecret) \
     || self.retention.credentialsSecret != self.s3.credentialsSecret"
).message(
    "replication.retention.credentialsSecret is the nodes' own: a node could delete the replicas of all others. Name a Secret \
     with another key, which may delete, and take that right from the nodes' key"
))]
pub struct Replication {
    /// The bucket.
    pub s3: S3,
    /// A CronJob `<cluster>-retention` that deletes replica objects that are no longer needed, under an identity of its
    /// own: nodes cannot delete, so that one bad node destroys no other's replica. Absent: nothing is ever deleted, and
    /// replicas grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<ReplicaRetention>,
}

/// A bucket and how to reach it. Its owner learns nothing from it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3 {
    /// The bucket's name. It must exist, and its store must honour conditional writes (`If-None-Match: *`).
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// A folder in the bucket, without slash at either end. Default: none. Everything below it is named by the cluster id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*$"))]
    pub prefix: Option<String>,
    /// The region. Default `us-east-1`.
    #[serde(default = "region")]
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// The endpoint, like `https://s3.example.com`. Absent: AWS's of the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https?://"))]
    pub endpoint: Option<String>,
    /// Puts the bucket into the path instead of the host name, as most self-hosted stores want it. Default false.
    #[serde(default)]
    pub force_path_style: bool,
    /// A Secret with `accessKeyId` and `secretAccessKey` (and `sessionToken`) that may read, list and write, not delete.
    /// Absent: the pod's own identity, by a web identity token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret: Option<String>,
    /// A ConfigMap whose key `ca.crt` holds the certificates that the endpoint's may be signed by. Absent: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_config_map: Option<String>,
}

/// When and as whom old replica objects are deleted.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "has(self.credentialsSecret) || has(self.serviceAccountAnnotations) && self.serviceAccountAnnotations.size() > 0"
).message(
    "replication.retention has no identity of its own: name a credentialsSecret whose key may delete, or give the job's \
     account the annotations by which your cloud binds one (serviceAccountAnnotations)"
))]
pub struct ReplicaRetention {
    /// When the job runs, as cron writes it, UTC. Default `17 3 * * *`: daily at 03:17.
    #[serde(default = "cron")]
    #[schemars(length(min = 9, max = 128), regex(pattern = r"^[0-9*]([0-9A-Za-z*,/?-]* +){4}[0-9A-Za-z*,/?-]+$"))]
    pub cron: String,
    /// Hours that an object stays, at least, after something newer has replaced it. Default 72.
    #[serde(default = "grace_hours")]
    #[schemars(range(min = 1, max = 87_600))]
    pub grace_hours: u32,
    /// A Secret as for the nodes, whose key may list and get objects and their versions, put, and delete. Not the nodes'
    /// own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret: Option<String>,
    /// Annotations of the job's ServiceAccount, instead of a Secret: where a cloud binds an identity to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service_account_annotations: BTreeMap<String, String>,
}

impl ReplicaRetention {
    /// Returns true where the job has an identity of its own. Without one nothing is deleted.
    #[must_use]
    pub fn has_identity(&self) -> bool {
        self.credentials_secret.is_some() || !self.service_account_annotations.is_empty()
    }
}

fn size() -> String {
    "1Gi".to_owned()
}

fn region() -> String {
    "us-east-1".to_owned()
}

fn cron() -> String {
    "17 3 * * *".to_owned()
}

fn grace_hours() -> u32 {
    72
}
