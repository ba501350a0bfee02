//! Lost volumes and pods, and their return.

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{Fleet, every, replication};
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

/// A fleet with replicas, and boundaries soon.
fn replicated<'a>(cluster: &'a Cluster, purpose: &str) -> Result<Fleet<'a>> {
    let fleet = Fleet::prepare(cluster, purpose)?;
    let mut spec = replication(&fleet.namespace.name);
    spec["schedule"] = every(14)["schedule"].take();
    fleet.apply(&spec)?;
    fleet.wait_ready()?;
    Ok(fleet)
}

/// A node whose volume is lost comes back from the bucket with the same share.
///
/// Pod and volume of a node are gone; the bucket has all that it acknowledged.
///
/// seed: 001-04, 001-09, 003-45
#[test]
fn a_node_without_its_volume_is_restored_from_the_bucket() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = replicated(&cluster, "volume")?;
    let node = fleet.node(3);
    let identity = |fleet: &Fleet<'_>| {
        Ok::<_, anyhow::Error>(fleet.namespace.get(&["kmsnode", &node])?["spec"]["identityKey"].clone())
    };
    let before = identity(&fleet)?;
    let uid = fleet.wait_pod(3, None)?["metadata"]["uid"].clone();
    let claim = format!("{node}-state");
    fleet.namespace.kubectl(&["delete", "pvc", &claim, "--wait=false"])?;
    fleet.namespace.kubectl(&["delete", "pod", &node])?;
    let pod = fleet.wait_pod(3, uid.as_str())?;
    let restored = pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"].clone();
    ensure!(restored == 0, "the container that restores ended with {restored}");
    let log = fleet.namespace.kubectl(&["logs", &node, "--container", "restore"])?;
    ensure!(log.contains("restored"), "nothing was restored: {log}");
    ensure!(identity(&fleet)? == before, "the node came back as another one");
    let node_status = fleet.namespace.get(&["kmsnode", &node])?["status"]["node"].clone();
    ensure!(node_status["offer"]["key"] == before, "the node offers another identity: {}", node_status["offer"]);

    // It serves: with another node away, its share is needed.
    let sealed = fleet.encrypt("orders/1", b"secret")?;
    let held = crate::rounds::Held::new(&fleet, &[fleet.node(1)])?;
    ensure!(fleet.decrypt(&sealed, &["--timeout", "60s"])? == b"secret", "other data came out");
    drop(held);
    fleet.wait_pod(1, None)?;
    let next = fleet.wait_next()?;
    let next = fleet.wait_phase(next, &["Confirmed"])?;
    let holders = next["status"]["possessors"].as_array().cloned().unwrap_or_default();
    ensure!(holders.contains(&json!(3)), "node 3 does not hold the next epoch: {holders:?}");
    Ok(())
}

/// A node that was away for a whole round obtains its share without another round.
///
/// seed: 002-07, 002-11
#[test]
fn a_node_that_missed_a_round_gets_its_share() -> Result<()> {
    let cluster = Cluster::shared()?;
    // No boundary is near: it is not another round that brings the share.
    let fleet = Fleet::ready(&cluster, "away", &json!({}))?;
    let held = crate::rounds::Held::new(&fleet, &[fleet.node(4)])?;
    let name = keyfleet_scenarios::fleet::NAME;
    fleet.namespace.kubectl(&["annotate", "kmscluster", name, "keyfleet.dev/reshare=now"])?;
    let active = fleet.wait_next()?;
    let without = fleet.wait_phase(active, &["Active", "Confirmed"])?;
    let holds = |epoch: &Value| {
        let all = |field: &str| epoch["status"][field].as_array().cloned().unwrap_or_default();
        all("possessors").contains(&json!(4)) || all("holders").iter().any(|holder| holder["index"] == 4)
    };
    ensure!(!holds(&without), "node 4 holds an epoch that was made without it");
    drop(held);
    wait::until("node 4 holds the epoch", || {
        let epoch = fleet.wait_phase(active, &["Active", "Confirmed"])?;
        Ok(holds(&epoch).then_some(()))
    })?;
    let now = fleet.object()?["status"]["activeEpoch"].as_u64().context("no epoch is active")?;
    ensure!(now == active, "another round was made: {now} is active, not {active}");
    Ok(())
}

/// Nodes report a bucket that does not exist, and make a key once it is there.
#[test]
fn a_missing_bucket_is_reported_before_a_key_is_made() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::prepare(&cluster, "bucket")?;
    let mut wrong = replication(&fleet.namespace.name);
    wrong["replication"]["s3"]["bucket"] = json!("no-such-bucket");
    fleet.apply(&wrong)?;
    let message = wait::until("the fleet says what is wrong with the bucket", || {
        let reason = fleet.object()?["status"]["reason"].as_str().unwrap_or_default().to_owned();
        let conditions = fleet.object()?["status"]["conditions"].to_string();
        Ok(conditions.contains("no-such-bucket").then_some(reason))
    })
    .with_context(|| fleet.stands())?;
    ensure!(fleet.epochs()?.is_empty(), "a round was started without a bucket ({message})");
    Ok(())
}
