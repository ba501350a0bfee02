//! Clusters come, live side by side, and go without a trace, whoever is killed meanwhile.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::{Cluster, output};
use keyfleet_scenarios::machine::{inventory, xtask};
use keyfleet_scenarios::wait;

/// A cluster of this scenario's own; what is left of it goes with the scenario.
struct Own(&'static str);

impl Own {
    fn up(&self) -> Result<Vec<&str>> {
        Ok(vec!["dev", "up", "--nodes", "1", "--name", self.0])
    }

    fn down(&self) -> Result<String> {
        output(&mut xtask(&["dev", "down", "--name", self.0])?)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let kubeconfig = output(&mut xtask(&["dev", "kubeconfig", "--name", self.0])?)?;
        output(Command::new("kubectl").arg("--kubeconfig").arg(kubeconfig.trim()).args(arguments))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("{error:#}");
        }
    }
}

fn nothing_is_left(before: &BTreeSet<String>, name: &str) -> Result<()> {
    let after = inventory(name)?;
    let left: Vec<_> = after.difference(before).collect();
    ensure!(left.is_empty(), "the cluster has left on the machine: {left:#?}");
    let gone: Vec<_> = before.difference(&after).collect();
    ensure!(gone.is_empty(), "the cluster has taken from the machine: {gone:#?}");
    Ok(())
}

/// The identity of a cluster, by which two are told apart.
const IDENTITY: [&str; 5] = ["get", "namespace", "kube-system", "--output", "jsonpath={.metadata.uid}"];

#[test]
fn two_clusters_live_side_by_side_and_each_goes_without_a_trace() -> Result<()> {
    let first = Cluster::alone()?;
    let identity = first.kubectl(IDENTITY)?;
    let second = Own("second");
    second.down()?;
    let before = inventory(second.0)?;
    output(&mut xtask(&second.up()?)?)?;
    let other = second.kubectl(&IDENTITY)?;
    ensure!(!identity.is_empty() && identity != other, "the two clusters are one: {identity} and {other}");
    ensure!(inventory(second.0)?.len() > before.len(), "the inventory does not see a cluster that is up");
    ensure!(output(&mut xtask(&second.up()?)?).is_ok(), "a second `up` of a cluster that is up fails");

    second.down()?;
    nothing_is_left(&before, second.0)?;
    ensure!(first.kubectl(IDENTITY)? == identity, "the first cluster is not the same after the second has gone");
    Ok(())
}

/// The remains of an `up` that was killed go with `down`, and do not hinder the next `up`.
#[test]
fn down_and_up_clear_what_a_killed_up_left() -> Result<()> {
    let _alone = Cluster::alone()?;
    let cluster = Own("killed");
    cluster.down()?;
    let before = inventory(cluster.0)?;
    // Killed at three places: before anything runs, with a control plane, with a node.
    for log in ["cluster", "kube-apiserver", "kubelet-1"] {
        killed_up(&cluster, log)?;
        cluster.down()?;
        nothing_is_left(&before, cluster.0).with_context(|| format!("killed when {log} had started"))?;
    }
    killed_up(&cluster, "kube-apiserver")?;
    output(&mut xtask(&cluster.up()?)?).context("the next `up` does not clear away what was left")?;

    // The outermost process takes everything along; what the kernel leaves, `down` removes.
    let outermost = outermost(&cluster)?;
    output(Command::new("kill").args(["-9", &outermost]))?;
    wait::until("`dev status` says that it is broken", || {
        let status = output(&mut xtask(&["dev", "status"])?)?;
        Ok(status.contains("killed: broken").then_some(()))
    })?;
    cluster.down()?;
    nothing_is_left(&before, cluster.0)
}

/// Starts an `up` and kills it as soon as the component `log` has one.
fn killed_up(cluster: &Own, log: &str) -> Result<()> {
    let logs = PathBuf::from(std::env::var_os("KEYFLEET_CLUSTER_LOGS").context("run this with `cargo xtask test`")?);
    let log = logs.join(cluster.0).join(format!("{log}.log"));
    let _ = std::fs::remove_file(&log);
    let mut up = xtask(&cluster.up()?)?.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let started = wait::until("the component has started", || Ok(log.exists().then_some(())));
    up.kill()?;
    up.wait()?;
    started
}

/// The process in which all others of a cluster are.
fn outermost(cluster: &Own) -> Result<String> {
    let wanted = format!("unshare .*inside-cluster .*/clusters/{}$", cluster.0);
    Ok(output(Command::new("pgrep").args(["--full", &wanted]))?.trim().to_owned())
}

#[test]
fn what_is_killed_in_a_cluster_is_started_again() -> Result<()> {
    let _alone = Cluster::alone()?;
    let cluster = Own("mended");
    cluster.down()?;
    output(&mut xtask(&cluster.up()?)?)?;
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=answer=42"])?;
    let answers = |what: &str| {
        wait::until(what, || {
            let kept = cluster.kubectl(&["get", "configmap", "kept", "--output", "jsonpath={.data.answer}"])?;
            Ok((kept == "42").then_some(()))
        })
    };
    for component in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet"] {
        killed(&cluster, &format!("/{component} --"))
            .or_else(|_| killed(&cluster, &format!("{component} --")))
            .with_context(|| format!("killing {component}"))?;
        answers(&format!("the cluster answers after {component} was killed"))?;
    }
    // A whole node, with everything that ran on it: its pods run again afterwards.
    let started = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    let pods = ["--namespace", "kube-system", "get", "pods"];
    killed(&cluster, "keyfleet-dev inside-node")?;
    wait::until("DNS runs again on the node that was killed", || {
        let restarts = cluster.kubectl(&[&pods[..], &["--output", started]].concat())?;
        let ready =
            cluster.kubectl(&[&["wait", "nodes", "--all", "--for=condition=Ready", "--timeout=5s"][..]].concat())?;
        Ok((restarts.trim() != "0" && !ready.is_empty()).then_some(()))
    })?;
    cluster.kubectl(&["--namespace", "kube-system", "rollout", "status", "daemonset/coredns", "--timeout=120s"])?;
    Ok(())
}

/// Kills the processes of a cluster whose command line has `part` in it.
fn killed(cluster: &Own, part: &str) -> Result<()> {
    let listed = output(Command::new("pgrep").args(["--full", "--", part]))?;
    let mut any = false;
    for process in listed.lines() {
        // Of this cluster alone: every process of it carries its folder in the environment.
        let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(&format!("/clusters/{}\0", cluster.0)) {
            output(Command::new("kill").args(["-9", process]))?;
            any = true;
        }
    }
    ensure!(any, "no process of the cluster {} has {part:?} in its command line", cluster.0);
    Ok(())
}
