//! ValidatingAdmissionPolicies: what the operator may make, of what it has the right to make.

use serde_json::{Value, json};

use super::Operator;

const RBAC: &str = "rbac.authorization.k8s.io";

/// The policies with their bindings.
pub(super) fn policies(operator: &Operator) -> Vec<Value> {
    [
        policy(operator, "roles", RBAC, &role_shape()),
        policy(operator, "rolebindings", RBAC, &binding_shape()),
        policy(operator, "secrets", "", &seal_shape()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

struct Shape {
    expression: String,
    message: &'static str,
}

fn rule(at: usize, group: &str, resources: &str, verbs: &str) -> String {
    format!(
        "object.rules[{at}].apiGroups == ['{group}'] && object.rules[{at}].resources == [{resources}] \
         && object.rules[{at}].verbs == [{verbs}] && !has(object.rules[{at}].nonResourceURLs)"
    )
}

/// A node's Role, or a cluster's client Role: as `objects::access` makes them.
fn role_shape() -> Shape {
    let group = keyfleet_crds::GROUP;
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

fn policy(operator: &Operator, resource: &str, group: &str, shape: &Shape) -> [Value; 2] {
    let name = format!("{}-{resource}", operator.name);
    let user = format!("system:serviceaccount:{}:{}", operator.namespace, operator.account);
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
