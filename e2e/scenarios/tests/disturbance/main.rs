//! Scenarios that disturb everything on a cluster, and so run alone: operators that go and come, drains, a
//! control plane without its API server.

mod api_server;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{Fleet, NAME, every};
use keyfleet_scenarios::operator::{DEPLOYMENT, NAMESPACE};
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

fn scale(cluster: &Cluster, replicas: u32) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    cluster.kubectl(["--namespace", NAMESPACE, "scale", "deployment", DEPLOYMENT, &replicas])?;
    Ok(())
}

/// Brings the operator back, whatever becomes of the scenario.
struct Back;

impl Drop for Back {
    fn drop(&mut self) {
        let words = ["--namespace", NAMESPACE, "scale", "deployment", DEPLOYMENT, "--replicas=1"];
        let _ = Command::new("kubectl").args(words).output();
    }
}

/// An operator that was away over two boundaries makes exactly one round of them.
///
/// seed: 003-32
#[test]
fn two_missed_boundaries_become_one_round() -> Result<()> {
    let cluster = Cluster::alone()?;
    let fleet = Fleet::ready(&cluster, "operator", &every(15))?;
    let sealed = fleet.encrypt("orders/1", b"secret")?;
    fleet.wait_next()?;
    let _back = Back;
    scale(&cluster, 0)?;
    wait::until("the operator is gone", || {
        let pods =
            cluster.get(["--namespace", NAMESPACE, "pods", "--selector=app.kubernetes.io/component=operator"])?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    let newest = fleet.epochs()?.last().and_then(|epoch| epoch["spec"]["number"].as_u64());
    let last = fleet.object()?["status"]["lastProcessedBoundary"].as_u64().context("no boundary was processed")?;
    let block =
        || Ok::<_, anyhow::Error>(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs());
    wait::until("two boundaries have passed", || Ok((block()? > last + 2 * 15 + 2).then_some(())))?;
    ensure!(fleet.decrypt(&sealed, &[])? == b"secret", "without its operator the fleet does not serve");
    let missed = block()? / 15 * 15;
    scale(&cluster, 1)?;
    let new = |epoch: &Value| epoch["spec"]["number"].as_u64() > newest;
    let caught_up = wait::until("the operator caught up", || {
        let processed = fleet.object()?["status"]["lastProcessedBoundary"].as_u64();
        let epochs = fleet.epochs()?;
        // The boundary is noted before its round is made.
        Ok((processed >= Some(missed) && epochs.iter().any(new)).then_some(epochs))
    })?;
    // Further boundaries may have come by the time that this is read: theirs are later blocks.
    let rounds = caught_up.iter().filter(|epoch| new(epoch));
    let rounds: Vec<u64> = rounds.filter_map(|epoch| epoch["spec"]["block"].as_u64()).collect();
    let of_missed = rounds.iter().filter(|block| **block <= missed).count();
    ensure!(of_missed <= 1, "{of_missed} rounds were made of the missed boundaries: for the blocks {rounds:?}");
    ensure!(rounds.first() >= Some(&missed), "the first round is not for the newest boundary: blocks {rounds:?}");
    Ok(())
}

/// A worker is drained under the disruption budget while a client asks without a pause: neither notices the other.
///
/// The nodes leave one after the other, as the budget allows.
///
/// seed: 002-14
#[test]
fn a_drain_under_the_budget_fails_no_request() -> Result<()> {
    let cluster = Cluster::alone()?;
    let mut shape = every(14);
    (shape["nodes"], shape["threshold"]) = (json!(5), json!(3));
    let fleet = Fleet::ready(&cluster, "drain", &shape)?;
    let worker = cluster.nodes()?.last().cloned().context("there are workers")?;
    let _uncordon = Uncordon(worker.clone());
    let nodes = format!("--pod-selector=app.kubernetes.io/component=node,keyfleet.dev/cluster={NAME}");
    fleet.never_failing(|| {
        let drain = ["drain", &worker, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s", &nodes];
        cluster.kubectl(drain).map(drop)
    })
}

/// Lets a drained worker take pods again, whatever becomes of the scenario.
struct Uncordon(String);

impl Drop for Uncordon {
    fn drop(&mut self) {
        let _ = Command::new("kubectl").args(["uncordon", &self.0]).output();
    }
}
