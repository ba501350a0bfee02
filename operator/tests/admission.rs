//! The admission policies on a real API server, as the operator's own account.
//!
//! Needs the environment variable `KEYFLEET_BIN`, the folder of the `kubernetes` binary.

#[path = "../../crds/tests/apiserver/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod apiserver;

use std::time::{Duration, Instant};

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use keyfleet_crds::values::ClusterId;
use keyfleet_crds::{KmsCluster, KmsClusterStatus};
use keyfleet_operator::manifests;
use keyfleet_operator::objects::{Fleet, access, storage};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

/// Posts as the operator, as a dry run, and returns the server's answer.
async fn refusal(client: &Client, plural: &str, object: &Value) -> Option<String> {
    let group = object["apiVersion"].as_str().expect("an object has a version");
    let root = if group == "v1" { "/api/v1".to_owned() } else { format!("/apis/{group}") };
    let path = format!("{root}/namespaces/policies/{plural}?dryRun=All");
    let user = format!("system:serviceaccount:{}:{}", manifests::NAMESPACE, manifests::OPERATOR);
    let request = http::Request::post(path).header("content-type", "application/json").header("impersonate-user", user);
    let body = serde_json::to_vec(object).expect("JSON");
    match client.request::<Value>(request.body(body).expect("a request")).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(status.message),
        Err(other) => panic!("the API server did not answer: {other}"),
    }
}

/// Scenario 10, the operator's part: a Role of any other shape is refused, whoever made the operator send it.
#[tokio::test]
async fn the_operator_can_make_its_own_shapes_and_no_others() {
    let client = apiserver::namespace("policies").await;
    for document in manifests::admission() {
        let create = PostParams::default();
        if document["kind"] == "ValidatingAdmissionPolicy" {
            let policy: ValidatingAdmissionPolicy = serde_json::from_value(document).expect("a policy");
            Api::all(client.clone()).create(&create, &policy).await.expect("the policy is accepted");
        } else {
            let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(document).expect("a binding");
            Api::all(client.clone()).create(&create, &binding).await.expect("the binding is accepted");
        }
    }
    let mut cluster: KmsCluster =
        serde_yaml::from_str(include_str!("../../manifests/samples/smallest.yaml")).expect("a sample");
    cluster.metadata.namespace = Some("policies".into());
    let id = Some(ClusterId([7; 16]));
    cluster.status = Some(KmsClusterStatus { cluster_id: id, ..KmsClusterStatus::default() });
    let fleet = Fleet::of(&cluster, "image", "system:serviceaccount:keyfleet-system:keyfleet-operator")
        .expect("a cluster with an id");
    let (role, client_role): (Role, Role) = (access::node_role(&fleet, 3), access::client_role(&fleet));
    let (binding, seal): (RoleBinding, Secret) = (access::node_role_binding(&fleet, 3), storage::seal(&fleet, 3));
    let json = |object: &dyn erased::Json| object.json();
    let (role, client_role, binding, seal) = (json(&role), json(&client_role), json(&binding), json(&seal));
    let with = |object: &Value, pointer: &str, value: Value| apiserver::with(object, pointer, value);

    // A policy takes effect a moment after it was made.
    let bad = with(&role, "/rules/0/verbs", json!(["*"]));
    let start = Instant::now();
    while refusal(&client, "roles", &bad).await.is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "the policy never took effect");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (what, plural, object) in [
        ("a node's Role", "roles", &role),
        ("a client Role", "roles", &client_role),
        ("a node's binding", "rolebindings", &binding),
        ("a seal", "secrets", &seal),
    ] {
        assert_eq!(refusal(&client, plural, object).await, None, "{what} is refused");
    }
    let more = json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] });
    let four = [role["rules"].as_array().expect("rules").clone(), vec![more.clone()]].concat();
    for (what, plural, object) in [
        ("another's seal", "roles", with(&role, "/rules/0/resourceNames", json!(["keys-4-seal"]))),
        ("every seal", "roles", with(&role, "/rules/0/resourceNames", Value::Null)),
        ("another's status", "roles", with(&role, "/rules/1/resourceNames", json!(["keys-4"]))),
        ("more verbs", "roles", with(&role, "/rules/2/verbs", json!(["get", "list", "watch", "create"]))),
        ("one rule more", "roles", with(&role, "/rules", json!(four))),
        ("no rule", "roles", with(&role, "/rules", json!([]))),
        ("secrets for clients", "roles", with(&client_role, "/rules", json!([more]))),
        (
            "a binding for a person",
            "rolebindings",
            with(&binding, "/subjects/0", json!({ "kind": "User", "name": "eve" })),
        ),
        ("a binding of another Role", "rolebindings", with(&binding, "/roleRef/name", json!("keys-4"))),
        ("a binding of a ClusterRole", "rolebindings", with(&binding, "/roleRef/kind", json!("ClusterRole"))),
        ("a Secret with data", "secrets", with(&seal, "/data", json!({ "a": "YQ==" }))),
        ("a Secret of another name", "secrets", with(&seal, "/metadata/name", json!("keys-kek"))),
    ] {
        let message = refusal(&client, plural, &object).await.unwrap_or_else(|| panic!("{what} is accepted"));
        assert!(message.contains("look for who controls it"), "{what}: refused, but by another: {message}");
    }
}

mod erased {
    /// Any object as JSON.
    pub(super) trait Json {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).expect("an object is JSON")
        }
    }
}
