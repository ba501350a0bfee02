//! Rights of the operator's and the nodes' accounts, tried with their own tokens.

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::namespace::Namespace;
use keyfleet_scenarios::operator::{ACCOUNT, Account, NAMESPACE};
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

/// Checks that the authorizer refused, and nobody else.
fn forbidden(what: &str, outcome: Result<String>) -> Result<()> {
    let Err(refusal) = outcome else { anyhow::bail!("{what}: was allowed") };
    ensure!(
        refusal.to_string().to_lowercase().contains("forbidden"),
        "{what}: not refused by the authorizer: {refusal:#}"
    );
    Ok(())
}

#[test]
fn the_operator_reads_no_secret_at_all() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "secrets")?;
    namespace.kubectl(&["create", "secret", "generic", "keys-1-seal", "--from-literal=key=secret"])?;
    let operator = Account::of(&cluster, NAMESPACE, ACCOUNT)?;
    for namespace in [namespace.name.as_str(), NAMESPACE, "kube-system"] {
        let of = |words: &[&str]| operator.kubectl(&[&["--namespace", namespace], words].concat());
        forbidden("to list Secrets", of(&["get", "secrets"]))?;
        forbidden("to get a Secret", of(&["get", "secret", "keys-1-seal"]))?;
        forbidden("to delete a Secret", of(&["delete", "secret", "keys-1-seal", "--dry-run=server"]))?;
        let patch = ["patch", "secret", "keys-1-seal", "--dry-run=server", "--patch", "{}"];
        forbidden("to patch a Secret, which answers with it", of(&patch))?;
        for rule in operator.rules(namespace)? {
            let has =
                |field: &str, what: &str| rule[field].as_array().is_some_and(|all| all.iter().any(|one| one == what));
            if has("resources", "secrets") || has("resources", "*") {
                ensure!(rule["verbs"] == json!(["create"]), "on Secrets of {namespace} the operator has {rule}");
            }
        }
    }
    let exec = operator.kubectl(&["auth", "can-i", "create", "pods", "--subresource=exec", "--all-namespaces"]);
    ensure!(exec.is_err_and(|no| no.to_string().contains("no")), "the operator may exec into pods");
    // A token of another account would be that account's rights.
    forbidden(
        "to make a token of another account",
        operator.kubectl(&["--namespace", &namespace.name, "create", "token", "default"]),
    )?;
    Ok(())
}

/// The operator may `escalate`, and yet makes nothing but what nodes and callers need.
#[test]
fn a_role_of_any_other_shape_is_refused_by_admission() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "shapes")?;
    let operator = Account::of(&cluster, NAMESPACE, ACCOUNT)?;
    let rule = |group: &str, resources: &[&str], verbs: &[&str], names: &[&str]| {
        let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        rule
    };
    let seal = rule("", &["secrets"], &["get", "update", "delete"], &["keys-1-seal"]);
    let status = rule("keyfleet.dev", &["kmsnodes/status"], &["update", "patch"], &["keys-1"]);
    let kinds = rule("keyfleet.dev", &["kmsclusters", "kmsnodes", "keyepochs"], &["get", "list", "watch"], &[]);
    let role = |name: &str, rules: &[&Value]| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": rules,
               "metadata": {"name": name, "namespace": namespace.name}})
    };
    operator.create(&role("keys-1", &[&seal, &status, &kinds])).context("a node's Role is the operator's to make")?;
    let all_secrets = rule("", &["secrets"], &["get", "list"], &[]);
    let other_seal = rule("", &["secrets"], &["get", "update", "delete"], &["keys-2-seal"]);
    let kek = rule("", &["secrets"], &["get", "update", "delete"], &["keys-kek"]);
    let all_verbs = rule("", &["secrets"], &["*"], &["keys-1-seal"]);
    for (what, role) in [
        ("a Role that reads all Secrets", role("keys-1", &[&all_secrets, &status, &kinds])),
        ("a Role for another node's seal", role("keys-1", &[&other_seal, &status, &kinds])),
        ("a Role for the key-encryption key", role("keys-1", &[&kek, &status, &kinds])),
        ("a Role with every verb", role("keys-1", &[&all_verbs, &status, &kinds])),
        ("a Role with a rule more", role("keys-1", &[&seal, &status, &kinds, &all_secrets])),
        ("a Role with a rule less", role("keys-1", &[&seal])),
        ("a client's Role that reads Secrets", role("keys-client", &[&all_secrets])),
    ] {
        let refusal = operator.create(&role).map_or_else(|refusal| refusal.to_string(), |_| String::new());
        ensure!(refusal.contains("makes Roles of two shapes"), "{what}: not refused by the policy: {refusal:?}");
    }
    let binding = |role: &str, subject: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
               "metadata": {"name": "keys-1", "namespace": namespace.name}, "subjects": [subject],
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role}})
    };
    let account = |name: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": namespace.name});
    for (what, binding) in [
        ("a node's Role bound to another account", binding("keys-1", account("default"))),
        ("another Role bound to a node", binding("keys-2", account("keys-1"))),
        (
            "a node's Role bound to a group",
            binding(
                "keys-1",
                json!({"kind": "Group", "name": "system:authenticated",
            "apiGroup": "rbac.authorization.k8s.io"}),
            ),
        ),
    ] {
        let refusal = operator.create(&binding).map_or_else(|refusal| refusal.to_string(), |_| String::new());
        ensure!(refusal.contains("binds a node's Role"), "{what}: not refused by the policy: {refusal:?}");
    }
    let secret = |name: &str, data: Value| {
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                                "metadata": {"name": name, "namespace": namespace.name}});
        secret.as_object_mut().expect("an object").extend(data.as_object().cloned().unwrap_or_default());
        secret
    };
    let token = json!({"name": "keys-1-seal", "namespace": namespace.name,
                       "annotations": {"kubernetes.io/service-account.name": "default"}});
    operator.create(&secret("keys-1-seal", json!({}))).context("an empty seal is the operator's to make")?;
    for (what, secret) in [
        ("a seal that is not empty", secret("keys-1-seal", json!({"stringData": {"key": "chosen"}}))),
        ("a Secret that is no seal", secret("keys-kek", json!({}))),
        (
            "a token of an account",
            secret("keys-1-seal", json!({"type": "kubernetes.io/service-account-token", "metadata": token})),
        ),
    ] {
        let refusal = operator.create(&secret).map_or_else(|refusal| refusal.to_string(), |_| String::new());
        ensure!(refusal.contains("empty Opaque Secrets"), "{what}: not refused by the policy: {refusal:?}");
    }
    Ok(())
}

