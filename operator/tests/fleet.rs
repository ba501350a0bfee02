//! The operator, a real API server, and real nodes as tasks of this process: from one apply to reshares.
//!
//! Needs the environment variable `KEYFLEET_BIN`, the folder of the `kubernetes` binary.

#[path = "../../crds/tests/apiserver/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod apiserver;
#[allow(dead_code, reason = "shared by several files of tests")]
mod hosts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyfleet_crds::epoch::Phase;
use keyfleet_crds::{KeyEpoch, KmsCluster, KmsClusterStatus, KmsNode};
use keyfleet_operator::controllers::{self, Context, Options};
use keyfleet_operator::metrics::Metrics;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use hosts::Hosts;

const PATIENCE: Duration = Duration::from_secs(120);

/// An operator's process, ended when dropped.
struct Operator(tokio::task::JoinHandle<()>);

impl Drop for Operator {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Fleet {
    client: Client,
    hosts: Hosts,
}

impl Fleet {
    async fn new(namespace: &str) -> Self {
        let client = apiserver::namespace(namespace).await;
        Self { hosts: Hosts::start(client.clone()).await, client }
    }

    fn operator(&self) -> Operator {
        let options = Options {
            namespace: "keyfleet-system".into(),
            watch_namespace: Some(self.client.default_namespace().to_owned()),
            node_image: "keyfleet/node:test".into(),
            chains_folder: "/nowhere".into(),
        };
        let context = Context::new(self.client.clone(), options, self.hosts.nodes(), Arc::new(Metrics::default()));
        Operator(tokio::spawn(controllers::run(context)))
    }

    /// Applies the smallest sample with this schedule, and what `change` makes of its spec.
    async fn apply(&self, interval_blocks: u32, change: impl FnOnce(&mut Value)) {
        let mut sample: Value =
            serde_yaml::from_str(include_str!("../../manifests/samples/smallest.yaml")).expect("a sample");
        sample["spec"]["schedule"] = json!({
            "source": { "clock": { "blockMs": 250 } },
            "intervalBlocks": interval_blocks,
            "deadlines": { "dealingBlocks": 8, "verifyingBlocks": 8, "preparingBlocks": 8, "certifyingBlocks": 8 },
        });
        change(&mut sample["spec"]);
        let parameters = PatchParams::apply("a-person").force();
        let clusters: Api<KmsCluster> = Api::default_namespaced(self.client.clone());
        clusters.patch("keys", &parameters, &Patch::Apply(&sample)).await.expect("the sample is accepted");
    }

    async fn status(&self) -> KmsClusterStatus {
        let clusters: Api<KmsCluster> = Api::default_namespaced(self.client.clone());
        let cluster = clusters.get_opt("keys").await.expect("the API server answers");
        cluster.and_then(|cluster| cluster.status).unwrap_or_default()
    }

    async fn epochs(&self) -> Vec<KeyEpoch> {
        let epochs: Api<KeyEpoch> = Api::default_namespaced(self.client.clone());
        let mut all = epochs.list(&ListParams::default()).await.expect("the API server answers").items;
        all.sort_by_key(|epoch| epoch.spec.number);
        all
    }

    async fn until(&self, what: &str, done: impl AsyncFn() -> bool) {
        let start = Instant::now();
        while !done().await {
            if start.elapsed() > PATIENCE {
                let status = serde_json::to_string_pretty(&self.status().await).expect("JSON");
                let epochs: Vec<_> = self.epochs().await.into_iter().map(|e| (e.spec.number, e.status)).collect();
                let nodes: Api<KmsNode> = Api::default_namespaced(self.client.clone());
                let nodes = nodes.list(&ListParams::default()).await.map(|list| list.items);
                panic!("waited {PATIENCE:?} for {what}\nstatus: {status}\nepochs: {epochs:#?}\nnodes: {nodes:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn until_active(&self, count: usize) -> Vec<KeyEpoch> {
        let what = format!("{count} epochs that were activated");
        self.until(&what, async || activated(&self.epochs().await).len() >= count).await;
        activated(&self.epochs().await)
    }
}

fn phase(epoch: &KeyEpoch) -> Option<Phase> {
    epoch.status.as_ref().and_then(|status| status.phase)
}

fn activated(epochs: &[KeyEpoch]) -> Vec<KeyEpoch> {
    let was = |epoch: &&KeyEpoch| matches!(phase(epoch), Some(Phase::Active | Phase::Confirmed | Phase::Retired));
    epochs.iter().filter(was).cloned().collect()
}

fn logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}

/// Scenarios 1 and 2 without pods: one apply gives a key, boundaries reshare it, and the public key stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_apply_gives_a_key_and_boundaries_reshare_it() {
    logs();
    let fleet = Fleet::new("one-key").await;
    let _operator = fleet.operator();
    fleet.apply(40, |_| ()).await;
    let first = fleet.until_active(1).await;
    fleet.until("the public key in the status", async || fleet.status().await.public_key.is_some()).await;
    let key = fleet.status().await.public_key;
    assert_eq!(first.len(), 1);
    let epochs = fleet.until_active(3).await;
    let vectors: std::collections::BTreeSet<_> =
        epochs.iter().filter_map(|epoch| epoch.status.as_ref()?.vector_digest).map(|digest| digest.0).collect();
    assert_eq!(vectors.len(), epochs.len(), "each epoch has a vector of its own");
    for epoch in &epochs[1..] {
        assert_eq!(epoch.spec.expected_public_key, key, "a reshare changes no public key");
        assert_eq!(epoch.spec.block % 40, 0, "a reshare happens at a boundary");
    }
    assert_eq!(fleet.status().await.public_key, key);
    fleet
        .until("the fleet to be ready", async || {
            fleet.status().await.phase == Some(keyfleet_crds::cluster::Phase::Ready)
        })
        .await;
}
