//! Answers to applications, and refusals.

use anyhow::{Context, Result, bail, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{CALLER, Fleet, NAME, command, every};
use keyfleet_scenarios::wait;
use serde_json::json;

use crate::rounds::Held;

/// Old data opens after reshares and with a node lost; with too few nodes the client names the missing ones.
///
/// seed: 002-13
#[test]
fn data_outlives_reshares_and_a_lost_node() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::ready(&cluster, "decrypt", &every(14))?;
    let secret = b"written before the first reshare".repeat(5000);
    let sealed = fleet.encrypt("orders/7", &secret)?;
    let now = fleet.object()?["status"]["activeEpoch"].as_u64().context("no epoch is active")?;
    fleet.wait_active(now + 3)?;
    ensure!(fleet.decrypt(&sealed, &[])? == secret, "after three reshares other data came out");

    let one = Held::new(&fleet, &[fleet.node(4)])?;
    ensure!(fleet.decrypt(&sealed, &[])? == secret, "with one node down other data came out");
    drop(one);
    fleet.wait_pod(4, None)?;
    let both = Held::new(&fleet, &[fleet.node(3), fleet.node(4)])?;
    let refused = fleet.decrypt(&sealed, &["--timeout", "5s"]).err().map(|error| format!("{error:#}"));
    let refused = refused.context("two of four nodes opened what needs three")?;
    ensure!(refused.contains("exit status: 3"), "the exit code does not say that trying again may help: {refused}");
    for says in ["2 of 3", "node 3", "node 4"] {
        ensure!(refused.contains(says), "the refusal does not say `{says}`: {refused}");
    }
    drop(both);
    fleet.wait_pod(3, None)?;
    ensure!(fleet.decrypt(&sealed, &["--timeout", "60s"])? == secret, "with the third node back other data came out");
    Ok(())
}

/// Every node refuses a token that no rule allows, or that is for another node; a changed rule works at once.
///
/// seed: 000-15, 002-27
#[test]
fn every_node_checks_tokens_against_the_access_rules() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::ready(&cluster, "access", &json!({}))?;
    let sealed = fleet.encrypt("orders/7", b"secret")?;
    fleet.namespace.kubectl(&["create", "serviceaccount", "stranger"])?;
    let stranger = ["--service-account", "stranger"];
    let refused = refusal(fleet.decrypt(&sealed, &stranger))?;
    for node in 1..=4 {
        ensure!(refused.contains(&format!("node {node}")), "node {node} does not say why it refuses: {refused}");
    }
    ensure!(refused.contains("exit status: 4"), "the exit code does not say that nodes refused: {refused}");

    // A token of the allowed account, for node 1, shown to every node.
    let folder = tempfile::tempdir()?;
    let id = fleet.object()?["status"]["clusterId"].as_str().context("no cluster id")?.to_owned();
    let audience = format!("--audience=keyfleet.dev/{id}/1");
    let token = fleet.namespace.kubectl(&["create", "token", CALLER, &audience])?;
    for node in 2..=4 {
        std::fs::write(folder.path().join(node.to_string()), token.trim())?;
    }
    let tokens = folder.path().display().to_string();
    let words = ["decrypt", "--cluster", NAME, "--namespace", &fleet.namespace.name, "--token-dir", &tokens];
    let refused = refusal(command(&words, &sealed))?;
    for node in 2..=4 {
        ensure!(refused.contains(&format!("node {node}")), "node {node} does not say why it refuses: {refused}");
    }

    let rule = |subject: &str| {
        let subject = format!("system:serviceaccount:{}:{subject}", fleet.namespace.name);
        json!({"access": {"rules": [{"subjects": [subject], "verbs": ["Derive"], "identities": ["orders/*"]}]}})
    };
    let restarts = || fleet.namespace.kubectl(&["get", "pods", "--output=jsonpath={.items[*].metadata.uid}"]);
    let before = restarts()?;
    fleet.patch(&rule("stranger"))?;
    wait::until("the new rule holds at every node", || Ok(fleet.decrypt(&sealed, &stranger).ok()))?;
    wait::until("the old rule holds nowhere", || Ok(fleet.decrypt(&sealed, &[]).is_err().then_some(())))?;
    let elsewhere = fleet.encrypt("invoices/7", b"secret")?;
    ensure!(fleet.decrypt(&elsewhere, &stranger).is_err(), "a rule for orders/* opens invoices/7");
    ensure!(restarts()? == before, "a changed rule cost a restart");
    Ok(())
}

/// A signature verifies under the public key, for its key name and message alone.
#[test]
fn a_signature_fits_one_key_name_and_one_message() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::ready(&cluster, "sign", &json!({}))?;
    let signature = fleet.sign("receipts", b"paid", &[])?;
    let key = fleet.public_key()?;
    let verify = |name: &str, message: &[u8]| {
        command(&["verify", "--public-key", &key, "--key-name", name, "--signature", &signature], message)
    };
    verify("receipts", b"paid")?;
    let refused = refusal(verify("receipts", b"unpaid"))?;
    ensure!(refused.contains("exit status: 5"), "the exit code does not say that it does not verify: {refused}");
    ensure!(verify("releases", b"paid").is_err(), "a signature of one key name verifies for another");
    Ok(())
}

fn refusal<T>(outcome: Result<T>) -> Result<String> {
    match outcome {
        Ok(_) => bail!("what had to be refused was done"),
        Err(error) => Ok(format!("{error:#}")),
    }
}
