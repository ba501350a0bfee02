//! A kubelet's part: nodes as tasks of this process, made from the objects that the operator made.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use keyfleet_crds::node_config::{FILE, NodeConfig};
use keyfleet_crds::{KmsCluster, KmsNode, names};
use keyfleet_node::boot::process::{self, Surroundings};
use keyfleet_node::config::Config;
use keyfleet_operator::controllers::{self, Context, Options, Scope};
use keyfleet_operator::metrics::Metrics;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::apiserver;
use crate::listening::Listening;

pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
const OPERATOR_NAMESPACE: &str = "keyfleet-system";
const OPERATOR: &str = "keyfleet-operator";

/// A cluster `keys` in a namespace of its own, the operator, and whatever nodes it has made pods for.
pub(crate) struct Fleet {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) folder: TempDir,
    pub(crate) nodes: BTreeMap<u32, Process>,
    pub(crate) ports: Arc<Mutex<BTreeMap<u32, Ports>>>,
    operator: Option<JoinHandle<()>>,
}

/// A node's ports, the same after every restart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) peers: u16,
    pub(crate) kms: u16,
    pub(crate) http: u16,
}

/// A running node.
pub(crate) struct Process {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(operator) = &self.operator {
            operator.abort();
        }
        for process in self.nodes.values() {
            process.task.abort();
        }
    }
}

