//! The key-encryption key and its predecessors.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The key-encryption key: what wraps every secret of every node. Whoever holds it and the stored data holds the key.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.previous) || self.previous.all(key, key.id != self.active.id)").message(
    "keyEncryption.previous names the id of the active key: an id stands for one key for ever. Give the new key a new id"
))]
pub struct KeyEncryption {
    /// The key that wraps what is written from now on. To change it, move it to `previous` and put a new one with a new id
    /// here. What was written before stays wrapped under the old key until its epoch retires, and a node's identity key
    /// stays under it for good: keep a key in `previous` as long as `status.node.neededKeyEncryptionIds` of a `KmsNode`
    /// names it.
    pub active: KeySource,
    /// Keys that still unwrap what was written under them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub previous: Vec<KeySource>,
}

/// One key-encryption key: an id, and exactly one place it comes from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "[has(self.secret), has(self.file), has(self.env)].filter(present, present).size() == 1"
).message("a key-encryption key comes from exactly one of secret, file and env: set one of them"))]
pub struct KeySource {
    /// A name that every wrapped secret carries, like `2026-11`. Never use one for a second key.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$"))]
    pub id: String,
    /// A key of a Secret in the cluster's namespace: 32 bytes, raw or as 64 hexadecimal digits. A backup of etcd then holds
    /// both this key and what it opens: fit for development, or where etcd is itself encrypted by a key from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretKey>,
    /// A file of 32 bytes in the pod, put there by `podTemplate.mounts` (a CSI driver, say).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<KeyFile>,
    /// An environment variable of the pod, set by `podTemplate.env`: 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<KeyVariable>,
}

/// A key of a Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it. Default `key`.
    #[serde(default = "secret_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A file in the pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyFile {
    /// Absolute path of the file.
    #[schemars(length(min = 2, max = 1024), regex(pattern = r"^/"))]
    pub path: String,
}

/// An environment variable of the pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyVariable {
    /// Name of the variable.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,
}

fn secret_key() -> String {
    "key".to_owned()
}