#[test]
fn a_node_has_its_own_seal_and_status_and_can_create_nothing() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "node")?;
    // Without a key-encryption key the nodes start and wait: their rights are what this is about.
    let spec = json!({"keyEncryption": {"active": {"id": "1", "secret": {"name": "keys-kek"}}}});
    namespace.apply(json!({"apiVersion": "keyfleet.dev/v1alpha1", "kind": "KmsCluster", "metadata": {"name": "keys"}, "spec": spec}))?;
    wait::until("the operator has made the nodes' Roles and seals", || {
        let there = |what: &str| {
            namespace.get(&["rolebinding,secret,kmsnode", "--field-selector", &format!("metadata.name={what}")])
        };
        let all = ["keys-1", "keys-2", "keys-1-seal", "keys-2-seal"].map(|name| {
            there(name).is_ok_and(|found| found["items"].as_array().is_some_and(|items| !items.is_empty()))
        });
        let bound = namespace.get(&["rolebinding", "keys-1"]).is_ok();
        Ok((bound && all.iter().all(|there| *there)).then_some(()))
    })?;
    let node = Account::of(&cluster, &namespace.name, "keys-1")?;
    let seal =
        node.kubectl(&["get", "secret", "keys-1-seal", "--output", "json"]).context("a node reads its own seal")?;
    node.kubectl(&["delete", "secret", "keys-1-seal", "--dry-run=server"]).context("a node deletes its own seal")?;
    let seal: Value = serde_json::from_str(&seal)?;
    let secrets = format!("/api/v1/namespaces/{}/secrets", namespace.name);
    node.update(&format!("{secrets}/keys-1-seal"), &seal).context("a node writes its own seal")?;
    let kinds = format!("/apis/keyfleet.dev/v1alpha1/namespaces/{}", namespace.name);
    let of = |name: &str| namespace.get(&["kmsnode", name]);
    wait::until("a node writes its own status", || {
        // The operator writes too: read again.
        node.update(&format!("{kinds}/kmsnodes/keys-1/status"), &of("keys-1")?).map(Some)
    })?;
    let cluster_object = namespace.get(&["kmscluster", "keys"])?;
    for (what, path, object) in [
        ("to write another node's seal", format!("{secrets}/keys-2-seal"), namespace.get(&["secret", "keys-2-seal"])?),
        ("to write another node's status", format!("{kinds}/kmsnodes/keys-2/status"), of("keys-2")?),
        ("to write its own spec", format!("{kinds}/kmsnodes/keys-1"), of("keys-1")?),
        ("to write the cluster's status", format!("{kinds}/kmsclusters/keys/status"), cluster_object.clone()),
        ("to write the cluster", format!("{kinds}/kmsclusters/keys"), cluster_object),
    ] {
        forbidden(what, node.update(&path, &object))?;
    }
    for (what, words) in [
        ("to list Secrets", &["get", "secrets"][..]),
        ("to read another node's seal", &["get", "secret", "keys-2-seal"]),
        ("to delete another node's seal", &["delete", "secret", "keys-2-seal", "--dry-run=server"]),
        ("to read the key-encryption key through the API", &["get", "secret", "keys-kek"]),
        ("to make a token of itself", &["create", "token", "keys-1"]),
        ("to make a pod", &["run", "pod", "--image=x", "--dry-run=server"]),
        ("to read pods", &["get", "pods"]),
    ] {
        forbidden(what, node.kubectl(words))?;
    }
    for rule in node.rules(&namespace.name)? {
        let verbs: Vec<&str> = rule["verbs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        ensure!(!verbs.contains(&"create") && !verbs.contains(&"*"), "a node can create: {rule}");
        let of_secrets =
            rule["resources"].as_array().is_some_and(|all| all.iter().any(|one| one == "secrets" || one == "*"));
        ensure!(!of_secrets || rule["resourceNames"] == json!(["keys-1-seal"]), "a node has Secrets: {rule}");
        ensure!(!of_secrets || verbs == ["get", "update", "delete"], "a node does more to its seal: {rule}");
    }
    Ok(())
}