impl Fleet {
    /// An empty namespace. Nothing runs yet.
    pub(crate) async fn new(namespace: &str) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
        apiserver::authorize_by_roles();
        let client = apiserver::namespace(namespace).await;
        for (name, account) in [(OPERATOR_NAMESPACE, OPERATOR)] {
            let new = Namespace {
                metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
                ..Namespace::default()
            };
            // Another test of this file may have made both.
            let _ = Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &new).await;
            let new = ServiceAccount {
                metadata: ObjectMeta { name: Some(account.into()), ..ObjectMeta::default() },
                ..ServiceAccount::default()
            };
            let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
            let _ = accounts.create(&PostParams::default(), &new).await;
        }
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
        std::fs::write(folder.path().join("key"), "ab".repeat(32)).expect("our own folder");
        Self {
            client,
            namespace: namespace.to_owned(),
            folder,
            nodes: BTreeMap::new(),
            ports: Arc::default(),
            operator: None,
        }
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Runs the operator, which hears the nodes through their real streams.
    pub(crate) fn run_operator(&mut self) {
        let options = Options {
            namespace: OPERATOR_NAMESPACE.into(),
            scope: Scope::of(vec![self.namespace.clone()]),
            node_image: "keyfleet/node:test".into(),
            subject: format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{OPERATOR}"),
            chains_folder: "/nowhere".into(),
        };
        let listening = Listening::new(self.client.clone(), OPERATOR_NAMESPACE, OPERATOR, self.ports.clone());
        let context = Context::new(self.client.clone(), options, Arc::new(listening), Arc::new(Metrics::default()));
        self.operator = Some(tokio::spawn(controllers::run(context)));
    }

    pub(crate) fn key_file(&self) -> std::path::PathBuf {
        self.folder.path().join("key")
    }

    /// Applies a cluster of four nodes with blocks of `block_ms`, its key in a file of this test.
    pub(crate) async fn apply(&self, block_ms: u32, spec: serde_json::Value) {
        let mut object = json!({
            "apiVersion": "keyfleet.dev/v1alpha1",
            "kind": "KmsCluster",
            "metadata": { "name": "keys" },
            "spec": {
                "keyEncryption": { "active": { "id": "1", "file": { "path": self.key_file() } } },
                "schedule": { "source": { "clock": { "blockMs": block_ms } }, "intervalBlocks": 40,
                    "deadlines": { "dealingBlocks": 9, "verifyingBlocks": 9, "preparingBlocks": 9, "certifyingBlocks": 9 } },
            },
        });
        for (name, value) in spec.as_object().into_iter().flatten() {
            object["spec"][name] = value.clone();
        }
        let parameters = PatchParams::apply("a-person").force();
        let clusters: Api<KmsCluster> = self.api();
        clusters.patch("keys", &parameters, &Patch::Apply(&object)).await.expect("the cluster is accepted");
    }

    /// Starts a process for every Pod that has none, and says of each Pod whether its node is ready.
    pub(crate) async fn play_kubelet(&mut self) {
        let pods: Api<Pod> = self.api();
        for pod in pods.list(&ListParams::default()).await.expect("a list of pods") {
            let name = pod.name_any();
            let Some(index) = name.strip_prefix("keys-").and_then(|index| index.parse().ok()) else { continue };
            if !self.nodes.contains_key(&index) {
                self.start(index).await;
            }
            let ready = self.get(index, "/ready").await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"));
            let status = if ready { "True" } else { "False" };
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == status) {
                continue;
            }
            let patch =
                json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": status }] } });
            let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        }
    }

    /// Starts a node from its ConfigMap, under its own account.
    pub(crate) async fn start(&mut self, index: u32) {
        let token = token(&self.client, &self.namespace, &names::node("keys", index), None).await;
        self.start_with(index, apiserver::client(&token, &self.namespace)).await;
    }

    /// Starts a node whose API server is away.
    pub(crate) async fn start_alone(&mut self, index: u32) {
        let mut nowhere = kube::Config::new("https://127.0.0.1:1".parse().expect("a URL"));
        nowhere.default_namespace.clone_from(&self.namespace);
        self.start_with(index, Client::try_from(nowhere).expect("a client of nobody")).await;
    }

    async fn start_with(&mut self, index: u32, client: Client) {
        let map: ConfigMap = self.api().get(&names::node_config("keys", index)).await.expect("the node's ConfigMap");
        let text = &map.data.expect("it holds a file")[FILE];
        let mut file = NodeConfig::parse(text).expect("the node reads what the operator rendered");
        file.state_folder = self.folder.path().join(format!("node-{index}"));
        std::fs::create_dir_all(&file.state_folder).expect("our own folder");
        let config = Config::parse(&file.render()).expect("still a configuration");
        let (surroundings, ports) = self.surroundings(index, client).await;
        self.ports.lock().expect("one thread at a time").insert(index, ports);
        let (stop, stopped) = oneshot::channel();
        let run = process::run(config, surroundings, async {
            let _ = stopped.await;
        });
        let task = tokio::spawn(async move {
            Box::pin(run).await.expect("a node ends only when it is told to");
        });
        self.nodes.insert(index, Process { stop: Some(stop), task });
    }

    async fn surroundings(&self, index: u32, client: Client) -> (Surroundings, Ports) {
        let before = self.ports.lock().expect("one thread at a time").get(&index).copied();
        let bind = |port: u16| {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("an option");
            socket.bind(SocketAddr::from(([127, 0, 0, 1], port))).expect("a port");
            socket.listen(64).expect("a listener")
        };
        let of = |of: fn(&Ports) -> u16| bind(before.as_ref().map_or(0, of));
        let (peers, kms, http) = (of(|p| p.peers), of(|p| p.kms), of(|p| p.http));
        let port = |listener: &TcpListener| listener.local_addr().expect("a bound socket").port();
        let ports = Ports { peers: port(&peers), kms: port(&kms), http: port(&http) };
        let all = self.ports.clone();
        let address_of = Arc::new(move |index: keyfleet_threshold::identifiers::NodeIndex| {
            let port = all.lock().expect("one thread at a time").get(&index.value()).map_or(1, |ports| ports.peers);
            format!("127.0.0.1:{port}")
        });
        (Surroundings { client: Some(client), address_of, peers, kms, http }, ports)
    }

    /// Ends a node's process in good order, as SIGTERM does.
    pub(crate) async fn stop(&mut self, index: u32) {
        let mut process = self.nodes.remove(&index).expect("it runs");
        let _ = process.stop.take().expect("stopped once").send(());
        (&mut process.task).await.expect("it ends well");
    }

    /// A page of a node.
    pub(crate) async fn get(&self, index: u32, path: &str) -> Option<String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let port = self.ports.lock().expect("one thread at a time").get(&index)?.http;
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    pub(crate) async fn node(&self, index: u32) -> Option<KmsNode> {
        self.api().get_opt(&names::node("keys", index)).await.expect("the API server answers")
    }

    pub(crate) async fn cluster(&self) -> KmsCluster {
        self.api().get("keys").await.expect("the cluster")
    }

    /// Plays the kubelet until something holds.
    pub(crate) async fn until(&mut self, what: &str, done: impl AsyncFn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self).await {
            if start.elapsed() > PATIENCE {
                panic!("waited {PATIENCE:?} for {what}\n{}", self.described().await);
            }
            self.play_kubelet().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until something holds, and starts nothing.
    pub(crate) async fn wait(&self, what: &str, done: impl AsyncFn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self).await {
            assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}\n{}", self.described().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn described(&self) -> String {
        let cluster: Api<KmsCluster> = self.api();
        let cluster = cluster.get_opt("keys").await.ok().flatten().and_then(|cluster| cluster.status);
        let nodes: Api<KmsNode> = self.api();
        let nodes = nodes.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        let epochs: Api<keyfleet_crds::KeyEpoch> = self.api();
        let epochs = epochs.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        let mut text = format!("cluster: {}\n", serde_json::to_string(&cluster).expect("JSON"));
        for node in nodes {
            let report = node.status.and_then(|status| status.node).unwrap_or_default();
            text += &format!(
                "node {}: pin {:?}, prekey {:?}, active {:?}, problems {:?}\n",
                node.spec.index,
                node.spec.identity_key,
                report.prekey.map(|prekey| prekey.number),
                report.active_epoch,
                report.problems
            );
        }
        for epoch in epochs {
            let status = epoch.status.unwrap_or_default();
            text += &format!("epoch {}: {:?} {:?}\n", epoch.spec.number, status.phase, status.failure);
        }
        for index in self.nodes.keys() {
            text += &format!("node {index} says {:?}\n", self.get(*index, "/status").await);
        }
        text
    }
}

/// A token of a ServiceAccount, as a projected volume would hold it.
pub(crate) async fn token(client: &Client, namespace: &str, account: &str, audience: Option<String>) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audience.into_iter().collect(),
            expiration_seconds: Some(600),
            bound_object_ref: None,
        },
        ..TokenRequest::default()
    };
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
    made.expect("a token").status.expect("a token").token
}
