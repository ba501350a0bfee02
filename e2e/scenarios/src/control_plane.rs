//! The local cluster without its API server, and what still goes on then: containers, asked through containerd on their
//! worker as its administrator would.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, output};
use crate::namespace::Namespace;
use crate::wait;

/// containerd on every worker.
const SOCKET: &str = "/run/containerd/containerd.sock";
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A cluster whose API server is gone: connections are refused. It comes back with the end of this value, and also when
/// the process that holds it is killed.
pub struct WithoutApiServer<'a> {
    cluster: &'a Cluster,
    keeper: Child,
}

impl<'a> WithoutApiServer<'a> {
    /// Takes the API server away. Nobody else may use the cluster meanwhile.
    ///
    /// # Errors
    /// The cluster is no local one.
    pub fn new(cluster: &'a Cluster) -> Result<Self> {
        let process = |what: &str, wanted: &dyn Fn(&[String]) -> bool| {
            let found = processes()?.into_iter().find(|(_, words)| wanted(words));
            Ok::<_, anyhow::Error>(found.with_context(|| format!("the cluster has no {what}"))?.0)
        };
        let server = process("API server", &|words| words[0].ends_with("/kube-apiserver"))?;
        let first = |words: &[String]| words.get(1).is_some_and(|word| word == "inside-cluster");
        let supervisor = process("first process", &first)?;
        // Whoever would start the server again stands still. The shell lets it go on when its input ends: with this
        // process, whatever becomes of that.
        let script = format!(
            "trap '' HUP INT TERM; kill -STOP {supervisor} && kill -KILL {server} && echo gone; read -r end; kill -CONT {supervisor}"
        );
        let mut keeper = Command::new("sh");
        keeper.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null());
        let this = Self { cluster, keeper: keeper.spawn()? };
        wait::until("the API server is gone", || Ok(this.cluster.kubectl(READY).is_err().then_some(())))?;
        Ok(this)
    }

    /// Ends it, and waits until the API server serves again.
    ///
    /// # Errors
    /// It does not come back.
    pub fn end(mut self) -> Result<()> {
        self.bring_back()
    }

    fn bring_back(&mut self) -> Result<()> {
        drop(self.keeper.stdin.take());
        self.keeper.wait()?;
        wait::until("the API server is back", || self.cluster.kubectl(READY).map(Some)).map(drop)
    }
}

const READY: [&str; 4] = ["get", "--raw", "/readyz", "--request-timeout=3s"];

impl Drop for WithoutApiServer<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.bring_back() {
            eprintln!("{error:#}");
        }
    }
}

/// A container of a pod, found while there is an API server.
pub struct Container {
    /// The process that is the first on its worker.
    worker: u32,
    pod: String,
    name: String,
}

impl Container {
    /// The container `name` of a pod that runs.
    ///
    /// # Errors
    /// The pod has no such container, or the cluster is no local one.
    pub fn of(namespace: &Namespace<'_>, pod: &str, name: &str) -> Result<Self> {
        let pod = namespace.get(&["pod", pod])?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let node = text(&pod["spec"]["nodeName"]).context("the pod has no worker yet")?;
        let index = node.rsplit('-').next().unwrap_or_default().to_owned();
        let first =
            |words: &[String]| words.get(1).is_some_and(|word| word == "inside-node") && words.get(3) == Some(&index);
        let worker = processes()?.into_iter().find(|(_, words)| first(words));
        let worker = worker.with_context(|| format!("{node} is no worker of a local cluster"))?.0;
        let pod = text(&pod["metadata"]["uid"]).context("a pod has a uid")?;
        Ok(Self { worker, pod, name: name.to_owned() })
    }

    /// Returns the container's id; the kubelet gives a new one with each start.
    ///
    /// # Errors
    /// It does not run now.
    pub fn id(&self) -> Result<String> {
        let label = |name: &str, value: &str| format!("labels.\"io.kubernetes.{name}\"=={value}");
        let filter = format!("{},{}", label("pod.uid", &self.pod), label("container.name", &self.name));
        let known = self.containerd(&["containers", "list", "--quiet", &filter])?;
        let tasks = self.containerd(&["tasks", "list"])?;
        let running = tasks.lines().filter(|line| line.ends_with("RUNNING")).filter_map(|line| line.split(' ').next());
        let id = running.into_iter().find(|id| known.lines().any(|known| known == *id));
        id.map(str::to_owned).with_context(|| format!("the container {} does not run", self.name))
    }

    /// Kills its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self) -> Result<()> {
        self.containerd(&["tasks", "kill", "--signal", "SIGKILL", &self.id()?]).map(drop)
    }

    /// Runs a program in it, as its user and with its environment, and returns what it prints.
    ///
    /// # Errors
    /// It fails: what it said is in the error.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let exec = format!("scenario-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let id = self.id()?;
        self.containerd(&[&["tasks", "exec", "--exec-id", &exec, &id], words].concat())
    }

    fn containerd(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.worker.to_string(),
            "--net",
            "--mount",
            "--pid",
            "--",
            "ctr",
            "--address",
            SOCKET,
        ]);
        output(command.args(["--namespace", "k8s.io"]).args(words))
    }
}

/// The processes that run the local cluster, with their arguments.
fn processes() -> Result<Vec<(u32, Vec<String>)>> {
    let config = PathBuf::from(std::env::var_os("KUBECONFIG").context("there is a cluster")?);
    let folder = config.parent().context("a kubeconfig is in a folder")?;
    ensure!(folder.join("volumes").is_dir(), "{} is not a local cluster's: this runs there alone", folder.display());
    let mark = format!("KEYFLEET_LOCAL_KUBERNETES={}", folder.display());
    let listed = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of_cluster =
        |process: &u32| words(&Path::new("/proc").join(process.to_string()).join("environ")).contains(&mark);
    let listed = listed
        .filter(of_cluster)
        .map(|process: u32| (process, words(&PathBuf::from(format!("/proc/{process}/cmdline")))));
    Ok(listed.filter(|(_, words)| words.first().is_some_and(|first| first != "unshare")).collect())
}

/// Returns the words that a file of `/proc` lists; none for a process that has ended.
fn words(file: &Path) -> Vec<String> {
    let text = std::fs::read(file).unwrap_or_default();
    let words = text.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}
