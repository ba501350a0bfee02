//! The node's program as a pod runs it: `restore`, then `run`, with a real bucket; its volume is lost and comes back.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use keyfleet_crds::node::NodeReport;
use keyfleet_crds::node_config::{FILE, NodeConfig};
use kube::Api;
use serde_json::json;

use crate::apiserver;
use crate::fleet::{Fleet, token};

pub(crate) const ACCESS_KEY: &str = "writer";
pub(crate) const SECRET_KEY: &str = "writer-secret";

/// versitygw over a folder, with one bucket `fleet`; ends when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) url: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gateway {
    pub(crate) async fn start(folder: &Path) -> Self {
        let data = folder.join("s3");
        std::fs::create_dir_all(data.join("fleet")).expect("a bucket is a folder");
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let binary = PathBuf::from(std::env::var_os("KEYFLEET_BIN").expect("KEYFLEET_BIN")).join("versitygw");
        let mut command = Command::new(&binary);
        command.args(["--access", ACCESS_KEY, "--secret", SECRET_KEY, "--port", &format!("127.0.0.1:{port}"), "posix"]);
        command.arg(&data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let gateway = Self { child: command.spawn().expect("versitygw"), url: format!("http://127.0.0.1:{port}") };
        for _ in 0..600 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return gateway;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("versitygw did not answer on port {port}");
    }
}

/// Node 1 as a process of its own.
struct Pod {
    folder: PathBuf,
    kubeconfig: PathBuf,
    config: NodeConfig,
}

impl Pod {
    async fn of(fleet: &Fleet) -> Self {
        let map: ConfigMap = fleet.api().get("keys-1-config").await.expect("the ConfigMap of node 1");
        let mut config = NodeConfig::parse(&map.data.expect("data")[FILE]).expect("a configuration");
        let folder = fleet.folder.path().join("pod");
        config.state_folder = folder.join("volume");
        let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        (config.round_port, config.kms_port, config.http_port) = (free(), free(), free());
        std::fs::create_dir_all(&config.state_folder).expect("our own folder");
        let token = token(&fleet.client, &fleet.namespace, "keys-1", None).await;
        let kubeconfig = folder.join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": apiserver::url(), "insecure-skip-tls-verify": true } }],
            "users": [{ "name": "node", "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "node", "namespace": fleet.namespace } }],
        });
        std::fs::write(&kubeconfig, text.to_string()).expect("our own folder");
        Self { folder, kubeconfig, config }
    }

    fn command(&self, what: &str) -> Command {
        let file = self.folder.join("node.yaml");
        std::fs::write(&file, self.config.render()).expect("our own folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyfleet-node"));
        command.args([what, "--config"]).arg(file).env_clear().env("KUBECONFIG", &self.kubeconfig);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.stdin(Stdio::null());
        command
    }

    /// The init container.
    fn restore(&self) -> Output {
        self.command("restore").output().expect("the program runs")
    }

    fn run(&self) -> Running {
        let log = std::fs::File::create(self.folder.join("run.log")).expect("our own folder");
        let mut command = self.command("run");
        command.stdout(log).stderr(Stdio::null());
        Running(command.spawn().expect("the program runs"))
    }

    fn lose_volume(&self) {
        std::fs::remove_dir_all(&self.config.state_folder).expect("our own folder");
        std::fs::create_dir_all(&self.config.state_folder).expect("our own folder");
    }
}

/// Killed when dropped, as a worker that loses its power.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn report(fleet: &Fleet) -> NodeReport {
    fleet.node(1).await.and_then(|node| node.status?.node).unwrap_or_default()
}

