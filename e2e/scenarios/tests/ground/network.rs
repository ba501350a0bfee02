//! Names and connections between pods.

use anyhow::{Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::namespace::Namespace;
use keyfleet_scenarios::probe::Probe;
use keyfleet_scenarios::wait;

/// A pod resolves a Service by name and reaches it on another node.
#[test]
fn a_pod_reaches_a_service_on_another_node_by_name() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "network")?;
    let nodes = cluster.nodes()?.len();
    ensure!(nodes >= 2, "this takes two nodes, and there is {nodes}");
    let replicas = format!("replicas={nodes}");
    let web = Probe::install(&namespace, "web", &["volume.enabled=false", "spread=true", &replicas])?;
    let pods = web.ready_pods()?;
    let on: std::collections::BTreeSet<_> = pods.iter().map(|pod| pod["spec"]["nodeName"].to_string()).collect();
    ensure!(on.len() == nodes, "the pods are on {on:?} and not on {nodes} nodes");

    let address = namespace.get(&["service", "web"])?["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    for name in ["web".to_owned(), format!("web.{}.svc.cluster.local", namespace.name)] {
        let resolved = web.ask(&["resolve", &name])?;
        ensure!(resolved == address, "{name} resolves to {resolved} and not to the Service's address {address}");
    }
    // One pod asks until every pod has answered: whichever node it is on, the others are elsewhere.
    let mut seen = std::collections::BTreeSet::new();
    wait::until("one pod is answered by the pods of every node", || {
        seen.insert(web.ask(&["fetch", "http://web/"])?);
        Ok((seen.len() == nodes).then_some(()))
    })
}

/// seed: 001-01
#[test]
fn s3_answers_to_pods_under_the_name_of_a_service() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "s3")?;
    let pod = Probe::install(&namespace, "client", &["volume.enabled=false"])?;
    let refusal =
        pod.ask(&["fetch", "http://s3.keyfleet-dev.svc:9000/"]).expect_err("nobody signed this request").to_string();
    ensure!(refusal.contains("<Code>AccessDenied</Code>"), "no S3 server answers: {refusal}");
    Ok(())
}

#[test]
fn nothing_outside_the_cluster_is_reached_from_a_pod() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "outside")?;
    let pod = Probe::install(&namespace, "client", &["volume.enabled=false"])?;
    // A documentation address (RFC 5737): it is nobody's, and a route to it would be a route to anybody.
    let error = pod.ask(&["fetch", "http://192.0.2.1/"]).expect_err("there is no way out").to_string();
    ensure!(
        error.contains("unreachable") || error.contains("timed out") || error.contains("timeout"),
        "the request got out: {error}"
    );
    let error = pod.ask(&["resolve", "example.com"]).expect_err("there is no outside to ask").to_string();
    ensure!(error.contains("resolving example.com"), "the name was resolved: {error}");
    Ok(())
}
