//! Requests that the cluster refuses.

use anyhow::{Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::namespace::Namespace;
use keyfleet_scenarios::probe;
use serde_json::json;

#[test]
fn a_restricted_namespace_refuses_a_pod_that_runs_as_root() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "admission")?;
    let mut root = probe::pod("root", &["serve"]);
    root["spec"]["securityContext"]["runAsNonRoot"] = json!(false);
    root["spec"]["securityContext"]["runAsUser"] = json!(0);
    let refusal = namespace.apply(root).expect_err("root is not allowed here").to_string();
    ensure!(refusal.contains("violates PodSecurity \"restricted"), "refused, but not by Pod Security: {refusal}");
    ensure!(refusal.contains("runAsNonRoot"), "the refusal does not say what is wrong: {refusal}");
    namespace.apply(probe::pod("user", &["serve"]))?;
    Ok(())
}

#[test]
fn a_kubelet_may_not_change_another_node() -> Result<()> {
    let cluster = Cluster::shared()?;
    let nodes = cluster.nodes()?;
    ensure!(nodes.len() >= 2, "this takes two nodes");
    let as_first = ["--as", &format!("system:node:{}", nodes[0]), "--as-group", "system:nodes"].map(str::to_owned);
    let label = |node: &str, value: &str| {
        let words = ["label", "node", node, value, "--overwrite"].map(str::to_owned);
        cluster.kubectl(words.iter().chain(&as_first))
    };
    let refusal = label(&nodes[1], "example=1").expect_err("a node is its own kubelet's").to_string();
    ensure!(refusal.to_lowercase().contains("forbidden"), "not refused by the authorizer: {refusal}");
    let refusal = label(&nodes[0], "node-restriction.kubernetes.io/example=1")
        .expect_err("labels of this kind are the administrator's")
        .to_string();
    ensure!(refusal.contains("is not allowed to modify labels"), "not refused by NodeRestriction: {refusal}");
    Ok(())
}

#[test]
fn the_probe_image_runs_as_a_user_and_has_no_shell() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "image")?;
    // Without a user in the pod: the image's own counts, and the kubelet checks that it is not root.
    let mut pod = probe::pod("plain", &["serve"]);
    pod["spec"]["securityContext"].as_object_mut().expect("an object").remove("runAsUser");
    namespace.apply(pod)?;
    namespace.kubectl(&["wait", "pod/plain", "--for=condition=Ready", "--timeout=120s"])?;
    for shell in ["sh", "/bin/sh", "/bin/bash", "/bin/busybox"] {
        let refusal = namespace
            .kubectl(&["exec", "plain", "--", shell, "-c", "true"])
            .expect_err("there is no shell")
            .to_string();
        ensure!(refusal.contains("no such file") || refusal.contains("not found"), "{shell}: {refusal}");
    }
    Ok(())
}