async fn floor(fleet: &Fleet) -> Option<String> {
    let secrets: Api<Secret> = fleet.api();
    let seal = secrets.get("keys-1-seal").await.expect("the seal");
    seal.data.and_then(|data| String::from_utf8(data.get("floor")?.0.clone()).ok())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Applies a replicated cluster and waits until node 1 can run. Returns the bucket's server and the node's pod.
async fn replicated_pod(fleet: &mut Fleet) -> (Gateway, Pod) {
    let gateway = Gateway::start(fleet.folder.path()).await;
    let s3 = json!({ "bucket": "fleet", "endpoint": gateway.url, "forcePathStyle": true, "credentialsSecret": "s3" });
    fleet.apply(60_000, json!({ "replication": { "s3": s3 } })).await;
    fleet.run_operator();
    let configs: Api<ConfigMap> = fleet.api();
    let seals: Api<Secret> = fleet.api();
    fleet
        .wait("the objects of node 1", async |_| {
            configs.get("keys-1-config").await.is_ok() && seals.get("keys-1-seal").await.is_ok()
        })
        .await;
    let pod = Pod::of(fleet).await;
    (gateway, pod)
}

/// A lost volume comes back from the bucket; where a replica should be and is not, nothing begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_volume_comes_back_from_the_bucket() {
    let mut fleet = Fleet::new("volumes").await;
    let (_gateway, mut pod) = replicated_pod(&mut fleet).await;

    // A bucket that does not exist is a problem in the KmsNode, not a crash.
    let good = pod.config.clone();
    if let Some(replication) = &mut pod.config.replication {
        replication.s3.bucket = "nobody-made-this".into();
    }
    let refused = pod.restore();
    assert!(!refused.status.success(), "restored from no bucket: {}", text(&refused));
    let told = report(&fleet).await.problems;
    assert!(told.iter().any(|problem| problem.reason == "BucketMissing"), "the init container tells nobody: {told:?}");
    let running = pod.run();
    fleet
        .wait("the missing bucket in the KmsNode", async |fleet| {
            report(fleet).await.problems.iter().any(|problem| problem.reason == "BucketMissing")
        })
        .await;
    drop(running);
    pod.config = good;

    // A new node: there is no replica, and none should be.
    let new = pod.restore();
    assert!(new.status.success(), "the init container of a new node fails: {}", text(&new));
    let running = pod.run();
    fleet
        .wait("an offer, a position in the bucket and a floor", async |fleet| {
            let report = report(fleet).await;
            report.prekey.is_some() && report.problems.is_empty() && floor(fleet).await.is_some()
        })
        .await;
    let before = report(&fleet).await;
    drop(running);
    let kept = pod.restore();
    assert!(kept.status.success() && text(&kept).contains("the state file is there"), "{}", text(&kept));

    // The volume is lost.
    pod.lose_volume();
    let restored = pod.restore();
    assert!(restored.status.success() && text(&restored).contains("was restored"), "{}", text(&restored));
    let running = pod.run();
    let port = pod.config.http_port;
    fleet.wait("the node to be ready", async |_| ready(port).await).await;
    fleet
        .wait("the mark of the restore to be gone", async |_| !pod.config.state_folder.join("restored").exists())
        .await;
    drop(running);
    let after = report(&fleet).await;
    assert_eq!(after.offer, before.offer, "the node came back as another");
    assert_eq!(after.prekey, before.prekey, "the node forgot its prekey");

    // The volume is lost, and so is the replica: whoever looks in the wrong place must not begin anew.
    pod.lose_volume();
    if let Some(replication) = &mut pod.config.replication {
        replication.s3.prefix = Some("elsewhere".into());
    }
    let refused = pod.restore();
    assert!(!refused.status.success(), "a node began anew beside its floor: {}", text(&refused));
    assert!(text(&refused).contains("is known to have been acknowledged"), "{}", text(&refused));
    assert!(!pod.config.state_folder.join("state.redb").exists(), "a refused restore left a file");
    let running = pod.run();
    fleet
        .wait("the vanished replica in the KmsNode", async |fleet| {
            report(fleet)
                .await
                .problems
                .iter()
                .any(|problem| problem.message.contains("known to have been acknowledged"))
        })
        .await;
    drop(running);
    assert_eq!(report(&fleet).await.offer, before.offer, "a node that does not start took its offer back");
}

