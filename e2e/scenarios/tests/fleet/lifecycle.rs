//! Fleets that are deleted, applied again, and put back from a backup.

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{Fleet, NAME, replication};
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

/// A cluster that is deleted and applied again has the same key and opens old data.
///
/// seed: 003-46
#[test]
fn a_cluster_applied_again_keeps_its_key() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::ready(&cluster, "deleted", &json!({}))?;
    let (key, sealed) = (fleet.public_key()?, fleet.encrypt("orders/1", b"before")?);
    fleet.namespace.kubectl(&["delete", "kmscluster", NAME, "--timeout=120s"])?;
    wait::until("no pod is left", || {
        Ok(fleet.namespace.get(&["pods"])?["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    for _ in 0..2 {
        fleet.apply(&json!({}))?;
        fleet.wait_ready()?;
        ensure!(fleet.public_key()? == key, "another key was made");
    }
    ensure!(fleet.object()?["metadata"]["generation"] == 1, "applying the same again changed the generation");
    ensure!(fleet.decrypt(&sealed, &["--timeout", "60s"])? == b"before", "other data came out");
    Ok(())
}

/// As a restore of the namespace does it, which brings objects back and no status.
#[test]
fn objects_put_back_without_their_status_are_the_same_fleet() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::ready(&cluster, "putback", &json!({}))?;
    let (key, sealed) = (fleet.public_key()?, fleet.encrypt("orders/1", b"before")?);
    let kinds = "kmsclusters,kmsnodes,keyepochs";
    let mut kept = fleet.namespace.get(&[kinds])?["items"].as_array().cloned().context("a list")?;
    // Nothing of the operator's is asked: what it would do on a deletion is not what a lost etcd does.
    for object in &kept {
        let (kind, name) = (text(&object["kind"])?, text(&object["metadata"]["name"])?);
        let words = ["patch", &kind, &name, "--type=merge", "--patch", r#"{"metadata":{"finalizers":null}}"#];
        let _ = fleet.namespace.kubectl(&words);
        fleet.namespace.kubectl(&["delete", &kind, &name, "--wait=false", "--cascade=orphan"])?;
    }
    for object in &mut kept {
        let metadata = json!({
            "name": object["metadata"]["name"], "labels": object["metadata"]["labels"],
            "annotations": object["metadata"]["annotations"],
        });
        object["metadata"] = metadata;
        object.as_object_mut().context("an object")?.remove("status");
    }
    wait::until("the objects are gone and put back", || {
        for object in &kept {
            fleet.namespace.apply(object.clone())?;
        }
        Ok(Some(()))
    })?;
    fleet.wait_ready()?;
    ensure!(fleet.public_key()? == key, "another key was made");
    ensure!(fleet.decrypt(&sealed, &["--timeout", "60s"])? == b"before", "other data came out");
    Ok(())
}

/// A name whose mark is in the bucket gets no second key, and the refusal names the cluster that owns it.
///
/// The namespace and everything in it are lost; the bucket still has the mark and the replicas of the fleet of this name.
///
/// seed: 003-46
#[test]
fn a_name_marked_in_the_bucket_gets_no_second_key() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::prepare(&cluster, "mark")?;
    let mut spec = replication(&fleet.namespace.name);
    fleet.apply(&spec)?;
    fleet.wait_ready()?;
    let (first, key) = (text(&fleet.object()?["status"]["clusterId"])?, fleet.public_key()?);
    fleet.lose_everything()?;
    fleet.apply(&spec)?;
    let reason = wait::until("the fleet says that its name is taken", || {
        let status = fleet.object()?["status"].clone();
        let reason = status["reason"].as_str().unwrap_or_default().to_owned();
        Ok((status["phase"] == "Blocked").then_some(reason))
    })
    .with_context(|| fleet.stands())?;
    let mark = format!("by-name/{}/{NAME}", fleet.namespace.name);
    for says in [first.as_str(), mark.as_str(), "docs/runbooks/name-taken.md"] {
        ensure!(reason.contains(says), "the refusal does not say `{says}`: {reason}");
    }
    let certified = |epoch: &Value| !epoch["status"]["certificate"].is_null();
    ensure!(!fleet.epochs()?.iter().any(certified), "a second key was made: {}", fleet.stands());
    ensure!(fleet.object()?["status"]["publicKey"].is_null(), "the fleet has a public key: {}", fleet.stands());

    // The way out where the first key is not wanted back, as the runbook has it: what the second fleet left, which never had a
    // key, goes, and another prefix is taken. Nothing of the first fleet is touched.
    fleet.namespace.kubectl(&["delete", "kmscluster", NAME, "--timeout=120s"])?;
    fleet.namespace.kubectl(&["delete", "kmsnodes,keyepochs,persistentvolumeclaims", "--all", "--timeout=120s"])?;
    fleet.namespace.kubectl(&["delete", "configmap", &format!("{NAME}-record"), "--ignore-not-found"])?;
    let seals = (1..=4).map(|index| format!("{}-seal", fleet.node(index))).collect::<Vec<_>>();
    let mut words = vec!["delete", "secret", "--ignore-not-found"];
    words.extend(seals.iter().map(String::as_str));
    fleet.namespace.kubectl(&words)?;
    spec["replication"]["s3"]["prefix"] = json!(format!("{}-again", fleet.namespace.name));
    fleet.apply(&spec)?;
    fleet.wait_ready()?;
    ensure!(fleet.public_key()? != key, "a key came back that nobody has shares of");
    Ok(())
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).context("a text")
}
