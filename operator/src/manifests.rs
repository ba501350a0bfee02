//! What an administrator installs beside the operator: its rights, and the admission policies that confine them.
//!
//! `manifests/operator/*.yaml` are these, generated; a test says so. The operator needs `escalate` and `bind` on Roles, since
//! it has no right to read a seal and gives it to nodes; the policies let it make Roles of exactly one shape, bindings of
//! exactly those, and Secrets that are empty. On Secrets it has `create` and nothing else.

use serde_json::{Value, json};

/// The operator's ServiceAccount and namespace.
pub const OPERATOR: &str = "keyfleet-operator";
/// Where the plain manifests put it.
pub const NAMESPACE: &str = "keyfleet-system";

const RBAC: &str = "rbac.authorization.k8s.io";

/// File name and documents of each manifest.
#[must_use]
pub fn all() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        ("rbac.yaml", vec![service_account(), cluster_role(), cluster_role_binding(), role(), role_binding()]),
        ("admission.yaml", admission()),
        ("people.yaml", people()),
    ]
}

/// The admission policies with their bindings.
#[must_use]
pub fn admission() -> Vec<Value> {
    [
        policy("roles", RBAC, &role_shape()),
        policy("rolebindings", RBAC, &binding_shape()),
        policy("secrets", "", &seal_shape()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn service_account() -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": OPERATOR, "namespace": NAMESPACE } })
}

fn cluster_role() -> Value {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    let keyfleet = keyfleet_crds::GROUP;
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": { "name": OPERATOR },
        "rules": [
            rule(keyfleet, &["kmsclusters"], &["get", "list", "watch", "patch"]),
            rule(keyfleet, &["kmsnodes"], &["get", "list", "watch", "create", "update", "patch", "delete"]),
            rule(keyfleet, &["keyepochs"], &["get", "list", "watch", "create", "patch", "delete"]),
            rule(keyfleet, &["kmsclusters/status", "kmsnodes/status", "keyepochs/status"], &["update", "patch"]),
            rule("", &["pods"], &["get", "list", "watch", "create", "delete"]),
            rule("", &["pods/eviction"], &["create"]),
            rule("", &["configmaps"], &["get", "list", "watch", "create", "update", "patch", "delete"]),
            rule("", &["services"], &["get", "create", "patch"]),
            rule("", &["serviceaccounts"], &["get", "create", "patch"]),
            rule("", &["persistentvolumeclaims"], &["get", "list", "create", "patch"]),
            rule("", &["secrets"], &["create"]),
            rule("", &["namespaces", "nodes", "persistentvolumes"], &["get"]),
            rule("policy", &["poddisruptionbudgets"], &["get", "create", "patch"]),
            rule("networking.k8s.io", &["networkpolicies"], &["get", "create", "patch"]),
            rule(RBAC, &["roles"], &["get", "create", "patch", "escalate", "bind"]),
            rule(RBAC, &["rolebindings"], &["get", "create", "patch"]),
            rule("events.k8s.io", &["events"], &["create", "patch"]),
        ],
    })
}

fn cluster_role_binding() -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": { "name": OPERATOR },
        "roleRef": { "apiGroup": RBAC, "kind": "ClusterRole", "name": OPERATOR },
        "subjects": [{ "kind": "ServiceAccount", "name": OPERATOR, "namespace": NAMESPACE }],
    })
}

/// In its own namespace: the lease, and tokens of itself alone, which it shows to nodes.
fn role() -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "Role", "metadata": { "name": OPERATOR, "namespace": NAMESPACE },
        "rules": [
            { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"] },
            { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [OPERATOR], "verbs": ["get", "update"] },
            { "apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": [OPERATOR], "verbs": ["create"] },
        ],
    })
}

fn role_binding() -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": { "name": OPERATOR, "namespace": NAMESPACE },
        "roleRef": { "apiGroup": RBAC, "kind": "Role", "name": OPERATOR },
        "subjects": [{ "kind": "ServiceAccount", "name": OPERATOR, "namespace": NAMESPACE }],
    })
}

/// Viewers and editors, aggregated to the usual roles. Nobody but the operator writes `KmsNode` and `KeyEpoch`.
fn people() -> Vec<Value> {
    let of = |name: &str, to: &[&str], verbs: &[&str], resources: &[&str]| {
        let labels: serde_json::Map<String, Value> =
            to.iter().map(|to| (format!("{RBAC}/aggregate-to-{to}"), json!("true"))).collect();
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole",
            "metadata": { "name": name, "labels": labels },
            "rules": [{ "apiGroups": [keyfleet_crds::GROUP], "resources": resources, "verbs": verbs }],
        })
    };
    let all = ["kmsclusters", "kmsnodes", "keyepochs"];
    vec![
        of("keyfleet-viewer", &["view", "edit", "admin"], &["get", "list", "watch"], &all),
        of("keyfleet-editor", &["edit", "admin"], &["create", "update", "patch", "delete"], &["kmsclusters"]),
    ]
}

struct Shape {
    expression: String,
    message: &'static str,
}

