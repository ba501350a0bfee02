//! Life of a cluster: up, state, down.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use command_fds::{CommandFdExt, FdMapping};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::Api;
use crate::inside::cluster::unshare;
use crate::inside::node::{OWN_FOLDERS, import_arguments};
use crate::layout::{Layout, S3_ACCESS_KEY, S3_SECRET_KEY};
use crate::pki::Pki;
use crate::spec::Spec;
use crate::{cgroup, config, traces};

/// Addresses of a cluster that is up, all on 127.0.0.1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Access {
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The S3 server, as seen from this machine.
    pub s3: String,
    /// The chain's JSON-RPC, as seen from this machine.
    pub chain: Option<String>,
    /// Number of its nodes.
    pub nodes: u8,
    /// Seconds from the start to each milestone, in the order in which they were reached.
    pub milestones_s: Vec<(String, f64)>,
}

impl Access {
    /// The environment that lets tools and scenarios use the cluster.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("KUBECONFIG", self.kubeconfig.display().to_string()),
            ("KEYFLEET_S3_ENDPOINT", self.s3.clone()),
            ("AWS_ACCESS_KEY_ID", S3_ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", S3_SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL_S3", self.s3.clone()),
        ];
        environment.extend(self.chain.clone().map(|chain| ("KEYFLEET_CHAIN", chain)));
        environment
    }
}

