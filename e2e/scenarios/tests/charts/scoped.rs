//! Operators that are installed for some namespaces, by a Role in each.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{Fleet, NAME};
use keyfleet_scenarios::namespace::Namespace;
use keyfleet_scenarios::operator::{Account, DEPLOYMENT, NAMESPACE, chart};
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

/// The operator of all namespaces is away, and comes back whatever becomes of the scenario.
struct Away;

impl Away {
    fn new(cluster: &Cluster) -> Result<Self> {
        let away = Self;
        cluster.kubectl(["--namespace", NAMESPACE, "scale", "deployment", DEPLOYMENT, "--replicas=0"])?;
        let pods = ["--namespace", NAMESPACE, "pods", "--selector=app.kubernetes.io/component=operator"];
        wait::until("the operator of all namespaces is gone", || {
            Ok(cluster.get(pods)?["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })?;
        Ok(away)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let words = ["--namespace", NAMESPACE, "scale", "deployment", DEPLOYMENT, "--replicas=1"];
        let _ = Command::new("kubectl").args(words).output();
        let ready = ["--namespace", NAMESPACE, "rollout", "status", "deployment", DEPLOYMENT, "--timeout=120s"];
        let _ = Command::new("kubectl").args(ready).output();
    }
}

/// A release of the operator in a namespace, for others. What it has outside of it goes with the scenario.
struct Scoped<'a> {
    namespace: &'a Namespace<'a>,
    account: String,
}

impl<'a> Scoped<'a> {
    fn install(namespace: &'a Namespace<'a>, watched: &[&str]) -> Result<Self> {
        let settings = std::env::var("KEYFLEET_OPERATOR_SETTINGS")
            .context("KEYFLEET_OPERATOR_SETTINGS is not set: run scenarios with `cargo xtask test --only NAME`")?;
        // Policies are of the whole Kubernetes: the names are those of nobody else.
        let account = format!("op-{}", namespace.name);
        let own = format!(
            "fullnameOverride={account},crds.enabled=false,rbac.aggregate=false,watchNamespaces={{{}}}",
            watched.join(",")
        );
        let scoped = Self { namespace, account };
        let chart = chart("keyfleet-operator").display().to_string();
        let install = ["install", "scoped", &chart, "--set", &settings, "--set", &own, "--wait", "--timeout", "120s"];
        namespace.helm(&install)?;
        Ok(scoped)
    }

    fn uninstall(&self) -> Result<String> {
        self.namespace.helm(&["uninstall", "scoped", "--ignore-not-found", "--wait", "--timeout", "120s"])
    }
}

impl Drop for Scoped<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.uninstall() {
            eprintln!("{error:#}");
        }
    }
}

/// An operator for its own namespace needs no right elsewhere, and leaves no finalizer that would keep the namespace.
#[test]
fn an_operator_of_one_namespace_leaves_nothing_behind() -> Result<()> {
    let cluster = Cluster::alone()?;
    let _away = Away::new(&cluster)?;
    let fleet = Fleet::prepare(&cluster, "own")?;
    let name = fleet.namespace.name.clone();
    let operator = Scoped::install(&fleet.namespace, &[&name])?;
    let bindings = cluster.get(["clusterrolebindings"])?;
    let bindings = bindings["items"].as_array().context("a list")?;
    let of_operator = |subject: &Value| subject["name"] == operator.account && subject["namespace"] == name;
    let bound = bindings.iter().find(|one| one["subjects"].as_array().is_some_and(|all| all.iter().any(of_operator)));
    ensure!(bound.is_none(), "the operator has a right in every namespace: {bound:?}");
    let account = Account::of(&cluster, &name, &operator.account)?;
    for (verb, what) in [("list", "pods"), ("list", "kmsclusters"), ("create", "secrets")] {
        let may = account.kubectl(&["auth", "can-i", verb, what, "--namespace", NAMESPACE]);
        ensure!(may.is_err_and(|no| no.to_string().contains("no")), "the operator may {verb} {what} elsewhere");
    }

    fleet.apply(&json!({}))?;
    fleet.wait_ready()?;
    let sealed = fleet.encrypt("orders/1", b"secret")?;
    ensure!(fleet.decrypt(&sealed, &[])? == b"secret", "other data came out");
    let kept = fleet.namespace.get(&["kmsnodes,keyepochs"])?;
    let kept = kept["items"].as_array().context("a list")?;
    let with_finalizer =
        kept.iter().find(|one| one["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()));
    ensure!(kept.len() > 4 && with_finalizer.is_none(), "there is a finalizer on {with_finalizer:?}");

    // The cluster is deleted while there is an operator; what is kept of it goes when nobody is left.
    fleet.namespace.kubectl(&["delete", "kmscluster", NAME, "--wait=true", "--timeout=120s"])?;
    operator.uninstall()?;
    cluster
        .kubectl(["delete", "namespace", &name, "--wait=true", "--timeout=120s"])
        .with_context(|| cluster.kubectl(["get", "namespace", &name, "--output", "yaml"]).unwrap_or_default())?;
    Ok(())
}

/// An operator for a list of namespaces runs the fleets of those and of no other.
#[test]
fn an_operator_for_a_list_of_namespaces_runs_only_those() -> Result<()> {
    let cluster = Cluster::alone()?;
    let away = Away::new(&cluster)?;
    let home = Namespace::create(&cluster, "home")?;
    let fleets = ["listed", "listed", "unlisted"].map(|purpose| Fleet::prepare(&cluster, purpose));
    let [first, second, other] = fleets;
    let (first, second, other) = (first?, second?, other?);
    let operator = Scoped::install(&home, &[&first.namespace.name, &second.namespace.name])?;
    for fleet in [&other, &first, &second] {
        fleet.apply(&json!({}))?;
    }
    for fleet in [&first, &second] {
        fleet.wait_ready()?;
    }
    ensure!(other.object()?["status"]["clusterId"].is_null(), "a namespace that was not named is looked after");
    for fleet in [&first, &second] {
        fleet.namespace.kubectl(&["delete", "kmscluster", NAME, "--wait=false"])?;
    }
    drop((operator, away));
    wait::until("the operator of all namespaces takes over", || {
        Ok(other.object()?["status"]["clusterId"].is_string().then_some(()))
    })
}
