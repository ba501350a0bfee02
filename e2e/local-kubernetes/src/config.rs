//! The configuration files of the components, written before any of them starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cgroup;
use crate::layout::{API_PORT, CONTROL_PLANE, DNS, Layout, PODS, node_address, node_name, node_pods};
use crate::pki::Pki;

/// Where a node's folders are mounted inside it: short, since sockets live there, and on a tmpfs, so that the
/// machine's own `/var/lib` never sees them.
pub mod inside_node {
    /// The kubelet's state.
    pub const KUBELET: &str = "/run/keyfleet/kubelet";
    /// containerd's content and snapshots.
    pub const CONTAINERD: &str = "/run/keyfleet/containerd";
    /// containerd's socket and running state.
    pub const CONTAINERD_STATE: &str = "/run/containerd";
    /// The folder that holds every volume; the same on all nodes.
    pub const VOLUMES: &str = "/run/keyfleet/volumes";
    /// The pods' logs.
    pub const POD_LOGS: &str = "/run/keyfleet/pods";
}

/// The image that holds a pod's namespaces open; imported into every node, since there is no registry.
pub const PAUSE_IMAGE: &str = "docker.io/keyfleet/dev-pause:1";

/// The API server as seen from inside the cluster's network.
pub fn api_inside() -> String {
    format!("https://{CONTROL_PLANE}:{API_PORT}")
}

/// Writes every component's configuration for a cluster of `nodes` nodes.
///
/// # Errors
/// The cluster's folder cannot be written.
pub fn write(layout: &Layout, nodes: u8) -> Result<()> {
    for component in ["controller-manager", "scheduler", "proxy", "volumes"] {
        kubeconfig(layout, component, &api_inside(), &layout.at(format!("config/{component}.kubeconfig")))?;
    }
    for index in 1..=nodes {
        let file = |name: &str| layout.at(format!("nodes/{index}/{name}"));
        for folder in ["kubelet", "containerd", "cni"] {
            fs::create_dir_all(file(folder))?;
        }
        kubeconfig(layout, &format!("kubelet-{index}"), &api_inside(), &file("kubelet.kubeconfig"))?;
        put(&file("kubelet.json"), &kubelet(layout, index))?;
        put(&file("proxy.json"), &proxy(layout, index, packet_filter()))?;
        put(&file("cni/10-keyfleet.conflist"), &network(index))?;
        fs::write(file("containerd.toml"), containerd(layout, index))?;
    }
    fs::write(layout.at("resolv.conf"), format!("search svc.cluster.local cluster.local\nnameserver {DNS}\n"))?;
    Ok(())
}

/// Writes a kubeconfig that reaches `server` as `component`.
///
/// # Errors
/// The certificates cannot be read, or the file not be written.
pub fn kubeconfig(layout: &Layout, component: &str, server: &str, file: &Path) -> Result<()> {
    let pki = Pki::of(layout);
    let pair = pki.pair(component);
    let name = format!("keyfleet-{}", layout.name);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority": pki.authority()}}],
        "users": [{"name": component, "user": {"client-certificate": pair.certificate, "client-key": pair.key}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": component}}],
    });
    put(file, &config)
}

fn put(file: &Path, value: &Value) -> Result<()> {
    fs::create_dir_all(file.parent().context("a file has a folder")?)?;
    fs::write(file, format!("{value:#}\n")).with_context(|| format!("writing {}", file.display()))
}

fn kubelet(layout: &Layout, index: u8) -> Value {
    let pair = Pki::of(layout).pair(&format!("kubelet-{index}"));
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": node_address(index).to_string(),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": Pki::of(layout).authority()},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pair.certificate, "tlsPrivateKeyFile": pair.key,
        "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", inside_node::CONTAINERD_STATE),
        "cgroupDriver": "cgroupfs", "cgroupRoot": cgroup::node_root(layout, index),
        "clusterDNS": [DNS.to_string()], "clusterDomain": "cluster.local",
        // Pods cannot reach the machine's own resolver, and must not depend on it.
        "resolvConf": "/dev/null",
        "podLogsDir": inside_node::POD_LOGS,
        "volumePluginDir": format!("{}/plugins", inside_node::KUBELET),
        "failSwapOn": false, "oomScoreAdj": 0,
        // The machine's disk and memory are shared with the developer's other work: how full they are says
        // nothing about this cluster.
        "evictionHard": {"nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        // Scenarios kill containers on purpose; the usual back-off grows to minutes.
        "featureGates": {"KubeletCrashLoopBackOffMax": true},
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "10s",
        "kubeAPIQPS": 200, "kubeAPIBurst": 400,
        "serializeImagePulls": false,
        "enableServer": true,
    })
}

fn proxy(layout: &Layout, index: u8, mode: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": mode,
        "hostnameOverride": node_name(&layout.name, index),
        "clientConnection": {"kubeconfig": layout.at("config/proxy.kubeconfig")},
        "clusterCIDR": PODS,
        "oomScoreAdj": 0,
        "nftables": {"minSyncPeriod": "50ms"},
        "iptables": {"minSyncPeriod": "50ms"},
        // The limits are the machine's, and read-only here.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "metricsBindAddress": format!("{}:10249", node_address(index)),
    })
}

/// Point-to-point links, as kind has them: a bridge would hide pod-to-pod traffic of one node from the packet filter,
/// and with it the answers of Services.
fn network(index: u8) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "keyfleet",
        "plugins": [{
            "type": "ptp", "ipMasq": false, "mtu": 1500,
            "ipam": {
                "type": "host-local", "dataDir": "/run/keyfleet/addresses",
                "routes": [{"dst": "0.0.0.0/0"}],
                "ranges": [[{"subnet": node_pods(index)}]],
            },
        }],
    })
}

fn containerd(layout: &Layout, index: u8) -> String {
    let cni = layout.at(format!("nodes/{index}/cni"));
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]

[grpc]
address = "{state}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
path = "/run/keyfleet/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Lowering a process's score takes CAP_SYS_RESOURCE, which is not to be had everywhere.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{cni}"
"#,
        root = inside_node::CONTAINERD,
        state = inside_node::CONTAINERD_STATE,
        snapshotter = snapshotter(&layout.root()),
        plugins = network_plugins().display(),
        cni = cni.display(),
    )
}

/// Overlays cannot be stacked on every file system (another overlay, for one): then layers are copied.
fn snapshotter(folder: &Path) -> &'static str {
    use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
    match statfs(folder) {
        Ok(found) if found.filesystem_type() == OVERLAYFS_SUPER_MAGIC => "native",
        _ => "overlayfs",
    }
}

fn network_plugins() -> PathBuf {
    let places = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
    places.into_iter().map(PathBuf::from).find(|place| place.join("ptp").exists()).unwrap_or("/usr/lib/cni".into())
}

/// kube-proxy's mode that this machine's kernel and tools can do, tried in a network of its own.
fn packet_filter() -> &'static str {
    let tried = Command::new("unshare").args(["--net", "nft", "add", "table", "ip", "keyfleet-try"]).output();
    if tried.is_ok_and(|output| output.status.success()) { "nftables" } else { "iptables" }
}
