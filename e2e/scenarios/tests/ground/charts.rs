//! Helm.

use anyhow::{Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::namespace::Namespace;
use keyfleet_scenarios::probe::{Probe, chart};

#[test]
fn a_chart_is_installed_upgraded_rolled_back_and_uninstalled() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "charts")?;
    let chart = chart().display().to_string();
    cluster.helm(["lint", "--strict", &chart])?;
    let web = Probe::install(&namespace, "web", &["greeting=first"])?;
    let greeting = || -> Result<String> {
        let pods = web.ready_pods()?;
        ensure!(pods.len() == 1, "{} pods are ready and not one", pods.len());
        Ok(pods[0]["metadata"]["annotations"]["keyfleet.dev/greeting"].as_str().unwrap_or_default().to_owned())
    };
    ensure!(greeting()? == "first", "after the installation the greeting is {:?}", greeting()?);
    namespace.helm(&["upgrade", "web", &chart, "--set", "greeting=second", "--wait", "--timeout", "120s"])?;
    ensure!(greeting()? == "second", "after the upgrade the greeting is {:?}", greeting()?);
    namespace.helm(&["rollback", "web", "1", "--wait", "--timeout", "120s"])?;
    ensure!(greeting()? == "first", "after the rollback the greeting is {:?}", greeting()?);

    let refusal =
        namespace.helm(&["upgrade", "web", &chart, "--set", "greting=typo"]).expect_err("no such value").to_string();
    ensure!(refusal.contains("greting"), "the refusal does not name the value: {refusal}");
    namespace.helm(&["uninstall", "web", "--wait", "--timeout", "120s"])?;
    let left = namespace.kubectl(&["get", "deployments,services,persistentvolumeclaims", "--output", "name"])?;
    ensure!(left.trim().is_empty(), "after the removal there is still: {left}");
    Ok(())
}
