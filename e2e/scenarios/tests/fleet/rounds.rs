//! Keys that are made and handed on.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{Fleet, NAME, every};
use keyfleet_scenarios::wait;
use serde_json::json;

use crate::certificate;

const INTERVAL_BLOCKS: u64 = 14;

/// Four nodes, any three of which use the key: one `kubectl apply`, one `kubectl wait`, and columns that say it all.
#[test]
fn one_apply_gives_a_ready_fleet_and_the_columns_say_how_it_is() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::ready(&cluster, "apply", &json!({}))?;
    let key = fleet.public_key()?;
    let row = fleet.namespace.kubectl(&["get", "kmsc", NAME])?;
    for column in ["PHASE", "READY", "THRESHOLD", "KEY", "EPOCH", "NEXT BOUNDARY", "AGE"] {
        ensure!(row.contains(column), "`kubectl get kmsc` has no column {column}:\n{row}");
    }
    ensure!(row.contains("4/4") && row.contains(&key[..16]), "not four ready nodes, or not the key {key}:\n{row}");
    let nodes = fleet.namespace.kubectl(&["get", "kmsn"])?;
    ensure!(nodes.lines().count() == 5, "not four nodes:\n{nodes}");
    let epochs = fleet.namespace.kubectl(&["get", "ke"])?;
    ensure!(epochs.contains("Genesis") && epochs.contains("4/4"), "no genesis held by all four:\n{epochs}");
    let generation = fleet.object()?["metadata"]["generation"].clone();
    fleet.apply(&json!({}))?;
    ensure!(fleet.object()?["metadata"]["generation"] == generation, "applying the same again changed the generation");
    Ok(())
}

/// Three boundaries give three epochs of one key, each with a certificate that strangers verify.
///
/// seed: 002-02, 003-29
#[test]
fn three_boundaries_give_three_certified_epochs_of_one_key() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut shape = every(INTERVAL_BLOCKS);
    shape["epochs"] = json!({"retention": 8});
    let fleet = Fleet::ready(&cluster, "rounds", &shape)?;
    let key = fleet.public_key()?;
    let first = fleet.object()?["status"]["activeEpoch"].as_u64().context("no epoch is active")?;
    for number in first + 1..=first + 3 {
        fleet.wait_active(number)?;
    }
    let epochs = fleet.epochs()?;
    let served: Vec<_> = epochs.iter().filter(|epoch| !epoch["status"]["certificate"].is_null()).collect();
    ensure!(served.len() >= 4, "{} epochs were certified, not four:\n{}", served.len(), fleet.stands());
    let vectors: BTreeSet<_> = served.iter().map(|epoch| epoch["status"]["vectorDigest"].to_string()).collect();
    ensure!(vectors.len() == served.len(), "two epochs have the same vector: nothing was reshared");
    for epoch in &served {
        certificate::verify(epoch, &key)?;
        let blocks = epoch["spec"]["block"].as_u64().context("a plan has a block")?;
        ensure!(epoch["spec"]["kind"] == "Genesis" || blocks % INTERVAL_BLOCKS == 0, "block {blocks} is no boundary");
    }
    ensure!(fleet.public_key()? == key, "the public key changed");
    Ok(())
}

