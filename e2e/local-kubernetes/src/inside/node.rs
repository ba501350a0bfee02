//! The first process of a node: its mounts and its network, then containerd, the kubelet and kube-proxy.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::{sleep, spawn};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

use super::cluster::{BRIDGE, NETWORK};
use super::run_command;
use super::supervise::{Component, Supervisor};
use crate::api::Api;
use crate::cgroup;
use crate::config::{api_inside, inside_node};
use crate::layout::{CONTROL_PLANE, Layout, node_address, node_name, node_pods};
use crate::spec::Spec;

pub(super) fn run(spec: &Spec, index: u8) -> Result<()> {
    let layout = &spec.layout;
    // First, while the control plane's network still has its name: the node's own `/run` will hide it.
    join_network(index, spec.nodes)?;
    mount_folders(layout, index)?;
    cgroup::create(layout, index)?;

    let supervisor = Supervisor::default();
    supervisor.start(containerd(layout, index))?;
    // Before `watch`, which takes the end of every process for itself.
    import_images(spec)?;
    let (later, layout) = (supervisor.clone(), layout.clone());
    spawn(move || {
        if let Err(error) = start_kubelet(&later, &layout, index) {
            eprintln!("{error:#}");
        }
    });
    supervisor.watch();
    Ok(())
}

/// Folders that every node has for itself: kubelet and containerd write there, and the content goes with the node.
pub(crate) const OWN_FOLDERS: [&str; 3] = ["/run", "/var/lib", "/var/log"];

/// Folders of the node's own hold everything that components expect at a fixed place; what must stay is bound from
/// the cluster's folder.
fn mount_folders(layout: &Layout, index: u8) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("sharing mounts with containers")?;
    for folder in OWN_FOLDERS {
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
            .with_context(|| format!("mounting {folder}"))?;
    }
    let pod_logs = layout.logs().join(format!("pods-{index}"));
    let volumes = layout.at("volumes");
    for folder in [&pod_logs, &volumes] {
        fs::create_dir_all(folder)?;
    }
    for (from, to) in [
        (layout.at(format!("nodes/{index}/kubelet")), inside_node::KUBELET),
        (layout.at(format!("nodes/{index}/containerd")), inside_node::CONTAINERD),
        (volumes, inside_node::VOLUMES),
        (pod_logs, inside_node::POD_LOGS),
    ] {
        fs::create_dir_all(to)?;
        bind(&from, Path::new(to))?;
    }
    // Names resolve in the node as they do in its pods; the machine's own resolver cannot be reached from here.
    bind(&layout.at("resolv.conf"), &fs::canonicalize("/etc/resolv.conf").unwrap_or("/etc/resolv.conf".into()))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("binding {} to {}", from.display(), to.display()))
}

/// Lays a cable to the control plane's bridge and makes this node's pods reachable from there.
fn join_network(index: u8, nodes: u8) -> Result<()> {
    let (address, far_end) = (node_address(index).to_string(), format!("node{index}"));
    run_command("ip", &["link", "set", "lo", "up"])?;
    run_command("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", &far_end, "netns", NETWORK])?;
    run_command("ip", &["-netns", NETWORK, "link", "set", &far_end, "master", BRIDGE, "up"])?;
    run_command("ip", &["-netns", NETWORK, "route", "replace", &node_pods(index), "via", &address])?;
    run_command("ip", &["addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
    run_command("ip", &["link", "set", "eth0", "up"])?;
    run_command("ip", &["route", "add", "default", "via", &CONTROL_PLANE.to_string()])?;
    for other in (1..=nodes).filter(|other| *other != index) {
        run_command("ip", &["route", "add", &node_pods(other), "via", &node_address(other).to_string()])?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    Ok(())
}

fn import_images(spec: &Spec) -> Result<()> {
    let socket = Path::new(inside_node::CONTAINERD_STATE).join("containerd.sock");
    while !socket.exists() {
        sleep(Duration::from_millis(20));
    }
    spec.images.iter().try_for_each(|image| import(image))
}

fn start_kubelet(supervisor: &Supervisor, layout: &Layout, index: u8) -> Result<()> {
    let api = Api::new(layout, &format!("kubelet-{index}"), &api_inside())?;
    while !api.is_ready() {
        sleep(Duration::from_millis(50));
    }
    supervisor.start(kubelet(layout, index))?;
    supervisor.start(proxy(layout, index))?;
    Ok(())
}

fn import(archive: &Path) -> Result<()> {
    let output = Command::new("ctr").args(import_arguments()).arg(archive).output().context("running ctr")?;
    if !output.status.success() {
        bail!("importing {}: {}", archive.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Returns the arguments of `ctr` for an import; the archive's path follows them.
pub(crate) fn import_arguments() -> Vec<String> {
    let socket = format!("{}/containerd.sock", inside_node::CONTAINERD_STATE);
    ["--address", &socket, "--namespace", "k8s.io", "images", "import", "--digests=false"].map(str::to_owned).to_vec()
}

fn component(layout: &Layout, index: u8, name: &str, program: impl AsRef<Path>, arguments: Vec<String>) -> Component {
    let name = format!("{name}-{index}");
    let log = layout.log(&name);
    Component { name, program: program.as_ref().to_owned(), arguments, environment: vec![], log }
}

fn containerd(layout: &Layout, index: u8) -> Component {
    let config = layout.at(format!("nodes/{index}/containerd.toml"));
    let arguments = vec!["--config".to_owned(), config.to_string_lossy().into_owned()];
    component(layout, index, "containerd", "containerd", arguments)
}

fn kubelet(layout: &Layout, index: u8) -> Component {
    let at = |file: &str| layout.at(format!("nodes/{index}/{file}")).display().to_string();
    // Two zones, so that spreading over zones can be seen.
    let zone = if index % 2 == 1 { "a" } else { "b" };
    let arguments = vec![
        format!("--config={}", at("kubelet.json")),
        format!("--kubeconfig={}", at("kubelet.kubeconfig")),
        format!("--root-dir={}", inside_node::KUBELET),
        format!("--hostname-override={}", node_name(&layout.name, index)),
        format!("--node-ip={}", node_address(index)),
        format!("--node-labels=topology.kubernetes.io/zone={zone}"),
    ];
    component(layout, index, "kubelet", layout.component("kubelet"), arguments)
}

fn proxy(layout: &Layout, index: u8) -> Component {
    let config = layout.at(format!("nodes/{index}/proxy.json"));
    component(
        layout,
        index,
        "kube-proxy",
        layout.component("kube-proxy"),
        vec![format!("--config={}", config.display())],
    )
}
