//! `cargo xtask demo`: from a bare machine to something that runs, and the commands to look around.

use std::process::Command;

use anyhow::Result;
use keyfleet_local_kubernetes::cluster;

use crate::step::{self, Step};
use crate::target::{self, Wanted};
use crate::{image, workplace};

const CLUSTER: &str = "demo";

/// Show it working: a cluster, what runs on it, and the commands to look around
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Take the demo's cluster down
    #[arg(long)]
    down: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.down {
        let step = Step::begin(format!("Cluster {CLUSTER}"));
        let was_there = cluster::down(&target::layout(CLUSTER)?)?;
        step.done(if was_there { "down" } else { "was not there" });
        return Ok(());
    }
    let images = image::released()?;
    let (layout, access) = target::up(&Wanted { name: CLUSTER, nodes: 2, chain: true, images: &images })?;
    let tool = |name: &str, words: &[&str]| {
        let mut command = Command::new(layout.component(name));
        command.args(words).env("KUBECONFIG", &access.kubeconfig);
        command
    };
    let chart = workplace::checkout().join("e2e/charts/probe").display().to_string();
    let install = [
        "upgrade",
        "--install",
        "probe",
        &chart,
        "--namespace",
        "demo",
        "--create-namespace",
        "--wait",
        "--timeout",
        "120s",
    ];
    step::run("Installing the probe's chart with helm", "demo-install", &mut tool("helm", &install))?;
    let in_pod = ["exec", "--namespace", "demo", "deploy/probe", "--", "/usr/local/bin/probe"];
    for (title, question) in [
        ("Resolving a Service in a pod", ["resolve", "probe"]),
        ("Asking a Service in a pod", ["fetch", "http://probe/"]),
    ] {
        step::run(title, "demo-ask", &mut tool("kubectl", &[&in_pod[..], &question].concat()))?;
    }
    println!(
        "\nLook around:
  eval \"$(cargo xtask dev env --name {CLUSTER})\"
  kubectl get nodes,pods --all-namespaces
  kubectl --namespace demo logs deploy/probe
  kubectl --namespace demo exec deploy/probe -- /usr/local/bin/probe resolve s3.keyfleet-dev.svc
  helm --namespace demo status probe
Remove it:
  cargo xtask demo --down"
    );
    Ok(())
}
