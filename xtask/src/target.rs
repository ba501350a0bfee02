//! Cluster that a command works on: a local one that it brings up, or the person's own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use keyfleet_local_kubernetes::cluster::{self, Access};
use keyfleet_local_kubernetes::layout::Layout;
use keyfleet_local_kubernetes::spec::Spec;

use crate::image::{self, Built};
use crate::step::{self, Step};
use crate::{pinned, prerequisites, workplace};

/// Request for a local cluster.
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    pub(crate) nodes: u8,
    pub(crate) chain: bool,
    /// Images beside the cluster's own.
    pub(crate) images: &'a [Built],
}

/// The layout of a local cluster, without building anything.
pub(crate) fn layout(name: &str) -> Result<Layout> {
    Layout::new(&workplace::cluster_folders(PathBuf::new()), name)
}

/// Brings a local cluster up, with everything that this takes on a bare machine.
pub(crate) fn up(wanted: &Wanted<'_>) -> Result<(Layout, Access)> {
    prerequisites::for_cluster()?;
    let bin = pinned::kubernetes()?;
    let chain = if wanted.chain { Some(pinned::chain()?) } else { None };
    let mut images = image::of_cluster(&bin)?;
    images.extend(wanted.images.iter().map(|image| image.archive.clone()));
    let layout = Layout::new(&workplace::cluster_folders(bin), wanted.name)?;
    let spec = Spec { layout: layout.clone(), nodes: wanted.nodes, images, chain };
    let step =
        Step::begin(format!("Cluster {} with {} nodes (logs: {})", wanted.name, wanted.nodes, layout.logs().display()));
    let was_up = matches!(cluster::state(&layout)?, cluster::State::Up(_));
    let access = match cluster::up(&spec, &mut |what| step.note(what)) {
        Ok(access) => access,
        Err(error) => {
            step.failed();
            bail!("{error:#}\n{}", step::tail(&layout.log("cluster"), 20));
        }
    };
    step.done(if was_up { "was up already" } else { "up" });
    if was_up {
        for image in wanted.images {
            cluster::load_image(&layout, &image.archive)?;
        }
    }
    Ok((layout, access))
}

/// The environment of the person's own cluster, by the name of a context in their kubeconfig, with `images` loaded where
/// the kind of cluster is one that can be loaded from here.
pub(crate) fn own(context: &str, images: &[Built]) -> Result<Vec<(&'static str, String)>> {
    prerequisites::require("kubectl", "it is needed to read your kubeconfig")?;
    let asked =
        Command::new("kubectl").args(["config", "view", "--minify", "--flatten", "--context", context]).output()?;
    ensure!(asked.status.success(), "the context {context:?}: {}", String::from_utf8_lossy(&asked.stderr).trim());
    let file = workplace::cache().join("contexts").join(format!("{}.kubeconfig", context.replace('/', "_")));
    fs::create_dir_all(file.parent().context("a file is in a folder")?)?;
    fs::write(&file, &asked.stdout)?;
    for image in images {
        load(context, image)?;
    }
    Ok(vec![("KUBECONFIG", file.display().to_string())])
}

/// Loads an image into the cluster of a context: a local one, kind's, k3d's or minikube's.
pub(crate) fn load(context: &str, image: &Built) -> Result<()> {
    let archive = image.archive.display().to_string();
    let mut command = if let Some(name) = context.strip_prefix("keyfleet-") {
        return cluster::load_image(&layout(name)?, &image.archive);
    } else if let Some(name) = context.strip_prefix("kind-") {
        tool("kind", &["load", "image-archive", &archive, "--name", name])
    } else if let Some(name) = context.strip_prefix("k3d-") {
        tool("k3d", &["image", "import", &archive, "--cluster", name])
    } else if context == "minikube" {
        tool("minikube", &["image", "load", &archive])
    } else {
        eprintln!(
            "  {} is not loaded: for this kind of cluster, push it to a registry that the cluster pulls from, for example\n    \
             skopeo copy oci-archive:{archive} docker://REGISTRY/{}",
            image.name,
            image.name.trim_start_matches("docker.io/")
        );
        return Ok(());
    };
    step::run(&format!("Loading {} into {context}", image.name), "load-image", &mut command)
}

fn tool(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments);
    command
}