/// A node's Role, or a cluster's client Role: as `build::access` makes them.
fn role_shape() -> Shape {
    let group = keyfleet_crds::GROUP;
    let rule = |at: usize, group: &str, resources: &str, verbs: &str| {
        format!(
            "object.rules[{at}].apiGroups == ['{group}'] && object.rules[{at}].resources == [{resources}] \
             && object.rules[{at}].verbs == [{verbs}] && !has(object.rules[{at}].nonResourceURLs)"
        )
    };
    let node = [
        "object.rules.size() == 3".to_owned(),
        "object.metadata.name.matches('-[1-9][0-9]*$')".to_owned(),
        rule(0, "", "'secrets'", "'get', 'update', 'delete'"),
        "has(object.rules[0].resourceNames) && object.rules[0].resourceNames == [object.metadata.name + '-seal']"
            .to_owned(),
        rule(1, group, "'kmsnodes/status'", "'update', 'patch'"),
        "has(object.rules[1].resourceNames) && object.rules[1].resourceNames == [object.metadata.name]".to_owned(),
        rule(2, group, "'kmsclusters', 'kmsnodes', 'keyepochs'", "'get', 'list', 'watch'"),
    ];
    let client = [
        "object.rules.size() == 1".to_owned(),
        "object.metadata.name.endsWith('-client')".to_owned(),
        rule(0, "", "'configmaps'", "'get', 'watch'"),
        "has(object.rules[0].resourceNames) && object.rules[0].resourceNames \
         == [object.metadata.name.substring(0, object.metadata.name.size() - 7) + '-record']"
            .to_owned(),
    ];
    Shape {
        expression: format!("has(object.rules) && (({}) || ({}))", node.join(" && "), client.join(" && ")),
        message: "Keyfleet's operator makes Roles of two shapes: a node's (its own seal and status, Keyfleet's kinds to read) \
                  and a cluster's -client (its record to read). This is neither; if the operator itself sent it, look for who \
                  controls it",
    }
}

fn binding_shape() -> Shape {
    Shape {
        expression:
            "object.roleRef.kind == 'Role' && object.roleRef.name == object.metadata.name && has(object.subjects) \
                     && object.metadata.name.matches('-[1-9][0-9]*$') && object.subjects.size() == 1 \
                     && object.subjects[0].kind == 'ServiceAccount' && object.subjects[0].name == object.metadata.name \
                     && object.subjects[0].namespace == object.metadata.namespace"
                .to_owned(),
        message: "Keyfleet's operator binds a node's Role to that node's ServiceAccount and to nobody else. If the operator \
                  itself sent this, look for who controls it",
    }
}

fn seal_shape() -> Shape {
    Shape {
        expression:
            "object.type == 'Opaque' && !has(object.data) && object.metadata.name.matches('-[1-9][0-9]*-seal$')"
                .to_owned(),
        message: "Keyfleet's operator makes empty Opaque Secrets <node>-seal and no others. If the operator itself sent this, \
                  look for who controls it",
    }
}

fn policy(resource: &str, group: &str, shape: &Shape) -> [Value; 2] {
    let name = format!("keyfleet-operator-{resource}");
    let user = format!("system:serviceaccount:{NAMESPACE}:{OPERATOR}");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": name },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": { "resourceRules": [{
                "apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource],
            }] },
            "matchConditions": [{ "name": "by-the-operator", "expression": format!("request.userInfo.username == '{user}'") }],
            "validations": [{ "expression": shape.expression, "message": shape.message }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": name },
        "spec": { "policyName": name, "validationActions": ["Deny"] },
    });
    [policy, binding]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_are_the_generated_ones() {
        for (file, documents) in all() {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/operator").join(file);
            let texts: Vec<String> =
                documents.iter().map(|one| serde_yaml::to_string(one).expect("plain data")).collect();
            let now = format!("# Generated; the source is operator/src/manifests.rs.\n{}", texts.join("---\n"));
            if std::env::var("KEYFLEET_GOLDEN").is_ok_and(|how| how == "write") {
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder");
                std::fs::write(&path, now).expect("a manifest");
                continue;
            }
            let before = std::fs::read_to_string(&path).unwrap_or_default();
            let path = path.display();
            assert_eq!(
                now, before,
                "{path} differs; KEYFLEET_GOLDEN=write cargo test -p keyfleet-operator rewrites it"
            );
        }
    }

    /// seal Secrets are the operator's to make and never to read.
    #[test]
    fn on_secrets_the_operator_has_create_and_nothing_else() {
        let role = cluster_role();
        let rules = role["rules"]
            .as_array()
            .expect("rules")
            .iter()
            .chain(super::role()["rules"].as_array().into_iter().flatten())
            .cloned()
            .collect::<Vec<_>>();
        let on_secrets: Vec<&Value> = rules
            .iter()
            .filter(|rule| rule["resources"].as_array().expect("resources").iter().any(|r| r == "secrets" || r == "*"))
            .collect();
        assert_eq!(on_secrets.len(), 1);
        assert_eq!(on_secrets[0]["verbs"], json!(["create"]));
    }
}
