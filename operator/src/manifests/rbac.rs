//! The rights of the operator, as small as they can be, and those of people.

use serde_json::{Value, json};

use super::{OPERATOR, Operator};

const RBAC: &str = "rbac.authorization.k8s.io";

/// An operator for all namespaces.
pub(super) fn everywhere(operator: &Operator) -> Vec<Value> {
    let mut rules = rules();
    // Where a worker is, and what a volume is called where it is kept: for people, not needed to work.
    rules.push(rule("", &["nodes", "persistentvolumes"], &["get"]));
    let mut role = object("ClusterRole", operator.name, None);
    role["rules"] = rules.into();
    vec![role, binding(operator, "ClusterRole", operator.name, None)]
}

/// Rights of an operator for named namespaces, in each of them.
pub(super) fn in_one_namespace(operator: &Operator) -> Vec<Value> {
    // Its own namespace may be the watched one, and holds the other Role.
    let name = format!("{}-fleets", operator.name);
    let mut role = object("Role", &name, Some(operator.watched));
    role["rules"] = rules().into();
    vec![role, binding(operator, "Role", &name, Some(operator.watched))]
}

/// In its own namespace: the lease, and tokens of itself alone, which it shows to nodes.
pub(super) fn own(operator: &Operator) -> Vec<Value> {
    let mut role = object("Role", operator.name, Some(operator.namespace));
    role["rules"] = json!([
        { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"] },
        { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [OPERATOR], "verbs": ["get", "update"] },
        { "apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": [operator.account], "verbs": ["create"] },
    ]);
    vec![role, binding(operator, "Role", operator.name, Some(operator.namespace))]
}

/// Rights of the operator where fleets are.
fn rules() -> Vec<Value> {
    let keyfleet = keyfleet_crds::GROUP;
    vec![
        rule(keyfleet, &["kmsclusters"], &["get", "list", "watch", "patch"]),
        rule(keyfleet, &["kmsnodes"], &["get", "list", "watch", "create", "update", "patch", "delete"]),
        rule(keyfleet, &["keyepochs"], &["get", "list", "watch", "create", "patch", "delete"]),
        rule(keyfleet, &["kmsclusters/status", "kmsnodes/status", "keyepochs/status"], &["update", "patch"]),
        rule("", &["namespaces"], &["get"]),
        rule("", &["pods"], &["get", "list", "watch", "create", "delete"]),
        rule("", &["pods/eviction"], &["create"]),
        rule("", &["configmaps"], &["get", "list", "watch", "create", "update", "patch", "delete"]),
        rule("", &["services"], &["get", "create", "patch"]),
        rule("", &["serviceaccounts"], &["get", "create", "patch"]),
        rule("", &["persistentvolumeclaims"], &["get", "list", "create", "patch"]),
        rule("", &["secrets"], &["create"]),
        // What deletes replica objects: it holds credentials of the bucket that the operator itself cannot read.
        rule("batch", &["cronjobs"], &["get", "create", "patch", "delete"]),
        rule("policy", &["poddisruptionbudgets"], &["get", "create", "patch"]),
        rule("networking.k8s.io", &["networkpolicies"], &["get", "create", "patch"]),
        rule(RBAC, &["roles"], &["get", "create", "patch", "escalate", "bind"]),
        rule(RBAC, &["rolebindings"], &["get", "create", "patch"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ]
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

fn object(kind: &str, name: &str, namespace: Option<&str>) -> Value {
    let mut object = json!({ "apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": { "name": name } });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

/// Binds a role to the operator, under the role's name.
fn binding(operator: &Operator, role: &str, name: &str, namespace: Option<&str>) -> Value {
    let mut binding = object(&format!("{role}Binding"), name, namespace);
    binding["roleRef"] = json!({ "apiGroup": RBAC, "kind": role, "name": name });
    binding["subjects"] =
        json!([{ "kind": "ServiceAccount", "name": operator.account, "namespace": operator.namespace }]);
    binding
}

/// Viewers and editors, aggregated to the usual roles. Nobody but the operator writes `KmsNode` and `KeyEpoch`.
pub(super) fn people() -> Vec<Value> {
    let all = ["kmsclusters", "kmsnodes", "keyepochs"];
    vec![
        aggregated("keyfleet-viewer", &["view", "edit", "admin"], &["get", "list", "watch"], &all),
        aggregated("keyfleet-editor", &["edit", "admin"], &["create", "update", "patch", "delete"], &["kmsclusters"]),
    ]
}

/// A `ClusterRole` that is part of the usual roles `to`.
fn aggregated(name: &str, to: &[&str], verbs: &[&str], resources: &[&str]) -> Value {
    let labels = to.iter().map(|to| (format!("{RBAC}/aggregate-to-{to}"), json!("true")));
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole",
        "metadata": { "name": name, "labels": labels.collect::<serde_json::Map<_, _>>() },
        "rules": [{ "apiGroups": [keyfleet_crds::GROUP], "resources": resources, "verbs": verbs }],
    })
}
