//! In place of kubelets: one real node per `KmsNode`, as a task of this process, on a port of its own.
//!
//! Each node has its folder, its key stores and its tokens, reads plans and records from the API server, and writes its own
//! `status.node`; its Pod is marked ready as a kubelet would, when it serves the newest active epoch.

pub(crate) mod liar;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::BoxStream;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keyfleet_api::tls::{Pins, Platform};
use keyfleet_crds::cluster::Access;
use keyfleet_crds::cluster::access::KUBERNETES_ISSUER;
use keyfleet_crds::convert;
use keyfleet_crds::epoch::Phase;
use keyfleet_crds::node::NodeReport;
use keyfleet_crds::node::report::IdentityOffer;
use keyfleet_crds::values::{self, PublicKey};
use keyfleet_crds::{KeyEpoch, KmsNode};
use keyfleet_node::boot::recover::{Parts, start};
use keyfleet_node::grpc::round::Readers;
use keyfleet_node::keystores::decision::StoreKind;
use keyfleet_node::keystores::volume::VolumeStore;
use keyfleet_node::round::{Input, Published};
use keyfleet_node::runtime::{Addresses, Node, Options};
use keyfleet_node::seal::{KeyEncryptionKey, KeyRing};
use keyfleet_node::serving::{FetchedKeys, IssuerError, KeySource, Tokens};
use keyfleet_node::store::Backing;
use keyfleet_node::store::bundles::BundleFile;
use keyfleet_operator::node_streams::token::OwnAccount;
use keyfleet_operator::node_streams::{Followers, Nodes, Target};
use keyfleet_planner::view::{StreamView, Watched};
use keyfleet_threshold::identifiers::{ClusterId, EpochNumber, NodeIndex};
use keyfleet_threshold::identity::{IdentityPublicKey, IdentitySecretKey};
use keyfleet_threshold::plan::PlanVersion;
use keyfleet_threshold::round::Retirement;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

const OPERATOR: &str = "keyfleet-operator";
const LOOK: Duration = Duration::from_millis(100);

/// Where nodes listen now.
type Ports = Arc<Mutex<BTreeMap<u32, String>>>;

/// The operator's followers, who find nodes where this process runs them instead of by the cluster's DNS.
pub(crate) struct Local {
    followers: Followers,
    ports: Ports,
}

#[async_trait::async_trait]
impl Nodes for Local {
    fn follow(&self, cluster: values::ClusterId, targets: BTreeMap<u32, Target>) {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let here = |(index, target): (u32, Target)| {
            let address = ports.get(&index)?.clone();
            Some((index, Target { address, ..target }))
        };
        self.followers.follow(cluster, targets.into_iter().filter_map(here).collect());
    }

    fn forget(&self, cluster: values::ClusterId) {
        self.followers.forget(cluster);
    }

    fn ask(&self, cluster: values::ClusterId) {
        self.followers.ask(cluster);
    }

    async fn view(&self, cluster: values::ClusterId, key: Option<PublicKey>, rounds: Vec<Watched>) -> StreamView {
        self.followers.view(cluster, key, rounds).await
    }

    fn notifications(&self) -> BoxStream<'static, values::ClusterId> {
        self.followers.notifications()
    }
}

