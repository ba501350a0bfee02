//! Fleets that are deleted, applied again, and put back from a backup.

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{Fleet, NAME};
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

/// seed: 003-46
#[test]
fn a_deleted_cluster_that_is_applied_again_has_the_same_key_and_opens_old_data() -> Result<()> {
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

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).context("a text")
}
