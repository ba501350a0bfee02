//! Bad input: a clear word, and nothing lost by it.

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::Fleet;
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

/// Admission refuses a spec that makes no safe fleet, and says what to do.
#[test]
fn an_unsafe_fleet_is_refused_at_admission() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::prepare(&cluster, "refused")?;
    let cases: [(Value, &str); 6] = [
        (json!({"nodes": 2}), "nodes"),
        (json!({"nodes": 6, "threshold": 3}), "threshold"),
        (json!({"nodes": 4, "threshold": 4}), "threshold"),
        (json!({"nodes": 4, "threshold": 3, "minHolders": 5}), "minHolders"),
        (json!({"schedule": {"intervalBlocks": 0}}), "intervalBlocks"),
        (json!({"schedule": {"intervalBlocks": 8}}), "intervalBlocks is not longer than the four deadlines together"),
    ];
    for (differs, says) in cases {
        let refused = fleet.apply(&differs).err().map(|error| format!("{error:#}"));
        let refused = refused.with_context(|| format!("{differs} was admitted"))?;
        ensure!(refused.contains(says), "the refusal of {differs} does not say `{says}`: {refused}");
    }
    let none = fleet.namespace.get(&["kmsclusters,kmsnodes,keyepochs,pods"])?;
    ensure!(none["items"].as_array().is_some_and(Vec::is_empty), "something was made all the same: {none}");
    Ok(())
}

/// A key-encryption key that is missing or too short shows in a condition; the right one heals it.
///
/// seed: 000-04
#[test]
fn a_bad_key_encryption_key_shows_in_a_condition() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::prepare(&cluster, "kek")?;
    fleet.namespace.kubectl(&["delete", "secret", "keys-kek"])?;
    fleet.apply(&json!({}))?;
    let said = |reason: &str| {
        wait::until(&format!("the nodes say {reason}"), || {
            let nodes = fleet.namespace.get(&["kmsnodes"])?.to_string();
            let object = fleet.object()?["status"].to_string();
            Ok((nodes.contains(reason) && object.contains(reason)).then_some(()))
        })
        .with_context(|| fleet.stands())
    };
    said("KeyEncryptionKeyMissing")?;
    fleet.secret("keys-kek", &[("key", "0badc0de")])?;
    said("KeyEncryptionKeyWrong")?;
    let everything = fleet.namespace.get(&["kmsclusters,kmsnodes"])?.to_string();
    ensure!(!everything.contains("0badc0de"), "the key's text is repeated");
    fleet.secret("keys-kek", &[("key", &"5a".repeat(32))])?;
    fleet.wait_ready()
}

#[test]
fn fields_that_a_fleet_is_built_on_cannot_be_changed_under_it() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::ready(&cluster, "frozen", &json!({}))?;
    let before = fleet.object()?;
    let chain = json!({"schedule": {"source": {"clock": null, "ethereum": {"chainId": 1, "urls": ["http://chain"]}}}});
    let refused = fleet.patch(&chain).err().map(|error| format!("{error:#}")).context("the source was changed")?;
    ensure!(refused.contains("source"), "the refusal does not name the field: {refused}");
    let status = json!({"status": {"publicKey": null}}).to_string();
    let words = ["patch", "kmscluster", "keys", "--subresource=status", "--type=merge", "--patch", &status];
    ensure!(fleet.namespace.kubectl(&words).is_err(), "the public key was taken out of the status");
    let after = fleet.object()?;
    ensure!(before["spec"] == after["spec"], "a refused change left something behind");
    ensure!(before["status"]["publicKey"] == after["status"]["publicKey"], "the public key changed");
    Ok(())
}