/// Runs the nodes of one namespace.
pub(crate) struct Hosts {
    client: Client,
    ports: Ports,
    /// Nodes that a test keeps from running.
    stopped: Arc<Mutex<BTreeSet<u32>>>,
    /// Nodes that lie to the operator.
    liars: Arc<Mutex<BTreeSet<u32>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hosts {
    pub(crate) async fn start(client: Client) -> Self {
        let account = ServiceAccount {
            metadata: ObjectMeta { name: Some(OPERATOR.into()), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        };
        let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
        accounts.create(&PostParams::default(), &account).await.expect("the operator's account");
        let (ports, stopped) = (Ports::default(), Arc::default());
        let liars = Arc::default();
        let host = Host::new(client.clone(), ports.clone(), Arc::clone(&stopped), Arc::clone(&liars));
        Self { client, ports, stopped, liars, task: tokio::spawn(host.run()) }
    }

    /// Followers for one operator process.
    pub(crate) fn nodes(&self) -> Arc<dyn Nodes> {
        let namespace = self.client.default_namespace();
        let tokens = OwnAccount::new(self.client.clone(), namespace, OPERATOR);
        Arc::new(Local { followers: Followers::new(Arc::new(tokens)), ports: self.ports.clone() })
    }

    /// Kills a node, until it is started again. Its folder stays.
    pub(crate) fn kill(&self, index: u32) {
        self.stopped.lock().expect("no test panics here").insert(index);
    }

    /// From its next start on the node lies to the operator.
    pub(crate) fn lies(&self, index: u32) {
        self.liars.lock().expect("no test panics here").insert(index);
    }

    /// From its next start on the node is honest.
    pub(crate) fn repents(&self, index: u32) {
        self.liars.lock().expect("no test panics here").remove(&index);
    }

    pub(crate) fn revive(&self, index: u32) {
        self.stopped.lock().expect("no test panics here").remove(&index);
    }
}

struct Host {
    client: Client,
    ports: Ports,
    stopped: Arc<Mutex<BTreeSet<u32>>>,
    liars: Arc<Mutex<BTreeSet<u32>>>,
    addresses: watch::Sender<Addresses>,
    pins: Pins,
    folders: BTreeMap<u32, TempDir>,
    running: BTreeMap<u32, Running>,
    /// Files are free when these have ended.
    stopping: BTreeMap<u32, tokio::task::JoinHandle<()>>,
}

struct Running {
    node: Node,
    identity: IdentitySecretKey,
    cluster: ClusterId,
    index: NodeIndex,
    /// Versions of epochs that it was fed.
    told: BTreeMap<u64, String>,
    written: Option<NodeReport>,
}

impl Host {
    fn new(client: Client, ports: Ports, stopped: Arc<Mutex<BTreeSet<u32>>>, liars: Arc<Mutex<BTreeSet<u32>>>) -> Self {
        Self {
            client,
            ports,
            stopped,
            liars,
            addresses: watch::Sender::new(Addresses::new()),
            pins: Pins::default(),
            folders: BTreeMap::new(),
            running: BTreeMap::new(),
            stopping: BTreeMap::new(),
        }
    }

    async fn run(mut self) {
        loop {
            if let Err(error) = self.look().await {
                eprintln!("hosts: {error}; they look again");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&mut self) -> Result<(), kube::Error> {
        let nodes: Api<KmsNode> = Api::default_namespaced(self.client.clone());
        let epochs: Api<KeyEpoch> = Api::default_namespaced(self.client.clone());
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        let listed = nodes.list(&ListParams::default()).await?.items;
        let epochs = epochs.list(&ListParams::default()).await?.items;
        let pods_there = pods.list(&ListParams::default()).await?.items;
        let pin =
            |node: &KmsNode| Some((NodeIndex::new(node.spec.index)?, IdentityPublicKey(node.spec.identity_key?.0)));
        self.pins.set(listed.iter().filter_map(pin).collect());
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for node in &listed {
            let index = node.spec.index;
            let pod = pods_there.iter().find(|pod| pod.name_any() == node.name_any());
            let pod = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none() && !stopped.contains(&index));
            match (pod.is_some(), self.running.contains_key(&index)) {
                (true, false) => self.start(node).await,
                (false, true) => self.stop(index),
                _ => {}
            }
            let Some(running) = self.running.get_mut(&index) else { continue };
            running.tell(&epochs).await;
            running.retire(&epochs).await;
            running.report(&nodes, node).await?;
            if let Some(pod) = pod {
                mark(&pods, pod, running.serves(&epochs)).await?;
            }
        }
        let ready = pods_there.iter().filter(|pod| serves(pod)).count();
        self.count_budget(ready).await?;
        for pod in pods_there.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()) {
            // The kubelet's last act on a pod that has ended.
            let now = DeleteParams::default().grace_period(0);
            let _ = pods.delete(&pod.name_any(), &now).await;
        }
        for pod in pods_there.iter().filter(|pod| stopped.iter().any(|i| pod.name_any().ends_with(&format!("-{i}")))) {
            mark(&pods, pod, false).await?;
        }
        Ok(())
    }

    /// Stands in for the disruption controller: writes how many pods may be evicted now.
    async fn count_budget(&self, ready: usize) -> Result<(), kube::Error> {
        let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(self.client.clone());
        for budget in budgets.list(&ListParams::default()).await?.items {
            let wanted = budget.spec.as_ref().and_then(|spec| spec.min_available.as_ref());
            let Some(IntOrString::Int(wanted)) = wanted else { continue };
            let allowed = i32::try_from(ready).expect("few pods").saturating_sub(*wanted).max(0);
            let status = json!({
                "observedGeneration": budget.metadata.generation, "disruptionsAllowed": allowed, "currentHealthy": ready,
                "desiredHealthy": wanted, "expectedPods": ready, "disruptedPods": null,
            });
            let now = budget.status.as_ref().map(|status| (status.observed_generation, status.disruptions_allowed));
            if now != Some((budget.metadata.generation, allowed)) {
                let patch = Patch::Merge(json!({ "status": status }));
                budgets.patch_status(&budget.name_any(), &PatchParams::default(), &patch).await?;
            }
        }
        Ok(())
    }

    async fn start(&mut self, node: &KmsNode) {
        if self.stopping.get(&node.spec.index).is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (cluster, index) = (ClusterId(node.spec.cluster_id.0), NodeIndex::new(node.spec.index).expect("an index"));
        let folder = self
            .folders
            .entry(node.spec.index)
            .or_insert_with(|| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder"));
        let at = folder.path();
        let key = KeyEncryptionKey::new("1", [7; 32]).expect("a name");
        let parts = Parts {
            backing: Backing::local(&at.join("state.redb")).expect("a state file"),
            bundles: BundleFile::open(&at.join("bundles.redb")).expect("a file of bundles"),
            volume: Arc::new(VolumeStore::open(at.join("seal")).expect("a key store")),
            secret: Arc::new(VolumeStore::open_as(StoreKind::Secret, at.join("secret")).expect("a key store")),
            ring: KeyRing::new(cluster, index, vec![key]).expect("a ring"),
        };
        let started = start(parts).await.unwrap_or_else(|error| panic!("node {index} does not start: {error}"));
        let identity = started.persister.identity_key().expect("a started node has an identity");
        let source = Arc::new(ApiServerKeys(self.client.clone()));
        let issuers = [KUBERNETES_ISSUER.to_owned()];
        let (store, node_key) = (started.persister.store().clone(), started.persister.node_key().clone());
        let tokens = Tokens::new((cluster, index), &issuers, source, store, node_key).expect("tokens");
        let subject = format!("system:serviceaccount:{}:{OPERATOR}", self.client.default_namespace());
        let access = watch::Sender::<Arc<Access>>::default().subscribe();
        let peers = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = peers.local_addr().expect("a bound socket has an address").to_string();
        let options = Options {
            peers,
            kms: None,
            platform: Platform::default(),
            pins: self.pins.clone(),
            addresses: self.addresses.subscribe(),
            readers: Some(Readers { tokens: Arc::new(tokens), operator: subject, access }),
        };
        let node = Node::run(started, options).expect("a node with an identity runs");
        self.addresses.send_modify(|all| {
            all.insert(index, address.clone());
        });
        let lies = self.liars.lock().unwrap_or_else(PoisonError::into_inner).contains(&index.value());
        let shown = if lies {
            liar::start(IdentitySecretKey::from_seed(&identity.expose_seed()), address).await
        } else {
            address
        };
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(index.value(), shown);
        let running = Running { node, identity, cluster, index, told: BTreeMap::new(), written: None };
        self.running.insert(index.value(), running);
    }

    fn stop(&mut self, index: u32) {
        let running = self.running.remove(&index).expect("it is running");
        self.addresses.send_modify(|all| {
            all.remove(&running.index);
        });
        self.stopping.insert(index, tokio::spawn(running.node.stop()));
    }
}

impl Running {
    /// Plans and records, as a watch delivers them.
    async fn tell(&mut self, epochs: &[KeyEpoch]) {
        let facts = self.node.facts();
        for epoch in epochs {
            let number = epoch.spec.number;
            let version = epoch.resource_version().unwrap_or_default();
            if self.told.insert(number, version.clone()) == Some(version) {
                continue;
            }
            let plan = convert::plan_of(&epoch.spec).expect("the operator writes plans that convert");
            let record = convert::record_of(&plan, epoch.status.as_ref()).expect("and records");
            let _ = facts.send(Input::Plan((*plan).clone())).await;
            if let Some(record) = record {
                let _ = facts.send(Input::Record(EpochNumber(number), record)).await;
            }
        }
    }

    /// Retires what the record calls retired, as far as peers have proven enough by now.
    async fn retire(&mut self, epochs: &[KeyEpoch]) {
        let retired = |epoch: &&KeyEpoch| epoch.status.as_ref().and_then(|s| s.phase) == Some(Phase::Retired);
        let state = self.node.published().borrow().state.clone();
        let left = |number: &EpochNumber| {
            let attempt = state.as_ref().and_then(|state| state.attempts.get(number));
            attempt.is_some_and(|attempt| !attempt.erased)
        };
        let of: BTreeSet<_> =
            epochs.iter().filter(retired).map(|epoch| EpochNumber(epoch.spec.number)).filter(left).collect();
        let proofs = self.node.proofs();
        let Ok(proofs) = tokio::time::timeout(LOOK, proofs.collect(&of)).await else { return };
        for number in of {
            let retirement = Retirement { number, proofs: proofs.clone(), confirm_after_ms: Some(0) };
            let _ = self.node.facts().send(Input::Retire(retirement)).await;
        }
    }

    async fn report(&mut self, nodes: &Api<KmsNode>, node: &KmsNode) -> Result<(), kube::Error> {
        let published = self.node.published().borrow().clone();
        let report = self.status(&published);
        if report.prekey.is_none() || self.written.as_ref() == Some(&report) {
            return Ok(());
        }
        let patch = json!({ "status": { "node": &report } });
        nodes.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
        self.written = Some(report);
        Ok(())
    }

    fn status(&self, published: &Published) -> NodeReport {
        let state = published.state.as_ref();
        NodeReport {
            offer: Some(IdentityOffer {
                key: values::PinnedKey(self.identity.public().0),
                proof: values::IdentitySignature(self.identity.offer(self.cluster, self.index).0),
            }),
            prekey: published.prekey().map(convert::prekey),
            active_epoch: state.and_then(|state| state.active).map(|number| number.0),
            highest_number: state.map(|state| state.highest.0).filter(|highest| *highest > 0),
            plan_versions: vec![PlanVersion::NEWEST.number()],
            ..NodeReport::default()
        }
    }

    /// Returns true where the node serves the newest active epoch.
    fn serves(&self, epochs: &[KeyEpoch]) -> bool {
        let active = |epoch: &&KeyEpoch| {
            matches!(epoch.status.as_ref().and_then(|s| s.phase), Some(Phase::Active | Phase::Confirmed))
        };
        let newest = epochs.iter().filter(active).map(|epoch| epoch.spec.number).max();
        let served = self.node.served().borrow().newest().map(|(number, _)| number.0);
        newest.is_some() && served >= newest
    }
}

/// Returns true where callers are sent to a pod: it is ready and not being stopped.
pub(crate) fn serves(pod: &Pod) -> bool {
    is_ready(pod) && pod.metadata.deletion_timestamp.is_none()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

async fn mark(pods: &Api<Pod>, pod: &Pod, ready: bool) -> Result<(), kube::Error> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if is_ready(pod) == ready && !conditions.is_empty() {
        return Ok(());
    }
    let condition = json!({ "type": "Ready", "status": if ready { "True" } else { "False" } });
    let patch = json!({ "status": { "phase": "Running", "conditions": [condition] } });
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&patch)).await?;
    Ok(())
}

/// Keys from the API server, as pods read them.
struct ApiServerKeys(Client);

#[async_trait::async_trait]
impl KeySource for ApiServerKeys {
    async fn fetch(&self, _: &str) -> Result<FetchedKeys, IssuerError> {
        const PATH: &str = "/openid/v1/jwks";
        let request = http::Request::get(PATH).body(Vec::new()).expect("a request");
        let text = self.0.request_text(request).await;
        let text =
            text.map_err(|error| IssuerError::Unreachable { url: PATH.to_owned(), problem: error.to_string() })?;
        let keys = serde_json::from_str(&text)
            .map_err(|error| IssuerError::Document { url: PATH.to_owned(), problem: error.to_string() })?;
        Ok(FetchedKeys { issuer: "https://kubernetes.default.svc".into(), keys })
    }
}