/// A node that is killed in a round sends the same messages again, and serves.
///
/// The node dies after a part of its messages; the round succeeds all the same.
///
/// seed: 003-30, 003-36
#[test]
fn a_node_killed_in_a_round_repeats_its_messages() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::ready(&cluster, "killed", &every(INTERVAL_BLOCKS))?;
    let killed = fleet.node(2);
    let uid = fleet.wait_pod(2, None)?["metadata"]["uid"].clone();
    let newest = fleet.epochs()?.len();
    let opened = wait::until("a round begins", || {
        let epochs = fleet.epochs()?;
        Ok((epochs.len() > newest).then(|| epochs.last().cloned()).flatten())
    })?;
    let number = opened["spec"]["number"].as_u64().context("an epoch has a number")?;
    fleet.namespace.kubectl(&["delete", "pod", &killed, "--grace-period=0", "--force"])?;
    let ended = fleet.wait_phase(number, &["Active", "Confirmed", "Retired"])?;
    let accused = ended["status"]["culprits"].as_array().cloned().unwrap_or_default();
    let lied = accused.iter().find(|culprit| culprit["index"] == 2 && culprit["fault"] == "Equivocation");
    ensure!(lied.is_none(), "the node said something else after its restart: {lied:?}");
    fleet.wait_pod(2, uid.as_str())?;
    let next = fleet.wait_next()?;
    let held = fleet.wait_phase(next, &["Confirmed"])?;
    let holds = held["status"]["possessors"].as_array().is_some_and(|all| all.contains(&json!(2)));
    let holders = held["status"]["holders"].as_array().is_some_and(|all| all.iter().any(|one| one["index"] == 2));
    ensure!(holds || holders, "node 2 does not hold epoch {next} after its restart");
    Ok(())
}

/// A round below its quorum fails with its reason, and the next succeeds unaided.
///
/// Six nodes, threshold four, five must hold: with two away a round cannot end, and nothing is lost by it.
#[test]
fn a_round_without_quorum_fails_and_the_next_succeeds() -> Result<()> {
    let cluster = Cluster::shared()?;
    let shape = json!({
        "nodes": 6, "threshold": 4, "minHolders": 5,
        "schedule": {"intervalBlocks": INTERVAL_BLOCKS, "phaseTimeoutSeconds": 4, "deadlines": {
            "dealingBlocks": 2, "verifyingBlocks": 2, "preparingBlocks": 2, "certifyingBlocks": 2,
        }},
    });
    let fleet = Fleet::ready(&cluster, "quorum", &shape)?;
    let before = fleet.object()?["status"]["activeEpoch"].as_u64().context("no epoch is active")?;
    let sealed = fleet.encrypt("orders/1", b"before")?;
    // Two workers' worth of room is not there for the two: their pods wait, as they would on a cluster that is full.
    let away = [5, 6].map(|index| fleet.node(index));
    for node in &away {
        fleet.namespace.kubectl(&["label", "kmsnode", node, "scenario=away"])?;
    }
    let hold = Held::new(&fleet, &away)?;
    let failed = wait::until("a round fails", || {
        let failed = |epoch: &serde_json::Value| epoch["status"]["phase"] == "Failed";
        Ok(fleet.epochs()?.into_iter().find(failed))
    })?;
    let reason = failed["status"]["failure"]["reason"].as_str().unwrap_or_default().to_owned();
    let message = failed["status"]["failure"]["message"].as_str().unwrap_or_default().to_owned();
    ensure!(!reason.is_empty() && message.contains('5'), "the failure does not say why: {reason}: {message}");
    ensure!(fleet.decrypt(&sealed, &[])? == b"before", "the epoch before does not serve");
    drop(hold);
    let after = fleet.wait_active(before + 1)?;
    ensure!(after > failed["spec"]["number"].as_u64().unwrap_or(0), "an attempt that failed became active");
    Ok(())
}

/// Keeps pods from running: no worker takes them, by a quota of the namespace.
pub(crate) struct Held<'a> {
    fleet: &'a Fleet<'a>,
}

impl<'a> Held<'a> {
    pub(crate) fn new(fleet: &'a Fleet<'a>, nodes: &[String]) -> Result<Self> {
        let running = fleet.namespace.get(&["pods"])?["items"].as_array().map_or(0, Vec::len);
        let left = running - nodes.len();
        fleet.namespace.apply(json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "away"},
            "spec": {"hard": {"pods": left.to_string()}},
        }))?;
        let held = Self { fleet };
        let mut delete = vec!["delete", "pod", "--wait=true"];
        delete.extend(nodes.iter().map(String::as_str));
        fleet.namespace.kubectl(&delete)?;
        Ok(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.fleet.namespace.kubectl(&["delete", "resourcequota", "away"]) {
            eprintln!("{error:#}");
        }
    }
}
