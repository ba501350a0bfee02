//! Manifests that the charts render.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::namespace::Namespace;
use keyfleet_scenarios::operator::{NAMESPACE, RELEASE, chart};
use serde_json::Value;

/// A file that goes with the scenario.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &str) -> Result<Self> {
        let file = std::env::temp_dir().join(format!("keyfleet-{}-{name}", std::process::id()));
        fs::write(&file, content)?;
        Ok(Self(file))
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn template(cluster: &Cluster, release: &str, name: &str, namespace: &str, settings: &str) -> Result<String> {
    let chart = chart(name).display().to_string();
    let words = ["template", release, &chart, "--namespace", namespace, "--set", settings];
    cluster.helm(words.iter().chain(&["--kube-version", "1.31.0"]))
}

#[test]
fn the_charts_lint_and_the_api_server_takes_what_they_render() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "rendered")?;
    for name in ["keyfleet-operator", "keyfleet-cluster"] {
        cluster.helm(["lint", "--strict", &chart(name).display().to_string()])?;
    }
    let everything = format!(
        "watchNamespaces={{{}}},fullnameOverride=other,replicas=2,podDisruptionBudget.enabled=true,chainSecrets={{ethereum}},\
         crds.enabled=false,priorityClassName=system-cluster-critical,imagePullSecrets[0].name=pull,log=debug",
        namespace.name
    );
    let own = namespace.name.as_str();
    for (release, name, settings) in [
        ("other", "keyfleet-operator", everything.as_str()),
        ("other", "keyfleet-operator", "crds.enabled=false"),
        ("keys", "keyfleet-cluster", "spec.nodes=5,spec.threshold=3,spec.podTemplate.resources.limits.memory=1Gi"),
        ("keys", "keyfleet-cluster", "spec.paused=true,labels.team=payments,annotations.owner=me"),
    ] {
        let rendered = Scratch::new(
            &format!("{release}-{}.yaml", settings.len()),
            &template(&cluster, release, name, own, settings)?,
        )?;
        let apply = ["apply", "--dry-run=server", "--filename", &rendered.path()];
        namespace.kubectl(&apply).with_context(|| format!("{name} with {settings}"))?;
    }
    Ok(())
}

/// The API server accepts the plain manifests, and they are the same objects as the charts render.
#[test]
fn plain_manifests_equal_the_charts() -> Result<()> {
    let cluster = Cluster::shared()?;
    let manifests = chart("").join("../manifests");
    let file = |name: &str| manifests.join(name).display().to_string();
    for file in [file("crds"), file("operator.yaml")] {
        let words = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename", &file];
        cluster.kubectl(words)?;
    }
    // The operator's rights and policies that are in force are the ones of the chart: it was installed from there.
    let kinds = "clusterroles,validatingadmissionpolicies";
    let live: Value = cluster.get([kinds, "--selector", &format!("app.kubernetes.io/instance={RELEASE}")])?;
    let plain =
        cluster.kubectl(["create", "--dry-run=client", "--output", "json", "--filename", &file("operator.yaml")])?;
    let plain = serde_json::Deserializer::from_str(&plain).into_iter::<Value>().collect::<Result<Vec<_>, _>>()?;
    let plain: Vec<&Value> = plain
        .iter()
        .flat_map(|one| one["items"].as_array().map_or_else(|| vec![one], |items| items.iter().collect()))
        .collect();
    for live in live["items"].as_array().context("a list")? {
        let same = |one: &&&Value| one["kind"] == live["kind"] && one["metadata"]["name"] == live["metadata"]["name"];
        let found =
            plain.iter().find(same).with_context(|| format!("{} is not in the manifests", live["metadata"]["name"]))?;
        ensure!(found["rules"] == live["rules"], "{} has other rules", live["metadata"]["name"]);
        ensure!(
            found["spec"]["validations"] == live["spec"]["validations"],
            "{} has other rules",
            live["metadata"]["name"]
        );
    }
    // The smallest sample is the cluster's chart without any values.
    let rendered =
        Scratch::new("smallest.yaml", &template(&cluster, "keys", "keyfleet-cluster", NAMESPACE, "name=keys")?)?;
    let spec = |file: &str| -> Result<Value> {
        let words = ["--namespace", NAMESPACE, "create", "--dry-run=client", "--output", "json", "--filename", file];
        Ok(serde_json::from_str::<Value>(&cluster.kubectl(words)?)?["spec"].clone())
    };
    ensure!(spec(&rendered.path())? == spec(&file("samples/smallest.yaml"))?, "the sample and the chart differ");
    Ok(())
}

#[test]
fn values_that_do_not_fit_are_refused_by_name() -> Result<()> {
    let cluster = Cluster::shared()?;
    let long = format!("name={}", "a".repeat(41));
    for (name, settings, wanted) in [
        ("keyfleet-operator", "replcas=2", "replcas"),
        ("keyfleet-operator", "replicas=many", "replicas"),
        ("keyfleet-cluster", "spec.ndes=4", "ndes"),
        ("keyfleet-cluster", "spec.nodes=four", "nodes"),
        ("keyfleet-cluster", "spec.storage.sise=1Gi", "sise"),
        ("keyfleet-cluster", "spec.deletionPolicy=Keep", "deletionPolicy"),
        ("keyfleet-cluster", long.as_str(), "40 characters"),
        // Another key with every rendering would be the end of every volume.
        ("keyfleet-cluster", "keyEncryptionKey.generate=true", "needs the cluster"),
    ] {
        let refusal = template(&cluster, "keys", name, "default", settings);
        let refusal = refusal.expect_err(&format!("{name} takes {settings}")).to_string();
        ensure!(refusal.contains(wanted), "the refusal of {settings} does not say {wanted:?}: {refusal}");
    }
    Ok(())
}
