//! The first process of a cluster: its network, its control plane, and what is beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{sleep, spawn};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::supervise::{Component, Supervisor};
use super::{forward, run_command};
use crate::api::Api;
use crate::config::{api_inside, inside_node};
use crate::layout::{API_PORT, CHAIN_PORT, CONTROL_PLANE, Layout, S3_ACCESS_KEY, S3_PORT, S3_SECRET_KEY, SERVICES};
use crate::pki::Pki;
use crate::spec::Spec;

/// The name of the control plane's network, for nodes.
pub(super) const NETWORK: &str = "control-plane";
/// The bridge that nodes are connected to.
pub(super) const BRIDGE: &str = "keyfleet0";

pub(super) fn run(spec: &Spec) -> Result<()> {
    let layout = &spec.layout;
    let mut ports = vec![API_PORT, S3_PORT];
    ports.extend(spec.chain.as_ref().map(|_| CHAIN_PORT));
    forward::start(&ports)?;

    run_command("ip", &["link", "set", "lo", "up"])?;
    run_command("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
    run_command("ip", &["addr", "add", &format!("{CONTROL_PLANE}/24"), "dev", BRIDGE])?;
    run_command("ip", &["link", "set", BRIDGE, "up"])?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    name_network()?;

    let supervisor = Supervisor::default();
    supervisor.start(etcd(layout))?;
    supervisor.start(api_server(layout))?;
    supervisor.start(s3(layout)?)?;
    if let Some(program) = &spec.chain {
        supervisor.start(chain(layout, program))?;
    }
    for index in 1..=spec.nodes {
        supervisor.start(node(layout, index))?;
    }
    let (later, layout) = (supervisor.clone(), layout.clone());
    spawn(move || {
        if let Err(error) = start_controllers(&later, &layout) {
            eprintln!("{error:#}");
        }
    });
    supervisor.watch();
    Ok(())
}

/// Starts what has nothing to do before the API server serves.
fn start_controllers(supervisor: &Supervisor, layout: &Layout) -> Result<()> {
    let api = Api::new(layout, "admin", &api_inside())?;
    while !api.is_ready() {
        sleep(Duration::from_millis(50));
    }
    for component in [controller_manager(layout), scheduler(layout), volumes(layout)?] {
        supervisor.start(component)?;
    }
    Ok(())
}

/// Gives this network a name by which nodes lay a cable to it: a node that starts again does so by itself.
fn name_network() -> Result<()> {
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).context("mounting /run")?;
    let name = Path::new("/run/netns").join(NETWORK);
    fs::create_dir_all("/run/netns")?;
    fs::write(&name, "")?;
    mount(Some("/proc/self/ns/net"), &name, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("naming the network")
}

fn component(layout: &Layout, name: &str, program: PathBuf, arguments: Vec<String>) -> Component {
    Component { name: name.to_owned(), program, arguments, environment: vec![], log: layout.log(name) }
}

fn flag(name: &str, value: impl AsRef<std::ffi::OsStr>) -> String {
    format!("--{name}={}", value.as_ref().to_string_lossy())
}

fn etcd(layout: &Layout) -> Component {
    let arguments = vec![
        flag("data-dir", layout.at("etcd")),
        flag("listen-client-urls", "http://127.0.0.1:2379"),
        flag("advertise-client-urls", "http://127.0.0.1:2379"),
        flag("listen-peer-urls", "http://127.0.0.1:2380"),
        flag("initial-advertise-peer-urls", "http://127.0.0.1:2380"),
        flag("initial-cluster", "default=http://127.0.0.1:2380"),
        // The cluster does not outlive the machine: what a power cut would lose is gone anyway.
        flag("unsafe-no-fsync", "true"),
        flag("log-level", "warn"),
    ];
    component(layout, "etcd", layout.component("etcd"), arguments)
}

fn api_server(layout: &Layout) -> Component {
    let pki = Pki::of(layout);
    let (serving, kubelet) = (pki.pair("apiserver"), pki.pair("apiserver-kubelet-client"));
    let front_proxy = pki.pair("front-proxy");
    let arguments = vec![
        flag("etcd-servers", "http://127.0.0.1:2379"),
        flag("advertise-address", CONTROL_PLANE.to_string()),
        flag("secure-port", API_PORT.to_string()),
        flag("client-ca-file", pki.authority()),
        flag("tls-cert-file", serving.certificate),
        flag("tls-private-key-file", serving.key),
        flag("kubelet-client-certificate", kubelet.certificate),
        flag("kubelet-client-key", kubelet.key),
        flag("kubelet-certificate-authority", pki.authority()),
        flag("requestheader-client-ca-file", pki.authority()),
        flag("requestheader-allowed-names", "front-proxy-client"),
        flag("requestheader-username-headers", "X-Remote-User"),
        flag("requestheader-group-headers", "X-Remote-Group"),
        flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        flag("proxy-client-cert-file", front_proxy.certificate),
        flag("proxy-client-key-file", front_proxy.key),
        flag("kubelet-preferred-address-types", "InternalIP"),
        flag("service-cluster-ip-range", SERVICES),
        flag("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
        flag("service-account-jwks-uri", "https://kubernetes.default.svc.cluster.local/openid/v1/jwks"),
        flag("service-account-key-file", layout.at("pki/service-accounts.pub")),
        flag("service-account-signing-key-file", layout.at("pki/service-accounts.key")),
        flag("authorization-mode", "Node,RBAC"),
        flag("enable-admission-plugins", "NodeRestriction"),
        flag("anonymous-auth", "false"),
        flag("profiling", "false"),
    ];
    component(layout, "kube-apiserver", layout.component("kube-apiserver"), arguments)
}

fn controller_manager(layout: &Layout) -> Component {
    let kubeconfig = layout.at("config/controller-manager.kubeconfig");
    let arguments = vec![
        flag("kubeconfig", &kubeconfig),
        flag("authentication-kubeconfig", &kubeconfig),
        flag("authorization-kubeconfig", &kubeconfig),
        flag("leader-elect", "false"),
        flag("use-service-account-credentials", "true"),
        flag("root-ca-file", Pki::of(layout).authority()),
        flag("cluster-signing-cert-file", Pki::of(layout).authority()),
        flag("cluster-signing-key-file", layout.at("pki/ca.key")),
        flag("service-account-private-key-file", layout.at("pki/service-accounts.key")),
        flag("kube-api-qps", "200"),
        flag("kube-api-burst", "400"),
        flag("profiling", "false"),
    ];
    component(layout, "kube-controller-manager", layout.component("kube-controller-manager"), arguments)
}

fn scheduler(layout: &Layout) -> Component {
    let kubeconfig = layout.at("config/scheduler.kubeconfig");
    let arguments = vec![
        flag("kubeconfig", &kubeconfig),
        flag("authentication-kubeconfig", &kubeconfig),
        flag("authorization-kubeconfig", &kubeconfig),
        flag("leader-elect", "false"),
        flag("kube-api-qps", "200"),
        flag("kube-api-burst", "400"),
        flag("profiling", "false"),
    ];
    component(layout, "kube-scheduler", layout.component("kube-scheduler"), arguments)
}

fn volumes(layout: &Layout) -> Result<Component> {
    fs::create_dir_all(layout.at("volumes"))?;
    let arguments = vec![
        flag("kubeconfig", layout.at("config/volumes.kubeconfig")),
        flag("provisioner", "keyfleet.dev/folders"),
        flag("folder", layout.at("volumes")),
        flag("folder-on-nodes", inside_node::VOLUMES),
    ];
    Ok(component(layout, "volumes", layout.program("volumes"), arguments))
}

fn s3(layout: &Layout) -> Result<Component> {
    let (buckets, versions, accounts) = (layout.at("s3/buckets"), layout.at("s3/versions"), layout.at("s3/accounts"));
    // A bucket is a folder; the one that examples and scenarios use is there from the beginning.
    fs::create_dir_all(buckets.join("keyfleet"))?;
    fs::create_dir_all(&versions)?;
    // Whoever wants other accounts than the root's makes them: `versitygw admin create-user`.
    fs::create_dir_all(&accounts)?;
    let arguments = vec![
        "--iam-dir".to_owned(),
        accounts.to_string_lossy().into_owned(),
        "--port".to_owned(),
        format!("{CONTROL_PLANE}:{S3_PORT}"),
        "posix".to_owned(),
        "--versioning-dir".to_owned(),
        versions.to_string_lossy().into_owned(),
        buckets.to_string_lossy().into_owned(),
    ];
    let mut s3 = component(layout, "versitygw", layout.program("versitygw"), arguments);
    s3.environment =
        vec![("ROOT_ACCESS_KEY_ID", S3_ACCESS_KEY.to_owned()), ("ROOT_SECRET_ACCESS_KEY", S3_SECRET_KEY.to_owned())];
    Ok(s3)
}

/// Blocks are mined when somebody asks for one, so that a scenario decides when a boundary comes; with one slot in an
/// epoch `finalized` follows `latest` at once.
fn chain(layout: &Layout, program: &Path) -> Component {
    let arguments = ["--host", "0.0.0.0", "--port", "8545", "--slots-in-an-epoch", "1", "--no-mining", "--quiet"];
    component(layout, "chain", program.to_owned(), arguments.map(str::to_owned).to_vec())
}

fn node(layout: &Layout, index: u8) -> Component {
    let inner = ["inside-node".to_owned(), layout.root().to_string_lossy().into_owned(), index.to_string()];
    let unshared = unshare(&layout.at("bin/keyfleet-dev"), &inner);
    let arguments = unshared.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    component(layout, &format!("node-{index}"), unshared.get_program().into(), arguments)
}

/// The command that runs `exe` as the first process of new namespaces, all of which end with it.
pub(crate) fn unshare(exe: &Path, arguments: &[String]) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--"])
        .arg(exe)
        .args(arguments);
    command
}