/// Ends as a pod is ended: SIGTERM. What it logged.
fn terminate(pod: &Pod, mut running: Running) -> String {
    let pid = running.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    let ended = running.0.wait().expect("our own child");
    assert!(ended.success(), "the node ends with {ended}");
    std::fs::read_to_string(pod.folder.join("run.log")).expect("a log")
}

/// A person who drains a worker reads in log and status whether the volume may go.
///
/// seed: 003-35
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_ends_flushes_and_names_its_position() {
    let mut fleet = Fleet::new("drains").await;
    let (gateway, pod) = replicated_pod(&mut fleet).await;
    let running = pod.run();
    fleet
        .wait("a position in the bucket and a floor", async |fleet| {
            report(fleet).await.replication.is_some() && floor(fleet).await.is_some()
        })
        .await;
    assert!(!report(&fleet).await.replication.expect("a position").flushed, "a running node says that it has ended");

    let log = terminate(&pod, running);
    assert!(log.contains("flushed: the bucket has everything"), "{log}");
    let reached = report(&fleet).await.replication.expect("a position");
    assert!(reached.flushed && reached.lag_commits == 0, "{reached:?}");
    let said = format!("{}:{}:", reached.term, reached.sequence);
    assert!(log.contains(&said), "the log names another position than the status ({said}): {log}");
    let config = Pod::of(&fleet).await.config;
    let sequence = fleet.folder.path().join("s3/fleet").join(format!("{}/1/seq", config.cluster_id));
    let newest = format!("{:016x}", reached.sequence);
    let names = || std::fs::read_dir(&sequence).expect("a folder").flatten().map(|entry| entry.file_name());
    assert_eq!(names().max().expect("objects").to_string_lossy(), newest, "the bucket is at another position");

    // The next one takes it back.
    let running = pod.run();
    fleet
        .wait("the next process to be further", async |fleet| {
            report(fleet).await.replication.is_some_and(|at| !at.flushed && at.term > reached.term)
        })
        .await;
    drop(running);

    // Without an answer of the bucket nobody knows, and the volume must stay.
    drop(gateway);
    let running = pod.run();
    let log = pod.folder.join("run.log");
    let runs = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("running; the operator pins"));
    fleet.wait("the node to start without the bucket", async |_| runs()).await;
    let log = terminate(&pod, running);
    assert!(log.contains("not flushed") && log.contains("keep it"), "{log}");
    let reached = report(&fleet).await.replication.expect("a position");
    assert!(!reached.flushed, "the volume was said to be dispensable: {reached:?}");
}

async fn ready(port: u16) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let request = "GET /ready HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).await.is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// A name that the bucket knows under another id is refused, and the message names that id.
#[tokio::test]
async fn a_name_of_another_cluster_id_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = Gateway::start(folder.path()).await;
    let location = keyfleet_litestream::bucket::Location {
        bucket: "fleet".into(),
        endpoint: Some(gateway.url.clone()),
        region: Some("us-east-1".into()),
        credentials: Some(keyfleet_litestream::bucket::StaticCredentials {
            access_key_id: ACCESS_KEY.into(),
            secret_access_key: SECRET_KEY.into(),
        }),
        ..keyfleet_litestream::bucket::Location::default()
    };
    let claim = |id: u8, name: &'static str| {
        let id = keyfleet_crds::values::ClusterId([id; 16]);
        let location = location.clone();
        async move { keyfleet_node::name_mark::NameMark::new(location, "prod", name, id).await.ensure().await }
    };
    claim(1, "keys").await.expect("nobody has the name");
    claim(1, "keys").await.expect("it has the name already");
    claim(2, "other").await.expect("another name");
    let refused = claim(2, "keys").await.expect_err("two clusters have one name").to_string();
    assert!(refused.contains(&"01".repeat(16)), "it does not say whose the name is: {refused}");
}
