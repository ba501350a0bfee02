//! Volumes.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::namespace::Namespace;
use keyfleet_scenarios::probe::Probe;
use keyfleet_scenarios::wait;

/// Lets a drained node take pods again, whatever becomes of the scenario.
struct Uncordon(String);

impl Drop for Uncordon {
    fn drop(&mut self) {
        let _ = Command::new("kubectl").args(["uncordon", &self.0]).output();
    }
}

/// A restricted pod keeps its volume when a drain moves it to the other node.
#[test]
fn a_drained_pod_keeps_its_volume_on_the_other_node() -> Result<()> {
    let cluster = Cluster::alone()?;
    let namespace = Namespace::create(&cluster, "storage")?;
    let keeper = Probe::install(&namespace, "keeper", &[])?;
    let written = "kept through a drain";
    let pod = keeper.ready_pods()?.pop().context("no pod is ready")?;
    let (name, node) = (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]));
    let volume = format!("/api/v1/namespaces/{}/pods/{name}:8080/proxy/volume", namespace.name);
    put(&cluster, &volume, written)?;

    let _uncordon = Uncordon(node.clone());
    cluster.kubectl(["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"])?;
    let moved = wait::until("the pod is ready on another node", || {
        Ok(keeper.ready_pods()?.into_iter().find(|pod| text(&pod["spec"]["nodeName"]) != node))
    })?;
    ensure!(text(&moved["metadata"]["name"]) != name, "the pod was not moved but is the same");
    let read = keeper.ask(&["fetch", "http://localhost:8080/volume"])?;
    ensure!(read == written, "after the drain the volume holds {read:?} and not {written:?}");
    Ok(())
}

/// Writes through the API server's proxy, as a user without a way into the cluster's network can.
fn put(cluster: &Cluster, path: &str, body: &str) -> Result<()> {
    let file = std::env::temp_dir().join(format!("keyfleet-put-{}", std::process::id()));
    std::fs::write(&file, body)?;
    let answer = cluster.kubectl(["replace", "--raw", path, "--filename", &file.display().to_string()]);
    std::fs::remove_file(file)?;
    let answer = answer?;
    ensure!(answer.trim_end() == body, "the pod answers {answer:?} to the write");
    Ok(())
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
