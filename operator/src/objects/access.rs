//! ServiceAccounts, Roles and bindings: what a node may do, and what callers may read. The admission policy of the operator
//! lets it make exactly these shapes and no other.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use keyfleet_crds::{GROUP, KmsNode, names};

use super::Fleet;

/// The node's ServiceAccount. Its token is mounted by the Pod where it is needed, not by default.
#[must_use]
pub fn service_account(fleet: &Fleet<'_>, node: &KmsNode) -> ServiceAccount {
    let mut metadata = fleet.kept(names::node(fleet.name, node.spec.index), fleet.node_labels(node.spec.index));
    let annotations = &fleet.cluster.spec.pod_template.service_account_annotations;
    metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    ServiceAccount { metadata, automount_service_account_token: Some(false), ..ServiceAccount::default() }
}

/// Role of a node: its own seal, its own status, and to read Keyfleet's kinds. It can create nothing.
#[must_use]
pub fn node_role(fleet: &Fleet<'_>, index: u32) -> Role {
    let name = names::node(fleet.name, index);
    let rules = vec![
        rule("", &["secrets"], &["get", "update", "delete"], Some(names::seal_secret(fleet.name, index))),
        rule(GROUP, &["kmsnodes/status"], &["update", "patch"], Some(name.clone())),
        rule(GROUP, &["kmsclusters", "kmsnodes", "keyepochs"], &["get", "list", "watch"], None),
    ];
    Role { metadata: fleet.kept(name, fleet.node_labels(index)), rules: Some(rules) }
}

/// Binds a node's Role to its ServiceAccount.
#[must_use]
pub fn node_role_binding(fleet: &Fleet<'_>, index: u32) -> RoleBinding {
    let name = names::node(fleet.name, index);
    RoleBinding {
        metadata: fleet.kept(name.clone(), fleet.node_labels(index)),
        role_ref: RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: "Role".into(), name: name.clone() },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name,
            namespace: Some(fleet.namespace.into()),
            api_group: None,
        }]),
    }
}

/// Role of callers: they may read the record, with cluster id, public key, indexes and pins.
#[must_use]
pub fn client_role(fleet: &Fleet<'_>) -> Role {
    let rules = vec![rule("", &["configmaps"], &["get", "watch"], Some(names::record(fleet.name)))];
    Role { metadata: fleet.kept(names::client_role(fleet.name), fleet.labels()), rules: Some(rules) }
}

fn texts(of: &[&str]) -> Vec<String> {
    of.iter().map(|text| (*text).to_owned()).collect()
}

fn rule(group: &str, resources: &[&str], verbs: &[&str], name: Option<String>) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(texts(resources)),
        verbs: texts(verbs),
        resource_names: name.map(|name| vec![name]),
        non_resource_urls: None,
    }
}
