//! The life of the charts' releases.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::namespace::Namespace;
use keyfleet_scenarios::operator::{self, NAMESPACE, RELEASE, chart};
use keyfleet_scenarios::probe::is_ready;
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

/// The next version of the operator's chart: a column more in the list of clusters. It goes with the scenario.
struct Next(PathBuf);

impl Next {
    fn write() -> Result<Self> {
        let next = Self(std::env::temp_dir().join(format!("keyfleet-chart-{}", std::process::id())));
        copy(&chart(RELEASE), &next.0)?;
        let kind = next.0.join("files/kmscluster.yaml");
        let text = fs::read_to_string(&kind)?;
        let (columns, wanted) =
            ("additionalPrinterColumns:\n", "    - jsonPath: .spec.nodes\n      name: Wanted\n      type: integer\n");
        let changed = text.replacen(columns, &format!("{columns}{wanted}"), 1);
        ensure!(changed != text, "the kind has no columns to add one to");
        fs::write(kind, changed)?;
        Ok(next)
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Puts the operator back for the other scenarios, whatever became of this one.
struct Restored<'a>(&'a Cluster);

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        if let Err(error) = operator::install(self.0, &chart(RELEASE).display().to_string()) {
            eprintln!("the operator could not be put back: {error:#}");
        }
    }
}

/// The ready nodes' pods, by uid.
fn ready(namespace: &Namespace<'_>) -> Result<Vec<String>> {
    let pods = namespace.get(&["pods", "--selector=app.kubernetes.io/component=node"])?;
    let items = pods["items"].as_array().context("a list of pods")?;
    let uid = |pod: &Value| pod["metadata"]["uid"].as_str().map(str::to_owned);
    let mut uids: Vec<String> = items.iter().filter(|pod| is_ready(pod)).filter_map(uid).collect();
    uids.sort();
    Ok(uids)
}

/// The operator is upgraded with its CRDs, rolled back and uninstalled; the fleet serves throughout.
#[test]
fn an_operator_comes_and_goes_while_its_fleet_serves() -> Result<()> {
    let cluster = Cluster::alone()?;
    let _restored = Restored(&cluster);
    let namespace = Namespace::create(&cluster, "release")?;
    let chart = |name: &str| chart(name).display().to_string();
    let (of_operator, of_cluster) = (chart(RELEASE), chart("keyfleet-cluster"));
    let values = ["--set", "keyEncryptionKey.generate=true", "--set-json"];
    let spec = json!({"schedule": {"source": {"clock": {"blockMs": 1000}}, "intervalBlocks": 12},
                      "podTemplate": {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}}});
    let spec = format!("spec={spec}");
    let install = |verb: &[&str]| namespace.helm(&[verb, &["keys", &of_cluster], &values, &[&spec]].concat());
    install(&["install"])?;
    let wait_ready = || namespace.kubectl(&["wait", "--for=condition=Ready", "kmsc/keys", "--timeout=180s"]);
    wait_ready().with_context(|| namespace.kubectl(&["get", "kmsc,kmsn,ke,pods"]).unwrap_or_default())?;
    let object = || namespace.get(&["kmsc", "keys"]);
    let public_key = object()?["status"]["publicKey"].clone();
    ensure!(public_key.is_string(), "the fleet has no public key");
    let kek = namespace.get(&["secret", "keys-kek"])?["data"].clone();
    let pods = wait::until("all four nodes are ready", || Ok(Some(ready(&namespace)?).filter(|pods| pods.len() == 4)))?;

    // The key-encryption key is made once.
    install(&["upgrade"])?;
    ensure!(namespace.get(&["secret", "keys-kek"])?["data"] == kek, "an upgrade changed the key-encryption key");

    let columns =
        || namespace.kubectl(&["get", "kmsc"]).map(|table| table.lines().next().unwrap_or_default().to_owned());
    ensure!(!columns()?.contains("WANTED"), "the column is there before the upgrade: {}", columns()?);
    let next = Next::write()?;
    operator::install(&cluster, &next.0.display().to_string())?;
    wait::until("an upgrade brings the changed kind", || Ok(columns()?.contains("WANTED").then_some(())))?;
    cluster.helm(["--namespace", NAMESPACE, "rollback", RELEASE, "--wait", "--timeout", "120s"])?;
    wait::until("a rollback brings the kind back", || Ok((!columns()?.contains("WANTED")).then_some(())))?;
    wait_ready()?;
    ensure!(ready(&namespace)? == pods, "an upgrade of the operator rolled nodes");

    cluster.helm(["--namespace", NAMESPACE, "uninstall", RELEASE, "--wait", "--timeout", "120s"])?;
    let left = cluster.kubectl(["--namespace", NAMESPACE, "get", "deployments,serviceaccounts", "--output", "name"])?;
    ensure!(!left.contains(RELEASE), "after the removal there is still: {left}");
    ensure!(object()?["status"]["publicKey"] == public_key, "the fleet's object went with the operator");
    ensure!(ready(&namespace)? == pods, "nodes went with the operator");
    // The same pods, so none was started again by anybody.
    operator::install(&cluster, &of_operator)?;
    let epoch = object()?["status"]["activeEpoch"].as_u64();
    wait::until("the new operator goes on with rounds", || {
        Ok((object()?["status"]["activeEpoch"].as_u64() > epoch).then_some(()))
    })?;
    ensure!(ready(&namespace)? == pods, "a new operator rolled nodes");

    // The cluster's release goes and comes: everything that matters stays.
    namespace.helm(&["uninstall", "keys", "--wait", "--timeout", "120s"])?;
    wait::until("the KmsCluster is gone", || {
        let left = namespace.kubectl(&["get", "kmsc", "--output", "name"])?;
        Ok(left.trim().is_empty().then_some(()))
    })?;
    ensure!(namespace.get(&["secret", "keys-kek"])?["data"] == kek, "the key-encryption key went with the release");
    install(&["install"])?;
    wait_ready().with_context(|| namespace.kubectl(&["get", "kmsc,kmsn,ke,pods"]).unwrap_or_default())?;
    ensure!(object()?["status"]["publicKey"] == public_key, "after the release came back the key is another");
    ensure!(namespace.get(&["secret", "keys-kek"])?["data"] == kek, "the key-encryption key was made anew");
    Ok(())
}