/// State of a cluster on this machine.
#[derive(Clone, Debug)]
pub enum State {
    /// Nothing is there.
    Absent,
    /// Brought up, and its processes run.
    Up(Access),
    /// Killed, or never came up whole. `up` and `down` both clear the remains away.
    Broken(&'static str),
}

/// Returns the state of a cluster.
///
/// # Errors
/// The machine's processes cannot be read.
pub fn state(layout: &Layout) -> Result<State> {
    let processes = traces::processes(layout)?;
    let access = fs::read(layout.ready()).ok().and_then(|text| serde_json::from_slice(&text).ok());
    Ok(match access {
        Some(access) if !processes.is_empty() => State::Up(access),
        Some(_) => State::Broken("its processes are gone"),
        None if !processes.is_empty() || layout.root().exists() => State::Broken("it never came up whole"),
        None if !cgroup::remaining(layout)?.is_empty() => State::Broken("its control groups are left"),
        None => State::Absent,
    })
}

/// Brings a cluster up: all nodes Ready, DNS and S3 answer, claims are bound. A cluster that is up already stays as it
/// is; the remains of a broken one are cleared away first.
///
/// Calls `milestone` with the name of each thing as soon as it works.
///
/// # Errors
/// It does not come up. Its remains stay for a look at the logs, until the next `up` or `down`.
pub fn up(spec: &Spec, milestone: &mut dyn FnMut(&str)) -> Result<Access> {
    let layout = &spec.layout;
    ensure!((1..=9).contains(&spec.nodes), "a cluster has 1 to 9 nodes, not {}", spec.nodes);
    ensure!(nix::unistd::geteuid().is_root(), "namespaces of this kind need root: run this with sudo");
    for folder in OWN_FOLDERS {
        ensure!(
            !layout.folders.clusters.starts_with(folder) && !layout.folders.bin.starts_with(folder),
            "the cache cannot be below {folder}, which every node has for itself: set CARGO_HOME to a folder elsewhere"
        );
    }
    let _lock = lock(layout)?;
    match state(layout)? {
        State::Up(access) => {
            ensure!(
                access.nodes == spec.nodes,
                "the cluster {} is up with {} nodes: take it down to have {}",
                layout.name,
                access.nodes,
                spec.nodes
            );
            return Ok(access);
        }
        State::Absent => {}
        State::Broken(_) => remove(layout)?,
    }

    let started = Instant::now();
    let mut milestones_s = Vec::new();
    let mut reached = |what: &str| {
        milestones_s.push((what.to_owned(), started.elapsed().as_secs_f64()));
        milestone(what);
    };
    let ports = start(spec)?;
    let server = format!("https://127.0.0.1:{}", ports[0]);
    config::kubeconfig(layout, "admin", &server, &layout.kubeconfig())?;
    let api = Api::new(layout, "admin", &server)?;
    await_until(layout, "the API server serves", || Ok(api.is_ready()))?;
    reached("API server");
    apply(layout, spec)?;
    claim_a_volume(&api)?;
    await_until(layout, "every node is Ready", || Ok(ready_nodes(&api)? == usize::from(spec.nodes)))?;
    reached("nodes Ready");
    await_until(layout, "a claim is bound to a volume", || volume_is_bound(&api))?;
    reached("PVC bound");
    let s3 = format!("http://127.0.0.1:{}", ports[1]);
    await_until(layout, "S3 answers", || Ok(s3_answers(&s3)))?;
    reached("S3 answers");
    await_until(layout, "DNS answers on every node", || {
        (1..=spec.nodes).try_fold(true, |all, index| Ok(all && dns_answers(layout, index)?))
    })?;
    reached("DNS answers");

    let chain = ports.get(2).map(|port| format!("http://127.0.0.1:{port}"));
    let access = Access { kubeconfig: layout.kubeconfig(), s3, chain, nodes: spec.nodes, milestones_s };
    let written = layout.at("ready.json.new");
    fs::write(&written, serde_json::to_vec_pretty(&access)?)?;
    fs::rename(written, layout.ready())?;
    Ok(access)
}

/// Takes a cluster down and leaves nothing of it but its logs. Returns whether there was anything to take down.
///
/// # Errors
/// Something cannot be removed.
pub fn down(layout: &Layout) -> Result<bool> {
    if !layout.folders.clusters.exists() {
        return Ok(false);
    }
    let lock = lock(layout)?;
    let was_there = !matches!(state(layout)?, State::Absent);
    remove(layout)?;
    fs::remove_file(layout.lock())?;
    drop(lock);
    Ok(was_there)
}

/// Returns the names of the clusters that have a folder, sorted.
///
/// # Errors
/// The folder cannot be read.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(vec![]) };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// Imports an image archive into every node of a cluster that is up.
///
/// # Errors
/// The cluster is not up, or containerd refuses the archive.
pub fn load_image(layout: &Layout, archive: &Path) -> Result<()> {
    let State::Up(access) = state(layout)? else {
        bail!("the cluster {} is not up", layout.name);
    };
    for index in 1..=access.nodes {
        let output = in_node(layout, index, "ctr")?.args(import_arguments()).arg(archive).output()?;
        ensure!(
            output.status.success(),
            "node {index} refuses {}: {}",
            archive.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Returns a command that runs inside node `index`'s namespaces.
fn in_node(layout: &Layout, index: u8, program: &str) -> Result<Command> {
    let process = traces::node(layout, index)?.with_context(|| format!("node {index} does not run"))?;
    let mut command = Command::new("nsenter");
    command.args(["--target", &process.to_string(), "--net", "--mount", "--", program]);
    Ok(command)
}

fn lock(layout: &Layout) -> Result<File> {
    fs::create_dir_all(&layout.folders.clusters)?;
    let file = File::create(layout.lock())?;
    file.lock().with_context(|| format!("waiting for {}", layout.lock().display()))?;
    Ok(file)
}

fn remove(layout: &Layout) -> Result<()> {
    traces::end_processes(layout)?;
    cgroup::remove(layout)?;
    match fs::remove_dir_all(layout.root()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", layout.root().display()))
        }
        _ => Ok(()),
    }
}

/// Writes everything that the cluster needs and starts its first process. Returns the ports on 127.0.0.1 that lead to
/// the API server, to S3 and, if there is one, to the chain.
fn start(spec: &Spec) -> Result<Vec<u16>> {
    let layout = &spec.layout;
    let _ = fs::remove_dir_all(layout.logs());
    for folder in [layout.logs(), layout.at("bin"), layout.at("config")] {
        fs::create_dir_all(folder)?;
    }
    fs::write(layout.spec(), serde_json::to_vec_pretty(spec)?)?;
    for name in
        ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"]
    {
        symlink(layout.program("kubernetes"), layout.component(name))?;
    }
    symlink(layout.program("helm"), layout.component("helm"))?;
    symlink(layout.program("versitygw"), layout.component("versitygw"))?;
    // A copy, because the cluster outlives a rebuild of this program (and this very program may have been replaced).
    let exe = layout.at("bin/keyfleet-dev");
    fs::copy("/proc/self/exe", &exe)?;
    Pki::of(layout).write(spec.nodes)?;
    config::write(layout, spec.nodes)?;

    let forwards = if spec.chain.is_some() { 3 } else { 2 };
    let listeners: Vec<TcpListener> =
        (0..forwards).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<Result<_>>()?;

    let log = File::create(layout.log("cluster"))?;
    let mut command = unshare(&exe, &["inside-cluster".to_owned(), layout.root().to_string_lossy().into_owned()]);
    let (mark, value) = layout.mark();
    command.env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    // The protocol of inherited listeners: how many, from descriptor 3 on, and for which process. It is the first of
    // its own namespace, hence 1.
    command.env(mark, value).env("LISTEN_FDS", listeners.len().to_string()).env("LISTEN_PID", "1");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mappings = listeners
        .into_iter()
        .zip(3..)
        .map(|(listener, child_fd)| FdMapping { parent_fd: OwnedFd::from(listener), child_fd });
    command.fd_mappings(mappings.collect())?;
    // Its own process group: an interrupt of the command that started it is not meant for it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().context("starting `unshare` (of util-linux)")?;
    Ok(ports)
}

fn apply(layout: &Layout, spec: &Spec) -> Result<()> {
    let mut manifests = vec![
        include_str!("../manifests/dns.yaml"),
        include_str!("../manifests/storage.yaml"),
        include_str!("../manifests/proxy.yaml"),
        include_str!("../manifests/s3.yaml"),
    ];
    if spec.chain.is_some() {
        manifests.push(include_str!("../manifests/chain.yaml"));
    }
    let file = layout.at("config/addons.yaml");
    fs::write(&file, manifests.join("\n---\n"))?;
    let (mark, value) = layout.mark();
    let output = Command::new(layout.component("kubectl"))
        // Should this process be killed, the command goes with the cluster all the same.
        .env(mark, value)
        .arg("--kubeconfig")
        .arg(layout.kubeconfig())
        .args(["apply", "--server-side", "--validate=false", "--filename"])
        .arg(&file)
        .output()?;
    ensure!(output.status.success(), "applying {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn ready_nodes(api: &Api) -> Result<usize> {
    let nodes = api.get("/api/v1/nodes")?;
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    Ok(nodes["items"].as_array().map_or(0, |items| items.iter().filter(is_ready).count()))
}

const CLAIMS: &str = "/api/v1/namespaces/keyfleet-dev/persistentvolumeclaims";

/// Claims a volume that nobody uses, to see that claims are bound.
fn claim_a_volume(api: &Api) -> Result<()> {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "first"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    });
    api.create(CLAIMS, &claim).map(drop)
}

fn volume_is_bound(api: &Api) -> Result<bool> {
    let claim = format!("{CLAIMS}/first");
    let bound = api.get(&claim)?["status"]["phase"] == "Bound";
    if bound {
        api.delete(&claim)?;
    }
    Ok(bound)
}

/// Returns true when an S3 server, not just any server, answers: it refuses an unsigned request.
fn s3_answers(endpoint: &str) -> bool {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(5)))
        .proxy(None)
        .build();
    let Ok(mut answer) = config.new_agent().get(endpoint).call() else { return false };
    answer.body_mut().read_to_string().is_ok_and(|body| body.contains("<Error>"))
}

fn dns_answers(layout: &Layout, index: u8) -> Result<bool> {
    let asked = in_node(layout, index, "getent")?.args(["hosts", "kubernetes.default.svc.cluster.local"]).output()?;
    Ok(asked.status.success())
}

/// Waits for a condition with a limit that only a fault can reach, and says what is wrong when it does.
fn await_until(layout: &Layout, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(120);
    let started = Instant::now();
    loop {
        let outcome = holds();
        if matches!(outcome, Ok(true)) {
            return Ok(());
        }
        let gone = started.elapsed() > Duration::from_secs(1) && traces::processes(layout)?.is_empty();
        if gone || started.elapsed() > LIMIT {
            let why = if gone {
                "its first process has ended".to_owned()
            } else {
                format!("{} s have passed", LIMIT.as_secs())
            };
            let last = outcome.err().map(|error| format!(" ({error:#})")).unwrap_or_default();
            bail!(
                "{} does not come up: waiting until {what}, {why}{last}; see the logs in {}",
                layout.name,
                layout.logs().display()
            );
        }
        sleep(Duration::from_millis(50));
    }
}
